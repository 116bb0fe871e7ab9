/*
 * fault: reads MAILFLEET_FAULT once and counts the passes of each point.
 *
 * Static data only, one counter a point and process. A specification that can't be understood
 * ends the process: a test whose fault was never armed would prove nothing. In a build without
 * faults this file is empty.
 */
#include "base/fault.h"

#ifdef MAILFLEET_FAULTS

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <threads.h>
#include <unistd.h>

#include "base/span.h"

enum action { ACTION_NONE, ACTION_KILL, ACTION_FAIL, ACTION_STOP };

struct point {
    const char *name;
    enum action action;
    uint64_t at; /* the pass it happens at */
    _Atomic uint64_t passes;
};

static struct point points[FAULT_COUNT] = {
#define X(fault, help) [FAULT_##fault] = { .name = #fault },
    FAULT_LIST(X)
#undef X
};

static struct point *find(struct span name)
{
    for (size_t i = 0; i < FAULT_COUNT; i++) {
        if (span_eq(name, span_str(points[i].name))) {
            return &points[i];
        }
    }
    return NULL;
}

static enum action action_of(struct span word)
{
    return span_eq(word, SPAN("kill"))   ? ACTION_KILL
           : span_eq(word, SPAN("fail")) ? ACTION_FAIL
           : span_eq(word, SPAN("stop")) ? ACTION_STOP
                                         : ACTION_NONE;
}

/* NAME[:COUNT]=ACTION */
static bool arm(struct span spec)
{
    struct span left = span_first(spec, span_find(spec, '='));
    struct span name = span_first(left, span_find(left, ':'));
    uint64_t at = 1;
    if (name.n < left.n && span_u64(span_skip(left, name.n + 1), UINT64_MAX, &at) != ERR_OK) {
        return false;
    }
    struct point *p = find(name);
    enum action action = action_of(span_skip(spec, left.n + 1));
    if (!p || action == ACTION_NONE || at == 0) {
        return false;
    }
    p->action = action;
    p->at = at;
    return true;
}

static void arm_all(void)
{
    struct span rest = span_str(getenv("MAILFLEET_FAULT"));
    while (rest.n) {
        struct span spec = span_first(rest, span_find(rest, ','));
        if (!arm(spec)) {
            fprintf(stderr, "MAILFLEET_FAULT: can't be understood: %.*s\n", SPAN_ARG(spec));
            abort();
        }
        rest = span_skip(rest, spec.n + 1);
    }
}

bool fault_at(enum fault f)
{
    static once_flag armed = ONCE_FLAG_INIT;
    call_once(&armed, arm_all);
    struct point *p = &points[f];
    if (p->action == ACTION_NONE || atomic_fetch_add(&p->passes, 1) + 1 != p->at) {
        return false;
    }
    switch (p->action) {
    case ACTION_KILL:
        kill(0, SIGKILL); /* the whole process group: the node dies, not a worker of it */
        pause();
        return false;
    case ACTION_STOP:
        raise(SIGSTOP);
        return false;
    default:
        return true;
    }
}

#endif
