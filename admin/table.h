/*
 * table: what a command has to say, as rows under named columns: aligned text for people, or JSON
 * (jansson) for tools. A table owns copies of everything.
 */
#ifndef MAILFLEET_ADMIN_TABLE_H
#define MAILFLEET_ADMIN_TABLE_H

#include <stdio.h>

#include "base/span.h"

enum column_type { COLUMN_TEXT, COLUMN_NUMBER, COLUMN_FLAG };

struct column {
    const char *key;   /* in JSON */
    const char *title; /* above the column */
    enum column_type type;
};

struct table;

/* columns are borrowed for the table's life. */
struct table *table_new(const struct column *columns, size_t n);
void table_free(struct table **t);
/* The cells of a row, in the order of the columns. */
void table_text(struct table *t, struct span v);
void table_number(struct table *t, uint64_t v);
void table_flag(struct table *t, bool v);
/* A cell that has no value: `-`, null. */
void table_none(struct table *t);
/* A number that is never negative but for none. */
void table_days(struct table *t, int64_t v);
/* A limit, of which 0 is none. */
void table_limit(struct table *t, uint64_t v);

/* JSON: an array of objects, a line each. Text: says nothing_text when there are no rows. */
void table_print(const struct table *t, bool json, const char *nothing_text, FILE *out);
/* One row as `title: value` lines, or one JSON object. */
void table_print_record(const struct table *t, bool json, FILE *out);

#endif
