/*
 * nas_fixture: what the programs of test_nfs.py have besides the fixture of the spool's tests: a
 * wire before the server that counts and breaks, the server's life, and messages with their
 * handles.
 *
 * Wire and server are in the hands of test_nfs.py, which answers questions over the socket whose
 * descriptor MAILFLEET_TEST_CONTROL names: one line each way; while it thinks the loop stands
 * still. What a test has stopped or broken is mended when it ends.
 */
#ifndef MAILFLEET_TESTS_NAS_FIXTURE_H
#define MAILFLEET_TESTS_NAS_FIXTURE_H

#include "spool_fixture.h"

#include "store/nfs_handle.h"

/* --- the wire and the server ----------------------------------------------------------------- */

/* The answer to a question, one of those that test_nfs.py's Control knows; valid until the next. */
static inline const char *ask(const char *question)
{
    static char answer[1024];
    size_t n = 0;
    int fd = atoi(getenv("MAILFLEET_TEST_CONTROL"));
    assert_int_equal(dprintf(fd, "%s\n", question), strlen(question) + 1);
    while (!n || answer[n - 1] != '\n') {
        ssize_t got = read(fd, answer + n, sizeof answer - n);
        assert_true(got > 0);
        n += (size_t)got;
    }
    answer[n - 1] = '\0';
    if (!strncmp(answer, "error", 5)) {
        fail_msg("%s: %s", question, answer);
    }
    return answer;
}

/* Calls of one procedure since the last reset. */
static inline unsigned calls_of(const char *procedure)
{
    char question[64];
    snprintf(question, sizeof question, "calls_of %s", procedure);
    return (unsigned)atoi(ask(question));
}

/* These and no others since the last reset, as "CREATE 1, WRITE 2"; those of MOUNT do not count. */
static inline void check_calls(const char *expected)
{
    assert_string_equal(ask("calls"), expected);
    ask("reset");
}

/* --- looks at the volumes -------------------------------------------------------------------- */

/* The spool's timer is known by how often it comes; a test may make it come more often. */
enum look { LOOK_NEVER = 0, LOOK_OFTEN = 7, LOOK_USUAL = 1000 };

static inline void set_look(uv_handle_t *h, void *ms)
{
    uv_timer_t *t = (uv_timer_t *)h;
    if (h->type != UV_TIMER ||
        (uv_timer_get_repeat(t) != LOOK_OFTEN && uv_timer_get_repeat(t) != LOOK_USUAL)) {
        return;
    }
    uv_timer_stop(t);
    if (*(enum look *)ms) {
        uv_timer_set_repeat(t, *(enum look *)ms);
        uv_timer_again(t);
    }
}

static inline void look(struct spool_fixture *f, enum look ms)
{
    uv_walk(loop_uv(f->net.loop), set_look, &ms);
}

/* --- the spool ------------------------------------------------------------------------------- */

/* As another process sees the same volumes: it knows no directory of theirs. */
static inline void reopen(struct spool_fixture *f)
{
    spool_close(&f->spool);
    f->spool = spool_open(f->net.loop, &f->options);
    set_volumes(f);
    wait_well(f);
}

/* Until a look has made the next day's directories of a volume: this is the last. */
static inline void wait_prepared(struct spool_fixture *f, const char *root, unsigned fanout)
{
    char path[SPOOL_PATH_MAX], last[256];
    struct blob_id id = blob_id_make(((uint64_t)time(NULL) + 24 * 60 * 60) * 1000,
                                     (uint8_t[BLOB_ID_SIZE - 6]){ 0xff, 0xff });
    size_t n = spool_path(&id, fanout, path);
    snprintf(last, sizeof last, "%s/%.*s", root, (int)n, path);
    WAIT(&f->net, NULL, access(last, F_OK) == 0);
    fixture_settle(&f->net, NULL);
}

/* The first message has them made; later ones need no further call for any directory. */
static inline void prepare(struct spool_fixture *f)
{
    char root[200];
    write_message(f, SPAN(""));
    for (size_t i = 0; i < f->n; i++) {
        snprintf(root, sizeof root, "%s/v%u", f->dir, f->volumes[i].volume_id);
        wait_prepared(f, root, f->volumes[i].fanout);
    }
}

/* --- messages with their handles ------------------------------------------------------------- */

struct message {
    struct buf octets;
    struct spool_writer *writer; /* NULL after its last event */
    enum spool_event ev;
    enum err e;
    unsigned ready;
    bool named; /* the last event came with a pointer */
    struct pointer p;
    struct nfs_handle handle;
};

static inline struct span handle_of(const struct message *m)
{
    return nfs_handle_span(&m->handle);
}

static inline void on_message(void *arg, enum spool_event ev, enum err e, const struct pointer *p,
                              struct span handle)
{
    struct message *m = arg;
    assert_non_null(m->writer);
    if (ev == SPOOL_READY) {
        m->ready++;
        return;
    }
    m->writer = NULL;
    m->ev = ev;
    m->e = e;
    m->named = p != NULL;
    m->p = p ? *p : m->p;
    nfs_handle_set(&m->handle, handle);
    assert_int_equal(m->handle.len > 0, ev == SPOOL_WRITTEN);
}

static inline void message_begin(struct spool_fixture *f, struct message *m, size_t size,
                                 size_t recipients)
{
    struct envelope_recipient to[100];
    assert_in_range(recipients, 1, ARRAY_LEN(to));
    for (size_t i = 0; i < recipients; i++) {
        to[i] = (struct envelope_recipient){ i, SPAN("alice@example.org") };
    }
    *m = (struct message){ .octets = random_octets(&f->random, size) };
    const struct spool_message message = { .reverse_path = SPAN("bob@example.net"),
                                           .to = to,
                                           .n = recipients };
    assert_int_equal(spool_create(f->spool, &message, on_message, m, &m->writer), ERR_OK);
}

/* All of it at once: no step of it waits for the next piece. */
static inline void message_send(struct message *m)
{
    spool_append(m->writer, buf_span(&m->octets));
    spool_finish(m->writer);
}

static inline void message_write(struct spool_fixture *f, struct message *m, size_t size)
{
    message_begin(f, m, size, 1);
    message_send(m);
    WAIT(&f->net, NULL, !m->writer);
}

static inline void message_fini(struct message *m)
{
    buf_fini(&m->octets);
}

/* A message that is read, and by which handle it was found. */
struct seen {
    struct was_read r;
    bool told; /* spool_reader_handle was not empty */
    struct nfs_handle handle;
};

static inline void on_seen(void *arg, enum err e, struct span piece, bool last)
{
    struct seen *s = arg;
    struct span handle = spool_reader_handle(s->r.reader);
    s->told = handle.n > 0;
    nfs_handle_set(&s->handle, handle);
    on_read(&s->r, e, piece, last);
}

static inline void seen_start(struct spool_fixture *f, struct seen *s, const struct pointer *p,
                              struct span handle)
{
    *s = (struct seen){ .r = { .e = ERR_COUNT, .on_demand = s->r.on_demand } };
    buf_init(&s->r.got, SIZE_MAX);
    s->r.reader = spool_read(f->spool, p, handle, on_seen, s);
}

static inline struct seen seen_end(struct spool_fixture *f, struct seen *s)
{
    WAIT(&f->net, NULL, !s->r.reader);
    return *s;
}

/* Reads it whole by this handle, which may be empty; it must be right. */
static inline struct seen message_read(struct spool_fixture *f, const struct message *m,
                                       struct span handle)
{
    struct seen s = { 0 };
    seen_start(f, &s, &m->p, handle);
    seen_end(f, &s);
    assert_int_equal(s.r.e, ERR_OK);
    assert_true(span_eq(buf_span(&s.r.got), buf_span(&m->octets)));
    buf_fini(&s.r.got);
    return s;
}

/* How a read ends that can't end well; nothing is told then that is not the message. */
static inline enum err message_read_error(struct spool_fixture *f, const struct message *m,
                                          struct span handle)
{
    struct seen s = { 0 };
    seen_start(f, &s, &m->p, handle);
    seen_end(f, &s);
    assert_true(span_starts(buf_span(&m->octets), buf_span(&s.r.got)));
    buf_fini(&s.r.got);
    return s.r.e;
}

static inline void on_unlink_end(void *arg, enum err e)
{
    *(enum err *)arg = e;
}

static inline enum err message_unlink(struct spool_fixture *f, const struct message *m)
{
    enum err e = ERR_COUNT;
    spool_unlink(f->spool, m->p.volume, &m->p.id, on_unlink_end, &e);
    WAIT(&f->net, NULL, e != ERR_COUNT);
    return e;
}

#endif
