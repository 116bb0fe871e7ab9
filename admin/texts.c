/*
 * texts: see the header.
 */
#include "texts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

static void add(struct texts *t, char *text)
{
    if ((t->n & (t->n - 1)) == 0) { /* full at each power of two */
        t->v = mem_grow(t->v, t->n ? 2 * t->n : 1, sizeof *t->v);
    }
    t->v[t->n++] = text;
}

void texts_add(struct texts *t, struct span s)
{
    add(t, span_dup(s));
}

void texts_addf(struct texts *t, const char *fmt, ...)
{
    char *text;
    va_list ap;
    va_start(ap, fmt);
    CHECK(vasprintf(&text, fmt, ap) >= 0);
    va_end(ap);
    add(t, text);
}

bool texts_have(const struct texts *t, const char *s)
{
    for (size_t i = 0; i < t->n; i++) {
        if (strcmp(t->v[i], s) == 0) {
            return true;
        }
    }
    return false;
}

static int by_octets(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void texts_sort(struct texts *t)
{
    if (t->n) {
        qsort(t->v, t->n, sizeof *t->v, by_octets);
    }
}

void texts_fini(struct texts *t)
{
    for (size_t i = 0; i < t->n; i++) {
        free(t->v[i]);
    }
    free(t->v);
    *t = (struct texts){ 0 };
}
