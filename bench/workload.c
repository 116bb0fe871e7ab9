/*
 * workload: the phases, the clock, and the line of JSON. Owns the latencies.
 */
#include "workload.h"

#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

/* So many that nearly each of 256 directories has had one. */
#define WARM_UP_FILES 1024
#define WARM_UP_DEPTH 64

#define NS 1000000000ull

static const char *const names[] = { "warm-up", "write", "read", "unlink" };

uint64_t workload_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

/* Of all threads, in the kernel and outside. */
static uint64_t cpu_time(void)
{
    struct rusage r;
    if (getrusage(RUSAGE_SELF, &r) != 0) {
        err(1, "getrusage");
    }
    uint64_t s = (uint64_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec);
    uint64_t us = (uint64_t)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
    return s * NS + us * 1000;
}

static void begin(struct workload *w, enum phase phase)
{
    w->phase = phase;
    w->begun = w->ended = 0;
    w->cpu = cpu_time();
    w->start = workload_now();
    w->deadline = w->start + (uint64_t)(w->seconds * (double)NS);
}

void workload_init(struct workload *w)
{
    /* Reads may be more than this: see workload_done. */
    w->latency = calloc(FILES_MAX, sizeof *w->latency);
    if (!w->latency) {
        err(1, "latencies");
    }
    w->files = w->running = 0;
    begin(w, PHASE_WARM_UP);
}

void workload_fini(struct workload *w)
{
    free(w->latency);
}

size_t workload_depth(const struct workload *w)
{
    return w->phase == PHASE_WARM_UP && w->depth < WARM_UP_DEPTH ? WARM_UP_DEPTH : w->depth;
}

static bool is_over(const struct workload *w)
{
    switch (w->phase) {
    case PHASE_WARM_UP:
        return w->files == WARM_UP_FILES;
    case PHASE_WRITE:
        return w->files == FILES_MAX || workload_now() >= w->deadline;
    case PHASE_READ:
        return workload_now() >= w->deadline;
    case PHASE_UNLINK:
        return w->begun == w->files;
    default:
        return true;
    }
}

bool workload_next(struct workload *w, size_t *file)
{
    if (is_over(w)) {
        return false;
    }
    *file = w->phase <= PHASE_WRITE ? w->files++ : w->begun % w->files;
    w->begun++;
    w->running++;
    return true;
}

/* The latencies of the first FILES_MAX are enough to tell percentiles from. */
void workload_done(struct workload *w, uint64_t begun)
{
    if (w->ended < FILES_MAX) {
        w->latency[w->ended] = workload_now() - begun;
    }
    w->ended++;
    w->running--;
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static double percentile_us(const struct workload *w, size_t n, unsigned percent)
{
    return n ? (double)w->latency[(n - 1) * percent / 100] / 1000 : 0;
}

static void print(struct workload *w)
{
    double seconds = (double)(workload_now() - w->start) / (double)NS;
    double cpu = (double)(cpu_time() - w->cpu) / (double)NS;
    size_t n = w->ended < FILES_MAX ? w->ended : FILES_MAX;
    qsort(w->latency, n, sizeof *w->latency, by_value);
    printf("{\"operation\": \"%s\", \"size\": %zu, \"depth\": %zu, \"operations\": %zu, "
           "\"seconds\": %.6f, \"cpu_seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
           names[w->phase], w->size, w->depth, w->ended, seconds, cpu, percentile_us(w, n, 50),
           percentile_us(w, n, 99));
    fflush(stdout);
}

bool workload_turn(struct workload *w)
{
    if (w->running || !is_over(w)) {
        return false;
    }
    if (w->phase != PHASE_WARM_UP) {
        print(w);
    }
    begin(w, w->phase + 1);
    return true;
}

uint64_t workload_number(const char *text, uint64_t least, uint64_t most, const char *what)
{
    char *end;
    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || n < least || n > most) {
        errx(2, "%s: %s is a number from %" PRIu64 " to %" PRIu64, text, what, least, most);
    }
    return n;
}
