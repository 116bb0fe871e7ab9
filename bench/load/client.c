/*
 * client: see the header. One thread, so that one place is enough for what is wrong.
 */
#include "client.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

static char why[512];

enum client_verdict client_wrong(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    return CLIENT_WRONG;
}

const char *client_why(void)
{
    return why;
}

enum client_verdict client_line(struct span *in, struct span *out)
{
    const char *end = in->n ? memchr(in->p, '\n', in->n) : NULL;
    if (!end) {
        return in->n > REPLY_MAX ? client_wrong("a line without an end") : CLIENT_MORE;
    }
    size_t n = (size_t)(end - in->p);
    if (n == 0 || end[-1] != '\r') {
        return client_wrong("a line that does not end in CRLF");
    }
    *out = span_of(in->p, n - 1);
    *in = span_skip(*in, n + 1);
    return CLIENT_DONE;
}

bool tickets_left(const struct tickets *t)
{
    return !t->closed && t->taken < t->limit;
}

bool tickets_take(struct tickets *t, uint64_t *ticket)
{
    if (!tickets_left(t)) {
        return false;
    }
    *ticket = t->taken++;
    return true;
}

enum err names_parse(const char *text, struct names *out)
{
    struct names n = { span_str(text), SPAN(""), -1 };
    size_t at = span_find(n.before, '%');
    if (at < n.before.n) {
        const char *p = text + at + 1;
        n.width = 0;
        while (*p >= '0' && *p <= '9' && n.width < 100) {
            n.width = 10 * n.width + (*p++ - '0');
        }
        if (*p != 'u' || n.width > 20 || strchr(p, '%')) {
            return ERR_INVALID;
        }
        n.before.n = at;
        n.after = span_str(p + 1);
    }
    *out = n;
    return ERR_OK;
}

void names_add(const struct names *n, uint64_t number, struct buf *out)
{
    buf_add(out, n->before);
    if (n->width >= 0) {
        buf_addf(out, "%0*llu", n->width, (unsigned long long)number);
    }
    buf_add(out, n->after);
}

void users_init(struct users *u, uint64_t first, size_t count)
{
    u->queue = NEW_ARRAY(uint64_t, count);
    u->count = count;
    u->head = u->lent = 0;
    for (size_t i = 0; i < count; i++) {
        u->queue[i] = first + i;
    }
}

void users_fini(struct users *u)
{
    free(u->queue);
    u->queue = NULL;
}

bool users_take(struct users *u, uint64_t *user)
{
    if (u->lent == u->count) {
        return false;
    }
    *user = u->queue[u->head];
    u->head = (u->head + 1) % u->count;
    u->lent++;
    return true;
}

void users_give(struct users *u, uint64_t user)
{
    CHECK(u->lent > 0);
    u->queue[(u->head + u->count - u->lent) % u->count] = user;
    u->lent--;
}
