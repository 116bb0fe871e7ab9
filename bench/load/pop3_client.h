/*
 * pop3_client: a POP3 session of a load generator (RFC 1939, RFC 2595 for STLS).
 *
 * Every reply is checked: STAT against what is expected and against the listing or the messages
 * that follow, the numbers in a listing, the content of each message, that no message comes twice,
 * and that nothing comes that was not asked for. With pipelining, what needs no answer in between
 * is sent in one piece: USER and PASS, and what follows STAT.
 *
 * A session is one operation. It owns memory while messages are read (8 octets for each).
 */
#ifndef MAILFLEET_BENCH_LOAD_POP3_CLIENT_H
#define MAILFLEET_BENCH_LOAD_POP3_CLIENT_H

#include "client.h"
#include "message.h"

enum pop3_work { POP3_POLL, POP3_UIDL, POP3_LIST, POP3_DRAIN, POP3_RETR, POP3_IDLE };

enum pop3_command {
    POP3_C_GREETING, /* which the server says unasked */
    POP3_C_STLS,
    POP3_C_USER,
    POP3_C_PASS,
    POP3_C_STAT,
    POP3_C_UIDL,
    POP3_C_LIST,
    POP3_C_RETR,
    POP3_C_DELE,
    POP3_C_QUIT,
    POP3_C_END /* nothing any more */
};

/* What all sessions of a run do. Everything is borrowed. */
struct pop3_plan {
    enum pop3_work work;
    bool stls, pipeline;
    bool count_known; /* a mailbox has `messages` messages */
    uint64_t messages;
    uint64_t size; /* octets of a message without what is put in front; 0: any */
    struct names names;
    const char *password;
    struct users *users;
    struct tickets *tickets;
};

extern const struct client_type pop3_client;

#endif
