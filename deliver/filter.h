/*
 * filter: the milters of the configuration, asked about one session and its messages in their
 * order (deliver/milter has the protocol).
 *
 * A message is held in memory until all have spoken; nothing is written before, so what is refused
 * costs no file, and what is stored is what was accepted. filter.memory bounds all of them
 * together. One owner: the session.
 */
#ifndef MAILFLEET_DELIVER_FILTER_H
#define MAILFLEET_DELIVER_FILTER_H

#include "base/buffer.h"
#include "base/config.h"
#include "net/loop.h"
#include "net/netaddr.h"

/* The milters of the configuration, parsed; one a worker. *out is NULL without any. */
struct filters;
enum err filters_open(struct loop *l, const struct config *c, struct filters **out, char *why,
                      size_t why_size);
void filters_close(struct filters **f);

/* What the milters of one session say. */
enum filter_verdict {
    FILTER_ACCEPT,     /* go on */
    FILTER_REFUSE,     /* 5xx: reply has the words */
    FILTER_DEFER,      /* 4xx: reply has the words */
    FILTER_DISCARD,    /* answer 250 and keep nothing */
    FILTER_QUARANTINE, /* keep it for the operator alone */
    FILTER_CLOSE       /* 421 and close */
};

/* A milter's own reply; code 0: it gave none. Text is printable, at most one line. */
struct filter_reply {
    unsigned code;
    char enhanced[12];
    char text[256];
};

struct filter;

/* What is told about the client and, later, the message; borrowed for the call. */
struct filter_client {
    const struct sockaddr *address;
    struct span hostname; /* ours */
    struct span helo;
    struct span tls_version, tls_cipher; /* empty without TLS */
};

typedef void filter_fn(void *arg, enum filter_verdict v, const struct filter_reply *r);

/*
 * One at a time: each of these ends with one call of done, posted. A milter that fails is
 * filter.on_failure's: ACCEPT without it from then on, or DEFER.
 */
struct filter *filter_open(struct filters *fs, const struct filter_client *c, filter_fn *done,
                           void *arg);
void filter_mail(struct filter *f, struct span helo, struct span reverse_path,
                 const struct span *parameters, size_t n);
void filter_rcpt(struct filter *f, struct span forward_path);
void filter_data(struct filter *f);
/* The message, in pieces: copied. ERR_LIMIT: filter.memory is used up; the message is dropped. */
enum err filter_append(struct filter *f, struct span octets);
/* The end. id: of the message, told to milters as the queue id. */
void filter_end(struct filter *f, struct span id);
/* After ACCEPT or QUARANTINE: the message as the milters changed it, until the next filter_mail,
 * filter_reset or filter_close. */
struct span filter_message(const struct filter *f);
/* Gives the open transaction up; nothing is told for it. */
void filter_reset(struct filter *f);
/* Nulls; no event follows. May be called with *f NULL. */
void filter_close(struct filter **f);

#endif
