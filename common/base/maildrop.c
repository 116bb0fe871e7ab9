/*
 * maildrop: building a snapshot pointer by pointer, and reading it.
 *
 * The maildrop owns its two arrays. UIDLs and handles lie in one run of bytes beside the pointers,
 * because most messages have neither and a mailbox may have 100,000 of them. It checks what would
 * break a protocol, not whether the files exist.
 */
#include "base/maildrop.h"

#include <stdlib.h>

#include "base/check.h"

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
        free((*m)->msgs);
        free((*m)->extra);
        free(*m);
        *m = NULL;
    }
}

/* A UIDL goes into a reply as it is: 1 to 70 characters, 0x21 to 0x7E (RFC 1939, section 7). */
static bool uidl_valid(struct span uidl)
{
    for (size_t i = 0; i < uidl.n; i++) {
        if (uidl.p[i] < 0x21 || uidl.p[i] > 0x7e) {
            return false;
        }
    }
    return uidl.n <= UIDL_MAX;
}

static void add_extra(struct maildrop *m, struct span s)
{
    if (m->extra_cap - m->extra_len < s.n) {
        m->extra_cap = m->extra_cap * 2 + UIDL_MAX + HANDLE_MAX;
        m->extra = mem_grow(m->extra, m->extra_cap, 1);
    }
    if (s.n) {
        memcpy(m->extra + m->extra_len, s.p, s.n);
    }
    m->extra_len += s.n;
}

enum err maildrop_add(struct maildrop *m, const struct pointer *p, struct span uidl,
                      struct span handle)
{
    if (!uidl_valid(uidl) || handle.n > HANDLE_MAX) {
        return ERR_CORRUPT;
    }
    if (m->extra_len > UINT32_MAX - UIDL_MAX - HANDLE_MAX) {
        return ERR_LIMIT;
    }
    if (m->count == m->cap) {
        m->cap = m->cap ? m->cap * 2 : 16;
        m->msgs = mem_grow(m->msgs, m->cap, sizeof *m->msgs);
    }
    struct pointer *to = &m->msgs[m->count++];
    *to = *p;
    to->extra = (uint32_t)m->extra_len;
    to->uidl_len = (uint8_t)uidl.n;
    to->handle_len = (uint8_t)handle.n;
    add_extra(m, uidl);
    add_extra(m, handle);
    m->octets += p->size;
    return ERR_OK;
}

struct span maildrop_handle(const struct maildrop *m, size_t i)
{
    CHECK(i < m->count);
    const struct pointer *p = &m->msgs[i];
    return p->handle_len ? span_of(m->extra + p->extra + p->uidl_len, p->handle_len)
                         : span_of("", 0);
}

size_t maildrop_uidl(const struct maildrop *m, size_t i, char out[UIDL_MAX + 1])
{
    CHECK(i < m->count);
    const struct pointer *p = &m->msgs[i];
    if (p->uidl_len == 0) {
        blob_id_text(&p->id, out);
        return BLOB_ID_CHARS;
    }
    memcpy(out, m->extra + p->extra, p->uidl_len);
    out[p->uidl_len] = '\0';
    return p->uidl_len;
}
