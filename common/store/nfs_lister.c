/*
 * nfs_lister: what lies on a volume on an NFS server. A volume of its own on a loop of its own, as
 * nfs_setup has; each call is started and the loop turned until it has ended, so that what is done
 * reads from top to bottom.
 *
 * All of it only reads, so a call that failed or was not answered is made again, a few times. The
 * handles of the last day, hash directory and file are kept; one that leads nowhere any more is
 * looked for once more. When the root has no such name, the sentinel is asked for: an empty
 * directory in the place of the volume says nothing about its files.
 *
 * A page of a directory is copied before fn sees any of it: what a reply holds goes with it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "store/nfs_volume.h"
#include "store/volume_walk_ops.h"

#define TRIES     4
#define PAUSE_MS  500
#define PATH_MOST 512
#define LEVELS    3 /* a day, a hash directory, a file */

struct known {
    char path[PATH_MOST]; /* empty: none */
    struct nfs_handle handle;
};

struct page_entry {
    struct walk_entry entry;
    bool described;
};

struct nfs_lister {
    struct volume_walk base;
    struct loop *loop;
    struct nfs_volume nv;
    struct nfs_waiter waiter;
    struct known known[LEVELS];

    /* The call under way, and what it ended with. */
    struct nfs_call call;
    enum err err;
    nfsstat3 status;
    struct nfs_handle found;
    struct walk_entry entry; /* of LOOKUP and GETATTR: */
    bool described;
    void *to; /* of READ: */
    size_t got;
    bool eof; /* of READ and READDIRPLUS */
    struct page_entry *page;
    size_t n, room;
};

static struct nfs_lister *of_base(struct volume_walk *w)
{
    return CONTAINER_OF(w, struct nfs_lister, base);
}

/* --- one call and its end -------------------------------------------------------------------- */

static int64_t ms_of(const nfstime3 *t)
{
    return (int64_t)t->seconds * 1000 + t->nseconds / 1000000;
}

static bool describe(struct walk_entry *out, const post_op_attr *attr)
{
    const fattr3 *a = &attr->post_op_attr_u.attributes;
    if (!attr->attributes_follow) {
        return false;
    }
    int64_t mtime = ms_of(&a->mtime), ctime = ms_of(&a->ctime);
    out->directory = a->type == NF3DIR;
    out->regular = a->type == NF3REG;
    out->size = out->regular ? a->size : 0;
    out->changed_ms = mtime > ctime ? mtime : ctime;
    return true;
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* A name that is too long for a file of this system is no less foreign when it is cut. */
static void take_entry(struct nfs_lister *l, const entryplus3 *e)
{
    l->call.offset = e->cookie;
    if (is_dots(e->name)) {
        return;
    }
    if (l->n == l->room) {
        l->room = l->room ? l->room * 2 : 256;
        l->page = mem_grow(l->page, l->room, sizeof *l->page);
    }
    struct page_entry *p = &l->page[l->n++];
    *p = (struct page_entry){ 0 };
    snprintf(p->entry.name, sizeof p->entry.name, "%s", e->name);
    p->described = describe(&p->entry, &e->name_attributes);
}

/* libnfs does not align what it allocates for a reply, so each entry is copied. */
static void take_page(struct nfs_lister *l, const READDIRPLUS3resok *r)
{
    entryplus3 e;
    l->n = 0;
    for (const void *at = r->reply.entries; at; at = e.nextentry) {
        memcpy(&e, at, sizeof e);
        take_entry(l, &e);
    }
    memcpy(l->call.verifier, r->cookieverf, sizeof l->call.verifier);
    l->eof = r->reply.eof || !r->reply.entries;
}

static void take_octets(struct nfs_lister *l, const READ3resok *r)
{
    if (r->data.data_len > l->call.count || (!r->data.data_len && !r->eof)) {
        l->status = NFS3ERR_SERVERFAULT; /* that makes no sense */
        return;
    }
    memcpy(l->to, r->data.data_val, r->data.data_len);
    l->got = r->data.data_len;
    l->eof = r->eof;
}

static void take_name(struct nfs_lister *l, const LOOKUP3resok *r)
{
    if (!nfs_handle_set(&l->found, span_of(r->object.data.data_val, r->object.data.data_len))) {
        l->status = NFS3ERR_SERVERFAULT;
        return;
    }
    l->described = describe(&l->entry, &r->obj_attributes);
}

static void take_attributes(struct nfs_lister *l, const GETATTR3resok *r)
{
    post_op_attr a = { .attributes_follow = 1,
                       .post_op_attr_u = { .attributes = r->obj_attributes } };
    l->described = describe(&l->entry, &a);
}

/* A reply is gone when the loop stops; what it says is kept. */
static void on_called(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct nfs_lister *l = CONTAINER_OF(c, struct nfs_lister, call);
    l->err = e;
    l->status = status;
    if (e == ERR_OK && status == NFS3_OK) {
        switch (c->procedure) {
        case NFS3_LOOKUP:
            take_name(l, &((const LOOKUP3res *)reply)->LOOKUP3res_u.resok);
            break;
        case NFS3_GETATTR:
            take_attributes(l, &((const GETATTR3res *)reply)->GETATTR3res_u.resok);
            break;
        case NFS3_READ:
            take_octets(l, &((const READ3res *)reply)->READ3res_u.resok);
            break;
        case NFS3_READDIRPLUS:
            take_page(l, &((const READDIRPLUS3res *)reply)->READDIRPLUS3res_u.resok);
            break;
        default:
            UNREACHABLE();
        }
    }
    loop_stop(l->loop);
}

static void pause_a_little(void)
{
    struct timespec t = { .tv_nsec = PAUSE_MS * 1000000L };
    nanosleep(&t, NULL);
}

static bool wants_retry(const struct nfs_lister *l)
{
    return l->err != ERR_OK || l->status == NFS3ERR_JUKEBOX;
}

/*
 * The call that was filled in, up to its answer. The loop has stood still since the last one, so
 * its clock is set first. True: it was answered, and well.
 */
static bool call(struct nfs_lister *l, int procedure, const struct nfs_handle *file,
                 const char *name)
{
    l->call.procedure = procedure;
    l->call.file = *file;
    l->call.probe = true;
    l->call.done = on_called;
    snprintf(l->call.name, sizeof l->call.name, "%s", name);
    for (int i = 0; i < TRIES; i++) {
        if (i > 0) {
            pause_a_little();
        }
        uv_update_time(loop_uv(l->loop));
        l->call.deadline = nfs_volume_deadline(&l->nv);
        nfs_call_start(l->nv.client, &l->call);
        loop_run(l->loop);
        if (!wants_retry(l)) {
            break;
        }
    }
    return l->err == ERR_OK && l->status == NFS3_OK;
}

static bool is_stale(const struct nfs_lister *l)
{
    return l->err == ERR_OK && nfs_is_stale(l->status);
}

/* --- the way to a file ----------------------------------------------------------------------- */

static const struct nfs_handle *find_known(const struct nfs_lister *l, const char *path, size_t len)
{
    for (size_t i = 0; i < LEVELS; i++) {
        if (len > 0 && strlen(l->known[i].path) == len &&
            memcmp(l->known[i].path, path, len) == 0) {
            return &l->known[i].handle;
        }
    }
    return NULL;
}

static void forget_all(struct nfs_lister *l)
{
    for (size_t i = 0; i < LEVELS; i++) {
        *l->known[i].path = '\0';
    }
}

static void keep(struct nfs_lister *l, size_t level, const char *path, size_t len)
{
    if (level < LEVELS) {
        snprintf(l->known[level].path, PATH_MOST, "%.*s", (int)len, path);
        l->known[level].handle = l->found;
    }
}

/* A name in a directory; its handle and what it is are in l then. NOTFOUND, or TEMP. */
static enum err look_up(struct nfs_lister *l, const struct nfs_handle *dir, const char *name,
                        size_t len)
{
    char text[NFS_NAME_MAX];
    struct nfs_handle in = *dir;
    if (len >= sizeof text) {
        return ERR_INVALID;
    }
    snprintf(text, sizeof text, "%.*s", (int)len, name);
    l->described = false;
    if (call(l, NFS3_LOOKUP, &in, text)) {
        snprintf(l->entry.name, sizeof l->entry.name, "%s", text);
        return ERR_OK;
    }
    return l->err == ERR_OK && (l->status == NFS3ERR_NOENT || l->status == NFS3ERR_NOTDIR)
               ? ERR_NOTFOUND
               : ERR_TEMP;
}

/* The root that is attached still is the volume's. */
static bool is_volume(struct nfs_lister *l)
{
    char text[sizeof l->nv.volume.uuid];
    if (look_up(l, &l->nv.root, SPOOL_SENTINEL, strlen(SPOOL_SENTINEL)) != ERR_OK) {
        return false;
    }
    struct nfs_handle sentinel = l->found;
    l->call.offset = 0;
    l->call.count = sizeof text - 1;
    l->to = text;
    return call(l, NFS3_READ, &sentinel, "") && l->got == sizeof text - 1 &&
           memcmp(text, l->nv.volume.uuid, l->got) == 0;
}

/* The handle of a path, by what is known and a look-up for each part that is not. */
static enum err resolve_once(struct nfs_lister *l, const char *path, struct nfs_handle *out)
{
    struct nfs_handle at = l->nv.root;
    size_t level = 0;
    for (size_t begin = 0; path[begin]; level++) {
        size_t end = begin + strcspn(path + begin, "/");
        const struct nfs_handle *known = find_known(l, path, end);
        if (known) {
            at = *known;
        } else {
            enum err e = look_up(l, &at, path + begin, end - begin);
            if (e != ERR_OK) {
                return e == ERR_NOTFOUND && begin == 0 && !is_volume(l) ? ERR_TEMP : e;
            }
            at = l->found;
            keep(l, level, path, end);
        }
        begin = path[end] ? end + 1 : end;
    }
    *out = at;
    return ERR_OK;
}

/* Behind what was known another directory may stand by now, so what is missing is asked again. */
static enum err resolve(struct nfs_lister *l, const char *path, struct nfs_handle *out)
{
    bool fresh = !*l->known[0].path;
    if (strlen(path) >= PATH_MOST) {
        return ERR_INVALID;
    }
    enum err e = resolve_once(l, path, out);
    if (!fresh && (e == ERR_NOTFOUND || (e == ERR_TEMP && is_stale(l)))) {
        forget_all(l);
        e = resolve_once(l, path, out);
    }
    return e;
}

/* --- listing --------------------------------------------------------------------------------- */

/* What a server did not describe in the listing. NOTFOUND: it has gone meanwhile. */
static enum err describe_name(struct nfs_lister *l, const struct nfs_handle *dir,
                              struct walk_entry *entry)
{
    enum err e = look_up(l, dir, entry->name, strlen(entry->name));
    if (e == ERR_INVALID) {
        return ERR_OK; /* none of ours is as long: it is told as what it is, a name */
    }
    if (e == ERR_OK && !l->described) {
        struct nfs_handle file = l->found;
        e = call(l, NFS3_GETATTR, &file, "") && l->described ? ERR_OK : ERR_TEMP;
    }
    if (e == ERR_OK) {
        *entry = l->entry;
    }
    return e;
}

/* *more: fn wants to hear of the next page too. */
static enum err tell_page(struct nfs_lister *l, const struct nfs_handle *dir, walk_entry_fn *fn,
                          void *arg, bool *more)
{
    for (size_t i = 0; i < l->n && *more; i++) {
        struct page_entry *p = &l->page[i];
        enum err e = p->described ? ERR_OK : describe_name(l, dir, &p->entry);
        if (e == ERR_TEMP) {
            return e;
        }
        *more = e == ERR_NOTFOUND || fn(arg, &p->entry);
    }
    return ERR_OK;
}

static enum err list_handle(struct nfs_lister *l, const struct nfs_handle *dir, walk_entry_fn *fn,
                            void *arg)
{
    uint64_t cookie = 0;
    char verifier[NFS3_COOKIEVERFSIZE] = { 0 };
    bool more = true;
    while (more) {
        l->call.offset = cookie;
        memcpy(l->call.verifier, verifier, sizeof verifier);
        l->call.count = l->nv.dtmax;
        if (!call(l, NFS3_READDIRPLUS, dir, "")) {
            return ERR_TEMP;
        }
        bool eof = l->eof;
        cookie = l->call.offset;
        memcpy(verifier, l->call.verifier, sizeof verifier);
        enum err e = tell_page(l, dir, fn, arg, &more);
        if (e != ERR_OK) {
            return e;
        }
        more = more && !eof;
    }
    return ERR_OK;
}

static enum err nfs_lister_list(struct volume_walk *base, const char *dir, walk_entry_fn *fn,
                                void *arg)
{
    struct nfs_lister *l = of_base(base);
    struct nfs_handle h;
    enum err e = resolve(l, dir, &h);
    if (e != ERR_OK) {
        return e;
    }
    e = list_handle(l, &h, fn, arg);
    if (e == ERR_TEMP) {
        forget_all(l);
    }
    return e;
}

/* --- looking and reading --------------------------------------------------------------------- */

static enum err stat_once(struct nfs_lister *l, const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    char dir[PATH_MOST] = "";
    struct nfs_handle h;
    if (strlen(path) >= sizeof dir) {
        return ERR_INVALID;
    }
    if (slash) {
        memcpy(dir, path, (size_t)(slash - path));
    }
    enum err e = resolve(l, dir, &h);
    if (e == ERR_OK) {
        e = look_up(l, &h, name, strlen(name));
    }
    if (e == ERR_OK && !l->described) {
        h = l->found;
        e = call(l, NFS3_GETATTR, &h, "") ? ERR_OK : ERR_TEMP;
    }
    return e == ERR_NOTFOUND && !slash && !is_volume(l) ? ERR_TEMP : e;
}

static enum err nfs_lister_stat(struct volume_walk *base, const char *path, struct walk_entry *out)
{
    struct nfs_lister *l = of_base(base);
    bool fresh = !*l->known[0].path;
    enum err e = stat_once(l, path);
    if (!fresh && (e == ERR_NOTFOUND || (e == ERR_TEMP && is_stale(l)))) {
        forget_all(l);
        e = stat_once(l, path);
    }
    if (e == ERR_OK) {
        *out = l->entry;
    }
    return e;
}

static enum err read_once(struct nfs_lister *l, const char *path, uint64_t offset, char *to,
                          size_t n, size_t *got)
{
    struct nfs_handle h;
    size_t done = 0;
    bool eof = false;
    enum err e = resolve(l, path, &h);
    while (e == ERR_OK && done < n && !eof) {
        l->call.offset = offset + done;
        l->call.count = (uint32_t)(n - done < l->nv.rtmax ? n - done : l->nv.rtmax);
        l->to = to + done;
        e = call(l, NFS3_READ, &h, "") ? ERR_OK : ERR_TEMP;
        done += e == ERR_OK ? l->got : 0;
        eof = l->eof;
    }
    if (e == ERR_OK) {
        *got = done;
    }
    return e;
}

/* The server's answer is that it can't, or may not, read this. */
static bool is_refused(const struct nfs_lister *l)
{
    return l->err == ERR_OK &&
           (l->status == NFS3ERR_IO || l->status == NFS3ERR_ACCES || l->status == NFS3ERR_PERM);
}

static enum err nfs_lister_read(struct volume_walk *base, const char *path, uint64_t offset,
                                void *to, size_t n, size_t *got)
{
    struct nfs_lister *l = of_base(base);
    enum err e = read_once(l, path, offset, to, n, got);
    if (e == ERR_TEMP && is_stale(l)) {
        forget_all(l);
        e = read_once(l, path, offset, to, n, got);
    }
    return e == ERR_TEMP && is_refused(l) && is_volume(l) ? ERR_CORRUPT : e;
}

/* --- the life of it -------------------------------------------------------------------------- */

static void on_attached(struct nfs_waiter *w, enum err e)
{
    struct nfs_lister *l = CONTAINER_OF(w, struct nfs_lister, waiter);
    l->err = e;
    loop_stop(l->loop);
}

static void nfs_lister_close(struct volume_walk *base)
{
    struct nfs_lister *l = of_base(base);
    nfs_volume_stop(&l->nv);
    nfs_volume_close(&l->nv);
    loop_close(&l->loop);
    free(l->page);
    free(l);
}

/* One call at a time is under way, so one connection does. */
static enum err nfs_lister_open(const struct volume *v, const struct spool_options *o,
                                struct volume_walk **out, char *why, size_t why_size)
{
    struct nfs_lister *l = NEW(struct nfs_lister);
    struct spool_options options = *o;
    options.nfs_connections = 1;
    l->base.ops = &spool_nfs_walk;
    l->loop = loop_open();
    nfs_volume_open(&l->nv, l->loop, v, &options, false);
    l->err = ERR_INVALID;
    if (!l->nv.nonsense) {
        l->waiter.done = on_attached;
        nfs_attach(&l->nv, &l->waiter, true);
        loop_run(l->loop);
    }
    enum err e = l->err;
    if (e != ERR_OK) {
        snprintf(why, why_size, "%s", l->nv.why);
        nfs_lister_close(&l->base);
        return e;
    }
    *out = &l->base;
    return ERR_OK;
}

const struct volume_walk_ops spool_nfs_walk = {
    .open = nfs_lister_open,
    .close = nfs_lister_close,
    .list = nfs_lister_list,
    .stat = nfs_lister_stat,
    .read = nfs_lister_read,
};
