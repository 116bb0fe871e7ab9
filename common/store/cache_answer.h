/*
 * cache_answer: what a memcached says to one question of its meta protocol.
 *
 * Nothing of it is believed: whatever is not an answer that the question can have is UNEXPECTED,
 * and what would be longer than any item of ours is that as soon as its length is known.
 */
#ifndef MAILFLEET_STORE_CACHE_ANSWER_H
#define MAILFLEET_STORE_CACHE_ANSWER_H

#include "base/span.h"

enum cache_verb {
    CACHE_VERB_GET,
    CACHE_VERB_SET,
    CACHE_VERB_DELETE,
    CACHE_VERB_COUNT,
    CACHE_VERB_PROBE
};

/*
 * err: OK. NOTFOUND: there is none. BUSY: there is something already (ABSENT), or something else
 * (SAME, delete). CORRUPT: what is there is no number, or the sum is none of 64 bits. LIMIT: the
 * server says that it has no room; what was there may be gone. TEMP: no answer, and it may have
 * happened.
 */
struct cache_answer {
    enum err err;
    struct span value; /* of get; borrowed until done returns */
    uint64_t cas;      /* of get and set */
    uint64_t number;   /* of count and take */
};

enum cache_parsed { CACHE_PARSED, CACHE_INCOMPLETE, CACHE_UNEXPECTED };

/*
 * The answer that got begins with. least: of COUNT, what the sum must be at least. *n: how many
 * octets it has; INCOMPLETE: will have, as far as that is known.
 */
enum cache_parsed cache_answer_parse(struct span got, enum cache_verb verb, uint64_t least,
                                     struct cache_answer *a, size_t *n);

#endif
