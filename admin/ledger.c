/*
 * ledger: "lost or deleted?". For one message: its pointers, its rows of the ledger, what became of
 * them, and whether its file stands, in words and by the exit code; and the list of what was
 * deleted since a time. It changes nothing.
 *
 * Pointers have no index by id. So they are looked for in the mailboxes that the file's envelope,
 * the ledger and the operator name; with --scan in all of them.
 */
#include <stdlib.h>

#include "base/check.h"
#include "commands.h"
#include "message_file.h"
#include "mover.h"
#include "progress.h"
#include "table.h"

#define PAGE      5000  /* rows of a list in one statement, */
#define SCAN_PAGE 50000 /* and pointers of a scan */
#define BOXES     100   /* mailboxes that are asked in one statement */

enum answer { ANSWER_STANDS, ANSWER_DELETED, ANSWER_LOST, ANSWER_UNKNOWN };

static const struct column columns[] = {
    { "id", "ID", COLUMN_TEXT },
    { "state", "STATE", COLUMN_TEXT },
    { "address", "ADDRESS", COLUMN_TEXT },
    { "mailbox_id", "MAILBOX", COLUMN_NUMBER },
    { "seq", "SEQ", COLUMN_NUMBER },
    { "volume", "VOLUME", COLUMN_NUMBER },
    { "size", "SIZE", COLUMN_NUMBER },
    { "deleted", "DELETED", COLUMN_TEXT },
    { "by", "BY", COLUMN_TEXT },
    { "until", "KEPT UNTIL", COLUMN_TEXT },
    { "unlinked", "UNLINKED", COLUMN_TEXT },
};

/* A row of message, ledger or ledger_past under the name r, in the columns that add_row takes. */
#define AT(column) "to_char(" column " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
#define WHOSE                                                                                      \
    "coalesce((SELECT c.addr FROM account c WHERE c.mailbox_id = r.mailbox_id),"                   \
    "         (SELECT d.addr FROM removed d WHERE d.mailbox_id = r.mailbox_id), '')"
#define ROW         "r.blob_id, " WHOSE ", r.mailbox_id, r.seq, r.volume_id, r.size, "
#define LEFT        "r.by_whom" MOVER_LEFT
#define POINTER_ROW ROW "'', '', '', '', false, r.skip"
#define LEDGER_ROW                                                                                 \
    ROW AT("r.deleted_at") ", r.by_whom, " AT("r.unlink_after") ", '', r.claimed_at IS NOT NULL, " \
                                                                "0, " LEFT
#define PAST_ROW ROW AT("r.deleted_at") ", r.by_whom, '', " AT("r.unlinked_at") ", false, 0, " LEFT

static void add_text(struct table *t, struct span v)
{
    v.n ? table_text(t, v) : table_none(t);
}

/* Mailbox 0 and place 0 stand for none. */
static void add_row(struct table *t, const PGresult *r, int i, const char *state)
{
    char id[BLOB_ID_CHARS + 1];
    struct blob_id blob = pg_get_uuid(r, i, 0);
    blob_id_text(&blob, id);
    table_text(t, span_str(id));
    table_text(t, span_str(state));
    add_text(t, pg_get_span(r, i, 1));
    table_limit(t, (uint64_t)pg_get_i64(r, i, 2));
    table_limit(t, pg_get_i64(r, i, 2) ? (uint64_t)pg_get_i64(r, i, 3) : 0);
    table_number(t, (uint64_t)pg_get_i64(r, i, 4));
    table_number(t, (uint64_t)pg_get_i64(r, i, 5));
    for (int c = 6; c < 10; c++) {
        add_text(t, pg_get_span(r, i, c));
    }
}

/* What a row of ledger or ledger_past means. */
static const char *state_of(const PGresult *r, int i)
{
    if (pg_get_i64(r, i, 2) == 0) {
        return pg_get_i64(r, i, 12) ? "copy" : "spare";
    }
    if (pg_get_span(r, i, 9).n) {
        return "unlinked";
    }
    if (pg_get_i64(r, i, 10)) {
        return "unlinking";
    }
    return pg_get_i64(r, i, 3) == 0 ? "given-up" : "deleted";
}

/* --- one message ----------------------------------------------------------------------------- */

struct question {
    struct admin *admin;
    struct blob_id id;
    char text[BLOB_ID_CHARS + 1];
    int64_t mailbox; /* asked about; 0: all */
    bool scan;
    struct message_file file;
    struct table *table;
    unsigned rows;  /* of it */
    int64_t *boxes; /* to be asked, each once */
    size_t n_boxes;
    /* what was found */
    unsigned stands, lost, unseen; /* pointers: with file, without it, on a volume that is away */
    unsigned deleted, gone;        /* ledger rows whose message may come back, and others, */
    unsigned spare;                /* and those of a file that nobody lacks */
    char until[32];                /* one of those that may */
    char whose[ENTRY_TARGET_MAX + 1];
    char why[320]; /* of a lost one */
};

static void add_box(struct question *q, int64_t box)
{
    if (q->mailbox && box != q->mailbox) {
        return;
    }
    for (size_t i = 0; i < q->n_boxes; i++) {
        if (q->boxes[i] == box) {
            return;
        }
    }
    q->boxes = mem_grow(q->boxes, q->n_boxes + 1, sizeof *q->boxes);
    q->boxes[q->n_boxes++] = box;
}

/* Whether the file of a pointer is there as the pointer says. */
static const char *judge_pointer(struct question *q, const PGresult *r, int i)
{
    int64_t volume = pg_get_i64(r, i, 4), whole = pg_get_i64(r, i, 5) + pg_get_i64(r, i, 11);
    const struct message_place *p = message_file_place(&q->file, volume),
                               *other = message_file_any(&q->file);
    if (!p || !p->looked) {
        snprintf(q->why, sizeof q->why, "volume %lld can't be looked at: %s", (long long)volume,
                 p ? p->why : "it is not listed");
        q->unseen++;
        return "unseen";
    }
    if (p->stands && p->size == (uint64_t)whole) {
        q->stands++;
        return "stands";
    }
    q->lost++;
    if (p->stands) {
        snprintf(q->why, sizeof q->why, "its file on volume %u has %llu octets, not %lld",
                 p->volume, (unsigned long long)p->size, (long long)whole);
        return "damaged";
    }
    if (other) {
        snprintf(q->why, sizeof q->why, "its file is on volume %u, and its pointer names %lld",
                 other->volume, (long long)volume);
        return "misplaced";
    }
    snprintf(q->why, sizeof q->why, "a pointer names it, and no volume has its file");
    return "lost";
}

static void take_pointers(struct question *q)
{
    const PGresult *r = admin_result(q->admin, 0);
    for (int i = 0; i < PQntuples(r); i++) {
        add_row(q->table, r, i, judge_pointer(q, r, i));
        q->rows++;
    }
}

static void take_rows(struct question *q, const PGresult *r)
{
    for (int i = 0; i < PQntuples(r); i++) {
        int64_t box = pg_get_i64(r, i, 2);
        const char *state = state_of(r, i);
        if (box && q->mailbox && box != q->mailbox) {
            continue;
        }
        add_row(q->table, r, i, state);
        q->rows++;
        if (!box) {
            q->spare += strcmp(state, "spare") == 0 ? 1 : 0;
            continue;
        }
        add_box(q, box);
        const struct message_place *p = message_file_place(&q->file, pg_get_i64(r, i, 4));
        if (strcmp(state, "deleted") == 0 && p && (p->stands || !p->looked)) {
            q->deleted++;
            snprintf(q->until, sizeof q->until, "%.*s", SPAN_ARG(pg_get_span(r, i, 8)));
            snprintf(q->whose, sizeof q->whose, "%.*s", SPAN_ARG(pg_get_span(r, i, 1)));
        } else {
            q->gone++;
        }
    }
}

static int ask_ledger(struct question *q)
{
    struct admin *a = q->admin;
    admin_sql(a, "SELECT " LEDGER_ROW " FROM ledger r WHERE r.blob_id = $1"
                 " ORDER BY r.mailbox_id, r.seq");
    pg_uuid(a->batch, &q->id);
    admin_sql(a, "SELECT " PAST_ROW " FROM ledger_past r WHERE r.blob_id = $1"
                 " ORDER BY r.mailbox_id, r.seq");
    pg_uuid(a->batch, &q->id);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "ledger");
    }
    take_rows(q, admin_result(a, 0));
    take_rows(q, admin_result(a, 1));
    return EX_OK;
}

static int ask_boxes(struct question *q)
{
    struct admin *a = q->admin;
    for (size_t i = 0; i < q->n_boxes; i += BOXES) {
        size_t n = q->n_boxes - i < BOXES ? q->n_boxes - i : BOXES;
        admin_sql(a, "SELECT " POINTER_ROW " FROM message r"
                     " WHERE r.mailbox_id = ANY ($1) AND r.blob_id = $2"
                     " ORDER BY r.mailbox_id, r.seq");
        pg_i64s(a->batch, q->boxes + i, n);
        pg_uuid(a->batch, &q->id);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "pointers");
        }
        take_pointers(q);
    }
    return EX_OK;
}

/* Every pointer there is, in the order of their key. */
static int scan(struct question *q)
{
    struct admin *a = q->admin;
    struct progress p;
    int64_t box = 0, seq = 0;
    int code = EX_OK;
    progress_begin(&p, "pointers", 0, 0);
    for (bool ended = false; !ended && code == EX_OK;) {
        /* The page is read once, its end and what is in it; `MATERIALIZED`, as it is named twice.
         */
        admin_sql(a, "WITH page AS MATERIALIZED ("
                     "    SELECT mailbox_id, seq, blob_id FROM message"
                     "     WHERE (mailbox_id, seq) > ($1, $2) ORDER BY mailbox_id, seq LIMIT $3)"
                     "SELECT count(*), max(mailbox_id),"
                     "       (SELECT max(e.seq) FROM page e"
                     "         WHERE e.mailbox_id = (SELECT max(mailbox_id) FROM page)),"
                     "       (SELECT min(h.mailbox_id) FROM page h WHERE h.blob_id = $4)"
                     "  FROM page");
        pg_i64(a->batch, box);
        pg_i64(a->batch, seq);
        pg_i64(a->batch, SCAN_PAGE);
        pg_uuid(a->batch, &q->id);
        if (admin_run(a, PG_READ) != ERR_OK) {
            code = admin_fail_reply(a, "pointers");
            break;
        }
        const PGresult *r = admin_result(a, 0);
        int64_t n = pg_get_i64(r, 0, 0), hit = pg_get_i64(r, 0, 3);
        ended = n < SCAN_PAGE;
        box = pg_get_i64(r, 0, 1);
        seq = pg_get_i64(r, 0, 2);
        if (hit) { /* the mailbox is asked for all of them; the page is read on behind it */
            add_box(q, hit);
            ended = false;
            box = hit;
            seq = INT64_MAX;
        }
        progress_step(&p, (uint64_t)n);
    }
    progress_end(&p);
    return code;
}

static int look(struct question *q)
{
    message_file_free(&q->file);
    table_free(&q->table);
    q->table = table_new(columns, ARRAY_LEN(columns));
    q->n_boxes = q->rows = 0;
    q->stands = q->lost = q->unseen = q->deleted = q->gone = q->spare = 0;
    int code = message_file_find(q->admin, &q->id, &q->file);
    if (code != EX_OK) {
        return code;
    }
    for (size_t i = 0; i < q->file.n_mailboxes; i++) {
        add_box(q, q->file.mailboxes[i]);
    }
    if (q->mailbox) {
        add_box(q, q->mailbox);
    }
    code = ask_ledger(q);
    if (code == EX_OK && q->scan) {
        code = scan(q);
    }
    return code == EX_OK ? ask_boxes(q) : code;
}

static int judge(const struct question *q)
{
    const struct message_place *away = message_file_unseen(&q->file);
    if (q->lost) {
        return ANSWER_LOST;
    }
    if (q->unseen) {
        return EX_TEMPFAIL;
    }
    if (q->stands) {
        return ANSWER_STANDS;
    }
    if (q->deleted || q->gone || q->spare) {
        return ANSWER_DELETED;
    }
    return away && !message_file_any(&q->file) ? EX_TEMPFAIL : ANSWER_UNKNOWN;
}

static void say_deleted(const struct question *q)
{
    if (q->deleted) {
        printf("%s: deleted; it can come back until %s: mailfleet undelete %s --id %s --yes\n",
               q->text, q->until, *q->whose ? q->whose : "ADDRESS", q->text);
    } else if (!q->gone) {
        printf("%s: a file that nobody lacked; %s\n", q->text,
               message_file_any(&q->file) ? "reap ends it" : "it has gone");
    } else if (message_file_any(&q->file)) {
        printf("%s: deleted; its file stands, but it can't be undeleted\n", q->text);
    } else {
        printf("%s: deleted, and its file has gone\n", q->text);
    }
}

static void say_unknown(const struct question *q)
{
    const struct message_place *p = message_file_any(&q->file);
    const char *more = q->scan ? "" : " (--scan asks all mailboxes)";
    if (p && q->file.envelope && !q->file.complete) {
        printf("%s: unknown: volume %u has the beginning of a message that was never accepted\n",
               q->text, p->volume);
    } else if (p) {
        printf(
            "%s: unknown: an orphan: volume %u has its file, and no mailbox that was asked names "
            "it%s; see mailfleet adopt\n",
            q->text, p->volume, more);
    } else {
        printf("%s: unknown: no volume has its file, no mailbox that was asked names it%s, and no "
               "deletion of it is remembered\n",
               q->text, more);
        if (!q->scan && !q->mailbox) {
            printf("if a mailbox lists it, it is lost: mailfleet ledger %s ADDRESS tells of one, "
                   "--scan of all\n",
                   q->text);
        }
    }
}

static void say(const struct question *q, int answer)
{
    switch (answer) {
    case ANSWER_STANDS:
        printf("%s: stands: its file is there, and %u of the mailboxes that were asked list it\n",
               q->text, q->stands);
        break;
    case ANSWER_DELETED:
        say_deleted(q);
        break;
    case ANSWER_LOST:
        printf("%s: lost: %s\n", q->text, q->why);
        break;
    case ANSWER_UNKNOWN:
        say_unknown(q);
        break;
    default:
        admin_say("%s: can't be told now: %s", q->text,
                  q->unseen ? q->why : message_file_unseen(&q->file)->why);
    }
}

/*
 * What looks lost is looked at once more: a file is made before its pointer, so it may have come
 * between the two looks.
 */
static int answer(struct question *q)
{
    int code = look(q);
    if (code == EX_OK && q->lost) {
        code = look(q);
    }
    if (code == EX_OK) {
        code = judge(q);
        if (!q->admin->json) {
            say(q, code);
        }
        if (q->rows > 0 || q->admin->json) {
            table_print(q->table, q->admin->json, "", stdout);
        }
    }
    message_file_free(&q->file);
    table_free(&q->table);
    free(q->boxes);
    return code;
}

/* --- what was deleted ------------------------------------------------------------------------ */

struct listing {
    struct admin *admin;
    int64_t mailbox; /* 0: all */
    int64_t since_ms;
    uint64_t left;
    struct table *table;
};

/* The end of a page is the end of what was looked at, not of what fits. */
#define LIST_OF(table, row)                                                                        \
    "SELECT " row ", r.deleted_at >= ms_time($1) FROM (SELECT * FROM " table                       \
    "   WHERE ($2 = 0 OR mailbox_id = $2) AND (mailbox_id, blob_id, seq) > ($3, $4, $5)"           \
    "   ORDER BY mailbox_id, blob_id, seq LIMIT $6) r ORDER BY r.mailbox_id, r.blob_id, r.seq"

static int list_from(struct listing *l, const char *sql)
{
    struct admin *a = l->admin;
    struct blob_id blob = { 0 };
    int64_t box = -1, seq = 0;
    int n = PAGE;
    while (n == PAGE && l->left > 0) {
        admin_sql(a, sql);
        pg_i64(a->batch, l->since_ms);
        pg_i64(a->batch, l->mailbox);
        pg_i64(a->batch, box);
        pg_uuid(a->batch, &blob);
        pg_i64(a->batch, seq);
        pg_i64(a->batch, PAGE);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "ledger");
        }
        const PGresult *r = admin_result(a, 0);
        n = PQntuples(r);
        for (int i = 0; i < n && l->left > 0; i++) {
            if (pg_get_i64(r, i, 13)) {
                add_row(l->table, r, i, state_of(r, i));
                l->left--;
            }
        }
        if (n > 0) {
            blob = pg_get_uuid(r, n - 1, 0);
            box = pg_get_i64(r, n - 1, 2);
            seq = pg_get_i64(r, n - 1, 3);
        }
    }
    return EX_OK;
}

static int list(struct listing *l)
{
    l->table = table_new(columns, ARRAY_LEN(columns));
    int code = list_from(l, LIST_OF("ledger", LEDGER_ROW));
    if (code == EX_OK) {
        code = list_from(l, LIST_OF("ledger_past", PAST_ROW));
    }
    if (code == EX_OK) {
        table_print(l->table, l->admin->json, "nothing was deleted", stdout);
    }
    table_free(&l->table);
    return code;
}

/* --- the command ----------------------------------------------------------------------------- */

/* The mailbox of an address among the words; 0 without one. */
static int mailbox_word(struct admin *a, const struct args *args, int i, int64_t *out)
{
    struct address addr;
    uint64_t id = 0;
    *out = 0;
    if (args->n <= i) {
        return EX_OK;
    }
    if (!admin_address(args->v[i], &addr)) {
        return EX_DATAERR;
    }
    int code = admin_mailbox(a, &addr, &id);
    *out = (int64_t)id;
    return code;
}

static int list_command(struct admin *a, const struct args *args)
{
    struct listing l = { .admin = a, .left = INT64_MAX };
    if (args->n > 1) {
        return admin_fail(EX_USAGE, "with --since one ADDRESS or none");
    }
    struct blob_id id;
    if (args->n == 1 && blob_id_parse(span_str(args->v[0]), &id) == ERR_OK) {
        return admin_fail(EX_USAGE, "%s: an ID takes no --since, which lists what was deleted",
                          args->v[0]);
    }
    if (!admin_parse_time(args->opt[ARG_since], &l.since_ms)) {
        return EX_DATAERR;
    }
    if (args->opt[ARG_limit] &&
        span_u64(span_str(args->opt[ARG_limit]), INT64_MAX, &l.left) != ERR_OK) {
        return admin_fail(EX_DATAERR, "--limit %s: not a number", args->opt[ARG_limit]);
    }
    int code = mailbox_word(a, args, 0, &l.mailbox);
    return code == EX_OK ? list(&l) : code;
}

int command_ledger(struct admin *a, const struct args *args)
{
    struct question q = { .admin = a, .scan = args->opt[ARG_scan] };
    if (args->opt[ARG_since]) {
        return list_command(a, args);
    }
    if (args->n == 0) {
        return admin_fail(EX_USAGE, "an ID, or --since: see mailfleet help ledger");
    }
    if (blob_id_parse(span_str(args->v[0]), &q.id) != ERR_OK) {
        return admin_fail(EX_DATAERR, "%s: not the id of a message", args->v[0]);
    }
    blob_id_text(&q.id, q.text);
    int code = mailbox_word(a, args, 1, &q.mailbox);
    return code == EX_OK ? answer(&q) : code;
}
