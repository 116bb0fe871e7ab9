/*
 * progress: the bar, and sleeping to keep the pace. A command has nothing else to do meanwhile.
 */
#include "progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define BAR_WIDTH 30
#define REDRAW_MS 200
#define LINE_MS   30000
#define SECOND_MS 1000
#define NS_OF_MS  1000000

static int64_t monotonic_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND_MS + t.tv_nsec / NS_OF_MS;
}

static void draw_bar(const struct progress *p)
{
    char bar[BAR_WIDTH + 1];
    uint64_t done = p->done < p->total ? p->done : p->total;
    unsigned filled = (unsigned)(done * BAR_WIDTH / p->total);
    for (unsigned i = 0; i < BAR_WIDTH; i++) {
        bar[i] = i < filled ? '#' : '.';
    }
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "[%s] %3u%% ", bar, (unsigned)(done * 100 / p->total));
}

static void show(struct progress *p, int64_t now, const char *end)
{
    int64_t took = now - p->began_ms;
    uint64_t rate = took > 0 ? p->done * SECOND_MS / (uint64_t)took : 0;
    p->shown_ms = now;
    fputs(p->terminal ? "\r" : "mailfleet: ", stderr);
    if (p->total) {
        draw_bar(p);
    }
    fprintf(stderr, "%llu %s, %llu/s%s", (unsigned long long)p->done, p->what,
            (unsigned long long)rate, end);
    if (p->total && rate && p->done < p->total && p->terminal) {
        fprintf(stderr, ", %llu s left ", (unsigned long long)((p->total - p->done) / rate));
    }
    fflush(stderr);
}

void progress_begin(struct progress *p, const char *what, uint64_t total, uint64_t rate)
{
    int64_t now = monotonic_ms();
    *p = (struct progress){ .what = what,
                            .total = total,
                            .rate = rate,
                            .began_ms = now,
                            .shown_ms = now,
                            .paced_ms = now,
                            .terminal = isatty(STDERR_FILENO) };
}

/* Sleeps until the steps of this stretch may have been made; stretches are a second or longer. */
static void keep_pace(struct progress *p, uint64_t n)
{
    p->paced += n;
    int64_t due = p->paced_ms + (int64_t)(p->paced * SECOND_MS / p->rate), now = monotonic_ms();
    if (due > now) {
        struct timespec t = { (due - now) / SECOND_MS, (due - now) % SECOND_MS * NS_OF_MS };
        while (nanosleep(&t, &t) != 0) {
        }
    } else if (now - p->paced_ms > SECOND_MS) {
        p->paced_ms = now; /* what was not used of the pace is not saved up */
        p->paced = 0;
    }
}

void progress_step(struct progress *p, uint64_t n)
{
    p->done += n;
    if (p->rate) {
        keep_pace(p, n);
    }
    int64_t now = monotonic_ms();
    if (now - p->shown_ms >= (p->terminal ? REDRAW_MS : LINE_MS)) {
        show(p, now, p->terminal ? "" : "\n");
    }
}

void progress_end(struct progress *p)
{
    if (!p->terminal && p->done == 0) {
        return;
    }
    show(p, monotonic_ms(), "\n");
}
