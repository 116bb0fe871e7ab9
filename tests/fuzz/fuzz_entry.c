/*
 * fuzz_entry: any octets as the cached form of what an address leads to.
 *
 * What is accepted must have no other spelling, and must be made of C strings within their bounds.
 */
#include <stdint.h>

#include "base/check.h"
#include "store/directory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_entry(const struct entry *e)
{
    CHECK(e->kind <= ENTRY_DOMAIN && e->state <= ACCOUNT_REMOVED);
    CHECK(e->read_days >= -1);
    CHECK(strnlen(e->hash, sizeof e->hash) <= PASSWORD_HASH_MAX);
    CHECK(strnlen(e->scram, sizeof e->scram) <= ENTRY_SCRAM_MAX);
    CHECK(e->n <= ENTRY_TARGETS_MAX);
    for (size_t i = 0; i < e->n; i++) {
        size_t n = strlen(e->targets[i]);
        CHECK(n > 0 && n <= ENTRY_TARGET_MAX);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct entry *e = NULL;
    struct span in = span_of(data, size);
    if (entry_decode(in, &e) != ERR_OK) {
        CHECK(e == NULL);
        return 0;
    }
    struct buf again;
    buf_init(&again, size);
    check_entry(e);
    CHECK(entry_encode(e, &again) == ERR_OK);
    CHECK(span_eq(buf_span(&again), in));
    buf_fini(&again);
    entry_free(&e);
    return 0;
}
