/* index against a real server: the promises of the mail path's statements. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/check.h"
#include "postgres.h"
#include "store/index.h"

#define GRACE_MS   (3600 * 1000)
#define DUE        "4000000000000" /* milliseconds since 1970, past every grace here */
#define PATIENT_MS 120000          /* no statement fails because the machine is busy */

static struct postgres *server;
static struct loop *loop;
static struct index *ix;       /* closed by teardown when a test fails in the middle */
static struct index *ix_other; /* so is this one, which few have */
static unsigned gather = 32;   /* of an index that is opened */
static uint64_t epoch;
static unsigned ids;
static uint64_t crossed_by; /* what on_crossed was told last, and how often */
static unsigned crossed, crossings;

/* What a call ended with. */
struct answer {
    bool done;
    enum err err;
    size_t n;
    enum room room[32];
    struct maildrop *maildrop;
    struct entry *entries[8];
    struct volume volumes[4];
    struct fleet fleet;
    bool drain;
    struct schema schema;
};

static void turn(void)
{
    uv_run(loop_uv(loop), UV_RUN_ONCE);
}

static enum err wait_for(struct answer *a)
{
    while (!a->done) {
        turn();
    }
    return a->err;
}

static void finish(struct answer *a, enum err e)
{
    assert_false(a->done);
    a->done = true;
    a->err = e;
}

static void on_done(void *arg, enum err e)
{
    finish(arg, e);
}

static void on_changed(void *arg, enum err e, size_t changed)
{
    struct answer *a = arg;
    finish(a, e);
    a->n = changed;
}

static void on_room(void *arg, enum err e, const enum room *room, size_t n)
{
    struct answer *a = arg;
    finish(a, e);
    if (room) {
        assert_true(n <= ARRAY_LEN(a->room));
        memcpy(a->room, room, n * sizeof *room);
        a->n = n;
    }
}

static void on_list(void *arg, enum err e, struct maildrop **m)
{
    struct answer *a = arg;
    finish(a, e);
    a->maildrop = *m;
    *m = NULL;
}

static void on_entries(void *arg, enum err e, struct entry **entries, size_t n)
{
    struct answer *a = arg;
    finish(a, e);
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        a->entries[i] = entries[i];
        entries[i] = NULL;
    }
}

static void on_volumes(void *arg, enum err e, const struct volume *v, size_t n)
{
    struct answer *a = arg;
    finish(a, e);
    a->n = n;
    for (size_t i = 0; i < n && i < ARRAY_LEN(a->volumes); i++) {
        a->volumes[i] = v[i];
    }
}

static void on_schema(void *arg, enum err e, const struct schema *r)
{
    struct answer *a = arg;
    finish(a, e);
    if (r) {
        a->schema = *r;
    }
}

static void on_fleet(void *arg, enum err e, const struct fleet *r)
{
    struct answer *a = arg;
    finish(a, e);
    if (r) {
        a->fleet = *r;
    }
}

static void on_announced(void *arg, enum err e, bool drain)
{
    struct answer *a = arg;
    finish(a, e);
    a->drain = drain;
}

static void on_epoch(void *arg, uint64_t e)
{
    (void)arg;
    epoch = e;
}

static void on_crossed(void *arg, uint64_t mailbox_id, unsigned per_cent)
{
    (void)arg;
    crossed_by = mailbox_id;
    crossed = per_cent;
    crossings++;
}

static struct pointer new_pointer(uint32_t size)
{
    struct pointer p = { .size = size, .skip = 100, .volume = 1 };
    p.id = blob_id_make((uint64_t)time(NULL) * 1000, (const uint8_t[10]){ 0 });
    ids++;
    memcpy(p.id.b + 8, &ids, sizeof ids);
    return p;
}

static struct answer deliver(const struct pointer *p, const uint64_t *mailboxes, size_t n,
                             bool strict)
{
    struct answer a = { 0 };
    index_deliver(ix, p, SPAN(""), mailboxes, n, strict, GRACE_MS, on_room, &a);
    wait_for(&a);
    return a;
}

static struct pointer delivered_to(uint64_t mailbox_id, uint32_t size)
{
    struct pointer p = new_pointer(size);
    assert_int_equal(deliver(&p, &mailbox_id, 1, true).err, ERR_OK);
    return p;
}

/* The caller frees it. */
static struct maildrop *list(uint64_t mailbox_id)
{
    struct answer a = { 0 };
    index_list(ix, mailbox_id, on_list, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    return a.maildrop;
}

static size_t list_count(uint64_t mailbox_id)
{
    struct maildrop *m = list(mailbox_id);
    size_t n = m->count;
    maildrop_free(&m);
    return n;
}

static enum err ask_delivered(uint64_t mailbox_id, const struct pointer *p)
{
    struct answer a = { 0 };
    index_delivered(ix, mailbox_id, &p->id, on_done, &a);
    return wait_for(&a);
}

static enum err expunge(uint64_t mailbox_id, const struct pointer *msgs, size_t n)
{
    struct answer a = { 0 };
    index_expunge(ix, mailbox_id, msgs, n, GRACE_MS, SPAN("test"), on_done, &a);
    return wait_for(&a);
}

static struct answer set_handles(uint64_t mailbox_id, const struct pointer *msgs,
                                 const struct span *handles, size_t n)
{
    struct answer a = { 0 };
    index_set_handles(ix, mailbox_id, msgs, handles, n, on_changed, &a);
    wait_for(&a);
    return a;
}

static void open_index(uint64_t timeout_ms)
{
    ix = index_open(loop, &(struct index_options){ .url = postgres_url(server),
                                                   .read_connections = 2,
                                                   .write_connections = 4,
                                                   .timeout_ms = timeout_ms,
                                                   .gather = gather,
                                                   .on_epoch = on_epoch,
                                                   .on_crossed = on_crossed });
    while (!index_ready(ix)) {
        turn();
    }
}

/* Mailboxes 1 to n without limits, and volumes 1 to 3. */
static void make_mailboxes(unsigned n)
{
    postgres_sql(
        server,
        "TRUNCATE mailbox, account, address, message, ledger, ledger_past, undeleted, blob_shared,"
        " volume, volume_reaped, read_mark, removed;"
        "INSERT INTO mailbox (mailbox_id) SELECT generate_series(1, %u);"
        "INSERT INTO volume (volume_id, uuid, url)"
        " SELECT n, lpad(n::text, 32, '0')::uuid, 'file:///' || n FROM generate_series(1, 3) n",
        n);
}

static long long count(const char *what)
{
    return postgres_sql(server, "SELECT count(*) FROM %s", what);
}

static void assert_counters_exact(void)
{
    assert_int_equal(postgres_sql(server,
                                  "SELECT count(*) FROM mailbox b WHERE (b.msgs, b.octets) <>"
                                  " (SELECT count(*), coalesce(sum(size), 0) FROM message m"
                                  "   WHERE m.mailbox_id = b.mailbox_id)"),
                     0);
}

/* That is so of each ledger row: its grace began when it was written, whatever the client's clock.
 */
static void assert_grace(const char *grace)
{
    assert_int_equal(postgres_sql(server,
                                  "SELECT count(*) FROM ledger WHERE"
                                  " unlink_after < deleted_at + interval '%s' OR unlink_after NOT"
                                  " BETWEEN pg_postmaster_start_time() + interval '%s'"
                                  " AND clock_timestamp() + interval '%s'",
                                  grace, grace, grace),
                     0);
}

static int start(void **state)
{
    (void)state;
    server = postgres_start();
    return 0;
}

static int stop(void **state)
{
    (void)state;
    postgres_stop(&server);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    loop = loop_open();
    make_mailboxes(20);
    open_index(PATIENT_MS);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    postgres_thaw(server);
    if (ix_other) {
        index_close(&ix_other);
    }
    index_close(&ix);
    postgres_settle(server);
    loop_close(&loop);
    return 0;
}

/* --- delivery and listing --------------------------------------------------------------------- */

static void test_deliver_and_list(void **state)
{
    (void)state;
    const uint64_t to[] = { 3, 1, 2 };
    struct pointer a = delivered_to(2, 10), b = new_pointer(20);
    struct answer r = { 0 };
    index_deliver(ix, &b, SPAN("\x01handle\xff"), to, 3, true, GRACE_MS, on_room, &r);
    assert_false(r.done);
    assert_int_equal(wait_for(&r), ERR_OK);
    assert_int_equal(r.n, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(r.room[i], ROOM_OK);
        assert_int_equal(ask_delivered(to[i], &b), ERR_OK);
    }

    struct maildrop *m = list(2);
    assert_int_equal(m->mailbox_id, 2);
    assert_int_equal(m->version, 2);
    assert_int_equal(m->count, 2);
    assert_int_equal(m->octets, 30);
    const struct pointer first = maildrop_at(m, 0), second = maildrop_at(m, 1);
    assert_true(blob_id_eq(&first.id, &a.id));
    assert_true(blob_id_eq(&second.id, &b.id));
    assert_int_equal(first.seq, 1);
    assert_int_equal(second.seq, 2);
    assert_int_equal(second.size, 20);
    assert_int_equal(second.skip, 100);
    assert_int_equal(second.volume, 1);
    assert_int_equal(maildrop_handle(m, 0).n, 0);
    assert_true(span_eq(maildrop_handle(m, 1), SPAN("\x01handle\xff")));
    maildrop_free(&m);

    assert_int_equal(postgres_sql(server, "SELECT refs FROM blob_shared"), 3);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM message WHERE shared"), 3);
    assert_counters_exact();
}

static void test_list_edges(void **state)
{
    (void)state;
    assert_int_equal(list_count(5), 0);
    struct answer a = { 0 };
    index_list(ix, 999, on_list, &a);
    assert_int_equal(wait_for(&a), ERR_NOTFOUND);
    assert_null(a.maildrop);

    delivered_to(5, 1);
    postgres_sql(server, "UPDATE message SET uidl = 'old-1'");
    struct maildrop *m = list(5);
    char uidl[UIDL_MAX + 1];
    assert_int_equal(maildrop_uidl(m, 0, uidl), 5);
    assert_string_equal(uidl, "old-1");
    maildrop_free(&m);
}

/* What no version of ours writes is a fault, not a crash and not an empty list. */
static void test_malformed(void **state)
{
    (void)state;
    delivered_to(5, 1);
    struct answer a = { 0 };
    postgres_sql(server, "UPDATE message SET volume_id = -1");
    index_list(ix, 5, on_list, &a);
    assert_int_equal(wait_for(&a), ERR_CORRUPT);
    assert_null(a.maildrop);
    postgres_sql(server, "UPDATE message SET volume_id = 1;"
                         "ALTER TABLE message ALTER size TYPE numeric");
    struct answer b = { 0 };
    index_list(ix, 5, on_list, &b);
    assert_int_equal(wait_for(&b), ERR_CORRUPT);
    postgres_sql(server, "ALTER TABLE message ALTER size TYPE integer");
    postgres_sql(server, "ALTER TABLE message RENAME TO hidden");
    struct answer c = { 0 };
    index_list(ix, 5, on_list, &c);
    assert_int_equal(wait_for(&c), ERR_TEMP);
    postgres_sql(server, "ALTER TABLE hidden RENAME TO message");
    assert_int_equal(list_count(5), 1);
}

static void test_long_list(void **state)
{
    (void)state;
    enum { N = 100000 };
    postgres_sql(server,
                 "INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)"
                 " SELECT 1, n, lpad(to_hex(n), 32, '0')::uuid, n, 100, 1, false"
                 "   FROM generate_series(1, %d) n;"
                 "UPDATE mailbox SET msgs = %d WHERE mailbox_id = 1",
                 N, N);
    postgres_sql(server, "VACUUM ANALYZE message");
    struct maildrop *m = list(1);
    assert_int_equal(m->count, N);
    for (size_t i = 0; i < N; i++) {
        const struct pointer p = maildrop_at(m, i);
        assert_int_equal(p.seq, i + 1);
        assert_int_equal(p.size, i + 1);
        assert_int_equal(p.id.b[15], (i + 1) & 0xff);
    }
    maildrop_free(&m);
}

/* --- room ------------------------------------------------------------------------------------- */

static void make_limits(void)
{
    postgres_sql(server, "UPDATE mailbox SET max_octets = 100 WHERE mailbox_id = 2;"
                         "UPDATE mailbox SET max_messages = 1 WHERE mailbox_id = 3;"
                         "UPDATE mailbox SET max_size = 50 WHERE mailbox_id = 4;"
                         "UPDATE mailbox SET state = 1 WHERE mailbox_id = 5");
}

static void test_room(void **state)
{
    (void)state;
    make_limits();
    delivered_to(2, 60);
    delivered_to(3, 10);
    const uint64_t boxes[] = { 999, 5, 4, 3, 2, 1 };
    struct answer small = { 0 }, large = { 0 }, full = { 0 };
    index_room(ix, boxes, 6, 40, on_room, &small);
    index_room(ix, boxes, 6, 51, on_room, &large);
    index_room(ix, boxes, 6, 101, on_room, &full);
    assert_int_equal(wait_for(&small), ERR_OK);
    assert_int_equal(wait_for(&large), ERR_OK);
    assert_int_equal(wait_for(&full), ERR_OK);
    const enum room small_room[] = { ROOM_GONE,       ROOM_SUSPENDED, ROOM_OK,
                                     ROOM_OVER_QUOTA, ROOM_OK,        ROOM_OK };
    const enum room large_room[] = { ROOM_GONE,       ROOM_SUSPENDED,  ROOM_TOO_LARGE,
                                     ROOM_OVER_QUOTA, ROOM_OVER_QUOTA, ROOM_OK };
    assert_memory_equal(small.room, small_room, sizeof small_room);
    assert_memory_equal(large.room, large_room, sizeof large_room);
    assert_int_equal(full.room[4], ROOM_TOO_LARGE);
    assert_int_equal(full.room[5], ROOM_OK);
}

static void test_strict_is_all_or_nothing(void **state)
{
    (void)state;
    make_limits();
    const uint64_t to[] = { 6, 4, 1 };
    struct pointer p = new_pointer(51);
    struct answer a = deliver(&p, to, 3, true);
    assert_int_equal(a.err, ERR_LIMIT);
    assert_int_equal(a.room[0], ROOM_OK);
    assert_int_equal(a.room[1], ROOM_TOO_LARGE);
    assert_int_equal(a.room[2], ROOM_OK);
    assert_int_equal(postgres_sql(server, "SELECT (SELECT count(*) FROM message)"
                                          " + (SELECT count(*) FROM ledger)"
                                          " + (SELECT count(*) FROM blob_shared)"),
                     0);
    assert_int_equal(ask_delivered(1, &p), ERR_NOTFOUND);

    const uint64_t gone = 999;
    a = deliver(&p, &gone, 1, true);
    assert_int_equal(a.err, ERR_LIMIT);
    assert_int_equal(a.room[0], ROOM_GONE);
    assert_counters_exact();
}

/* A transaction that is still on its way when it is asked about must not come after the answer. */
static void test_denied_stays_out(void **state)
{
    (void)state;
    const uint64_t to[] = { 1, 2 };
    struct pointer p = new_pointer(51);
    assert_int_equal(ask_delivered(1, &p), ERR_NOTFOUND);
    assert_int_equal(deliver(&p, to, 2, true).err, ERR_TEMP);
    assert_int_equal(deliver(&p, to, 2, false).err, ERR_TEMP);
    assert_int_equal(postgres_sql(server, "SELECT (SELECT count(*) FROM message)"
                                          " + (SELECT count(*) FROM ledger)"
                                          " + (SELECT count(*) FROM blob_shared)"),
                     0);
    /* Others do, and denying has a bound. */
    for (int i = 0; i < 255; i++) {
        struct pointer other = new_pointer(51);
        assert_int_equal(ask_delivered(1, &other), ERR_NOTFOUND);
        assert_int_equal(ask_delivered(1, &other), ERR_NOTFOUND); /* once more is not one more */
    }
    assert_int_equal(deliver(&p, to, 2, true).err, ERR_TEMP);
    for (int i = 0; i < 2; i++) {
        struct pointer other = new_pointer(51);
        assert_int_equal(ask_delivered(1, &other), ERR_NOTFOUND);
    }
    struct pointer q = new_pointer(51);
    assert_int_equal(deliver(&q, to, 2, true).err, ERR_OK);
    assert_int_equal(ask_delivered(1, &q), ERR_OK);
    assert_int_equal(
        postgres_sql(server, "SELECT cardinality(denied) FROM mailbox WHERE mailbox_id = 1"), 256);
    /* Nor is any kept that is too old to come: the row is written with each delivery. */
    postgres_sql(server, "UPDATE mailbox SET denied = denied[1:3] || ARRAY(SELECT ms_id(n)"
                         " FROM generate_series(1, 200) n) WHERE mailbox_id = 1");
    struct pointer last = new_pointer(51);
    assert_int_equal(ask_delivered(1, &last), ERR_NOTFOUND);
    assert_int_equal(
        postgres_sql(server, "SELECT cardinality(denied) FROM mailbox WHERE mailbox_id = 1"), 4);
    assert_int_equal(deliver(&last, to, 1, true).err, ERR_TEMP);
    assert_counters_exact();
}

static void test_lenient_tells_each(void **state)
{
    (void)state;
    make_limits();
    const uint64_t to[] = { 5, 1, 999, 6, 4 };
    const enum room expected[] = { ROOM_SUSPENDED, ROOM_OK, ROOM_GONE, ROOM_OK, ROOM_TOO_LARGE };
    struct pointer p = new_pointer(51);
    struct answer a = deliver(&p, to, 5, false);
    assert_int_equal(a.err, ERR_OK);
    assert_memory_equal(a.room, expected, sizeof expected);
    /* Each of the five counts: two pointers, three ledger rows. */
    assert_int_equal(postgres_sql(server, "SELECT refs FROM blob_shared"), 5);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM message WHERE shared"), 2);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger WHERE shared AND seq = 0"),
                     3);
    assert_grace("1 hour");
    /* A refused recipient has a ledger row, but the message was never its. */
    assert_int_equal(ask_delivered(1, &p), ERR_OK);
    assert_int_equal(ask_delivered(4, &p), ERR_NOTFOUND);
    assert_int_equal(ask_delivered(999, &p), ERR_NOTFOUND);

    const uint64_t one = 5;
    struct pointer q = new_pointer(10);
    a = deliver(&q, &one, 1, false);
    assert_int_equal(a.err, ERR_OK);
    assert_int_equal(a.room[0], ROOM_SUSPENDED);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger WHERE NOT shared"), 1);
    assert_counters_exact();
}

static void set_quota(unsigned grace, const int64_t *warn, size_t n)
{
    struct quota_rules q = { .grace = grace, .n = n };
    for (size_t i = 0; i < n; i++) {
        q.warn[i] = warn[i];
    }
    index_set_quota(ix, &q);
}

#define OTHERS " FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND "

/* Runs the loop until a query gives another number than 0. */
static void wait_until(const char *sql)
{
    do {
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
        postgres_sql(server, "SELECT pg_stat_clear_snapshot()"); /* kept for a transaction else */
    } while (postgres_sql(server, "%s", sql) == 0);
}

/* --- several in one transaction --------------------------------------------------------------- */

/* As many transactions as the pointers came by. */
static long long transactions(void)
{
    return postgres_sql(server, "SELECT count(DISTINCT xmin::text) FROM message");
}

/* What comes at once goes together, the first as well; each hears what it would hear alone. */
static void test_gathered(void **state)
{
    (void)state;
    enum { N = 12 };
    static struct answer answers[N];
    const uint64_t boxes[N] = { 1, 2, 6, 4, 999, 6, 5, 7, 3, 3, 8, 1 };
    memset(answers, 0, sizeof answers);
    make_limits();
    set_quota(0, (const int64_t[]){ 50 }, 1);
    crossings = 0;
    for (unsigned i = 0; i < N; i++) {
        struct pointer p = new_pointer(51);
        index_deliver(ix, &p, i == 7 ? SPAN("h") : SPAN(""), &boxes[i], 1, i != 8, GRACE_MS,
                      on_room, &answers[i]);
    }
    const enum room expected[N] = {
        [3] = ROOM_TOO_LARGE, [4] = ROOM_GONE, [6] = ROOM_SUSPENDED, [9] = ROOM_OVER_QUOTA
    };
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(wait_for(&answers[i]), expected[i] == ROOM_OK ? ERR_OK : ERR_LIMIT);
        assert_int_equal(answers[i].room[0], expected[i]);
    }
    assert_int_equal(transactions(), 1); /* all came in one turn of the loop */
    assert_int_equal(count("message"), 8);
    assert_int_equal(count("message WHERE mailbox_id = 7 AND handle = 'h'"), 1);
    assert_int_equal(count("message WHERE handle <> ''"), 1);
    assert_int_equal(count("ledger"), 4); /* files of those who have no room */
    assert_int_equal(crossings, 2);       /* 2 and 3 */
    assert_counters_exact();
}

/* A setting for databases that want each by itself. */
static void test_not_gathered(void **state)
{
    (void)state;
    static struct answer answers[4];
    const uint64_t boxes[] = { 1, 2, 3, 4 };
    memset(answers, 0, sizeof answers);
    index_close(&ix);
    gather = 1;
    open_index(PATIENT_MS);
    gather = 32;
    for (unsigned i = 0; i < 4; i++) {
        struct pointer p = new_pointer(1);
        index_deliver(ix, &p, SPAN(""), &boxes[i], 1, true, GRACE_MS, on_room, &answers[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(wait_for(&answers[i]), ERR_OK);
    }
    assert_int_equal(transactions(), 4);
    /* A message to several has a statement for each, with its mailbox as a plain argument. */
    const uint64_t to[] = { 4, 999, 2, 1 };
    struct pointer p = new_pointer(1);
    postgres_sql(server, "BEGIN; SELECT 1 FROM mailbox WHERE mailbox_id = 2 FOR UPDATE");
    struct answer a = { 0 };
    index_deliver(ix, &p, SPAN(""), to, 4, false, GRACE_MS, on_room, &a);
    wait_until("SELECT count(*)" OTHERS
               "wait_event_type = 'Lock' AND query LIKE '%FROM deliver(%'");
    postgres_sql(server, "COMMIT");
    assert_int_equal(wait_for(&a), ERR_OK);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(a.room[i], i == 1 ? ROOM_GONE : ROOM_OK);
    }
    p = new_pointer(1);
    assert_int_equal(deliver(&p, to, 4, true).err, ERR_LIMIT);
    assert_int_equal(transactions(), 5);
    assert_int_equal(count("message"), 7);
    assert_counters_exact();
}

/* More than one transaction may have; and the last ones of a mailbox keep their order. */
static void test_gathered_in_parts(void **state)
{
    (void)state;
    enum { N = 70 };
    static struct answer answers[N];
    const uint64_t box = 1;
    memset(answers, 0, sizeof answers);
    for (unsigned i = 0; i < N; i++) {
        struct pointer p = new_pointer(i);
        index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &answers[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(wait_for(&answers[i]), ERR_OK);
    }
    assert_int_equal(transactions(), 3);
    assert_int_equal(count("message WHERE seq <> size + 1"), 0);
    assert_counters_exact();
}

/* A mailbox that is locked holds up its own mail, and nobody else's. */
static void test_gathered_beside_a_lock(void **state)
{
    (void)state;
    enum { N = 8 };
    static struct answer answers[N];
    memset(answers, 0, sizeof answers);
    postgres_sql(server,
                 "BEGIN; SELECT mailbox_id FROM mailbox WHERE mailbox_id = 2 FOR NO KEY UPDATE");
    for (unsigned i = 0; i < N; i++) {
        const uint64_t box = i % 4 + 1;
        struct pointer p = new_pointer(1);
        index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &answers[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        if (i % 4 != 1) {
            assert_int_equal(wait_for(&answers[i]), ERR_OK);
        }
    }
    assert_false(answers[1].done || answers[5].done);
    postgres_sql(server, "COMMIT");
    assert_int_equal(wait_for(&answers[1]), ERR_OK);
    assert_int_equal(wait_for(&answers[5]), ERR_OK);
    assert_int_equal(count("message"), N);
    assert_counters_exact();
}

/* One that the database refuses takes no other with it: a volume that was closed, or is gone. */
static void test_gathered_beside_a_refusal(void **state)
{
    (void)state;
    enum { N = 9 };
    static struct answer answers[N];
    memset(answers, 0, sizeof answers);
    postgres_sql(server, "UPDATE volume SET state = 3 WHERE volume_id = 2;"
                         "DELETE FROM volume WHERE volume_id = 3");
    for (unsigned i = 0; i < N; i++) {
        const uint64_t box = i + 1;
        struct pointer p = new_pointer(1);
        p.volume = (uint16_t)(i % 3 + 1);
        index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &answers[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(wait_for(&answers[i]), i % 3 == 0 ? ERR_OK : ERR_BUSY);
    }
    assert_int_equal(count("message WHERE volume_id = 1"), 3);
    assert_int_equal(count("message") + count("ledger"), 3);
    /* Nor does it come to one of several. */
    const uint64_t to[] = { 1, 2 };
    struct pointer p = new_pointer(1);
    p.volume = 2;
    assert_int_equal(deliver(&p, to, 2, false).err, ERR_BUSY);
    assert_int_equal(count("blob_shared"), 0);
    assert_counters_exact();
}

/* What standard error says between these two. */
static int log_begin(FILE *out)
{
    int kept = dup(STDERR_FILENO);
    assert_true(kept >= 0 && dup2(fileno(out), STDERR_FILENO) >= 0);
    return kept;
}

static void log_end(int kept)
{
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
}

static bool says(FILE *log, const char *what)
{
    char line[1024];
    bool said = false;
    rewind(log);
    while (!said && fgets(line, sizeof line, log)) {
        said = strstr(line, what) != NULL;
    }
    return said;
}

/* What was told of several together has another shape than it should: it may have been done. */
static void test_gathered_and_malformed(void **state)
{
    (void)state;
    FILE *log = tmpfile();
    const uint64_t box = 1;
    struct pointer p = new_pointer(1);
    assert_non_null(log);
    postgres_sql(server, "ALTER FUNCTION deliver_each RENAME TO hidden;"
                         "CREATE FUNCTION deliver_each(bigint[], uuid[], bigint[], bigint[],"
                         " bigint[], boolean, bytea[], boolean, bigint, bigint, bigint, bigint[],"
                         " boolean) RETURNS TABLE (code integer, passed integer)"
                         " LANGUAGE sql AS 'SELECT 0, 0 WHERE false'");
    int kept = log_begin(log);
    struct answer a = deliver(&p, &box, 1, true);
    log_end(kept);
    postgres_sql(server, "DROP FUNCTION deliver_each;"
                         "ALTER FUNCTION hidden RENAME TO deliver_each");
    assert_int_equal(a.err, ERR_UNCERTAIN);
    assert_true(says(log, "db.malformed call=deliver"));
    fclose(log);
    assert_int_equal(count("message"), 0);
}

/* What a command found before its volume was closed gets no row any more, or `volume remove` would
 * forget a volume that is named. */
static void test_nothing_names_a_closed_volume(void **state)
{
    (void)state;
    static const char *const calls[][2] = {
        { "adopt(2, '", "', 2, 10, 5, false, '', 9999999999999, true)" },
        { "set_aside('{1}', '", "', 2, 10, 5, 0, 0, 'test')" },
        { "refill(1, '{", "}', '{10}', '{5}', '{2}', '{0}', '{uidl}')" },
        { "discard(1, '", "', 2, 10, 5, false, 0, 0, 'test')" },
    };
    postgres_sql(server, "INSERT INTO account (mailbox_id, addr) VALUES (2, 'b@x.org')");
    for (size_t open = 0; open < 2; open++) {
        postgres_sql(server, "UPDATE volume SET state = %d WHERE volume_id = 2", open ? 2 : 3);
        for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
            postgres_sql(server,
                         "DO $do$ BEGIN PERFORM %s00000000-0000-7000-8000-00000000000%zu%s;"
                         " EXCEPTION WHEN SQLSTATE 'MF003' THEN NULL; END $do$",
                         calls[i][0], i, calls[i][1]);
        }
        assert_int_equal(count("message") + count("ledger"), open ? ARRAY_LEN(calls) : 0);
    }
}

/* --- grace and thresholds --------------------------------------------------------------------- */

static enum room room_of(uint64_t mailbox_id, uint64_t size)
{
    struct answer a = { 0 };
    index_room(ix, &mailbox_id, 1, size, on_room, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    return a.room[0];
}

/* RCPT and the delivery judge alike. */
static enum room deliver_one(uint64_t mailbox_id, uint32_t size)
{
    struct pointer p = new_pointer(size);
    enum room told = room_of(mailbox_id, size);
    struct answer a = deliver(&p, &mailbox_id, 1, false);
    assert_int_equal(a.err, ERR_OK);
    assert_int_equal(a.room[0], told);
    return told;
}

/* One message may pass the limit by the grace; what is over already takes no other. */
static void test_grace(void **state)
{
    (void)state;
    make_limits();
    set_quota(10, NULL, 0);
    assert_int_equal(deliver_one(2, 111), ROOM_TOO_LARGE);
    assert_int_equal(deliver_one(2, 98), ROOM_OK);
    assert_int_equal(deliver_one(2, 13), ROOM_OVER_QUOTA);
    assert_int_equal(deliver_one(2, 12), ROOM_OK);
    assert_int_equal(room_of(2, 0), ROOM_OVER_QUOTA);
    assert_int_equal(deliver_one(2, 1), ROOM_OVER_QUOTA);
    /* Of a limit of messages the part must be one at least. */
    assert_int_equal(deliver_one(3, 1), ROOM_OK);
    assert_int_equal(deliver_one(3, 1), ROOM_OVER_QUOTA);
    postgres_sql(server, "UPDATE mailbox SET max_messages = 10 WHERE mailbox_id = 6");
    for (size_t i = 0; i < 11; i++) {
        assert_int_equal(deliver_one(6, 1), ROOM_OK);
    }
    assert_int_equal(deliver_one(6, 1), ROOM_OVER_QUOTA);
    /* The size of one message has none; nor is there a limit so large that it can't be judged. */
    assert_int_equal(deliver_one(4, 51), ROOM_TOO_LARGE);
    postgres_sql(server,
                 "UPDATE mailbox SET max_octets = 9223372036854775807 WHERE mailbox_id = 7");
    assert_int_equal(deliver_one(7, 51), ROOM_OK);
    assert_counters_exact();
}

/* Delivers so much; the threshold that it crossed, 0 for none. */
static unsigned crosses(uint64_t mailbox_id, uint32_t size)
{
    unsigned before = crossings;
    assert_int_equal(deliver_one(mailbox_id, size), ROOM_OK);
    assert_true(crossings == before || (crossings == before + 1 && crossed_by == mailbox_id));
    return crossings == before ? 0 : crossed;
}

/* Takes its last message away. */
static void drain_last(uint64_t mailbox_id)
{
    struct maildrop *m = list(mailbox_id);
    const struct pointer last = maildrop_at(m, m->count - 1);
    assert_int_equal(expunge(mailbox_id, &last, 1), ERR_OK);
    maildrop_free(&m);
}

static void test_thresholds(void **state)
{
    (void)state;
    make_limits();
    set_quota(0, (const int64_t[]){ 50, 80, 95 }, 3);
    assert_int_equal(crosses(2, 49), 0);
    assert_int_equal(crosses(2, 1), 50);
    assert_int_equal(crosses(2, 1), 0);
    assert_int_equal(crosses(2, 45), 95); /* the highest alone */
    assert_int_equal(crosses(2, 1), 0);
    drain_last(2); /* 96: still above */
    assert_int_equal(crosses(2, 1), 0);
    drain_last(2);
    drain_last(2); /* 51: below 80 and 95, not below 50 */
    assert_int_equal(crosses(2, 28), 0);
    assert_int_equal(crosses(2, 1), 80);
    assert_int_equal(crosses(2, 15), 95);
    /* Messages count too, and the higher per cent of both. */
    postgres_sql(server, "UPDATE mailbox SET max_messages = 4, max_octets = 1000"
                         " WHERE mailbox_id = 6");
    assert_int_equal(crosses(6, 1), 0);
    assert_int_equal(crosses(6, 1), 50);
    assert_int_equal(crosses(6, 900), 80);
    /* No limit, no warning. */
    assert_int_equal(crosses(1, 1000), 0);
    assert_counters_exact();
}

/* Whatever changes meanwhile: what is above is told once. */
static void test_thresholds_of_changed_limits(void **state)
{
    (void)state;
    make_limits();
    set_quota(0, (const int64_t[]){ 80 }, 1);
    assert_int_equal(crosses(2, 85), 80);
    postgres_sql(server, "UPDATE mailbox SET max_octets = 1000 WHERE mailbox_id = 2");
    assert_int_equal(crosses(2, 1), 0);
    assert_int_equal(crosses(2, 714), 80);
    set_quota(0, (const int64_t[]){ 50, 81 }, 2);
    assert_int_equal(crosses(2, 1), 0);
    assert_int_equal(crosses(2, 9), 81);
    set_quota(0, NULL, 0); /* a node that has not heard of it yet */
    assert_int_equal(crosses(2, 1), 0);
    set_quota(0, (const int64_t[]){ 50, 81 }, 2);
    assert_int_equal(crosses(2, 1), 0);
    postgres_sql(server, "UPDATE mailbox SET max_octets = 850 WHERE mailbox_id = 2");
    set_quota(0, (const int64_t[]){ 50, 81, 90 }, 3);
    assert_int_equal(crosses(2, 1), 90);
    /* Below again, and above by no delivery: that is told with the next. */
    for (size_t n = list_count(2); n > 1; n--) {
        drain_last(2);
    }
    postgres_sql(server, "UPDATE mailbox SET max_octets = 88 WHERE mailbox_id = 2"); /* has 85 */
    assert_int_equal(crosses(2, 1), 90);
}

/* Of one message to many, each is told; of one that is refused, nobody. */
static void test_thresholds_of_many(void **state)
{
    (void)state;
    make_limits();
    set_quota(0, (const int64_t[]){ 50 }, 1);
    const uint64_t to[] = { 3, 1, 2 };
    struct pointer p = new_pointer(60), q = new_pointer(60);
    unsigned before = crossings;
    assert_int_equal(deliver(&p, to, 3, true).err, ERR_OK);
    assert_int_equal(crossings, before + 2);
    assert_int_equal(deliver(&q, to, 3, true).err, ERR_LIMIT);
    assert_int_equal(deliver(&q, to, 3, false).err, ERR_OK);
    assert_int_equal(crossings, before + 2);
}

static enum room past_limits(uint64_t mailbox_id, uint32_t size)
{
    struct answer a = { 0 };
    struct pointer p = new_pointer(size);
    index_deliver_past_limits(ix, &p, SPAN(""), mailbox_id, GRACE_MS, on_room, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    return a.room[0];
}

/* A warning: no limit holds for it, it warns of nothing, and it hides no threshold. */
static void test_past_limits(void **state)
{
    (void)state;
    make_limits();
    set_quota(0, (const int64_t[]){ 50, 95 }, 2);
    assert_int_equal(crosses(2, 90), 50);
    unsigned before = crossings;
    assert_int_equal(past_limits(2, 9), ROOM_OK);
    assert_int_equal(crossings, before);
    assert_int_equal(crosses(2, 1), 95);
    assert_int_equal(past_limits(2, 500), ROOM_OK);
    assert_int_equal(past_limits(4, 500), ROOM_OK);
    assert_int_equal(past_limits(5, 1), ROOM_SUSPENDED);
    assert_int_equal(past_limits(999, 1), ROOM_GONE);
    assert_counters_exact();
}

static void on_usage(void *arg, enum err e, const struct usage *u)
{
    finish(arg, e);
    if (e == ERR_OK) {
        assert_true(span_eq(u->address, SPAN("b@x.org")));
        assert_int_equal(u->messages, 1);
        assert_int_equal(u->octets, 60);
        assert_int_equal(u->max_messages, 0);
        assert_int_equal(u->max_octets, 100);
    }
}

static enum err usage_of(uint64_t mailbox_id)
{
    struct answer a = { 0 };
    index_usage(ix, mailbox_id, on_usage, &a);
    return wait_for(&a);
}

static void test_usage(void **state)
{
    (void)state;
    make_limits();
    delivered_to(2, 60);
    postgres_sql(server, "INSERT INTO account (mailbox_id, addr) VALUES (2, 'b@x.org'),"
                         " (5, 'suspended@x.org')");
    assert_int_equal(usage_of(2), ERR_OK);
    assert_int_equal(usage_of(5), ERR_NOTFOUND);
    assert_int_equal(usage_of(999), ERR_NOTFOUND);
}

/* --- expunge ---------------------------------------------------------------------------------- */

static void test_expunge(void **state)
{
    (void)state;
    struct pointer a = delivered_to(1, 10);
    delivered_to(1, 20);
    delivered_to(1, 30);
    struct maildrop *m = list(1);
    const struct pointer msgs[] = { maildrop_at(m, 2), maildrop_at(m, 0) };
    assert_int_equal(expunge(1, msgs, 2), ERR_OK);
    /* Again: what is not there any more is no error, and changes nothing. */
    assert_int_equal(expunge(1, msgs, 2), ERR_OK);
    maildrop_free(&m);
    m = list(1);
    assert_int_equal(m->count, 1);
    assert_int_equal(maildrop_at(m, 0).seq, 2);
    assert_int_equal(m->version, 4);
    maildrop_free(&m);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger WHERE by_whom = 'test'"
                                          " AND seq IN (1, 3) AND claimed_at IS NULL"),
                     2);
    assert_grace("1 hour");
    assert_int_equal(ask_delivered(1, &a), ERR_OK);
    delivered_to(1, 40);
    m = list(1);
    assert_int_equal(maildrop_at(m, 1).seq, 4);
    maildrop_free(&m);
    assert_counters_exact();
}

/* One message of many is found by its key, also with the plan for all mailboxes, where most have
 * one. */
static void test_expunge_of_many(void **state)
{
    (void)state;
    enum { BOXES = 2000, MESSAGES = 500, GONE = 12 };
    postgres_sql(server,
                 "INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)"
                 " SELECT 100 + n, 1, gen_random_uuid(), 1, 0, 1, false"
                 "   FROM generate_series(1, %d) n UNION ALL"
                 " SELECT 1, n, gen_random_uuid(), 1, 0, 1, false FROM generate_series(1, %d) n;"
                 "UPDATE mailbox SET msgs = %d, octets = %d WHERE mailbox_id = 1;"
                 "ANALYZE message",
                 BOXES, MESSAGES, MESSAGES, MESSAGES);
    long long read = postgres_sql(
        server,
        "BEGIN;"
        "SELECT expunge(1, ARRAY[n], ARRAY[(SELECT blob_id FROM message"
        "                                    WHERE mailbox_id = 1 AND seq = n)], 0, 0, 'x')"
        "  FROM generate_series(101, 100 + %d) n;"
        "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_xact_user_tables"
        " WHERE relname LIKE 'message%%'",
        GONE);
    postgres_sql(server, "COMMIT");
    assert_in_range(read, GONE, 4 * GONE);
    assert_int_equal(list_count(1), MESSAGES - GONE);
    assert_counters_exact();
}

/* After a restore a place may be taken by another message. */
static void test_stale_place(void **state)
{
    (void)state;
    struct pointer p = delivered_to(1, 10), other = new_pointer(10);
    p.seq = other.seq = 1;
    assert_int_equal(expunge(1, &other, 1), ERR_OK);
    assert_int_equal(list_count(1), 1);
    assert_int_equal(postgres_sql(server, "SELECT version FROM mailbox WHERE mailbox_id = 1"), 1);

    struct answer has[3] = { 0 };
    index_has(ix, 1, &p, on_done, &has[0]);
    index_has(ix, 1, &other, on_done, &has[1]);
    index_has(ix, 2, &p, on_done, &has[2]);
    assert_int_equal(wait_for(&has[0]), ERR_OK);
    assert_int_equal(wait_for(&has[1]), ERR_NOTFOUND);
    assert_int_equal(wait_for(&has[2]), ERR_NOTFOUND);
    assert_int_equal(expunge(999, &p, 1), ERR_OK);
    assert_int_equal(expunge(1, &p, 1), ERR_OK);
    assert_int_equal(list_count(1), 0);
}

static void test_discard(void **state)
{
    (void)state;
    struct pointer p = new_pointer(0);
    struct answer a = { 0 };
    index_discard(ix, 1, &p, GRACE_MS, SPAN("given up"), NULL, NULL);
    index_discard(ix, 1, &p, GRACE_MS, SPAN("given up"), on_done, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    while (postgres_sql(server, "SELECT count(*) FROM ledger WHERE seq = 0 AND NOT shared") != 1) {
        turn();
    }
    assert_int_equal(ask_delivered(1, &p), ERR_NOTFOUND);
}

/*
 * A node whose clock is years late: what it deletes, discards or moves is due no earlier than what
 * others do. One whose clock is ahead keeps it for longer.
 */
static void test_grace_of_late_clocks(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 3; n++) {
        delivered_to(1, 10);
        delivered_to(2, 10);
    }
    postgres_sql(server,
                 "SELECT discard(1, lpad('7', 32, '0')::uuid, 1, 10, 0, false, 0, 3600000,"
                 " 'late');"
                 "SELECT expunge(1, ARRAY[1], array_agg(blob_id), 0, 3600000, 'late')"
                 "  FROM message WHERE mailbox_id = 1 AND seq = 1;"
                 "SELECT mark_copy(1, 2, blob_id, 1, 2, 0, 3600000, 'late'),"
                 "       move_file(ARRAY[1], 2, blob_id, 1, 2, '', false, 0, 3600000, 'late'),"
                 "       mark_copy(1, 2, blob_id, 2, 3, 0, 3600000, 'late')"
                 "  FROM message WHERE mailbox_id = 1 AND seq = 2;"
                 "UPDATE mailbox SET state = 1 WHERE mailbox_id = 1;"
                 "SELECT supersede(1, ARRAY[3], array_agg(blob_id), 0, 3600000)"
                 "  FROM message WHERE mailbox_id = 1 AND seq = 3;"
                 "SELECT set_aside(ARRAY[1], lpad('9', 32, '0')::uuid, 1, 10, 0, 0, 3600000,"
                 " 'late');"
                 "SELECT remove_mailbox(2, 0, 3600000, 'late')");
    assert_int_equal(count("ledger WHERE by_whom = 'late' AND deleted_at = to_timestamp(0)"), 8);
    assert_int_equal(count("ledger WHERE seq = 0 AND by_whom = 'imported by its UIDL'"), 1);
    assert_grace("1 hour");
    postgres_sql(server, "SELECT discard(1, lpad('8', 32, '0')::uuid, 1, 10, 0, false, " DUE
                         ", 3600000, 'ahead')");
    assert_int_equal(count("ledger WHERE unlink_after = ms_time(" DUE " + 3600000)"), 1);
}

/* What a pointer, the ledger or the count of a shared file still names is not set aside. */
static void test_set_aside(void **state)
{
    (void)state;
    const char *set = "SELECT sum(set_aside(ARRAY[1, 2]::bigint[], w.id, 1, 10, 0, " DUE
                      ", 0, 'adopt'))::bigint FROM ";
    const uint64_t to[] = { 1, 2 };
    struct pointer p = new_pointer(10);
    delivered_to(1, 10);
    assert_int_equal(postgres_sql(server, "%s (SELECT blob_id FROM message) w (id)", set), 0);
    postgres_sql(server, "SELECT expunge(1, ARRAY[seq], ARRAY[blob_id], " DUE ", 0, 'x')"
                         "  FROM message");
    assert_int_equal(postgres_sql(server, "%s (SELECT blob_id FROM ledger) w (id)", set), 0);
    assert_int_equal(deliver(&p, to, 2, true).err, ERR_OK);
    postgres_sql(server, "DELETE FROM message");
    assert_int_equal(postgres_sql(server, "%s (SELECT blob_id FROM blob_shared) w (id)", set), 0);
    assert_int_equal(postgres_sql(server, "%s gen_random_uuid() w (id)", set), 1);
    assert_int_equal(count("ledger WHERE mailbox_id = 0 AND by_whom = 'adopt'"), 1);
}

/* --- handles ---------------------------------------------------------------------------------- */

/* How much else changed since keep_all: any column but handle, any other table of mailboxes. */
static void keep_all(void)
{
    postgres_sql(server, "DROP TABLE IF EXISTS kept_message, kept_mailbox;"
                         "CREATE TABLE kept_message AS SELECT * FROM message;"
                         "CREATE TABLE kept_mailbox AS SELECT * FROM mailbox");
}

static void assert_only_handles_changed(void)
{
#define REST "SELECT mailbox_id, seq, blob_id, size, skip, volume_id, shared, uidl FROM "
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM (" REST "message EXCEPT ALL " REST
                                          "kept_message) x"),
                     0);
    assert_int_equal(postgres_sql(server, "SELECT (SELECT count(*) FROM message)"
                                          " - (SELECT count(*) FROM kept_message)"),
                     0);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM (TABLE mailbox EXCEPT ALL"
                                          " TABLE kept_mailbox) x"),
                     0);
    postgres_sql(server, "DROP TABLE kept_message, kept_mailbox");
}

/* The mailbox's messages with another handle than at keep_all, as a number: 13 is seq 1 and 3. */
static long long repaired_seqs(unsigned mailbox_id)
{
    return postgres_sql(server,
                        "SELECT string_agg(m.seq::text, '' ORDER BY m.seq) FROM message m"
                        " JOIN kept_message k ON (k.mailbox_id, k.seq) = (m.mailbox_id, m.seq)"
                        " WHERE m.mailbox_id = %u AND m.handle <> k.handle",
                        mailbox_id);
}

static void test_set_handles(void **state)
{
    (void)state;
    const uint64_t both[] = { 1, 2 };
    struct pointer shared = new_pointer(10);
    char longest[HANDLE_MAX];
    for (size_t i = 0; i < sizeof longest; i++) {
        longest[i] = (char)(i * 5);
    }
    struct answer a = { 0 };
    index_deliver(ix, &shared, SPAN("old"), both, 2, true, GRACE_MS, on_room, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    delivered_to(1, 20);
    delivered_to(1, 30);
    delivered_to(1, 40);
    keep_all();

    struct maildrop *m = list(1);
    const struct pointer msgs[] = { maildrop_at(m, 2), maildrop_at(m, 0) };
    const struct span handles[] = { span_of(longest, sizeof longest), SPAN("n\0w") };
    maildrop_free(&m);
    a = set_handles(1, msgs, handles, 2);
    assert_int_equal(a.err, ERR_OK);
    assert_int_equal(a.n, 2);
    assert_int_equal(repaired_seqs(1), 13);
    assert_int_equal(repaired_seqs(2), 0); /* names the file as well */
    assert_only_handles_changed();
    m = list(1);
    assert_true(span_eq(maildrop_handle(m, 0), handles[1]));
    assert_int_equal(maildrop_handle(m, 1).n, 0);
    assert_true(span_eq(maildrop_handle(m, 2), handles[0]));
    maildrop_free(&m);

    /* Again: they are right already, and not even a row version is written. */
    long long before = postgres_sql(server, "SELECT sum(xmin::text::bigint) FROM message");
    a = set_handles(1, msgs, handles, 2);
    assert_int_equal(a.err, ERR_OK);
    assert_int_equal(a.n, 0);
    assert_int_equal(postgres_sql(server, "SELECT sum(xmin::text::bigint) FROM message"), before);
}

/* What is not there, or is another message now, is passed over; the rest is done. */
static void test_set_handles_of_others(void **state)
{
    (void)state;
    struct pointer msgs[] = { delivered_to(1, 10), new_pointer(10), new_pointer(10),
                              delivered_to(1, 20) };
    const struct span handles[] = { SPAN("a"), SPAN("b"), SPAN("c"), SPAN("d") };
    delivered_to(2, 10);
    keep_all();
    msgs[0].seq = 2; /* the place of the other */
    msgs[1].seq = 1;
    msgs[2].seq = 9;
    msgs[3].seq = 2;
    struct answer a = set_handles(1, msgs, handles, 4);
    assert_int_equal(a.err, ERR_OK);
    assert_int_equal(a.n, 1);
    assert_int_equal(repaired_seqs(1), 2);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM message WHERE handle = 'd'"), 1);

    const uint64_t elsewhere[] = { 2, 3, 999 };
    for (size_t i = 0; i < ARRAY_LEN(elsewhere); i++) {
        a = set_handles(elsewhere[i], msgs, handles, 4);
        assert_int_equal(a.err, ERR_OK);
        assert_int_equal(a.n, 0);
    }
    a = set_handles(1, NULL, NULL, 0);
    assert_int_equal(a.err, ERR_OK);
    assert_int_equal(a.n, 0);
    assert_only_handles_changed();
}

/* Neither a delivery nor an expunge that is under way is waited for. */
static void test_set_handles_waits_for_nobody(void **state)
{
    (void)state;
    struct pointer msgs[] = { delivered_to(1, 10), delivered_to(1, 20), delivered_to(1, 30) };
    const struct span handles[] = { SPAN("a"), SPAN("b"), SPAN("c") };
    for (size_t i = 0; i < 3; i++) {
        msgs[i].seq = i + 1;
    }
    postgres_sql(server, "BEGIN; SELECT deliver(1, gen_random_uuid(), 1, 10, 100, false, '', true,"
                         " 0, 0), expunge(1, ARRAY[2], (SELECT array_agg(blob_id) FROM message"
                         " WHERE seq = 2), 0, 0, 'test')");
    struct answer a = set_handles(1, msgs, handles, 3);
    postgres_sql(server, "COMMIT");
    assert_int_equal(a.err, ERR_OK);
    assert_int_equal(a.n, 2);
    assert_int_equal(
        postgres_sql(server, "SELECT count(*) FROM message WHERE seq IN (1, 3) AND handle <> ''"),
        2);
    assert_int_equal(list_count(1), 3);
    assert_counters_exact();
}

/* Repairs from both ends, deletes and deliveries of one mailbox at once. */
static void test_set_handles_under_load(void **state)
{
    (void)state;
    enum { ROUNDS = 10, N = 400, MORE = 20 };
    static struct answer delivered[MORE];
    static struct pointer up[N], down[N], odd[N / 2];
    static struct span fresh[N], fresher[N];
    const uint64_t box = 1;
    for (size_t i = 0; i < N; i++) {
        fresh[i] = SPAN("new");
        fresher[i] = SPAN("newer");
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        make_mailboxes(1);
        postgres_sql(server,
                     "SELECT deliver(1, gen_random_uuid(), 1, 10, 100, false, 'old', true, 0, 0)"
                     "  FROM generate_series(1, %d)",
                     N);
        struct maildrop *m = list(box);
        for (size_t i = 0; i < N; i++) {
            up[i] = down[N - 1 - i] = maildrop_at(m, i);
        }
        for (size_t i = 0; i < N / 2; i++) {
            odd[i] = up[2 * i];
        }
        struct answer a = { 0 }, b = { 0 }, x = { 0 };
        index_set_handles(ix, box, up, fresh, N, on_changed, &a);
        index_expunge(ix, box, odd, N / 2, GRACE_MS, SPAN("test"), on_done, &x);
        index_set_handles(ix, box, down, fresher, N, on_changed, &b);
        memset(delivered, 0, sizeof delivered);
        for (unsigned i = 0; i < MORE; i++) {
            struct pointer p = new_pointer(1);
            index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &delivered[i]);
        }
        maildrop_free(&m);
        assert_int_equal(wait_for(&a), ERR_OK);
        assert_int_equal(wait_for(&b), ERR_OK);
        assert_int_equal(wait_for(&x), ERR_OK);
        for (unsigned i = 0; i < MORE; i++) {
            assert_int_equal(wait_for(&delivered[i]), ERR_OK);
        }
        assert_int_equal(list_count(box), N / 2 + MORE);
        assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger"), N / 2);
        assert_counters_exact();
    }
}

/* --- several at once -------------------------------------------------------------------------- */

/* Two clients, the same mailboxes in opposite order: without an order of locks they deadlock. */
static void test_no_deadlock(void **state)
{
    (void)state;
    enum { ROUNDS = 200, BOXES = 20 };
    static struct answer answers[2][ROUNDS];
    uint64_t up[BOXES], down[BOXES];
    memset(answers, 0, sizeof answers);
    for (unsigned i = 0; i < BOXES; i++) {
        up[i] = i + 1;
        down[BOXES - 1 - i] = i + 1;
    }
    ix_other = ix;
    open_index(PATIENT_MS);
    for (unsigned k = 0; k < ROUNDS; k++) {
        struct pointer p = new_pointer(1), q = new_pointer(1);
        index_deliver(ix_other, &p, SPAN(""), up, BOXES, true, GRACE_MS, on_room, &answers[0][k]);
        index_deliver(ix, &q, SPAN(""), down, BOXES, true, GRACE_MS, on_room, &answers[1][k]);
    }
    for (unsigned k = 0; k < ROUNDS; k++) {
        assert_int_equal(wait_for(&answers[0][k]), ERR_OK);
        assert_int_equal(wait_for(&answers[1][k]), ERR_OK);
    }
    index_close(&ix_other);
    assert_int_equal(postgres_sql(server, "SELECT sum(deadlocks) FROM pg_stat_database"), 0);
    assert_int_equal(postgres_sql(server, "SELECT min(msgs) FROM mailbox"), 2 * ROUNDS);
    assert_counters_exact();
}

static void test_counters_under_load(void **state)
{
    (void)state;
    enum { N = 400, OLD = 100 };
    static struct answer delivered[N], expunged[OLD];
    static struct pointer old[OLD];
    const uint64_t box = 1;
    memset(delivered, 0, sizeof delivered);
    memset(expunged, 0, sizeof expunged);
    for (unsigned i = 0; i < OLD; i++) {
        old[i] = delivered_to(box, 7);
        old[i].seq = i + 1;
    }
    for (unsigned i = 0; i < N; i++) {
        struct pointer p = new_pointer(i);
        index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &delivered[i]);
        if (i % 4 == 0) {
            index_expunge(ix, box, &old[i / 4], 1, GRACE_MS, SPAN("test"), on_done,
                          &expunged[i / 4]);
        }
    }
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(wait_for(&delivered[i]), ERR_OK);
        assert_int_equal(wait_for(&expunged[i / 4]), ERR_OK);
    }
    assert_int_equal(list_count(box), N);
    assert_counters_exact();
}

/* The same messages from both ends at once: without the mailbox's lock in front they deadlock. */
static void test_expunge_twice_at_once(void **state)
{
    (void)state;
    enum { ROUNDS = 10, N = 500 };
    static struct pointer up[N], down[N];
    for (unsigned round = 0; round < ROUNDS; round++) {
        make_mailboxes(1);
        postgres_sql(server,
                     "SELECT deliver(1, gen_random_uuid(), 1, 10, 100, false, '', true, 0, 0)"
                     "  FROM generate_series(1, %d)",
                     N);
        struct maildrop *m = list(1);
        struct answer a = { 0 }, b = { 0 };
        for (size_t i = 0; i < N; i++) {
            up[i] = down[N - 1 - i] = maildrop_at(m, i);
        }
        index_expunge(ix, 1, up, N, GRACE_MS, SPAN("up"), on_done, &a);
        index_expunge(ix, 1, down, N, GRACE_MS, SPAN("down"), on_done, &b);
        maildrop_free(&m);
        assert_int_equal(wait_for(&a), ERR_OK);
        assert_int_equal(wait_for(&b), ERR_OK);
        assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger"), N);
        assert_int_equal(postgres_sql(server, "SELECT msgs + octets FROM mailbox"), 0);
    }
}

/* Quotas hold when many try to be the last to fit. */
static void test_quota_under_load(void **state)
{
    (void)state;
    enum { N = 50 };
    static struct answer answers[N];
    const uint64_t box = 1;
    memset(answers, 0, sizeof answers);
    postgres_sql(server, "UPDATE mailbox SET max_messages = 7 WHERE mailbox_id = 1");
    for (unsigned i = 0; i < N; i++) {
        struct pointer p = new_pointer(1);
        index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &answers[i]);
    }
    unsigned ok = 0;
    for (unsigned i = 0; i < N; i++) {
        enum err e = wait_for(&answers[i]);
        assert_true(e == ERR_OK || (e == ERR_LIMIT && answers[i].room[0] == ROOM_OVER_QUOTA));
        ok += e == ERR_OK;
    }
    assert_int_equal(ok, 7);
    assert_counters_exact();
}

/* Whichever delivery it is that crosses a threshold, one is told. */
static void test_threshold_under_load(void **state)
{
    (void)state;
    enum { N = 50 };
    static struct answer answers[N];
    const uint64_t box = 1;
    memset(answers, 0, sizeof answers);
    postgres_sql(server, "UPDATE mailbox SET max_messages = 100 WHERE mailbox_id = 1");
    set_quota(0, (const int64_t[]){ 10, 30, 90 }, 3);
    unsigned before = crossings;
    for (unsigned i = 0; i < N; i++) {
        struct pointer p = new_pointer(1);
        index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &answers[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(wait_for(&answers[i]), ERR_OK);
    }
    assert_int_equal(crossings, before + 2);
}

/* --- unknown outcomes ------------------------------------------------------------------------- */

/* The backend dies while it waits for the second mailbox: nothing of the delivery is left. */
static void test_killed_before_commit(void **state)
{
    (void)state;
    const uint64_t to[] = { 1, 2 };
    struct pointer p = new_pointer(10);
    struct answer a = { 0 };
    postgres_sql(server, "BEGIN; UPDATE mailbox SET version = version WHERE mailbox_id = 2");
    index_deliver(ix, &p, SPAN(""), to, 2, true, GRACE_MS, on_room, &a);
    wait_until("SELECT count(pg_terminate_backend(pid))" OTHERS
               "wait_event = 'transactionid' AND query LIKE '%deliver_each(%'");
    assert_int_equal(wait_for(&a), ERR_UNCERTAIN);
    postgres_sql(server, "ROLLBACK");
    assert_int_equal(ask_delivered(1, &p), ERR_NOTFOUND);
    assert_int_equal(ask_delivered(2, &p), ERR_NOTFOUND);
    struct pointer again = new_pointer(10); /* as its sender's next try has it */
    assert_int_equal(deliver(&again, to, 2, true).err, ERR_OK);
    assert_int_equal(ask_delivered(1, &again), ERR_OK);
    assert_counters_exact();
}

/*
 * The backend dies after the commit and before its answer: it waits for a standby that is none.
 * That commits wait is the checkpointer's to say, as soon as it has heard of the setting, and
 * nothing shows when: so deliveries that came too early are answered, and one after them is not.
 */
static void test_killed_after_commit(void **state)
{
    (void)state;
    const uint64_t box = 1;
    struct pointer p;
    struct answer a;
    size_t deliveries = 0;
    postgres_sql(server, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    postgres_sql(server, "SELECT pg_reload_conf()");
    do {
        a = (struct answer){ 0 };
        p = new_pointer(10);
        deliveries++;
        index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &a);
        while (!a.done) {
            uv_run(loop_uv(loop), UV_RUN_NOWAIT);
            postgres_sql(server, "SELECT pg_stat_clear_snapshot();"
                                 "SELECT count(pg_terminate_backend(pid))" OTHERS
                                 "wait_event = 'SyncRep' AND query LIKE '%%deliver_each(%%'");
        }
    } while (a.err == ERR_OK);
    assert_int_equal(a.err, ERR_UNCERTAIN);
    postgres_sql(server, "SET synchronous_commit = local");
    postgres_sql(server, "ALTER SYSTEM RESET synchronous_standby_names");
    postgres_sql(server, "SELECT pg_reload_conf()");
    assert_int_equal(ask_delivered(1, &p), ERR_OK);
    assert_int_equal(list_count(1), deliveries);
}

/* delivered() waits for a transaction that is still under way rather than deny it. */
static void test_delivered_waits(void **state)
{
    (void)state;
    struct pointer p = new_pointer(10);
    struct answer a = { 0 };
    char hex[33];
    for (int i = 0; i < BLOB_ID_SIZE; i++) {
        snprintf(hex + 2 * i, 3, "%02x", p.id.b[i]);
    }
    postgres_sql(server, "BEGIN; SELECT deliver(1, '%s', 1, 10, 100, false, '', true, 0, 0)", hex);
    index_delivered(ix, 1, &p.id, on_done, &a);
    wait_until("SELECT count(*)" OTHERS "wait_event_type = 'Lock' AND query LIKE '%delivered(%'");
    assert_false(a.done);
    postgres_sql(server, "COMMIT");
    assert_int_equal(wait_for(&a), ERR_OK);
}

static void test_frozen(void **state)
{
    (void)state;
    const uint64_t box = 1;
    struct pointer p = new_pointer(10);
    index_close(&ix);
    gather = 2;
    open_index(1000);
    gather = 32;
    /* All of them are there: one that is just made would not be frozen. */
    wait_until("SELECT (count(*) = 6)::int" OTHERS "backend_type = 'client backend'");
    postgres_freeze(server);
    uv_update_time(loop_uv(loop)); /* that took a while */
    struct answer a = { 0 }, l = { 0 };
    static struct answer more[9];
    memset(more, 0, sizeof more);
    index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &a);
    index_list(ix, box, on_list, &l);
    for (unsigned i = 0; i < ARRAY_LEN(more); i++) {
        const uint64_t other = 2 + i;
        struct pointer q = new_pointer(10);
        index_deliver(ix, &q, SPAN(""), &other, 1, true, GRACE_MS, on_room, &more[i]);
    }
    assert_int_equal(wait_for(&a), ERR_UNCERTAIN);
    assert_int_equal(wait_for(&l), ERR_TEMP);
    /* Those that waited for its transaction don't wait for its deadline and one of their own, pair
     * by pair, but all at once; nothing was sent, or its end is not known. */
    uint64_t ended = 0;
    for (unsigned i = 0; i < ARRAY_LEN(more); i++) {
        enum err e = wait_for(&more[i]);
        assert_true(e == ERR_TEMP || e == ERR_UNCERTAIN);
        ended = i == 1 ? loop_now(loop) : ended; /* the first of those that waited */
    }
    assert_true(loop_now(loop) - ended < 2000); /* 3000 else, if not more */
    postgres_thaw(server);
    while (!index_ready(ix)) {
        turn();
    }
    /* The old backends may still do what they were sent; then they end. */
    index_close(&ix);
    wait_until("SELECT (count(*) = 0)::int" OTHERS "backend_type = 'client backend'");
    open_index(PATIENT_MS);
    delivered_to(1, 20);
    bool there = ask_delivered(1, &p) == ERR_OK;
    assert_int_equal(list_count(1), there ? 2 : 1);
    assert_counters_exact();
}

static void test_restart(void **state)
{
    (void)state;
    index_close(&ix);
    open_index(2000);
    delivered_to(1, 10);
    postgres_down(server);
    struct answer l = { 0 };
    index_list(ix, 1, on_list, &l);
    assert_int_equal(wait_for(&l), ERR_TEMP);
    postgres_up(server);
    while (!index_ready(ix)) {
        turn();
    }
    assert_int_equal(list_count(1), 1);
}

/* --- addresses, volumes, epoch ---------------------------------------------------------------- */

static void test_lookup(void **state)
{
    (void)state;
    postgres_sql(
        server, "UPDATE mailbox SET max_octets = 1000, max_messages = 20, max_size = 300, state = 1"
                ", retention_days = 30, read_days = 4 WHERE mailbox_id = 7;"
                "INSERT INTO account (mailbox_id, addr, hash, scram)"
                " VALUES (7, 'a@x.org', '$y$hash', 'SCRAM-SHA-256$one SCRAM-SHA-1$two');"
                "INSERT INTO address VALUES ('a@x.org', 'x.org', 7, NULL),"
                " ('list@x.org', 'x.org', NULL, ARRAY['a@x.org', 'b@y.org']),"
                " ('@x.org', 'x.org', NULL, NULL),"
                " ('@y.org', 'y.org', NULL, ARRAY['a@x.org']),"
                " ('broken@x.org', 'x.org', 777, NULL)");
    const struct span ask[] = { SPAN("@y.org"), SPAN("list@x.org"), SPAN("none@x.org"),
                                SPAN("a@x.org"), SPAN("@x.org") };
    struct answer a = { 0 };
    index_lookup(ix, ask, 5, on_entries, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    assert_int_equal(a.entries[0]->kind, ENTRY_DOMAIN);
    assert_int_equal(a.entries[0]->n, 1);
    assert_int_equal(a.entries[1]->kind, ENTRY_ALIAS);
    assert_int_equal(a.entries[1]->n, 2);
    assert_string_equal(a.entries[1]->targets[1], "b@y.org");
    assert_int_equal(a.entries[2]->kind, ENTRY_NONE);
    const struct entry *e = a.entries[3];
    assert_int_equal(e->kind, ENTRY_MAILBOX);
    assert_int_equal(e->mailbox_id, 7);
    assert_int_equal(e->state, ACCOUNT_SUSPENDED);
    assert_int_equal(e->max_octets, 1000);
    assert_int_equal(e->max_messages, 20);
    assert_int_equal(e->max_size, 300);
    assert_int_equal(e->retention_days, 30);
    assert_int_equal(e->read_days, 4);
    assert_string_equal(e->hash, "$y$hash");
    assert_string_equal(e->scram, "SCRAM-SHA-256$one SCRAM-SHA-1$two");
    assert_int_equal(a.entries[4]->kind, ENTRY_DOMAIN);
    assert_int_equal(a.entries[4]->n, 0);
    for (size_t i = 0; i < 5; i++) {
        entry_free(&a.entries[i]);
    }

    /* An account that is half there is a fault: unknown would bounce its mail. */
    struct answer b = { 0 };
    index_lookup(ix, &SPAN("broken@x.org"), 1, on_entries, &b);
    assert_int_equal(wait_for(&b), ERR_TEMP);
    /* So is an address that is no text. */
    struct answer c = { 0 };
    index_lookup(ix, &SPAN("\xff@x.org"), 1, on_entries, &c);
    assert_int_equal(wait_for(&c), ERR_TEMP);
}

static bool domain_full(const char *change)
{
    struct answer a = { 0 };
    postgres_sql(server, "UPDATE domain SET total_octets = 0, total_messages = 0, usage_octets = 0,"
                         " usage_messages = 0");
    postgres_sql(server, "UPDATE domain SET %s WHERE name = 'x.org'", change);
    index_lookup(ix, &SPAN("@x.org"), 1, on_entries, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    bool full = a.entries[0]->full;
    assert_int_equal(a.entries[0]->kind, ENTRY_DOMAIN);
    entry_free(&a.entries[0]);
    return full;
}

static void test_lookup_full_domain(void **state)
{
    (void)state;
    postgres_sql(server, "INSERT INTO address VALUES ('@x.org', 'x.org', NULL, NULL)");
    postgres_sql(server,
                 "DELETE FROM domain; INSERT INTO domain (name) VALUES ('x.org'), ('y.org')");
    assert_false(domain_full("usage_octets = 10, usage_messages = 10"));
    assert_false(domain_full("total_octets = 11, usage_octets = 10, total_messages = 2"));
    assert_true(domain_full("total_octets = 10, usage_octets = 10"));
    assert_true(domain_full("total_messages = 10, usage_messages = 11, total_octets = 5"));
}

static enum err enroll(uint64_t mailbox_id, const char *hash, const char *old, const char *scram)
{
    struct answer a = { 0 };
    index_enroll(ix, mailbox_id, hash, span_str(old), span_str(scram), on_done, &a);
    return wait_for(&a);
}

/* Keys of a password that was changed meanwhile would let the old one in again; keys that were set
 * meanwhile stay. */
static void test_enroll(void **state)
{
    (void)state;
    postgres_sql(server, "INSERT INTO account (mailbox_id, addr, hash)"
                         " VALUES (7, 'a@x.org', '$y$hash'), (8, 'b@x.org', '$y$hash')");
    const char *one = "SCRAM-SHA-256$one", *two = "SCRAM-SHA-256$two";
    assert_int_equal(enroll(7, "$y$hash", "", one), ERR_OK);
    assert_int_equal(enroll(7, "$y$hash", "", two), ERR_NOTFOUND);
    assert_int_equal(enroll(7, "$y$other", one, two), ERR_NOTFOUND);
    assert_int_equal(enroll(999, "$y$hash", "", two), ERR_NOTFOUND);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM account"
                                          " WHERE scram = CASE mailbox_id WHEN 7"
                                          "       THEN 'SCRAM-SHA-256$one' ELSE '' END"),
                     2);
    postgres_sql(server, "UPDATE account SET hash = '' WHERE mailbox_id = 8");
    assert_int_equal(enroll(8, "$y$hash", "", two), ERR_NOTFOUND);
    assert_int_equal(enroll(7, "$y$hash", one, two), ERR_OK);
}

static void test_volumes(void **state)
{
    (void)state;
    struct answer none = { 0 }, a = { 0 };
    postgres_sql(server, "DELETE FROM volume");
    index_volumes(ix, on_volumes, &none);
    assert_int_equal(wait_for(&none), ERR_OK);
    assert_int_equal(none.n, 0);
    postgres_sql(server, "INSERT INTO volume VALUES"
                         " (2, '00000000-0000-0000-0000-000000000002', 'file:///b', 0, 1, 0, 9),"
                         " (1, '00000000-0000-0000-0000-000000000001', 'file:///a', 2, 0, 100, 0)");
    index_volumes(ix, on_volumes, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    assert_int_equal(a.n, 2);
    assert_int_equal(a.volumes[0].volume_id, 1);
    assert_string_equal(a.volumes[0].uuid, "00000000-0000-0000-0000-000000000001");
    assert_string_equal(a.volumes[0].url, "file:///a");
    assert_int_equal(a.volumes[0].fanout, 2);
    assert_int_equal(a.volumes[0].weight, 100);
    assert_int_equal(a.volumes[1].state, VOLUME_READONLY);
    assert_int_equal(a.volumes[1].free_floor, 9);
}

static void assert_retention(int32_t least, bool differs)
{
    struct answer a = { 0 };
    index_fleet(ix, on_fleet, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    assert_int_equal(a.fleet.least_retention, least);
    assert_int_equal(a.fleet.retention_differs, differs);
}

static void test_retention(void **state)
{
    (void)state;
    assert_retention(-1, false);
    postgres_sql(server, "UPDATE mailbox SET retention_days = 30");
    assert_retention(30, false);
    postgres_sql(server, "UPDATE mailbox SET retention_days = 0 WHERE mailbox_id = 3");
    assert_retention(30, true);
    postgres_sql(server, "UPDATE mailbox SET retention_days = 7 WHERE mailbox_id = 3");
    assert_retention(7, true);
    postgres_sql(server, "UPDATE mailbox SET read_days = 9");
    assert_retention(7, true);
    postgres_sql(server, "UPDATE mailbox SET retention_days = 0");
    assert_retention(9, false);
    postgres_sql(server, "UPDATE mailbox SET read_days = 0 WHERE mailbox_id = 3");
    assert_retention(0, true);
    postgres_sql(server, "DELETE FROM mailbox");
    assert_retention(-1, false);
}

/* --- nodes ----------------------------------------------------------------------------------- */

static struct announcement node(const char *name, const char *why)
{
    return (struct announcement){ .name = name,
                                  .role = "deliver",
                                  .version = "1.2",
                                  .schema = 3,
                                  .up_ms = 60000,
                                  .every_ms = 5000,
                                  .sessions = 7,
                                  .capacity = 100,
                                  .load = 42,
                                  .why = why };
}

/* Whether it is to drain. */
static bool announce(const struct announcement *n)
{
    struct answer a = { 0 };
    index_announce(ix, n, on_announced, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    return a.drain;
}

static long long nodes(const char *where)
{
    return postgres_sql(server, "SELECT count(*) FROM node AS n WHERE %s", where);
}

static void forget_nodes(void)
{
    postgres_sql(server, "DELETE FROM node");
}

/* A row a daemon, by the database's clock; what it says takes the place of what it said, but for
 * what the operator has said. */
static void test_announce(void **state)
{
    (void)state;
    forget_nodes();
    struct announcement n = node("n1", "");
    assert_false(announce(&n));
    assert_int_equal(nodes("name = 'n1' AND role = 'deliver' AND version = '1.2' AND schema = 3"
                           " AND sessions = 7 AND capacity = 100 AND load = 42 AND ready"
                           " AND why = '' AND NOT stopped AND NOT drain AND NOT drains"
                           " AND every_ms = 5000 AND drain_at IS NULL"
                           " AND now() - seen BETWEEN '0' AND '30 s'"
                           " AND seen - since = '1 min'"),
                     1);
    n.role = "frontend";
    assert_false(announce(&n));
    assert_int_equal(nodes("true"), 2);

    postgres_sql(server, "UPDATE node SET drain = true, drain_by = 'me' WHERE role = 'frontend'");
    n.why = "database: gone";
    n.stopped = n.draining = true;
    n.sessions = 0;
    n.up_ms = 0;
    assert_true(announce(&n));
    assert_int_equal(nodes("role = 'frontend' AND NOT ready AND why = 'database: gone' AND stopped"
                           " AND drains AND sessions = 0 AND seen = since AND drain_by = 'me'"),
                     1);
    n.role = "deliver";
    assert_false(announce(&n));
    assert_int_equal(nodes("true"), 2);
    forget_nodes();
}

/* Three of its own intervals. */
static void test_heard(void **state)
{
    (void)state;
    forget_nodes();
    struct announcement n = node("n1", "");
    announce(&n);
    assert_int_equal(nodes("heard(n) AND serves(n)"), 1);
    postgres_sql(server, "UPDATE node SET seen = now() - interval '14 s'");
    assert_int_equal(nodes("heard(n) AND serves(n)"), 1);
    postgres_sql(server, "UPDATE node SET seen = now() - interval '16 s'");
    assert_int_equal(nodes("heard(n) OR serves(n)"), 0);
    postgres_sql(server, "UPDATE node SET every_ms = 6000");
    assert_int_equal(nodes("heard(n)"), 1);
    n.why = "stopped";
    n.stopped = true;
    announce(&n);
    postgres_sql(server, "UPDATE node SET seen = now() - interval '1 day'");
    assert_int_equal(nodes("heard(n)"), 1); /* it has said so */
    assert_int_equal(nodes("serves(n)"), 0);
    forget_nodes();
}

/* Of n1's roles, in how many nobody else serves; -1: there is no such node. */
static long long drain(const char *role, bool forced)
{
    return postgres_sql(
        server, "SELECT coalesce(sum(final::int), -1) FROM drain_node('n1', '%s', 'me', %s)", role,
        forced ? "true" : "false");
}

static void test_drain(void **state)
{
    (void)state;
    forget_nodes();
    assert_int_equal(drain("", true), -1);
    struct announcement n1 = node("n1", ""), n2 = node("n2", "");
    announce(&n1);
    announce(&n2);
    n1.role = "frontend";
    announce(&n1);
    assert_int_equal(drain("", false), 1); /* as a front-end it is alone: neither is drained */
    assert_int_equal(nodes("drain"), 0);
    assert_int_equal(drain("deliver", false), 0);
    assert_int_equal(nodes("drain AND name = 'n1' AND role = 'deliver' AND drain_by = 'me'"
                           " AND drain_at <= now()"),
                     1);
    assert_int_equal(drain("deliver", false), 0); /* it does not serve any more */
    assert_int_equal(drain("", true), 1);
    assert_int_equal(nodes("drain AND name = 'n1'"), 2);
    assert_int_equal(nodes("drain"), 2);

    /* Who does not serve can't take over. */
    postgres_sql(server, "UPDATE node SET drain = false");
    n2.why = "database: gone";
    announce(&n2);
    assert_int_equal(drain("deliver", false), 1);
    n2.why = "";
    announce(&n2);
    postgres_sql(server, "UPDATE node SET drain = true WHERE name = 'n2'");
    assert_int_equal(drain("deliver", false), 1);
    postgres_sql(server, "UPDATE node SET drain = false, seen = now() - interval '1 h'"
                         " WHERE name = 'n2'");
    assert_int_equal(drain("deliver", false), 1);
    assert_int_equal(nodes("drain"), 0);
    forget_nodes();
}

/* Two operators, each of whom would leave it to the other's node: one of them is told. */
static void test_drain_at_once(void **state)
{
    (void)state;
    forget_nodes();
    struct announcement n1 = node("n1", ""), n2 = node("n2", "");
    announce(&n1);
    announce(&n2);
    PGconn *first = PQconnectdb(postgres_url(server)), *second = PQconnectdb(postgres_url(server));
    PQclear(PQexec(first, "BEGIN"));
    PGresult *r = PQexec(first, "SELECT final FROM drain_node('n1', '', 'me', false)");
    assert_string_equal(PQgetvalue(r, 0, 0), "f");
    PQclear(r);
    assert_true(PQsendQuery(second, "SELECT final FROM drain_node('n2', '', 'you', false)"));
    while (postgres_sql(server,
                        "SELECT count(*) FROM pg_stat_activity WHERE pid = %d"
                        " AND wait_event_type = 'Lock'",
                        PQbackendPID(second)) == 0) {
        assert_true(PQconsumeInput(second));
        assert_true(PQisBusy(second)); /* it waits for the first */
    }
    PQclear(PQexec(first, "COMMIT"));
    r = PQgetResult(second);
    assert_string_equal(PQgetvalue(r, 0, 0), "t");
    PQclear(r);
    assert_int_equal(nodes("drain"), 1);
    PQfinish(first);
    PQfinish(second);
    forget_nodes();
}

/* A row that somebody has locked for long costs the announcement, and nothing of the mail path. */
static void test_announce_holds_up_nobody(void **state)
{
    (void)state;
    forget_nodes();
    struct announcement n = node("n1", "");
    announce(&n);
    PGconn *other = PQconnectdb(postgres_url(server));
    PQclear(PQexec(other, "BEGIN"));
    PQclear(PQexec(other, "SELECT FROM node FOR UPDATE"));
    struct answer late = { 0 }, list = { 0 };
    index_announce(ix, &n, on_announced, &late);
    while (postgres_sql(server, "SELECT count(*) FROM pg_stat_activity"
                                " WHERE wait_event_type = 'Lock'") == 0) {
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    }
    index_fleet(ix, on_fleet, &list);
    assert_int_equal(wait_for(&list), ERR_OK);
    assert_false(late.done);
    assert_int_equal(wait_for(&late), ERR_TEMP);
    assert_true(index_ready(ix));
    PQfinish(other);
    forget_nodes();
}

static bool keyless(void)
{
    struct answer a = { 0 };
    index_fleet(ix, on_fleet, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    return a.fleet.keyless;
}

/* An account that nobody can log in to by a password is not in the way of SCRAM. */
static void test_keyless(void **state)
{
    (void)state;
    postgres_sql(server, "INSERT INTO account (mailbox_id, addr) VALUES (7, 'g@a.test')");
    assert_false(keyless());
    postgres_sql(server, "UPDATE account SET hash = '$y$x' WHERE mailbox_id = 7");
    assert_true(keyless());
    postgres_sql(server, "UPDATE account SET hash = '!' WHERE mailbox_id = 7");
    assert_false(keyless());
    postgres_sql(server, "UPDATE account SET hash = '$y$x' WHERE mailbox_id = 7");
    postgres_sql(server, "UPDATE account SET scram = 'SCRAM-SHA-256$x' WHERE mailbox_id = 7");
    assert_false(keyless());
}

/* Why this program can't work with the schema as the database has it; NULL: it can. */
static const char *unfit(void)
{
    static char why[200];
    struct answer a = { 0 };
    index_schema(ix, on_schema, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    return schema_fits(&a.schema, why, sizeof why) ? NULL : why;
}

/* What newer programs have added is no harm; what they have taken away is, and what lacks. */
static void test_schema(void **state)
{
    (void)state;
    assert_null(unfit());
    postgres_sql(server, "INSERT INTO schema_version (version, name) VALUES (%d, 'next')",
                 SCHEMA_VERSION + 1);
    assert_null(unfit());
    postgres_sql(server, "UPDATE schema_version SET contracted_at = now() WHERE version = %d",
                 SCHEMA_VERSION);
    assert_null(unfit());
    postgres_sql(server, "UPDATE schema_version SET contracted_at = now() WHERE version = %d",
                 SCHEMA_VERSION + 1);
    assert_non_null(strstr(unfit(), "contracted"));
    postgres_sql(server, "DELETE FROM schema_version WHERE version > %d", SCHEMA_VERSION);
    assert_null(unfit());
    postgres_sql(server, "DELETE FROM schema_version WHERE version = %d", SCHEMA_VERSION);
    assert_non_null(strstr(unfit(), "run mailfleet migrate"));
    postgres_sql(server, "INSERT INTO schema_version (version, name) VALUES (%d, 'this')",
                 SCHEMA_VERSION);
}

static void test_schema_is_missing(void **state)
{
    (void)state;
    struct answer a = { 0 };
    postgres_sql(server, "ALTER TABLE schema_version RENAME TO elsewhere");
    index_schema(ix, on_schema, &a);
    assert_int_equal(wait_for(&a), ERR_TEMP);
    postgres_sql(server, "ALTER TABLE elsewhere RENAME TO schema_version");
}

/* A table or an index, and its partitions where it has some. */
#define WITH_PARTITIONS(name)                                                                      \
    "(SELECT '" name "'::regclass UNION SELECT relid FROM pg_partition_tree('" name "'))"

/* Three looks at each index, though the statistics are of when no mailbox had a retention. */
static void test_retention_is_cheap(void **state)
{
    (void)state;
    postgres_sql(server, "INSERT INTO mailbox (mailbox_id) SELECT generate_series(21, 20000)");
    postgres_sql(server, "ANALYZE mailbox");
    postgres_sql(server, "UPDATE mailbox SET retention_days = 30, read_days = 40");
    postgres_sql(server, "SELECT pg_stat_force_next_flush()");
    postgres_sql(server, "SELECT pg_stat_reset()");
    assert_retention(30, false);
    index_close(&ix); /* a backend that ends has told what it read */
    wait_until("SELECT sum(idx_scan) / 3 FROM pg_stat_all_indexes"
               " WHERE indexrelid IN " WITH_PARTITIONS("mailbox_retention"));
    wait_until("SELECT sum(idx_scan) / 3 FROM pg_stat_all_indexes"
               " WHERE indexrelid IN " WITH_PARTITIONS("mailbox_read"));
    assert_int_equal(postgres_sql(server, "SELECT sum(seq_scan) FROM pg_stat_all_tables"
                                          " WHERE relid IN " WITH_PARTITIONS("mailbox")),
                     0);
    open_index(PATIENT_MS);
}

static void test_epoch(void **state)
{
    (void)state;
    uint64_t before = epoch;
    assert_int_equal(before >> 32, postgres_sql(server, "SELECT epoch FROM fleet"));
    assert_int_equal(before & UINT32_MAX, 1); /* the timeline of a new cluster */
    postgres_sql(server, "UPDATE fleet SET epoch = epoch + 1");
    while (epoch == before) {
        turn();
    }
    assert_int_equal(epoch >> 32, (before >> 32) + 1);
}

static void test_cancel(void **state)
{
    (void)state;
    const uint64_t box = 1;
    struct pointer p = new_pointer(10);
    struct answer a = { 0 }, l = { 0 };
    struct op *op = index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &a);
    op_cancel(&op);
    op = index_list(ix, box, on_list, &l);
    op_cancel(&op);
    while (postgres_sql(server, "SELECT count(*) FROM message") != 1) {
        turn();
    }
    assert_false(a.done);
    assert_false(l.done);
}

/* Delivers again when it hears of the first. */
struct again {
    struct answer first, second;
    struct index *index;
};

static void on_room_again(void *arg, enum err e, const enum room *room, size_t n)
{
    struct again *g = arg;
    const uint64_t box = 1;
    struct pointer p = new_pointer(1);
    on_room(&g->first, e, room, n);
    index_deliver(g->index, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room, &g->second);
}

/* What was asked for ends when the index does, even if no statement was made of it yet. */
static void test_close(void **state)
{
    (void)state;
    const uint64_t box = 1;
    struct again g = { .index = ix };
    struct pointer p = new_pointer(1);
    index_deliver(ix, &p, SPAN(""), &box, 1, true, GRACE_MS, on_room_again, &g);
    assert_false(g.first.done);
    index_close(&ix);
    assert_true(g.first.done && g.second.done);
    assert_int_equal(g.first.err, ERR_TEMP);
    assert_int_equal(g.second.err, ERR_TEMP);
    open_index(PATIENT_MS);
    assert_int_equal(count("message"), 0);
}

/* --- the reaper's functions ------------------------------------------------------------------- */

static void test_claims(void **state)
{
    (void)state;
    delivered_to(1, 10);
    delivered_to(1, 20);
    struct maildrop *m = list(1);
    const struct pointer both[] = { maildrop_at(m, 0), maildrop_at(m, 1) };
    assert_int_equal(expunge(1, both, 2), ERR_OK);
    maildrop_free(&m);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM claim(1, 0, 60000, 9)"), 0);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM claim(1, " DUE ", 60000, 1)"), 1);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM claim(1, " DUE ", 60000, 9)"), 1);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM claim(1, " DUE ", 60000, 9)"), 0);
    /* A dead reaper's claim ends. */
    assert_int_equal(
        postgres_sql(server, "SELECT count(*) FROM claim(1, " DUE " + 60001, 60000, 9)"), 2);
    /* What was due when a long run began. */
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM claim(1, " DUE " + 999999, 1, 9,"
                                          " NULL, 0)"),
                     0);
    postgres_sql(server, "SELECT release(mailbox_id, blob_id, seq, 5000, seq = 2) FROM ledger");
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger"), 0);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger_past WHERE seq = 2"
                                          " AND size = 20 AND by_whom = 'test'"
                                          " AND unlinked_at = to_timestamp(5)"),
                     1);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger_past"), 1);
}

static void ledger_rows(unsigned mailbox, unsigned n)
{
    postgres_sql(server,
                 "INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared,"
                 "                    deleted_at, unlink_after, by_whom)"
                 " SELECT %u, md5(n::text)::uuid, 1, 1, 1, 1, false, now(), now(), 'test'"
                 "   FROM generate_series(1, %u) n",
                 mailbox, n);
}

/* A reaper forgets what it has beyond: also where the server takes it that there are few. */
static void test_claims_no_more_than_asked_for(void **state)
{
    (void)state;
    ledger_rows(7, 2000);
    postgres_sql(server, "ANALYZE ledger");
    ledger_rows(0, 50);
    for (int i = 1; i <= 5; i++) {
        assert_int_equal(postgres_sql(server, "SELECT count(*) FROM claim(0, " DUE ", 60000, 10)"),
                         10);
        assert_int_equal(count("ledger WHERE claimed_at IS NOT NULL"), 10 * i);
    }
}

/* To volume 2, of the only message. */
static long long mark_copy(void)
{
    return postgres_sql(server, "SELECT mark_copy(1, 1, blob_id, 1, 2, 0, 1000, 'test')"
                                "  FROM message");
}

static long long claim_copy(unsigned later)
{
    return postgres_sql(server, "SELECT count(*) FROM claim(0, " DUE " + %u, 60000, 9)", later);
}

static void end_copy(void)
{
    postgres_sql(server, "SELECT release(0, blob_id, seq, " DUE ", false) FROM ledger");
}

/*
 * Where a reaper had a copy from one that seemed dead, which may yet unlink it, none is made again;
 * that is remembered without a history of deletions, too. One that was ended in order may come
 * back.
 */
static void test_reclaimed_copies_do_not_come_back(void **state)
{
    (void)state;
    delivered_to(1, 10);
    assert_int_equal(mark_copy(), 1);
    assert_int_equal(claim_copy(0), 1);
    assert_int_equal(mark_copy(), 3);
    end_copy();
    assert_int_equal(count("ledger_past"), 0);
    assert_int_equal(mark_copy(), 1);
    assert_int_equal(claim_copy(0), 1);
    assert_int_equal(claim_copy(60001), 1);
    end_copy();
    assert_int_equal(count("ledger_past WHERE reclaimed AND mailbox_id = 0 AND seq = -2"), 1);
    assert_int_equal(mark_copy(), 4);
    assert_int_equal(count("ledger"), 0);
    postgres_sql(server, "DELETE FROM ledger_past");
    assert_int_equal(mark_copy(), 1);
}

/* A file that something else of the mailbox still names is not handed out. */
static void test_claim_spares_what_is_named(void **state)
{
    (void)state;
    struct pointer p = delivered_to(1, 10);
    struct answer a = { 0 };
    index_discard(ix, 1, &p, GRACE_MS, SPAN("mistaken"), on_done, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM claim(1, " DUE ", 60000, 9)"), 0);
    postgres_sql(server, "INSERT INTO ledger SELECT mailbox_id, blob_id, 5, size, skip, volume_id,"
                         " shared, uidl, handle, deleted_at, 'infinity', NULL, 'later' FROM ledger;"
                         "DELETE FROM message");
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM claim(1, " DUE ", 60000, 9)"), 0);
    postgres_sql(server, "DELETE FROM ledger WHERE seq = 5");
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM claim(1, " DUE ", 60000, 9)"), 1);
}

static void assert_refused(const char *sql, const char *state)
{
    PGresult *r = PQexec(postgres_conn(server), sql);
    const char *said = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    assert_string_equal(said ? said : "nothing", state);
    PQclear(r);
}

/* Octets of the free files that a reaper gets at this time. */
static long long claim_free(unsigned now_ms)
{
    return postgres_sql(server,
                        "SELECT coalesce(sum(octets), 0)::bigint FROM claim_free("
                        "lpad('', 32, '0')::uuid, %u, 60000, 9, ARRAY[1]::bigint[])",
                        now_ms);
}

static void test_shared_counts_down_once(void **state)
{
    (void)state;
    const uint64_t to[] = { 1, 2 };
    struct pointer p = new_pointer(10);
    p.seq = 1;
    assert_int_equal(deliver(&p, to, 2, true).err, ERR_OK);
    assert_int_equal(expunge(1, &p, 1), ERR_OK);
    assert_int_equal(expunge(2, &p, 1), ERR_OK);
    postgres_sql(server,
                 "BEGIN; SELECT release(1, blob_id, 1, 0, true), unshare(blob_id) FROM ledger"
                 " WHERE mailbox_id = 1; COMMIT");
    assert_int_equal(postgres_sql(server, "SELECT refs FROM blob_shared"), 1);
    /* The same row again takes the count back with it. */
    PGresult *r =
        PQexec(postgres_conn(server), "SELECT unshare(blob_id), release(1, blob_id, 1, 0, true)"
                                      "  FROM blob_shared");
    assert_string_equal(PQresultErrorField(r, PG_DIAG_SQLSTATE), "MF002");
    PQclear(r);
    assert_int_equal(postgres_sql(server, "SELECT refs FROM blob_shared"), 1);
    const char *forget = "SELECT forget(blob_id) FROM blob_shared";
    assert_refused(forget, "MF002");
    assert_int_equal(claim_free(0), 0);
    postgres_sql(server, "SELECT release(2, blob_id, 1, 0, true), unshare(blob_id) FROM ledger");
    /* A free file is one reaper's, until that has died. */
    assert_int_equal(claim_free(0), 110);
    assert_int_equal(claim_free(60000), 0);
    assert_int_equal(claim_free(60001), 110);
    postgres_sql(server, "%s", forget);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM blob_shared"), 0);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger_past"), 2);
}

/* Of two reapers at once the later one gets others: what the first has taken is no end to it. */
static void test_free_files_are_for_all(void **state)
{
    (void)state;
    PGconn *other = PQconnectdb(postgres_url(server));
    const char *claim = "SELECT octets FROM claim_free(lpad('', 32, '0')::uuid, 0, 60000, 1,"
                        " ARRAY[1]::bigint[])";
    postgres_sql(server, "INSERT INTO blob_shared (blob_id, volume_id, refs, octets) VALUES"
                         " (lpad('1', 32, '0')::uuid, 1, 0, 1),"
                         " (lpad('2', 32, '0')::uuid, 1, 0, 2)");
    postgres_sql(server, "BEGIN");
    assert_int_equal(postgres_sql(server, "%s", claim), 1);
    assert_int_equal(PQsendQuery(other, claim), 1);
    while (postgres_sql(server, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 0) {
    }
    postgres_sql(server, "COMMIT");
    PGresult *r = PQgetResult(other);
    assert_int_equal(PQntuples(r), 1);
    assert_string_equal(PQgetvalue(r, 0, 0), "2");
    PQclear(r);
    PQfinish(other);
}

/* A reaper that began before the volume became readonly gets nothing of it any more. */
static void test_claims_end_on_readonly_volumes(void **state)
{
    (void)state;
    postgres_sql(server,
                 "UPDATE volume SET state = 1 WHERE volume_id = 1;"
                 "SELECT discard(1, lpad('7', 32, '0')::uuid, 1, 10, 0, false, 0, 0, 'test'),"
                 "       discard(1, lpad('8', 32, '0')::uuid, 2, 10, 0, false, 0, 0, 'test'),"
                 "       share(lpad('9', 32, '0')::uuid, 1, 0, 10)");
    const char *claim = "SELECT count(*) FROM claim(1, " DUE ", 60000, 9, ARRAY[1, 2]::bigint[])";
    assert_int_equal(postgres_sql(server, "%s", claim), 1);
    assert_int_equal(claim_free(0), 0);
    postgres_sql(server, "UPDATE volume SET state = 2 WHERE volume_id = 1");
    assert_int_equal(postgres_sql(server, "%s", claim), 1);
    assert_int_equal(claim_free(0), 10);
}

static void test_reaped_adds_up_by_day(void **state)
{
    (void)state;
    postgres_sql(server, "SELECT reaped(1, 86399999, 2, 100), reaped(1, 86400000, 1, 10),"
                         " reaped(1, 86400001, 1, 20), reaped(2, 86400000, 5, 1)");
    assert_int_equal(postgres_sql(server, "SELECT octets FROM volume_reaped WHERE volume_id = 1"
                                          " AND day = '1970-01-02' AND files = 2"),
                     30);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM volume_reaped"), 3);
}

/* --- undelete --------------------------------------------------------------------------------- */

/* Three messages of mailbox 1, with what a pointer can have, and all of them deleted. */
static void delete_three(void)
{
    for (uint32_t size = 10; size <= 30; size += 10) {
        delivered_to(1, size);
    }
    postgres_sql(server, "UPDATE message SET uidl = 'old-' || seq, handle = '\\xff'"
                         " WHERE mailbox_id = 1");
    postgres_sql(server, "CREATE TEMP TABLE IF NOT EXISTS before (LIKE message); TRUNCATE before;"
                         "INSERT INTO before SELECT * FROM message");
    postgres_sql(server, "SELECT expunge(1, array_agg(seq), array_agg(blob_id), 1000, 5000, 'me')"
                         "  FROM message WHERE mailbox_id = 1");
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger"), 3);
}

static long long undelete(const char *arguments)
{
    return postgres_sql(server, "SELECT undelete(1, %s, 2000, 'operator me')", arguments);
}

static void test_undelete(void **state)
{
    (void)state;
    delete_three();
    assert_int_equal(undelete("1001, NULL, 9"), 0);
    assert_int_equal(undelete("1000, NULL, 2"), 2);
    assert_int_equal(postgres_sql(server, "SELECT max(seq) FROM message"), 2);
    assert_int_equal(undelete("1000, NULL, 2"), 1);
    assert_int_equal(undelete("1000, NULL, 2"), 0);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM undeleted WHERE by_whom = 'me' AND"
                                          " undeleted_by = 'operator me'"),
                     3);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger"), 0);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM (TABLE message EXCEPT"
                                          " TABLE before) x"),
                     0);
    assert_int_equal(list_count(1), 3);
    /* Three deliveries, one delete, two pages that came back. */
    assert_int_equal(postgres_sql(server, "SELECT version FROM mailbox WHERE mailbox_id = 1"), 6);
    assert_counters_exact();
    struct pointer next = delivered_to(1, 1);
    assert_int_equal(ask_delivered(1, &next), ERR_OK);
    assert_int_equal(postgres_sql(server, "SELECT max(seq) FROM message"), 4);
}

static void test_undelete_one(void **state)
{
    (void)state;
    delete_three();
    assert_int_equal(undelete("0, (SELECT blob_id FROM ledger WHERE seq = 2), 9"), 1);
    assert_int_equal(postgres_sql(server, "SELECT seq FROM message"), 2);
    assert_counters_exact();
    /* Limits are for new mail. */
    postgres_sql(server, "UPDATE mailbox SET max_messages = 1, max_octets = 1");
    assert_int_equal(undelete("0, NULL, 9"), 2);
    assert_counters_exact();
}

static void test_undelete_spares(void **state)
{
    (void)state;
    delete_three();
    /* A reaper has the first; the second is listed again by its id, the third by its UIDL. */
    postgres_sql(server, "UPDATE ledger SET claimed_at = now() WHERE seq = 1");
    postgres_sql(server, "INSERT INTO message SELECT mailbox_id, 7, blob_id, size, skip, volume_id,"
                         " shared FROM before WHERE seq = 2;"
                         "INSERT INTO message SELECT mailbox_id, 8, lpad('', 32, '7')::uuid, size,"
                         " skip, volume_id, shared, uidl FROM before WHERE seq = 3");
    assert_int_equal(undelete("0, NULL, 9"), 0);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger"), 3);
    /* A file that a reaper has by another row is as good as gone. */
    postgres_sql(server, "DELETE FROM message; UPDATE ledger SET blob_id = (SELECT blob_id FROM"
                         " ledger WHERE seq = 1) WHERE seq = 2");
    assert_int_equal(undelete("0, NULL, 9"), 1);
    assert_int_equal(postgres_sql(server, "SELECT seq FROM message"), 3);
    /* What was never listed does not come: given up, or without room. */
    postgres_sql(server, "UPDATE ledger SET seq = 0, claimed_at = NULL WHERE seq = 2;"
                         "DELETE FROM ledger WHERE seq = 1");
    assert_int_equal(undelete("0, NULL, 9"), 0);
    postgres_sql(server, "UPDATE mailbox SET state = 2");
    assert_refused("SELECT undelete(1, 0, NULL, 9, 0, 'me')", "MF002");
    assert_refused("SELECT undelete(999, 0, NULL, 9, 0, 'me')", "MF002");
}

/* Asked under the lock: who may log in by now has seen the list. */
static void test_what_only_an_import_knows(void **state)
{
    (void)state;
    static const char *const calls[] = {
        "SELECT prune(1, ARRAY[1], array_agg(blob_id), 0, 9, 'me') FROM message WHERE seq = 1",
        "SELECT supersede(1, ARRAY[2], array_agg(blob_id), 0, 9) FROM message WHERE seq = 2",
    };
    delivered_to(1, 10);
    delivered_to(1, 20);
    for (size_t i = 0; i < 2; i++) {
        postgres_sql(server, "UPDATE mailbox SET state = 0");
        assert_refused(calls[i], "MF002");
        postgres_sql(server, "UPDATE mailbox SET state = 2");
        assert_refused(calls[i], "MF002");
        postgres_sql(server, "UPDATE mailbox SET state = 1");
        assert_int_equal(postgres_sql(server, "%s", calls[i]), 1);
    }
    assert_int_equal(count("message"), 0);
}

/*
 * An undelete that is not committed yet has moved one row of a file; a reaper asks for what is due,
 * which is another row of that file. It must not get it.
 */
static void test_claim_waits_for_undelete(void **state)
{
    (void)state;
    delete_three();
    postgres_sql(server, "INSERT INTO ledger SELECT mailbox_id, blob_id, 0, size, skip, volume_id,"
                         " shared, '', '', deleted_at, unlink_after, NULL, 'given up' FROM ledger");
    PGconn *other = PQconnectdb(postgres_url(server));
    assert_int_equal(PQstatus(other), CONNECTION_OK);
    PQclear(PQexec(other, "BEGIN; SELECT undelete(1, 0, NULL, 9, 0, 'me')"));
    assert_int_equal(
        PQsendQuery(postgres_conn(server), "SELECT count(*)::int FROM claim(1, " DUE ", 60000, 9)"),
        1);
    for (bool waits = false; !waits;) { /* or has answered, which it must not */
        PGresult *w = PQexec(other, "SELECT FROM pg_locks WHERE NOT granted");
        assert_int_equal(PQconsumeInput(postgres_conn(server)), 1);
        waits = PQntuples(w) > 0 || !PQisBusy(postgres_conn(server));
        PQclear(w);
    }
    PQclear(PQexec(other, "COMMIT"));
    PGresult *r = PQgetResult(postgres_conn(server));
    assert_string_equal(PQgetvalue(r, 0, 0), "0");
    PQclear(r);
    assert_null(PQgetResult(postgres_conn(server)));
    PQfinish(other);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM message"), 3);
}

/* --- retention -------------------------------------------------------------------------------- */

#define DAY_MS 86400000LL

/* Messages of one mailbox, delivered in the order of seq, that are so many days old at day 100. */
static void make_messages(uint64_t mailbox_id, const char *ages)
{
    postgres_sql(server,
                 "INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)"
                 " SELECT %llu, n, (lpad(to_hex((100 - age) * %lld), 12, '0')"
                 "                  || lpad(to_hex(%llu * 100000 + n), 20, '0'))::uuid,"
                 "        10, 1, 1, false"
                 "   FROM unnest(ARRAY[%s]::bigint[]) WITH ORDINALITY AS a (age, n);"
                 "UPDATE mailbox b SET next_seq = 1000,"
                 "       (msgs, octets) = (SELECT count(*), coalesce(sum(size), 0) FROM message m"
                 "                          WHERE m.mailbox_id = b.mailbox_id)"
                 " WHERE mailbox_id = %llu",
                 (unsigned long long)mailbox_id, DAY_MS, (unsigned long long)mailbox_id, ages,
                 (unsigned long long)mailbox_id);
}

static long long expire(uint64_t mailbox_id, unsigned most)
{
    return postgres_sql(server, "SELECT expire(%llu, %lld, 1000, %u, 'expired')",
                        (unsigned long long)mailbox_id, 100 * DAY_MS, most);
}

/* Where a message is exactly as old as it may be, it stays. */
static void test_expire(void **state)
{
    (void)state;
    postgres_sql(server, "UPDATE mailbox SET retention_days = 30");
    make_messages(1, "90, 31, 30, 29, 40, 0");
    make_messages(2, "90, 80");
    assert_int_equal(expire(1, 2), 2);
    assert_int_equal(expire(1, 2), 1);
    assert_int_equal(expire(1, 2), 0);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM message WHERE mailbox_id = 1"
                                          " AND seq IN (3, 4, 6)"),
                     3);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger WHERE mailbox_id = 1"
                                          " AND seq IN (1, 2, 5) AND by_whom = 'expired'"),
                     3);
    assert_grace("1 second");
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger"), 3);
    assert_int_equal(postgres_sql(server, "SELECT version FROM mailbox WHERE mailbox_id = 1"), 2);
    assert_counters_exact();
}

/* What its owner was told is kept for ever, or can't fetch, is not touched. */
static void test_expire_spares(void **state)
{
    (void)state;
    make_messages(1, "90, 80");
    make_messages(2, "90, 80");
    postgres_sql(server, "UPDATE mailbox SET retention_days = 30, state = 1 WHERE mailbox_id = 2");
    assert_int_equal(expire(1, 9), 0);
    assert_int_equal(expire(2, 9), 0);
    assert_int_equal(expire(999, 9), 0);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger"), 0);
    assert_int_equal(postgres_sql(server, "SELECT sum(version) FROM mailbox"), 0);
}

/* Marks of messages that were read so many days ago at day 100: place, days. */
static void make_marks(uint64_t mailbox_id, const char *marks)
{
    postgres_sql(server,
                 "INSERT INTO read_mark SELECT %llu, seq, ms_time((100 - days::bigint) * %lld)"
                 "  FROM (VALUES %s) AS m (seq, days)",
                 (unsigned long long)mailbox_id, DAY_MS, marks);
}

static void test_mark_read(void **state)
{
    (void)state;
    struct answer a = { 0 }, b = { 0 };
    delivered_to(1, 10);
    delivered_to(1, 20);
    delivered_to(1, 30);
    struct maildrop *m = list(1);
    struct pointer msgs[] = { maildrop_at(m, 0), maildrop_at(m, 1) };
    /* Another message in the same place, as after a restore, was not read. */
    msgs[1].id.b[15] ^= 1;
    index_mark_read(ix, 1, msgs, 2, on_done, &a);
    assert_int_equal(wait_for(&a), ERR_OK);
    assert_int_equal(count("read_mark"), 0); /* it has no rule */
    postgres_sql(server, "UPDATE mailbox SET read_days = 0 WHERE mailbox_id = 1");
    index_mark_read(ix, 1, msgs, 2, on_done, &b);
    assert_int_equal(wait_for(&b), ERR_OK);
    maildrop_free(&m);
    assert_int_equal(count("read_mark"), 1);
    assert_int_equal(count("read_mark WHERE mailbox_id = 1 AND seq = 1"
                           " AND abs(extract(epoch FROM now() - read_at)) < 600"),
                     1);
    /* The first time counts; and it is no earlier than by the database's clock. */
    postgres_sql(server, "UPDATE read_mark SET read_at = ms_time(5)");
    postgres_sql(server, "SELECT mark_read(1, ARRAY[seq], ARRAY[blob_id], 9) FROM message");
    assert_int_equal(count("read_mark WHERE read_at = ms_time(5)"), 1);
    assert_int_equal(count("read_mark WHERE seq > 1 AND read_at <= clock_timestamp()"
                           " AND read_at > clock_timestamp() - interval '10 minutes'"),
                     2);
}

/* Whichever of the two rules is over first; what was not read follows the first alone. */
static void test_expire_read(void **state)
{
    (void)state;
    postgres_sql(server,
                 "UPDATE mailbox SET retention_days = 30, read_days = 7 WHERE mailbox_id = 1;"
                 "UPDATE mailbox SET read_days = 0 WHERE mailbox_id = 2");
    make_messages(1, "90, 20, 20, 20, 20, 40");
    make_messages(2, "90, 80, 1");
    make_messages(3, "90");
    make_marks(1, "(2, 8), (3, 7), (4, 6), (6, 1), (800, 8), (801, 6)");
    make_marks(2, "(3, 0)");
    make_marks(3, "(1, 90)");
    assert_int_equal(expire(1, 3), 3);
    assert_int_equal(expire(1, 3), 1);
    assert_int_equal(expire(1, 3), 0);
    assert_int_equal(expire(2, 3), 1);
    assert_int_equal(expire(3, 3), 0);
    assert_int_equal(count("message WHERE mailbox_id = 1 AND seq IN (4, 5)"), 2);
    assert_int_equal(count("message WHERE mailbox_id = 2 AND seq IN (1, 2)"), 2);
    assert_int_equal(count("ledger WHERE by_whom = 'expired'"), 5);
    /* No mark is left of what has gone: one that comes back is as new. */
    assert_int_equal(count("read_mark WHERE mailbox_id = 1 AND seq IN (4, 801)"), 2);
    assert_int_equal(count("read_mark"), 3);
    assert_counters_exact();
}

static void test_expire_read_spares(void **state)
{
    (void)state;
    make_messages(1, "90");
    make_messages(2, "90");
    make_marks(1, "(1, 90)");
    make_marks(2, "(1, 90)");
    postgres_sql(server, "UPDATE mailbox SET read_days = 1, state = 2 WHERE mailbox_id = 2");
    assert_int_equal(expire(1, 9), 0);
    assert_int_equal(expire(2, 9), 0);
    assert_int_equal(count("read_mark"), 2);
}

/* --- removing --------------------------------------------------------------------------------- */

#define DENIED(sql)                                                                                \
    do {                                                                                           \
        PGresult *denied_ = PQexec(postgres_conn(server), sql);                                    \
        assert_string_equal(PQresultErrorField(denied_, PG_DIAG_SQLSTATE), "MF002");               \
        PQclear(denied_);                                                                          \
    } while (0)

#define REMOVE "SELECT remove_account(1, 'a@x.org', ARRAY['b@x.org'], '{}', 1000, 5000, 'operator')"

static void test_remove_account(void **state)
{
    (void)state;
    delivered_to(1, 10);
    delivered_to(1, 20);
    postgres_sql(server, "UPDATE mailbox SET state = 1 WHERE mailbox_id = 1");
    postgres_sql(server, REMOVE);
    DENIED(REMOVE);
    DENIED("SELECT remove_account(999, 'a@x.org', '{}', '{}', 1000, 5000, 'operator')");
    assert_int_equal(count("removed WHERE mailbox_id = 1 AND msgs = 2 AND octets = 30"
                           " AND purge_after = ms_time(6000) AND purged_at IS NULL"),
                     1);
    struct pointer p = new_pointer(10);
    assert_int_equal(deliver(&p, (const uint64_t[]){ 1 }, 1, true).err, ERR_LIMIT);
    assert_int_equal(list_count(1), 2);
    /* Not before its time. */
    assert_int_equal(postgres_sql(server, "SELECT purge_page(1, 5999, 1000, 9)"), 0);
    DENIED("SELECT purge_end(1, 5999, 1000)");
    /* It is suspended again, as it was. */
    postgres_sql(server, "SELECT restore_account(1, 5999)");
    DENIED("SELECT restore_account(1, 5999)");
    assert_int_equal(postgres_sql(server, "SELECT state FROM mailbox WHERE mailbox_id = 1"), 1);
    assert_int_equal(count("removed"), 0);
    assert_int_equal(postgres_sql(server, "SELECT purge_page(1, 9999, 1000, 9)"), 0);
    DENIED("SELECT purge_end(1, 9999, 1000)");
    assert_int_equal(list_count(1), 2);
}

static void test_purge(void **state)
{
    (void)state;
    postgres_sql(server, "INSERT INTO account (mailbox_id, addr) VALUES (1, 'a@x.org');"
                         "UPDATE mailbox SET read_days = 3 WHERE mailbox_id = 1");
    make_messages(1, "90, 80, 70");
    make_marks(1, "(1, 90), (9, 90)");
    postgres_sql(server, REMOVE);
    DENIED("SELECT restore_account(1, 6000)");
    assert_int_equal(postgres_sql(server, "SELECT purge_page(1, 6000, 1000, 2)"), 2);
    assert_counters_exact();
    /* By a clock that is late it is not too late; but two messages would be missing. */
    DENIED("SELECT restore_account(1, 5999)");
    assert_int_equal(postgres_sql(server, "SELECT purge_page(1, 6000, 1000, 2)"), 1);
    assert_int_equal(postgres_sql(server, "SELECT purge_page(1, 6000, 1000, 2)"), 0);
    postgres_sql(server, "SELECT purge_end(1, 7000, 1000)");
    DENIED("SELECT purge_end(1, 8000, 1000)");
    DENIED("SELECT restore_account(1, 5000)");
    assert_int_equal(postgres_sql(server, "SELECT purge_page(1, 9000, 1000, 2)"), 0);
    assert_int_equal(count("ledger WHERE by_whom = 'removed by operator'"), 3);
    assert_grace("1 second");
    assert_int_equal(count("removed WHERE purged_at = ms_time(7000) AND msgs = 3"), 1);
    assert_int_equal(count("mailbox WHERE mailbox_id = 1"), 0);
    assert_int_equal(count("account"), 0);
    assert_int_equal(count("read_mark"), 0);
}

static void test_remove_mailbox(void **state)
{
    (void)state;
    delivered_to(1, 10);
    delivered_to(1, 10);
    assert_int_equal(postgres_sql(server, "SELECT remove_mailbox(1, 0, 1000, 'admin')"), 2);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM ledger WHERE by_whom = 'admin'"),
                     2);
    struct answer a = { 0 };
    index_list(ix, 1, on_list, &a);
    assert_int_equal(wait_for(&a), ERR_NOTFOUND);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_deliver_and_list),
        TEST(test_list_edges),
        TEST(test_malformed),
        TEST(test_long_list),
        TEST(test_room),
        TEST(test_strict_is_all_or_nothing),
        TEST(test_denied_stays_out),
        TEST(test_lenient_tells_each),
        TEST(test_gathered),
        TEST(test_not_gathered),
        TEST(test_gathered_in_parts),
        TEST(test_gathered_beside_a_lock),
        TEST(test_gathered_beside_a_refusal),
        TEST(test_gathered_and_malformed),
        TEST(test_nothing_names_a_closed_volume),
        TEST(test_grace),
        TEST(test_thresholds),
        TEST(test_thresholds_of_changed_limits),
        TEST(test_thresholds_of_many),
        TEST(test_past_limits),
        TEST(test_usage),
        TEST(test_lookup_full_domain),
        TEST(test_expunge),
        TEST(test_expunge_of_many),
        TEST(test_stale_place),
        TEST(test_discard),
        TEST(test_grace_of_late_clocks),
        TEST(test_set_aside),
        TEST(test_set_handles),
        TEST(test_set_handles_of_others),
        TEST(test_set_handles_waits_for_nobody),
        TEST(test_set_handles_under_load),
        TEST(test_no_deadlock),
        TEST(test_counters_under_load),
        TEST(test_expunge_twice_at_once),
        TEST(test_quota_under_load),
        TEST(test_threshold_under_load),
        TEST(test_killed_before_commit),
        TEST(test_killed_after_commit),
        TEST(test_delivered_waits),
        TEST(test_frozen),
        TEST(test_restart),
        TEST(test_lookup),
        TEST(test_enroll),
        TEST(test_volumes),
        TEST(test_retention),
        TEST(test_retention_is_cheap),
        TEST(test_keyless),
        TEST(test_announce),
        TEST(test_heard),
        TEST(test_drain),
        TEST(test_drain_at_once),
        TEST(test_announce_holds_up_nobody),
        TEST(test_schema),
        TEST(test_schema_is_missing),
        TEST(test_epoch),
        TEST(test_cancel),
        TEST(test_close),
        TEST(test_claims),
        TEST(test_claims_no_more_than_asked_for),
        TEST(test_reclaimed_copies_do_not_come_back),
        TEST(test_claim_spares_what_is_named),
        TEST(test_shared_counts_down_once),
        TEST(test_free_files_are_for_all),
        TEST(test_claims_end_on_readonly_volumes),
        TEST(test_reaped_adds_up_by_day),
        TEST(test_what_only_an_import_knows),
        TEST(test_undelete),
        TEST(test_undelete_one),
        TEST(test_undelete_spares),
        TEST(test_claim_waits_for_undelete),
        TEST(test_expire),
        TEST(test_expire_spares),
        TEST(test_mark_read),
        TEST(test_expire_read),
        TEST(test_expire_read_spares),
        TEST(test_remove_account),
        TEST(test_purge),
        TEST(test_remove_mailbox),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, start, stop);
}
