/*
 * rewrite: a message that content filters see and change: its header fields and its body.
 *
 * Bytes only. The message is appended whole, then parsed once; changes are pending until they are
 * committed, so that a filter which fails half-way has changed nothing. Fields that nobody changes
 * keep their place and their octets. Everything a filter can grow has a bound.
 *
 * A field ends where RFC 5322, section 2.2, says; the first line that can neither be one nor go on
 * with one begins the body, as all filters and most readers take it.
 */
#ifndef MAILFLEET_DELIVER_REWRITE_H
#define MAILFLEET_DELIVER_REWRITE_H

#include "base/buffer.h"

#define REWRITE_HEADER  (1u << 20)   /* most octets of a header block */
#define REWRITE_FIELDS  4096         /* and of fields in it, as they came */
#define REWRITE_ADDED   (256u << 10) /* most octets that filters may add to it */
#define REWRITE_CHANGES 4096         /* and how often they may change it */

struct rewrite;

/* max: octets of the message as it comes, and of a body that replaces it. */
struct rewrite *rewrite_new(size_t max);
void rewrite_free(struct rewrite **r);
/* Empty, as new. */
void rewrite_reset(struct rewrite *r);

/* CRLF lines. ERR_LIMIT: more than max. */
enum err rewrite_append(struct rewrite *r, struct span octets);
/*
 * All is there. own: fields that go in front and that filters don't see (our Received:), CRLF
 * lines; copied. ERR_LIMIT: the header block is too large to be shown to anybody.
 */
enum err rewrite_parse(struct rewrite *r, struct span own);

/* Octets that it holds now. */
size_t rewrite_octets(const struct rewrite *r);

/* The message as it was last committed. Spans are valid until the next change of r. */
size_t rewrite_fields(const struct rewrite *r);
/*
 * The field at i. value is all between the colon and the last CRLF, folds and leading space
 * included. False: it is our own.
 */
bool rewrite_field(const struct rewrite *r, size_t i, struct span *name, struct span *value);
struct span rewrite_body(const struct rewrite *r);

/*
 * Changes, from rewrite_begin to rewrite_commit or rewrite_abort. A name must be one (RFC 5322,
 * section 3.6.8) and a value may hold no NUL, else ERR_INVALID; line ends in a value become folds.
 * The value follows the colon as it is: with its leading space. ERR_LIMIT: a bound.
 */
void rewrite_begin(struct rewrite *r);
enum err rewrite_add(struct rewrite *r, struct span name, struct span value);
/* In front of the field at index, our own counted; behind the last if there are fewer. */
enum err rewrite_insert(struct rewrite *r, uint32_t index, struct span name, struct span value);
/*
 * The nth field of that name, from 1, our own not counted; an empty value deletes it. One that does
 * not exist is added.
 */
enum err rewrite_change(struct rewrite *r, struct span name, uint32_t nth, struct span value);
/* A piece of a new body; the first one drops the old. Its lines become CRLF lines. */
enum err rewrite_replace(struct rewrite *r, struct span piece);
void rewrite_commit(struct rewrite *r);
void rewrite_abort(struct rewrite *r);

/*
 * The message as it was last committed: the header block with the line that ends it, and the body.
 * Valid until the next call that changes r.
 */
void rewrite_message(struct rewrite *r, struct span *head, struct span *body);

#endif
