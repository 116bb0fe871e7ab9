/*
 * source_lists: see the header.
 */
#include "source_lists.h"

#include <stdlib.h>

#include "base/check.h"

static struct span take_line(struct span *in)
{
    size_t n = span_find(*in, '\n');
    struct span line = span_first(*in, n);
    *in = span_skip(*in, n + 1);
    return line;
}

static struct span without_flags(struct span name)
{
    return span_first(name, span_find(name, ':'));
}

static bool parse_u32(struct span s, uint32_t *out)
{
    uint64_t v;
    if (span_u64(s, UINT32_MAX, &v) != ERR_OK) {
        return false;
    }
    *out = (uint32_t)v;
    return true;
}

/* An array that doubles when it is full; n is how many are in it. */
static void *room_for_one(void *array, size_t n, size_t size)
{
    return (n & (n - 1)) == 0 ? mem_grow(array, n ? n * 2 : 1, size) : array;
}

/* --- Dovecot --------------------------------------------------------------------------------- */

/* The word that is <key>...; the last of them counts. */
static bool parse_header(struct span line, unsigned version, struct uidlist *l)
{
    if (version == 1) {
        return parse_u32(span_word(&line), &l->validity) && parse_u32(span_word(&line), &l->next);
    }
    while (line.n) {
        struct span word = span_word(&line);
        struct span value = span_skip(word, 1);
        if ((word.p[0] == 'V' && !parse_u32(value, &l->validity)) ||
            (word.p[0] == 'N' && !parse_u32(value, &l->next))) {
            return false;
        }
    }
    return true;
}

static void parse_extension(struct span word, struct uidlist_entry *e)
{
    struct span value = span_skip(word, 1);
    switch (word.p[0]) {
    case 'P':
        e->has_uidl = true;
        e->uidl = value;
        break;
    case 'O':
        (void)parse_u32(value, &e->order);
        break;
    case 'W':
        e->size_known = span_u64(value, UINT64_MAX, &e->size) == ERR_OK;
        break;
    case 'G':
        e->guid = value;
        break;
    default:
        break;
    }
}

static bool parse_entry(struct span line, unsigned version, struct uidlist_entry *e)
{
    size_t digits = span_find(line, ' ');
    *e = (struct uidlist_entry){ .order = UINT32_MAX };
    if (!parse_u32(span_first(line, digits), &e->uid) || e->uid == 0 || e->uid == UINT32_MAX) {
        return false;
    }
    line = span_skip(line, digits);
    while (line.n && line.p[0] == ' ') {
        line = span_skip(line, 1);
    }
    while (version == 3 && line.n && line.p[0] != ':') {
        size_t n = span_find(line, ' ');
        parse_extension(span_first(line, n), e);
        line = span_skip(line, n);
        while (line.n && line.p[0] == ' ') {
            line = span_skip(line, 1);
        }
    }
    e->name = without_flags(version == 3 ? span_skip(line, 1) : line);
    return e->name.n && span_find(line, '/') == line.n;
}

static bool parse_entries(struct span in, unsigned version, struct uidlist *l)
{
    uint32_t last = 0;
    while (in.n) {
        struct span line = take_line(&in);
        struct uidlist_entry e;
        if (!parse_entry(line, version, &e) || e.uid <= last) {
            return false;
        }
        last = e.uid;
        l->entries = room_for_one(l->entries, l->n, sizeof *l->entries);
        l->entries[l->n++] = e;
    }
    /* Dovecot raises it in memory alone while it appends lines. */
    l->next = l->next > last ? l->next : last + 1;
    return true;
}

enum err uidlist_parse(struct span in, struct uidlist *out)
{
    struct uidlist l = { 0 };
    struct span header = take_line(&in);
    unsigned version = header.n > 1 && header.p[1] == ' ' ? (unsigned)(header.p[0] - '0') : 0;
    if ((version != 1 && version != 3) || !parse_header(span_skip(header, 2), version, &l) ||
        !l.validity || !l.next || !parse_entries(in, version, &l)) {
        free(l.entries);
        return ERR_CORRUPT;
    }
    *out = l;
    return ERR_OK;
}

/* --- Courier --------------------------------------------------------------------------------- */

static bool parse_sizelist_header(struct span line, struct sizelist *l)
{
    uint64_t version;
    if (!line.n || line.p[0] != '/') {
        return false;
    }
    line = span_skip(line, 1);
    if (span_u64(span_word(&line), 3, &version) != ERR_OK || version == 0 ||
        span_u64(span_word(&line), UINT64_MAX, &l->next) != ERR_OK) {
        return false;
    }
    return !line.n || span_u64(span_word(&line), UINT64_MAX, &l->validity) == ERR_OK;
}

/* Takes the last word off, with the blank in front of it. */
static struct span last_word(struct span *s)
{
    size_t at = s->n;
    while (at > 0 && s->p[at - 1] != ' ') {
        at--;
    }
    struct span word = span_skip(*s, at);
    *s = span_first(*s, at ? at - 1 : 0);
    return word;
}

static bool parse_number(struct span s, struct sizelist_entry *e)
{
    size_t colon = span_find(s, ':');
    struct span validity = span_skip(s, colon + 1);
    validity = span_first(validity, span_find(validity, ':'));
    return span_u64(span_first(s, colon), UINT64_MAX, &e->number) == ERR_OK &&
           (colon == s.n || span_u64(validity, UINT64_MAX, &e->validity) == ERR_OK);
}

enum err sizelist_parse(struct span in, struct sizelist *out)
{
    struct sizelist l = { 0 };
    if (!parse_sizelist_header(take_line(&in), &l)) {
        return ERR_CORRUPT;
    }
    while (in.n) {
        struct span line = take_line(&in);
        struct sizelist_entry e = { 0 };
        struct span number = last_word(&line), size = last_word(&line);
        e.name = without_flags(line);
        if (!e.name.n || span_u64(size, UINT64_MAX, &e.size) != ERR_OK ||
            !parse_number(number, &e)) {
            continue; /* as Courier does */
        }
        l.entries = room_for_one(l.entries, l.n, sizeof *l.entries);
        l.entries[l.n++] = e;
    }
    *out = l;
    return ERR_OK;
}

/* --- Cyrus ----------------------------------------------------------------------------------- */

/* Octets from the beginning of the file, and of a record. */
enum { MINOR_VERSION = 8, START = 12, RECORD_SIZE = 16, RECORDS = 20 };
/* By the width of its quota, in bits. */
enum { VALIDITY_32 = 40, OPTIONS_32 = 56, VALIDITY_64 = 44, OPTIONS_64 = 60 };
enum { UID = 0, TIME = 4, SIZE = 12, FLAGS = 32, RECORD_LEAST = 36 };

#define HEADER_LEAST    64
#define HEADER_32_MOST  80 /* of versions up to 7 */
#define VERSION_MOST    19 /* 20 has times of 64 bits, and other places for most */
#define OPTION_NEW_UIDL 1u
#define FLAGS_GONE      (3u << 30) /* expunged, unlinked */

static uint32_t u32_at(struct span s, size_t at)
{
    const unsigned char *p = (const unsigned char *)s.p + at;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

enum err cyrus_parse(struct span in, struct cyrus_index *out)
{
    struct cyrus_index x = { 0 };
    if (in.n < HEADER_LEAST) {
        return ERR_CORRUPT;
    }
    uint32_t version = u32_at(in, MINOR_VERSION), start = u32_at(in, START);
    uint32_t record = u32_at(in, RECORD_SIZE), n = u32_at(in, RECORDS);
    if (version == 0 || version > VERSION_MOST) {
        return ERR_INVALID;
    }
    if (start < HEADER_LEAST || start > in.n || record < RECORD_LEAST ||
        n > (in.n - start) / record) {
        return ERR_CORRUPT;
    }
    bool narrow = start <= HEADER_32_MOST;
    x.validity = u32_at(in, narrow ? VALIDITY_32 : VALIDITY_64);
    x.new_uidl = u32_at(in, narrow ? OPTIONS_32 : OPTIONS_64) & OPTION_NEW_UIDL;
    x.entries = NEW_ARRAY(struct cyrus_entry, n + 1);
    for (uint32_t i = 0; i < n; i++) {
        struct span r = span_skip(in, start + (size_t)i * record);
        if (!(u32_at(r, FLAGS) & FLAGS_GONE)) {
            x.entries[x.n++] = (struct cyrus_entry){ .uid = u32_at(r, UID),
                                                     .size = u32_at(r, SIZE),
                                                     .time_s = u32_at(r, TIME) };
        }
    }
    *out = x;
    return ERR_OK;
}
