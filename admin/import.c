/*
 * import: brings mail in from another server's mailboxes: `mailfleet import URL ADDRESS`.
 *
 * Threads read (lanes.h); here, on the loop, one lane for each of them writes what it reads:
 *
 *   LISTED   which UIDLs the mailbox has, or had, is asked; the others are wanted
 *   OCTETS   go to the spool's writer
 *   MESSAGE  the file is made durable, and its pointer waits in the lane's batch
 *   ACCOUNT  and each full batch: the pointers are committed, with tombstones on both sides
 *
 * It may be killed anywhere: what was committed is passed over when it is run again, a file without
 * its pointer is an orphan, whose envelope has the UIDL. An account ends at its first message that
 * fails, for what comes later would stand in front of it in the mailbox for ever. What is too large
 * to be kept at all will never come, and is left out; it is an error of the account all the same.
 *
 * With --prune the mailbox follows the old server while it is suspended: what came from there and
 * has gone there goes to the ledger. What was delivered here has no UIDL of its own, and stays.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/fault.h"
#include "commands.h"
#include "lanes.h"
#include "open_spool.h"
#include "progress.h"
#include "table.h"

#define BATCH        32   /* messages in a transaction */
#define PAGE         1000 /* rows in one answer: a statement has a deadline */
#define COMMIT_TRIES 30   /* a second apart: a fail-over takes up to half a minute */
#define TOLD_MOST    10   /* messages of an account that are left out and named one by one */
#define ERROR_SIZE   300

/* What became of an account. */
struct outcome {
    uint64_t messages, new, taken, known, octets, sizes, uidls, large, gone, pruned;
    char error[ERROR_SIZE]; /* empty: it came to its end */
    int code;
};

/* Where the mailbox has a message under the name of its file; seq 0: nowhere. */
struct old_place {
    uint64_t seq;
    struct blob_id id;
};

/* A message whose file is durable and whose pointer is not committed. */
struct written {
    struct pointer pointer;
    char handle[HANDLE_MAX];
    size_t handle_len;
    const struct source_message *message;
};

struct lane {
    struct lane_head head;
    struct import *import;
    struct outcome *outcome;
    const struct move_account *account;
    uint64_t mailbox_id;
    bool *wanted;
    const struct source_message **by_uidl, **by_name; /* the list, sorted; the latter by `named` */
    struct old_place *old;                            /* of each message of the list */
    struct old_place *gone; /* imported once, and the list has it no longer */
    size_t n_gone, gone_room;
    bool suspended, listing; /* listing: what the mailbox had before this import began */
    uint64_t stay;           /* messages under the names of their files */
    uint64_t since; /* the mailbox's places before it are known: their messages are not wanted */
    struct spool_writer *writer;
    uint64_t size;               /* octets that it was given */
    bool blocked;                /* until the writer is ready */
    bool finishing;              /* until the file is written, or is not */
    bool failed;                 /* this message is not written */
    struct written batch[BATCH]; /* the last one may be under way */
    size_t n;                    /* of the batch, without that */
};

struct import {
    struct admin *admin;
    struct open_spool *volumes;
    bool yes, prune;
    struct move_list list;
    struct outcome *outcomes; /* of list */
    struct progress progress;
    uint64_t listed, found; /* accounts, and new messages in them */
};

static void find_account(struct lane *l)
{
    l->account = &l->import->list.accounts[l->head.index];
    l->outcome = &l->import->outcomes[l->head.index];
}

static void fail(struct lane *l, const char *what, const char *why)
{
    if (!l->outcome->error[0]) {
        snprintf(l->outcome->error, sizeof l->outcome->error, "%s%s%s", what, *what ? ": " : "",
                 why);
        l->outcome->code = EX_TEMPFAIL;
        admin_say("%s: %s", l->account->text, l->outcome->error);
    }
}

static const struct source_message *current(const struct lane *l)
{
    size_t n;
    return &reader_list(l->head.reader, &n)[reader_index(l->head.reader)];
}

/* --- what the mailbox has -------------------------------------------------------------------- */

/* The id that a UIDL is the text of, as mailfleet's own are; else the nil id. */
static struct blob_id id_of(const char *uidl)
{
    struct blob_id id = { 0 };
    (void)blob_id_parse(span_str(uidl), &id);
    return id;
}

static void add_uidls(struct pg_batch *b, const struct source_message *const *m, size_t n)
{
    struct span *uidls = NEW_ARRAY(struct span, n);
    struct blob_id *ids = NEW_ARRAY(struct blob_id, n);
    for (size_t i = 0; i < n; i++) {
        uidls[i] = span_str(m[i]->uidl);
        ids[i] = id_of(m[i]->uidl);
    }
    pg_texts(b, uidls, n);
    pg_uuids(b, ids, n);
    free(uidls);
    free(ids);
}

/* A table with UIDLs of the mailbox. */
enum known { KNOWN_MESSAGE, KNOWN_LEDGER, KNOWN_PAST };

static int by_uidl(const void *a, const void *b)
{
    const struct source_message *const *x = a, *const *y = b;
    return strcmp((*x)->uidl, (*y)->uidl);
}

static int uidl_against(const void *key, const void *element)
{
    const struct source_message *const *m = element;
    return strcmp(key, (*m)->uidl);
}

static int by_name(const void *a, const void *b)
{
    const struct source_message *const *x = a, *const *y = b;
    return strcmp((*x)->named, (*y)->named);
}

static int name_against(const void *key, const void *element)
{
    const struct source_message *const *m = element;
    return strcmp(key, (*m)->named);
}

static void want_all(struct lane *l)
{
    size_t n;
    const struct source_message *list = reader_list(l->head.reader, &n);
    l->wanted = NEW_ARRAY(bool, n + 1);
    l->old = NEW_ARRAY(struct old_place, n + 1);
    l->by_uidl = NEW_ARRAY(const struct source_message *, n + 1);
    l->by_name = NEW_ARRAY(const struct source_message *, n + 1);
    for (size_t i = 0; i < n; i++) {
        l->wanted[i] = true;
        l->by_uidl[i] = l->by_name[i] = &list[i];
    }
    qsort(l->by_uidl, n, sizeof *l->by_uidl, by_uidl);
    qsort(l->by_name, n, sizeof *l->by_name, by_name);
}

static void forget_list(struct lane *l)
{
    free(l->wanted);
    free(l->old);
    free(l->by_uidl);
    free(l->by_name);
    free(l->gone);
    l->wanted = NULL;
    l->old = l->gone = NULL;
    l->n_gone = l->gone_room = 0;
    l->by_uidl = l->by_name = NULL;
}

/*
 * Here under the name of its file, as it was imported before the old server had made its list of
 * UIDLs. Nobody has seen it here while the account was suspended: it is brought once more, by its
 * UIDL, and this one goes. Else it stays; in no case there are two.
 */
static void note_named(struct lane *l, size_t i, enum known which, const struct old_place *p)
{
    if (which == KNOWN_MESSAGE && l->suspended) {
        l->old[i] = *p;
        return;
    }
    l->stay += l->wanted[i] && which == KNOWN_MESSAGE ? 1 : 0;
    l->wanted[i] = false;
}

static void add_gone(struct lane *l, const struct old_place *p)
{
    if (l->n_gone == l->gone_room) {
        l->gone_room = l->gone_room ? 2 * l->gone_room : 64;
        l->gone = mem_grow(l->gone, l->gone_room, sizeof *l->gone);
    }
    l->gone[l->n_gone++] = *p;
}

/* Of mail that was delivered here the old server never knew. */
static void note_gone(struct lane *l, enum known which, const struct old_place *p, struct span uidl)
{
    if (which == KNOWN_MESSAGE && uidl.n > 0 && l->listing) {
        add_gone(l, p);
    }
}

/* Listed by its UIDL and by the name of its file, too, as after a restore: the old server has the
 * name no longer. Asked before the ledger is read. */
static void note_twice(struct lane *l)
{
    size_t n;
    (void)reader_list(l->head.reader, &n);
    for (size_t i = 0; i < n && l->listing; i++) {
        if (l->old[i].seq > 0 && !l->wanted[i]) {
            add_gone(l, &l->old[i]);
        }
    }
}

/* Of the mailbox here: what it has by this UIDL is not wanted. */
static void note_known(struct lane *l, enum known which, const struct old_place *p,
                       struct span uidl)
{
    size_t n;
    const struct source_message *list = reader_list(l->head.reader, &n), **found;
    char text[UIDL_MAX + 1];
    if (uidl.n) {
        snprintf(text, sizeof text, "%.*s", SPAN_ARG(uidl));
    } else {
        blob_id_text(&p->id, text);
    }
    if ((found = bsearch(text, l->by_uidl, n, sizeof *found, uidl_against))) {
        l->wanted[*found - list] = false;
    } else if ((found = bsearch(text, l->by_name, n, sizeof *found, name_against))) {
        note_named(l, (size_t)(*found - list), which, p);
    } else {
        note_gone(l, which, p, uidl);
    }
}

static bool fail_database(struct lane *l)
{
    const struct admin *a = l->import->admin;
    fail(l, "database", a->reply.message[0] ? a->reply.message : err_text(a->reply.err));
    return false;
}

/* Page by page in the order of its key. */
static bool read_page(struct lane *l, enum known which, const struct old_place *after)
{
    static const char *const pages[] = {
        [KNOWN_MESSAGE] = "SELECT blob_id, seq, uidl FROM message WHERE mailbox_id = $1 "
                          "AND (seq, blob_id) > ($3, $2) ORDER BY seq LIMIT $4",
        [KNOWN_LEDGER] = "SELECT blob_id, seq, uidl FROM ledger WHERE mailbox_id = $1 "
                         "AND (blob_id, seq) > ($2, $3) ORDER BY blob_id, seq LIMIT $4",
        [KNOWN_PAST] = "SELECT blob_id, seq, uidl FROM ledger_past WHERE mailbox_id = $1 "
                       "AND (blob_id, seq) > ($2, $3) ORDER BY blob_id, seq LIMIT $4",
    };
    struct admin *a = l->import->admin;
    admin_sql(a, pages[which]);
    pg_i64(a->batch, (int64_t)l->mailbox_id);
    pg_uuid(a->batch, &after->id);
    pg_i64(a->batch, (int64_t)after->seq);
    pg_i64(a->batch, PAGE);
    return admin_run(a, PG_READ) == ERR_OK || fail_database(l);
}

/* What has a place from seq on; *count says how many before l->since. */
static bool read_known(struct lane *l, enum known which, uint64_t seq, uint64_t *count)
{
    struct old_place p = { .seq = seq };
    int n;
    *count = 0;
    do {
        if (!read_page(l, which, &p)) {
            return false;
        }
        const PGresult *r = admin_result(l->import->admin, 0);
        n = admin_rows(l->import->admin, 0);
        for (int i = 0; i < n; i++) {
            p.id = pg_get_uuid(r, i, 0);
            p.seq = (uint64_t)pg_get_i64(r, i, 1);
            if (p.seq > 0) { /* else it was never in the mailbox */
                note_known(l, which, &p, pg_get_span(r, i, 2));
                *count += p.seq < l->since ? 1 : 0;
            }
        }
    } while (n == PAGE);
    return true;
}

/*
 * The mailbox gives the place `next` next: what has one before that, and was not asked about
 * before, becomes known. In the direction in which messages go, from the list to the ledger and to
 * its past: what moves on meanwhile is met twice. If all that came since stands in the list, the
 * ledger need not be asked again.
 */
static bool learn_known(struct lane *l, uint64_t next)
{
    uint64_t first = l->since, listed, unused;
    l->since = next;
    if (!read_known(l, KNOWN_MESSAGE, first, &listed)) {
        return false;
    }
    note_twice(l);
    return (first > 0 && listed >= next - first) ||
           (read_known(l, KNOWN_LEDGER, 0, &unused) && read_known(l, KNOWN_PAST, 0, &unused));
}

static bool ask_known(struct lane *l)
{
    struct admin *a = l->import->admin;
    admin_sql(a, "SELECT next_seq, state FROM mailbox WHERE mailbox_id = $1");
    pg_i64(a->batch, (int64_t)l->mailbox_id);
    if (admin_run(a, PG_READ) != ERR_OK || admin_rows(a, 0) != 1) {
        return fail_database(l);
    }
    l->since = 0;
    l->stay = 0;
    l->suspended = pg_get_i64(admin_result(a, 0), 0, 1) == ACCOUNT_SUSPENDED;
    if (pg_get_i64(admin_result(a, 0), 0, 1) == ACCOUNT_REMOVED) {
        fail(l, "", "was removed: mailfleet account restore brings it back");
        l->outcome->code = EX_NOUSER;
        return false;
    }
    want_all(l);
    l->listing = true;
    bool good = learn_known(l, (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0));
    l->listing = false;
    return good;
}

static void leave_out(struct lane *l, size_t i, const struct source_message *m)
{
    l->wanted[i] = false;
    if (l->outcome->large++ < TOLD_MOST) {
        admin_say("%s: %s is larger than 2 GiB and is left out", l->account->text, m->uidl);
    }
}

static void say_count(const struct lane *l, uint64_t n, const char *what)
{
    if (n) {
        admin_say("%s: %llu message%s %s", l->account->text, (unsigned long long)n, admin_plural(n),
                  what);
    }
}

/* An empty list may be a wrong path, or a server that has lost its mail. */
static void count_gone(struct lane *l, size_t n)
{
    l->outcome->gone = l->n_gone;
    if (l->n_gone == 0 || (l->suspended && n > 0 && l->import->prune)) {
        return;
    }
    if (!l->suspended) {
        say_count(l, l->n_gone,
                  "were imported and have gone at the old server since; they stay, as the account "
                  "is not suspended");
    } else if (n > 0) {
        say_count(l, l->n_gone,
                  "were imported and have gone at the old server since: --prune deletes them here");
    } else {
        say_count(l, l->n_gone,
                  "were imported, and the old mailbox is empty now: they stay; if that is right, "
                  "mailfleet delete --all takes them away");
    }
    l->n_gone = 0;
}

/* The same mail by other UIDLs can't be told from other mail by what a list says. */
static void warn_of_other_uidls(const struct lane *l, size_t n)
{
    const struct outcome *o = l->outcome;
    if (l->n_gone > o->known && o->new > n / 2) {
        admin_say(
            "%s: most of what was imported before has gone at the old server, and most of "
            "what it has is new: if it is the same mail and its UIDLs have changed (--format, "
            "a new UIDVALIDITY), each message comes a second time, unless --prune takes "
            "the first ones away",
            l->account->text);
    }
}

static void count_list(struct lane *l, const struct source_message *list, size_t n)
{
    struct outcome *o = l->outcome;
    uint64_t changed = 0, again = 0;
    o->messages = n;
    for (size_t i = 0; i < n; i++) {
        if (l->wanted[i] && list[i].too_large) {
            leave_out(l, i, &list[i]);
        } else {
            o->new += l->wanted[i] ? 1 : 0;
            o->known += l->wanted[i] ? 0 : 1;
        }
        changed += list[i].uidl_changed ? 1 : 0;
        again += l->wanted[i] && l->old[i].seq ? 1 : 0;
        o->octets += !l->import->yes && l->wanted[i] && list[i].size_known ? list[i].size : 0;
    }
    say_count(l, changed, "can't keep their UIDLs: they were no UIDLs of RFC 1939, or given twice");
    say_count(
        l, l->stay,
        "are here by the names of their files, and the old server has made other UIDLs since: "
        "they stay as they are, as the account is not suspended");
    say_count(l, again,
              "are here by the names of their files, and are taken again by the UIDLs that the old "
              "server has made since");
    o->uidls = changed + l->stay;
    warn_of_other_uidls(l, n);
    count_gone(l, n);
}

/* How many there will be in all, by the accounts that were listed so far. */
static void expect(struct import *im, uint64_t new)
{
    im->listed++;
    im->found += new;
    im->progress.total = im->found * im->list.n / im->listed;
}

/* True: messages are to be read. */
static bool lane_listed(struct lane_head *h, const bool **wanted)
{
    struct lane *l = CONTAINER_OF(h, struct lane, head);
    struct import *im = l->import;
    size_t n;
    const struct source_message *list = reader_list(h->reader, &n);
    find_account(l);
    l->outcome->code = admin_mailbox(im->admin, &l->account->address, &l->mailbox_id);
    if (l->outcome->code != EX_OK) {
        snprintf(l->outcome->error, ERROR_SIZE, "%s",
                 l->outcome->code == EX_NOUSER ? "no such account" : "the database can't be asked");
        return false;
    }
    if (!ask_known(l)) {
        return false;
    }
    count_list(l, list, n);
    expect(im, l->outcome->new);
    *wanted = l->wanted;
    return im->yes && l->outcome->new > 0;
}

/* --- pointers -------------------------------------------------------------------------------- */

static void add_pointers(struct lane *l)
{
    struct admin *a = l->import->admin;
    struct blob_id ids[BATCH];
    int64_t volumes[BATCH], sizes[BATCH], skips[BATCH];
    struct span handles[BATCH];
    const struct source_message *messages[BATCH];
    for (size_t i = 0; i < l->n; i++) {
        const struct written *w = &l->batch[i];
        ids[i] = w->pointer.id;
        volumes[i] = w->pointer.volume;
        sizes[i] = w->pointer.size;
        skips[i] = w->pointer.skip;
        handles[i] = span_of(w->handle, w->handle_len);
        messages[i] = w->message;
    }
    admin_sql(a, "SELECT import($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)");
    pg_i64(a->batch, (int64_t)l->mailbox_id);
    pg_i64(a->batch, (int64_t)l->since);
    pg_uuids(a->batch, ids, l->n);
    pg_i64s(a->batch, volumes, l->n);
    pg_i64s(a->batch, sizes, l->n);
    pg_i64s(a->batch, skips, l->n);
    add_uidls(a->batch, messages, l->n);
    pg_byteas(a->batch, handles, l->n);
    pg_i64(a->batch, admin_now());
    pg_i64(a->batch, (int64_t)a->config->spool_grace);
}

/* In the same transaction those go away in whose stead these come. MF002: people see those. */
static void take_old(struct lane *l)
{
    struct admin *a = l->import->admin;
    struct blob_id ids[BATCH];
    int64_t seqs[BATCH];
    size_t n = 0, unused;
    const struct source_message *list = reader_list(l->head.reader, &unused);
    for (size_t i = 0; i < l->n; i++) {
        const struct old_place *old = &l->old[l->batch[i].message - list];
        if (old->seq > 0) {
            ids[n] = old->id;
            seqs[n++] = (int64_t)old->seq;
        }
    }
    if (n > 0) {
        admin_sql(a, "SELECT supersede($1, $2, $3, $4, $5)");
        pg_i64(a->batch, (int64_t)l->mailbox_id);
        pg_i64s(a->batch, seqs, n);
        pg_uuids(a->batch, ids, n);
        pg_i64(a->batch, admin_now());
        pg_i64(a->batch, (int64_t)a->config->spool_grace);
    }
}

static void on_second(uv_timer_t *t)
{
    *(bool *)t->data = true;
}

/* The loop goes on meanwhile: what it has under way has deadlines. */
static void wait_second(struct admin *a)
{
    bool over = false;
    uv_timer_t t = { .data = &over };
    CHECK(uv_timer_init(loop_uv(a->loop), &t) == 0);
    uv_timer_start(&t, on_second, 1000, 0);
    while (!over) {
        uv_run(loop_uv(a->loop), UV_RUN_ONCE);
    }
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(loop_uv(a->loop), UV_RUN_NOWAIT);
}

/* The call may be repeated, whatever became of it. UNCERTAIN: of one of the calls nobody knows. */
static enum err commit_batch(struct lane *l)
{
    struct admin *a = l->import->admin;
    const struct cache_key key = { .kind = CACHE_LIST, .mailbox_id = l->mailbox_id };
    bool uncertain = false;
    enum err e = ERR_OK;
    for (unsigned try = 0; try < COMMIT_TRIES; try++) {
        add_pointers(l);
        take_old(l);
        e = admin_run_change(a, &key, 1);
        uncertain = uncertain || e == ERR_UNCERTAIN;
        if (e != ERR_TEMP && e != ERR_UNCERTAIN) {
            break;
        }
        wait_second(a);
    }
    return e != ERR_OK && uncertain ? ERR_UNCERTAIN : e;
}

/* Files that no pointer names, nor will: the reaper will have them. If not, fsck finds them. */
static void discard(struct lane *l, const struct pointer *p, size_t n)
{
    struct admin *a = l->import->admin;
    struct blob_id ids[BATCH];
    int64_t volumes[BATCH], sizes[BATCH], skips[BATCH];
    for (size_t i = 0; i < n; i++) {
        ids[i] = p[i].id;
        volumes[i] = p[i].volume;
        sizes[i] = p[i].size;
        skips[i] = p[i].skip;
    }
    admin_sql(a,
              "SELECT discard($1, w.blob, w.vol, w.size, w.head, false, $6, $7, 'import given up') "
              "FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[]) "
              "w (blob, vol, size, head)");
    pg_i64(a->batch, (int64_t)l->mailbox_id);
    pg_uuids(a->batch, ids, n);
    pg_i64s(a->batch, volumes, n);
    pg_i64s(a->batch, sizes, n);
    pg_i64s(a->batch, skips, n);
    pg_i64(a->batch, admin_now());
    pg_i64(a->batch, (int64_t)a->config->spool_grace);
    (void)admin_run(a, PG_WRITE);
}

static void discard_batch(struct lane *l)
{
    struct pointer p[BATCH];
    for (size_t i = 0; i < l->n; i++) {
        p[i] = l->batch[i].pointer;
    }
    discard(l, p, l->n);
}

/* False: the account is to end. */
static bool committed(struct lane *l)
{
    uint64_t next = (uint64_t)pg_get_i64(admin_result(l->import->admin, 0), 0, 0);
    uint64_t expected = l->since + l->n;
    for (size_t i = 0; i < l->n; i++) {
        l->outcome->octets += l->batch[i].pointer.size;
    }
    l->outcome->taken += l->n;
    fault_at(FAULT_import_committed);
    if (next != expected) { /* other mail came in between: it may be what comes next here */
        return learn_known(l, next);
    }
    l->since = next;
    return true;
}

static bool not_committed(struct lane *l, enum err e)
{
    const struct admin *a = l->import->admin;
    fail(l, "pointers", a->reply.message[0] ? a->reply.message : err_text(e));
    if (e != ERR_UNCERTAIN) {
        discard_batch(l);
    }
    return false;
}

static bool lane_commit(struct lane *l)
{
    if (l->n == 0) {
        return true;
    }
    fault_at(FAULT_import_written);
    enum err e = commit_batch(l);
    bool good = e == ERR_OK ? committed(l) : not_committed(l, e);
    l->n = 0;
    return good;
}

/* --- files ----------------------------------------------------------------------------------- */

/* Only takes note: the lane goes on from the command's own loop. */
static void on_spool(void *arg, enum spool_event ev, enum err e, const struct pointer *p,
                     struct span handle)
{
    struct lane *l = arg;
    struct written *w = &l->batch[l->n];
    l->blocked = false;
    if (ev == SPOOL_READY) {
        return;
    }
    l->writer = NULL;
    l->failed = ev == SPOOL_FAILED;
    w->pointer = p ? *p : (struct pointer){ 0 };
    if (l->failed) {
        fail(l, "spool", err_text(e));
        return;
    }
    CHECK(handle.n <= HANDLE_MAX);
    w->handle_len = handle.n;
    memcpy(w->handle, handle.n ? handle.p : "", handle.n);
}

/* A time to come would be a directory to come, and a message that is never old. */
static uint64_t arrival(const struct source_message *m)
{
    return m->time_ms > 0 && m->time_ms < admin_now() ? (uint64_t)m->time_ms : 0;
}

static void open_writer(struct lane *l)
{
    const struct source_message *m = current(l);
    const struct envelope_recipient to = { .mailbox_id = l->mailbox_id,
                                           .address = span_str(l->account->address.canon) };
    l->batch[l->n].pointer = (struct pointer){ 0 }; /* of the message before */
    l->size = 0;
    const struct spool_message s = {
        .to = &to, .n = 1, .uidl = span_str(m->uidl), .time_ms = arrival(m)
    };
    enum err e = spool_create(l->import->volumes->spool, &s, on_spool, l, &l->writer);
    if (e != ERR_OK) {
        l->failed = true;
        fail(l, "spool", e == ERR_TEMP ? "no volume takes files" : err_text(e));
    }
}

static void lane_octets(struct lane_head *h)
{
    struct lane *l = CONTAINER_OF(h, struct lane, head);
    if (!l->writer && !l->failed) {
        open_writer(l);
    }
    l->size += buf_len(&l->head.octets);
    if (l->size > SOURCE_OCTETS_MAX && !l->failed) { /* by its line ends, or it has grown */
        l->failed = true;
        fail(l, current(l)->uidl, "larger than 2 GiB as it is served");
    }
    if (l->failed) {
        reader_drop(l->head.reader);
    } else {
        l->blocked = !spool_append(l->writer, buf_span(&l->head.octets));
    }
}

static void check_size(struct lane *l, const struct written *w)
{
    const struct source_message *m = w->message;
    if (m->size_known && m->size != w->pointer.size && l->outcome->sizes++ == 0) {
        admin_say("%s: %s has %u octets, and the old server says %llu", l->account->text, m->uidl,
                  w->pointer.size, (unsigned long long)m->size);
    }
}

static void end_message(struct lane *l, bool go_on)
{
    l->failed = l->finishing = false;
    progress_step(&l->import->progress, 1);
    reader_answer(l->head.reader, NULL, go_on);
}

/* The file is durable, or it failed. */
static void lane_written(struct lane *l)
{
    struct written *w = &l->batch[l->n];
    if (l->failed) {
        if (w->pointer.volume) {
            discard(l, &w->pointer, 1);
        }
        end_message(l, false);
        return;
    }
    w->message = current(l);
    check_size(l, w);
    l->n++;
    end_message(l, l->n < BATCH || lane_commit(l));
}

/* The source failed, or the spool has before. */
static void give_up_message(struct lane *l, enum err e, const char *why)
{
    struct pointer orphan = l->batch[l->n].pointer; /* of a writer that failed */
    if (l->writer ? spool_abort(&l->writer, &orphan) : l->failed && orphan.volume) {
        discard(l, &orphan, 1);
    }
    if (e == ERR_NOTFOUND) { /* its user has deleted it meanwhile */
        l->outcome->messages--;
        l->outcome->new --;
    } else if (e != ERR_OK) {
        fail(l, current(l)->uidl, why);
    }
    end_message(l, e == ERR_NOTFOUND && !l->failed);
}

static void lane_message(struct lane_head *h)
{
    struct lane *l = CONTAINER_OF(h, struct lane, head);
    const char *why;
    enum err e = reader_err(l->head.reader, &why);
    if (!l->writer && !l->failed && e == ERR_OK) {
        open_writer(l); /* a message without a single octet */
    }
    if (e != ERR_OK || l->failed) {
        give_up_message(l, l->failed ? ERR_OK : e, why);
        return;
    }
    l->finishing = true;
    spool_finish(l->writer);
}

/* --- what has gone there --------------------------------------------------------------------- */

/* False after a message. */
static bool prune_page(struct lane *l, const struct old_place *gone, size_t n)
{
    struct admin *a = l->import->admin;
    const struct cache_key key = { .kind = CACHE_LIST, .mailbox_id = l->mailbox_id };
    struct blob_id ids[PAGE];
    int64_t seqs[PAGE];
    char name[64], who[128];
    for (size_t i = 0; i < n; i++) {
        ids[i] = gone[i].id;
        seqs[i] = (int64_t)gone[i].seq;
    }
    admin_who(name);
    snprintf(who, sizeof who, "%s: gone at the old server", name);
    admin_sql(a, "SELECT prune($1, $2, $3, $4, $5, $6)");
    pg_i64(a->batch, (int64_t)l->mailbox_id);
    pg_i64s(a->batch, seqs, n);
    pg_uuids(a->batch, ids, n);
    pg_i64(a->batch, admin_now());
    pg_i64(a->batch, (int64_t)a->config->spool_grace);
    pg_text(a->batch, span_str(who));
    enum err e = admin_run_change(a, &key, 1);
    if (e == ERR_NOTFOUND) {
        fail(l, "", "it is no longer suspended: nothing more is pruned");
    } else if (e != ERR_OK) {
        fail_database(l);
    } else {
        l->outcome->pruned += (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
    }
    return e == ERR_OK;
}

static void prune(struct lane *l)
{
    bool good = l->import->prune && l->import->yes && !l->outcome->error[0];
    for (size_t at = 0; good && at < l->n_gone; at += PAGE) {
        good = prune_page(l, l->gone + at, l->n_gone - at < PAGE ? l->n_gone - at : PAGE);
    }
}

/* --- accounts -------------------------------------------------------------------------------- */

static void lane_ended(struct lane_head *h)
{
    struct lane *l = CONTAINER_OF(h, struct lane, head);
    const char *why;
    enum err e = reader_err(h->reader, &why);
    find_account(l);
    if (e != ERR_OK) {
        fail(l, "", why);
        l->outcome->code = e == ERR_INVALID ? EX_DATAERR : EX_TEMPFAIL;
    }
    lane_commit(l);
    if (l->outcome->large && !l->outcome->error[0]) {
        fail(l, "", "messages that are too large were left out");
        l->outcome->code = EX_DATAERR;
    }
    prune(l);
    forget_list(l);
}

static enum lane_pause lane_pause(struct lane_head *h)
{
    struct lane *l = CONTAINER_OF(h, struct lane, head);
    if (l->finishing && !l->writer) {
        lane_written(l);
        return LANE_STEPPED;
    }
    return l->finishing || l->blocked ? LANE_WAITS : LANE_FREE;
}

static void import_accounts(struct import *im, const struct readers_options *o)
{
    static const struct lane_ops ops = { lane_pause, lane_listed, lane_octets, lane_message,
                                         lane_ended };
    struct lane *lanes = NEW_ARRAY(struct lane, o->threads);
    struct lane_head **heads = NEW_ARRAY(struct lane_head *, o->threads);
    for (unsigned i = 0; i < o->threads; i++) {
        lanes[i].import = im;
        heads[i] = &lanes[i].head;
    }
    progress_begin(&im->progress, "messages", 0, 0);
    lanes_run(im->admin->loop, o, &ops, heads);
    progress_end(&im->progress);
    free(heads);
    free(lanes);
}

/* --- the command ----------------------------------------------------------------------------- */

static int report(const struct import *im)
{
    static const struct column columns[] = {
        { "address", "ADDRESS", COLUMN_TEXT },
        { "messages", "MESSAGES", COLUMN_NUMBER },
        { "known", "KNOWN", COLUMN_NUMBER },
        { "new", "NEW", COLUMN_NUMBER },
        { "taken", "TAKEN", COLUMN_NUMBER },
        { "octets", "OCTETS", COLUMN_NUMBER },
        { "sizes_differ", "OTHER SIZE", COLUMN_NUMBER },
        { "uidls_changed", "OTHER UIDL", COLUMN_NUMBER },
        { "too_large", "TOO LARGE", COLUMN_NUMBER },
        { "gone", "GONE", COLUMN_NUMBER },
        { "pruned", "PRUNED", COLUMN_NUMBER },
        { "error", "ERROR", COLUMN_TEXT },
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    bool whole = true;
    for (size_t i = 0; i < im->list.n; i++) {
        const struct outcome *o = &im->outcomes[i];
        const uint64_t numbers[] = { o->messages, o->known, o->new,   o->taken, o->octets,
                                     o->sizes,    o->uidls, o->large, o->gone,  o->pruned };
        table_text(t, span_str(im->list.accounts[i].address.canon));
        for (size_t j = 0; j < ARRAY_LEN(numbers); j++) {
            table_number(t, numbers[j]);
        }
        if (o->error[0]) {
            table_text(t, span_str(o->error));
        } else {
            table_none(t);
        }
        whole = whole && !o->error[0];
    }
    table_print(t, im->admin->json, "", stdout);
    table_free(&t);
    if (!im->yes) {
        admin_say("nothing was done: --yes takes what is new%s",
                  im->prune ? ", and deletes what has gone at the old server" : "");
    }
    return whole ? EX_OK : im->list.n == 1 ? im->outcomes[0].code : EX_TEMPFAIL;
}

static int run_import(struct import *im, const struct args *args, char *password)
{
    struct readers_options o;
    int code = lanes_options(args, &im->list, password, &o);
    code = code == EX_OK && im->yes ? open_spool(im->admin, &im->volumes) : code;
    if (code != EX_OK) {
        return code;
    }
    im->outcomes = NEW_ARRAY(struct outcome, im->list.n);
    import_accounts(im, &o);
    if (im->volumes) {
        close_spool(im->admin, &im->volumes);
    }
    code = report(im);
    free(im->outcomes);
    return code;
}

int command_import(struct admin *a, const struct args *args)
{
    const char *path = args->opt[ARG_list];
    struct import im = { .admin = a, .yes = args->opt[ARG_yes], .prune = args->opt[ARG_prune] };
    char *password = NULL;
    if ((path != NULL) == (args->n == 2)) {
        return admin_fail(EX_USAGE, "usage: mailfleet import URL ADDRESS, or URL --list FILE");
    }
    int code = path ? move_list_read(path, &im.list) : move_list_one(args->v[1], &im.list);
    if (code == EX_OK) {
        code = move_password(args->opt[ARG_password_file], &password);
    }
    if (code == EX_OK) {
        code = run_import(&im, args, password);
    }
    if (password) {
        explicit_bzero(password, strlen(password));
    }
    free(password);
    move_list_free(&im.list);
    return code;
}
