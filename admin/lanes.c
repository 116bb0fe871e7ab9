/*
 * lanes: see the header. All of them are stepped in turns; when none had anything to do, the loop
 * waits until a thread or the spool wakes it.
 */
#include "lanes.h"

#include <stdlib.h>
#include <sysexits.h>

#define JOBS     4
#define JOBS_MAX 64
#define RATE_MAX 1000000

static void lane_listed(struct lane_head *h, const struct lane_ops *ops)
{
    const bool *wanted = NULL;
    h->index = reader_account(h->reader);
    bool go_on = ops->listed(h, &wanted);
    reader_answer(h->reader, wanted, go_on);
}

static void lane_ended(struct lane_head *h, const struct lane_ops *ops)
{
    h->index = reader_account(h->reader);
    ops->ended(h);
    reader_answer(h->reader, NULL, true);
}

/* False: nothing to do now. */
static bool take_event(struct lane_head *h, const struct lane_ops *ops)
{
    switch (reader_poll(h->reader, &h->octets)) {
    case READ_LISTED:
        lane_listed(h, ops);
        return true;
    case READ_OCTETS:
        ops->octets(h);
        buf_clear(&h->octets);
        return true;
    case READ_MESSAGE:
        ops->message(h);
        return true;
    case READ_ACCOUNT:
        lane_ended(h, ops);
        return true;
    case READ_GONE:
        h->gone = true;
        return true;
    case READ_NOTHING:
        break;
    }
    return false;
}

static bool lane_step(struct lane_head *h, const struct lane_ops *ops)
{
    enum lane_pause pause = ops->pause ? ops->pause(h) : LANE_FREE;
    return pause == LANE_STEPPED || (pause == LANE_FREE && !h->gone && take_event(h, ops));
}

static bool all_gone(struct lane_head *const *heads, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!heads[i]->gone) {
            return false;
        }
    }
    return true;
}

static void step_all(struct loop *l, const struct lane_ops *ops, struct lane_head *const *heads,
                     size_t n)
{
    while (!all_gone(heads, n)) {
        bool stepped = false;
        for (size_t i = 0; i < n; i++) {
            stepped = lane_step(heads[i], ops) || stepped;
        }
        uv_run(loop_uv(l), stepped ? UV_RUN_NOWAIT : UV_RUN_ONCE);
    }
}

void lanes_run(struct loop *l, const struct readers_options *o, const struct lane_ops *ops,
               struct lane_head *const *heads)
{
    struct readers *readers = readers_open(l, o);
    for (unsigned i = 0; i < o->threads; i++) {
        heads[i]->reader = readers_at(readers, i);
        reader_buffer(&heads[i]->octets);
    }
    step_all(l, ops, heads, o->threads);
    readers_close(&readers);
    for (unsigned i = 0; i < o->threads; i++) {
        buf_fini(&heads[i]->octets);
    }
}

int lanes_options(const struct args *args, const struct move_list *list, const char *password,
                  struct readers_options *out)
{
    uint64_t jobs = JOBS, rate = 0;
    int code = move_number(args, ARG_jobs, JOBS_MAX, &jobs);
    code = code == EX_OK ? move_number(args, ARG_rate, RATE_MAX, &rate) : code;
    if (code == EX_OK && args->opt[ARG_format] && strncmp(args->v[0], "pop3", 4) == 0) {
        code = admin_fail(EX_USAGE, "--format is for files: this server tells its UIDLs itself");
    }
    if (code == EX_OK) {
        *out = (struct readers_options){ .list = list,
                                         .url = args->v[0],
                                         .source = { .password = password,
                                                     .master = args->opt[ARG_master],
                                                     .ca = args->opt[ARG_ca],
                                                     .format = args->opt[ARG_format] },
                                         .threads = (unsigned)(jobs < list->n ? jobs : list->n),
                                         .rate = rate };
    }
    return code;
}
