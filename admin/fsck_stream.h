/*
 * fsck_stream: what the database knows of the files, in the order in which they lie on the disk:
 * by volume, UTC day and hash directory. Sorted by PostgreSQL, so the memory here stays the same
 * however much there is.
 *
 * One COPY of one snapshot (store/pg_copy.h): a message that moves meanwhile is seen once. It
 * blocks.
 */
#ifndef MAILFLEET_ADMIN_FSCK_STREAM_H
#define MAILFLEET_ADMIN_FSCK_STREAM_H

#include "base/blob_id.h"

enum row_kind {
    ROW_POINTER,
    ROW_LEDGER,
    ROW_FREE /* a shared file that nobody counts any more: its unlinking is to come */
};

struct fsck_row {
    struct blob_id id;
    enum row_kind kind;
    uint64_t mailbox_id;
    int64_t seq;
    uint32_t size, skip;
    bool shared;
};

/* Where a row's file is, as one number: its order is that of the stream. */
#define FSCK_DAY_BITS  22
#define FSCK_HASH_BITS 16
static inline uint64_t fsck_place(uint64_t volume, uint64_t day, uint64_t hash)
{
    return volume << (FSCK_DAY_BITS + FSCK_HASH_BITS) | day << FSCK_HASH_BITS | hash;
}
static inline uint16_t fsck_place_volume(uint64_t place)
{
    return (uint16_t)(place >> (FSCK_DAY_BITS + FSCK_HASH_BITS));
}
static inline uint32_t fsck_place_day(uint64_t place)
{
    return place >> FSCK_HASH_BITS & ((1u << FSCK_DAY_BITS) - 1);
}
static inline uint32_t fsck_place_hash(uint64_t place)
{
    return place & ((1u << FSCK_HASH_BITS) - 1);
}

struct fsck_scope {
    uint16_t volume;    /* 0: all */
    uint32_t since_day; /* UTC days since 1970 */
    uint64_t from;      /* a place */
};

struct fsck_stream;

/*
 * Connects and counts: *files is how many files the scope has for all that the database knows, from
 * the beginning. False: why is one line.
 */
bool fsck_stream_open(const char *url, const struct fsck_scope *scope, struct fsck_stream **out,
                      uint64_t *files, char *why, size_t why_size);
void fsck_stream_close(struct fsck_stream **s);
/* From any thread: what waits for the database, now or later, fails. */
void fsck_stream_cancel(struct fsck_stream *s);

/* The place of the next row. NOTFOUND: there is none. TEMP: fsck_stream_why says why. */
enum err fsck_stream_next(struct fsck_stream *s, uint64_t *place);
/* Takes the row whose place was just told. */
struct fsck_row fsck_stream_take(struct fsck_stream *s);
const char *fsck_stream_why(const struct fsck_stream *s);

#endif
