/*
 * import_read: the threads that read the old mailboxes of an import, one account each at a time.
 *
 * Sources block, the spool and the database are on a loop: so a thread reads, and the loop's
 * thread looks at what it has with reader_poll and answers. Each thread holds at most READ_AHEAD
 * octets that were not taken. readers own everything; a list belongs to its source, until the
 * account's end was answered.
 */
#ifndef MAILFLEET_ADMIN_IMPORT_READ_H
#define MAILFLEET_ADMIN_IMPORT_READ_H

#include "base/buffer.h"
#include "mail_source.h"
#include "move_list.h"
#include "net/loop.h"

#define READ_AHEAD (512 * 1024)

struct readers;
struct reader;

struct readers_options {
    const struct move_list *list;
    const char *url; /* of accounts that have none of their own */
    struct source_options source;
    unsigned threads;
    uint64_t rate; /* messages a second; 0: no limit */
};

/* *o and the list are borrowed. The loop is woken when a thread has something. */
struct readers *readers_open(struct loop *l, const struct readers_options *o);
/* Ends all threads, wherever they are, and waits for them. */
void readers_close(struct readers **rs);
struct reader *readers_at(struct readers *rs, size_t i);

enum read_event {
    READ_NOTHING, /* not now */
    READ_LISTED,  /* what the mailbox has: reader_list */
    READ_OCTETS,  /* of message reader_index: taken to out */
    READ_MESSAGE, /* it has ended: reader_err */
    READ_ACCOUNT, /* so has the account; reader_err: as a whole, it was not listed */
    READ_GONE     /* there are no more accounts: the last event */
};

/* out must be empty, of reader_buffer. */
enum read_event reader_poll(struct reader *r, struct buf *out);
void reader_buffer(struct buf *b);
/* Which account of the list. */
size_t reader_account(const struct reader *r);
const struct source_message *reader_list(const struct reader *r, size_t *n);
size_t reader_index(const struct reader *r);
/* why: one line, until the next answer. NOTFOUND of a message: it has gone meanwhile. */
enum err reader_err(const struct reader *r, const char **why);

/*
 * The answers, one to each event from LISTED to ACCOUNT. wanted: for LISTED, a flag a message,
 * borrowed until ACCOUNT. go_on false: no more of this account.
 */
void reader_answer(struct reader *r, const bool *wanted, bool go_on);
/* What is still to come of this message is not wanted: MESSAGE follows soon. */
void reader_drop(struct reader *r);

#endif
