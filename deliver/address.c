/*
 * address: the parser of mail addresses, by recursive descent over borrowed bytes.
 *
 * It allocates nothing; the caller owns the result, which holds no pointers. Each function eats one
 * rule of RFC 5321, section 4.1.2, from *in, appends what belongs to the address to *a, and leaves
 * both in any state when it fails: the two public functions work on copies.
 *
 * It does no IDNA conversion: a domain in UTF-8 and its xn-- form are two domains here. It does not
 * read what is inside a domain literal, as nothing is ever looked up or connected to by it.
 */
#include "address.h"

#define LABEL_MAX 63 /* RFC 1035, section 2.3.4 */

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

static enum err put(struct address *a, struct span s)
{
    if (a->len + s.n > ADDRESS_MAX) {
        return ERR_LIMIT;
    }
    memcpy(a->text + a->len, s.p, s.n);
    a->len = (uint16_t)(a->len + s.n);
    return ERR_OK;
}

/* Octets of the character at the front, 0 when it is not of an allowed class. */
static size_t at_char(struct span in, unsigned allowed)
{
    if (in.n && ascii_class((unsigned char)*in.p) & allowed) {
        return 1;
    }
    return allowed & UTF8 ? utf8_char(in) : 0;
}

/* Eats that character; empty when there is none. */
static struct span take_char(struct span *in, unsigned allowed, struct address *a)
{
    size_t n = at_char(*in, allowed);
    a->utf8 = a->utf8 || n > 1;
    struct span c = span_first(*in, n);
    *in = span_skip(*in, n);
    return c;
}

/* One or more characters; *chars counts them. */
static enum err run(struct span *in, unsigned allowed, struct address *a, size_t *chars)
{
    size_t n = 0;
    for (struct span c; (c = take_char(in, allowed, a)).n > 0; n++) {
        enum err e = put(a, c);
        if (e) {
            return e;
        }
    }
    *chars = n;
    return n ? ERR_OK : ERR_INVALID;
}

static enum err dot_string(struct span *in, struct address *a)
{
    for (;;) {
        size_t chars;
        enum err e = run(in, ATEXT | UTF8, a, &chars);
        if (e || !take(in, '.')) {
            return e;
        }
        e = put(a, SPAN("."));
        if (e) {
            return e;
        }
    }
}

/* The content of a quoted string, with the escapes taken off. */
static enum err quoted_content(struct span *in, struct address *content)
{
    while (!take(in, '"')) {
        unsigned allowed = take(in, '\\') ? QPAIR : QTEXT | UTF8;
        struct span c = take_char(in, allowed, content);
        enum err e = c.n ? put(content, c) : ERR_INVALID;
        if (e) {
            return e;
        }
    }
    return ERR_OK;
}

static enum err put_quoted(struct span content, struct address *a)
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
    return put(a, span_of(q, n));
}

/*
 * "john.doe"@x and john.doe@x are one mailbox, as are "j\d" and jd: what needs no quotes loses
 * them, the rest keeps them and only the escapes it needs (RFC 5321, section 4.1.2).
 */
static enum err quoted_string(struct span *in, struct address *a)
{
    struct address content = { 0 };
    enum err e = quoted_content(in, &content);
    if (e) {
        return e;
    }
    struct address plain = { 0 };
    struct span rest = span_of(content.text, content.len);
    a->utf8 = content.utf8;
    if (dot_string(&rest, &plain) == ERR_OK && rest.n == 0) {
        return put(a, span_of(content.text, content.len));
    }
    return put_quoted(span_of(content.text, content.len), a);
}

static enum err local_part(struct span *in, struct address *a)
{
    enum err e = take(in, '"') ? quoted_string(in, a) : dot_string(in, a);
    a->local = a->len;
    return !e && a->local > LOCAL_MAX ? ERR_LIMIT : e;
}

static enum err domain_literal(struct span *in, struct address *a)
{
    size_t chars;
    enum err e = put(a, SPAN("["));
    if (!e) {
        e = run(in, DTEXT, a, &chars);
    }
    if (!e) {
        e = take(in, ']') ? put(a, SPAN("]")) : ERR_INVALID;
    }
    return e;
}

/*
 * The bound of a label is on its ASCII form, which is never shorter than its characters are many:
 * so characters are counted, and no label in UTF-8 is refused that DNS could hold.
 */
static enum err label(struct span *in, struct address *a)
{
    size_t chars;
    uint16_t begin = a->len;
    enum err e = run(in, LABEL | UTF8, a, &chars);
    if (e) {
        return e;
    }
    if (a->text[begin] == '-' || a->text[a->len - 1] == '-') {
        return ERR_INVALID;
    }
    return chars > LABEL_MAX ? ERR_LIMIT : ERR_OK;
}

/* The dot that ends an absolute domain is dropped: example.com. and example.com are one. */
static enum err domain(struct span *in, struct address *a)
{
    if (take(in, '[')) {
        return domain_literal(in, a);
    }
    for (;;) {
        enum err e = label(in, a);
        if (e || !take(in, '.') || !at_char(*in, LABEL | UTF8)) {
            return e;
        }
        e = put(a, SPAN("."));
        if (e) {
            return e;
        }
    }
}

static enum err mailbox(struct span *in, struct address *a)
{
    enum err e = local_part(in, a);
    if (e) {
        return e;
    }
    if (!take(in, '@')) {
        return ERR_INVALID;
    }
    e = put(a, SPAN("@"));
    return e ? e : domain(in, a);
}

/* `@a,@b:`, to be accepted and ignored (RFC 5321, appendix C). */
static enum err source_route(struct span *in)
{
    if (in->n == 0 || *in->p != '@') {
        return ERR_OK;
    }
    do {
        struct address hop = { 0 };
        enum err e = take(in, '@') ? domain(in, &hop) : ERR_INVALID;
        if (e) {
            return e;
        }
    } while (take(in, ','));
    return take(in, ':') ? ERR_OK : ERR_INVALID;
}

/* What stands between the brackets. */
static enum err path_content(struct span *in, bool null_ok, struct address *a)
{
    if (null_ok && in->n && *in->p == '>') {
        return ERR_OK;
    }
    if (!null_ok && span_starts_nocase(*in, SPAN("postmaster>"))) {
        return local_part(in, a);
    }
    enum err e = source_route(in);
    return e ? e : mailbox(in, a);
}

/* Case is told apart in local parts by no mail system that people write to. */
static void make_canon(struct address *a)
{
    memcpy(a->canon, a->text, sizeof a->canon);
    ascii_lower(a->canon, a->len);
}

enum err address_parse_path(struct span *in, bool null_ok, struct address *out)
{
    struct span rest = *in;
    struct address a = { 0 };
    if (!take(&rest, '<')) {
        return ERR_INVALID;
    }
    enum err e = path_content(&rest, null_ok, &a);
    if (e) {
        return e;
    }
    if (!take(&rest, '>')) {
        return ERR_INVALID;
    }
    make_canon(&a);
    *in = rest;
    *out = a;
    return ERR_OK;
}

enum err address_parse(struct span in, struct address *out)
{
    struct address a = { 0 };
    enum err e = mailbox(&in, &a);
    if (e) {
        return e;
    }
    if (in.n > 0) {
        return ERR_INVALID;
    }
    make_canon(&a);
    *out = a;
    return ERR_OK;
}
