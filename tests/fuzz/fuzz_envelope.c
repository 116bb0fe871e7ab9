/*
 * fuzz_envelope: any octets as the beginning of a message file.
 *
 * What is accepted is exactly what envelope_write makes of it: the same octets come out again. So
 * a block that was read means one thing only, and nothing in it was passed over.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "store/envelope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void paths(const struct blob_id *id)
{
    char path[SPOOL_PATH_MAX];
    for (unsigned fanout = 0; fanout <= SPOOL_FANOUT_MAX; fanout++) {
        size_t dir = spool_path(id, fanout, path);
        CHECK(path[dir] == '/' && strlen(path) == dir + 1 + BLOB_ID_CHARS);
        CHECK(!strchr(path + dir + 1, '/') && path[0] != '/');
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size);
    struct envelope e;
    struct envelope_recipient *to;
    size_t skip;
    if (size >= BLOB_ID_SIZE) {
        struct blob_id id;
        memcpy(id.b, data, sizeof id.b);
        envelope_is(in, &id);
        paths(&id);
    }
    if (envelope_parse(in, &e, &to, &skip) != ERR_OK) {
        return 0;
    }
    struct buf again;
    buf_init(&again, SIZE_MAX);
    CHECK(envelope_write(&e, &again) == ERR_OK);
    CHECK(span_eq(buf_span(&again), span_first(in, skip)));
    CHECK(envelope_is(in, &e.id));
    paths(&e.id);
    buf_fini(&again);
    free(to);
    return 0;
}
