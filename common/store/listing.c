/*
 * listing: a maildrop as bytes, and back.
 *
 *   format 1 | mailbox_id 8 | version 8 | count 4
 *   a message, count times:  struct maildrop_record, 26
 *   the extra octets of each message that has some, in the same order
 *
 * Numbers are little-endian. Behind the head that is the maildrop as it lies in memory, so that the
 * one way costs a copy and the other a look at each record. One maildrop has exactly one form, so
 * that what the decoder takes is what the encoder wrote. It neither seals nor splits; the bytes are
 * the caller's.
 */
#include "store/listing.h"

#include "base/check.h"
#include "store/wire.h"

enum { FORMAT = 2, HEAD_SIZE = 1 + 8 + 8 + 4 };

enum err listing_encode(const struct maildrop *m, struct buf *out)
{
    struct span records = maildrop_records(m), extra = maildrop_extra(m);
    if (m->count > UINT32_MAX) {
        return ERR_LIMIT;
    }
    char *to = buf_reserve(out, HEAD_SIZE + records.n + extra.n);
    if (!to) {
        return ERR_LIMIT;
    }
    to = wire_put8(to, FORMAT);
    to = wire_put64(to, m->mailbox_id);
    to = wire_put64(to, m->version);
    wire_put32(to, (uint32_t)m->count);
    buf_commit(out, HEAD_SIZE);
    CHECK(buf_add(out, records) == ERR_OK && buf_add(out, extra) == ERR_OK);
    return ERR_OK;
}

enum err listing_decode(struct buf *in, struct maildrop **out)
{
    struct wire head = { .rest = buf_span(in) };
    uint8_t format = wire_get8(&head);
    uint64_t mailbox_id = wire_get64(&head);
    uint64_t version = wire_get64(&head);
    uint32_t count = wire_get32(&head);
    if (format != FORMAT || head.bad) {
        return ERR_CORRUPT;
    }
    return maildrop_load(mailbox_id, version, in, HEAD_SIZE, count, out);
}
