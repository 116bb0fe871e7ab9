/*
 * ahead: what a session will read next, read along with what it reads now.
 *
 * Who fetches a mailbox asks for one message after the other, and each would cost a call of its own
 * to the volume and the way to it. So the messages behind it come with it, as many as were read in
 * a row so far and a few at most: somebody who wants one message alone gets one alone, and what is
 * read in vain is never more than what was wanted. Short messages only; what is held, by a session
 * and by all of a process, has a bound.
 *
 * One owner: the session, which makes it once and reads one message at a time. What can't be had
 * this way is to be read by itself, but for what was waited for in vain: a volume that hangs is not
 * waited for twice, and who has met one gets no row any more.
 */
#ifndef MAILFLEET_STORE_AHEAD_H
#define MAILFLEET_STORE_AHEAD_H

#include "store/store_parts.h"

struct ahead;

/* m is borrowed for its life. */
struct ahead *ahead_open(struct store *s, const struct maildrop *m);
/* May be called with *a NULL, and while got is called. */
void ahead_close(struct ahead **a);

/* OK: the whole message, without its envelope, borrowed until got returns. TEMP: as with any read
 * of the spool. Any other: it is to be read by itself. */
typedef void ahead_fn(void *arg, enum err e, struct span octets);
/* Whether message i is there already: all of it, without its envelope, borrowed until the next
 * call; it was wanted then. False says nothing more than that. */
bool ahead_ready(struct ahead *a, size_t i, struct span *octets);
/* Message i is wanted, and not ready. True: got is called once, not inline; before that nothing
 * else may be asked for. False: it is to be read by itself. */
bool ahead_get(struct ahead *a, size_t i, ahead_fn *got, void *arg);
/* It is wanted no more, and got is not called. */
void ahead_leave(struct ahead *a);

#endif
