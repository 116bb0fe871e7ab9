/*
 * ahead: a row of messages, each with a reader of its own until it is there.
 *
 * It decides how many are read together and keeps them until they are asked for, or until something
 * else is. It knows no file and no volume but by the spool, and no protocol.
 */
#include "store/ahead.h"

#include <stdlib.h>

#include "base/check.h"

enum {
    ROW_MAX = 16,            /* messages read together */
    MESSAGE_MAX = 64 << 10,  /* octets of one */
    SESSION_MAX = 128 << 10, /* of a row */
    PROCESS_MAX = 32 << 20   /* of all rows */
};

struct place {
    struct ahead *ahead;
    struct spool_reader *reader; /* until it has ended */
    enum err err;                /* then: OK, it is there; LIMIT: it is longer than a piece; BUSY:
                                    those before it took too long */
    char *octets;                /* when it is there, until somebody wants them */
    size_t n;
    size_t held; /* of store.ahead */
};

struct ahead {
    struct store *store;
    const struct maildrop *m;
    size_t next;  /* the message behind the last one that was wanted */
    size_t run;   /* how many were wanted in a row */
    bool slow;    /* a row took too long: there is no other */
    size_t first; /* the message in places[0] */
    size_t n;
    struct place places[ROW_MAX];
    struct place *wanted;
    struct place *lent; /* its octets are looked at until the next call */
    ahead_fn *got;
    void *arg;
    struct task task; /* tells of the wanted one, behind all that came in the same turn */
};

static void place_clear(struct place *p)
{
    stats_add(STAT_spool_unwanted, p->octets != NULL);
    spool_read_close(&p->reader);
    free(p->octets);
    p->ahead->store->ahead -= p->held;
    *p = (struct place){ .ahead = p->ahead, .err = ERR_NOTFOUND };
}

static void row_clear(struct ahead *a)
{
    for (size_t i = 0; i < a->n; i++) {
        place_clear(&a->places[i]);
    }
    a->n = 0;
}

/* Whoever is told may close all this. */
static void tell(struct ahead *a)
{
    struct place *p = a->wanted;
    char *octets = p->octets;
    size_t n = p->n;
    enum err e = p->err;
    a->wanted = NULL;
    p->octets = NULL;
    place_clear(p);
    a->got(a->arg, e, span_of(octets, n));
    free(octets);
}

static void on_task(struct task *t)
{
    tell(CONTAINER_OF(t, struct ahead, task));
}

/* The handle that it was found by is kept, as with any other read. */
static void keep(struct place *p, struct span piece)
{
    struct ahead *a = p->ahead;
    struct span handle = spool_reader_handle(p->reader);
    if (handle.n) {
        struct pointer at = maildrop_at(a->m, a->first + (size_t)(p - a->places));
        repair_add(a->store->repair, a->m->mailbox_id, &at, handle);
    }
    p->octets = span_dup(piece);
    p->n = piece.n;
}

static void on_piece(void *arg, enum err e, struct span piece, bool last)
{
    struct place *p = arg;
    struct ahead *a = p->ahead;
    p->err = last ? e : ERR_LIMIT;
    if (p->err == ERR_OK) {
        keep(p, piece);
    } else if (!last) {
        spool_read_close(&p->reader); /* not for here */
    }
    a->slow |= p->err == ERR_TEMP;
    p->reader = NULL;
    if (a->wanted == p) {
        loop_post(a->store->loop, &a->task);
    }
}

/* How many of the messages from i on may come together. */
static size_t row_length(const struct ahead *a, size_t i, size_t held[ROW_MAX])
{
    size_t most = a->run < ROW_MAX ? a->run : ROW_MAX, n = 0, sum = 0;
    uint16_t volume = maildrop_at(a->m, i).volume;
    for (; n < most && i + n < a->m->count; n++) {
        struct pointer p = maildrop_at(a->m, i + n);
        held[n] = (size_t)p.skip + p.size;
        sum += held[n];
        if (p.volume != volume || held[n] > MESSAGE_MAX || sum > SESSION_MAX ||
            a->store->ahead + sum > PROCESS_MAX) {
            break;
        }
    }
    return n;
}

static bool row_begin(struct ahead *a, size_t i)
{
    size_t held[ROW_MAX], n = row_length(a, i, held);
    uint16_t volume = maildrop_at(a->m, i).volume;
    if (n < 2 || a->slow) {
        return false;
    }
    a->first = i;
    a->n = n;
    spool_gather(a->store->spool, volume, true);
    for (size_t k = 0; k < n; k++) {
        struct pointer at = maildrop_at(a->m, i + k);
        struct place *p = &a->places[k];
        p->held = held[k];
        a->store->ahead += held[k];
        p->reader = spool_read(a->store->spool, &at, maildrop_handle(a->m, i + k), on_piece, p);
    }
    spool_gather(a->store->spool, volume, false);
    return true;
}

static void take_back(struct ahead *a)
{
    if (a->lent) {
        free(a->lent->octets);
        a->lent->octets = NULL;
        place_clear(a->lent);
        a->lent = NULL;
    }
}

static void want(struct ahead *a, size_t i)
{
    a->run = i == a->next ? a->run + 1 : 1;
    a->next = i + 1;
}

bool ahead_ready(struct ahead *a, size_t i, struct span *octets)
{
    CHECK(!a->wanted);
    take_back(a);
    struct place *p = i - a->first < a->n ? &a->places[i - a->first] : NULL;
    if (!p || !p->octets) {
        return false;
    }
    want(a, i);
    a->lent = p;
    *octets = span_of(p->octets, p->n);
    return true;
}

bool ahead_get(struct ahead *a, size_t i, ahead_fn *got, void *arg)
{
    CHECK(!a->wanted);
    take_back(a);
    want(a, i);
    if (i - a->first >= a->n) {
        row_clear(a);
        if (!row_begin(a, i)) {
            return false;
        }
    }
    struct place *p = &a->places[i - a->first];
    if (!p->reader) {
        return false;
    }
    a->wanted = p;
    a->got = got;
    a->arg = arg;
    return true;
}

void ahead_leave(struct ahead *a)
{
    a->wanted = NULL;
    list_del(&a->task.link);
}

struct ahead *ahead_open(struct store *s, const struct maildrop *m)
{
    struct ahead *a = NEW(struct ahead);
    a->store = s;
    a->m = m;
    a->task.run = on_task;
    list_init(&a->task.link);
    for (size_t i = 0; i < ROW_MAX; i++) {
        a->places[i] = (struct place){ .ahead = a, .err = ERR_NOTFOUND };
    }
    return a;
}

void ahead_close(struct ahead **pa)
{
    struct ahead *a = *pa;
    *pa = NULL;
    if (a) {
        take_back(a);
        row_clear(a);
        list_del(&a->task.link);
        free(a);
    }
}
