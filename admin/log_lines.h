/*
 * log_lines: reads the lines that base/log.c writes, and nothing else, from a file, a folder of
 * files or standard input, plain or compressed by gzip.
 *
 * What strangers typed stands in such lines between quotes, so a line is taken only when all of it
 * has the log's form: `TIME LEVEL EVENT KEY=VALUE ...`, alone or behind the words that journald or
 * syslog put in front of a line of a program whose name begins with mailfleet. Spans point into
 * the line. It does not know what an event means.
 */
#ifndef MAILFLEET_ADMIN_LOG_LINES_H
#define MAILFLEET_ADMIN_LOG_LINES_H

#include <stdint.h>

#include "base/span.h"

#define LOG_LINE_FIELDS 24 /* of one line: more than any event has */

struct log_line {
    int64_t ms; /* since 1970 */
    struct span level, event;
    size_t n;
    struct {
        struct span key, value; /* value: as it stands there, without its quotes */
        bool quoted;
    } fields[LOG_LINE_FIELDS];
};

/* line: without its end. INVALID: not a line of our log, or not a whole one. */
enum err log_line_parse(struct span line, struct log_line *out);
/* The octets that were logged, with a NUL behind them, cut to size. False, and out is empty: there
 * is no such field. Octets may be any, control characters too. */
bool log_line_text(const struct log_line *l, const char *key, char *out, size_t size);
/* A value that was not quoted: ids, numbers, names of sessions. Empty: there is none. */
struct span log_line_word(const struct log_line *l, const char *key);
/* False: no such field, or no number. */
bool log_line_number(const struct log_line *l, const char *key, uint64_t *out);
bool log_line_is(const struct log_line *l, const char *event);

struct log_reader; /* one owner */

/*
 * A file, a folder (its files *.log, *.log.* and *.log-*, by name), or `-`, which is copied to a
 * temporary file, for it may be read twice. False: why has it, at least 256 octets.
 */
bool log_reader_open(const char *path, struct log_reader **out, char *why, size_t why_size);
/* The next line of our log; valid until the next call. False: the end, or log_reader_failed. */
bool log_reader_next(struct log_reader *r, struct log_line *out);
/* From the beginning again. */
void log_reader_rewind(struct log_reader *r);
/* What went wrong, or NULL. */
const char *log_reader_failed(const struct log_reader *r);
void log_reader_close(struct log_reader **r);

#endif
