/*
 * rebuild: a database from the spool alone, day by day: the envelopes of a day are read, their
 * mailboxes made where there are none, and each gets its pointers in the order of the ids.
 *
 *   begin      a row of `rebuild` says that one is under way; the cache's epoch is raised
 *   accounts   of the dump
 *   days       counts of shared files, then pointers; the row notes each day that is done
 *   --log      what was deleted is deleted again
 *   end        mailbox ids go on beyond all that were seen; the epoch again; the row goes
 *
 * Each step can be repeated, so it may be killed anywhere: a second run goes on behind the last day
 * that was noted. Until the epoch is raised for the second time nodes may cache half a mailbox,
 * which is then out of reach; that clients do not see one meanwhile is up to the operator, who
 * keeps the nodes stopped.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/fault.h"
#include "commands.h"
#include "deletions.h"
#include "rebuild_accounts.h"
#include "table.h"

#define JOBS          8
#define JOBS_MOST     256
#define MESSAGES_MOST 1000    /* of one transaction, and of one mailbox in it */
#define BOXES_MOST    100     /* the same */
#define IDS_BEYOND    1000000 /* mailbox ids that are left out: accounts nobody has mail of */

struct rebuild {
    struct admin *admin;
    const char *dump;
    struct dump_sum dumped;
    struct spool_options spool;
    struct scan_options options;
    struct volume *volumes;
    size_t n_volumes;
    struct scan *scan;
    struct deletions *deletions;
    char (*days)[DAY_TEXT];
    size_t n_days;
    char done[DAY_TEXT]; /* the last day that was noted */
    bool under_way;
    int64_t highest; /* mailbox of an envelope */
    uint64_t made, messages, nobodys, again;
};

/* --- a day ----------------------------------------------------------------------------------- */

/* A pointer to be: a message of a mailbox. */
struct place {
    int64_t mailbox_id;
    size_t message; /* index, and so the order */
};

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->mailbox_id != y->mailbox_id) {
        return x->mailbox_id < y->mailbox_id ? -1 : 1;
    }
    return (x->message > y->message) - (x->message < y->message);
}

/* The caller frees it. */
static struct place *places_of(struct rebuild *r, const struct scanned *v, size_t n,
                               const struct day_boxes *boxes, size_t *out)
{
    size_t all = 0, kept = 0;
    for (size_t i = 0; i < n; i++) {
        all += v[i].n;
    }
    struct place *p = NEW_ARRAY(struct place, all + 1);
    for (size_t i = 0; i < n; i++) {
        size_t before = kept;
        for (uint32_t k = 0; k < v[i].n; k++) {
            int64_t id = (int64_t)v[i].to[k].mailbox_id;
            r->highest = id > r->highest ? id : r->highest;
            if (day_boxes_has(boxes, v[i].to[k].mailbox_id)) {
                p[kept++] = (struct place){ .mailbox_id = id, .message = i };
            }
        }
        r->nobodys += kept == before;
    }
    qsort(p, kept, sizeof *p, by_place);
    *out = kept;
    return p;
}

/* Before their pointers: a file that is counted too high leaks, one that is not is lost. */
static int count_shared(struct rebuild *r, const struct scanned *v, size_t n,
                        const struct day_boxes *boxes)
{
    struct admin *a = r->admin;
    struct blob_id ids[MESSAGES_MOST];
    int64_t volumes[MESSAGES_MOST], refs[MESSAGES_MOST], octets[MESSAGES_MOST];
    size_t waiting = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t found = 0;
        for (uint32_t k = 0; k < v[i].n && v[i].n > 1; k++) {
            found += day_boxes_has(boxes, v[i].to[k].mailbox_id);
        }
        if (found > 0) {
            ids[waiting] = v[i].id;
            volumes[waiting] = v[i].volume;
            octets[waiting] = (int64_t)v[i].size + v[i].skip;
            refs[waiting++] = found;
        }
        if (waiting == MESSAGES_MOST || (i + 1 == n && waiting > 0)) {
            admin_sql(a, "INSERT INTO blob_shared AS s (blob_id, volume_id, refs, octets) "
                         "SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], "
                         "$4::bigint[]) ON CONFLICT (blob_id) DO UPDATE "
                         "SET refs = greatest(s.refs, excluded.refs)");
            pg_uuids(a->batch, ids, waiting);
            pg_i64s(a->batch, volumes, waiting);
            pg_i64s(a->batch, refs, waiting);
            pg_i64s(a->batch, octets, waiting);
            waiting = 0;
            if (admin_run(a, PG_WRITE) != ERR_OK) {
                return admin_fail_reply(a, "shared files");
            }
        }
    }
    return EX_OK;
}

static void add_refill(struct admin *a, const struct scanned *v, const struct place *p, size_t n)
{
    struct blob_id ids[MESSAGES_MOST];
    int64_t sizes[MESSAGES_MOST], skips[MESSAGES_MOST], volumes[MESSAGES_MOST], many[MESSAGES_MOST];
    struct span uidls[MESSAGES_MOST];
    for (size_t i = 0; i < n; i++) {
        const struct scanned *m = &v[p[i].message];
        ids[i] = m->id;
        sizes[i] = m->size;
        skips[i] = m->skip;
        volumes[i] = m->volume;
        many[i] = m->n > 1;
        uidls[i] = span_str(m->uidl);
    }
    admin_sql(a, "SELECT refill($1, $2, $3, $4, $5, $6, $7)");
    pg_i64(a->batch, p->mailbox_id);
    pg_uuids(a->batch, ids, n);
    pg_i64s(a->batch, sizes, n);
    pg_i64s(a->batch, skips, n);
    pg_i64s(a->batch, volumes, n);
    pg_i64s(a->batch, many, n);
    pg_texts(a->batch, uidls, n);
}

static int send_refills(struct rebuild *r, size_t statements)
{
    if (statements == 0) {
        return EX_OK;
    }
    if (admin_run(r->admin, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(r->admin, "pointers");
    }
    for (size_t i = 0; i < statements; i++) {
        r->messages += (uint64_t)pg_get_i64(admin_result(r->admin, i), 0, 0);
    }
    fault_at(FAULT_rebuild_filled);
    return EX_OK;
}

/* Mailbox by mailbox in ascending order, as they are locked; several in one transaction. */
static int fill(struct rebuild *r, const struct scanned *v, const struct place *p, size_t n)
{
    size_t boxes = 0, messages = 0;
    int code = EX_OK;
    for (size_t at = 0; at < n && code == EX_OK;) {
        size_t group = 1;
        while (at + group < n && group < MESSAGES_MOST &&
               p[at + group].mailbox_id == p[at].mailbox_id) {
            group++;
        }
        if (boxes == BOXES_MOST || (boxes > 0 && messages + group > MESSAGES_MOST)) {
            code = send_refills(r, boxes);
            boxes = messages = 0;
        }
        if (code == EX_OK) {
            add_refill(r->admin, v, p + at, group);
        }
        boxes++;
        messages += group;
        at += group;
    }
    return code == EX_OK ? send_refills(r, boxes) : code;
}

static int rebuild_day(struct rebuild *r, const char *day)
{
    struct admin *a = r->admin;
    const struct scanned *v;
    struct day_boxes boxes;
    size_t n, n_places;
    int code = scan_day(r->scan, day, &v, &n);
    if (code == EX_OK) {
        code = rebuild_mailboxes(a, v, n, &boxes, &r->made);
    }
    if (code != EX_OK) {
        return code;
    }
    struct place *places = places_of(r, v, n, &boxes, &n_places);
    code = count_shared(r, v, n, &boxes);
    if (code == EX_OK) {
        code = fill(r, v, places, n_places);
    }
    free(places);
    free(boxes.id);
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "UPDATE rebuild SET day = $1");
    pg_text(a->batch, span_str(day));
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, day);
    }
    fault_at(FAULT_rebuild_day);
    return EX_OK;
}

/* --- begin and end --------------------------------------------------------------------------- */

static int look(struct rebuild *r)
{
    struct admin *a = r->admin;
    admin_sql(a, "SELECT EXISTS (SELECT FROM mailbox), (SELECT day FROM rebuild)");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "database");
    }
    bool mailboxes = pg_get_i64(admin_result(a, 0), 0, 0) != 0;
    r->under_way = !PQgetisnull(admin_result(a, 0), 0, 1);
    struct span done = pg_get_span(admin_result(a, 0), 0, 1);
    snprintf(r->done, sizeof r->done, "%.*s", SPAN_ARG(done));
    if (mailboxes && !r->under_way) {
        return admin_fail(EX_DATAERR, "the database has accounts: rebuild fills an empty one; "
                                      "adopt gives single messages back");
    }
    int code = admin_volumes(a, &r->volumes, &r->n_volumes);
    if (code == EX_OK && r->n_volumes == 0) {
        code = admin_fail(EX_CONFIG, "no volumes: mailfleet volume add URL --existing");
    }
    return code;
}

/*
 * How far the lost database's epoch had come is not known, and the cache still holds its lists:
 * seconds since 2020 are beyond any that were counted, and those of an earlier rebuild. They fit
 * into the 31 bits that fleet_epoch() has for them.
 */
#define EPOCH_BEGINS_MS INT64_C(1577836800000)

static int begin(struct rebuild *r)
{
    struct admin *a = r->admin;
    admin_sql(a, "INSERT INTO rebuild DEFAULT VALUES ON CONFLICT DO NOTHING");
    admin_sql(a, "UPDATE fleet SET epoch = greatest(epoch + 1, $1)");
    pg_i64(a->batch, (admin_now() - EPOCH_BEGINS_MS) / 1000);
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, "database");
    }
    int code = r->dump ? rebuild_load_dump(a, r->dump) : EX_OK;
    fault_at(FAULT_rebuild_accounts);
    return code;
}

static int end(struct rebuild *r)
{
    struct admin *a = r->admin;
    int64_t highest = r->highest > r->dumped.sequence ? r->highest : r->dumped.sequence;
    admin_sql(a, "SELECT setval('mailbox_ids', greatest((SELECT last_value FROM mailbox_ids), "
                 "(SELECT max(mailbox_id) FROM mailbox), (SELECT max(mailbox_id) FROM removed), "
                 "$1) + $2)");
    pg_i64(a->batch, highest);
    pg_i64(a->batch, IDS_BEYOND);
    admin_sql(a, "UPDATE fleet SET epoch = epoch + 1");
    admin_sql(a, "DELETE FROM rebuild");
    return admin_run(a, PG_WRITE) == ERR_OK ? EX_OK : admin_fail_reply(a, "database");
}

/* --- the command ----------------------------------------------------------------------------- */

static int rebuild_days(struct rebuild *r)
{
    int code = EX_OK;
    for (size_t i = 0; i < r->n_days && code == EX_OK; i++) {
        if (strcmp(r->days[i], r->done) > 0) {
            code = rebuild_day(r, r->days[i]);
        }
    }
    return code;
}

static int do_it(struct rebuild *r)
{
    int code = begin(r);
    if (code == EX_OK) {
        code = rebuild_days(r);
    }
    if (code == EX_OK) {
        code = deletions_repeat(r->admin, r->deletions, true, &r->again);
    }
    if (code == EX_OK) {
        code = end(r);
    }
    if (code != EX_OK && r->under_way) {
        admin_say("rebuild is not complete: run it again, it goes on");
    }
    return code;
}

static void print_result(const struct rebuild *r)
{
    static const struct column columns[] = {
        { "accounts", "Accounts of the dump", COLUMN_NUMBER },
        { "locked", "Accounts from envelopes, locked", COLUMN_NUMBER },
        { "messages", "Messages listed", COLUMN_NUMBER },
        { "deleted", "Messages deleted again", COLUMN_NUMBER },
        { "files", "Files read", COLUMN_NUMBER },
        { "nobodys", "Files of removed accounts", COLUMN_NUMBER },
        { "unfinished", "Files never finished", COLUMN_NUMBER },
        { "damaged", "Files damaged", COLUMN_NUMBER },
        { "foreign", "Foreign files", COLUMN_NUMBER },
        { "twice", "Files on two volumes", COLUMN_NUMBER },
    };
    const struct scan_totals *t = scan_sum(r->scan);
    const uint64_t v[] = { r->dumped.accounts, r->made,       r->messages, r->again,   t->files,
                           r->nobodys,         t->unfinished, t->damaged,  t->foreign, t->twice };
    struct table *table = table_new(columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        table_number(table, v[i]);
    }
    table_print_record(table, r->admin->json, stdout);
    table_free(&table);
}

static void say_plan(const struct rebuild *r)
{
    if (r->n_days == 0) {
        admin_say("the volumes have no messages");
    } else {
        admin_say("would make %s and the pointers of %zu days, %s to %s: --yes does it",
                  r->dump ? "the accounts of the dump" : "locked accounts from the envelopes",
                  r->n_days, r->days[0], r->days[r->n_days - 1]);
    }
    if (r->under_way) {
        admin_say("one is under way; days up to %s are done", *r->done ? r->done : "none");
    }
}

static int read_options(struct rebuild *r, const struct args *args)
{
    uint64_t n = JOBS;
    char why[256];
    r->dump = args->opt[ARG_accounts];
    r->options.deep = args->opt[ARG_deep] != NULL;
    if (args->opt[ARG_jobs] &&
        (span_u64(span_str(args->opt[ARG_jobs]), JOBS_MOST, &n) != ERR_OK || n == 0)) {
        return admin_fail(EX_DATAERR, "%s: 1 to %d threads", args->opt[ARG_jobs], JOBS_MOST);
    }
    r->options.jobs = (unsigned)n;
    if (args->opt[ARG_rate] &&
        span_u64(span_str(args->opt[ARG_rate]), 1000000, &r->options.rate) != ERR_OK) {
        return admin_fail(EX_DATAERR, "--rate %s: not a number of files", args->opt[ARG_rate]);
    }
    if (spool_options_read(r->admin->config, &r->spool, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CONFIG, "%s", why);
    }
    return EX_OK;
}

static int run(struct rebuild *r, const struct args *args)
{
    int code = look(r);
    if (code == EX_OK && r->dump) {
        code = rebuild_check_dump(r->admin, r->dump, &r->dumped);
    }
    if (code == EX_OK) {
        code = deletions_read(args->opt[ARG_log], 0, &r->deletions);
    }
    if (code != EX_OK) {
        return code;
    }
    r->scan = scan_open(&r->spool, &r->options, r->volumes, r->n_volumes);
    code = scan_days(r->scan, &r->days, &r->n_days);
    if (code == EX_OK && !args->opt[ARG_yes]) {
        say_plan(r);
    } else if (code == EX_OK) {
        r->under_way = true;
        code = do_it(r);
        print_result(r);
    }
    scan_close(&r->scan);
    return code;
}

int command_rebuild(struct admin *a, const struct args *args)
{
    struct rebuild r = { .admin = a };
    int code = read_options(&r, args);
    if (code == EX_OK) {
        code = run(&r, args);
    }
    deletions_free(&r.deletions);
    free(r.volumes);
    free(r.days);
    return code;
}
