/*
 * fuzz_scram: an account's SCRAM keys as text, out of a database or a command line. Holds that what
 * is read can be written, and be read again as the same.
 */
#include "base/check.h"
#include "store/scram.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_hash(struct span text, enum scram_hash h)
{
    struct scram_keys k;
    char once[SCRAM_TEXT_MAX], twice[SCRAM_TEXT_MAX];
    if (scram_parse(text, h, &k) != ERR_OK) {
        return;
    }
    CHECK(k.hash == h && k.iterations > 0 && k.salt_n > 0 && k.salt_n <= SCRAM_SALT_MAX);
    scram_format(&k, once);
    CHECK(scram_parse(span_str(once), h, &k) == ERR_OK);
    scram_format(&k, twice);
    CHECK(strcmp(once, twice) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_hash(span_of(data, size), SCRAM_SHA_256);
    try_hash(span_of(data, size), SCRAM_SHA_1);
    return 0;
}
