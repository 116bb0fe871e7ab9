/*
 * parameters: a table for each of the two commands, and a function for each parameter.
 *
 * It owns nothing and keeps nothing; what a row is given is borrowed from the command line. No row
 * decides about mail: whether a message is too large in fact is seen when it comes.
 */
#include "parameters.h"

#include "base/check.h"

#define ENVID_MAX 100 /* RFC 3461, section 4.4 */
#define ORCPT_MAX 500 /* section 4.2 */
#define AUTH_MAX  500 /* RFC 4954, section 4 */

/* --- encodings ------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The octet at the front of xtext, or -1; *n is how many characters stand for it. */
static int xtext_octet(struct span s, size_t *n)
{
    char c = *s.p;
    *n = 1;
    if (c != '+') {
        return c > ' ' && c <= '~' && c != '=' ? c : -1;
    }
    *n = 3;
    int high = s.n >= 3 ? hex_digit(s.p[1]) : -1;
    int low = s.n >= 3 ? hex_digit(s.p[2]) : -1;
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static bool is_xtext(struct span s, size_t most)
{
    bool ok = s.n > 0 && s.n <= most;
    while (ok && s.n > 0) {
        size_t n;
        ok = xtext_octet(s, &n) >= 0;
        s = span_skip(s, n);
    }
    return ok;
}

enum err parameters_xtext(struct span s, char *out, size_t size)
{
    size_t len = 0;
    while (s.n > 0) {
        size_t n;
        int c = xtext_octet(s, &n);
        if (c < ' ' || c > '~') {
            return ERR_INVALID;
        }
        if (len + 1 >= size) {
            return ERR_LIMIT;
        }
        out[len++] = (char)c;
        s = span_skip(s, n);
    }
    out[len] = '\0';
    return ERR_OK;
}

/* Octets of `\x{HEX}` at the front, a character of Unicode that is no surrogate; 0: none. */
static size_t embedded_char(struct span s)
{
    uint32_t c = 0;
    if (!span_starts(s, SPAN("\\x{"))) {
        return 0;
    }
    for (size_t i = 3; i < s.n && i <= 9; i++) {
        int digit = hex_digit(s.p[i]);
        if (s.p[i] == '}') {
            bool valid = i >= 5 && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
            return valid ? i + 1 : 0;
        }
        if (digit < 0) {
            return 0;
        }
        c = c * 16 + (uint32_t)digit;
    }
    return 0;
}

/* RFC 6533, section 3: utf-8-addr-xtext; with SMTPUTF8 utf-8-addr-unitext as well. */
static bool is_utf8_address(struct span s, bool utf8)
{
    bool ok = s.n > 0;
    while (ok && s.n > 0) {
        char c = *s.p;
        size_t n = 1;
        if (c == '\\') {
            n = embedded_char(s);
        } else if ((unsigned char)c > 127) {
            n = utf8 ? span_utf8_char(s) : 0;
        } else if (c <= ' ' || c > '~' || c == '+' || c == '=') {
            n = 0;
        }
        ok = n > 0;
        s = span_skip(s, n);
    }
    return ok;
}

/* --- parameters ------------------------------------------------------------------------------ */

/* Each takes the value of a parameter; its p is NULL when there was no equals sign. */

static enum reply set_size(struct span value, struct parameters *p)
{
    enum err e = span_u64(value, p->max_size, &p->declared);
    if (e) {
        return e == ERR_LIMIT ? REPLY_TOO_LARGE : REPLY_PARAM_VALUE;
    }
    return REPLY_OK;
}

/*
 * Messages are kept as they come, so the first two mean the same here. BINARYMIME (RFC 3030) is
 * refused, as POP3 can serve nothing but lines.
 */
static enum reply set_body(struct span value, struct parameters *p)
{
    (void)p;
    if (span_eq_nocase(value, SPAN("BINARYMIME"))) {
        return REPLY_NO_BINARYMIME;
    }
    bool known = span_eq_nocase(value, SPAN("7BIT")) || span_eq_nocase(value, SPAN("8BITMIME"));
    return known ? REPLY_OK : REPLY_PARAM_VALUE;
}

static enum reply set_utf8(struct span value, struct parameters *p)
{
    p->utf8 = true;
    return value.p ? REPLY_PARAM_VALUE : REPLY_OK;
}

/* The message goes no further, so that it came by TLS is all that is required. */
static enum reply set_requiretls(struct span value, struct parameters *p)
{
    if (value.p) {
        return REPLY_PARAM_VALUE;
    }
    return p->tls ? REPLY_OK : REPLY_REQUIRES_TLS;
}

static enum reply set_ret(struct span value, struct parameters *p)
{
    (void)p;
    bool known = span_eq_nocase(value, SPAN("FULL")) || span_eq_nocase(value, SPAN("HDRS"));
    return known ? REPLY_OK : REPLY_PARAM_VALUE;
}

static enum reply set_envid(struct span value, struct parameters *p)
{
    (void)p;
    return is_xtext(value, ENVID_MAX) ? REPLY_OK : REPLY_PARAM_VALUE;
}

static enum reply set_auth(struct span value, struct parameters *p)
{
    (void)p;
    bool ok = span_eq(value, SPAN("<>")) || is_xtext(value, AUTH_MAX);
    return ok ? REPLY_OK : REPLY_PARAM_VALUE;
}

static bool is_notify_word(struct span word)
{
    return span_eq_nocase(word, SPAN("SUCCESS")) || span_eq_nocase(word, SPAN("FAILURE")) ||
           span_eq_nocase(word, SPAN("DELAY"));
}

static enum reply set_notify(struct span value, struct parameters *p)
{
    (void)p;
    bool ok = value.n > 0;
    if (span_eq_nocase(value, SPAN("NEVER"))) {
        return REPLY_OK;
    }
    for (bool more = true; ok && more;) {
        size_t comma = span_find(value, ',');
        ok = is_notify_word(span_first(value, comma));
        more = comma < value.n;
        value = span_skip(value, comma + 1);
    }
    return ok ? REPLY_OK : REPLY_PARAM_VALUE;
}

static bool is_address_type(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = (char)(s.p[i] | 0x20);
        if (!(c >= 'a' && c <= 'z') && !(s.p[i] >= '0' && s.p[i] <= '9') && s.p[i] != '-') {
            return false;
        }
    }
    return s.n > 0;
}

static enum reply set_orcpt(struct span value, struct parameters *p)
{
    if (!value.p) {
        return REPLY_PARAM_VALUE;
    }
    size_t semicolon = span_find(value, ';');
    struct span type = span_first(value, semicolon), rest = span_skip(value, semicolon + 1);
    bool ok = value.n <= ORCPT_MAX && is_address_type(type);
    if (span_eq_nocase(type, SPAN("utf-8"))) {
        ok = ok && is_utf8_address(rest, p->utf8);
    } else {
        ok = ok && is_xtext(rest, ORCPT_MAX);
    }
    return ok ? REPLY_OK : REPLY_PARAM_VALUE;
}

struct row {
    const char *name;
    enum reply (*set)(struct span value, struct parameters *p);
};

static const struct row of_mail[] = {
    { "SIZE", set_size },     { "BODY", set_body },
    { "SMTPUTF8", set_utf8 }, { "REQUIRETLS", set_requiretls },
    { "RET", set_ret },       { "ENVID", set_envid },
    { "AUTH", set_auth },
};
static const struct row of_rcpt[] = {
    { "NOTIFY", set_notify },
    { "ORCPT", set_orcpt },
};

_Static_assert(ARRAY_LEN(of_mail) == PARAMETERS_MAIL_MAX, "the header says how many");

static enum reply read_word(const struct row *rows, size_t n, struct span word, unsigned *given,
                            struct parameters *p)
{
    size_t equals = span_find(word, '=');
    struct span name = span_first(word, equals);
    struct span value = equals < word.n ? span_skip(word, equals + 1) : (struct span){ 0 };
    for (unsigned i = 0; i < n; i++) {
        if (!span_eq_nocase(name, span_str(rows[i].name))) {
            continue;
        }
        if (*given & 1u << i) {
            return REPLY_PARAM_TWICE;
        }
        *given |= 1u << i;
        return rows[i].set(value, p);
    }
    return REPLY_PARAM_UNKNOWN;
}

static enum reply read_words(const struct row *rows, size_t n, struct span words,
                             struct parameters *p)
{
    unsigned given = 0;
    for (struct span word; (word = span_word(&words)).n > 0;) {
        enum reply r = read_word(rows, n, word, &given, p);
        if (r != REPLY_OK) {
            return r;
        }
    }
    return REPLY_OK;
}

enum reply parameters_mail(struct span words, struct parameters *p)
{
    return read_words(of_mail, ARRAY_LEN(of_mail), words, p);
}

enum reply parameters_rcpt(struct span words, struct parameters *p)
{
    return read_words(of_rcpt, ARRAY_LEN(of_rcpt), words, p);
}
