/*
 * span: a borrowed run of bytes that somebody else owns.
 *
 * A span is passed by value and is valid until the function it was given to returns, unless the
 * header of that function says otherwise. Bytes may be anything, NUL included.
 */
#ifndef MAILFLEET_BASE_SPAN_H
#define MAILFLEET_BASE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"

struct span {
    const char *p;
    size_t n;
};

/* For printf: printf("%.*s", SPAN_ARG(s)). */
#define SPAN_ARG(s) (int)(s).n, (s).p
/* A span of a string literal. */
#define SPAN(lit) ((struct span){ "" lit, sizeof(lit) - 1 })

static inline struct span span_of(const void *p, size_t n)
{
    return (struct span){ p, n };
}

/* Of a C string; NULL gives the empty span. */
static inline struct span span_str(const char *s)
{
    return (struct span){ s, s ? strlen(s) : 0 };
}

/* The span without its first n bytes (all of them if it is shorter). */
static inline struct span span_skip(struct span s, size_t n)
{
    if (n > s.n) {
        n = s.n;
    }
    return (struct span){ s.p + n, s.n - n };
}

static inline struct span span_first(struct span s, size_t n)
{
    return (struct span){ s.p, n < s.n ? n : s.n };
}

bool span_eq(struct span a, struct span b);
/* ASCII case is ignored; no locale. */
bool span_eq_nocase(struct span a, struct span b);
bool span_starts(struct span s, struct span prefix);
bool span_starts_nocase(struct span s, struct span prefix);
/* The index of the first c, or s.n. */
size_t span_find(struct span s, char c);
/* Without leading and trailing blanks and tabs. */
struct span span_trim(struct span s);
/*
 * Takes the next word off *rest: bytes up to a run of blanks or tabs, which is skipped too.
 * Empty when nothing is left.
 */
struct span span_word(struct span *rest);

/*
 * An unsigned decimal number and nothing else: digits only, no sign, no blanks.
 * ERR_INVALID when it is not one, ERR_LIMIT when it exceeds max; *out is untouched then.
 */
enum err span_u64(struct span s, uint64_t max, uint64_t *out);

/* Octets of the UTF-8 character in front; 0 when there is none or it is not valid (RFC 3629). */
size_t span_utf8_char(struct span s);
/* Valid UTF-8 as a whole; the empty span is. */
bool span_utf8(struct span s);

/* A NUL-terminated copy; the caller frees it. Bytes are copied as they are. */
char *span_dup(struct span s);

/* ASCII lower case, in place. */
void ascii_lower(char *p, size_t n);

#endif
