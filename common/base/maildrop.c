/*
 * maildrop: building a snapshot, pointer by pointer or out of the cache, and reading it.
 *
 * The maildrop owns three arrays: the records; the UIDLs and handles that some of them have, in one
 * run of octets, because most have neither and a mailbox may have 100,000 of them; and a mark every
 * few records, which says what a record alone does not: where its seq and its extra octets begin.
 * It checks what would break a protocol, not whether the files exist.
 */
#include "base/maildrop.h"

#include <assert.h>
#include <endian.h>
#include <stdlib.h>

#include "base/check.h"

#define MARK_EVERY 16 /* records: an octet a message, and a few records to look through */
#define CAP_FIRST  16

static_assert(sizeof(struct maildrop_record) == 32, "the form of cached lists");

/* Before the first of MARK_EVERY records. */
struct maildrop_mark {
    uint64_t seq; /* of the record before it */
    uint32_t extra;
};

struct maildrop *maildrop_new(uint64_t mailbox_id, uint64_t version)
{
    struct maildrop *m = NEW(struct maildrop);
    m->mailbox_id = mailbox_id;
    m->version = version;
    return m;
}

void maildrop_free(struct maildrop **m)
{
    if (*m) {
        free((*m)->records);
        free((*m)->marks);
        free((*m)->extra);
        free(*m);
        *m = NULL;
    }
}

/* --- building -------------------------------------------------------------------------------- */

/* A UIDL goes into a reply as it is: 1 to 70 characters, 0x21 to 0x7E (RFC 1939, section 7). */
static bool extra_valid(struct span uidl, struct span handle)
{
    for (size_t i = 0; i < uidl.n; i++) {
        if (uidl.p[i] < 0x21 || uidl.p[i] > 0x7e) {
            return false;
        }
    }
    return uidl.n <= UIDL_MAX && handle.n <= HANDLE_MAX;
}

/* Room for so many records, and no more. */
static void set_cap(struct maildrop *m, size_t cap)
{
    m->cap = cap;
    m->records = mem_grow(m->records, cap, sizeof *m->records);
    m->marks = mem_grow(m->marks, (cap + MARK_EVERY - 1) / MARK_EVERY, sizeof *m->marks);
}

static void set_extra_cap(struct maildrop *m, size_t cap)
{
    m->extra_cap = cap;
    m->extra = mem_grow(m->extra, cap, 1);
}

/* Counts in the record that lies behind the last one; its extra octets begin at `extra`. */
static void admit(struct maildrop *m, size_t extra)
{
    const struct maildrop_record *r = &m->records[m->count];
    if (m->count % MARK_EVERY == 0) {
        m->marks[m->count / MARK_EVERY] =
            (struct maildrop_mark){ .seq = m->last_seq, .extra = (uint32_t)extra };
    }
    m->last_seq += le32toh(r->distance);
    m->octets += le32toh(r->size);
    m->count++;
}

static void add_extra(struct maildrop *m, struct span s)
{
    if (s.n == 0) {
        return;
    }
    if (m->extra_cap - m->extra_n < s.n) {
        set_extra_cap(m, m->extra_cap * 2 + UIDL_MAX + HANDLE_MAX);
    }
    memcpy(m->extra + m->extra_n, s.p, s.n);
    m->extra_n += s.n;
}

enum err maildrop_add(struct maildrop *m, const struct pointer *p, struct span uidl,
                      struct span handle)
{
    if (p->seq <= m->last_seq || !extra_valid(uidl, handle)) {
        return ERR_CORRUPT;
    }
    if (p->seq - m->last_seq > UINT32_MAX || m->extra_n > UINT32_MAX - UIDL_MAX - HANDLE_MAX) {
        return ERR_LIMIT;
    }
    if (m->count == m->cap) {
        set_cap(m, m->cap ? m->cap * 2 : CAP_FIRST);
    }
    m->records[m->count] =
        (struct maildrop_record){ .id = p->id,
                                  .distance = htole32((uint32_t)(p->seq - m->last_seq)),
                                  .size = htole32(p->size),
                                  .skip = htole32(p->skip),
                                  .volume = htole16(p->volume),
                                  .uidl_n = (uint8_t)uidl.n,
                                  .handle_n = (uint8_t)handle.n };
    admit(m, m->extra_n);
    add_extra(m, uidl);
    add_extra(m, handle);
    return ERR_OK;
}

void maildrop_built(struct maildrop *m)
{
    if (m->count < m->cap && m->count > 0) {
        set_cap(m, m->count);
    }
    if (m->extra_n < m->extra_cap && m->extra_n > 0) {
        set_extra_cap(m, m->extra_n);
    }
}

/* The records are there, and their extra octets, of which nothing is known but how many. */
static bool admit_all(struct maildrop *m)
{
    struct span rest = span_of(m->extra, m->extra_n);
    while (m->count < m->cap) {
        const struct maildrop_record *r = &m->records[m->count];
        size_t n = (size_t)r->uidl_n + r->handle_n;
        struct span uidl = span_first(rest, r->uidl_n);
        if (r->distance == 0 || n > rest.n ||
            (n > 0 && !extra_valid(uidl, span_of(rest.p + uidl.n, r->handle_n)))) {
            return false;
        }
        admit(m, m->extra_n - rest.n);
        rest = span_skip(rest, n);
    }
    return rest.n == 0;
}

enum err maildrop_load(uint64_t mailbox_id, uint64_t version, struct span records,
                       struct span extra, struct maildrop **out)
{
    if (records.n % sizeof(struct maildrop_record) != 0 || extra.n > UINT32_MAX) {
        return ERR_CORRUPT;
    }
    struct maildrop *m = maildrop_new(mailbox_id, version);
    if (records.n > 0) {
        set_cap(m, records.n / sizeof(struct maildrop_record));
        memcpy(m->records, records.p, records.n);
    }
    if (extra.n > 0) {
        set_extra_cap(m, extra.n);
        add_extra(m, extra);
    }
    if (!admit_all(m)) {
        maildrop_free(&m);
        return ERR_CORRUPT;
    }
    *out = m;
    return ERR_OK;
}

/* --- reading --------------------------------------------------------------------------------- */

struct span maildrop_records(const struct maildrop *m)
{
    return span_of(m->records, m->count * sizeof *m->records);
}

struct span maildrop_extra(const struct maildrop *m)
{
    return span_of(m->extra, m->extra_n);
}

static const struct maildrop_record *record_at(const struct maildrop *m, size_t i)
{
    CHECK(i < m->count);
    return &m->records[i];
}

/* What comes before record i: from the mark in front of it on. */
static struct maildrop_mark mark_at(const struct maildrop *m, size_t i)
{
    struct maildrop_mark mark = m->marks[i / MARK_EVERY];
    for (size_t k = i - i % MARK_EVERY; k < i; k++) {
        const struct maildrop_record *r = &m->records[k];
        mark.seq += le32toh(r->distance);
        mark.extra += (uint32_t)r->uidl_n + r->handle_n;
    }
    return mark;
}

struct pointer maildrop_at(const struct maildrop *m, size_t i)
{
    const struct maildrop_record *r = record_at(m, i);
    return (struct pointer){ .id = r->id,
                             .seq = mark_at(m, i).seq + le32toh(r->distance),
                             .size = le32toh(r->size),
                             .skip = le32toh(r->skip),
                             .volume = le16toh(r->volume) };
}

uint32_t maildrop_size(const struct maildrop *m, size_t i)
{
    return le32toh(record_at(m, i)->size);
}

struct span maildrop_handle(const struct maildrop *m, size_t i)
{
    const struct maildrop_record *r = record_at(m, i);
    return r->handle_n ? span_of(m->extra + mark_at(m, i).extra + r->uidl_n, r->handle_n)
                       : span_of("", 0);
}

bool maildrop_imported(const struct maildrop *m, size_t i)
{
    return record_at(m, i)->uidl_n > 0;
}

size_t maildrop_uidl(const struct maildrop *m, size_t i, char out[UIDL_MAX + 1])
{
    const struct maildrop_record *r = record_at(m, i);
    if (r->uidl_n == 0) {
        blob_id_text(&r->id, out);
        return BLOB_ID_CHARS;
    }
    memcpy(out, m->extra + mark_at(m, i).extra, r->uidl_n);
    out[r->uidl_n] = '\0';
    return r->uidl_n;
}
