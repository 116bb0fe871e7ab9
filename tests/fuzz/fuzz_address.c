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

static void check_text(const char *text, size_t len, bool utf8)
{
    bool high = false;
    CHECK(strlen(text) == len && len <= ADDRESS_MAX);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        CHECK(c >= ' ' && c != 127);
        high = high || c > 127;
    }
    CHECK(high == utf8 && span_utf8(span_of(text, len)));
}

static void check_address(const struct address *a)
{
    struct span domain = span_skip(span_of(a->canon, a->canon_len), a->canon_local);
    bool local_utf8 = false;
    for (size_t i = 0; i < a->canon_local; i++) {
        local_utf8 = local_utf8 || (unsigned char)a->canon[i] > 127;
    }
    check_text(a->text, a->len, a->utf8);
    check_text(a->canon, a->canon_len, local_utf8);
    check_text(domain.p, domain.n, false);
    CHECK(a->local <= LOCAL_MAX && a->local <= a->len);
    CHECK(a->canon_local <= LOCAL_MAX && a->canon_local <= a->canon_len);
    if (a->local == a->len) {
        CHECK(a->len == 0 || strcmp(a->canon, "postmaster") == 0);
        return;
    }
    CHECK(a->text[a->local] == '@' && *domain.p == '@');

    struct address again;
    CHECK(address_parse(span_of(a->text, a->len), &again) == ERR_OK);
    CHECK(strcmp(again.text, a->text) == 0 && again.local == a->local);
    CHECK(strcmp(again.canon, a->canon) == 0);
    CHECK(address_parse(span_of(a->canon, a->canon_len), &again) == ERR_OK);
    CHECK(strcmp(again.canon, a->canon) == 0 && again.canon_local == a->canon_local);
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
        CHECK(*address_explain_path(in, null_ok));
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
