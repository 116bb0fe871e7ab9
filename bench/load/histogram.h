/*
 * histogram: latencies, counted in memory that does not grow with them.
 *
 * Each power of two is cut into HISTOGRAM_PARTS equal buckets, so a quantile is told within 1 % of
 * its value (half a bucket); least and largest are exact. Values are of any unit; here they are
 * microseconds.
 */
#ifndef MAILFLEET_BENCH_LOAD_HISTOGRAM_H
#define MAILFLEET_BENCH_LOAD_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_PARTS   64
#define HISTOGRAM_OCTAVES 36 /* up to 2^42 us: what is more counts as that */
#define HISTOGRAM_BUCKETS (HISTOGRAM_PARTS * (HISTOGRAM_OCTAVES + 1))

struct histogram {
    uint64_t count, least, largest;
    uint64_t n[HISTOGRAM_BUCKETS];
};

/* Zeroed memory is an empty one. */
void histogram_add(struct histogram *h, uint64_t value);
/* The value that the share q (0 to 1) of all does not exceed; 0 when there is none. */
uint64_t histogram_quantile(const struct histogram *h, double q);

#endif
