/*
 * downgrade: the header of an internationalized message, rewritten field by field.
 *
 * A line ends with LF here, with or without a CR: clients read a stray LF as an end of line, and so
 * a field can't be hidden from this by one. The input is a stranger's. Nothing in it is an error:
 * what can't be read as a list of addresses or parameters is text, and what is text is encoded, as
 * UTF-8 whose broken octets have become U+FFFD and whose control characters have become blanks.
 *
 * The writer keeps the place in the line, for folding, and the first failure, so that the code that
 * writes need not look.
 */
#include "downgrade.h"

#include "base/check.h"
#include "proto/base64.h"

#define LINE_GOAL    76 /* of a line with an encoded-word (RFC 2047, section 2) */
#define WORD_OCTETS  45 /* that an encoded-word of 75 characters has room for, in thirds */
#define WORD_WORTH   12 /* octets; for fewer it is not begun in a line that has text */
#define WORD_BEGIN   "=?utf-8?B?"
#define WORD_END     "?="
#define INVALID_ADDR "<invalid@internationalized-address.invalid>"
#define REPLACEMENT  "\xef\xbf\xbd"

struct writer {
    struct buf *out;
    size_t column;
    enum err err;
};

struct field {
    struct span name;
    struct span body; /* behind the colon, with its line end and those within it */
};

static void write_span(struct writer *w, struct span s)
{
    if (w->err == ERR_OK) {
        w->err = buf_add(w->out, s);
        w->column += s.n;
    }
}

static void write_text(struct writer *w, const char *s)
{
    write_span(w, span_str(s));
}

static void write_line_end(struct writer *w)
{
    write_text(w, "\r\n");
    w->column = 0;
}

/* A blank, or a fold where n further octets and a comma would not fit; at most one fold in a row.
 */
static void write_blank(struct writer *w, size_t n)
{
    if (w->column + 2 + n > LINE_GOAL && w->column > 1) {
        write_line_end(w);
    }
    write_text(w, " ");
}

/* --- reading --------------------------------------------------------------------------------- */

bool downgrade_needed(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] > 127) {
            return true;
        }
    }
    return false;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static struct span trim(struct span s)
{
    while (s.n > 0 && is_space(*s.p)) {
        s = span_skip(s, 1);
    }
    while (s.n > 0 && is_space(s.p[s.n - 1])) {
        s.n--;
    }
    return s;
}

/* Octets of the line in front, with its end. */
static size_t line_size(struct span s)
{
    size_t n = span_find(s, '\n');
    return n < s.n ? n + 1 : n;
}

static bool is_empty_line(struct span line)
{
    return span_eq(line, SPAN("\r\n")) || span_eq(line, SPAN("\n"));
}

/* A name without blanks, and a colon; or the continuation of a field. */
static bool is_field_line(struct span line)
{
    if (*line.p == ' ' || *line.p == '\t') {
        return true;
    }
    struct span name = trim(span_first(line, span_find(line, ':')));
    for (size_t i = 0; i < name.n; i++) {
        if ((unsigned char)name.p[i] <= ' ') {
            return false;
        }
    }
    return name.n > 0 && span_find(line, ':') < line.n;
}

size_t downgrade_header_end(struct span message)
{
    struct span rest = message;
    while (span_find(rest, '\n') < rest.n) {
        struct span line = span_first(rest, line_size(rest));
        if (is_empty_line(line)) {
            return message.n - rest.n + line.n;
        }
        if (!is_field_line(line)) {
            return message.n - rest.n;
        }
        rest = span_skip(rest, line.n);
    }
    return 0;
}

/* The field in front, with the lines that continue it. */
static struct span take_field(struct span *rest)
{
    size_t n = line_size(*rest);
    while (n < rest->n && (rest->p[n] == ' ' || rest->p[n] == '\t')) {
        n += line_size(span_skip(*rest, n));
    }
    struct span field = span_first(*rest, n);
    *rest = span_skip(*rest, n);
    return field;
}

/* A line without a colon has no name, and a body that nobody knows. */
static struct field read_field(struct span field)
{
    size_t colon = span_find(field, ':');
    if (colon == field.n) {
        return (struct field){ .name = span_first(field, 0), .body = field };
    }
    return (struct field){ .name = trim(span_first(field, colon)),
                           .body = span_skip(field, colon + 1) };
}

/* --- was it SMTPUTF8 ------------------------------------------------------------------------- */

/* The word behind `with`, outside comments: what the client called itself may be in them. */
static struct span with_word(struct span body)
{
    unsigned depth = 0;
    bool with = false;
    while (body.n > 0) {
        body = trim(body);
        size_t n = 0;
        while (n < body.n && !is_space(body.p[n])) {
            depth += body.p[n] == '(';
            depth -= body.p[n] == ')' && depth > 0;
            n++;
        }
        struct span word = span_first(body, n);
        body = span_skip(body, n);
        if (with) {
            return word;
        }
        with = depth == 0 && span_eq_nocase(word, SPAN("with"));
    }
    return span_first(body, 0);
}

bool downgrade_concerns(struct span message)
{
    struct field f = read_field(take_field(&message));
    if (span_eq_nocase(f.name, SPAN("Return-Path"))) {
        f = read_field(take_field(&message));
    }
    if (!span_eq_nocase(f.name, SPAN("Received"))) {
        return false;
    }
    struct span with = with_word(f.body);
    return span_starts_nocase(with, SPAN("UTF8SMTP")) || span_starts_nocase(with, SPAN("UTF8LMTP"));
}

/* --- encoded-words --------------------------------------------------------------------------- */

/* The character in front, as it may stand in text; *size: what it takes from s. */
static struct span clean_char(struct span s, size_t *size)
{
    size_t n = span_utf8_char(s);
    *size = n > 0 ? n : 1;
    if (n == 0) {
        return SPAN(REPLACEMENT);
    }
    if (*s.p == '\r' || *s.p == '\n') {
        return span_first(s, 0); /* of a fold, whose blank comes behind it */
    }
    bool control = (unsigned char)*s.p < ' ' || *s.p == 0x7f;
    return control ? SPAN(" ") : span_first(s, n);
}

/* As much of *text as an encoded-word of so many octets holds, whole characters (section 5). */
static void write_encoded_word(struct writer *w, struct span *text, size_t most)
{
    char octets[WORD_OCTETS];
    size_t n = 0, size;
    while (text->n > 0) {
        struct span c = clean_char(*text, &size);
        if (n + c.n > most) {
            break;
        }
        memcpy(octets + n, c.p, c.n);
        n += c.n;
        *text = span_skip(*text, size);
    }
    write_text(w, WORD_BEGIN);
    if (w->err == ERR_OK) {
        w->err = base64_encode(span_of(octets, n), w->out);
        w->column += BASE64_SIZE(n);
    }
    write_text(w, WORD_END);
}

/*
 * Each behind a blank; readers leave out the blanks between them (RFC 2047, section 6.2). The first
 * takes what room there is in the line, if that is worth it.
 */
static void write_encoded(struct writer *w, struct span text)
{
    while (text.n > 0 && w->err == ERR_OK) {
        size_t used = w->column + 1 + strlen(WORD_BEGIN WORD_END);
        size_t room = used < LINE_GOAL ? (LINE_GOAL - used) / 4 * 3 : 0;
        bool fold = room < WORD_WORTH && w->column > 0;
        if (fold) {
            write_line_end(w);
        }
        write_text(w, " ");
        write_encoded_word(w, &text, fold || room > WORD_OCTETS ? WORD_OCTETS : room);
    }
}

/* --- Subject: -------------------------------------------------------------------------------- */

/* Takes the words in front that are ASCII, up to the first that is not. */
static void write_ascii_words(struct writer *w, struct span *text)
{
    for (;;) {
        *text = trim(*text);
        size_t n = 0;
        while (n < text->n && !is_space(text->p[n])) {
            n++;
        }
        struct span word = span_first(*text, n);
        if (n == 0 || downgrade_needed(word)) {
            return;
        }
        write_blank(w, n);
        write_span(w, word);
        *text = span_skip(*text, n);
    }
}

/* The part of text that ends with its last word that is not ASCII. */
static struct span until_ascii(struct span text)
{
    size_t n = text.n;
    while (n > 0 && (unsigned char)text.p[n - 1] <= 127) {
        n--;
    }
    while (n < text.n && !is_space(text.p[n])) {
        n++;
    }
    return span_first(text, n);
}

/* What is ASCII at both ends stays readable in the raw, as `Re:` does. */
static void write_subject(struct writer *w, struct span body)
{
    struct span text = body;
    write_ascii_words(w, &text);
    struct span encoded = until_ascii(text);
    write_encoded(w, encoded);
    text = span_skip(text, encoded.n);
    write_ascii_words(w, &text);
}

/* --- what addresses and parameters share ----------------------------------------------------- */

static char closing(char open)
{
    switch (open) {
    case '"':
        return '"';
    case '(':
        return ')';
    case '<':
        return '>';
    default:
        return ']';
    }
}

/*
 * Octets of the quoted string, comment, angle-addr or literal in front, with its end; 0 when there
 * is none that begins with one of `open`. One that is not ended goes to the end of s.
 */
static size_t bracketed(struct span s, const char *open)
{
    if (s.n == 0 || !*s.p || !strchr(open, *s.p)) {
        return 0;
    }
    char close = closing(*s.p);
    size_t depth = 1, n = 1;
    bool quoted = false; /* <"a>b"@example.org> */
    while (n < s.n && depth > 0) {
        char c = s.p[n++];
        if (c == '\\' && n < s.n) {
            n++;
        } else if (c == '"' && close == '>') {
            quoted = !quoted;
        } else if (c == close && !quoted) {
            depth--;
        } else if (c == '(' && close == ')') {
            depth++;
        }
    }
    return n;
}

/* Octets up to the first of the delimiters that is in no bracket, or all. */
static size_t until(struct span s, const char *delimiters, const char *open)
{
    size_t n = 0;
    while (n < s.n && !(s.p[n] && strchr(delimiters, s.p[n]))) {
        size_t skip = bracketed(span_skip(s, n), open);
        n += skip > 0 ? skip : 1;
    }
    return n;
}

/* --- addresses ------------------------------------------------------------------------------- */

#define ADDRESS_OPEN "\"(<["

static void write_word(struct writer *w, struct span s)
{
    write_blank(w, s.n);
    write_span(w, s);
}

/* A name, without the quotes that an encoded-word has no need of. */
static void write_phrase(struct writer *w, struct span phrase)
{
    if (!downgrade_needed(phrase)) {
        write_word(w, phrase);
        return;
    }
    if (phrase.n >= 2 && bracketed(phrase, "\"") == phrase.n) {
        phrase = span_of(phrase.p + 1, phrase.n - 2);
    }
    write_encoded(w, phrase);
}

/*
 * `name <address>`. Where there is no angle bracket, the address is in front of a comment, which
 * used to have the name, and becomes it again.
 */
static void split_mailbox(struct span mailbox, struct span *name, struct span *addr)
{
    size_t n = until(mailbox, "<", ADDRESS_OPEN);
    struct span rest = span_skip(mailbox, n);
    if (rest.n > 2) {
        *name = trim(span_first(mailbox, n));
        rest = span_first(rest, bracketed(rest, ADDRESS_OPEN));
        *addr = span_of(rest.p + 1, rest.n - 1);
        addr->n -= addr->p[addr->n - 1] == '>';
        return;
    }
    n = until(mailbox, "(", ADDRESS_OPEN);
    rest = span_skip(mailbox, n);
    *addr = trim(span_first(mailbox, n));
    *name = rest.n > 2 ? span_of(rest.p + 1, rest.n - 2) : span_first(rest, 0);
}

/* Between two delimiters; not ASCII. */
static void write_mailbox(struct writer *w, struct span mailbox)
{
    struct span name, addr;
    split_mailbox(mailbox, &name, &addr);
    if (addr.n == 0 || downgrade_needed(addr)) {
        write_encoded(w, mailbox);
        write_word(w, SPAN(INVALID_ADDR));
        return;
    }
    if (name.n > 0) {
        write_phrase(w, name);
    }
    write_blank(w, addr.n + 2);
    write_text(w, "<");
    write_span(w, addr);
    write_text(w, ">");
}

/* A list of mailboxes and groups (RFC 5322, section 3.4). */
static void write_addresses(struct writer *w, struct span list)
{
    while (list.n > 0) {
        size_t n = until(list, ",:;", ADDRESS_OPEN);
        struct span element = trim(span_first(list, n));
        struct span delimiter = span_first(span_skip(list, n), 1);
        if (element.n == 0) {
            /* behind a group, or the client's carelessness: nothing but the delimiter */
        } else if (!downgrade_needed(element)) {
            write_word(w, element);
        } else if (span_eq(delimiter, SPAN(":"))) {
            write_phrase(w, element);
        } else {
            write_mailbox(w, element);
        }
        write_span(w, delimiter);
        list = trim(span_skip(list, n + 1));
    }
}

/* --- parameters ------------------------------------------------------------------------------ */

#define PARAMETER_OPEN "\"("

static struct span take_parameter(struct span *rest)
{
    size_t n = until(*rest, ";", PARAMETER_OPEN);
    struct span parameter = trim(span_first(*rest, n));
    *rest = span_skip(*rest, n + 1);
    return parameter;
}

static void write_parameters(struct writer *w, struct span body)
{
    write_word(w, take_parameter(&body));
    while (body.n > 0) {
        struct span parameter = take_parameter(&body);
        if (parameter.n > 0 && !downgrade_needed(parameter)) {
            write_text(w, ";");
            write_word(w, parameter);
        }
    }
}

/* The value itself: text/plain, attachment. */
static bool has_value(struct span body)
{
    struct span value = take_parameter(&body);
    return value.n > 0 && !downgrade_needed(value);
}

/* --- fields ---------------------------------------------------------------------------------- */

static void write_path(struct writer *w, struct span body)
{
    (void)body; /* a path has no name that could be kept */
    write_word(w, SPAN(INVALID_ADDR));
}

typedef void write_body_fn(struct writer *w, struct span body);

static const struct {
    const char *name;
    write_body_fn *write;
} rules[] = {
    { "Subject", write_subject },
    { "From", write_addresses },
    { "Sender", write_addresses },
    { "Reply-To", write_addresses },
    { "To", write_addresses },
    { "Cc", write_addresses },
    { "Bcc", write_addresses },
    { "Resent-From", write_addresses },
    { "Resent-Sender", write_addresses },
    { "Resent-Reply-To", write_addresses },
    { "Resent-To", write_addresses },
    { "Resent-Cc", write_addresses },
    { "Resent-Bcc", write_addresses },
    { "Disposition-Notification-To", write_addresses },
    { "Return-Path", write_path },
};

/* NULL: the field is left out. */
static write_body_fn *find_rule(const struct field *f)
{
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        if (span_eq_nocase(f->name, span_str(rules[i].name))) {
            return rules[i].write;
        }
    }
    bool mime = span_starts_nocase(f->name, SPAN("Content-")) && !downgrade_needed(f->name);
    return mime && has_value(f->body) ? write_parameters : NULL;
}

static void write_field(struct writer *w, struct span octets)
{
    if (!downgrade_needed(octets)) {
        write_span(w, octets);
        return;
    }
    struct field f = read_field(octets);
    write_body_fn *write = find_rule(&f);
    if (write) {
        w->column = 0;
        write_span(w, f.name);
        write_text(w, ":");
        write(w, trim(f.body));
        write_line_end(w);
    }
}

enum err downgrade_header(struct span header, struct buf *out)
{
    struct writer w = { .out = out };
    while (header.n > 0 && w.err == ERR_OK) {
        write_field(&w, take_field(&header));
    }
    return w.err;
}
