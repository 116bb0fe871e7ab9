/*
 * mail_client: an SMTP or LMTP session of a load generator (RFC 5321, RFC 2033, RFC 2920).
 *
 * It brings one message or many in a connection, each to so many recipients. Every reply must be
 * the one of success, for each recipient where LMTP has one for each, and nothing may come that was
 * not asked for, nor before the message was sent. A transaction is an operation. With pipelining,
 * MAIL, RCPT and DATA go out in one piece, if the server says PIPELINING.
 */
#ifndef MAILFLEET_BENCH_LOAD_MAIL_CLIENT_H
#define MAILFLEET_BENCH_LOAD_MAIL_CLIENT_H

#include "client.h"
#include "message.h"

/* What all sessions of a run do. Everything is borrowed. */
struct mail_plan {
    bool lmtp, pipeline;
    struct names names;
    uint64_t first, users;   /* recipients are taken from these, round and round */
    uint64_t recipients;     /* of a message; not more than users */
    uint64_t per_connection; /* messages */
    uint64_t size;           /* octets of a message; 0: as real mail has them */
    uint64_t serial;         /* of the first message */
    const char *from;        /* reverse-path */
    struct tickets *tickets;
};

extern const struct client_type mail_client;

#endif
