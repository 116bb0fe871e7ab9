/*
 * verify: holds mailboxes that were moved in against the old server: `mailfleet verify URL
 * ADDRESS`, and lets their users in when all is the same.
 *
 * The mailbox here is what the database says, which is what a session would be told. Threads list
 * the old mailboxes, and read them for --deep (lanes.h); here, on the loop, one lane for each
 * compares. Nothing is changed but the state of accounts, with --cut-over and --yes.
 *
 * What is here behind all that came from there, with a UIDL of our own, is mail that was delivered
 * here since: no difference. Before it it would be one, and so is what the old server has not.
 */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/maildrop.h"
#include "commands.h"
#include "lanes.h"
#include "open_spool.h"
#include "progress.h"
#include "table.h"

#define PAGE       5000 /* pointers in one statement, which has a deadline */
#define TOLD_MOST  10   /* differences of an account that are named one by one */
#define ERROR_SIZE 300
#define NOWHERE    SIZE_MAX
#define SAME_NOT   1 /* the exit code when something differs */

struct outcome {
    uint64_t messages, here, same, since;
    uint64_t missing, other, sizes, order, uidls, contents; /* differences, by kind */
    uint64_t told;
    char error[ERROR_SIZE]; /* empty: it was compared to its end */
    int code;
    enum account_state state; /* as it is now */
    bool resumed;             /* or would be */
};

struct lane {
    struct lane_head head;
    struct verify *verify;
    struct outcome *outcome;
    const struct move_account *account;
    uint64_t mailbox_id;
    struct maildrop *here;
    size_t *place; /* of each message there: where it is in here, or NOWHERE */
    bool *wanted, *same;
    EVP_MD_CTX *hash; /* of what is read there */
};

struct verify {
    struct admin *admin;
    struct open_spool *volumes; /* NULL: not deep */
    bool cut_over, yes;
    struct move_list list;
    struct outcome *outcomes; /* of list */
    struct progress progress;
};

static void find_account(struct lane *l)
{
    l->account = &l->verify->list.accounts[l->head.index];
    l->outcome = &l->verify->outcomes[l->head.index];
}

static void fail(struct lane *l, int code, const char *why)
{
    if (!l->outcome->error[0]) {
        snprintf(l->outcome->error, sizeof l->outcome->error, "%s", why);
        l->outcome->code = code;
        admin_say("%s: %s", l->account->text, l->outcome->error);
    }
}

static uint64_t differences(const struct outcome *o)
{
    return o->missing + o->other + o->sizes + o->order + o->uidls + o->contents;
}

/* Counts a difference and names it; of many only the first ones. */
static void differ(struct lane *l, uint64_t *kind, const char *uidl, const char *what)
{
    (*kind)++;
    if (l->outcome->told++ < TOLD_MOST) {
        admin_say("%s: %s: %s", l->account->text, uidl, what);
    } else if (l->outcome->told == TOLD_MOST + 1) {
        admin_say("%s: and more", l->account->text);
    }
}

/* --- the mailbox here ------------------------------------------------------------------------ */

static bool fail_database(struct lane *l)
{
    const struct admin *a = l->verify->admin;
    fail(l, EX_TEMPFAIL, a->reply.message[0] ? a->reply.message : err_text(a->reply.err));
    return false;
}

static bool read_state(struct lane *l)
{
    struct admin *a = l->verify->admin;
    int code = admin_mailbox(a, &l->account->address, &l->mailbox_id);
    if (code != EX_OK) {
        fail(l, code, code == EX_NOUSER ? "no such account here" : "the database can't be asked");
        return false;
    }
    admin_sql(a, "SELECT state FROM mailbox WHERE mailbox_id = $1");
    pg_i64(a->batch, (int64_t)l->mailbox_id);
    if (admin_run(a, PG_READ) != ERR_OK || admin_rows(a, 0) != 1) {
        return fail_database(l);
    }
    l->outcome->state = (enum account_state)pg_get_i64(admin_result(a, 0), 0, 0);
    return true;
}

static enum err add_row(struct maildrop *here, const PGresult *r, int row)
{
    const struct pointer p = { .seq = (uint64_t)pg_get_i64(r, row, 0),
                               .id = pg_get_uuid(r, row, 1),
                               .size = (uint32_t)pg_get_i64(r, row, 2),
                               .skip = (uint32_t)pg_get_i64(r, row, 3),
                               .volume = (uint16_t)pg_get_i64(r, row, 4) };
    return maildrop_add(here, &p, pg_get_span(r, row, 5), pg_get_span(r, row, 6));
}

static bool read_here(struct lane *l)
{
    struct admin *a = l->verify->admin;
    int n;
    l->here = maildrop_new(l->mailbox_id, 0);
    do {
        size_t count = l->here->count;
        admin_sql(a, "SELECT seq, blob_id, size, skip, volume_id, uidl, handle FROM message "
                     "WHERE mailbox_id = $1 AND seq > $2 ORDER BY seq LIMIT $3");
        pg_i64(a->batch, (int64_t)l->mailbox_id);
        pg_i64(a->batch, count ? (int64_t)maildrop_at(l->here, count - 1).seq : 0);
        pg_i64(a->batch, PAGE);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return fail_database(l);
        }
        n = admin_rows(a, 0);
        for (int i = 0; i < n; i++) {
            if (add_row(l->here, admin_result(a, 0), i) != ERR_OK) {
                fail(l, EX_DATAERR, "a pointer here makes no sense: see mailfleet fsck");
                return false;
            }
        }
    } while (n == PAGE);
    l->outcome->here = l->here->count;
    return true;
}

/* --- comparing ------------------------------------------------------------------------------- */

/* A message here, under its UIDL. */
struct named {
    char uidl[UIDL_MAX + 1];
    size_t place;
};

static int by_uidl(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->uidl, ((const struct named *)b)->uidl);
}

static const struct named *find_named(const struct named *named, size_t n, const char *uidl)
{
    struct named key;
    snprintf(key.uidl, sizeof key.uidl, "%s", uidl);
    return bsearch(&key, named, n, sizeof *named, by_uidl);
}

static void find_places(struct lane *l, const struct source_message *there, size_t n)
{
    size_t count = l->here->count;
    struct named *named = NEW_ARRAY(struct named, count + 1);
    for (size_t i = 0; i < count; i++) {
        maildrop_uidl(l->here, i, named[i].uidl);
        named[i].place = i;
    }
    qsort(named, count, sizeof *named, by_uidl);
    for (size_t i = 0; i < n; i++) {
        const struct named *found = find_named(named, count, there[i].uidl);
        found = found ? found : find_named(named, count, there[i].named);
        l->place[i] = found ? found->place : NOWHERE;
    }
    free(named);
}

/*
 * One message there, which is at this place here; *last is the last place of one before it. True:
 * it is the same.
 */
static bool compare_message(struct lane *l, const struct source_message *m, size_t place,
                            size_t *last)
{
    struct outcome *o = l->outcome;
    uint64_t before = differences(o);
    char what[80], here[UIDL_MAX + 1];
    if (m->uidl_changed) {
        differ(l, &o->uidls, m->uidl, "the old server gives it a UIDL that can't be kept");
    }
    if (place == NOWHERE) {
        differ(l, &o->missing, m->uidl,
               m->too_large ? "missing here, as it is larger than 2 GiB" : "missing here");
        return false;
    }
    maildrop_uidl(l->here, place, here);
    if (strcmp(here, m->uidl) != 0) {
        differ(l, &o->uidls, m->uidl, "here by the name of its file: import it again");
    }
    if (m->size_known && m->size != maildrop_size(l->here, place)) {
        snprintf(what, sizeof what, "%llu octets there, %u here", (unsigned long long)m->size,
                 maildrop_size(l->here, place));
        differ(l, &o->sizes, m->uidl, what);
    }
    if (*last != NOWHERE && place < *last) {
        differ(l, &o->order, m->uidl, "stands behind others here");
    } else {
        *last = place;
    }
    return differences(o) == before;
}

/* last: the last place of a message that is there too. */
static void compare_rest(struct lane *l, size_t n, size_t last)
{
    struct outcome *o = l->outcome;
    bool *there = NEW_ARRAY(bool, l->here->count + 1);
    for (size_t i = 0; i < n; i++) {
        if (l->place[i] != NOWHERE) {
            there[l->place[i]] = true;
        }
    }
    for (size_t i = 0; i < l->here->count; i++) {
        char uidl[UIDL_MAX + 1];
        maildrop_uidl(l->here, i, uidl);
        if (there[i]) {
            continue;
        }
        bool imported = maildrop_imported(l->here, i);
        if (!imported && (last == NOWHERE || i > last)) {
            o->since++;
        } else {
            bool prune = o->state == ACCOUNT_SUSPENDED && imported;
            differ(l, &o->other, uidl,
                   prune
                       ? "not at the old server: import it again with --prune if it has gone there"
                       : "not at the old server");
        }
    }
    free(there);
}

/* What is to be read there, for --deep. */
static size_t want_contents(struct lane *l, size_t n)
{
    size_t wanted = 0;
    for (size_t i = 0; i < n; i++) {
        l->wanted[i] = l->place[i] != NOWHERE;
        wanted += l->wanted[i] ? 1 : 0;
    }
    return wanted;
}

/* True: messages are to be read. */
static bool lane_listed(struct lane_head *h, const bool **wanted)
{
    struct lane *l = CONTAINER_OF(h, struct lane, head);
    size_t n, last = NOWHERE;
    const struct source_message *there = reader_list(h->reader, &n);
    find_account(l);
    l->outcome->messages = n;
    if (!read_state(l) || !read_here(l)) {
        return false;
    }
    l->place = NEW_ARRAY(size_t, n + 1);
    l->wanted = NEW_ARRAY(bool, n + 1);
    l->same = NEW_ARRAY(bool, n + 1);
    find_places(l, there, n);
    for (size_t i = 0; i < n; i++) {
        l->same[i] = compare_message(l, &there[i], l->place[i], &last);
    }
    compare_rest(l, n, last);
    *wanted = l->wanted;
    return l->verify->volumes && want_contents(l, n) > 0;
}

/* --- contents -------------------------------------------------------------------------------- */

struct digest {
    unsigned char octets[EVP_MAX_MD_SIZE];
};

static void hash_begin(EVP_MD_CTX *c)
{
    CHECK(EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1);
}

static void hash_add(EVP_MD_CTX *c, struct span s)
{
    CHECK(EVP_DigestUpdate(c, s.p, s.n) == 1);
}

static struct digest hash_end(EVP_MD_CTX *c)
{
    struct digest d = { 0 };
    CHECK(EVP_DigestFinal_ex(c, d.octets, NULL) == 1);
    return d;
}

struct reading {
    struct spool_reader *reader;
    EVP_MD_CTX *hash;
    bool done;
    enum err err;
};

static void on_piece(void *arg, enum err e, struct span piece, bool last)
{
    struct reading *r = arg;
    if (e == ERR_OK) {
        hash_add(r->hash, piece);
    }
    r->done = last || e != ERR_OK;
    r->err = e;
    if (last) {
        r->reader = NULL;
    } else if (e == ERR_OK) {
        spool_read_next(r->reader);
    }
}

/* Of the message here. The spool looks after its length. */
static enum err hash_here(struct lane *l, size_t place, struct digest *out)
{
    const struct pointer p = maildrop_at(l->here, place);
    struct reading r = { .hash = EVP_MD_CTX_new() };
    CHECK(r.hash);
    hash_begin(r.hash);
    r.reader =
        spool_read(l->verify->volumes->spool, &p, maildrop_handle(l->here, place), on_piece, &r);
    while (!r.done) {
        uv_run(loop_uv(l->verify->admin->loop), UV_RUN_ONCE);
    }
    spool_read_close(&r.reader);
    *out = hash_end(r.hash);
    EVP_MD_CTX_free(r.hash);
    return r.err;
}

/* False: they differ. */
static bool compare_content(struct lane *l, const struct source_message *m, size_t place)
{
    struct outcome *o = l->outcome;
    struct digest there = hash_end(l->hash), here;
    enum err e = hash_here(l, place, &here);
    uint64_t before = o->contents;
    if (e == ERR_NOTFOUND || e == ERR_CORRUPT) {
        differ(l, &o->contents, m->uidl, "its file here is missing, or not whole");
    } else if (e != ERR_OK) {
        fail(l, EX_TEMPFAIL, err_text(e));
    } else if (memcmp(&there, &here, sizeof there) != 0) {
        differ(l, &o->contents, m->uidl, "another content here");
    }
    return o->contents == before;
}

/* A message there was read, or could not be. */
static void lane_message(struct lane_head *h)
{
    struct lane *l = CONTAINER_OF(h, struct lane, head);
    const char *why;
    size_t n, i = reader_index(l->head.reader);
    enum err e = reader_err(l->head.reader, &why);
    if (e != ERR_OK) {
        fail(l, EX_TEMPFAIL, why);
    } else if (!compare_content(l, &reader_list(l->head.reader, &n)[i], l->place[i])) {
        l->same[i] = false;
    }
    hash_begin(l->hash);
    progress_step(&l->verify->progress, l->verify->volumes ? 1 : 0);
    reader_answer(l->head.reader, NULL, !l->outcome->error[0]);
}

/* --- accounts -------------------------------------------------------------------------------- */

static void resume(struct lane *l)
{
    struct admin *a = l->verify->admin;
    const struct cache_key key = { .kind = CACHE_ADDRESS,
                                   .address = span_str(l->account->address.canon) };
    admin_sql(a, "UPDATE mailbox SET state = $2::bigint WHERE mailbox_id = $1 AND state = "
                 "$3::bigint RETURNING 1");
    pg_i64(a->batch, (int64_t)l->mailbox_id);
    pg_i64(a->batch, ACCOUNT_ACTIVE);
    pg_i64(a->batch, ACCOUNT_SUSPENDED);
    if (admin_run_change(a, &key, 1) != ERR_OK) {
        (void)fail_database(l);
        l->outcome->resumed = false;
        return;
    }
    if (admin_rows(a, 0) == 0) {
        fail(l, EX_TEMPFAIL, "it is no longer suspended, and was not resumed");
        l->outcome->resumed = false;
        return;
    }
    l->outcome->state = ACCOUNT_ACTIVE;
}

static void cut_over(struct lane *l)
{
    struct outcome *o = l->outcome;
    if (!l->verify->cut_over || o->error[0]) {
        return;
    }
    if (differences(o)) {
        admin_say("%s: it is not the same, and stays as it is", l->account->text);
        return;
    }
    o->resumed = o->state == ACCOUNT_SUSPENDED;
    if (o->resumed && l->verify->yes) {
        resume(l);
    }
}

static void lane_ended(struct lane_head *h)
{
    struct lane *l = CONTAINER_OF(h, struct lane, head);
    const char *why;
    enum err e = reader_err(h->reader, &why);
    find_account(l);
    if (e != ERR_OK) {
        fail(l, e == ERR_INVALID ? EX_DATAERR : EX_TEMPFAIL, why);
    }
    for (uint64_t i = 0; l->same && i < l->outcome->messages; i++) {
        l->outcome->same += l->same[i] ? 1 : 0;
    }
    cut_over(l);
    maildrop_free(&l->here);
    free(l->place);
    free(l->wanted);
    free(l->same);
    l->place = NULL;
    l->wanted = l->same = NULL;
    progress_step(&l->verify->progress, l->verify->volumes ? 0 : 1);
}

static void lane_octets(struct lane_head *h)
{
    hash_add(CONTAINER_OF(h, struct lane, head)->hash, buf_span(&h->octets));
}

static void compare_accounts(struct verify *v, const struct readers_options *o)
{
    static const struct lane_ops ops = { NULL, lane_listed, lane_octets, lane_message, lane_ended };
    struct lane *lanes = NEW_ARRAY(struct lane, o->threads);
    struct lane_head **heads = NEW_ARRAY(struct lane_head *, o->threads);
    for (unsigned i = 0; i < o->threads; i++) {
        lanes[i].verify = v;
        lanes[i].hash = EVP_MD_CTX_new();
        CHECK(lanes[i].hash);
        hash_begin(lanes[i].hash);
        heads[i] = &lanes[i].head;
    }
    progress_begin(&v->progress, v->volumes ? "messages" : "accounts", v->volumes ? 0 : v->list.n,
                   0);
    lanes_run(v->admin->loop, o, &ops, heads);
    progress_end(&v->progress);
    for (unsigned i = 0; i < o->threads; i++) {
        EVP_MD_CTX_free(lanes[i].hash);
    }
    free(heads);
    free(lanes);
}

/* --- the command ----------------------------------------------------------------------------- */

static const char *result_text(const struct outcome *o)
{
    return o->error[0] ? "failed" : differences(o) ? "differs" : "same";
}

static void add_outcome(struct table *t, const struct verify *v, size_t i)
{
    const struct outcome *o = &v->outcomes[i];
    const uint64_t numbers[] = { o->messages, o->here,  o->same,  o->since,    o->missing,
                                 o->other,    o->sizes, o->order, o->contents, o->uidls };
    table_text(t, span_str(v->list.accounts[i].address.canon));
    table_text(t, span_str(result_text(o)));
    for (size_t j = 0; j < ARRAY_LEN(numbers); j++) {
        table_number(t, numbers[j]);
    }
    table_flag(t, o->resumed && v->yes);
    o->error[0] ? table_text(t, span_str(o->error)) : table_none(t);
}

static int exit_code(const struct verify *v)
{
    int code = EX_OK;
    for (size_t i = 0; i < v->list.n; i++) {
        const struct outcome *o = &v->outcomes[i];
        if (o->error[0] && code == EX_OK) {
            code = v->list.n == 1 ? o->code : EX_TEMPFAIL;
        } else if (!o->error[0] && differences(o)) {
            code = SAME_NOT;
        }
    }
    return code;
}

static int report(const struct verify *v)
{
    static const struct column columns[] = {
        { "address", "ADDRESS", COLUMN_TEXT },
        { "result", "RESULT", COLUMN_TEXT },
        { "messages", "THERE", COLUMN_NUMBER },
        { "here", "HERE", COLUMN_NUMBER },
        { "same", "SAME", COLUMN_NUMBER },
        { "since", "SINCE", COLUMN_NUMBER },
        { "missing", "MISSING", COLUMN_NUMBER },
        { "other", "OTHER", COLUMN_NUMBER },
        { "sizes_differ", "OTHER SIZE", COLUMN_NUMBER },
        { "order_differs", "OTHER ORDER", COLUMN_NUMBER },
        { "contents_differ", "OTHER CONTENT", COLUMN_NUMBER },
        { "uidls_changed", "OTHER UIDL", COLUMN_NUMBER },
        { "resumed", "RESUMED", COLUMN_FLAG },
        { "error", "ERROR", COLUMN_TEXT },
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    uint64_t since = 0, resumed = 0;
    for (size_t i = 0; i < v->list.n; i++) {
        add_outcome(t, v, i);
        since += v->outcomes[i].since;
        resumed += v->outcomes[i].resumed ? 1 : 0;
    }
    table_print(t, v->admin->json, "", stdout);
    table_free(&t);
    if (since) {
        admin_say("delivered here since, behind the others and so no difference: %llu message%s",
                  (unsigned long long)since, admin_plural(since));
    }
    if (v->cut_over) {
        admin_say(v->yes ? "%llu account%s resumed" : "--yes would resume %llu account%s",
                  (unsigned long long)resumed, admin_plural(resumed));
    }
    return exit_code(v);
}

static int run_verify(struct verify *v, const struct args *args, char *password)
{
    struct readers_options o;
    int code = lanes_options(args, &v->list, password, &o);
    code = code == EX_OK && args->opt[ARG_deep] ? open_spool(v->admin, &v->volumes) : code;
    if (code != EX_OK) {
        return code;
    }
    v->outcomes = NEW_ARRAY(struct outcome, v->list.n);
    compare_accounts(v, &o);
    if (v->volumes) {
        close_spool(v->admin, &v->volumes);
    }
    code = report(v);
    free(v->outcomes);
    return code;
}

int command_verify(struct admin *a, const struct args *args)
{
    const char *path = args->opt[ARG_list];
    struct verify v = { .admin = a,
                        .cut_over = args->opt[ARG_cut_over],
                        .yes = args->opt[ARG_yes] };
    char *password = NULL;
    if ((path != NULL) == (args->n == 2)) {
        return admin_fail(EX_USAGE, "usage: mailfleet verify URL ADDRESS, or URL --list FILE");
    }
    if (v.yes && !v.cut_over) {
        return admin_fail(EX_USAGE, "--yes makes no sense without --cut-over");
    }
    int code = path ? move_list_read(path, &v.list) : move_list_one(args->v[1], &v.list);
    code = code == EX_OK ? move_password(args->opt[ARG_password_file], &password) : code;
    code = code == EX_OK ? run_verify(&v, args, password) : code;
    if (password) {
        explicit_bzero(password, strlen(password));
    }
    free(password);
    move_list_free(&v.list);
    return code;
}
