/*
 * blob_id: making an id and its text, and reading it back.
 *
 * Values only; no memory, no clock and no source of randomness. Both the bytes and the characters
 * are big-endian, which is what makes ids, their texts and their times sort alike.
 */
#include "base/blob_id.h"

#include <endian.h>

/* Crockford's base32 in lower case: no i, l, o or u. In ASCII order, so that texts sort. */
static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";

enum { TIME_BYTES = 6 };

struct blob_id blob_id_make(uint64_t unix_ms, const uint8_t random[10])
{
    struct blob_id id;
    for (size_t i = 0; i < TIME_BYTES; i++) {
        id.b[i] = (uint8_t)(unix_ms >> (8 * (TIME_BYTES - 1 - i)));
    }
    memcpy(id.b + TIME_BYTES, random, BLOB_ID_SIZE - TIME_BYTES);
    return id;
}

uint64_t blob_id_time(const struct blob_id *id)
{
    uint64_t ms = 0;
    for (size_t i = 0; i < TIME_BYTES; i++) {
        ms = ms << 8 | id->b[i];
    }
    return ms;
}

/* Two characters for each ten bits: a listing of a large mailbox is little else than ids. */
/* clang-format off */
#define PAIRS(a)                                                                                  \
    a "0" a "1" a "2" a "3" a "4" a "5" a "6" a "7" a "8" a "9" a "a" a "b" a "c" a "d" a "e"     \
    a "f" a "g" a "h" a "j" a "k" a "m" a "n" a "p" a "q" a "r" a "s" a "t" a "v" a "w" a "x"     \
    a "y" a "z"
static const char pairs[] =
    PAIRS("0") PAIRS("1") PAIRS("2") PAIRS("3") PAIRS("4") PAIRS("5") PAIRS("6") PAIRS("7")
    PAIRS("8") PAIRS("9") PAIRS("a") PAIRS("b") PAIRS("c") PAIRS("d") PAIRS("e") PAIRS("f")
    PAIRS("g") PAIRS("h") PAIRS("j") PAIRS("k") PAIRS("m") PAIRS("n") PAIRS("p") PAIRS("q")
    PAIRS("r") PAIRS("s") PAIRS("t") PAIRS("v") PAIRS("w") PAIRS("x") PAIRS("y") PAIRS("z");
/* clang-format on */

/* The low 10 bits. */
static inline void put_pair(char *out, uint64_t bits)
{
    memcpy(out, pairs + 2 * (bits & 1023), 2);
}

/* The low 60 bits, as 12 characters; no loop, as that would take as long again. */
static inline void put_text60(char *out, uint64_t bits)
{
    put_pair(out, bits >> 50);
    put_pair(out + 2, bits >> 40);
    put_pair(out + 4, bits >> 30);
    put_pair(out + 6, bits >> 20);
    put_pair(out + 8, bits >> 10);
    put_pair(out + 10, bits);
}

/* 26 characters hold 130 bits: two zero bits come first, so the first character is 0 to 7. */
void blob_id_text(const struct blob_id *id, char out[BLOB_ID_CHARS + 1])
{
    uint64_t high, low;
    memcpy(&high, id->b, sizeof high);
    memcpy(&low, id->b + sizeof high, sizeof low);
    high = be64toh(high);
    low = be64toh(low);
    out[0] = alphabet[high >> 61];
    put_text60(out + 1, high >> 1);
    out[13] = alphabet[(high & 1) << 4 | low >> 60];
    put_text60(out + 14, low);
    out[BLOB_ID_CHARS] = '\0';
}

enum err blob_id_parse(struct span s, struct blob_id *out)
{
    struct blob_id id;
    uint32_t acc = 0;
    unsigned bits = 0;
    size_t n = 0;
    if (s.n != BLOB_ID_CHARS) {
        return ERR_INVALID;
    }
    for (size_t i = 0; i < s.n; i++) {
        const char *at = memchr(alphabet, s.p[i], sizeof alphabet - 1);
        if (!at || (i == 0 && at - alphabet > 7)) {
            return ERR_INVALID;
        }
        acc = acc << 5 | (uint32_t)(at - alphabet);
        bits += i == 0 ? 3 : 5;
        if (bits >= 8) {
            bits -= 8;
            id.b[n++] = (uint8_t)(acc >> bits);
        }
    }
    *out = id;
    return ERR_OK;
}

bool blob_id_eq(const struct blob_id *a, const struct blob_id *b)
{
    return memcmp(a->b, b->b, BLOB_ID_SIZE) == 0;
}
