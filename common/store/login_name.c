/*
 * login_name: whom a client means, in the form that accounts are stored in.
 *
 * It is the canonical form of deliver/address.h, for names that are addresses: what a client types
 * as user@bücher.example is user@xn--bcher-kva.example in the database. A name that can't have that
 * form is left as it is, since it is nobody's; that is said by the database, as of any other.
 * Almost every name is ASCII, and costs a copy.
 */
#include <stdlib.h>

#include <idn2.h>
#include <uninorm.h>

#include "store/login_parts.h"

enum { NAME_MAX_OCTETS = 320 }; /* of an address (RFC 5321, section 4.5.3.1): more is no work */

static bool is_ascii(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] > 127) {
            return false;
        }
    }
    return true;
}

static char *lower(struct span s)
{
    char *out = span_dup(s);
    ascii_lower(out, s.n);
    return out;
}

/* Twice, because either step can make work for the other: the Kelvin sign becomes K, a small letter
 * takes an accent. */
static char *canonical_local(struct span local)
{
    char *out = lower(local);
    for (int i = 0; i < 2 && !is_ascii(span_str(out)); i++) {
        size_t n = 0;
        char *nfc = (char *)u8_normalize(UNINORM_NFC, (uint8_t *)out, strlen(out), NULL, &n);
        CHECK(nfc);
        free(out);
        out = lower(span_of(nfc, n));
        free(nfc);
    }
    return out;
}

/* NULL: there can be no such domain. */
static char *canonical_domain(struct span domain)
{
    char *text = lower(domain), *ascii = NULL;
    if (is_ascii(domain)) {
        return text;
    }
    int rc = idn2_to_ascii_8z(text, &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
    CHECK(rc != IDN2_MALLOC);
    free(text);
    text = rc == IDN2_OK ? lower(span_str(ascii)) : NULL;
    idn2_free(ascii);
    return text;
}

static char *join(const char *local, const char *domain)
{
    size_t l = strlen(local), d = strlen(domain);
    char *out = mem_new(l + d + 2, 1);
    memcpy(out, local, l);
    out[l] = '@';
    memcpy(out + l + 1, domain, d + 1);
    return out;
}

/* NULL: not an address that could be an account's. */
static char *canonical_utf8(struct span name)
{
    const char *at = memrchr(name.p, '@', name.n);
    if (!at || name.n > NAME_MAX_OCTETS || !span_utf8(name) || span_find(name, '\0') < name.n) {
        return NULL;
    }
    size_t n = (size_t)(at - name.p);
    char *out = NULL, *domain = canonical_domain(span_skip(name, n + 1));
    if (domain) {
        char *local = canonical_local(span_first(name, n));
        out = join(local, domain);
        free(local);
        free(domain);
    }
    return out;
}

char *login_name(struct span name)
{
    char *out = is_ascii(name) ? NULL : canonical_utf8(name);
    return out ? out : lower(name);
}
