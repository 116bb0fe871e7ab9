/*
 * maildrop: building a snapshot, pointer by pointer or out of the cache, and reading it.
 *
 * The maildrop owns three arrays: the records; what some of them have besides, above all UIDLs and
 * handles, in one run of octets, because most have none and a mailbox may have 100,000 of them; and
 * a mark every few records, which says what a record alone does not: where its seq and its extra
 * octets begin.
 * The first two lie in the octets of a cached list if that is what it was made of. It checks what
 * would break a protocol, not whether the files exist.
 */
#include "base/maildrop.h"

#include <assert.h>
#include <endian.h>
#include <stdlib.h>

#include "base/check.h"

#define MARK_EVERY 16 /* records: an octet a message, and a few records to look through */
#define CAP_FIRST  16
#define EXTRA_MAX  (sizeof(struct maildrop_wide) + UIDL_MAX + HANDLE_MAX)

static_assert(sizeof(struct maildrop_record) == 26, "the form of cached lists");
static_assert(sizeof(struct maildrop_wide) == 10, "the same");
static_assert(_Alignof(struct maildrop_record) == 1, "read where it was received");

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
        if (!(*m)->loaded.mem) {
            free((*m)->records);
            free((*m)->extra);
        }
        free((*m)->marks);
        buf_fini(&(*m)->loaded);
        free(*m);
        *m = NULL;
    }
}

/* --- records --------------------------------------------------------------------------------- */

static bool is_wide(const struct maildrop_record *r)
{
    return r->distance == 0;
}

/* Of a wide record, whose extra octets are given, or of any other. */
static struct maildrop_wide figures_of(const struct maildrop_record *r, const char *extra)
{
    struct maildrop_wide w;
    if (is_wide(r)) {
        memcpy(&w, extra, sizeof w);
        w.distance = le32toh(w.distance);
        w.skip = le32toh(w.skip);
        w.volume = le16toh(w.volume);
    } else {
        w.distance = r->distance;
        w.skip = le16toh(r->skip);
        w.volume = r->volume;
    }
    return w;
}

/* A record has one form only: the narrow one if that has room. */
static bool is_narrow(const struct maildrop_wide *w)
{
    return w->distance <= UINT8_MAX && w->skip <= UINT16_MAX && w->volume <= UINT8_MAX;
}

static size_t wide_octets(const struct maildrop_record *r)
{
    return is_wide(r) ? sizeof(struct maildrop_wide) : 0;
}

static size_t extra_octets(const struct maildrop_record *r)
{
    return wide_octets(r) + r->uidl_n + r->handle_n;
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

static void set_marks(struct maildrop *m, size_t records)
{
    m->marks = mem_grow(m->marks, (records + MARK_EVERY - 1) / MARK_EVERY, sizeof *m->marks);
}

/* Room for so many records, and no more. */
static void set_cap(struct maildrop *m, size_t cap)
{
    m->cap = cap;
    m->records = mem_grow(m->records, cap, sizeof *m->records);
    set_marks(m, cap);
}

static void set_extra_cap(struct maildrop *m, size_t cap)
{
    m->extra_cap = cap;
    m->extra = mem_grow(m->extra, cap, 1);
}

static void add_extra(struct maildrop *m, struct span s)
{
    if (s.n == 0) {
        return;
    }
    if (m->extra_cap - m->extra_n < s.n) {
        set_extra_cap(m, m->extra_cap * 2 + EXTRA_MAX);
    }
    memcpy(m->extra + m->extra_n, s.p, s.n);
    m->extra_n += s.n;
}

/* What a record of these figures holds of them itself. */
static struct maildrop_record record_of(const struct pointer *p, const struct maildrop_wide *w)
{
    struct maildrop_record r = { .id = p->id, .size = htole32(p->size) };
    if (is_narrow(w)) {
        r.skip = htole16((uint16_t)w->skip);
        r.distance = (uint8_t)w->distance;
        r.volume = (uint8_t)w->volume;
    }
    return r;
}

static void add_wide(struct maildrop *m, const struct maildrop_wide *w)
{
    struct maildrop_wide wire = { .distance = htole32(w->distance),
                                  .skip = htole32(w->skip),
                                  .volume = htole16(w->volume) };
    add_extra(m, span_of(&wire, sizeof wire));
}

enum err maildrop_add(struct maildrop *m, const struct pointer *p, struct span uidl,
                      struct span handle)
{
    CHECK(!m->loaded.mem);
    if (p->seq <= m->last_seq || !extra_valid(uidl, handle)) {
        return ERR_CORRUPT;
    }
    if (p->seq - m->last_seq > UINT32_MAX || m->extra_n > UINT32_MAX - EXTRA_MAX) {
        return ERR_LIMIT;
    }
    if (m->count == m->cap) {
        set_cap(m, m->cap ? m->cap * 2 : CAP_FIRST);
    }
    struct maildrop_wide w = { .distance = (uint32_t)(p->seq - m->last_seq),
                               .skip = p->skip,
                               .volume = p->volume };
    struct maildrop_record r = record_of(p, &w);
    r.uidl_n = (uint8_t)uidl.n;
    r.handle_n = (uint8_t)handle.n;
    m->records[m->count] = r;
    if (m->count % MARK_EVERY == 0) {
        m->marks[m->count / MARK_EVERY] =
            (struct maildrop_mark){ .seq = m->last_seq, .extra = (uint32_t)m->extra_n };
    }
    if (is_wide(&r)) {
        add_wide(m, &w);
    }
    add_extra(m, uidl);
    add_extra(m, handle);
    m->last_seq = p->seq;
    m->octets += p->size;
    m->count++;
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

/* --- out of a cached list -------------------------------------------------------------------- */

/* Figures that are the record's, and are where they belong. */
static bool wide_valid(const struct maildrop_record *r, const char *extra)
{
    struct maildrop_wide w = figures_of(r, extra);
    return w.distance > 0 && !is_narrow(&w) && r->skip == 0 && r->volume == 0;
}

/*
 * The extra octets of some records, at the front of rest, from which they are taken. *seq: goes up
 * by the distances of wide records.
 */
static bool take_extra(const struct maildrop_record *r, size_t n, struct span *rest, uint64_t *seq)
{
    for (; n > 0; n--, r++) {
        size_t octets = extra_octets(r), wide = wide_octets(r);
        if (octets > rest->n || (wide && !wide_valid(r, rest->p))) {
            return false;
        }
        const char *uidl = rest->p + wide;
        if (!extra_valid(span_of(uidl, r->uidl_n), span_of(uidl + r->uidl_n, r->handle_n))) {
            return false;
        }
        *seq += wide ? figures_of(r, rest->p).distance : 0;
        *rest = span_skip(*rest, octets);
    }
    return true;
}

/*
 * Counts in all records, of which nothing is known but how many: this is most of what a poll does
 * with a long list, so a few of them at a time, without a branch for each.
 */
static bool admit_all(struct maildrop *m)
{
    struct span rest = span_of(m->extra, m->extra_n);
    uint64_t seq = 0, octets = 0;
    for (size_t i = 0; i < m->count; i += MARK_EVERY) {
        const struct maildrop_record *few = &m->records[i];
        size_t n = m->count - i < MARK_EVERY ? m->count - i : MARK_EVERY;
        unsigned extra = 0;
        m->marks[i / MARK_EVERY] =
            (struct maildrop_mark){ .seq = seq, .extra = (uint32_t)(m->extra_n - rest.n) };
        for (size_t k = 0; k < n; k++) {
            extra |= (unsigned)is_wide(&few[k]) | few[k].uidl_n | few[k].handle_n;
            seq += few[k].distance;
            octets += le32toh(few[k].size);
        }
        if (extra && !take_extra(few, n, &rest, &seq)) {
            return false;
        }
    }
    m->last_seq = seq;
    m->octets = octets;
    return rest.n == 0;
}

enum err maildrop_load(uint64_t mailbox_id, uint64_t version, struct buf *in, size_t head,
                       size_t count, struct maildrop **out)
{
    struct span octets = span_skip(buf_span(in), head);
    if (count > octets.n / sizeof(struct maildrop_record) ||
        octets.n - count * sizeof(struct maildrop_record) > UINT32_MAX) {
        return ERR_CORRUPT;
    }
    struct maildrop *m = maildrop_new(mailbox_id, version);
    char *records = in->mem + in->head + (buf_len(in) - octets.n);
    m->count = m->cap = count;
    m->records = (struct maildrop_record *)records;
    m->extra = records + count * sizeof(struct maildrop_record);
    m->extra_n = m->extra_cap = octets.n - count * sizeof(struct maildrop_record);
    if (count > 0) {
        set_marks(m, count);
    }
    if (!admit_all(m)) {
        m->records = NULL;
        m->extra = NULL;
        maildrop_free(&m);
        return ERR_CORRUPT;
    }
    m->loaded = *in;
    buf_init(in, in->limit);
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
        mark.seq += figures_of(r, m->extra + mark.extra).distance;
        mark.extra += (uint32_t)extra_octets(r);
    }
    return mark;
}

struct pointer maildrop_at(const struct maildrop *m, size_t i)
{
    const struct maildrop_record *r = record_at(m, i);
    struct maildrop_mark mark = mark_at(m, i);
    struct maildrop_wide w = figures_of(r, m->extra + mark.extra);
    return (struct pointer){ .id = r->id,
                             .seq = mark.seq + w.distance,
                             .size = le32toh(r->size),
                             .skip = w.skip,
                             .volume = w.volume };
}

uint32_t maildrop_size(const struct maildrop *m, size_t i)
{
    return le32toh(record_at(m, i)->size);
}

/* Of a record that has one. */
static const char *uidl_at(const struct maildrop *m, size_t i)
{
    return m->extra + mark_at(m, i).extra + wide_octets(&m->records[i]);
}

struct span maildrop_handle(const struct maildrop *m, size_t i)
{
    const struct maildrop_record *r = record_at(m, i);
    return r->handle_n ? span_of(uidl_at(m, i) + r->uidl_n, r->handle_n) : span_of("", 0);
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
    memcpy(out, uidl_at(m, i), r->uidl_n);
    out[r->uidl_n] = '\0';
    return r->uidl_n;
}
