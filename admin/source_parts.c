/*
 * source_parts: see the header. Formats are read anew for each message: they are short, and
 * reading a mailbox is dearer by far.
 */
#include "source_parts.h"

#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define UIDL_CHARS_MAX 70
#define TEXT_MAX       1024 /* of a value in a format, and of a whole UIDL before it is judged */

enum err source_fail(enum err e, char *why, size_t size, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, size, fmt, ap);
    va_end(ap);
    return e;
}

/* --- hashes ---------------------------------------------------------------------------------- */

static void hash_hex(const EVP_MD *md, struct span s, char out[2 * EVP_MAX_MD_SIZE + 1])
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    CHECK(EVP_Digest(s.p, s.n, hash, &n, md, NULL) == 1);
    for (unsigned i = 0; i < n; i++) {
        snprintf(out + (size_t)2 * i, 3, "%02x", hash[i]);
    }
}

/* --- UIDLs ----------------------------------------------------------------------------------- */

static bool is_uidl(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < 0x21 || s.p[i] > 0x7e) {
            return false;
        }
    }
    return s.n > 0 && s.n <= UIDL_CHARS_MAX;
}

void source_uidl(struct source_message *m, struct span uidl)
{
    if (is_uidl(uidl)) {
        memcpy(m->uidl, uidl.p, uidl.n);
        m->uidl[uidl.n] = '\0';
        return;
    }
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    hash_hex(EVP_sha256(), uidl, hex);
    memcpy(m->uidl, hex, strlen(hex) + 1);
    m->uidl_changed = true;
}

static int by_uidl(const void *a, const void *b)
{
    const struct source_message *const *x = a, *const *y = b;
    int d = strcmp((*x)->uidl, (*y)->uidl);
    return d ? d : (*x > *y) - (*x < *y);
}

/* `-2` behind it, and more if it is too long for that. */
static void number_uidl(struct source_message *m, size_t nth)
{
    char text[sizeof m->uidl + 24];
    int n = snprintf(text, sizeof text, "%s-%zu", m->uidl, nth);
    m->uidl_changed = true;
    source_uidl(m, span_of(text, (size_t)n));
}

/* One pass; true if there were some, so that another must see whether the new ones are unique. */
static bool number_duplicates(struct source_message **sorted, size_t n)
{
    bool found = false;
    qsort(sorted, n, sizeof(struct source_message *), by_uidl);
    for (size_t i = 0; i < n;) {
        size_t end = i + 1;
        while (end < n && strcmp(sorted[i]->uidl, sorted[end]->uidl) == 0) {
            end++;
        }
        for (size_t j = i + 1; j < end; j++) {
            number_uidl(sorted[j], j - i + 1);
            found = true;
        }
        i = end;
    }
    return found;
}

void source_uidls_unique(struct source_message *m, size_t n)
{
    struct source_message **sorted = NEW_ARRAY(struct source_message *, n + 1);
    for (size_t i = 0; i < n; i++) {
        sorted[i] = &m[i];
    }
    while (number_duplicates(sorted, n)) {
    }
    free(sorted);
}

/* --- formats --------------------------------------------------------------------------------- */

struct value {
    char text[TEXT_MAX];
    size_t n;
};

static bool set_value(struct value *v, struct span s)
{
    if (s.n >= sizeof v->text) {
        return false;
    }
    memcpy(v->text, s.p, s.n);
    v->text[s.n] = '\0';
    v->n = s.n;
    return true;
}

static bool set_number(struct value *v, uint32_t n)
{
    char text[16];
    int len = snprintf(text, sizeof text, "%u", n);
    return n > 0 && set_value(v, span_of(text, (size_t)len));
}

static bool value_of(char key, const struct uidl_parts *p, struct value *v)
{
    switch (key) {
    case 'u':
        return set_number(v, p->uid);
    case 'v':
        return set_number(v, p->validity);
    case 'f':
        return p->name.n && set_value(v, p->name);
    case 'g':
        return p->guid.n && set_value(v, p->guid);
    default:
        return false;
    }
}

static bool filter_hex(struct value *v)
{
    uint64_t n;
    if (span_u64(span_of(v->text, v->n), UINT64_MAX, &n) != ERR_OK) {
        return false;
    }
    v->n = (size_t)snprintf(v->text, sizeof v->text, "%llx", (unsigned long long)n);
    return true;
}

static void filter_md5(struct value *v)
{
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    hash_hex(EVP_md5(), span_of(v->text, v->n), hex);
    set_value(v, span_str(hex));
}

static void filter_case(struct value *v, bool upper)
{
    ascii_lower(v->text, v->n);
    for (size_t i = 0; upper && i < v->n; i++) {
        if (v->text[i] >= 'a' && v->text[i] <= 'z') {
            v->text[i] = (char)(v->text[i] - 'a' + 'A');
        }
    }
}

static bool apply(char filter, struct value *v)
{
    switch (filter) {
    case 'X':
        return filter_hex(v);
    case 'M':
        filter_md5(v);
        return true;
    case 'L':
    case 'U':
        filter_case(v, filter == 'U');
        return true;
    default:
        return false;
    }
}

/* width 0: as it is. With zeros it is filled up, without them it is cut. */
static bool add_value(const struct value *v, bool zeros, size_t width, struct buf *out)
{
    for (size_t i = v->n; zeros && i < width; i++) {
        if (buf_addc(out, '0') != ERR_OK) {
            return false;
        }
    }
    size_t n = !zeros && width && width < v->n ? width : v->n;
    return buf_add(out, span_of(v->text, n)) == ERR_OK;
}

static bool take_number(struct span *s, size_t *out)
{
    size_t n = 0, v = 0;
    while (n < s->n && s->p[n] >= '0' && s->p[n] <= '9' && v < TEXT_MAX) {
        v = v * 10 + (size_t)(s->p[n++] - '0');
    }
    *s = span_skip(*s, n);
    *out = v;
    return v < TEXT_MAX;
}

struct word {
    const char *name;
    char letter;
};

/* NUL: there is none. */
static char short_name(const struct word *words, struct span name)
{
    while (words->name && !span_eq(name, span_str(words->name))) {
        words++;
    }
    return words->letter;
}

/* `hex(8)`: a filter, and how wide it makes the value. */
static bool apply_long(struct span filter, struct value *v, size_t *width)
{
    static const struct word filters[] = { { "hex", 'X' },
                                           { "md5", 'M' },
                                           { "lower", 'L' },
                                           { "upper", 'U' },
                                           { "hexlify", 'L' /* md5 is in hex already */ },
                                           { NULL, 0 } };
    size_t paren = span_find(filter, '(');
    struct span number = span_skip(filter, paren + 1);
    if (paren < filter.n && (!take_number(&number, width) || !span_eq(number, SPAN(")")))) {
        return false;
    }
    return apply(short_name(filters, span_trim(span_first(filter, paren))), v);
}

/* What stands between %{ and }: a name, and filters behind bars. */
static bool add_long(struct span s, const struct uidl_parts *p, struct buf *out)
{
    static const struct word names[] = {
        { "uid", 'u' }, { "uidvalidity", 'v' }, { "filename", 'f' }, { "guid", 'g' }, { NULL, 0 }
    };
    size_t bar = span_find(s, '|'), width = 0;
    struct value v;
    if (!value_of(short_name(names, span_trim(span_first(s, bar))), p, &v)) {
        return false;
    }
    while (bar < s.n) {
        s = span_skip(s, bar + 1);
        bar = span_find(s, '|');
        if (!apply_long(span_trim(span_first(s, bar)), &v, &width)) {
            return false;
        }
    }
    return add_value(&v, true, width, out);
}

/* What stands behind a %; it is taken off *s. */
static bool add_variable(struct span *s, const struct uidl_parts *p, struct buf *out)
{
    if (s->n && s->p[0] == '{') {
        size_t end = span_find(*s, '}');
        struct span inside = span_skip(span_first(*s, end), 1);
        bool good = end < s->n && add_long(inside, p, out);
        *s = span_skip(*s, end + 1);
        return good;
    }
    bool zeros = s->n && s->p[0] == '0';
    size_t width = 0, n = 0;
    if (!take_number(s, &width)) {
        return false;
    }
    while (n < s->n && strchr("XMLU", s->p[n])) {
        n++;
    }
    struct span filters = span_first(*s, n);
    struct value v;
    if (n == s->n || !value_of(s->p[n], p, &v)) {
        return false;
    }
    *s = span_skip(*s, n + 1);
    for (size_t i = 0; i < filters.n; i++) {
        if (!apply(filters.p[i], &v)) {
            return false;
        }
    }
    return add_value(&v, zeros, width, out);
}

enum err uidl_format(const char *format, const struct uidl_parts *p, struct buf *out, char *why,
                     size_t why_size)
{
    static const struct {
        const char *name, *format;
    } names[] = { { "dovecot", "%08Xu%08Xv" }, { "cyrus", "%v.%u" } };
    const char *full = format;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        full = strcmp(format, names[i].name) == 0 ? names[i].format : full;
    }
    struct span s = span_str(full);
    bool good = span_find(s, '%') < s.n; /* or all messages would have the same */
    while (good && s.n) {
        char c = s.p[0];
        s = span_skip(s, 1);
        if (c == '%' && s.n && s.p[0] == '%') {
            s = span_skip(s, 1);
            good = buf_addc(out, '%') == ERR_OK;
        } else {
            good = c == '%' ? add_variable(&s, p, out) : buf_addc(out, c) == ERR_OK;
        }
    }
    return good ? ERR_OK
                : source_fail(ERR_INVALID, why, why_size,
                              "%s: a format of UIDLs that this mailbox can't be listed by", format);
}

/* --- lines ----------------------------------------------------------------------------------- */

/* Tells emit what goes out, piece by piece; memchr does the looking. */
static uint64_t convert(struct crlf *c, struct span s, struct buf *out)
{
    uint64_t n = 0;
    while (s.n) {
        size_t lf = span_find(s, '\n');
        size_t before = lf < s.n ? lf : s.n;
        bool after_cr = before ? s.p[before - 1] == '\r' : c->after_cr;
        bool add = lf < s.n && (c->always || !after_cr);
        size_t len = before + (lf < s.n ? 1 : 0);
        if (out) {
            CHECK(buf_add(out, span_of(s.p, before)) == ERR_OK);
            CHECK(!add || buf_addc(out, '\r') == ERR_OK);
            CHECK(lf == s.n || buf_addc(out, '\n') == ERR_OK);
        }
        n += len + (add ? 1 : 0);
        c->after_cr = lf == s.n && after_cr;
        s = span_skip(s, len);
    }
    return n;
}

void crlf_add(struct crlf *c, struct span piece, struct buf *out)
{
    convert(c, piece, out);
}

uint64_t crlf_count(struct crlf *c, struct span piece)
{
    return convert(c, piece, NULL);
}
