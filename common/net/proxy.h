/*
 * proxy: the PROXY protocol header, versions 1 and 2 (HAProxy's proxy-protocol.txt), without I/O.
 */
#ifndef MAILFLEET_NET_PROXY_H
#define MAILFLEET_NET_PROXY_H

#include <netinet/in.h>

#include "base/span.h"

/* The longest header accepted: version 2 with its TLVs. */
#define PROXY_HEADER_MAX 4096

/* Room for 128 octets in hex digits. */
#define PROXY_UNIQUE_ID 257

struct proxy_header {
    bool local; /* LOCAL, UNKNOWN and the like: the addresses of the connection itself stand */
    struct sockaddr_storage source;
    struct sockaddr_storage destination;

    /* Of version 2's TLVs (section 2.2). Printable ASCII whatever was sent; empty when it was not.
     */
    bool tls;                        /* the client came by TLS to the balancer */
    char tls_version[16];            /* TLSv1.3; letters, digits and -_.+? */
    char tls_cipher[64];             /* TLS_AES_256_GCM_SHA384; the same */
    char unique_id[PROXY_UNIQUE_ID]; /* the balancer's own name of the connection */
};

/*
 * Parses a header at the front of in. OK: *used octets were the header. TEMP: it is not complete
 * yet. INVALID: it is none, or a bad one: a TLV that goes past its end or comes twice, a wrong
 * CRC32C.
 */
enum err proxy_parse(struct span in, struct proxy_header *out, size_t *used);
/* After TEMP: how many octets the header still has at the least. Reading no more than these never
 * reads past its end. */
size_t proxy_need(struct span in);

#endif
