/*
 * address: the parser of mail addresses, by recursive descent over borrowed bytes.
 *
 * A struct reader lives on the stack of the public functions; each rule eats from it what is its,
 * appends what belongs to the address, and leaves it in any state when it fails. The caller owns
 * the result, which holds no pointers. libidn2 and libunistring have what Unicode knows; what they
 * give is parsed again, as mapping makes a slash, an @ or a semicolon of characters that look
 * harmless.
 */
#include "address.h"

#include <arpa/inet.h>
#include <idn2.h>
#include <stdlib.h>
#include <uninorm.h>

#include "base/check.h"

#define LABEL_MAX 63 /* RFC 1035, section 2.3.4 */

/*
 * DOMAIN_MAX has no row: the bound of the whole is met first. The bounds of a source route's hops
 * are those of domains, and of their number the length of a command line.
 */
/* clang-format off */
#define FAULT_LIST(X)                                                             \
    X(SYNTAX,     ERR_INVALID, "not the syntax of an address")                    \
    X(UTF8,       ERR_INVALID, "not valid UTF-8, or a control character")         \
    X(LITERAL,    ERR_INVALID, "not a valid address literal")                     \
    X(IDN,        ERR_INVALID, "not a valid internationalized domain name")       \
    X(LOCAL_LONG, ERR_LIMIT,   "the local part is longer than 64 octets")         \
    X(LABEL_LONG, ERR_LIMIT,   "a label of the domain is longer than 63 octets")  \
    X(LONG,       ERR_LIMIT,   "the address is longer than 254 octets")
/* clang-format on */

enum fault {
    FAULT_NONE,
#define X(name, err, text) FAULT_##name,
    FAULT_LIST(X)
#undef X
};

static const struct {
    enum err err;
    const char *text;
} faults[] = { { ERR_OK, "" },
#define X(name, err, text) { err, text },
               FAULT_LIST(X)
#undef X
};

struct text {
    char p[ADDRESS_MAX + 1];
    size_t n;
};

struct reader {
    struct span in;
    struct text out; /* local@domain as it was written */
    size_t local;
    struct text content; /* of the local part, without quotes and escapes */
};

/* Classes of characters. */
enum {
    ATEXT = 1 << 0, /* of an unquoted local part */
    QTEXT = 1 << 1, /* of a quoted one, not escaped */
    QPAIR = 1 << 2, /* of a quoted one, escaped */
    LABEL = 1 << 3, /* of a domain's label */
    DTEXT = 1 << 4, /* of a domain literal */
    UTF8 = 1 << 5   /* all that is not ASCII */
};

static bool is_alnum(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static unsigned ascii_class(unsigned char c)
{
    if (c < ' ' || c > '~') {
        return 0;
    }
    unsigned k = QPAIR;
    if (is_alnum(c) || memchr("!#$%&'*+-/=?^_`{|}~", c, 19)) {
        k |= ATEXT;
    }
    if (c != '"' && c != '\\') {
        k |= QTEXT;
    }
    /* An underscore is no host name's, but there are senders whose domain has one. */
    if (is_alnum(c) || c == '-' || c == '_') {
        k |= LABEL;
    }
    if (c > ' ' && c != '[' && c != '\\' && c != ']') {
        k |= DTEXT;
    }
    return k;
}

/*
 * Octets of the UTF-8 character at the front, 0 when there is none. ASCII is none, and so are the
 * controls U+0080 to U+009F: an address is shown in logs and replies.
 */
static size_t utf8_char(struct span s)
{
    size_t n = span_utf8_char(s);
    bool control = n == 2 && (unsigned char)s.p[0] == 0xc2 && (unsigned char)s.p[1] < 0xa0;
    return n < 2 || control ? 0 : n;
}

static bool take(struct span *in, char c)
{
    if (in->n == 0 || *in->p != c) {
        return false;
    }
    *in = span_skip(*in, 1);
    return true;
}

static enum fault put(struct text *t, struct span s)
{
    if (t->n + s.n > ADDRESS_MAX) {
        return FAULT_LONG;
    }
    memcpy(t->p + t->n, s.p, s.n);
    t->n += s.n;
    return FAULT_NONE;
}

static struct span text_span(const struct text *t)
{
    return span_of(t->p, t->n);
}

/* Octets of the character at the front, 0 when it is not of an allowed class. */
static size_t at_char(struct span in, unsigned allowed)
{
    if (in.n && ascii_class((unsigned char)*in.p) & allowed) {
        return 1;
    }
    return allowed & UTF8 ? utf8_char(in) : 0;
}

/* Why there is no such character. */
static enum fault no_char(struct span in)
{
    unsigned char c = in.n ? (unsigned char)*in.p : 'a';
    return c > '~' || c < ' ' ? FAULT_UTF8 : FAULT_SYNTAX;
}

/* One or more characters; *chars counts them. */
static enum fault run(struct span *in, unsigned allowed, struct text *t, size_t *chars)
{
    size_t count = 0;
    for (size_t n; (n = at_char(*in, allowed)) > 0; count++) {
        enum fault f = put(t, span_first(*in, n));
        if (f) {
            return f;
        }
        *in = span_skip(*in, n);
    }
    *chars = count;
    return count ? FAULT_NONE : no_char(*in);
}

/* --- the local part -------------------------------------------------------------------------- */

static enum fault dot_string(struct span *in, struct text *t)
{
    for (;;) {
        size_t chars;
        enum fault f = run(in, ATEXT | UTF8, t, &chars);
        if (f || !take(in, '.')) {
            return f;
        }
        f = put(t, SPAN("."));
        if (f) {
            return f;
        }
    }
}

/* The content of a quoted string, with the escapes taken off. */
static enum fault quoted_content(struct span *in, struct text *t)
{
    while (!take(in, '"')) {
        unsigned allowed = take(in, '\\') ? QPAIR : QTEXT | UTF8;
        size_t n = at_char(*in, allowed);
        enum fault f = n ? put(t, span_first(*in, n)) : no_char(*in);
        if (f) {
            return f;
        }
        *in = span_skip(*in, n);
    }
    return FAULT_NONE;
}

static enum fault put_quoted(struct span content, struct text *t)
{
    char q[2 * ADDRESS_MAX + 2];
    size_t n = 0;
    q[n++] = '"';
    for (size_t i = 0; i < content.n; i++) {
        if (content.p[i] == '"' || content.p[i] == '\\') {
            q[n++] = '\\';
        }
        q[n++] = content.p[i];
    }
    q[n++] = '"';
    return put(t, span_of(q, n));
}

/*
 * "john.doe"@x and john.doe@x are one mailbox, as are "j\d" and jd: what needs no quotes loses
 * them, the rest keeps them and only the escapes it needs (RFC 5321, section 4.1.2).
 */
static enum fault put_local(struct span content, struct text *t)
{
    struct text plain = { 0 };
    struct span rest = content;
    bool needs_quotes = dot_string(&rest, &plain) != FAULT_NONE || rest.n > 0;
    size_t before = t->n;
    enum fault f = needs_quotes ? put_quoted(content, t) : put(t, content);
    return f || t->n - before > LOCAL_MAX ? FAULT_LOCAL_LONG : FAULT_NONE;
}

static enum fault local_part(struct reader *r)
{
    enum fault f =
        take(&r->in, '"') ? quoted_content(&r->in, &r->content) : dot_string(&r->in, &r->content);
    if (f) {
        return f == FAULT_LONG ? FAULT_LOCAL_LONG : f;
    }
    f = put_local(text_span(&r->content), &r->out);
    r->local = r->out.n;
    return f;
}

/* --- the domain ------------------------------------------------------------------------------ */

static bool is_ip(int family, struct span s)
{
    char text[INET6_ADDRSTRLEN];
    unsigned char ignored[sizeof(struct in6_addr)];
    if (s.n >= sizeof text) {
        return false;
    }
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    return inet_pton(family, text, ignored) == 1;
}

/* Section 4.1.3: an IPv4 address, `IPv6:` and one, or a tag, a colon and anything. */
static bool is_literal(struct span s)
{
    size_t tag = span_find(s, ':');
    if (tag == s.n) {
        return is_ip(AF_INET, s);
    }
    if (span_starts_nocase(s, SPAN("IPv6:"))) {
        return is_ip(AF_INET6, span_skip(s, tag + 1));
    }
    for (size_t i = 0; i < tag; i++) {
        if (!is_alnum((unsigned char)s.p[i]) && s.p[i] != '-') {
            return false;
        }
    }
    return tag > 0 && is_alnum((unsigned char)s.p[tag - 1]) && tag + 1 < s.n;
}

static enum fault domain_literal(struct span *in, struct text *t)
{
    size_t chars, begin = t->n + 1;
    enum fault f = put(t, SPAN("["));
    if (!f) {
        f = run(in, DTEXT, t, &chars);
    }
    if (f) {
        return f;
    }
    if (!is_literal(span_skip(text_span(t), begin))) {
        return FAULT_LITERAL;
    }
    return take(in, ']') ? put(t, SPAN("]")) : FAULT_SYNTAX;
}

/*
 * The bound of a label is on its ASCII form, which is never shorter than its characters are many:
 * so characters are counted here, and libidn2 has the last word.
 */
static enum fault label(struct span *in, struct text *t)
{
    size_t chars, begin = t->n;
    enum fault f = run(in, LABEL | UTF8, t, &chars);
    if (f) {
        return f;
    }
    if (t->p[begin] == '-' || t->p[t->n - 1] == '-') {
        return FAULT_SYNTAX;
    }
    return chars > LABEL_MAX ? FAULT_LABEL_LONG : FAULT_NONE;
}

/* The dot that ends an absolute domain is dropped: example.com. and example.com are one. */
static enum fault domain(struct span *in, struct text *t)
{
    if (take(in, '[')) {
        return domain_literal(in, t);
    }
    for (;;) {
        enum fault f = label(in, t);
        if (f || !take(in, '.') || !at_char(*in, LABEL | UTF8)) {
            return f;
        }
        f = put(t, SPAN("."));
        if (f) {
            return f;
        }
    }
}

/* --- paths ----------------------------------------------------------------------------------- */

static enum fault mailbox(struct reader *r)
{
    enum fault f = local_part(r);
    if (f) {
        return f;
    }
    if (!take(&r->in, '@')) {
        return no_char(r->in);
    }
    f = put(&r->out, SPAN("@"));
    return f ? f : domain(&r->in, &r->out);
}

/* `@a,@b:`, to be accepted and ignored (RFC 5321, appendix C). */
static enum fault source_route(struct span *in)
{
    if (in->n == 0 || *in->p != '@') {
        return FAULT_NONE;
    }
    do {
        struct text hop = { 0 };
        enum fault f = take(in, '@') ? domain(in, &hop) : FAULT_SYNTAX;
        if (f) {
            return f;
        }
    } while (take(in, ','));
    return take(in, ':') ? FAULT_NONE : FAULT_SYNTAX;
}

/* What stands between the brackets. */
static enum fault path_content(struct reader *r, bool null_ok)
{
    if (null_ok && r->in.n && *r->in.p == '>') {
        return FAULT_NONE;
    }
    if (!null_ok && span_starts_nocase(r->in, SPAN("postmaster>"))) {
        return local_part(r);
    }
    enum fault f = source_route(&r->in);
    return f ? f : mailbox(r);
}

/* --- the canonical form ---------------------------------------------------------------------- */

static bool is_ascii(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] > 127) {
            return false;
        }
    }
    return true;
}

static enum fault normalize(struct text *t)
{
    char nfc[sizeof t->p];
    size_t n = sizeof nfc;
    uint8_t *got = u8_normalize(UNINORM_NFC, (const uint8_t *)t->p, t->n, (uint8_t *)nfc, &n);
    CHECK(got);
    bool fits = got == (uint8_t *)nfc && n <= ADDRESS_MAX;
    if (fits) {
        memcpy(t->p, nfc, n);
        t->n = n;
    }
    if (got != (uint8_t *)nfc) {
        free(got);
    }
    return fits ? FAULT_NONE : FAULT_LOCAL_LONG;
}

/*
 * Case is told apart in local parts by no mail system that people write to; beyond ASCII it is
 * left alone, as what is one letter there depends on the language. Twice, because either step can
 * make work for the other: the Kelvin sign becomes K, a small letter takes an accent.
 */
static enum fault canon_local(struct reader *r, struct text *t)
{
    struct text *c = &r->content;
    for (int i = 0; i < 2; i++) {
        ascii_lower(c->p, c->n);
        enum fault f = is_ascii(text_span(c)) ? FAULT_NONE : normalize(c);
        if (f) {
            return f;
        }
    }
    return put_local(text_span(c), t);
}

static enum fault idn_fault(int rc)
{
    CHECK(rc != IDN2_MALLOC);
    switch (rc) {
    case IDN2_TOO_BIG_LABEL:
    case IDN2_PUNYCODE_BIG_OUTPUT:
        return FAULT_LABEL_LONG;
    case IDN2_TOO_BIG_DOMAIN:
        return FAULT_LONG;
    default:
        return FAULT_IDN;
    }
}

/* text: ends in a NUL. */
static enum fault to_ascii(const char *text, struct text *t)
{
    char *ascii = NULL;
    int rc = idn2_to_ascii_8z(text, &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
    if (rc != IDN2_OK) {
        return idn_fault(rc);
    }
    struct span rest = span_str(ascii);
    bool literal = rest.n && *rest.p == '[';
    enum fault f = literal || !is_ascii(rest) ? FAULT_IDN : domain(&rest, t);
    idn2_free(ascii);
    return f == FAULT_SYNTAX || rest.n > 0 ? FAULT_IDN : f;
}

static enum fault canon_domain(struct reader *r, struct text *t)
{
    struct span domain_text = span_skip(text_span(&r->out), r->local + 1);
    size_t begin = t->n;
    enum fault f = is_ascii(domain_text) ? put(t, domain_text) : to_ascii(domain_text.p, t);
    ascii_lower(t->p + begin, t->n - begin);
    return f;
}

static enum fault canon(struct reader *r, struct text *t, size_t *local)
{
    enum fault f = FAULT_NONE;
    if (r->out.n > 0) {
        f = canon_local(r, t);
    }
    *local = t->n;
    if (!f && r->local < r->out.n) {
        f = put(t, SPAN("@"));
        f = f ? f : canon_domain(r, t);
    }
    return f;
}

static enum fault finish(struct reader *r, struct address *out)
{
    struct text c = { 0 };
    size_t local;
    enum fault f = canon(r, &c, &local);
    if (f) {
        return f;
    }
    *out = (struct address){ .len = (uint16_t)r->out.n,
                             .local = (uint16_t)r->local,
                             .canon_len = (uint16_t)c.n,
                             .canon_local = (uint16_t)local,
                             .utf8 = !is_ascii(text_span(&r->out)) };
    memcpy(out->text, r->out.p, r->out.n);
    memcpy(out->canon, c.p, c.n);
    return FAULT_NONE;
}

/* --- the whole ------------------------------------------------------------------------------- */

static enum fault read_path(struct span *in, bool null_ok, struct address *out)
{
    struct reader r = { .in = *in };
    if (!take(&r.in, '<')) {
        return FAULT_SYNTAX;
    }
    enum fault f = path_content(&r, null_ok);
    if (!f && !take(&r.in, '>')) {
        f = no_char(r.in);
    }
    if (!f) {
        f = finish(&r, out);
    }
    if (!f) {
        *in = r.in;
    }
    return f;
}

static enum fault read_address(struct span in, struct address *out)
{
    struct reader r = { .in = in };
    enum fault f = mailbox(&r);
    if (!f && r.in.n > 0) {
        f = no_char(r.in);
    }
    return f ? f : finish(&r, out);
}

enum err address_parse_path(struct span *in, bool null_ok, struct address *out)
{
    return faults[read_path(in, null_ok, out)].err;
}

enum err address_parse(struct span in, struct address *out)
{
    return faults[read_address(in, out)].err;
}

const char *address_explain_path(struct span in, bool null_ok)
{
    struct address ignored;
    return faults[read_path(&in, null_ok, &ignored)].text;
}

const char *address_explain(struct span in)
{
    struct address ignored;
    return faults[read_address(in, &ignored)].text;
}
