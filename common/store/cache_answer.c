/*
 * cache_answer: a line, behind which a value follows if it begins with VA. Bytes only; a span of
 * what was parsed is all that it keeps.
 */
#include "store/cache_answer.h"

#include "base/check.h"

#define LINE_MOST 512 /* the longest line that is believed */

/* No item of ours is as long: what is, is not read. */
#define VALUE_MOST (1024 * 1024)

/* The codes that a verb can be answered with, and what they come to. */
static const struct {
    const char *code;
    enum err err;
    unsigned verbs; /* bits */
} CODES[] = {
    { "VA", ERR_OK, 1u << CACHE_VERB_GET | 1u << CACHE_VERB_COUNT },
    { "HD", ERR_OK, 1u << CACHE_VERB_SET | 1u << CACHE_VERB_DELETE },
    { "EN", ERR_NOTFOUND, 1u << CACHE_VERB_GET },
    { "NF", ERR_NOTFOUND, 1u << CACHE_VERB_SET | 1u << CACHE_VERB_DELETE | 1u << CACHE_VERB_COUNT },
    { "NS", ERR_BUSY, 1u << CACHE_VERB_SET | 1u << CACHE_VERB_COUNT },
    { "EX", ERR_BUSY, 1u << CACHE_VERB_SET | 1u << CACHE_VERB_DELETE },
    { "MN", ERR_OK, 1u << CACHE_VERB_PROBE },
};

/* The cas is the one flag that is asked for. Others are of no use to us, and no harm. */
static bool parse_flags(struct span rest, struct cache_answer *a)
{
    while (rest.n) {
        struct span flag = span_word(&rest);
        if (flag.n && flag.p[0] == 'c' &&
            span_u64(span_skip(flag, 1), UINT64_MAX, &a->cas) != ERR_OK) {
            return false;
        }
    }
    return true;
}

/* A memcached without them (-C) is of no use. */
static bool wants_cas(enum cache_verb verb, enum err e)
{
    return e == ERR_OK && (verb == CACHE_VERB_GET || verb == CACHE_VERB_SET);
}

static bool parse_code(struct span line, enum cache_verb verb, struct cache_answer *a)
{
    struct span whole = line, code = span_word(&line);
    uint64_t size = 0;
    if (code.p != whole.p) { /* blanks before it */
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(CODES); i++) {
        if (!span_eq(code, span_str(CODES[i].code)) || !(CODES[i].verbs & 1u << verb)) {
            continue;
        }
        a->err = CODES[i].err;
        if (i == 0 && span_u64(span_word(&line), VALUE_MOST, &size) != ERR_OK) {
            return false;
        }
        a->value = span_of(i == 0 ? code.p : NULL, size); /* where it is comes later */
        return parse_flags(line, a) && (a->cas || !wants_cas(verb, a->err));
    }
    return false;
}

static bool parse_line(struct span line, enum cache_verb verb, struct cache_answer *a)
{
    static const char no_number[] = "CLIENT_ERROR cannot increment or decrement non-numeric value";
    bool writes = verb == CACHE_VERB_SET || verb == CACHE_VERB_COUNT;
    if (writes && span_starts(line, SPAN("SERVER_ERROR "))) {
        a->err = ERR_LIMIT;
        return true;
    }
    if (verb == CACHE_VERB_COUNT && span_eq(line, span_str(no_number))) {
        a->err = ERR_CORRUPT;
        return true;
    }
    return parse_code(line, verb, a);
}

/* The sum, and no less than was added: memcached adds modulo 2^64, which no counter of ours comes
 * near. It may have blanks behind it. */
static bool parse_sum(enum cache_verb verb, uint64_t least, struct cache_answer *a)
{
    if (verb != CACHE_VERB_COUNT || a->err != ERR_OK) {
        return true;
    }
    if (span_u64(span_trim(a->value), UINT64_MAX, &a->number) != ERR_OK) {
        return false;
    }
    a->err = a->number < least ? ERR_CORRUPT : ERR_OK;
    return true;
}

enum cache_parsed cache_answer_parse(struct span got, enum cache_verb verb, uint64_t least,
                                     struct cache_answer *a, size_t *n)
{
    size_t end = span_find(span_first(got, LINE_MOST), '\n');
    *a = (struct cache_answer){ 0 };
    if (end >= got.n || end >= LINE_MOST) {
        *n = LINE_MOST;
        return got.n < LINE_MOST ? CACHE_INCOMPLETE : CACHE_UNEXPECTED;
    }
    if (end == 0 || got.p[end - 1] != '\r' || !parse_line(span_first(got, end - 1), verb, a)) {
        return CACHE_UNEXPECTED;
    }
    *n = end + 1;
    if (!a->value.p) {
        return CACHE_PARSED;
    }
    *n += a->value.n + 2;
    if (got.n < *n) {
        return CACHE_INCOMPLETE;
    }
    a->value.p = got.p + end + 1;
    bool ended = memcmp(a->value.p + a->value.n, "\r\n", 2) == 0;
    return ended && parse_sum(verb, least, a) ? CACHE_PARSED : CACHE_UNEXPECTED;
}
