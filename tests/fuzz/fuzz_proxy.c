/*
 * fuzz_proxy: any octets as the beginning of a connection to a port that requires a PROXY header.
 *
 * What a prefix of the input is taken for must stay true for the whole of it: a header that was
 * found, or refused, is the same with more behind it. Reading as far as proxy_need says must lead
 * to the same answer, and never past the end of a header.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "net/proxy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct answer {
    enum err e;
    struct proxy_header h;
    size_t used;
};

/* From memory of its own size, so that a look past the end is seen. */
static struct answer parse(struct span in)
{
    struct answer a = { .used = SIZE_MAX };
    char *exact = mem_new(in.n ? in.n : 1, 1);
    if (in.n > 0) {
        memcpy(exact, in.p, in.n);
    }
    a.e = proxy_parse(span_of(exact, in.n), &a.h, &a.used);
    free(exact);
    return a;
}

static bool same(const struct answer *a, const struct answer *b)
{
    return a->e == b->e && a->used == b->used && memcmp(&a->h, &b->h, sizeof a->h) == 0;
}

/* These go to logs and trace headers. */
static void check_text(const char *text, size_t size)
{
    size_t n = 0;
    while (n < size && text[n] > ' ' && text[n] <= '~') {
        n++;
    }
    CHECK(n < size && text[n] == '\0');
}

static void check_answer(const struct answer *a, struct span in)
{
    CHECK(a->e == ERR_OK || a->e == ERR_TEMP || a->e == ERR_INVALID);
    CHECK((a->e == ERR_OK) == (a->used != SIZE_MAX));
    if (a->e == ERR_OK) {
        CHECK(a->used > 0 && a->used <= in.n && a->used <= PROXY_HEADER_MAX);
        CHECK(a->h.local || a->h.source.ss_family == a->h.destination.ss_family);
        CHECK(!a->h.local || a->h.source.ss_family == 0);
        check_text(a->h.tls_version, sizeof a->h.tls_version);
        check_text(a->h.tls_cipher, sizeof a->h.tls_cipher);
        check_text(a->h.unique_id, sizeof a->h.unique_id);
    }
    CHECK(a->e != ERR_TEMP || in.n < PROXY_HEADER_MAX);
}

/* As a careful reader gets it; an input that ends too early stays TEMP. */
static struct answer read_by_need(struct span in)
{
    size_t n = 0;
    struct answer a = parse(span_first(in, n));
    while (a.e == ERR_TEMP && n < in.n) {
        size_t need = proxy_need(span_first(in, n));
        CHECK(need > 0);
        n += need;
        a = parse(span_first(in, n));
        CHECK(a.e != ERR_OK || a.used == n);
    }
    return a;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size);
    struct answer whole = parse(in);
    check_answer(&whole, in);
    for (size_t n = 0; n < size && n < 300; n++) {
        struct answer part = parse(span_first(in, n));
        check_answer(&part, span_first(in, n));
        CHECK(part.e == ERR_TEMP || same(&part, &whole));
    }
    struct answer careful = read_by_need(in);
    CHECK(same(&careful, &whole));
    return 0;
}
