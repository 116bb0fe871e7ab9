/*
 * fuzz_cache_answer: any octets as what a memcached says. The first of them is the question.
 *
 * What is parsed lies inside them; octets that come later change nothing of an answer that is
 * whole, and none is taken for whole before all of it is there; what is unexpected stays so.
 */
#include <stdint.h>

#include "base/check.h"
#include "store/cache_answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LEAST 3

static void check_parsed(struct span in, enum cache_verb verb, const struct cache_answer *a,
                         size_t n)
{
    CHECK(n > 0 && n <= in.n && in.p[n - 1] == '\n');
    CHECK(a->value.n == 0 || (a->value.p > in.p && a->value.p + a->value.n <= in.p + n - 2));
    CHECK(a->err != ERR_TEMP);
    CHECK(verb == CACHE_VERB_PROBE || verb == CACHE_VERB_DELETE || verb == CACHE_VERB_COUNT ||
          a->err != ERR_OK || a->cas > 0);
    CHECK(verb != CACHE_VERB_COUNT || a->err != ERR_OK || a->number >= LEAST);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    enum cache_verb verb = (enum cache_verb)(data[0] % (CACHE_VERB_PROBE + 1));
    struct span in = span_of(data + 1, size - 1);
    struct cache_answer a, b;
    size_t n = 0, m = 0;
    enum cache_parsed whole = cache_answer_parse(in, verb, LEAST, &a, &n);
    if (whole == CACHE_PARSED) {
        check_parsed(in, verb, &a, n);
    } else if (whole == CACHE_INCOMPLETE) {
        CHECK(n > in.n && n <= (1 << 20) + 1024);
    }
    for (size_t i = 0; i < in.n && i < 2000; i++) {
        enum cache_parsed part = cache_answer_parse(span_first(in, i), verb, LEAST, &b, &m);
        CHECK(part != CACHE_INCOMPLETE || m > i);
        CHECK(part != CACHE_UNEXPECTED || whole == CACHE_UNEXPECTED);
        CHECK(part != CACHE_PARSED || (whole == CACHE_PARSED && m == n && a.err == b.err));
        CHECK(part != CACHE_INCOMPLETE || whole != CACHE_PARSED || i < n);
    }
    return 0;
}
