/*
 * nas_failing: the fixture of tests whose server fails: options with deadlines that a test waits
 * for or does not, and what shows that all is well again.
 */
#ifndef MAILFLEET_TESTS_NAS_FAILING_H
#define MAILFLEET_TESTS_NAS_FAILING_H

#include "nas_fixture.h"

#define BUFFER      65536u
#define CHUNK       8192u
#define QUEUE       20u
#define CONNECTIONS 2u

/* A deadline that no test waits for; the others make it theirs. */
static const struct spool_options patient = { .buffer = BUFFER,
                                              .read_chunk = CHUNK,
                                              .threads = 2,
                                              .queue = 1000,
                                              .timeout_ms = 60000,
                                              .nfs_connections = CONNECTIONS };

static inline struct spool_options hasty(uint64_t timeout_ms)
{
    struct spool_options o = patient;
    o.queue = QUEUE;
    o.timeout_ms = timeout_ms;
    return o;
}

/*
 * In the middle of its life: the first write has come, and with it the look that prepares days; it
 * is over, as others have followed.
 */
static inline void reopen_to_write(struct spool_fixture *f)
{
    reopen(f);
    ask("reset");
    create_error(f);
    look(f, LOOK_OFTEN);
    WAIT(&f->net, NULL, calls_of("FSSTAT") >= 5 * f->n);
    look(f, LOOK_NEVER);
    WAIT(&f->net, NULL, calls_of("READ") == calls_of("FSSTAT"));
    fixture_settle(&f->net, NULL);
    ask("reset");
}

static inline void nas_begin(void **state, size_t volumes, struct spool_options options)
{
    struct spool_fixture *f = *state = NEW(struct spool_fixture);
    fixture_begin(f, volumes, patient);
    prepare(f);
    f->options = over_nfs(options);
    reopen_to_write(f);
}

static inline int nas_end(void **state)
{
    ask("mend");
    fixture_end(*state);
    free(*state);
    return 0;
}

static inline bool has_file(struct spool_fixture *f, const struct pointer *p)
{
    char path[256];
    file_path(f, p, path, sizeof path);
    return access(path, F_OK) == 0;
}

static inline void set_server(struct spool_fixture *f, size_t volume, const char *server)
{
    int host = (int)strcspn(server, "?");
    snprintf(f->volumes[volume].url, sizeof f->volumes[volume].url, "nfs://%.*s%s/v%u%s", host,
             server, f->dir, f->volumes[volume].volume_id, server + host);
}

/* As reopen(), for a server that does not answer now. */
static inline void reopen_unwell(struct spool_fixture *f)
{
    spool_close(&f->spool);
    f->spool = spool_open(f->net.loop, &f->options);
    set_volumes(f);
}

/* On a machine that is busy even a server that is well may pass a deadline that tests wait for. */
static inline bool may_be_late(const struct spool_fixture *f)
{
    return f->options.timeout_ms < patient.timeout_ms;
}

static inline void write_well(struct spool_fixture *f, struct message *m, size_t size)
{
    message_write(f, m, size);
    for (int i = 0; i < 20 && m->ev != SPOOL_WRITTEN && may_be_late(f); i++) {
        message_fini(m);
        wait_writable(f);
        message_write(f, m, size);
    }
    assert_int_equal(m->ev, SPOOL_WRITTEN);
}

static inline void read_well(struct spool_fixture *f, const struct message *m, struct span handle)
{
    if (may_be_late(f)) {
        WAIT(&f->net, NULL, message_read_error(f, m, handle) == ERR_OK);
    } else {
        message_read(f, m, handle);
    }
}

/* All works: the connections, the breaker, the looks. */
static inline void check_mended(struct spool_fixture *f)
{
    struct message m;
    look(f, LOOK_OFTEN);
    wait_well(f);
    wait_writable(f);
    write_well(f, &m, 3 * CHUNK);
    assert_int_equal(pointer_state(f, &m.p), FILE_RIGHT);
    read_well(f, &m, handle_of(&m));
    read_well(f, &m, SPAN(""));
    message_fini(&m);
    look(f, LOOK_NEVER);
}

#endif
