/*
 * lines: a file that an operator wrote, one thing a line. Empty lines and those that begin with #
 * are passed over, blanks around a line are not part of it.
 *
 * One owner. It says nothing of what the lines mean.
 */
#ifndef MAILFLEET_ADMIN_LINES_H
#define MAILFLEET_ADMIN_LINES_H

#include <stdio.h>

#include "admin.h"

struct lines {
    const char *path; /* borrowed; - is standard input */
    FILE *file;
    char *text; /* the line, of getline(3) */
    size_t cap;
    size_t number; /* of the line, from 1 */
};

/* EX_OK, or a code after a message. */
int lines_open(struct lines *l, const char *path);
/* *line is NULL at the end, else valid until the next call. EX_OK, or a code after a message. */
int lines_next(struct lines *l, const char **line);
void lines_close(struct lines *l);

#endif
