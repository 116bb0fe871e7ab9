/*
 * xclient: the parser of XCLIENT's attributes. It allocates nothing and connects nothing.
 */
#include "xclient.h"

#include "parameters.h"

const char *xclient_name(enum xclient_attribute a)
{
    static const char *const names[] = {
#define X(name) #name,
        XCLIENT_LIST(X)
#undef X
    };
    return names[a];
}

/*
 * Clients in the field send names that are no domains; those are taken as they are. What would
 * break the syntax of a Received: header or the log, where the name ends up, is not.
 */
bool xclient_is_helo(struct span name)
{
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        if (c <= ' ' || c > '~' || memchr("()<>@,;\\\"", c, 9)) {
            return false;
        }
    }
    return name.n > 0 && name.n <= DOMAIN_MAX;
}

static bool is_valid(enum xclient_attribute a, struct span value)
{
    uint64_t port;
    switch (a) {
    case XCLIENT_PORT:
    case XCLIENT_DESTPORT:
        return span_u64(value, UINT16_MAX, &port) == ERR_OK && port > 0;
    case XCLIENT_PROTO:
        return span_eq_nocase(value, SPAN("SMTP")) || span_eq_nocase(value, SPAN("ESMTP"));
    case XCLIENT_LOGIN:
        return true; /* of no use here */
    default:
        return xclient_is_helo(value);
    }
}

static enum err set(struct smtp_xclient *x, enum xclient_attribute a, struct span encoded)
{
    if (span_eq_nocase(encoded, SPAN("[UNAVAILABLE]")) ||
        span_eq_nocase(encoded, SPAN("[TEMPUNAVAIL]"))) {
        x->given &= ~(1u << a);
        return ERR_OK;
    }
    char *value = x->value[a];
    if (parameters_xtext(encoded, value, sizeof x->value[a]) != ERR_OK ||
        !is_valid(a, span_str(value))) {
        return ERR_INVALID;
    }
    bool address = a == XCLIENT_ADDR || a == XCLIENT_DESTADDR;
    if (address && span_starts_nocase(span_str(value), SPAN("IPV6:"))) {
        memmove(value, value + 5, strlen(value + 5) + 1);
    }
    x->given |= 1u << a;
    return ERR_OK;
}

static enum err set_word(struct smtp_xclient *x, struct span word)
{
    size_t equals = span_find(word, '=');
    for (enum xclient_attribute a = 0; a < XCLIENT_ATTRIBUTES; a++) {
        if (span_eq_nocase(span_first(word, equals), span_str(xclient_name(a)))) {
            return equals < word.n ? set(x, a, span_skip(word, equals + 1)) : ERR_INVALID;
        }
    }
    return ERR_INVALID;
}

enum err xclient_parse(struct span arg, struct smtp_xclient *x)
{
    enum err e = arg.n > 0 ? ERR_OK : ERR_INVALID;
    for (struct span word; !e && (word = span_word(&arg)).n > 0;) {
        e = set_word(x, word);
    }
    return e;
}
