/*
 * accounts_file: words with %XX. Owns nothing.
 */
#include "accounts_file.h"

#include <stdlib.h>

#include "base/check.h"

static bool is_plain(char c)
{
    return (unsigned char)c > ' ' && c != 0x7f && c != '%';
}

void accounts_word(struct buf *out, struct span word)
{
    bool dash = word.n == 1 && *word.p == '-';
    if (buf_len(out) > 0) {
        CHECK(buf_addc(out, ' ') == ERR_OK);
    }
    if (word.n == 0) {
        CHECK(buf_addc(out, '-') == ERR_OK);
    }
    for (size_t i = 0; i < word.n; i++) {
        enum err e = is_plain(word.p[i]) && !dash
                         ? buf_addc(out, word.p[i])
                         : buf_addf(out, "%%%02X", (unsigned)(unsigned char)word.p[i]);
        CHECK(e == ERR_OK);
    }
}

void accounts_number(struct buf *out, uint64_t v)
{
    CHECK(buf_addf(out, "%s%llu", buf_len(out) ? " " : "", (unsigned long long)v) == ERR_OK);
}

void accounts_pair(struct buf *out, const char *key, int64_t v)
{
    CHECK(buf_addf(out, " %s=%lld", key, (long long)v) == ERR_OK);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* In place. No word holds a NUL. */
static bool decode(char *word)
{
    if (strcmp(word, "-") == 0) {
        *word = '\0';
        return true;
    }
    char *to = word;
    for (const char *p = word; *p; p++) {
        if (*p != '%') {
            *to++ = *p;
            continue;
        }
        int high = hex_digit(p[1]), low = high < 0 ? -1 : hex_digit(p[2]);
        if (low < 0 || (high == 0 && low == 0)) {
            return false;
        }
        *to++ = (char)(high << 4 | low);
        p += 2;
    }
    *to = '\0';
    return true;
}

bool accounts_parse(char *line, struct accounts_line *out)
{
    char *rest = line, *word;
    out->n = 0;
    while ((word = strsep(&rest, " "))) {
        if (!*word || out->n == ACCOUNTS_WORDS_MAX || !decode(word)) {
            return false;
        }
        out->word[out->n++] = word;
    }
    return out->n > 0;
}

const char *accounts_value(const struct accounts_line *l, size_t *first, const char *key)
{
    size_t n = strlen(key);
    for (; *first < l->n; ++*first) {
        const char *word = l->word[*first];
        if (strncmp(word, key, n) == 0 && word[n] == '=') {
            ++*first;
            return word + n + 1;
        }
    }
    return NULL;
}

bool accounts_value_number(const struct accounts_line *l, size_t first, const char *key,
                           int64_t none, int64_t *out)
{
    const char *text = accounts_value(l, &first, key);
    char *end;
    if (!text) {
        *out = none;
        return true;
    }
    long long v = strtoll(text, &end, 10);
    if (!*text || *end || v == INT64_MIN || v == INT64_MAX) {
        return false;
    }
    *out = v;
    return true;
}
