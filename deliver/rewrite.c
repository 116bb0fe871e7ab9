/*
 * rewrite: the header block is a table of spans, of the message as it came or of the arena of what
 * was added; the body is one span. A change makes a new table and leaves the octets alone.
 *
 * It owns the message. There are two tables: the committed one, which is read, and the pending one,
 * which is changed; a commit swaps them. It knows no protocol, and of MIME nothing at all.
 */
#include "rewrite.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/check.h"

struct field {
    struct span text; /* with its last CRLF */
    uint32_t name;    /* octets of its name */
    bool own;
};

struct table {
    struct field *v;
    size_t n, room;
};

/* A body that a filter gave. */
struct body {
    struct buf octets;
    bool cr; /* its last octet was a CR, whose line end is not yet written */
    bool given;
};

struct rewrite {
    size_t max;
    struct buf raw;
    size_t header;       /* octets of raw that are fields */
    size_t body;         /* where its body begins: header and the empty line */
    struct arena added;  /* our own fields, and those of filters */
    struct table fields; /* committed */
    struct table changed;
    struct body replaced;
    struct body replacing;
    size_t changes;
    struct buf head; /* what rewrite_message has put together */
};

struct rewrite *rewrite_new(size_t max)
{
    struct rewrite *r = NEW(struct rewrite);
    r->max = max;
    buf_init(&r->raw, max);
    buf_init(&r->replaced.octets, max + 2); /* for the end of its last line */
    buf_init(&r->replacing.octets, max + 2);
    buf_init(&r->head, 2 * (REWRITE_HEADER + REWRITE_ADDED));
    arena_init(&r->added, REWRITE_ADDED);
    return r;
}

static void body_drop(struct body *b)
{
    buf_release(&b->octets);
    b->cr = b->given = false;
}

static void table_drop(struct table *t)
{
    free(t->v);
    *t = (struct table){ 0 };
}

void rewrite_reset(struct rewrite *r)
{
    buf_release(&r->raw);
    buf_release(&r->head);
    body_drop(&r->replaced);
    body_drop(&r->replacing);
    table_drop(&r->fields);
    table_drop(&r->changed);
    arena_reset(&r->added);
    r->header = r->body = r->changes = 0;
}

void rewrite_free(struct rewrite **rp)
{
    struct rewrite *r = *rp;
    *rp = NULL;
    if (r) {
        rewrite_reset(r);
        arena_fini(&r->added);
        free(r);
    }
}

size_t rewrite_octets(const struct rewrite *r)
{
    return buf_len(&r->raw) + r->added.used + buf_len(&r->replaced.octets) +
           buf_len(&r->replacing.octets);
}

enum err rewrite_append(struct rewrite *r, struct span octets)
{
    return buf_add(&r->raw, octets);
}

/* --- the table of fields --------------------------------------------------------------------- */

static void table_insert(struct table *t, size_t at, struct field f)
{
    if (t->n == t->room) {
        t->room = t->room ? 2 * t->room : 32;
        t->v = mem_grow(t->v, t->room, sizeof *t->v);
    }
    memmove(t->v + at + 1, t->v + at, (t->n - at) * sizeof *t->v);
    t->v[at] = f;
    t->n++;
}

static void table_remove(struct table *t, size_t at)
{
    t->n--;
    memmove(t->v + at, t->v + at + 1, (t->n - at) * sizeof *t->v);
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* RFC 5322, section 2.2: printable US-ASCII without the colon. */
static size_t name_length(struct span s)
{
    size_t n = 0;
    while (n < s.n && s.p[n] > ' ' && s.p[n] < 127 && s.p[n] != ':') {
        n++;
    }
    return n;
}

/* Octets of the line in front, its end included. */
static size_t line_length(struct span s)
{
    const char *at = s.n ? memmem(s.p, s.n, "\r\n", 2) : NULL;
    return at ? (size_t)(at - s.p) + 2 : s.n;
}

/* The field in front with its folded lines; false when there is none. */
static bool next_field(struct span s, struct field *f)
{
    size_t name = name_length(s), colon = name;
    while (colon < s.n && blank(s.p[colon])) { /* obsolete syntax, section 4.5.8 */
        colon++;
    }
    if (name == 0 || colon == s.n || s.p[colon] != ':') {
        return false;
    }
    size_t n = line_length(s);
    while (n < s.n && blank(s.p[n])) {
        n += line_length(span_skip(s, n));
    }
    *f = (struct field){ .text = span_first(s, n), .name = (uint32_t)name };
    return true;
}

/* Appends the fields in front of s; how many octets they have is taken off it. */
static enum err read_fields(struct rewrite *r, struct span *s, bool own)
{
    struct field f;
    size_t octets = 0;
    while (next_field(*s, &f)) {
        octets += f.text.n;
        if (octets > REWRITE_HEADER || r->fields.n >= REWRITE_FIELDS) {
            return ERR_LIMIT;
        }
        f.own = own;
        table_insert(&r->fields, r->fields.n, f);
        *s = span_skip(*s, f.text.n);
    }
    return ERR_OK;
}

enum err rewrite_parse(struct rewrite *r, struct span own)
{
    struct span raw = buf_span(&r->raw), rest = raw;
    char *copy = arena_dup(&r->added, own);
    if (!copy) {
        return ERR_LIMIT;
    }
    own = span_of(copy, own.n);
    if (read_fields(r, &own, true) != ERR_OK || read_fields(r, &rest, false) != ERR_OK) {
        return ERR_LIMIT;
    }
    r->header = raw.n - rest.n;
    r->body = r->header + (span_starts(rest, SPAN("\r\n")) ? 2 : 0);
    return ERR_OK;
}

/* --- reading --------------------------------------------------------------------------------- */

size_t rewrite_fields(const struct rewrite *r)
{
    return r->fields.n;
}

bool rewrite_field(const struct rewrite *r, size_t i, struct span *name, struct span *value)
{
    const struct field *f = &r->fields.v[i];
    struct span rest = span_skip(f->text, f->name);
    rest = span_skip(rest, span_find(rest, ':') + 1);
    if (rest.n >= 2 && memcmp(rest.p + rest.n - 2, "\r\n", 2) == 0) {
        rest.n -= 2;
    }
    *name = span_first(f->text, f->name);
    *value = rest;
    return !f->own;
}

struct span rewrite_body(const struct rewrite *r)
{
    return r->replaced.given ? buf_span(&r->replaced.octets)
                             : span_skip(buf_span(&r->raw), r->body);
}

/* The line between header and body: the sender's, and one of ours if a new body would need it. */
static bool has_separator(const struct rewrite *r)
{
    return r->body > r->header || (r->replaced.given && buf_len(&r->replaced.octets) > 0);
}

void rewrite_message(struct rewrite *r, struct span *head, struct span *body)
{
    buf_release(&r->head);
    for (size_t i = 0; i < r->fields.n; i++) {
        CHECK(buf_add(&r->head, r->fields.v[i].text) == ERR_OK);
    }
    if (has_separator(r)) {
        CHECK(buf_add(&r->head, SPAN("\r\n")) == ERR_OK);
    }
    *head = buf_span(&r->head);
    *body = rewrite_body(r);
}

/* --- changing -------------------------------------------------------------------------------- */

void rewrite_begin(struct rewrite *r)
{
    rewrite_abort(r);
    for (size_t i = 0; i < r->fields.n; i++) {
        table_insert(&r->changed, i, r->fields.v[i]);
    }
}

void rewrite_abort(struct rewrite *r)
{
    table_drop(&r->changed);
    body_drop(&r->replacing);
}

/* Octets of the blanks and line ends in front; *end: where the last line end of them ends. */
static size_t fold_length(struct span s, size_t *end)
{
    size_t n = 0;
    *end = 0;
    while (n < s.n && (blank(s.p[n]) || s.p[n] == '\r' || s.p[n] == '\n')) {
        n++;
        *end = blank(s.p[n - 1]) ? *end : n;
    }
    return n;
}

/*
 * A value with every line end turned into a fold: what follows it keeps its own blanks or gets one.
 * A line of blanks alone would be an end of the header to some readers, so it goes, and the line
 * ends behind the value too. At most three times as long.
 */
static size_t fold(struct span s, char *to)
{
    size_t n = 0;
    while (s.n > 0) {
        if (s.p[0] != '\r' && s.p[0] != '\n') {
            to[n++] = s.p[0];
            s = span_skip(s, 1);
            continue;
        }
        size_t end, length = fold_length(s, &end);
        struct span blanks = span_of(s.p + end, length - end);
        s = span_skip(s, length);
        if (s.n > 0) {
            memcpy(to + n, "\r\n", 2);
            memcpy(to + n + 2, blanks.n ? blanks.p : " ", blanks.n ? blanks.n : 1);
            n += 2 + (blanks.n ? blanks.n : 1);
        }
    }
    return n;
}

/* `name:value` with its CRLF in the arena. */
static enum err make_field(struct rewrite *r, struct span name, struct span value,
                           struct field *out)
{
    if (name.n == 0 || name_length(name) != name.n || memchr(value.p, '\0', value.n)) {
        return ERR_INVALID;
    }
    if (r->changes >= REWRITE_CHANGES || name.n > REWRITE_ADDED || value.n > REWRITE_ADDED) {
        return ERR_LIMIT;
    }
    r->changes++;
    char *folded = mem_raw(name.n + 3 * value.n + 3);
    memcpy(folded, name.p, name.n);
    folded[name.n] = ':';
    size_t n = name.n + 1 + fold(value, folded + name.n + 1);
    memcpy(folded + n, "\r\n", 2);
    n += 2;
    char *text = arena_dup(&r->added, span_of(folded, n));
    free(folded);
    *out = (struct field){ .text = span_of(text, n), .name = (uint32_t)name.n };
    return text ? ERR_OK : ERR_LIMIT;
}

enum err rewrite_insert(struct rewrite *r, uint32_t index, struct span name, struct span value)
{
    struct field f;
    enum err e = make_field(r, name, value, &f);
    if (e == ERR_OK) {
        table_insert(&r->changed, index < r->changed.n ? index : r->changed.n, f);
    }
    return e;
}

enum err rewrite_add(struct rewrite *r, struct span name, struct span value)
{
    return rewrite_insert(r, UINT32_MAX, name, value);
}

/* Its place, or the number of fields. */
static size_t find(const struct table *t, struct span name, uint32_t nth)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct field *f = &t->v[i];
        if (!f->own && span_eq_nocase(span_first(f->text, f->name), name) && --nth == 0) {
            return i;
        }
    }
    return t->n;
}

enum err rewrite_change(struct rewrite *r, struct span name, uint32_t nth, struct span value)
{
    struct field f;
    size_t at = find(&r->changed, name, nth ? nth : 1);
    if (value.n > 0) {
        enum err e = make_field(r, name, value, &f);
        if (e == ERR_OK && at < r->changed.n) {
            r->changed.v[at] = f;
        } else if (e == ERR_OK) {
            table_insert(&r->changed, at, f);
        }
        return e;
    }
    if (r->changes >= REWRITE_CHANGES) {
        return ERR_LIMIT;
    }
    r->changes++;
    if (at < r->changed.n) {
        table_remove(&r->changed, at);
    }
    return ERR_OK;
}

/* Lines end with CRLF, with LF or with CR; the last two may come in different pieces. */
enum err rewrite_replace(struct rewrite *r, struct span piece)
{
    struct body *b = &r->replacing;
    enum err e = ERR_OK;
    b->given = true;
    while (piece.n > 0 && e == ERR_OK) {
        if (b->cr) {
            b->cr = false;
            piece = span_skip(piece, piece.p[0] == '\n');
            e = buf_add(&b->octets, SPAN("\r\n"));
            continue;
        }
        size_t n = 0;
        while (n < piece.n && piece.p[n] != '\r' && piece.p[n] != '\n') {
            n++;
        }
        e = n ? buf_add(&b->octets, span_first(piece, n)) : ERR_OK;
        piece = span_skip(piece, n);
        if (piece.n > 0 && e == ERR_OK) {
            b->cr = piece.p[0] == '\r';
            e = b->cr ? ERR_OK : buf_add(&b->octets, SPAN("\r\n"));
            piece = span_skip(piece, 1);
        }
    }
    return buf_len(&b->octets) <= r->max ? e : ERR_LIMIT;
}

static void end_last_line(struct body *b)
{
    struct span s = buf_span(&b->octets);
    if (b->cr || (s.n > 0 && s.p[s.n - 1] != '\n')) {
        CHECK(buf_add(&b->octets, SPAN("\r\n")) == ERR_OK);
    }
    b->cr = false;
}

void rewrite_commit(struct rewrite *r)
{
    struct table t = r->fields;
    r->fields = r->changed;
    r->changed = t;
    if (r->replacing.given) {
        struct body b = r->replaced;
        end_last_line(&r->replacing);
        r->replaced = r->replacing;
        r->replacing = b;
    }
    rewrite_abort(r);
}
