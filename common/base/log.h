/*
 * log: one line a fact, `time level event key=value ...`, on standard error.
 *
 * Values are quoted when they hold anything but plain printable characters, and cut at 256 bytes,
 * so that a peer can neither forge a line nor fill the disk with one. A secret has no F_* macro
 * and so cannot be logged. error means that an operator must act; warn, that something is wrong
 * and is being handled; info, what happened to a message or a session.
 */
#ifndef MAILFLEET_BASE_LOG_H
#define MAILFLEET_BASE_LOG_H

#include "base/span.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_field {
    const char *key;
    enum { LOG_FIELD_SPAN, LOG_FIELD_U64, LOG_FIELD_I64 } type;
    struct span s;
    uint64_t u;
    int64_t i;
};

#define F_SPAN(k, v) ((struct log_field){ .key = (k), .type = LOG_FIELD_SPAN, .s = (v) })
#define F_STR(k, v)  F_SPAN((k), span_str(v))
#define F_U64(k, v)  ((struct log_field){ .key = (k), .type = LOG_FIELD_U64, .u = (v) })
#define F_I64(k, v)  ((struct log_field){ .key = (k), .type = LOG_FIELD_I64, .i = (v) })
#define F_ERR(v)     F_STR("err", err_text(v))

/* LOG(LOG_INFO, "login", F_STR("sid", sid), F_U64("msgs", n)); at least one field. */
#define LOG(level, event, ...)                                                                     \
    do {                                                                                           \
        if (log_enabled(level)) {                                                                  \
            const struct log_field log_fields_[] = { __VA_ARGS__ };                                \
            log_write((level), (event), log_fields_, sizeof log_fields_ / sizeof *log_fields_);    \
        }                                                                                          \
    } while (0)

bool log_enabled(enum log_level level);
/* Lines below this level are not written. The default is LOG_INFO. */
void log_set_level(enum log_level level);
/* Is added to every line as node=NAME; borrowed for ever. */
void log_set_node(const char *name);
/* One write(2) a line, unless this thread gathers; safe from any thread. */
void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t n);
/*
 * While a thread gathers, its lines below LOG_WARN wait for log_flush, or for more than one
 * write(2) may have. For a thread that runs a loop, which flushes before it waits, until its end;
 * one thread of a process: a daemon's.
 */
void log_gather(bool on);
/* What this thread has gathered is written on return: for a line that must be out before something.
 */
void log_flush(void);

/*
 * For what a peer can cause as often as it likes: a line a second at most. True: it may be written
 * now, with more as the number of those that had none since the last. now_ms: of any clock.
 */
struct log_pace {
    uint64_t next_ms, more;
};
bool log_may(struct log_pace *p, uint64_t now_ms, uint64_t *more);

#endif
