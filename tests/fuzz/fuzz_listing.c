/*
 * fuzz_listing: any octets as the cached form of a maildrop.
 *
 * What is accepted must have no other spelling, and must be safe to serve.
 */
#include <stdint.h>

#include "base/check.h"
#include "store/listing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_maildrop(const struct maildrop *m)
{
    uint64_t octets = 0, before = 0;
    for (size_t i = 0; i < m->count; i++) {
        char uidl[UIDL_MAX + 1];
        size_t n = maildrop_uidl(m, i, uidl);
        CHECK(n > 0 && n <= UIDL_MAX && strlen(uidl) == n);
        CHECK(maildrop_handle(m, i).n <= HANDLE_MAX);
        struct pointer p = maildrop_at(m, i);
        CHECK(p.seq > before);
        before = p.seq;
        octets += p.size;
    }
    CHECK(octets == m->octets);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct maildrop *m = NULL;
    struct span octets = span_of(data, size);
    /* Of its exact size, so that a read past its end is seen. */
    struct buf again, in = { .mem = mem_raw(size), .tail = size, .size = size, .limit = size };
    if (size) {
        memcpy(in.mem, data, size);
    }
    if (listing_decode(&in, &m) != ERR_OK) {
        CHECK(m == NULL && span_eq(buf_span(&in), octets));
        buf_fini(&in);
        return 0;
    }
    CHECK(buf_len(&in) == 0 && !in.mem);
    buf_init(&again, size);
    check_maildrop(m);
    CHECK(listing_encode(m, &again) == ERR_OK);
    CHECK(span_eq(buf_span(&again), octets));
    buf_fini(&again);
    maildrop_free(&m);
    return 0;
}
