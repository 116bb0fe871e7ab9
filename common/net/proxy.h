/*
 * proxy: the PROXY protocol header, versions 1 and 2 (HAProxy's proxy-protocol.txt), without I/O.
 */
#ifndef MAILFLEET_NET_PROXY_H
#define MAILFLEET_NET_PROXY_H

#include <netinet/in.h>

#include "base/span.h"

/* The longest header accepted: version 2 with its TLVs. */
#define PROXY_HEADER_MAX 4096

struct proxy_header {
    bool local; /* LOCAL or UNKNOWN: the addresses of the connection itself stand */
    struct sockaddr_storage source;
    struct sockaddr_storage destination;
};

/*
 * Parses a header at the front of in. OK: *used octets were the header. TEMP: it is not complete
 * yet. INVALID: it is none, or a bad one.
 */
enum err proxy_parse(struct span in, struct proxy_header *out, size_t *used);
/* After TEMP: how many octets the header still has at the least. Reading no more than these never
 * reads past its end. */
size_t proxy_need(struct span in);

#endif
