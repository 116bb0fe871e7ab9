/*
 * envelope: writing and reading the block in front of a message, and where its file is.
 *
 * Values and borrowed spans; the array of envelope_parse is the only memory given out. What
 * envelope_parse accepts is exactly what envelope_write makes. No I/O, and no time zone either:
 * gmtime_r() reads a file at its first use, and paths are made on the loop.
 */
#include "store/envelope.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/maildrop.h"

#define FIRST_LINE  "mailfleet 1\n"
#define SIZE_DIGITS 20
#define TIME_TEXT   64

struct date {
    unsigned year, month, day;
};

static bool is_leap(unsigned year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static unsigned month_days(unsigned year, unsigned month)
{
    static const unsigned char days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    return days[month - 1] + (month == 2 && is_leap(year) ? 1u : 0u);
}

/* Counts the years and months: some sixty steps, for an id that may name any of 8,900 years. */
static struct date utc_date(uint64_t unix_ms)
{
    uint64_t left = unix_ms / SPOOL_DAY_MS;
    struct date d = { 1970, 1, 1 };
    for (unsigned n; left >= (n = is_leap(d.year) ? 366 : 365); d.year++) {
        left -= n;
    }
    for (unsigned n; left >= (n = month_days(d.year, d.month)); d.month++) {
        left -= n;
    }
    d.day += (unsigned)left;
    return d;
}

/* RFC 3339, section 5.6. */
static void time_text(uint64_t unix_ms, char out[TIME_TEXT])
{
    struct date d = utc_date(unix_ms);
    unsigned ms = (unsigned)(unix_ms % SPOOL_DAY_MS);
    unsigned s = ms / 1000;
    snprintf(out, TIME_TEXT, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", d.year, d.month, d.day,
             s / 3600, s / 60 % 60, s % 60, ms % 1000);
}

static bool has_control(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c == 0x7f) {
            return true;
        }
    }
    return false;
}

/* RFC 1939, section 7; empty is none. */
static bool is_uidl(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < 0x21 || s.p[i] > 0x7e) {
            return false;
        }
    }
    return s.n <= UIDL_MAX;
}

static bool is_filled(struct span s, char c)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] != c) {
            return false;
        }
    }
    return true;
}

/* --- writing --------------------------------------------------------------------------------- */

void envelope_tail(uint64_t size, const char sha256[ENVELOPE_SHA256_HEX + 1],
                   char out[ENVELOPE_TAIL + 1])
{
    int n = snprintf(out, ENVELOPE_TAIL + 1, "size: %0*llu\nsha256: %s\n\n", SIZE_DIGITS,
                     (unsigned long long)size, sha256);
    CHECK(n == ENVELOPE_TAIL);
}

static enum err add_dashes(struct buf *out)
{
    char dashes[ENVELOPE_SHA256_HEX];
    memset(dashes, '-', sizeof dashes);
    return buf_addf(out, "size: %.*s\nsha256: %.*s\n\n", SIZE_DIGITS, dashes, ENVELOPE_SHA256_HEX,
                    dashes);
}

static enum err add_head(const struct envelope *e, struct buf *out)
{
    char id[BLOB_ID_CHARS + 1], time[TIME_TEXT];
    blob_id_text(&e->id, id);
    time_text(blob_id_time(&e->id), time);
    enum err r = buf_addf(out, FIRST_LINE "id: %s\ntime: %s\nfrom: %.*s\n", id, time,
                          SPAN_ARG(e->reverse_path));
    for (size_t i = 0; r == ERR_OK && i < e->n; i++) {
        r = buf_addf(out, "to: %llu %.*s\n", (unsigned long long)e->to[i].mailbox_id,
                     SPAN_ARG(e->to[i].address));
    }
    if (r == ERR_OK && e->uidl.n) {
        r = buf_addf(out, "uidl: %.*s\n", SPAN_ARG(e->uidl));
    }
    return r;
}

enum err envelope_write(const struct envelope *e, struct buf *out)
{
    bool bad = has_control(e->reverse_path) || !is_uidl(e->uidl);
    for (size_t i = 0; i < e->n; i++) {
        bad = bad || has_control(e->to[i].address);
    }
    if (bad) {
        return ERR_INVALID;
    }
    enum err r = add_head(e, out);
    if (r != ERR_OK) {
        return r;
    }
    if (!e->complete) {
        return add_dashes(out);
    }
    char tail[ENVELOPE_TAIL + 1];
    envelope_tail(e->size, e->sha256, tail);
    return buf_add(out, span_of(tail, ENVELOPE_TAIL));
}

/* --- reading --------------------------------------------------------------------------------- */

bool envelope_is(struct span head, const struct blob_id *id)
{
    struct span start = SPAN(FIRST_LINE "id: ");
    char line[BLOB_ID_CHARS + 1];
    blob_id_text(id, line);
    line[BLOB_ID_CHARS] = '\n';
    return span_starts(head, start) &&
           span_starts(span_skip(head, start.n), span_of(line, sizeof line));
}

/* Takes the line `name` VALUE off the front, if that is what comes next. */
static bool take_line(struct span *rest, struct span name, struct span *value)
{
    size_t end = span_find(*rest, '\n');
    if (end == rest->n || end < name.n || !span_starts(*rest, name)) {
        return false;
    }
    *value = span_skip(span_first(*rest, end), name.n);
    *rest = span_skip(*rest, end + 1);
    return true;
}

static bool parse_head(struct span *rest, struct envelope *e)
{
    struct span v;
    if (!span_starts(*rest, SPAN(FIRST_LINE))) {
        return false;
    }
    *rest = span_skip(*rest, sizeof FIRST_LINE - 1);
    if (!take_line(rest, SPAN("id: "), &v) || blob_id_parse(v, &e->id) != ERR_OK) {
        return false;
    }
    char time[TIME_TEXT];
    time_text(blob_id_time(&e->id), time);
    return take_line(rest, SPAN("time: "), &v) && span_eq(v, span_str(time)) &&
           take_line(rest, SPAN("from: "), &e->reverse_path) && !has_control(e->reverse_path);
}

/* `<mailbox id> <address>`, the number as it is printed: no leading zero. */
static bool parse_recipient(struct span v, struct envelope_recipient *r)
{
    size_t digits = span_find(v, ' ');
    r->address = span_skip(v, digits + 1);
    return digits < v.n && (digits == 1 || v.p[0] != '0') &&
           span_u64(span_first(v, digits), UINT64_MAX, &r->mailbox_id) == ERR_OK &&
           !has_control(r->address);
}

/* Their number is bounded by what the caller read. */
static bool parse_recipients(struct span *rest, struct envelope_recipient **to, size_t *n)
{
    size_t room = 0;
    struct span v;
    while (take_line(rest, SPAN("to: "), &v)) {
        if (*n == room) {
            room = room ? room * 2 : 4;
            *to = mem_grow(*to, room, sizeof **to);
        }
        if (!parse_recipient(v, &(*to)[(*n)++])) {
            return false;
        }
    }
    return true;
}

static bool parse_uidl(struct span *rest, struct envelope *e)
{
    return !take_line(rest, SPAN("uidl: "), &e->uidl) || (e->uidl.n && is_uidl(e->uidl));
}

static bool is_hex(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
            return false;
        }
    }
    return true;
}

static bool parse_tail(struct span *rest, struct envelope *e)
{
    struct span size, hash, empty;
    if (!take_line(rest, SPAN("size: "), &size) || !take_line(rest, SPAN("sha256: "), &hash) ||
        !take_line(rest, SPAN(""), &empty) || empty.n || size.n != SIZE_DIGITS ||
        hash.n != ENVELOPE_SHA256_HEX) {
        return false;
    }
    if (is_filled(size, '-') && is_filled(hash, '-')) {
        return true;
    }
    e->complete = true;
    memcpy(e->sha256, hash.p, hash.n);
    return span_u64(size, UINT64_MAX, &e->size) == ERR_OK && is_hex(hash);
}

enum err envelope_parse(struct span in, struct envelope *out, struct envelope_recipient **to,
                        size_t *skip)
{
    struct envelope e = { 0 };
    struct envelope_recipient *list = NULL;
    struct span rest = in;
    if (!parse_head(&rest, &e) || !parse_recipients(&rest, &list, &e.n) || !parse_uidl(&rest, &e) ||
        !parse_tail(&rest, &e)) {
        free(list);
        return ERR_CORRUPT;
    }
    e.to = list;
    *out = e;
    *to = list;
    *skip = in.n - rest.n;
    return ERR_OK;
}

/* --- the path -------------------------------------------------------------------------------- */

/* The last digits of v, as many as there is room for. */
static char *put_digits(char *out, unsigned v, size_t n)
{
    for (size_t i = n; i-- > 0; v /= 10) {
        out[i] = (char)('0' + v % 10);
    }
    return out + n;
}

/* No printf: each message that is read has a path. */
size_t spool_path(const struct blob_id *id, unsigned fanout, char out[SPOOL_PATH_MAX])
{
    CHECK(fanout <= SPOOL_FANOUT_MAX);
    struct date d = utc_date(blob_id_time(id));
    char *to = put_digits(out, d.year, d.year > 9999 ? 5 : 4); /* an id of anybody's making */
    to = put_digits(put_digits(to, d.month, 2), d.day, 2);
    if (fanout) {
        *to++ = '/';
    }
    /* The first random bits of the id, right behind its time. */
    for (unsigned i = 0; i < fanout; i++) {
        *to++ = "0123456789abcdef"[id->b[6 + i / 2] >> (i % 2 ? 0 : 4) & 15];
    }
    size_t dir = (size_t)(to - out);
    *to++ = '/';
    blob_id_text(id, to);
    return dir;
}

struct blob_id spool_id_in(uint64_t day, unsigned fanout, uint32_t nth)
{
    CHECK(fanout <= SPOOL_FANOUT_MAX);
    unsigned bits = nth << (4 * (SPOOL_FANOUT_MAX - fanout));
    uint8_t random[BLOB_ID_SIZE - 6] = { (uint8_t)(bits >> 8), (uint8_t)bits };
    return blob_id_make(day * SPOOL_DAY_MS, random);
}
