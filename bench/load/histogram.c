/*
 * histogram: see the header. The first PARTS buckets hold one value each.
 */
#include "histogram.h"

#define PARTS_BITS 6
_Static_assert(1 << PARTS_BITS == HISTOGRAM_PARTS, "a power of two");

static unsigned bucket_of(uint64_t v)
{
    if (v < HISTOGRAM_PARTS) {
        return (unsigned)v;
    }
    unsigned octave = 63u - (unsigned)__builtin_clzll(v) - PARTS_BITS;
    if (octave >= HISTOGRAM_OCTAVES) {
        return HISTOGRAM_BUCKETS - 1;
    }
    return HISTOGRAM_PARTS * octave + (unsigned)(v >> octave);
}

/* The middle of a bucket. */
static uint64_t value_of(unsigned bucket)
{
    if (bucket < HISTOGRAM_PARTS) {
        return bucket;
    }
    unsigned octave = bucket / HISTOGRAM_PARTS - 1;
    uint64_t first = (uint64_t)(bucket - HISTOGRAM_PARTS * octave) << octave;
    return first + ((1ull << octave) - 1) / 2;
}

void histogram_add(struct histogram *h, uint64_t value)
{
    if (!h->count || value < h->least) {
        h->least = value;
    }
    if (value > h->largest) {
        h->largest = value;
    }
    h->count++;
    h->n[bucket_of(value)]++;
}

uint64_t histogram_quantile(const struct histogram *h, double q)
{
    if (!h->count) {
        return 0;
    }
    double place = q * (double)h->count;
    uint64_t rank = (uint64_t)place;
    rank += (double)rank < place; /* the smallest whole number that is not below */
    rank = rank ? rank : 1;
    uint64_t seen = 0;
    unsigned i = 0;
    while ((seen += h->n[i]) < rank && i < HISTOGRAM_BUCKETS - 1) {
        i++;
    }
    uint64_t v = value_of(i);
    return v < h->least ? h->least : v > h->largest ? h->largest : v;
}
