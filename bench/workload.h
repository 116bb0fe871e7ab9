/*
 * workload: what the programs of bench/nfs-throughput do and how it is measured, the same for all.
 *
 * A run writes files for some seconds, reads them round and round for as long, and unlinks them
 * all; before it, some files are written that are not timed, so that connections stand and
 * directories are known. A program asks workload_next for each operation it begins, keeps depth of
 * them going, and tells the end of each. Each phase ends with one line of JSON on standard output.
 * One thread, or callers that lock.
 */
#ifndef MAILFLEET_BENCH_WORKLOAD_H
#define MAILFLEET_BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum phase { PHASE_WARM_UP, PHASE_WRITE, PHASE_READ, PHASE_UNLINK, PHASE_END };

/* More files than a phase of a few seconds can make. */
#define FILES_MAX 200000
/* Operations in flight while nothing is measured, and the most that may be asked for. */
#define DEPTH_MAX 256

struct workload {
    /* What to do. */
    size_t size;    /* octets of a file */
    size_t depth;   /* operations in flight */
    double seconds; /* of writing, and of reading */
    /* Where it stands. */
    enum phase phase;
    size_t files;                  /* written, or being written: their numbers are 0 to files - 1 */
    size_t begun;                  /* operations of this phase */
    size_t running;                /* of them in flight */
    uint64_t start, cpu, deadline; /* ns */
    uint64_t *latency;             /* ns, of each operation that has ended */
    size_t ended;
};

/* A monotonic clock, ns. */
uint64_t workload_now(void);
/* The first phase; the three options are set. */
void workload_init(struct workload *w);
void workload_fini(struct workload *w);
/* Operations that this phase keeps in flight. */
size_t workload_depth(const struct workload *w);
/* False: the phase begins no more. Else the file to work on. */
bool workload_next(struct workload *w, size_t *file);
/* One that began at `begun` (workload_now) is done; it went well, or the program has ended. */
void workload_done(struct workload *w, uint64_t begun);
/* No more to begin and none in flight: prints what was measured and goes to the next phase. */
bool workload_turn(struct workload *w);
/* A number from a program's arguments, or the end of the program. */
uint64_t workload_number(const char *text, uint64_t least, uint64_t most, const char *what);

#endif
