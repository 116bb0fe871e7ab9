/*
 * fuzz_address: any octets as a path and as an operator's address.
 *
 * What is accepted must be text that may be shown and logged, and must mean the same when it is
 * parsed again.
 */
#include <stdint.h>
#include <stdlib.h>

#include "address.h"
#include "base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *text, const struct address *a)
{
    bool high = false;
    CHECK(strlen(text) == a->len);
    for (size_t i = 0; i < a->len; i++) {
        unsigned char c = (unsigned char)text[i];
        CHECK(c >= ' ' && c != 127);
        high = high || c > 127;
    }
    CHECK(high == a->utf8);
}

static void check_address(const struct address *a)
{
    check_text(a->text, a);
    check_text(a->canon, a);
    CHECK(a->local <= LOCAL_MAX && a->local <= a->len);
    if (a->local == a->len) {
        CHECK(a->len == 0 || strcmp(a->canon, "postmaster") == 0);
        return;
    }
    CHECK(a->text[a->local] == '@');

    struct address again;
    CHECK(address_parse(span_of(a->text, a->len), &again) == ERR_OK);
    CHECK(strcmp(again.text, a->text) == 0 && again.local == a->local);
    CHECK(address_parse(span_of(a->canon, a->len), &again) == ERR_OK);
    CHECK(strcmp(again.canon, a->canon) == 0 && again.local == a->local);
}

static void try_path(struct span in, bool null_ok)
{
    struct address a;
    struct span rest = in;
    if (address_parse_path(&rest, null_ok, &a) == ERR_OK) {
        CHECK(rest.p > in.p && rest.p[-1] == '>' && rest.p + rest.n == in.p + in.n);
        check_address(&a);
    } else {
        CHECK(rest.p == in.p && rest.n == in.n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size);
    struct address a;
    try_path(in, true);
    try_path(in, false);
    if (address_parse(in, &a) == ERR_OK) {
        CHECK(a.local > 0 && a.local < a.len);
        check_address(&a);
    }
    return 0;
}
