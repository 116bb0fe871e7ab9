/*
 * adopt: orphans go back to the recipients in their envelopes. What an orphan is fsck decides; here
 * its hash is verified, and schema function adopt() decides for each recipient under the mailbox's
 * lock. A file is one transaction, so it may be killed anywhere and repeated.
 *
 * After a restore, --log comes first: what the logs say was deleted is deleted again, and an orphan
 * that was deleted goes to its mailbox's ledger, not to its list: undelete knows it, and the
 * reaper.
 *
 * A whole file that nothing names and that nobody lacks, as an import leaves one that is killed,
 * and a rebuild the older of two copies, becomes a ledger row of mailbox 0 for the reaper: when
 * what its recipients have in its stead is whole, too.
 *
 * Files are taken in the order of their ids, which a mailbox then lists them in. fsck tells them
 * by directory, so they are collected first: some 24 octets of each, and its envelope is read
 * again. What fsck has found before it met something that can't be read is given back all the same.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/fault.h"
#include "commands.h"
#include "deletions.h"
#include "fsck.h"
#include "fsck_file.h"
#include "reaping.h"
#include "table.h"
#include "walks.h"

#define PIECE (1 << 20) /* octets that are read at once */

/* What became of a recipient: the first are what adopt() of the schema returns. */
enum outcome { ADOPTED, HAS_IT, WAS_DELETED, NO_MAILBOX, YOUNGER, LOG_DELETED, DAMAGED, OUTCOMES };

static const char *const outcome_words[OUTCOMES] = {
    "adopted",         "has it already",     "was deleted",
    "no such account", "account is younger", "was deleted, says the log",
    "file is damaged"
};

/* A file that was found. */
struct found {
    struct blob_id id;
    uint16_t volume;
    bool orphan; /* else a copy beside the file that a pointer names */
};

struct adopt {
    struct admin *admin;
    struct found *found;
    size_t n_found, room;
    bool yes;
    struct deletions *deletions;
    struct walks walks;
    char *piece;
    uint64_t outcomes[OUTCOMES], again, spare;
    int code;
};

/* --- the file -------------------------------------------------------------------------------- */

/* A file as it lies there. */
struct looked {
    char path[SPOOL_PATH_MAX];
    struct walk_entry entry;
    struct fsck_file file;
    bool good; /* whole, and its hash is its envelope's; of a size that a message can have */
};

/* Says so, unless all is well or it has gone. Returns e. */
static enum err fail_file(struct adopt *ad, enum err e, uint16_t volume, const char *path)
{
    if (e != ERR_OK && e != ERR_NOTFOUND) {
        ad->code = admin_fail(e == ERR_CORRUPT ? EX_IOERR : EX_TEMPFAIL,
                              "volume %u: %s can't be read", volume, path);
    }
    return e;
}

/* OK: the caller ends l->file. NOTFOUND; or TEMP or CORRUPT, after a message. */
static enum err look_at(struct adopt *ad, uint16_t volume, const struct blob_id *id,
                        struct looked *l)
{
    struct volume_walk *w;
    enum err e = walks_get(&ad->walks, volume, &w);
    walks_path(&ad->walks, volume, id, l->path);
    if (e != ERR_OK) {
        ad->code = e == ERR_TEMP ? EX_TEMPFAIL : ad->code;
        return e;
    }
    e = volume_walk_stat(w, l->path, &l->entry);
    e = e == ERR_OK ? fsck_file_read(w, l->path, id, l->entry.size, &l->file) : e;
    l->good = false;
    if (e != ERR_OK) {
        return fail_file(ad, e, volume, l->path);
    }
    if (l->file.state == FILE_UNREADABLE) {
        e = ERR_CORRUPT;
    } else if (l->file.state == FILE_WHOLE && l->file.envelope.size <= INT32_MAX) {
        e = fsck_file_verify(w, l->path, &l->file, ad->piece, PIECE, &l->good);
    }
    if (e != ERR_OK) {
        fsck_file_fini(&l->file);
    }
    return fail_file(ad, e, volume, l->path);
}

/* --- its recipients -------------------------------------------------------------------------- */

static int by_mailbox(const void *a, const void *b)
{
    uint64_t x = ((const struct envelope_recipient *)a)->mailbox_id;
    uint64_t y = ((const struct envelope_recipient *)b)->mailbox_id;
    return (x > y) - (x < y);
}

/* Each mailbox once, ascending, as they are locked; the caller frees it. */
static struct envelope_recipient *recipients_of(const struct envelope *e, size_t *n)
{
    struct envelope_recipient *to = NEW_ARRAY(struct envelope_recipient, e->n + 1);
    size_t kept = 0;
    if (e->n) {
        memcpy(to, e->to, e->n * sizeof *to);
        qsort(to, e->n, sizeof *to, by_mailbox);
    }
    for (size_t i = 0; i < e->n; i++) {
        if ((kept == 0 || to[kept - 1].mailbox_id != to[i].mailbox_id) &&
            to[i].mailbox_id <= INT64_MAX) {
            to[kept++] = to[i];
        }
    }
    *n = kept;
    return to;
}

/* The caller frees it. */
static int64_t *boxes_of(const struct envelope_recipient *to, size_t n)
{
    int64_t *boxes = NEW_ARRAY(int64_t, n);
    for (size_t i = 0; i < n; i++) {
        boxes[i] = (int64_t)to[i].mailbox_id;
    }
    return boxes;
}

/* An import's id tells when the message came to the old server; the file, when it came here. */
static int64_t stored_at(const struct finding *f)
{
    return f->envelope->uidl.n ? f->changed_ms : (int64_t)blob_id_time(f->id);
}

static void add_adopt(struct adopt *ad, const struct finding *f, uint64_t mailbox_id, bool many,
                      bool really)
{
    struct pg_batch *b;
    admin_sql(ad->admin, "SELECT adopt($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    b = ad->admin->batch;
    pg_i64(b, (int64_t)mailbox_id);
    pg_uuid(b, f->id);
    pg_i64(b, f->volume);
    pg_i64(b, (int64_t)f->envelope->size);
    pg_i64(b, (int64_t)f->skip);
    pg_bool(b, many);
    pg_text(b, f->envelope->uidl);
    pg_i64(b, stored_at(f));
    pg_bool(b, really);
}

static void add_delete(struct adopt *ad, const struct finding *f, uint64_t mailbox_id,
                       const char *who)
{
    struct pg_batch *b;
    admin_sql(ad->admin, "SELECT expunge_ids($1, $2, $3, $4, $5)");
    b = ad->admin->batch;
    pg_i64(b, (int64_t)mailbox_id);
    pg_uuids(b, f->id, 1);
    pg_i64(b, admin_now());
    pg_i64(b, (int64_t)ad->admin->config->spool_grace);
    pg_text(b, span_str(who));
}

/*
 * One transaction: first all pointers, as locks are taken in this order, then the count of a file
 * that several share, which is made of them; then the deletions of those that the log knows of.
 */
static enum err run_adoption(struct adopt *ad, const struct finding *f,
                             const struct envelope_recipient *to, size_t n, bool really)
{
    struct cache_key *keys = NEW_ARRAY(struct cache_key, n);
    int64_t *boxes = boxes_of(to, n);
    for (size_t i = 0; i < n; i++) {
        keys[i] = (struct cache_key){ .kind = CACHE_LIST, .mailbox_id = to[i].mailbox_id };
        add_adopt(ad, f, to[i].mailbox_id, n > 1, really);
    }
    if (n > 1 && really) {
        admin_sql(ad->admin, "SELECT recount_shared($1, $2, $3)");
        pg_uuid(ad->admin->batch, f->id);
        pg_i64(ad->admin->batch, f->volume);
        pg_i64s(ad->admin->batch, boxes, n);
    }
    for (size_t i = 0; i < n && really; i++) {
        char who[64];
        if (deletions_find(ad->deletions, to[i].mailbox_id, f->id, who)) {
            add_delete(ad, f, to[i].mailbox_id, who);
        }
    }
    enum err e = really ? admin_run_change(ad->admin, keys, n) : admin_run(ad->admin, PG_WRITE);
    free(keys);
    free(boxes);
    return e;
}

/* --- telling --------------------------------------------------------------------------------- */

static const struct column columns[] = {
    { "id", "ID", COLUMN_TEXT },           { "volume", "VOLUME", COLUMN_NUMBER },
    { "size", "SIZE", COLUMN_NUMBER },     { "mailbox_id", "MAILBOX", COLUMN_NUMBER },
    { "address", "ADDRESS", COLUMN_TEXT }, { "outcome", "OUTCOME", COLUMN_TEXT },
};

static void print_json(const struct finding *f, const char *id, const struct envelope_recipient *to,
                       const char *outcome)
{
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_text(t, span_str(id));
    table_number(t, f->volume);
    table_number(t, f->envelope->size);
    if (to) {
        table_number(t, to->mailbox_id);
        table_text(t, to->address);
    } else {
        table_none(t);
        table_none(t);
    }
    table_text(t, span_str(outcome));
    table_print_record(t, true, stdout);
    table_free(&t);
}

/* A line as it comes: after a loss there may be millions. An address has no control characters. */
static void tell(struct adopt *ad, const struct finding *f, const struct envelope_recipient *to,
                 enum outcome o)
{
    char id[BLOB_ID_CHARS + 1];
    const char *outcome = o == ADOPTED && !ad->yes ? "would be adopted" : outcome_words[o];
    blob_id_text(f->id, id);
    if (ad->admin->json) {
        print_json(f, id, to, outcome);
    } else if (to) {
        printf("%s  volume %u  mailbox %llu  %.*s: %s\n", id, f->volume,
               (unsigned long long)to->mailbox_id, SPAN_ARG(to->address), outcome);
    } else {
        printf("%s  volume %u: %s\n", id, f->volume, outcome);
    }
    fflush(stdout);
    ad->outcomes[o]++;
}

/* Whether each of them has the message, or has deleted it. */
static bool nobody_lacks_it(const struct adopt *ad, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t o = pg_get_i64(admin_result(ad->admin, i), 0, 0);
        if (o != HAS_IT && o != WAS_DELETED) {
            return false;
        }
    }
    return true;
}

static void tell_recipients(struct adopt *ad, const struct finding *f,
                            const struct envelope_recipient *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char who[64];
        int64_t o = pg_get_i64(admin_result(ad->admin, i), 0, 0);
        if (o == ADOPTED && deletions_find(ad->deletions, to[i].mailbox_id, f->id, who)) {
            o = LOG_DELETED;
        }
        tell(ad, f, &to[i], o >= 0 && o < LOG_DELETED ? (enum outcome)o : LOG_DELETED);
    }
}

/* --- the walk -------------------------------------------------------------------------------- */

/* The function looks again, under the locks of its mailboxes, whether nothing names the file. */
static enum err set_aside(struct adopt *ad, const struct finding *f,
                          const struct envelope_recipient *to, size_t n)
{
    int64_t *boxes = boxes_of(to, n);
    char who[64], by[128];
    struct pg_batch *b;
    admin_who(who);
    snprintf(by, sizeof by, "%s: adopt, nobody lacks it", who);
    admin_sql(ad->admin, "SELECT set_aside($1, $2, $3, $4, $5, $6, $7, $8)");
    b = ad->admin->batch;
    pg_i64s(b, boxes, n);
    pg_uuid(b, f->id);
    pg_i64(b, f->volume);
    pg_i64(b, (int64_t)f->envelope->size);
    pg_i64(b, (int64_t)f->skip);
    pg_i64(b, admin_now());
    pg_i64(b, (int64_t)ad->admin->config->spool_grace);
    pg_text(b, span_str(by));
    enum err e = admin_run(ad->admin, PG_WRITE);
    if (e == ERR_OK) {
        ad->spare += (uint64_t)pg_get_i64(admin_result(ad->admin, 0), 0, 0);
    }
    free(boxes);
    return e;
}

static int by_id(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    int order = memcmp(x->id.b, y->id.b, sizeof x->id.b);
    return order ? order : (int)x->volume - (int)y->volume;
}

/* Says so if it is not. */
static bool is_good(struct adopt *ad, const struct finding *f, uint16_t volume,
                    const struct blob_id *id)
{
    struct looked l;
    enum err e = look_at(ad, volume, id, &l);
    bool good = e == ERR_OK && l.good;
    if (e == ERR_OK) {
        fsck_file_fini(&l.file);
    }
    if (!good && (e == ERR_OK || e == ERR_NOTFOUND)) {
        admin_say("volume %u: %s stays: what a mailbox has in its stead is not whole: "
                  "volume %u: %s",
                  f->volume, f->path, volume, l.path);
    }
    return good;
}

/*
 * Whether what they have of this message, or may get back from the ledger, is whole: only then this
 * file is one too many. Asked before set_aside() has its locks: what is deleted later was whole.
 */
static enum err others_are_good(struct adopt *ad, const struct finding *f,
                                const struct envelope_recipient *to, size_t n, bool *good)
{
    struct pg_batch *b;
    struct found seen = { 0 }; /* most often all have one file */
    for (size_t i = 0; i < n; i++) {
        admin_sql(ad->admin, "SELECT blob_id, volume_id FROM message WHERE mailbox_id = $1 "
                             "AND (blob_id = $2 OR uidl = $3 AND $3 <> '') "
                             "UNION SELECT blob_id, volume_id FROM ledger WHERE mailbox_id = $1 "
                             "AND (blob_id = $2 OR uidl = $3 AND $3 <> '') AND seq > 0 "
                             "AND claimed_at IS NULL");
        b = ad->admin->batch;
        pg_i64(b, (int64_t)to[i].mailbox_id);
        pg_uuid(b, f->id);
        pg_text(b, f->envelope->uidl);
    }
    enum err e = admin_run(ad->admin, PG_READ);
    *good = e == ERR_OK;
    for (size_t i = 0; i < n && *good; i++) {
        const PGresult *r = admin_result(ad->admin, i);
        for (int row = 0; row < PQntuples(r) && *good; row++) {
            struct found x = { .id = pg_get_uuid(r, row, 0),
                               .volume = (uint16_t)pg_get_i64(r, row, 1) };
            *good = by_id(&x, &seen) == 0 || is_good(ad, f, x.volume, &x.id);
            seen = x;
        }
    }
    return e;
}

/* A copy beside the one that a pointer names is given to nobody. False: the database can't be
 * asked. */
static bool adopt_file(struct adopt *ad, const struct finding *f)
{
    bool orphan = f->cls == FINDING_ORPHAN, spare = false;
    size_t n;
    struct envelope_recipient *to = recipients_of(f->envelope, &n);
    if (n == 0) {
        free(to);
        return true;
    }
    enum err e = run_adoption(ad, f, to, n, ad->yes && orphan);
    if (e == ERR_OK) {
        spare = nobody_lacks_it(ad, n);
        if (orphan) {
            tell_recipients(ad, f, to, n);
        }
        fault_at(FAULT_adopt_committed);
        e = spare ? others_are_good(ad, f, to, n, &spare) : ERR_OK;
    }
    if (e == ERR_OK && spare) {
        ad->spare += ad->yes ? 0 : 1;
        e = ad->yes ? set_aside(ad, f, to, n) : ERR_OK;
    }
    if (e != ERR_OK) {
        ad->code = admin_fail_reply(ad->admin, f->path);
    }
    free(to);
    return e == ERR_OK;
}

static bool on_finding(void *arg, const struct finding *f)
{
    struct adopt *ad = arg;
    if (f->cls == FINDING_UNREADABLE) {
        fail_file(ad, ERR_CORRUPT, f->volume, f->path);
    }
    if ((f->cls != FINDING_ORPHAN && f->cls != FINDING_UNFINISHED) || !f->id || !f->envelope ||
        !f->envelope->complete) {
        return true;
    }
    if (ad->n_found == ad->room) {
        ad->room = ad->room ? 2 * ad->room : 1024;
        ad->found = mem_grow(ad->found, ad->room, sizeof *ad->found);
    }
    ad->found[ad->n_found++] =
        (struct found){ .id = *f->id, .volume = f->volume, .orphan = f->cls == FINDING_ORPHAN };
    return true;
}

/* fsck has seen it; it may have gone since, or be cut. What can't be read now does not keep the
 * rest from being given back; without the database nothing is, which is false. */
static bool take_found(struct adopt *ad, const struct found *x)
{
    struct looked l;
    bool go_on = true;
    if (look_at(ad, x->volume, &x->id, &l) != ERR_OK) {
        return true;
    }
    const struct finding f = { .cls = x->orphan ? FINDING_ORPHAN : FINDING_UNFINISHED,
                               .volume = x->volume,
                               .path = l.path,
                               .id = &x->id,
                               .size = l.entry.size,
                               .changed_ms = l.entry.changed_ms,
                               .envelope = &l.file.envelope,
                               .skip = l.file.skip };
    if (l.good) {
        go_on = adopt_file(ad, &f);
    } else if (x->orphan && l.file.state == FILE_WHOLE) {
        tell(ad, &f, NULL, DAMAGED);
    }
    fsck_file_fini(&l.file);
    return go_on;
}

static void take_all(struct adopt *ad)
{
    if (ad->n_found > 1) {
        qsort(ad->found, ad->n_found, sizeof *ad->found, by_id);
    }
    for (size_t i = 0; i < ad->n_found && take_found(ad, &ad->found[i]); i++) {
    }
}

static int read_options(const struct args *args, struct fsck_options *o)
{
    uint64_t n;
    if (args->opt[ARG_since] && !admin_parse_time(args->opt[ARG_since], &o->since_ms)) {
        return EX_DATAERR;
    }
    if (args->opt[ARG_older] && !admin_parse_time(args->opt[ARG_older], &o->older_ms)) {
        return EX_DATAERR;
    }
    if (args->opt[ARG_volume]) {
        if (span_u64(span_str(args->opt[ARG_volume]), INT16_MAX, &n) != ERR_OK || n == 0) {
            return admin_fail(EX_DATAERR, "--volume %s: not a volume's ID", args->opt[ARG_volume]);
        }
        o->volume = (uint16_t)n;
    }
    if (args->opt[ARG_rate] &&
        span_u64(span_str(args->opt[ARG_rate]), 1000000, &o->rate) != ERR_OK) {
        return admin_fail(EX_DATAERR, "--rate %s: not a number of files", args->opt[ARG_rate]);
    }
    if (args->opt[ARG_jobs]) {
        if (span_u64(span_str(args->opt[ARG_jobs]), 256, &n) != ERR_OK) {
            return admin_fail(EX_DATAERR, "--jobs %s: not a number of threads",
                              args->opt[ARG_jobs]);
        }
        o->jobs = (unsigned)n;
    }
    return EX_OK;
}

static int run(struct adopt *ad, const struct fsck_options *o)
{
    struct fsck_totals totals = { 0 };
    int code = deletions_repeat(ad->admin, ad->deletions, ad->yes, &ad->again);
    fault_at(FAULT_adopt_deleted);
    if (code == EX_OK) {
        code = walks_init(&ad->walks, ad->admin);
    }
    if (code == EX_OK) { /* what it has found before it failed is mail, too */
        code = fsck_run(ad->admin, o, on_finding, ad, &totals);
        take_all(ad);
    }
    return code == EX_OK ? ad->code : code;
}

static void print_totals(const struct adopt *ad)
{
    static const struct column totals[] = {
        { "adopted", "Messages given back", COLUMN_NUMBER },
        { "there", "There already", COLUMN_NUMBER },
        { "deleted", "Were deleted", COLUMN_NUMBER },
        { "nobodys", "No such account", COLUMN_NUMBER },
        { "younger", "Account is younger", COLUMN_NUMBER },
        { "log_deleted", "Were deleted, says the log", COLUMN_NUMBER },
        { "damaged", "Files damaged", COLUMN_NUMBER },
        { "deleted_again", "Messages deleted again", COLUMN_NUMBER },
        { "spare", "Files that nobody lacks, for the reaper", COLUMN_NUMBER },
    };
    struct table *t = table_new(totals, ARRAY_LEN(totals));
    for (size_t i = 0; i < OUTCOMES; i++) {
        table_number(t, ad->outcomes[i]);
    }
    table_number(t, ad->again);
    table_number(t, ad->spare);
    table_print_record(t, ad->admin->json, stdout);
    table_free(&t);
    if (!ad->yes) {
        admin_say("nothing was changed: --yes does it");
    }
}

int command_adopt(struct admin *a, const struct args *args)
{
    struct adopt ad = { .admin = a, .yes = args->opt[ARG_yes] != NULL };
    struct fsck_options o = { 0 };
    int code = read_options(args, &o);
    if (code == EX_OK) {
        code = reaping_rebuilt(a);
    }
    if (code == EX_OK) {
        code = deletions_read(args->opt[ARG_log], o.since_ms, &ad.deletions);
    }
    if (code != EX_OK) {
        return code;
    }
    ad.piece = mem_new(PIECE, 1);
    code = run(&ad, &o);
    print_totals(&ad); /* of what was done before it failed, too */
    walks_fini(&ad.walks);
    deletions_free(&ad.deletions);
    free(ad.found);
    free(ad.piece);
    return code;
}
