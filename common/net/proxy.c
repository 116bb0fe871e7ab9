/*
 * proxy: reads a PROXY protocol header out of bytes; borrows them, owns nothing.
 *
 * Version 1 is a line of text, version 2 a binary block (proxy-protocol.txt, sections 2.1 and 2.2).
 * The parser looks at the whole header each time, which is at most 4 KiB, and keeps no state. It
 * does not decide who may send one, nor whether what it says of TLS is believed.
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
enum { V2_UNSPEC = 0x00, V2_TCP4 = 0x11, V2_TCP6 = 0x21, V2_UNIX = 0x31 };

/* Two addresses and two ports; of UNIX two paths. */
enum { V2_TCP4_SIZE = 12, V2_TCP6_SIZE = 36, V2_UNIX_SIZE = 216 };

enum { TLV_CRC32C = 0x03, TLV_UNIQUE_ID = 0x05, TLV_SSL = 0x20 };
enum { SSL_VERSION = 0x21, SSL_CIPHER = 0x23 }; /* within TLV_SSL */

#define CRC_SIZE       4
#define SSL_FIXED      5    /* client flags, result of the verification */
#define SSL_CLIENT_TLS 0x01 /* of the flags: the client came by TLS */
#define UNIQUE_ID_MAX  128

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

/* Takes the next TLV off. ERR_INVALID: it goes past the end. */
static enum err next_tlv(struct span *rest, unsigned char *type, struct span *value)
{
    if (rest->n < TLV_FIXED || rest->n - TLV_FIXED < u16(rest->p + 1)) {
        return ERR_INVALID;
    }
    *type = (unsigned char)rest->p[0];
    *value = span_first(span_skip(*rest, TLV_FIXED), u16(rest->p + 1));
    *rest = span_skip(*rest, TLV_FIXED + value->n);
    return ERR_OK;
}

/* CRC-32C (RFC 9260, appendix A), bit by bit: a header is short. */
static uint32_t crc32c(uint32_t crc, const char *p, size_t n)
{
    while (n--) {
        crc ^= (unsigned char)*p++;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
        }
    }
    return crc;
}

/* Over the whole header, with zeros in place of the sum itself. */
static bool sum_is_right(struct span header, struct span sum)
{
    static const char zeros[CRC_SIZE];
    size_t before = (size_t)(sum.p - header.p);
    uint32_t crc = crc32c(UINT32_MAX, header.p, before);
    crc = crc32c(crc, zeros, CRC_SIZE);
    crc = ~crc32c(crc, sum.p + CRC_SIZE, header.n - before - CRC_SIZE);
    uint32_t said = (uint32_t)u16(sum.p) << 16 | (uint32_t)u16(sum.p + 2);
    return crc == said;
}

static bool is_letter_or_digit(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* What a name of a protocol or cipher is made of: it goes into trace headers and logs. */
static void copy_name(struct span from, char *to, size_t size)
{
    size_t n = from.n < size ? from.n : size - 1;
    for (size_t i = 0; i < n; i++) {
        bool plain = is_letter_or_digit(from.p[i]) || strchr("-_.+", from.p[i]);
        to[i] = plain && from.p[i] ? from.p[i] : '?';
    }
    to[n] = '\0';
}

/* Text as it is; anything else, and what could not be told from it, in hex digits. */
static void copy_unique_id(struct span from, char to[PROXY_UNIQUE_ID])
{
    static const char hex[] = "0123456789abcdef";
    bool text = true;
    for (size_t i = 0; i < from.n; i++) {
        text = text && from.p[i] > ' ' && from.p[i] <= '~';
    }
    for (size_t i = 0; i < from.n; i++) {
        if (text) {
            *to++ = from.p[i];
        } else {
            *to++ = hex[(unsigned char)from.p[i] >> 4];
            *to++ = hex[(unsigned char)from.p[i] & 15];
        }
    }
    *to = '\0';
}

static enum err v2_ssl(struct span value, struct proxy_header *out)
{
    if (value.n < SSL_FIXED) {
        return ERR_INVALID;
    }
    out->tls = value.p[0] & SSL_CLIENT_TLS;
    struct span rest = span_skip(value, SSL_FIXED);
    while (rest.n) {
        unsigned char type;
        if (next_tlv(&rest, &type, &value) != ERR_OK) {
            return ERR_INVALID;
        }
        if (type == SSL_VERSION) {
            copy_name(value, out->tls_version, sizeof out->tls_version);
        } else if (type == SSL_CIPHER) {
            copy_name(value, out->tls_cipher, sizeof out->tls_cipher);
        }
    }
    return ERR_OK;
}

/* Those that matter here once each; ALPN, AUTHORITY, NETNS, NOOP and unknown ones are skipped. */
static enum err v2_tlvs(struct span header, struct span rest, struct proxy_header *out)
{
    bool seen[256] = { false };
    while (rest.n) {
        unsigned char type;
        struct span value;
        if (next_tlv(&rest, &type, &value) != ERR_OK) {
            return ERR_INVALID;
        }
        bool bad = false;
        switch (type) {
        case TLV_CRC32C:
            bad = seen[type] || value.n != CRC_SIZE || !sum_is_right(header, value);
            break;
        case TLV_UNIQUE_ID:
            bad = seen[type] || value.n > UNIQUE_ID_MAX;
            if (!bad) {
                copy_unique_id(value, out->unique_id);
            }
            break;
        case TLV_SSL:
            bad = seen[type] || v2_ssl(value, out) != ERR_OK;
            break;
        default:
            break;
        }
        if (bad) {
            return ERR_INVALID;
        }
        seen[type] = true;
    }
    return ERR_OK;
}

static void v2_ip_addresses(bool v6, const char *p, struct proxy_header *out)
{
    size_t size = v6 ? sizeof(struct in6_addr) : sizeof(struct in_addr);
    uint16_t ports[2];
    memcpy(ports, p + 2 * size, sizeof ports);
    (v6 ? set_v6 : set_v4)(&out->source, p, ports[0]);
    (v6 ? set_v6 : set_v4)(&out->destination, p + size, ports[1]);
}

/* The part behind the fixed one: addresses, then TLVs. */
static enum err v2_body(unsigned char family, struct span header, struct proxy_header *out)
{
    struct span body = span_skip(header, V2_FIXED);
    size_t size;
    switch (family) {
    case V2_UNSPEC:
        size = 0;
        break;
    case V2_TCP4:
        size = V2_TCP4_SIZE;
        break;
    case V2_TCP6:
        size = V2_TCP6_SIZE;
        break;
    case V2_UNIX:
        size = V2_UNIX_SIZE;
        break;
    default:
        return ERR_INVALID;
    }
    if (body.n < size) {
        return ERR_INVALID;
    }
    /* A client of a socket in the balancer's file system has no address that we could use. */
    out->local = family == V2_UNSPEC || family == V2_UNIX;
    if (!out->local) {
        v2_ip_addresses(family == V2_TCP6, body.p, out);
    }
    return v2_tlvs(header, span_skip(body, size), out);
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
    enum err e = out->local ? ERR_OK : v2_body(family, span_first(in, size), out);
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
