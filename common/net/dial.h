/*
 * dial: connections that we open, to services named as MTAs name them.
 */
#ifndef MAILFLEET_NET_DIAL_H
#define MAILFLEET_NET_DIAL_H

#include <netinet/in.h>
#include <sys/un.h>

#include "net/conn.h"

#define DIAL_NAME_MAX 253 /* of a host (RFC 1035, section 2.3.4) */

struct dial_address {
    union {
        struct sockaddr any;
        struct sockaddr_storage inet;
        struct sockaddr_un local;
    } a;
    socklen_t len;                /* 0: a name, which is to be looked up (net/lookup.h) */
    char host[DIAL_NAME_MAX + 1]; /* the name */
    uint16_t port;                /* and its port */
};

/*
 * inet:HOST:PORT, inet:PORT@HOST, unix:PATH or local:PATH; HOST is a name, an address, or an IPv6
 * address in brackets, and inet6 is the same as inet. Nobody is asked. ERR_INVALID: why has one
 * line for the operator.
 */
enum err dial_parse(const char *text, struct dial_address *out, char *why, size_t why_size);

/*
 * Begins to connect; no name. What is put into the conn meanwhile goes when it is there; a
 * connection that is refused is told as CONN_EOF. On failure errno says why; ERR_LIMIT: a UNIX
 * socket's backlog is full just now; ERR_TEMP: it can't be reached.
 */
enum err dial_open(struct loop *l, const struct dial_address *to, struct conn **out);

#endif
