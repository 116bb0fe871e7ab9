/*
 * nfs_volume: two small state machines on top of nfs_client.
 *
 * Attaching: MOUNT (nfs_mount) -> FSINFO -> LOOKUP of the sentinel -> READ of it. All who need the
 * volume meanwhile wait in a list, and end with it.
 *
 * Walking: the day's directory, then the leaf in it; for each LOOKUP, and MKDIR if it is to be
 * made. A day in which several leaves were looked for is listed: one or two calls instead of up to
 * 256. It holds nothing but hash directories; directories of messages are never listed. One walks
 * at a time: of those that begin together, most find their directory known when their turn comes.
 */
#include "store/nfs_volume.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"

#define THREADS          2           /* hashing does not wait, looking up a host may */
#define LIBNFS_READ_MOST (1u << 20)  /* a longer answer closes the connection */
#define LIST_MOST        (64u << 10) /* octets of one page of a listing */
#define LEAST            512         /* a server that says less of its limits makes no sense */
#define WALK_CALLS       32

/* --- what the server says -------------------------------------------------------------------- */

bool nfs_is_stale(nfsstat3 status)
{
    return status == NFS3ERR_STALE || status == NFS3ERR_BADHANDLE;
}

bool nfs_is_refusal(nfsstat3 status)
{
    switch (status) {
    case NFS3ERR_PERM:
    case NFS3ERR_NOENT:
    case NFS3ERR_ACCES:
    case NFS3ERR_NOTDIR:
    case NFS3ERR_INVAL:
    case NFS3ERR_NOSPC:
    case NFS3ERR_ROFS:
    case NFS3ERR_DQUOT:
    case NFS3ERR_STALE:
    case NFS3ERR_BADHANDLE:
    case NFS3ERR_NOTSUPP:
        return true;
    default:
        return false;
    }
}

void nfs_explain(const struct nfs_volume *nv, const char *what, enum err e, nfsstat3 status,
                 char why[HEALTH_WHY])
{
    if (e == ERR_OK) {
        snprintf(why, HEALTH_WHY, "%s: %s", what, nfsstat3_to_str((int)status));
    } else if (e == ERR_LIMIT) {
        snprintf(why, HEALTH_WHY, "%s: too many calls wait", what);
    } else {
        const char *last = nfs_client_why(nv->client);
        snprintf(why, HEALTH_WHY, "%s: %s", what, *last ? last : "no answer");
    }
}

/* --- attaching ------------------------------------------------------------------------------- */

static void on_waited(struct task *t)
{
    struct nfs_waiter *w = CONTAINER_OF(t, struct nfs_waiter, task);
    w->done(w, w->err);
}

static void end_waiter(struct nfs_volume *nv, struct nfs_waiter *w, enum err e)
{
    w->err = e;
    w->task.run = on_waited;
    loop_post(nv->loop, &w->task);
}

static void end_waiters(struct nfs_volume *nv, enum err e)
{
    for (struct list *l; (l = list_pop(&nv->waiters));) {
        end_waiter(nv, CONTAINER_OF(l, struct nfs_waiter, link), e);
    }
}

static void attached(struct nfs_volume *nv)
{
    nv->state = NFS_ATTACHED;
    *nv->why = '\0';
    nfs_back_off_end(&nv->back_off);
    end_waiters(nv, ERR_OK);
}

static void not_attached(struct nfs_volume *nv)
{
    nfs_back_off_failed(&nv->back_off, loop_now(nv->loop));
    nv->state = NFS_OUT_OF_REACH;
    end_waiters(nv, ERR_TEMP);
}

static struct nfs_volume *of_call(struct nfs_call *c)
{
    return CONTAINER_OF(c, struct nfs_volume, call);
}

/* True: there is an answer, and it is good. Else it is over. */
static bool went_well(struct nfs_volume *nv, const char *what, enum err e, nfsstat3 status)
{
    if (e == ERR_OK && status == NFS3_OK) {
        return true;
    }
    nfs_explain(nv, what, e, status, nv->why);
    not_attached(nv);
    return false;
}

/* A server may go on serving a file that was removed, as long as it has it open. */
static bool is_removed(const post_op_attr *a)
{
    return a->attributes_follow && a->post_op_attr_u.attributes.nlink == 0;
}

enum err nfs_sentinel_check(struct nfs_volume *nv, const READ3res *r)
{
    const READ3resok *ok = &r->READ3res_u.resok;
    if (is_removed(&ok->file_attributes)) {
        snprintf(nv->why, sizeof nv->why, SPOOL_SENTINEL " was removed");
        return ERR_CORRUPT;
    }
    if (ok->data.data_len > sizeof nv->volume.uuid) {
        snprintf(nv->why, sizeof nv->why,
                 SPOOL_SENTINEL ": the server sends more than was asked for");
        return ERR_CORRUPT;
    }
    struct span text = span_of(ok->data.data_val, ok->data.data_len);
    text = span_first(text, span_find(text, '\n'));
    if (!*nv->volume.uuid && spool_is_uuid(text)) {
        memcpy(nv->volume.uuid, text.p, text.n);
        nv->volume.uuid[text.n] = '\0';
    }
    if (text.n && span_eq(text, span_str(nv->volume.uuid))) {
        return ERR_OK;
    }
    snprintf(nv->why, sizeof nv->why, SPOOL_SENTINEL " holds the UUID of another volume");
    return ERR_CORRUPT;
}

static void on_sentinel_read(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct nfs_volume *nv = of_call(c);
    if (!went_well(nv, SPOOL_SENTINEL, e, status)) {
        return;
    }
    if (nfs_sentinel_check(nv, reply) == ERR_OK) {
        attached(nv);
    } else {
        not_attached(nv);
    }
}

static void attach_call(struct nfs_volume *nv, int procedure, const struct nfs_handle *file,
                        nfs_call_fn *done)
{
    nv->call = (struct nfs_call){ .procedure = procedure,
                                  .file = *file,
                                  .deadline = nv->attach_deadline,
                                  .probe = true,
                                  .done = done };
    if (procedure == NFS3_LOOKUP) {
        snprintf(nv->call.name, sizeof nv->call.name, SPOOL_SENTINEL);
    } else if (procedure == NFS3_READ) {
        nv->call.count = sizeof nv->volume.uuid;
    }
    nfs_call_start(nv->client, &nv->call);
}

static void on_sentinel_found(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct nfs_volume *nv = of_call(c);
    const LOOKUP3res *r = reply;
    if (!went_well(nv, SPOOL_SENTINEL, e, status)) {
        return;
    }
    const nfs_fh3 *h = &r->LOOKUP3res_u.resok.object;
    nfs_handle_set(&nv->sentinel, span_of(h->data.data_val, h->data.data_len));
    attach_call(nv, NFS3_READ, &nv->sentinel, on_sentinel_read);
}

static uint32_t limit(uint32_t servers, uint32_t ours)
{
    uint32_t n = servers < ours ? servers : ours;
    return n > LEAST ? n : LEAST;
}

static void on_fsinfo(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct nfs_volume *nv = of_call(c);
    const FSINFO3res *r = reply;
    if (!went_well(nv, "FSINFO", e, status)) {
        return;
    }
    const FSINFO3resok *ok = &r->FSINFO3res_u.resok;
    nv->rtmax = limit(ok->rtmax, LIBNFS_READ_MOST);
    nv->wtmax = limit(ok->wtmax, LIBNFS_READ_MOST);
    nv->dtmax = limit(ok->rtmax, LIST_MOST);
    if (nv->bare) {
        attached(nv);
    } else {
        attach_call(nv, NFS3_LOOKUP, &nv->root, on_sentinel_found);
    }
}

static void on_mount(void *arg, enum err e, const struct nfs_handle *root, const char *why)
{
    struct nfs_volume *nv = arg;
    nv->mount = NULL;
    if (e != ERR_OK) {
        snprintf(nv->why, sizeof nv->why, "%s", why);
        not_attached(nv);
        return;
    }
    if (root->len != nv->root.len || memcmp(root->octets, nv->root.octets, root->len) != 0) {
        nfs_dirs_clear(&nv->dirs);
    }
    nv->root = *root;
    attach_call(nv, NFS3_FSINFO, &nv->root, on_fsinfo);
}

/* After a failure only a probe waits for the server; others fail at once until one went well. */
static bool may_try(const struct nfs_volume *nv, bool probe)
{
    if (nv->stopped || nv->nonsense) {
        return false;
    }
    if (nv->state == NFS_ATTACHING) {
        return probe || !nv->back_off.delay;
    }
    return !nv->back_off.delay || (probe && nfs_back_off_over(&nv->back_off, loop_now(nv->loop)));
}

bool nfs_volume_stuck(const struct nfs_volume *nv)
{
    return nv->stopped || nv->nonsense || (nv->state != NFS_ATTACHED && nv->back_off.delay) ||
           nfs_client_stuck(nv->client);
}

void nfs_attach(struct nfs_volume *nv, struct nfs_waiter *w, bool probe)
{
    if (nv->state == NFS_ATTACHED && !nv->stopped) {
        end_waiter(nv, w, ERR_OK);
        return;
    }
    if (!may_try(nv, probe)) {
        end_waiter(nv, w, ERR_TEMP);
        return;
    }
    list_add(&nv->waiters, &w->link);
    if (nv->state != NFS_ATTACHING) {
        nv->state = NFS_ATTACHING;
        nv->attach_deadline = nfs_volume_deadline(nv);
        nv->mount = nfs_mount_start(nv->loop, nv->connecting, &nv->url, &nv->owner,
                                    nv->options.timeout_ms, on_mount, nv);
    }
}

void nfs_detach(struct nfs_volume *nv)
{
    if (nv->state == NFS_ATTACHED) {
        nv->state = NFS_DETACHED;
    }
}

/* --- finding a directory --------------------------------------------------------------------- */

static void walk_on(struct nfs_walk *w);
static void walk_end(struct nfs_walk *w, enum err e);

/* Whose turn it is may have waited too long, or not know any more where to begin. */
static void on_turn(struct task *t)
{
    struct nfs_volume *nv = CONTAINER_OF(t, struct nfs_volume, turn);
    struct list *next = list_pop(&nv->walks);
    struct nfs_walk *w = nv->walking = CONTAINER_OF(next, struct nfs_walk, link);
    if (nv->stopped || nv->state != NFS_ATTACHED || loop_now(nv->loop) >= w->deadline) {
        walk_end(w, ERR_TEMP);
    } else {
        walk_on(w);
    }
}

/* Those that wait hold the volume, and the turn of the next comes by a task: done may end all. */
static void walk_end(struct nfs_walk *w, enum err e)
{
    struct nfs_volume *nv = w->volume;
    if (nv->walking == w) {
        nv->walking = NULL;
        if (!list_empty(&nv->walks)) {
            loop_post(nv->loop, &nv->turn);
        }
    }
    w->done(w, e);
}

static struct nfs_walk *walk_of(struct nfs_call *c)
{
    return CONTAINER_OF(c, struct nfs_walk, call);
}

static void walk_explain(struct nfs_walk *w, const char *what, enum err e, nfsstat3 status)
{
    nfs_explain(w->volume, what, e, status, w->volume->why);
}

/* The directory that the call is made in. */
static const struct nfs_handle *parent(const struct nfs_walk *w)
{
    return w->in_day ? nfs_dirs_day(&w->volume->dirs, w->place.day) : &w->volume->root;
}

static void learn(struct nfs_walk *w, const nfs_fh3 *h)
{
    struct nfs_handle handle;
    if (!nfs_handle_set(&handle, span_of(h->data.data_val, h->data.data_len))) {
        return;
    }
    if (w->in_day) {
        nfs_dirs_set_leaf(&w->volume->dirs, w->place.day, w->place.leaf, &handle);
    } else {
        nfs_dirs_set_day(&w->volume->dirs, w->place.day, &handle);
    }
}

/* What the walk rests on has gone: a day's directory that was remembered, or the root. */
static void lost_ground(struct nfs_walk *w)
{
    if (w->in_day) {
        nfs_dirs_forget(&w->volume->dirs, w->place.day);
        walk_on(w);
    } else {
        snprintf(w->volume->why, sizeof w->volume->why, "the root's handle is stale");
        nfs_detach(w->volume);
        walk_end(w, ERR_TEMP);
    }
}

static void walk_call(struct nfs_walk *w, int procedure, nfs_call_fn *done)
{
    const struct nfs_handle *dir = parent(w);
    if (!dir || ++w->calls > WALK_CALLS) {
        snprintf(w->volume->why, sizeof w->volume->why, "directories come and go");
        walk_end(w, ERR_TEMP);
        return;
    }
    w->call.procedure = procedure;
    w->call.file = *dir;
    w->call.deadline = w->deadline;
    w->call.probe = w->probe;
    w->call.done = done;
    snprintf(w->call.name, sizeof w->call.name, "%s",
             w->in_day ? w->place.leaf_name : w->place.day_name);
    nfs_call_start(w->volume->client, &w->call);
}

/* Some servers say "stale" of a directory that was removed, others know no name in it. */
static void walk_failed(struct nfs_walk *w, const char *what, enum err e, nfsstat3 status)
{
    if (e == ERR_OK && (nfs_is_stale(status) || (w->in_day && status == NFS3ERR_NOENT))) {
        lost_ground(w);
        return;
    }
    walk_explain(w, what, e, status);
    walk_end(w, e == ERR_LIMIT ? ERR_LIMIT : ERR_TEMP);
}

/* Without a handle in the answer, or when somebody else was faster, LOOKUP tells it. */
static void on_made(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct nfs_walk *w = walk_of(c);
    const MKDIR3res *r = reply;
    if (e == ERR_OK && (status == NFS3_OK || status == NFS3ERR_EXIST)) {
        w->exists = true;
        if (status == NFS3_OK && r->MKDIR3res_u.resok.obj.handle_follows) {
            learn(w, &r->MKDIR3res_u.resok.obj.post_op_fh3_u.handle);
        }
        walk_on(w);
    } else {
        walk_failed(w, "MKDIR", e, status);
    }
}

static void missing(struct nfs_walk *w)
{
    if (w->make) {
        walk_call(w, NFS3_MKDIR, on_made);
    } else {
        walk_end(w, ERR_NOTFOUND);
    }
}

static void day_is_missing(struct nfs_walk *w);

static void on_looked_up(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct nfs_walk *w = walk_of(c);
    const LOOKUP3res *r = reply;
    if (e == ERR_OK && status == NFS3_OK) {
        learn(w, &r->LOOKUP3res_u.resok.object);
        walk_on(w);
    } else if (e == ERR_OK && status == NFS3ERR_NOENT && !w->in_day) {
        day_is_missing(w);
    } else if (e == ERR_OK && status == NFS3ERR_NOENT) {
        missing(w);
    } else {
        walk_failed(w, "LOOKUP", e, status);
    }
}

/* What the root was mounted over by may have gone: the sentinel with it. */
static void on_sentinel_seen(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct nfs_walk *w = walk_of(c);
    if (e == ERR_OK && status == NFS3_OK && nfs_sentinel_check(w->volume, reply) == ERR_OK) {
        missing(w);
        return;
    }
    if (e != ERR_OK || status != NFS3_OK) {
        walk_explain(w, SPOOL_SENTINEL, e, status);
    }
    nfs_detach(w->volume);
    walk_end(w, ERR_TEMP);
}

/*
 * An empty directory in the place of the volume has no days either. Nothing is made in one, and
 * nothing in it is believed to be missing.
 */
static void day_is_missing(struct nfs_walk *w)
{
    w->call.file = w->volume->sentinel;
    w->call.offset = 0;
    w->call.count = sizeof w->volume->volume.uuid;
    w->call.procedure = NFS3_READ;
    w->call.done = on_sentinel_seen;
    nfs_call_start(w->volume->client, &w->call);
}

static void list_page(struct nfs_walk *w);

/* libnfs does not align what it allocates for a reply, so each entry is copied. */
static void take_entries(struct nfs_walk *w, const dirlistplus3 *list)
{
    struct nfs_handle h;
    entryplus3 e;
    for (const void *at = list->entries; at; at = e.nextentry) {
        memcpy(&e, at, sizeof e);
        const nfs_fh3 *fh = &e.name_handle.post_op_fh3_u.handle;
        if (e.name_handle.handle_follows &&
            nfs_handle_set(&h, span_of(fh->data.data_val, fh->data.data_len))) {
            nfs_dirs_found(&w->volume->dirs, w->place.day, e.name, &h);
        }
        w->call.offset = e.cookie;
    }
}

/* A server that can't list is asked for each name. */
static void on_page(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct nfs_walk *w = walk_of(c);
    if (e == ERR_OK && status == NFS3_OK) {
        const READDIRPLUS3resok *r = &((const READDIRPLUS3res *)reply)->READDIRPLUS3res_u.resok;
        take_entries(w, &r->reply);
        if (!r->reply.eof && r->reply.entries) {
            memcpy(c->verifier, r->cookieverf, sizeof c->verifier);
            list_page(w);
            return;
        }
        nfs_dirs_set_listed(&w->volume->dirs, w->place.day);
    } else if (e != ERR_OK || nfs_is_stale(status)) {
        walk_failed(w, "READDIRPLUS", e, status);
        return;
    }
    walk_on(w);
}

static void list_page(struct nfs_walk *w)
{
    w->call.count = w->volume->dtmax;
    walk_call(w, NFS3_READDIRPLUS, on_page);
}

/* A day that was listed, and has no such leaf, most likely still has none. */
static void find_leaf(struct nfs_walk *w)
{
    if (nfs_dirs_should_list(&w->volume->dirs, w->place.day)) {
        w->call.offset = 0;
        memset(w->call.verifier, 0, sizeof w->call.verifier);
        list_page(w);
    } else if (w->make && !w->exists && nfs_dirs_listed(&w->volume->dirs, w->place.day)) {
        walk_call(w, NFS3_MKDIR, on_made);
    } else {
        walk_call(w, NFS3_LOOKUP, on_looked_up);
    }
}

static void walk_on(struct nfs_walk *w)
{
    struct nfs_dirs *dirs = &w->volume->dirs;
    bool in_day = nfs_dirs_day(dirs, w->place.day) != NULL;
    w->exists = w->exists && w->in_day == in_day;
    w->in_day = in_day;
    if (nfs_dirs_leaf(dirs, w->place.day, w->place.leaf)) {
        walk_end(w, ERR_OK);
    } else if (in_day) {
        find_leaf(w);
    } else {
        walk_call(w, NFS3_LOOKUP, on_looked_up);
    }
}

void nfs_walk_start(struct nfs_walk *w)
{
    w->in_day = w->exists = false;
    w->calls = 0;
    CHECK(!nfs_dirs_leaf(&w->volume->dirs, w->place.day, w->place.leaf));
    struct nfs_volume *nv = w->volume;
    if (w->probe || nfs_volume_stuck(nv)) {
        walk_on(w); /* waits for nobody; and what fails at once shall do so */
    } else if (nv->walking || !list_empty(&nv->walks)) {
        list_add(&nv->walks, &w->link);
    } else {
        nv->walking = w;
        walk_on(w);
    }
}

/* --- the volume ------------------------------------------------------------------------------ */

uint64_t nfs_volume_deadline(const struct nfs_volume *nv)
{
    return loop_now(nv->loop) + nv->options.timeout_ms;
}

static void read_url(struct nfs_volume *nv)
{
    char why[HEALTH_WHY];
    if (!nfs_url_parse(nv->volume.url, &nv->url, why, sizeof why)) {
        snprintf(nv->why, sizeof nv->why, "its URL %.100s", why);
        nv->nonsense = true;
        nv->state = NFS_OUT_OF_REACH;
    }
    nv->owner = nv->url.has_owner ? (struct nfs_owner){ nv->url.uid, nv->url.gid }
                                  : (struct nfs_owner){ nv->options.nfs_uid, nv->options.nfs_gid };
}

/* Two: a name that can't be looked up shall not hold up what is hashed. */
static struct pool *open_pool(const struct nfs_volume *nv, unsigned threads, const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "volume %u, %s", nv->volume.volume_id, what);
    return pool_open(nv->loop, &(struct pool_options){ .name = name,
                                                       .threads = threads,
                                                       .queue = nv->options.queue,
                                                       .timeout_ms = nv->options.timeout_ms });
}

void nfs_volume_open(struct nfs_volume *nv, struct loop *l, const struct volume *v,
                     const struct spool_options *o, bool bare)
{
    *nv = (struct nfs_volume){ .loop = l, .volume = *v, .options = *o, .bare = bare };
    read_url(nv);
    list_init(&nv->walks);
    nv->turn.run = on_turn;
    list_init(&nv->waiters);
    nfs_dirs_init(&nv->dirs, v->fanout);
    nv->hashing = open_pool(nv, THREADS, "hashing");
    nv->connecting = open_pool(nv, 1, "connecting");
    nv->client = nfs_client_open(l, nv->connecting,
                                 &(struct nfs_client_options){ .host = nv->url.host,
                                                               .port = nv->url.port,
                                                               .owner = nv->owner,
                                                               .connections = o->nfs_connections,
                                                               .queue = o->queue,
                                                               .timeout_ms = o->timeout_ms });
}

/* The pools go last: what they run for connections is theirs until it has returned. */
void nfs_volume_stop(struct nfs_volume *nv)
{
    if (nv->stopped) {
        return;
    }
    nv->stopped = true;
    nfs_mount_cancel(&nv->mount);
    nfs_client_stop(nv->client);
    if (nv->state == NFS_ATTACHING) {
        not_attached(nv);
    }
    pool_close(&nv->hashing);
    pool_close(&nv->connecting);
}

void nfs_volume_close(struct nfs_volume *nv)
{
    CHECK(nv->stopped && list_empty(&nv->waiters));
    nfs_client_close(&nv->client);
    nfs_dirs_fini(&nv->dirs);
}
