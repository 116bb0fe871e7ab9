/*
 * listing: a maildrop as bytes, and back.
 *
 *   format 1 | mailbox_id 8 | version 8 | count 4
 *   a message, count times:  id 16 | seq 4 | size 4 | skip 4 | volume 2 | uidl 1 | handle 1
 *   the UIDL and the handle of each message that has them, in the same order
 *
 * Numbers are little-endian. seq is written as the distance from the message before. One maildrop
 * has exactly one form, so that what the decoder takes is what the encoder wrote. It neither
 * seals nor splits; the bytes are the caller's.
 */
#include "store/listing.h"

#include "base/check.h"
#include "store/wire.h"

enum { FORMAT = 1, HEAD_SIZE = 1 + 8 + 8 + 4, MESSAGE_SIZE = 32 };

static char *put_message(char *to, const struct pointer *p, uint64_t distance)
{
    to = wire_put(to, p->id.b, sizeof p->id.b);
    to = wire_put32(to, (uint32_t)distance);
    to = wire_put32(to, p->size);
    to = wire_put32(to, p->skip);
    to = wire_put16(to, p->volume);
    to = wire_put8(to, p->uidl_len);
    return wire_put8(to, p->handle_len);
}

static char *put_extra(char *to, const struct maildrop *m, const struct pointer *p)
{
    size_t n = (size_t)p->uidl_len + p->handle_len;
    return n ? wire_put(to, m->extra + p->extra, n) : to;
}

/* Ascending, and no two neighbours further apart than 32 bits can tell. */
static bool seqs_fit(const struct maildrop *m)
{
    uint64_t before = 0;
    for (size_t i = 0; i < m->count; i++) {
        uint64_t seq = m->msgs[i].seq;
        if (seq <= before || seq - before > UINT32_MAX) {
            return false;
        }
        before = seq;
    }
    return true;
}

static size_t extra_size(const struct maildrop *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->count; i++) {
        n += (size_t)m->msgs[i].uidl_len + m->msgs[i].handle_len;
    }
    return n;
}

enum err listing_encode(const struct maildrop *m, struct buf *out)
{
    if (m->count > UINT32_MAX || !seqs_fit(m)) {
        return ERR_LIMIT;
    }
    size_t n = HEAD_SIZE + m->count * MESSAGE_SIZE + extra_size(m);
    char *to = buf_reserve(out, n);
    if (!to) {
        return ERR_LIMIT;
    }
    to = wire_put8(to, FORMAT);
    to = wire_put64(to, m->mailbox_id);
    to = wire_put64(to, m->version);
    to = wire_put32(to, (uint32_t)m->count);
    uint64_t before = 0;
    for (size_t i = 0; i < m->count; i++) {
        to = put_message(to, &m->msgs[i], m->msgs[i].seq - before);
        before = m->msgs[i].seq;
    }
    for (size_t i = 0; i < m->count; i++) {
        to = put_extra(to, m, &m->msgs[i]);
    }
    buf_commit(out, n);
    return ERR_OK;
}

/* Reads one message from the table and its extra octets from behind the table. */
static enum err get_message(struct wire *table, struct wire *extra, struct maildrop *m)
{
    struct pointer p = { 0 };
    uint64_t before = m->count ? m->msgs[m->count - 1].seq : 0;
    wire_copy(table, p.id.b, sizeof p.id.b);
    p.seq = before + wire_get32(table);
    p.size = wire_get32(table);
    p.skip = wire_get32(table);
    p.volume = wire_get16(table);
    uint8_t uidl_len = wire_get8(table), handle_len = wire_get8(table);
    struct span uidl = wire_get(extra, uidl_len), handle = wire_get(extra, handle_len);
    if (p.seq <= before || table->bad || extra->bad) {
        return ERR_CORRUPT;
    }
    return maildrop_add(m, &p, uidl, handle);
}

enum err listing_decode(struct span in, struct maildrop **out)
{
    struct wire head = { .rest = in };
    uint8_t format = wire_get8(&head);
    uint64_t mailbox_id = wire_get64(&head);
    uint64_t version = wire_get64(&head);
    uint32_t count = wire_get32(&head);
    /* The table must be whole before anything is allocated for it. */
    struct wire table = { .rest = wire_get(&head, (size_t)count * MESSAGE_SIZE) };
    if (format != FORMAT || head.bad) {
        return ERR_CORRUPT;
    }
    struct wire extra = { .rest = head.rest };
    struct maildrop *m = maildrop_new(mailbox_id, version);
    enum err e = ERR_OK;
    for (uint32_t i = 0; e == ERR_OK && i < count; i++) {
        e = get_message(&table, &extra, m);
    }
    if (e != ERR_OK || !wire_end(&extra)) {
        maildrop_free(&m);
        return ERR_CORRUPT;
    }
    *out = m;
    return ERR_OK;
}
