/*
 * log: puts a line together on the stack and writes it at once, or with others of its thread.
 *
 * Owns no memory but the level and a borrowed node name, both set at start, and the lines that one
 * thread has gathered. A line fits in PIPE_BUF, and so do those that are written together, so that
 * lines of several workers on one pipe never mix. It keeps no file, rotates nothing and has no
 * memory of lost lines: standard error belongs to the service manager.
 */
#include "base/log.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"

enum { VALUE_MAX = 256 };

static const char *const level_names[] = { "debug", "info", "warn", "error" };

static _Atomic enum log_level lowest = LOG_INFO;
static const char *node;

/* A line being built; `full` once something did not fit, and nothing is added after that. */
struct text {
    char mem[PIPE_BUF];
    size_t n;
    bool full;
};

static _Thread_local bool gathers;
static struct {
    char mem[PIPE_BUF];
    size_t n;
} gathered; /* of the thread that gathers */

bool log_enabled(enum log_level level)
{
    return level >= atomic_load_explicit(&lowest, memory_order_relaxed);
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&lowest, level, memory_order_relaxed);
}

void log_set_node(const char *name)
{
    node = name;
}

/* What is put behind the last field that fits when one does not. */
#define CUT_MARK SPAN(" cut=yes\n")
#define PACE_MS  1000

static void put(struct text *t, struct span s)
{
    if (t->full || s.n > sizeof t->mem - CUT_MARK.n - t->n) {
        t->full = true;
    } else if (s.n) {
        memcpy(t->mem + t->n, s.p, s.n);
        t->n += s.n;
    }
}

static void put_str(struct text *t, const char *s)
{
    put(t, span_str(s));
}

static bool plain(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c <= ' ' || c > '~' || c == '"' || c == '\\' || c == '=') {
            return false;
        }
    }
    return s.n > 0;
}

/* Between quotes: printable ASCII as it is, all else as \xHH, so that one line stays one line. */
static void put_quoted(struct text *t, struct span s)
{
    static const char hex[] = "0123456789abcdef";
    put(t, SPAN("\""));
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        char code[] = { '\\', 'x', hex[c >> 4], hex[c & 15] };
        if (c < ' ' || c > '~') {
            put(t, span_of(code, sizeof code));
        } else {
            if (c == '"' || c == '\\') {
                put(t, SPAN("\\"));
            }
            put(t, span_of(&s.p[i], 1));
        }
    }
    put(t, SPAN("\""));
}

static void put_value(struct text *t, struct span s)
{
    bool cut = s.n > VALUE_MAX;
    s = span_first(s, VALUE_MAX);
    if (plain(s)) {
        put(t, s);
    } else {
        put_quoted(t, s);
    }
    put(t, cut ? SPAN("...") : SPAN(""));
}

/* A field that does not fit is left out whole, and with it the rest. */
static void put_field(struct text *t, const struct log_field *f)
{
    char number[BUF_DECIMAL_MAX + 1];
    size_t before = t->n;
    put(t, SPAN(" "));
    put_str(t, f->key);
    put(t, SPAN("="));
    switch (f->type) {
    case LOG_FIELD_SPAN:
        put_value(t, f->s);
        break;
    case LOG_FIELD_U64:
        put(t, span_of(number, (size_t)(buf_decimal(number, f->u) - number)));
        break;
    case LOG_FIELD_I64:
        snprintf(number, sizeof number, "%jd", (intmax_t)f->i);
        put_str(t, number);
        break;
    }
    if (t->full) {
        t->n = before;
    }
}

static char digit(unsigned v)
{
    return (char)('0' + v % 10);
}

/* RFC 3339, UTC, milliseconds. A second's text serves all of its lines. */
static void put_time(struct text *t)
{
    static _Thread_local char date[32];
    static _Thread_local time_t dated;
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec != dated) {
        dated = now.tv_sec;
        gmtime_r(&dated, &tm);
        strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm);
    }
    unsigned ms = (unsigned)(now.tv_nsec / 1000000);
    const char millis[] = { '.', digit(ms / 100), digit(ms / 10), digit(ms), 'Z' };
    put_str(t, date);
    put(t, span_of(millis, sizeof millis));
}

/* There is nobody to tell when the log can't be written. */
static void write_out(const char *mem, size_t n)
{
    ssize_t written = write(STDERR_FILENO, mem, n);
    (void)written;
}

void log_flush(void)
{
    if (gathers && gathered.n > 0) {
        write_out(gathered.mem, gathered.n);
        gathered.n = 0;
    }
}

void log_gather(bool on)
{
    log_flush();
    gathers = on;
    check_on_failure(log_flush);
}

/* What is wrong is not held back, nor told before what led to it. */
static void emit(enum log_level level, const struct text *t)
{
    bool waits = gathers && level < LOG_WARN;
    if (!waits || t->n > sizeof gathered.mem - gathered.n) {
        log_flush();
    }
    if (waits) {
        memcpy(gathered.mem + gathered.n, t->mem, t->n);
        gathered.n += t->n;
    } else {
        write_out(t->mem, t->n);
    }
}

void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t n)
{
    struct text t; /* no initializer: it would clear a page for each line */
    t.n = 0;
    t.full = false;
    put_time(&t);
    put(&t, SPAN(" "));
    put_str(&t, level_names[level]);
    put(&t, SPAN(" "));
    put_str(&t, event);
    if (node) {
        put_field(&t, &F_STR("node", node));
    }
    for (size_t i = 0; i < n; i++) {
        put_field(&t, &fields[i]);
    }
    struct span end = t.full ? CUT_MARK : SPAN("\n");
    memcpy(t.mem + t.n, end.p, end.n); /* put() has kept the room */
    t.n += end.n;
    emit(level, &t);
}

bool log_may(struct log_pace *p, uint64_t now_ms, uint64_t *more)
{
    if (now_ms < p->next_ms) {
        p->more++;
        return false;
    }
    *more = p->more;
    *p = (struct log_pace){ .next_ms = now_ms + PACE_MS };
    return true;
}
