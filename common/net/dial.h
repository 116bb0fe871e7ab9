/*
 * dial: connections that we open, to services named as MTAs name them.
 */
#ifndef MAILFLEET_NET_DIAL_H
#define MAILFLEET_NET_DIAL_H

#include <netinet/in.h>
#include <sys/un.h>

#include "net/conn.h"

struct dial_address {
    union {
        struct sockaddr any;
        struct sockaddr_storage inet;
        struct sockaddr_un local;
    } a;
    socklen_t len;
};

/*
 * inet:HOST:PORT, inet:PORT@HOST, unix:PATH or local:PATH; HOST is a name, an address, or an IPv6
 * address in brackets, and inet6 is the same as inet. A name is looked up here and now, which
 * blocks: at start only. ERR_INVALID: syntax; ERR_NOTFOUND: no such host; why has one line for the
 * operator.
 */
enum err dial_parse(const char *text, struct dial_address *out, char *why, size_t why_size);

/*
 * Begins to connect. What is put into the conn meanwhile goes when it is there; a connection that
 * is refused is told as CONN_EOF. ERR_TEMP: it failed at once, and errno says why.
 */
enum err dial_open(struct loop *l, const struct dial_address *to, struct conn **out);

#endif
