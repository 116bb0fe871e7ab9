/*
 * fuzz_downgrade: any octets as an internationalized message.
 *
 * What comes out of a header is ASCII as far as it was a header, and still one header; what was
 * ASCII stays as it was; a second conversion changes nothing.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "downgrade.h"

#define OUT_MOST ((size_t)64 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_converted(struct span header, struct span converted)
{
    CHECK(!downgrade_needed(converted));
    if (!downgrade_needed(header)) {
        CHECK(span_eq(header, converted));
    }
    CHECK(downgrade_header_end(converted) == converted.n ||
          downgrade_header_end(header) != header.n);
}

/* With too little room it says so, wherever that ends. */
static void check_limit(struct span header, size_t needed)
{
    struct buf out;
    buf_init(&out, needed / 2);
    CHECK(needed == 0 || downgrade_header(header, &out) == ERR_LIMIT);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf out;
    char *copy =
        mem_new(size > 0 ? size : 1, 1); /* of its own size, so that a read past it shows */
    if (size > 0) {
        memcpy(copy, data, size);
    }
    struct span message = span_of(copy, size);
    (void)downgrade_concerns(message);
    size_t end = downgrade_header_end(message);
    CHECK(end <= size);
    struct span header = end > 0 ? span_first(message, end) : message;
    buf_init(&out, OUT_MOST);
    CHECK(downgrade_header(header, &out) == ERR_OK);
    check_converted(header, buf_span(&out));
    check_limit(header, buf_len(&out));
    buf_fini(&out);
    free(copy);
    return 0;
}
