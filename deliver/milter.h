/*
 * milter: the conversation that an MTA has with one content filter (Sendmail's milter protocol,
 * version 6), as an engine without I/O: bytes in, bytes out, one event by value.
 *
 * By hand: libmilter is the filter's side only. It knows no sockets, no clock and no policy;
 * deliver/filter has the connection, the deadlines and what a verdict means. One engine speaks for
 * one connection, and so for one SMTP session with any number of messages one after the other.
 *
 * Agreed on: that a filter may add, insert and change header fields, replace the body and
 * quarantine. Its wishes about the envelope (recipients, sender) are not: the route is decided by
 * then. A filter that insists on them refuses the session; one that sends them all the same is told
 * of as MILTER_IGNORED.
 */
#ifndef MAILFLEET_DELIVER_MILTER_H
#define MAILFLEET_DELIVER_MILTER_H

#include "rewrite.h"

/* clang-format off */
/*      id            name               stages that get it unless the filter asks for others:
 *                                       Connect, Helo, Mail, Rcpt, daTa, eoh (N), End */
#define MILTER_MACRO_LIST(X)                                                            \
    X(J,            "j",               "C")     /* our host name */                     \
    X(DAEMON_NAME,  "{daemon_name}",   "C")                                             \
    X(V,            "v",               "C")     /* name and version */                  \
    X(IF_ADDR,      "{if_addr}",       "C")     /* that the client connected to */      \
    X(CLIENT_ADDR,  "{client_addr}",   "CM")                                            \
    X(CLIENT_NAME,  "{client_name}",   "CM")                                            \
    X(CLIENT_PORT,  "{client_port}",   "CM")                                            \
    X(TLS_VERSION,  "{tls_version}",   "H")                                             \
    X(CIPHER,       "{cipher}",        "H")                                             \
    X(CIPHER_BITS,  "{cipher_bits}",   "H")                                             \
    X(MAIL_ADDR,    "{mail_addr}",     "M")                                             \
    X(MAIL_HOST,    "{mail_host}",     "M")                                             \
    X(RCPT_ADDR,    "{rcpt_addr}",     "R")                                             \
    X(RCPT_HOST,    "{rcpt_host}",     "R")                                             \
    X(I,            "i",               "MRTNE") /* the queue id */

enum milter_macro {
#define X(id, name, stages) MILTER_##id,
    MILTER_MACRO_LIST(X)
#undef X
    MILTER_MACROS
};
/* clang-format on */

/*
 * What a filter is told. The owner's; it stays where it is while the engine lives, and its content
 * does not change between milter_ask and MILTER_DONE. No span may hold a NUL but where it says so.
 */
struct milter_facts {
    struct span macros[MILTER_MACROS]; /* empty: not known, and not told */
    struct span client_name;           /* of CONNECT: a host name, or an address in brackets */
    struct span client_address;        /* as text */
    char client_family;                /* '4', '6'; 'U': unknown, then without address */
    uint16_t client_port;
    struct span helo;
    unsigned greetings; /* how many helo there were, 1 at least: a new one is told */
    struct span mail;   /* <reverse-path> NUL, then each parameter with its NUL */
    struct span rcpt;
    const struct rewrite *message; /* for MILTER_END: parsed */
};

/* In this order; a new MAIL may come after the END, after milter_abort, or after a refusal. */
enum milter_stage {
    MILTER_MAIL, /* with everything before it that the filter has not heard yet */
    MILTER_RCPT,
    MILTER_DATA,
    MILTER_END /* the message, to its end */
};

enum milter_verdict {
    MILTER_CONTINUE, /* go on; of a filter that has accepted it means nothing */
    MILTER_REJECT,   /* 5xx */
    MILTER_TEMPFAIL, /* 4xx */
    MILTER_DISCARD,
    MILTER_CLOSE /* 421 and close */
};

/* What it wants the client to read; code 0: it did not say. Printable, one line, NUL-terminated. */
struct milter_reply {
    unsigned code;
    char enhanced[12];
    char text[256];
};

enum milter_kind {
    MILTER_WAIT,     /* needs bytes */
    MILTER_SEND,     /* out is to be sent before it goes on */
    MILTER_PROGRESS, /* the filter is still at work */
    MILTER_CHANGE,   /* of the message: to be done now */
    MILTER_IGNORED,  /* a change that was not agreed on */
    MILTER_DONE,     /* the stage has ended, with a verdict */
    MILTER_FAILED    /* the filter broke the protocol; the engine is of no more use */
};

enum milter_wait { MILTER_WAIT_OPTIONS, MILTER_WAIT_ANSWER, MILTER_WAIT_END };

struct milter_change {
    enum { MILTER_ADD, MILTER_INSERT, MILTER_EDIT, MILTER_BODY, MILTER_QUARANTINE } kind;
    uint32_t index;    /* of INSERT: position; of EDIT: which of that name, from 1 */
    bool bare;         /* the value comes without the space behind the colon */
    struct span name;  /* of a field */
    struct span value; /* of a field; the piece of a body; the reason of a quarantine */
};

/* Spans are borrowed until the next call. */
struct milter_event {
    enum milter_kind kind;
    enum milter_wait wait; /* of WAIT */
    unsigned asked;        /* of WAIT: changes with each answer that is waited for */
    struct milter_change change;
    char command;                     /* of IGNORED */
    enum milter_verdict verdict;      /* of DONE */
    const struct milter_reply *reply; /* of DONE; never NULL then */
    const char *why;                  /* of FAILED */
};

struct milter *milter_new(const struct milter_facts *facts);
void milter_free(struct milter **m);

/* Begins a stage; milter_step then leads to its MILTER_DONE, at once if the filter needs nothing.
 */
void milter_ask(struct milter *m, enum milter_stage s);
/*
 * Eats from *in and appends to out, which needs MILTER_OUT octets of room. To be called again after
 * every event but DONE and FAILED, after WAIT with more bytes.
 */
#define MILTER_OUT (2u << 20)
struct milter_event milter_step(struct milter *m, struct span *in, struct buf *out);
/*
 * Gives the open message up. False: an answer is owed, so that the connection can't be used again.
 */
bool milter_abort(struct milter *m, struct buf *out);
/* A last word. */
void milter_quit(struct milter *m, struct buf *out);

#endif
