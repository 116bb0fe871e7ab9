/*
 * span: comparing, cutting and reading runs of bytes.
 *
 * Nothing here owns or changes the bytes of a span; span_dup alone allocates. ASCII only, on
 * purpose: protocol words must not depend on a locale.
 */
#include "base/span.h"

#include <unistr.h>

#include "base/check.h"

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The empty span may hold NULL, which memcmp and memchr must not be given. */
bool span_eq(struct span a, struct span b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

bool span_eq_nocase(struct span a, struct span b)
{
    if (a.n != b.n) {
        return false;
    }
    for (size_t i = 0; i < a.n; i++) {
        if (lower(a.p[i]) != lower(b.p[i])) {
            return false;
        }
    }
    return true;
}

bool span_starts(struct span s, struct span prefix)
{
    return s.n >= prefix.n && span_eq(span_first(s, prefix.n), prefix);
}

bool span_starts_nocase(struct span s, struct span prefix)
{
    return s.n >= prefix.n && span_eq_nocase(span_first(s, prefix.n), prefix);
}

size_t span_find(struct span s, char c)
{
    const char *at = s.n ? memchr(s.p, c, s.n) : NULL;
    return at ? (size_t)(at - s.p) : s.n;
}

struct span span_trim(struct span s)
{
    while (s.n && blank(s.p[0])) {
        s = span_skip(s, 1);
    }
    while (s.n && blank(s.p[s.n - 1])) {
        s.n--;
    }
    return s;
}

/* Leading blanks are skipped too: an empty word then always means the end. */
struct span span_word(struct span *rest)
{
    struct span s = span_trim(*rest);
    size_t n = 0;
    while (n < s.n && !blank(s.p[n])) {
        n++;
    }
    *rest = span_trim(span_skip(s, n));
    return span_first(s, n);
}

/* Read to its end even when it is too large, so that "999...9x" is invalid and not a limit. */
enum err span_u64(struct span s, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;
    bool over = false;
    if (s.n == 0) {
        return ERR_INVALID;
    }
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9') {
            return ERR_INVALID;
        }
        uint64_t digit = (uint64_t)(s.p[i] - '0');
        over = over || digit > max || v > (max - digit) / 10;
        v = over ? 0 : v * 10 + digit;
    }
    if (over) {
        return ERR_LIMIT;
    }
    *out = v;
    return ERR_OK;
}

size_t span_utf8_char(struct span s)
{
    if (s.n == 0) {
        return 0;
    }
    int n = s.p[0] ? u8_mblen((const uint8_t *)s.p, s.n) : 1;
    return n > 0 ? (size_t)n : 0;
}

bool span_utf8(struct span s)
{
    return s.n == 0 || !u8_check((const uint8_t *)s.p, s.n);
}

char *span_dup(struct span s)
{
    char *p = mem_new(s.n + 1, 1);
    if (s.n) {
        memcpy(p, s.p, s.n);
    }
    return p;
}

void ascii_lower(char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        p[i] = lower(p[i]);
    }
}
