/*
 * source_parts: what the kinds of mail sources share: UIDLs and how servers make them, and lines
 * that end with CRLF.
 *
 * Values and borrowed spans; no I/O, and nothing is kept.
 */
#ifndef MAILFLEET_ADMIN_SOURCE_PARTS_H
#define MAILFLEET_ADMIN_SOURCE_PARTS_H

#include "base/buffer.h"
#include "mail_source.h"

/* --- UIDLs ----------------------------------------------------------------------------------- */

/*
 * Gives the message this UIDL. One that RFC 1939 does not allow (empty, longer than 70 octets, not
 * printable ASCII) is replaced by a hash of it, always the same, and uidl_changed says so.
 */
void source_uidl(struct source_message *m, struct span uidl);
/*
 * Some servers give several messages one UIDL: all but the first get `-2`, `-3`... behind theirs,
 * as Dovecot's pop3_uidl_duplicates = rename does.
 */
void source_uidls_unique(struct source_message *m, size_t n);

/* What a UIDL may be made of. */
struct uidl_parts {
    uint32_t validity, uid; /* 0: the message has none */
    struct span name;       /* of its file, without flags */
    struct span guid;
};

/*
 * Dovecot's pop3_uidl_format, as versions up to 2.3 (`%08Xu%08Xv`) and from 2.4 on
 * (`%{uid | hex(8)}%{uidvalidity | hex(8)}`) write it, with u, v, f and g and the filters hex,
 * md5, lower and upper; or a short name: `dovecot`, `cyrus` (`%v.%u`). INVALID: it can't be
 * followed, and why holds one line.
 */
enum err uidl_format(const char *format, const struct uidl_parts *p, struct buf *out, char *why,
                     size_t why_size);

/* --- lines ----------------------------------------------------------------------------------- */

/* Lines of a file that end with LF, or CRLF, as servers send them. */
struct crlf {
    bool after_cr;
    bool always; /* a CR goes before every LF, even one that has a CR already: so does Courier */
};

/* Appends the piece to out, which must have room for twice as much. */
void crlf_add(struct crlf *c, struct span piece, struct buf *out);
/* How long it would be. */
uint64_t crlf_count(struct crlf *c, struct span piece);

/* Writes the line to why. */
enum err source_fail(enum err e, char *why, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
