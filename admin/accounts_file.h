/*
 * accounts_file: the text that `mailfleet account dump` writes and `mailfleet rebuild` reads: what
 * the spool can't tell. A line a thing, words separated by blanks:
 *
 *   mailfleet accounts 1
 *   sequence LAST-MAILBOX
 *   volume ID UUID URL [fanout=N] [state=N] [weight=N] [free_floor=N]
 *   domain NAME [KEY=N]...
 *   account ADDRESS MAILBOX HASH SCRAM [KEY=N]...
 *   alias ADDRESS TARGET...                       (@NAME: the catch-all of a domain)
 *   removed MAILBOX ADDRESS BY [KEY=N]... [alias=ADDRESS]... [list=ADDRESS]...
 *   end LINES                                     (those before it: a dump that was cut has none)
 *
 * A word that is empty is `-`; blanks, controls, % and that dash itself are %XX. KEYs are columns
 * of the tables; times are milliseconds since 1970. A removed account with more than 1000 names has
 * several lines. Lines that begin with # are comments and count
 * as lines. Bytes only; words point into the line that was given.
 */
#ifndef MAILFLEET_ADMIN_ACCOUNTS_FILE_H
#define MAILFLEET_ADMIN_ACCOUNTS_FILE_H

#include "base/buffer.h"

#define ACCOUNTS_FILE_HEAD "mailfleet accounts 1"
#define ACCOUNTS_WORDS_MAX 1100 /* an alias has at most 1000 targets */

struct accounts_line {
    char *word[ACCOUNTS_WORDS_MAX]; /* decoded; the first is the kind */
    size_t n;
};

/* Adds a word, with a blank in front unless it is the first of out. */
void accounts_word(struct buf *out, struct span word);
void accounts_number(struct buf *out, uint64_t v);
/* KEY=N */
void accounts_pair(struct buf *out, const char *key, int64_t v);

/* Takes the words of a line, which has no line end, and changes it. False: it makes no sense. */
bool accounts_parse(char *line, struct accounts_line *out);
/* The value of KEY=VALUE among the words from first on; NULL: there is none. *first moves behind.
 */
const char *accounts_value(const struct accounts_line *l, size_t *first, const char *key);
/* The same as a number; none: what is given. False: it is not a number. */
bool accounts_value_number(const struct accounts_line *l, size_t first, const char *key,
                           int64_t none, int64_t *out);

#endif
