/*
 * nfs_bare: the NFS calls of a mail spool, made by libnfs and nothing else: the most that a client
 * on one thread can get out of the server.
 *
 *   nfs_bare ADDRESS NFS_PORT MOUNT_PORT PATH UID GID SIZE DEPTH CONNECTIONS SECONDS
 *
 * PATH is a directory of an export, with the directories 00 to ff in it. Writing is CREATE
 * (GUARDED, mode 0640) and one WRITE (FILE_SYNC) by handle; reading one READ by handle, unlinking
 * one REMOVE. The loop is poll(2): in each turn it takes what has come, begins what may begin, and
 * sends all of that. It hashes nothing, checks no deadline and survives no error.
 */
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* In this order: none of them includes what it needs. */
#include <nfsc/libnfs-zdr.h>

#include <nfsc/libnfs.h>

#include <nfsc/libnfs-raw.h>

#include <nfsc/libnfs-raw-mount.h>
#include <nfsc/libnfs-raw-nfs.h>

#include "workload.h"

#define DIRS            256
#define CONNECTIONS_MAX 64
#define NAME            26 /* characters, as a message's id has */
#define FILE_MODE       0640
/* A server that is silent for so long, ms, will not answer. */
#define PATIENCE 30000

struct handle {
    unsigned len;
    char octets[NFS3_FHSIZE];
};

struct file {
    struct handle handle;
    unsigned dir;
    char name[NAME + 1];
};

/* One operation at a time; depth of them run side by side. */
struct lane {
    struct rpc_context *rpc;
    struct file *file;
    uint64_t begun;
};

static struct workload work;
static struct rpc_context *conns[CONNECTIONS_MAX];
static size_t connections;
static bool connected; /* all of them: what is queued may be sent at once */
static struct handle dirs[DIRS];
static struct file *files;
static struct lane lanes[DEPTH_MAX];
static char *octets;

/* --- the loop -------------------------------------------------------------------------------- */

static void service(struct rpc_context *rpc, int events)
{
    if (rpc_service(rpc, events) != 0) {
        errx(1, "a connection was lost: %s", rpc_get_error(rpc));
    }
}

static void send_queued(void)
{
    for (size_t i = 0; connected && i < connections; i++) {
        if (rpc_which_events(conns[i]) & POLLOUT) {
            service(conns[i], POLLOUT);
        }
    }
}

static void turn(void)
{
    struct pollfd polls[CONNECTIONS_MAX];
    send_queued();
    for (size_t i = 0; i < connections; i++) {
        polls[i] = (struct pollfd){ .fd = rpc_get_fd(conns[i]),
                                    .events = (short)rpc_which_events(conns[i]) };
    }
    if (poll(polls, connections, PATIENCE) <= 0) {
        errx(1, "the server does not answer");
    }
    for (size_t i = 0; i < connections; i++) {
        if (polls[i].revents) {
            service(conns[i], polls[i].revents);
        }
    }
}

/* The reply, if the call went well as RPC; what NFS says in it is the caller's. */
static void *reply_of(int status, void *data, const char *call)
{
    if (status != RPC_STATUS_SUCCESS) {
        errx(1, "%s: %s", call, status == RPC_STATUS_ERROR ? (const char *)data : "no answer");
    }
    return data;
}

static void check_status(nfsstat3 status, const char *call)
{
    if (status != NFS3_OK) {
        errx(1, "%s: NFS error %d", call, status);
    }
}

static void check_queued(int result, const char *call)
{
    if (result != 0) {
        errx(1, "%s could not be queued", call);
    }
}

/* --- before it starts ------------------------------------------------------------------------ */

static size_t waiting; /* calls of the preparation in flight */

static void wait_for_calls(void)
{
    while (waiting) {
        turn();
    }
}

static nfs_fh3 handle_arg(struct handle *h)
{
    return (nfs_fh3){ .data = { .data_len = h->len, .data_val = h->octets } };
}

static void take_handle(struct handle *h, unsigned len, const char *from, const char *call)
{
    if (len > sizeof h->octets) {
        errx(1, "%s: a handle of %u octets", call, len);
    }
    h->len = len;
    memcpy(h->octets, from, len);
}

static void on_connected(struct rpc_context *rpc, int status, void *data, void *arg)
{
    (void)rpc;
    (void)arg;
    reply_of(status, data, "connecting");
    waiting--;
}

static struct rpc_context *connect_to(const char *address, int port, uint32_t uid, uint32_t gid)
{
    struct rpc_context *rpc = rpc_init_context();
    if (!rpc) {
        err(1, "rpc_init_context");
    }
    rpc_set_auth(rpc, libnfs_authunix_create("nfs_bare", uid, gid, 0, NULL));
    check_queued(rpc_connect_async(rpc, address, port, on_connected, NULL), "connecting");
    waiting++;
    /* Calls are small: without this the second one waits for the answer to the first. */
    if (setsockopt(rpc_get_fd(rpc), IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)) != 0) {
        err(1, "TCP_NODELAY");
    }
    return rpc;
}

static void on_mounted(struct rpc_context *rpc, int status, void *data, void *arg)
{
    (void)rpc;
    const mountres3 *r = reply_of(status, data, "MNT");
    if (r->fhs_status != MNT3_OK) {
        errx(1, "MNT: error %d", r->fhs_status);
    }
    const fhandle3 *root = &r->mountres3_u.mountinfo.fhandle;
    take_handle(arg, root->fhandle3_len, root->fhandle3_val, "MNT");
    waiting--;
}

/* The handle of the export's directory, by a connection that is closed again. */
static void mount_path(const char *address, int port, char *path, struct handle *root)
{
    connections = 1;
    conns[0] = connect_to(address, port, 0, 0);
    wait_for_calls();
    check_queued(rpc_mount3_mnt_async(conns[0], on_mounted, path, root), "MNT");
    waiting++;
    wait_for_calls();
    rpc_destroy_context(conns[0]);
}

static void on_found(struct rpc_context *rpc, int status, void *data, void *arg)
{
    (void)rpc;
    const LOOKUP3res *r = reply_of(status, data, "LOOKUP");
    check_status(r->status, "LOOKUP of a directory");
    const nfs_fh3 *h = &r->LOOKUP3res_u.resok.object;
    take_handle(arg, h->data.data_len, h->data.data_val, "LOOKUP");
    waiting--;
}

static void find_dirs(struct handle *root)
{
    for (unsigned i = 0; i < DIRS; i++) {
        char name[3];
        snprintf(name, sizeof name, "%02x", i);
        LOOKUP3args args = { .what = { .dir = handle_arg(root), .name = name } };
        check_queued(rpc_nfs3_lookup_async(conns[0], on_found, &args, &dirs[i]), "LOOKUP");
        waiting++;
    }
    wait_for_calls();
}

/* --- the operations -------------------------------------------------------------------------- */

static void lane_run(struct lane *l);

static void lane_done(struct lane *l)
{
    workload_done(&work, l->begun);
    lane_run(l);
}

static void on_written(struct rpc_context *rpc, int status, void *data, void *arg)
{
    (void)rpc;
    const WRITE3res *r = reply_of(status, data, "WRITE");
    check_status(r->status, "WRITE");
    if (r->WRITE3res_u.resok.count != work.size || r->WRITE3res_u.resok.committed != FILE_SYNC) {
        errx(1, "WRITE: not all of it, or not in a stable place");
    }
    lane_done(arg);
}

static void on_created(struct rpc_context *rpc, int status, void *data, void *arg)
{
    struct lane *l = arg;
    const CREATE3res *r = reply_of(status, data, "CREATE");
    check_status(r->status, "CREATE");
    const post_op_fh3 *made = &r->CREATE3res_u.resok.obj;
    if (!made->handle_follows) {
        errx(1, "CREATE: no handle");
    }
    take_handle(&l->file->handle, made->post_op_fh3_u.handle.data.data_len,
                made->post_op_fh3_u.handle.data.data_val, "CREATE");
    WRITE3args args = { .file = handle_arg(&l->file->handle),
                        .count = (count3)work.size,
                        .stable = FILE_SYNC,
                        .data = { .data_len = (u_int)work.size, .data_val = octets } };
    check_queued(rpc_nfs3_write_async(rpc, on_written, &args, l), "WRITE");
}

/* Directories at random, as a message's id chooses them. */
static void lane_write(struct lane *l, size_t number)
{
    struct file *f = l->file;
    f->dir = (unsigned)random() % DIRS;
    snprintf(f->name, sizeof f->name, "%08x%018zu", (unsigned)getpid(), number);
    CREATE3args args = { .where = { .dir = handle_arg(&dirs[f->dir]), .name = f->name },
                         .how = { .mode = GUARDED } };
    args.how.createhow3_u.g_obj_attributes.mode.set_it = 1;
    args.how.createhow3_u.g_obj_attributes.mode.set_mode3_u.mode = FILE_MODE;
    check_queued(rpc_nfs3_create_async(l->rpc, on_created, &args, l), "CREATE");
}

static void on_read(struct rpc_context *rpc, int status, void *data, void *arg)
{
    (void)rpc;
    const READ3res *r = reply_of(status, data, "READ");
    check_status(r->status, "READ");
    if (r->READ3res_u.resok.count != work.size || !r->READ3res_u.resok.eof) {
        errx(1, "READ: the file has another length");
    }
    lane_done(arg);
}

static void lane_read(struct lane *l)
{
    READ3args args = { .file = handle_arg(&l->file->handle), .count = (count3)work.size };
    check_queued(rpc_nfs3_read_async(l->rpc, on_read, &args, l), "READ");
}

static void on_removed(struct rpc_context *rpc, int status, void *data, void *arg)
{
    (void)rpc;
    const REMOVE3res *r = reply_of(status, data, "REMOVE");
    check_status(r->status, "REMOVE");
    lane_done(arg);
}

static void lane_unlink(struct lane *l)
{
    REMOVE3args args = { .object = { .dir = handle_arg(&dirs[l->file->dir]),
                                     .name = l->file->name } };
    check_queued(rpc_nfs3_remove_async(l->rpc, on_removed, &args, l), "REMOVE");
}

static void lane_run(struct lane *l)
{
    size_t number;
    if (!workload_next(&work, &number)) {
        return;
    }
    l->begun = workload_now();
    l->file = &files[number];
    if (work.phase == PHASE_READ) {
        lane_read(l);
    } else if (work.phase == PHASE_UNLINK) {
        lane_unlink(l);
    } else {
        lane_write(l, number);
    }
}

static void run(void)
{
    do {
        for (size_t i = 0; i < workload_depth(&work); i++) {
            lanes[i].rpc = conns[i % connections];
            lane_run(&lanes[i]);
        }
        while (!workload_turn(&work)) {
            turn();
        }
    } while (work.phase != PHASE_END);
}

int main(int argc, char **argv)
{
    if (argc != 11) {
        errx(2, "usage: nfs_bare ADDRESS NFS_PORT MOUNT_PORT PATH UID GID SIZE DEPTH CONNECTIONS "
                "SECONDS");
    }
    int port = (int)workload_number(argv[2], 1, 65535, "a port");
    uint32_t uid = (uint32_t)workload_number(argv[5], 0, UINT32_MAX, "a user");
    uint32_t gid = (uint32_t)workload_number(argv[6], 0, UINT32_MAX, "a group");
    work.size = workload_number(argv[7], 1024, 1024 * 1024, "the size");
    work.depth = workload_number(argv[8], 1, DEPTH_MAX, "the depth");
    work.seconds = strtod(argv[10], NULL);
    files = calloc(FILES_MAX, sizeof *files);
    octets = malloc(work.size);
    if (!files || !octets) {
        err(1, "files");
    }
    memset(octets, 'x', work.size);

    struct handle root;
    mount_path(argv[1], (int)workload_number(argv[3], 1, 65535, "a port"), argv[4], &root);
    connections = workload_number(argv[9], 1, CONNECTIONS_MAX, "the number of connections");
    for (size_t i = 0; i < connections; i++) {
        conns[i] = connect_to(argv[1], port, uid, gid);
    }
    wait_for_calls();
    connected = true;
    find_dirs(&root);

    workload_init(&work);
    run();
    workload_fini(&work);
    for (size_t i = 0; i < connections; i++) {
        rpc_destroy_context(conns[i]);
    }
    free(octets);
    free(files);
    return 0;
}
