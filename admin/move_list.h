/*
 * move_list: the accounts that are moved in, from a file or one from the command line.
 *
 * Owns copies of everything; passwords are wiped when it is freed.
 */
#ifndef MAILFLEET_ADMIN_MOVE_LIST_H
#define MAILFLEET_ADMIN_MOVE_LIST_H

#include "admin.h"
#include "args.h"

struct move_account {
    struct address address;
    char *text;     /* the address as it was given: what the old server knows it by */
    char *password; /* NULL: none of its own */
    char *url;      /* NULL: the one for all */
};

struct move_list {
    struct move_account *accounts;
    size_t n;
};

/*
 * A line an account: `ADDRESS [PASSWORD [URL]]`, separated by blanks or tabs, `-` for a password
 * that is not given; empty lines and those that begin with # are passed over. No address may be
 * there twice. path `-`: standard input. EX_OK, or a code after a message.
 */
int move_list_read(const char *path, struct move_list *out);
int move_list_one(const char *address, struct move_list *out);
void move_list_free(struct move_list *l);

/* The first line of a file, which the caller wipes and frees; path NULL leaves *out as it is.
 * EX_OK, or a code after a message. */
int move_password(const char *path, char **out);
/* The number of an option, from 1 to max; not given, it leaves *out as it is. EX_OK, or a code
 * after a message. */
int move_number(const struct args *args, enum arg option, uint64_t max, uint64_t *out);

#endif
