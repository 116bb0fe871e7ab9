/*
 * spool_fixture: a spool with volumes in a directory of its own, and messages through it, for
 * tests of the spool.
 *
 * The loop turns in WAIT only (net_fixture.h). fixture_end checks that no descriptor was left
 * open and removes the directory; what a failed test leaves goes at exit.
 */
#ifndef MAILFLEET_TESTS_SPOOL_FIXTURE_H
#define MAILFLEET_TESTS_SPOOL_FIXTURE_H

#include "net_fixture.h"

#include <dirent.h>
#include <ftw.h>
#include <sys/stat.h>

#include "base/stats.h"
#include "store/spool.h"

#define FREE_FLOOR 1

struct spool_fixture {
    struct fixture net;
    char dir[128];
    struct spool *spool;
    struct spool_options options;
    struct volume volumes[4];
    size_t n;
    size_t fds; /* open before */
    uint64_t random;
    struct stats stats;
};

/* --- small things ---------------------------------------------------------------------------- */

/* A directory's own descriptor is in every count. */
static inline size_t count_entries(const char *dir)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n;
}

static inline size_t open_fds(void)
{
    return count_entries("/proc/self/fd");
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void remove_tree(const char *dir)
{
    assert_int_equal(nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* The same numbers in every run, so that a failure comes again. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline struct buf random_octets(uint64_t *state, size_t n)
{
    struct buf b;
    buf_init(&b, SIZE_MAX);
    char *p = buf_reserve(&b, n + 8);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t r = next_random(state);
        memcpy(p + i, &r, sizeof r);
    }
    buf_commit(&b, n);
    return b;
}

/* The bytes of a file; it must be there. */
static inline struct buf file_octets(const char *path)
{
    struct buf b;
    struct stat st;
    buf_init(&b, SIZE_MAX);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        fail_msg("%s: %s", path, strerror(errno));
    }
    assert_int_equal(fstat(fd, &st), 0);
    char *p = buf_reserve(&b, (size_t)st.st_size);
    assert_int_equal(read(fd, p, (size_t)st.st_size), st.st_size);
    buf_commit(&b, (size_t)st.st_size);
    close(fd);
    return b;
}

/* --- volumes --------------------------------------------------------------------------------- */

/*
 * MAILFLEET_TEST_NFS=host:port?options: the volumes are reached over NFS. The server exports the
 * directory that TMPDIR names under the same path, so that a test sees the files all the same.
 */
static inline const char *nfs_server(void)
{
    return getenv("MAILFLEET_TEST_NFS");
}

/* Options as they were given, and what they say of NFS. */
static inline struct spool_options over_nfs(struct spool_options o)
{
    o.nfs_connections = o.nfs_connections ? o.nfs_connections : 2;
    o.nfs_uid = geteuid();
    o.nfs_gid = getegid();
    return o;
}

static inline void make_url(const struct spool_fixture *f, struct volume *v)
{
    const char *server = nfs_server();
    char path[160];
    snprintf(path, sizeof path, "%s/v%u", f->dir, v->volume_id);
    if (server) {
        int host = (int)strcspn(server, "?");
        assert_true(mkdir(path, 0750) == 0 || errno == EEXIST);
        snprintf(v->url, sizeof v->url, "nfs://%.*s%s%s", host, server, path, server + host);
    } else {
        snprintf(v->url, sizeof v->url, "file://%s", path);
    }
}

static inline struct volume make_volume(struct spool_fixture *f, uint16_t id)
{
    struct volume v = { .volume_id = id,
                        .fanout = 1, /* directories are made ahead, and each costs time */
                        .state = VOLUME_ACTIVE,
                        .weight = 1,
                        .free_floor = FREE_FLOOR };
    char why[256] = "";
    snprintf(v.uuid, sizeof v.uuid, "00000000-0000-4000-8000-%012u", id);
    make_url(f, &v);
    if (volume_create(&v, &f->options, why, sizeof why) != ERR_OK) {
        fail_msg("volume_create: %s", why);
    }
    return v;
}

static inline void set_volumes(struct spool_fixture *f)
{
    spool_set_volumes(f->spool, f->volumes, f->n);
}

/* Of the health block; NULL: it is not there. */
static inline const struct health_item *health_of(struct spool_fixture *f, const char *name)
{
    static struct health_item items[HEALTH_MAX];
    for (size_t i = 0, n = health_read(&f->stats, items); i < n; i++) {
        if (!strcmp(items[i].name, name)) {
            return &items[i];
        }
    }
    return NULL;
}

/* NULL: the volume is not among the items; empty: it is well. */
static inline const char *volume_why(struct spool_fixture *f, uint16_t id)
{
    char name[32];
    snprintf(name, sizeof name, "volume %u", id);
    const struct health_item *item = health_of(f, name);
    return item ? item->why : NULL;
}

static inline bool volume_well(struct spool_fixture *f, uint16_t id)
{
    const char *why = volume_why(f, id);
    return why && !*why;
}

static inline void wait_well(struct spool_fixture *f)
{
    for (size_t i = 0; i < f->n; i++) {
        WAIT(&f->net, NULL, volume_well(f, f->volumes[i].volume_id));
    }
}

/* Where a message's file is. */
static inline void file_path(const struct spool_fixture *f, const struct pointer *p, char *out,
                             size_t size)
{
    char path[SPOOL_PATH_MAX];
    spool_path(&p->id, f->volumes[0].fanout, path);
    snprintf(out, size, "%s/v%u/%s", f->dir, p->volume, path);
}

/* All fixtures' directories are in one, which goes at exit if a test that failed left it. */
static char fixtures_dir[100];

static inline void remove_fixtures(void)
{
    if (access(fixtures_dir, F_OK) == 0) {
        nftw(fixtures_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
}

static inline void make_fixture_dir(char *out, size_t size)
{
    static unsigned count;
    const char *tmp = getenv("TMPDIR");
    if (!count++) {
        snprintf(fixtures_dir, sizeof fixtures_dir, "%.70s/mailfleet-spool-XXXXXX",
                 tmp ? tmp : "/tmp");
        assert_non_null(mkdtemp(fixtures_dir));
        assert_int_equal(chmod(fixtures_dir, 0755), 0);
        atexit(remove_fixtures);
    }
    snprintf(out, size, "%s/%u", fixtures_dir, count);
    assert_int_equal(mkdir(out, 0755), 0);
}

/* With volumes 1 to n, all well. */
static inline void fixture_begin(struct spool_fixture *f, size_t n, struct spool_options options)
{
    *f = (struct spool_fixture){ .options = over_nfs(options),
                                 .n = n,
                                 .random = 88172645463325252u };
    stats_use(&f->stats);
    fixture_init(&f->net);
    f->fds = open_fds();
    make_fixture_dir(f->dir, sizeof f->dir);
    f->spool = spool_open(f->net.loop, &f->options);
    for (size_t i = 0; i < n; i++) {
        f->volumes[i] = make_volume(f, (uint16_t)(i + 1));
    }
    set_volumes(f);
    wait_well(f);
}

/*
 * Until all calls have ended, those that were given up too: a volume that was removed keeps its
 * root open until then.
 */
static inline void drain(struct spool_fixture *f)
{
    spool_set_volumes(f->spool, NULL, 0);
    WAIT(&f->net, NULL, open_fds() == f->fds);
}

static inline void drain_and_go_on(struct spool_fixture *f)
{
    drain(f);
    set_volumes(f);
    wait_well(f);
}

static inline void fixture_end(struct spool_fixture *f)
{
    drain(f);
    spool_close(&f->spool);
    fixture_fini(&f->net);
    remove_tree(f->dir);
}

/* --- writing and reading --------------------------------------------------------------------- */

struct written {
    struct spool_writer *writer; /* NULL after its last event */
    unsigned ready;
    enum spool_event ev;
    enum err e;
    struct pointer p;
    bool named; /* an event came with a pointer */
};

static inline void on_written(void *arg, enum spool_event ev, enum err e, const struct pointer *p,
                              struct span handle)
{
    struct written *w = arg;
    assert_non_null(w->writer);
    if (ev == SPOOL_READY) {
        w->ready++;
        return;
    }
    w->writer = NULL;
    w->ev = ev;
    w->e = e;
    w->named = p != NULL;
    assert_int_equal(handle.n > 0, ev == SPOOL_WRITTEN && nfs_server());
    if (p) {
        w->p = *p;
    }
}

static inline struct envelope_recipient *one_recipient(void)
{
    static struct envelope_recipient to = { 7, { "alice@example.org", 17 } };
    return &to;
}

static inline struct spool_message message_from(struct span reverse_path)
{
    return (struct spool_message){ .reverse_path = reverse_path, .to = one_recipient(), .n = 1 };
}

static inline void begin(struct spool_fixture *f, struct written *w)
{
    *w = (struct written){ 0 };
    struct spool_message m = message_from(SPAN("bob@example.net"));
    enum err e = spool_create(f->spool, &m, on_written, w, &w->writer);
    assert_int_equal(e, ERR_OK);
}

/* Appends in pieces and waits where it is told to. */
static inline void append(struct spool_fixture *f, struct written *w, struct span octets,
                          size_t piece)
{
    while (octets.n && w->writer) {
        unsigned ready = w->ready;
        if (!spool_append(w->writer, span_first(octets, piece))) {
            WAIT(&f->net, NULL, w->ready > ready || !w->writer);
        }
        octets = span_skip(octets, piece);
    }
}

static inline void finish(struct spool_fixture *f, struct written *w)
{
    if (w->writer) {
        spool_finish(w->writer);
    }
    WAIT(&f->net, NULL, !w->writer);
}

static inline struct pointer write_message(struct spool_fixture *f, struct span octets)
{
    struct written w;
    begin(f, &w);
    append(f, &w, octets, 10000);
    finish(f, &w);
    assert_int_equal(w.ev, SPOOL_WRITTEN);
    assert_int_equal(w.p.size, octets.n);
    return w.p;
}

struct was_read {
    struct spool_reader *reader; /* NULL after its last event */
    struct buf got;
    unsigned pieces;
    enum err e;
    bool on_demand; /* the test asks for each piece itself */
};

static inline void on_read(void *arg, enum err e, struct span piece, bool last)
{
    struct was_read *r = arg;
    assert_non_null(r->reader);
    assert_true(!piece.n || buf_add(&r->got, piece) == ERR_OK);
    r->pieces++;
    r->e = e;
    if (last) {
        r->reader = NULL;
        return;
    }
    assert_int_equal(e, ERR_OK);
    assert_true(piece.n > 0);
    if (!r->on_demand) {
        spool_read_next(r->reader);
    }
}

static inline void read_start(struct spool_fixture *f, struct was_read *r, const struct pointer *p)
{
    *r = (struct was_read){ .e = ERR_COUNT, .on_demand = r->on_demand };
    buf_init(&r->got, SIZE_MAX);
    r->reader = spool_read(f->spool, p, SPAN(""), on_read, r);
}

/* Whether a message can be begun now. */
static inline enum err create_error(struct spool_fixture *f)
{
    struct written w = { 0 };
    struct spool_message m = message_from(SPAN(""));
    enum err e = spool_create(f->spool, &m, on_written, &w, &w.writer);
    if (e == ERR_OK) {
        struct pointer orphan;
        assert_false(spool_abort(&w.writer, &orphan));
    }
    return e;
}

/* One that a write has failed on takes no message until it was looked at. */
static inline void wait_writable(struct spool_fixture *f)
{
    WAIT(&f->net, NULL, create_error(f) == ERR_OK);
}

static inline enum err read_error(struct spool_fixture *f, const struct pointer *p)
{
    struct was_read r = { 0 };
    read_start(f, &r, p);
    WAIT(&f->net, NULL, !r.reader);
    buf_fini(&r.got);
    return r.e;
}

static inline void check_message(struct spool_fixture *f, const struct pointer *p,
                                 struct span octets)
{
    struct was_read r = { 0 };
    read_start(f, &r, p);
    WAIT(&f->net, NULL, !r.reader);
    assert_int_equal(r.e, ERR_OK);
    assert_int_equal(buf_len(&r.got), octets.n);
    assert_true(span_eq(buf_span(&r.got), octets));
    buf_fini(&r.got);
}

/* --- what is in a file ----------------------------------------------------------------------- */

enum file_state {
    FILE_UNFINISHED, /* nobody can have been told that it was written */
    FILE_RIGHT,
    FILE_WRONG
};

/* As fsck would see it. A writer that was killed in its only write leaves a file that is cut. */
static inline enum file_state file_state(struct span octets, const struct blob_id *id)
{
    struct envelope e;
    struct envelope_recipient *to = NULL;
    size_t skip;
    unsigned char sum[32];
    char hex[ENVELOPE_SHA256_HEX + 1];
    if (envelope_parse(octets, &e, &to, &skip) != ERR_OK) {
        return span_find(octets, '\0') == octets.n ? FILE_UNFINISHED : FILE_WRONG;
    }
    free(to);
    struct span message = span_skip(octets, skip);
    if (!blob_id_eq(&e.id, id)) {
        return FILE_WRONG;
    }
    if (!e.complete || message.n < e.size) {
        return FILE_UNFINISHED;
    }
    EVP_Digest(message.p, message.n, sum, NULL, EVP_sha256(), NULL);
    for (size_t i = 0; i < sizeof sum; i++) {
        snprintf(hex + 2 * i, 3, "%02x", sum[i]);
    }
    return message.n == e.size && !strcmp(hex, e.sha256) ? FILE_RIGHT : FILE_WRONG;
}

static inline enum file_state pointer_state(const struct spool_fixture *f, const struct pointer *p)
{
    char path[256];
    file_path(f, p, path, sizeof path);
    struct buf b = file_octets(path);
    enum file_state s = file_state(buf_span(&b), &p->id);
    buf_fini(&b);
    return s;
}

#endif
