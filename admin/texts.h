/*
 * texts: a list of texts that grows. It owns copies; zeroed it is empty, and texts_fini makes it
 * so.
 */
#ifndef MAILFLEET_ADMIN_TEXTS_H
#define MAILFLEET_ADMIN_TEXTS_H

#include "base/span.h"

struct texts {
    size_t n;
    char **v;
};

void texts_add(struct texts *t, struct span s);
void texts_addf(struct texts *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool texts_have(const struct texts *t, const char *s);
/* The octets of all of them in order, as strcmp has it. */
void texts_sort(struct texts *t);
void texts_fini(struct texts *t);

#endif
