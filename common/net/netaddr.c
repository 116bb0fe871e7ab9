/*
 * netaddr: numeric addresses only; inet_pton and inet_ntop do the reading and writing.
 *
 * No name is ever resolved here: that would block the loop. A netset owns its networks and holds
 * them all as IPv6, with IPv4 in its mapped form (RFC 4291, section 2.5.5.2), so that a client is
 * found the same way whichever kind of socket it came in by.
 */
#include "net/netaddr.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/check.h"

#define MAPPED_BITS 96

struct network {
    struct in6_addr address;
    unsigned bits;
};

struct netset {
    size_t n;
    struct network v[];
};

/* Copies a part of a text; false when it does not fit. */
static bool copy(struct span s, char *out, size_t size)
{
    if (s.n >= size || memchr(s.p, '\0', s.n)) {
        return false;
    }
    memcpy(out, s.p, s.n);
    out[s.n] = '\0';
    return true;
}

enum err netaddr_parse(const char *text, struct sockaddr_storage *out)
{
    const char *colon = strrchr(text, ':');
    uint64_t port;
    if (!colon || span_u64(span_str(colon + 1), UINT16_MAX, &port) != ERR_OK || port == 0) {
        return ERR_INVALID;
    }
    struct span host = span_of(text, (size_t)(colon - text));
    struct sockaddr_storage sa = { 0 };
    struct sockaddr_in *v4 = (struct sockaddr_in *)&sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&sa;
    char name[INET6_ADDRSTRLEN];
    if (host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']') {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        if (!copy(span_of(host.p + 1, host.n - 2), name, sizeof name) ||
            inet_pton(AF_INET6, name, &v6->sin6_addr) != 1) {
            return ERR_INVALID;
        }
    } else {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        if (!copy(host, name, sizeof name) || inet_pton(AF_INET, name, &v4->sin_addr) != 1) {
            return ERR_INVALID;
        }
    }
    *out = sa;
    return ERR_OK;
}

static struct in6_addr map_v4(const struct in_addr *a)
{
    struct in6_addr out = { .s6_addr = { [10] = 0xff, [11] = 0xff } };
    memcpy(&out.s6_addr[12], a, sizeof *a);
    return out;
}

bool netaddr_mapped(const struct sockaddr *sa, struct in6_addr *out)
{
    if (sa->sa_family == AF_INET) {
        *out = map_v4(&((const struct sockaddr_in *)sa)->sin_addr);
        return true;
    }
    if (sa->sa_family == AF_INET6) {
        *out = ((const struct sockaddr_in6 *)sa)->sin6_addr;
        return true;
    }
    return false;
}

/* As inet_ntop does, which comes to sprintf: each session has its client's address in the log. */
static void v4_text(const uint8_t octets[4], char out[NETADDR_TEXT])
{
    for (int i = 0; i < 4; i++) {
        out = buf_decimal(out, octets[i]);
        *out++ = i < 3 ? '.' : '\0';
    }
}

void netaddr_host(const struct sockaddr *sa, char out[NETADDR_TEXT])
{
    struct in6_addr a;
    if (!netaddr_mapped(sa, &a)) {
        snprintf(out, NETADDR_TEXT, "unknown");
    } else if (IN6_IS_ADDR_V4MAPPED(&a)) {
        v4_text(&a.s6_addr[12], out);
    } else {
        inet_ntop(AF_INET6, &a, out, NETADDR_TEXT);
    }
}

uint16_t netaddr_port(const struct sockaddr *sa)
{
    switch (sa->sa_family) {
    case AF_INET:
        return ntohs(((const struct sockaddr_in *)sa)->sin_port);
    case AF_INET6:
        return ntohs(((const struct sockaddr_in6 *)sa)->sin6_port);
    default:
        return 0;
    }
}

socklen_t netaddr_len(const struct sockaddr *sa)
{
    return sa->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

bool netaddr_loopback(const struct sockaddr *sa)
{
    struct in6_addr a;
    if (!netaddr_mapped(sa, &a)) {
        return false;
    }
    return IN6_IS_ADDR_V4MAPPED(&a) ? a.s6_addr[12] == 127 : IN6_IS_ADDR_LOOPBACK(&a);
}

/* The two agree in their first bits. */
static bool same_prefix(const struct in6_addr *a, const struct in6_addr *b, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    if (memcmp(a, b, whole) != 0) {
        return false;
    }
    return rest == 0 || (a->s6_addr[whole] ^ b->s6_addr[whole]) >> (8 - rest) == 0;
}

void netaddr_cut(struct in6_addr *a, unsigned bits)
{
    for (unsigned i = 0; i < sizeof a->s6_addr; i++, bits -= bits < 8 ? bits : 8) {
        a->s6_addr[i] &= (uint8_t)(bits >= 8 ? 0xff : 0xff << (8 - bits));
    }
}

/* No bit is set behind the prefix: 10.0.0.1/8 is more likely a slip than a network. */
static bool host_bits_clear(const struct network *n)
{
    struct in6_addr cut = n->address;
    netaddr_cut(&cut, n->bits);
    return memcmp(&cut, &n->address, sizeof cut) == 0;
}

/* `address/bits`, or an address alone. */
static enum err network_parse(const char *word, struct network *out)
{
    struct span text = span_str(word);
    size_t slash = span_find(text, '/');
    char name[INET6_ADDRSTRLEN];
    struct in_addr v4;
    struct network net;
    unsigned most = 128, offset = 0;
    if (!copy(span_first(text, slash), name, sizeof name)) {
        return ERR_INVALID;
    }
    if (inet_pton(AF_INET, name, &v4) == 1) {
        net.address = map_v4(&v4);
        most = 32;
        offset = MAPPED_BITS;
    } else if (inet_pton(AF_INET6, name, &net.address) != 1) {
        return ERR_INVALID;
    }
    uint64_t bits = most;
    if (slash < text.n && span_u64(span_skip(text, slash + 1), most, &bits) != ERR_OK) {
        return ERR_INVALID;
    }
    net.bits = offset + (unsigned)bits;
    if (!host_bits_clear(&net)) {
        return ERR_INVALID;
    }
    *out = net;
    return ERR_OK;
}

enum err netset_parse(const struct config_list *l, struct netset **out, const char **bad)
{
    struct netset *s = mem_new(1, sizeof *s + l->n * sizeof *s->v);
    for (size_t i = 0; i < l->n; i++) {
        if (network_parse(l->v[i], &s->v[i]) != ERR_OK) {
            *bad = l->v[i];
            free(s);
            return ERR_INVALID;
        }
        s->n++;
    }
    *out = s;
    return ERR_OK;
}

void netset_free(struct netset **s)
{
    free(*s);
    *s = NULL;
}

bool netset_has(const struct netset *s, const struct sockaddr *sa)
{
    struct in6_addr a;
    if (!netaddr_mapped(sa, &a)) {
        return false;
    }
    for (size_t i = 0; i < s->n; i++) {
        if (same_prefix(&a, &s->v[i].address, s->v[i].bits)) {
            return true;
        }
    }
    return false;
}
