/*
 * fuzz_cache_item: any octets as what a memcached says that it holds.
 *
 * Parsing stays inside them, and nothing that was not sealed here, for this key and at this time,
 * becomes a value: the octets are tried as they are, and as a change to an item that was.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "store/cache_item.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW_MS  1000000000000
#define LIFE_MS 300000

static const uint8_t KEY[32] = "0123456789abcdef0123456789abcdef";

static bool inside(struct span part, struct span whole)
{
    return part.n == 0 || (part.p >= whole.p && part.p + part.n <= whole.p + whole.n);
}

static void check_item(struct span in, const struct item *it)
{
    CHECK(inside(it->token, in) && inside(it->head, in) && inside(it->sealed, in));
    CHECK(it->parts <= ITEM_PARTS_MAX);
    CHECK(it->type != ITEM_PLACEHOLDER || it->token.n == ITEM_TOKEN_SIZE);
    CHECK(it->type != ITEM_LEASE || it->token.n == ITEM_TOKEN_SIZE);
    CHECK(it->type != ITEM_VALUE || it->head.n == ITEM_HEAD_SIZE);
    CHECK(it->type != ITEM_VALUE || (it->parts == 0) == (it->sealed.n > 0));
}

static enum err unseal(const struct seal *s, struct span in)
{
    struct buf out;
    struct item it = item_parse(in);
    check_item(in, &it);
    if (it.type != ITEM_VALUE) {
        return ERR_CORRUPT;
    }
    buf_init(&out, in.n);
    enum err e = item_unseal(s, "mf:0:l:1", &it, it.sealed, NOW_MS, LIFE_MS, &out);
    buf_fini(&out);
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seal *s = seal_new(KEY);
    struct buf good;
    unsigned parts;
    CHECK(unseal(s, span_of(data, size)) != ERR_OK);

    buf_init(&good, 1024);
    CHECK(item_seal(s, "mf:0:l:1", NOW_MS, SPAN("value"), &good, &parts) == ERR_OK);
    CHECK(unseal(s, buf_span(&good)) == ERR_OK);
    char *changed = span_dup(buf_span(&good));
    bool same = true;
    for (size_t i = 0; i < size && i < buf_len(&good); i++) {
        changed[i] ^= (char)data[i];
        same = same && data[i] == 0;
    }
    CHECK((unseal(s, span_of(changed, buf_len(&good))) == ERR_OK) == same);
    free(changed);
    buf_fini(&good);
    seal_free(&s);
    return 0;
}
