/*
 * proxy: reads a PROXY protocol header out of bytes; borrows them, owns nothing.
 *
 * Version 1 is a line of text, version 2 a binary block (proxy-protocol.txt, sections 2.1 and 2.2).
 * The parser looks at the whole header each time, which is at most 4 KiB, and keeps no state. It
 * does not decide who may send one, and skips the contents of TLVs after checking their lengths.
 */
#include "net/proxy.h"

#include <arpa/inet.h>

/* The longest and the shortest line of version 1, CRLF included. */
#define V1_MAX 107
#define V1_MIN SPAN("PROXY UNKNOWN\r\n").n

#define V2_SIGNATURE SPAN("\r\n\r\n\0\r\nQUIT\n")
#define V2_FIXED     16 /* the signature, version and command, family, length */
#define TLV_FIXED    3  /* type and length */

enum { V2_LOCAL = 0x20, V2_PROXY = 0x21 };
enum { V2_UNSPEC = 0x00, V2_TCP4 = 0x11, V2_TCP6 = 0x21 };

/* The two agree as far as both go. */
static bool may_start(struct span in, struct span with)
{
    size_t n = in.n < with.n ? in.n : with.n;
    return span_eq(span_first(in, n), span_first(with, n));
}

static void set_v4(struct sockaddr_storage *sa, const void *address, uint16_t port_be)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)sa;
    v4->sin_family = AF_INET;
    v4->sin_port = port_be;
    memcpy(&v4->sin_addr, address, sizeof v4->sin_addr);
}

static void set_v6(struct sockaddr_storage *sa, const void *address, uint16_t port_be)
{
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)sa;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = port_be;
    memcpy(&v6->sin6_addr, address, sizeof v6->sin6_addr);
}

/* --- version 1: PROXY TCP4 192.0.2.1 198.51.100.1 56324 110 CR LF ----------------------------- */

/* Takes the next field, up to exactly one blank. */
static struct span v1_field(struct span *rest)
{
    struct span field = span_first(*rest, span_find(*rest, ' '));
    *rest = span_skip(*rest, field.n + 1);
    return field;
}

/* Decimal without leading zeros, as the specification asks. */
static enum err v1_port(struct span field, uint16_t *port_be)
{
    uint64_t port;
    if ((field.n > 1 && field.p[0] == '0') || span_u64(field, UINT16_MAX, &port) != ERR_OK) {
        return ERR_INVALID;
    }
    *port_be = htons((uint16_t)port);
    return ERR_OK;
}

static enum err v1_address(int family, struct span host, struct span port,
                           struct sockaddr_storage *out)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    uint16_t port_be;
    if (host.n >= sizeof text || memchr(host.p, '\0', host.n)) {
        return ERR_INVALID;
    }
    memcpy(text, host.p, host.n);
    text[host.n] = '\0';
    if (inet_pton(family, text, &address) != 1 || v1_port(port, &port_be) != ERR_OK) {
        return ERR_INVALID;
    }
    (family == AF_INET ? set_v4 : set_v6)(out, &address, port_be);
    return ERR_OK;
}

/* The line without its CRLF. */
static enum err v1_line(struct span line, struct proxy_header *out)
{
    struct span rest = span_skip(line, SPAN("PROXY ").n);
    struct span family = v1_field(&rest);
    if (span_eq(family, SPAN("UNKNOWN"))) {
        out->local = true;
        return ERR_OK;
    }
    bool v6 = span_eq(family, SPAN("TCP6"));
    if (!v6 && !span_eq(family, SPAN("TCP4"))) {
        return ERR_INVALID;
    }
    struct span source = v1_field(&rest), destination = v1_field(&rest);
    struct span source_port = v1_field(&rest), destination_port = rest;
    enum err e = v1_address(v6 ? AF_INET6 : AF_INET, source, source_port, &out->source);
    if (e == ERR_OK) {
        e = v1_address(v6 ? AF_INET6 : AF_INET, destination, destination_port, &out->destination);
    }
    return e;
}

static enum err v1_parse(struct span in, struct proxy_header *out, size_t *used)
{
    size_t end = span_find(span_first(in, V1_MAX), '\n');
    if (end == in.n && in.n < V1_MAX) {
        return ERR_TEMP;
    }
    if (end >= V1_MAX || end == 0 || in.p[end - 1] != '\r') {
        return ERR_INVALID;
    }
    enum err e = v1_line(span_first(in, end - 1), out);
    if (e == ERR_OK) {
        *used = end + 1;
    }
    return e;
}

/* --- version 2 ------------------------------------------------------------------------------- */

static size_t u16(const char *p)
{
    return (size_t)((unsigned char)p[0] << 8 | (unsigned char)p[1]);
}

static bool tlvs_fit(struct span tlvs)
{
    while (tlvs.n) {
        if (tlvs.n < TLV_FIXED || tlvs.n - TLV_FIXED < u16(tlvs.p + 1)) {
            return false;
        }
        tlvs = span_skip(tlvs, TLV_FIXED + u16(tlvs.p + 1));
    }
    return true;
}

/* The part behind the fixed one: two addresses, two ports, TLVs. */
static enum err v2_addresses(unsigned char family, struct span body, struct proxy_header *out)
{
    size_t size = family == V2_TCP4 ? sizeof(struct in_addr) : sizeof(struct in6_addr);
    if (family == V2_UNSPEC) {
        out->local = true;
        return ERR_OK;
    }
    if (family != V2_TCP4 && family != V2_TCP6) {
        return ERR_INVALID;
    }
    if (body.n < 2 * size + 4 || !tlvs_fit(span_skip(body, 2 * size + 4))) {
        return ERR_INVALID;
    }
    uint16_t ports[2];
    memcpy(ports, body.p + 2 * size, sizeof ports);
    (family == V2_TCP4 ? set_v4 : set_v6)(&out->source, body.p, ports[0]);
    (family == V2_TCP4 ? set_v4 : set_v6)(&out->destination, body.p + size, ports[1]);
    return ERR_OK;
}

static enum err v2_parse(struct span in, struct proxy_header *out, size_t *used)
{
    if (in.n < V2_FIXED) {
        return ERR_TEMP;
    }
    unsigned char command = (unsigned char)in.p[12], family = (unsigned char)in.p[13];
    size_t size = V2_FIXED + u16(in.p + 14);
    if ((command != V2_LOCAL && command != V2_PROXY) || size > PROXY_HEADER_MAX) {
        return ERR_INVALID;
    }
    if (in.n < size) {
        return ERR_TEMP;
    }
    /* LOCAL is the balancer's own check of our health: what else it says does not count. */
    out->local = command == V2_LOCAL;
    enum err e =
        out->local ? ERR_OK : v2_addresses(family, span_of(in.p + V2_FIXED, size - V2_FIXED), out);
    if (e == ERR_OK) {
        *used = size;
    }
    return e;
}

enum err proxy_parse(struct span in, struct proxy_header *out, size_t *used)
{
    struct proxy_header h = { 0 };
    enum err e = ERR_INVALID;
    if (may_start(in, V2_SIGNATURE)) {
        e = v2_parse(in, &h, used);
    } else if (may_start(in, SPAN("PROXY "))) {
        e = v1_parse(in, &h, used);
    }
    if (e == ERR_OK) {
        *out = h;
    }
    return e;
}

size_t proxy_need(struct span in)
{
    if (in.n < V1_MIN) {
        return V1_MIN - in.n;
    }
    if (in.p[0] == 'P') {
        return in.p[in.n - 1] == '\r' ? 1 : 2;
    }
    return (in.n < V2_FIXED ? V2_FIXED : V2_FIXED + u16(in.p + 14)) - in.n;
}
