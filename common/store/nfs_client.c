/*
 * nfs_client: calls wait in a queue, go out on the link with the fewest of them, and come back by
 * way of a slot.
 *
 * A link is one connection and its slots, one for each call that was sent on it. libnfs knows the
 * slot, not the call, so that a call can end at its deadline while its answer may still come: the
 * slot is then empty until it does, or until the link ends. A link lives in one of three states:
 *
 *   CONNECTING  -> UP when the connection stands, gone when it does not
 *   UP          takes calls; -> LATE when one of them passes its deadline or fails, gone when lost
 *   LATE        takes no more; gone when none of its calls is waited for
 *
 * One timer looks at all deadlines while there is a call or a link that is not UP: there are few
 * hundred of them at most, and nothing else then has to keep them in order.
 */
#include "store/nfs_client.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "store/nfs_back_off.h"
#include "store/spool_backend.h"

#define SLOTS   64 /* calls on a connection; servers stop reading at about twice as many */
#define SHARE   8  /* with as many on each, another connection is opened */
#define TICK_MS 50

enum link_state { LINK_CONNECTING, LINK_UP, LINK_LATE };

struct nfs_slot {
    struct nfs_link *link;
    struct nfs_call *call; /* NULL: free, or nobody waits any more */
    bool sent;             /* libnfs holds it, */
    uint64_t since;        /* from then on */
};

struct nfs_link {
    struct list link; /* of client.links */
    struct nfs_client *client;
    struct nfs_conn *conn;
    enum link_state state;
    bool asked, answered; /* once */
    uint64_t since;
    unsigned sent;    /* slots that libnfs holds */
    unsigned awaited; /* those of them with a call */
    struct nfs_slot slots[SLOTS];
};

struct nfs_client {
    struct loop *loop;
    struct pool *pool;
    struct nfs_client_options options;
    char host[256];
    struct list links;
    struct list waiting; /* calls */
    unsigned n_waiting;
    bool broken;
    bool stopped;
    uint64_t answered;            /* when the server last did, by loop_now */
    struct nfs_back_off back_off; /* of connecting */
    uv_timer_t *timer;            /* NULL once stopped; libuv lets go of it later than the rest */
    char why[HEALTH_WHY];
};

static void pump(struct nfs_client *c);

/* --- the end of a call ----------------------------------------------------------------------- */

static void call_end(struct nfs_call *call, enum err e)
{
    call->done(call, e, NFS3_OK, NULL);
}

static void on_refused(struct task *t)
{
    struct nfs_call *call = CONTAINER_OF(t, struct nfs_call, task);
    call_end(call, call->err);
}

static void call_refuse(struct nfs_call *call, enum err e)
{
    call->err = e;
    call->task.run = on_refused;
    loop_post(call->client->loop, &call->task);
}

/* Those that wait were not sent. They are taken off first: their ends may start others. */
static void refuse_waiting(struct nfs_client *c)
{
    for (struct list *l; (l = list_pop(&c->waiting));) {
        c->n_waiting--;
        call_refuse(CONTAINER_OF(l, struct nfs_call, link), ERR_TEMP);
    }
}

/* --- links ----------------------------------------------------------------------------------- */

static void note(struct nfs_client *c, const char *why)
{
    snprintf(c->why, sizeof c->why, "%s", why);
}

/* Something answers: whatever was wrong is over. */
static void mended(struct nfs_client *c)
{
    if (c->broken) {
        LOG(LOG_INFO, "nfs.answers", F_STR("host", c->host), F_U64("port", c->options.port));
    }
    c->broken = false;
    c->answered = loop_now(c->loop);
    *c->why = '\0';
    nfs_back_off_end(&c->back_off);
}

static void break_off(struct nfs_client *c, const char *why)
{
    if (!c->broken) {
        LOG(LOG_WARN, "nfs.breaker_open", F_STR("host", c->host), F_U64("port", c->options.port),
            F_STR("why", why));
    }
    note(c, why);
    c->broken = true;
    refuse_waiting(c);
}

/* Each link ends once; libnfs calls the callbacks of what it still holds. */
static void link_free(struct nfs_link *l)
{
    list_del(&l->link);
    nfs_conn_close(&l->conn);
    CHECK(l->sent == 0);
    free(l);
}

static unsigned count_links(const struct nfs_client *c, enum link_state state)
{
    unsigned n = 0;
    LIST_FOR (link, &c->links) {
        n += CONTAINER_OF(link, struct nfs_link, link)->state == state;
    }
    return n;
}

/* What waits may still go out on another connection; without any the server is out of reach. */
static void connect_failed(struct nfs_client *c, const char *why)
{
    nfs_back_off_failed(&c->back_off, loop_now(c->loop));
    if (!count_links(c, LINK_UP)) {
        break_off(c, why);
    } else {
        note(c, why);
    }
}

static void on_conn(void *arg, enum nfs_conn_event ev, const char *why)
{
    struct nfs_link *l = arg;
    struct nfs_client *c = l->client;
    if (ev == NFS_CONN_UP) {
        l->state = LINK_UP;
        pump(c);
        return;
    }
    /* One that is accepted and then closed is no better than one that is refused. */
    bool useless = l->state == LINK_CONNECTING || (l->asked && !l->answered);
    char text[HEALTH_WHY];
    snprintf(text, sizeof text, "%s", why); /* it goes with the connection */
    link_free(l);
    if (useless) {
        connect_failed(c, text);
    } else {
        note(c, text);
        pump(c);
    }
}

static void link_open(struct nfs_client *c)
{
    struct nfs_link *l = NEW(struct nfs_link);
    l->client = c;
    l->state = LINK_CONNECTING;
    l->since = loop_now(c->loop);
    for (size_t i = 0; i < SLOTS; i++) {
        l->slots[i].link = l;
    }
    list_add(&c->links, &l->link);
    l->conn =
        nfs_conn_open(c->loop, c->pool, c->host, c->options.port, &c->options.owner, on_conn, l);
}

/* --- sending --------------------------------------------------------------------------------- */

/* What libnfs says of a connection that was lost speaks of what it was told not to do. */
static void note_error(struct nfs_client *c, const char *text)
{
    if (text) {
        note(c, strncmp(text, "RPC ERROR", 9) == 0 ? "the connection was lost" : text);
    }
}

/* The callback of libnfs for every procedure. */
static void on_reply(struct rpc_context *rpc, int status, void *data, void *arg)
{
    struct nfs_slot *s = arg;
    struct nfs_call *call = s->call;
    struct nfs_link *l = s->link;
    struct nfs_client *c = l->client;
    (void)rpc;
    s->sent = false;
    s->call = NULL;
    l->sent--;
    if (status == RPC_STATUS_SUCCESS) {
        l->answered = true;
        mended(c);
    } else {
        l->state = LINK_LATE; /* libnfs takes no call while it ends those it has */
    }
    if (!call) {
        return;
    }
    l->awaited--;
    if (status == RPC_STATUS_SUCCESS && data) {
        nfsstat3 result;
        memcpy(&result, data, sizeof result); /* every result begins with it */
        call->done(call, ERR_OK, result, data);
    } else {
        note_error(c, status == RPC_STATUS_ERROR ? data : NULL);
        call_end(call, ERR_UNCERTAIN);
    }
    if (status == RPC_STATUS_SUCCESS) {
        pump(c);
    }
}

static nfs_fh3 handle_of(struct nfs_call *call)
{
    return (nfs_fh3){ { call->file.len, (char *)call->file.octets } };
}

static sattr3 attributes(uint32_t mode)
{
    return (sattr3){ .mode = { .set_it = 1, .set_mode3_u = { .mode = mode } } };
}

/* libnfs copies all it is given. */
static int send_call(struct rpc_context *rpc, struct nfs_call *call, struct nfs_slot *s)
{
    nfs_fh3 file = handle_of(call);
    diropargs3 entry = { file, call->name };
    switch (call->procedure) {
    case NFS3_GETATTR:
        return rpc_nfs3_getattr_async(rpc, on_reply, &(GETATTR3args){ file }, s);
    case NFS3_LOOKUP:
        return rpc_nfs3_lookup_async(rpc, on_reply, &(LOOKUP3args){ entry }, s);
    case NFS3_READ:
        return rpc_nfs3_read_async(rpc, on_reply, &(READ3args){ file, call->offset, call->count },
                                   s);
    case NFS3_WRITE:
        return rpc_nfs3_write_async(
            rpc, on_reply,
            &(WRITE3args){ file,
                           call->offset,
                           call->count,
                           call->stable,
                           { call->count, (char *)(uintptr_t)call->data.p } },
            s);
    case NFS3_CREATE:
        return rpc_nfs3_create_async(
            rpc, on_reply,
            &(CREATE3args){ entry,
                            { GUARDED, { .g_obj_attributes = attributes(SPOOL_FILE_MODE) } } },
            s);
    case NFS3_MKDIR:
        return rpc_nfs3_mkdir_async(rpc, on_reply,
                                    &(MKDIR3args){ entry, attributes(SPOOL_DIR_MODE) }, s);
    case NFS3_REMOVE:
        return rpc_nfs3_remove_async(rpc, on_reply, &(REMOVE3args){ entry }, s);
    case NFS3_COMMIT:
        return rpc_nfs3_commit_async(rpc, on_reply, &(COMMIT3args){ file, 0, 0 }, s);
    case NFS3_FSINFO:
        return rpc_nfs3_fsinfo_async(rpc, on_reply, &(FSINFO3args){ file }, s);
    case NFS3_FSSTAT:
        return rpc_nfs3_fsstat_async(rpc, on_reply, &(FSSTAT3args){ file }, s);
    case NFS3_READDIRPLUS: {
        READDIRPLUS3args args = { file, call->offset, { 0 }, call->count, call->count };
        memcpy(args.cookieverf, call->verifier, sizeof args.cookieverf);
        return rpc_nfs3_readdirplus_async(rpc, on_reply, &args, s);
    }
    default:
        CHECK(!"a procedure of NFSv3");
        return -1;
    }
}

static struct nfs_slot *free_slot(struct nfs_link *l)
{
    size_t i = 0;
    while (l->slots[i].sent) {
        i++;
    }
    return &l->slots[i];
}

static void link_send(struct nfs_link *l, struct nfs_call *call)
{
    struct nfs_slot *s = free_slot(l);
    if (send_call(nfs_conn_rpc(l->conn), call, s) != 0) {
        call_refuse(call, ERR_TEMP);
        return;
    }
    stats_add(STAT_nfs_calls, 1);
    s->call = call;
    s->sent = true;
    s->since = loop_now(l->client->loop);
    call->slot = s;
    l->asked = true;
    l->sent++;
    l->awaited++;
    nfs_conn_flush(l->conn);
}

/* The link that is UP and holds the fewest calls, if it can take one more. */
static struct nfs_link *choose(const struct nfs_client *c)
{
    struct nfs_link *best = NULL;
    LIST_FOR (link, &c->links) {
        struct nfs_link *l = CONTAINER_OF(link, struct nfs_link, link);
        if (l->state == LINK_UP && l->sent < SLOTS && (!best || l->sent < best->sent)) {
            best = l;
        }
    }
    return best;
}

static void on_tick(uv_timer_t *t);

/*
 * Another connection: none stands, or those that do are all busy. One is opened at a time. Those
 * that are LATE count too: a server that hangs is not sent more and more of them.
 */
static void open_another(struct nfs_client *c, const struct nfs_link *best)
{
    unsigned all = count_links(c, LINK_UP) + count_links(c, LINK_LATE);
    bool wanted = !best || best->sent >= SHARE;
    if (wanted && !count_links(c, LINK_CONNECTING) && all < 2 * c->options.connections &&
        count_links(c, LINK_UP) < c->options.connections &&
        nfs_back_off_over(&c->back_off, loop_now(c->loop))) {
        link_open(c);
    }
}

static void pump(struct nfs_client *c)
{
    struct nfs_link *best = choose(c);
    while (best && !list_empty(&c->waiting)) {
        c->n_waiting--;
        link_send(best, CONTAINER_OF(list_pop(&c->waiting), struct nfs_call, link));
        best = choose(c);
    }
    if (!c->stopped && (!list_empty(&c->waiting) || (best && best->sent >= SHARE))) {
        open_another(c, best);
    }
    if (c->timer && !uv_is_active((uv_handle_t *)c->timer)) {
        uv_timer_start(c->timer, on_tick, TICK_MS, TICK_MS);
    }
}

/* What waits has no connection to wait for. */
static bool is_out_of_reach(const struct nfs_client *c)
{
    return !count_links(c, LINK_UP) && !count_links(c, LINK_CONNECTING) &&
           !nfs_back_off_over(&c->back_off, loop_now(c->loop));
}

void nfs_call_start(struct nfs_client *c, struct nfs_call *call)
{
    call->client = c;
    call->slot = NULL;
    if (c->stopped || (c->broken && !call->probe) || is_out_of_reach(c) ||
        call->deadline <= loop_now(c->loop)) {
        call_refuse(call, ERR_TEMP);
    } else if (c->n_waiting >= c->options.queue) {
        call_refuse(call, ERR_LIMIT);
    } else {
        list_add(&c->waiting, &call->link);
        c->n_waiting++;
        pump(c);
    }
}

/* --- deadlines ------------------------------------------------------------------------------- */

static void expire_waiting(struct nfs_client *c, uint64_t now)
{
    LIST_FOR_SAFE (link, &c->waiting) {
        struct nfs_call *call = CONTAINER_OF(link, struct nfs_call, link);
        if (call->deadline <= now) {
            list_del(&call->link);
            c->n_waiting--;
            call_refuse(call, ERR_TEMP);
        }
    }
}

/* The slot stays with libnfs until the answer or the end of the link. */
static void give_up(struct nfs_slot *s)
{
    struct nfs_call *call = s->call;
    s->call = NULL;
    s->link->awaited--;
    s->link->state = LINK_LATE;
    stats_add(STAT_spool_timeouts, 1);
    call_end(call, ERR_UNCERTAIN);
}

/*
 * A call near the end of its operation's deadline may have been sent a moment ago. The server hangs
 * if it had a fair time, and has answered nothing since.
 */
static bool shows_hang(const struct nfs_slot *s, uint64_t now)
{
    const struct nfs_client *c = s->link->client;
    return c->answered <= s->since && now - s->since >= c->options.timeout_ms / 2;
}

/* Ends the calls of a link that are late; true: the server hangs. */
static bool expire_sent(struct nfs_link *l, uint64_t now)
{
    bool hangs = false;
    for (size_t i = 0; i < SLOTS; i++) {
        struct nfs_slot *s = &l->slots[i];
        if (s->call && s->call->deadline <= now) {
            hangs = shows_hang(s, now) || hangs;
            note(l->client, "the server does not answer");
            give_up(s);
        }
    }
    return hangs;
}

/* What else is connected is as dead: a probe shall not try one after the other. */
static void distrust_links(struct nfs_client *c)
{
    LIST_FOR (link, &c->links) {
        struct nfs_link *l = CONTAINER_OF(link, struct nfs_link, link);
        if (l->state == LINK_UP) {
            l->state = LINK_LATE;
        }
    }
}

/* Ends what is over or was never up; true: one of the latter. */
static bool sweep_links(struct nfs_client *c, uint64_t now)
{
    bool slow = false;
    LIST_FOR_SAFE (link, &c->links) {
        struct nfs_link *l = CONTAINER_OF(link, struct nfs_link, link);
        bool over = l->state == LINK_LATE && !l->awaited;
        bool never = l->state == LINK_CONNECTING && now - l->since >= c->options.timeout_ms;
        slow = slow || never;
        if (over || never) {
            link_free(l);
        }
    }
    return slow;
}

static bool is_idle(const struct nfs_client *c)
{
    LIST_FOR (link, &c->links) {
        const struct nfs_link *l = CONTAINER_OF(link, struct nfs_link, link);
        if (l->state != LINK_UP || l->awaited) {
            return false;
        }
    }
    return list_empty(&c->waiting);
}

static void on_tick(uv_timer_t *t)
{
    struct nfs_client *c = t->data;
    uint64_t now = loop_now(c->loop);
    bool hangs = false;
    LIST_FOR (link, &c->links) {
        hangs = expire_sent(CONTAINER_OF(link, struct nfs_link, link), now) || hangs;
    }
    if (hangs) {
        distrust_links(c);
        break_off(c, "the server does not answer");
    }
    if (sweep_links(c, now)) {
        connect_failed(c, "the server does not accept connections");
    }
    expire_waiting(c, now);
    if (is_out_of_reach(c)) {
        refuse_waiting(c);
    } else {
        pump(c);
    }
    if (is_idle(c)) {
        uv_timer_stop(t);
    }
}

/* --- the client ------------------------------------------------------------------------------ */

bool nfs_client_stuck(const struct nfs_client *c)
{
    return c->broken;
}

const char *nfs_client_why(const struct nfs_client *c)
{
    return c->why;
}

struct nfs_client *nfs_client_open(struct loop *l, struct pool *p,
                                   const struct nfs_client_options *o)
{
    struct nfs_client *c = NEW(struct nfs_client);
    c->loop = l;
    c->pool = p;
    c->options = *o;
    snprintf(c->host, sizeof c->host, "%s", o->host);
    list_init(&c->links);
    list_init(&c->waiting);
    c->timer = NEW(uv_timer_t);
    CHECK(uv_timer_init(loop_uv(l), c->timer) == 0);
    c->timer->data = c;
    return c;
}

static void on_timer_closed(uv_handle_t *h)
{
    free(h);
}

/* Ends of calls may start others, which are refused: stopped is set first. */
void nfs_client_stop(struct nfs_client *c)
{
    c->stopped = true;
    while (!list_empty(&c->links)) {
        link_free(CONTAINER_OF(c->links.next, struct nfs_link, link));
    }
    for (struct list *l; (l = list_pop(&c->waiting));) {
        c->n_waiting--;
        call_end(CONTAINER_OF(l, struct nfs_call, link), ERR_TEMP);
    }
    uv_close((uv_handle_t *)c->timer, on_timer_closed);
    c->timer = NULL;
}

void nfs_client_close(struct nfs_client **pc)
{
    struct nfs_client *c = *pc;
    *pc = NULL;
    CHECK(c->stopped && list_empty(&c->links) && list_empty(&c->waiting));
    free(c);
}
