/*
 * filter: the milters of the configuration, asked about one session and its messages in their
 * order (deliver/milter has the protocol, deliver/rewrite the changes).
 *
 * A message is held in memory until all have spoken; nothing is written before, so what is refused
 * costs no file, and what is stored is what was accepted. filter.memory bounds all of them
 * together. Each milter has one connection a session, opened at the first MAIL: a session without
 * mail costs it nothing. One owner: the session.
 */
#ifndef MAILFLEET_DELIVER_FILTER_H
#define MAILFLEET_DELIVER_FILTER_H

#include "base/buffer.h"
#include "base/config.h"
#include "net/loop.h"
#include "net/netaddr.h"

/*
 * The milters of the configuration, parsed; one a worker. *out is NULL without any. Names of hosts
 * are looked up from now on, again and again; a milter whose name nobody knows can't be reached.
 * *c is borrowed and may be replaced: all settings but filter.milters are asked for when they
 * matter. All of it outlives every filter. Without a loop the text alone is checked, on any thread.
 */
struct filters;
enum err filters_open(struct loop *l, const struct config *const *c, struct filters **out,
                      char *why, size_t why_size);
void filters_close(struct filters **f);

/* What the milters of one session say. */
enum filter_verdict {
    FILTER_ACCEPT,     /* go on */
    FILTER_REFUSE,     /* 5xx: reply has the words */
    FILTER_DEFER,      /* 4xx: reply has the words */
    FILTER_DISCARD,    /* of filter_end: answer 250 and keep nothing */
    FILTER_QUARANTINE, /* of filter_end: keep it for filter.quarantine alone */
    FILTER_CLOSE       /* 421 and close */
};

/*
 * The words; of a quarantine its reason, for the log. Text is printable, at most one line. code 0:
 * there are none, and the session has its own. enhanced may be empty.
 */
struct filter_reply {
    unsigned code;
    char enhanced[12];
    char text[256];
};

struct filter;

/* What is told about the client; copied. */
struct filter_client {
    struct span sid;                /* of the session, for logs */
    const struct sockaddr *address; /* of the client */
    const struct sockaddr *local;   /* that it connected to; NULL: not told */
    struct span hostname;           /* ours */
    /* Empty without TLS. Told with HELO: a filter that was opened before STARTTLS is to be closed
     * and opened anew. */
    struct span tls_version, tls_cipher;
};

typedef void filter_fn(void *arg, enum filter_verdict v, const struct filter_reply *r);

/*
 * filter_mail, _rcpt, _data and _end: one at a time; each ends with one call of done, posted. A
 * milter that fails is filter.on_failure's: ACCEPT without it for the rest of the session, or
 * DEFER. A message that is discarded or whose milters have all accepted goes on as any other; only
 * filter_end tells.
 */
struct filter *filter_open(struct filters *fs, const struct filter_client *c, filter_fn *done,
                           void *arg);
/*
 * Paths without brackets, empty for the null reverse-path; parameters as the client gave them
 * (SIZE=1000). All are copied. Gives an earlier transaction up.
 */
void filter_mail(struct filter *f, struct span helo, struct span reverse_path,
                 const struct span *parameters, size_t n);
/* REFUSE and DEFER are this recipient's alone. Only for those that are accepted otherwise. Its
 * parameters are those of DSN, which nobody here makes use of: milters don't get them. */
void filter_rcpt(struct filter *f, struct span forward_path);
void filter_data(struct filter *f);
/*
 * The message as the client sent it, CRLF lines without dot-stuffing, in pieces: copied. ERR_LIMIT:
 * filter.memory or smtp.max_size is used up; the message is dropped, and filter_end would say
 * DEFER.
 */
enum err filter_append(struct filter *f, struct span octets);
/*
 * The end. id: of the message, told as the queue id. received: our own Received: field. It goes in
 * front, and no milter is shown it, as Sendmail and Postfix do it and filters expect: what is to be
 * inserted at 0 goes above it. Return-Path: is no part of this; it goes above all.
 */
void filter_end(struct filter *f, struct span id, struct span received);
/*
 * After ACCEPT or QUARANTINE: the message as the milters changed it, header block and body, until
 * the next filter_mail, filter_reset or filter_close.
 */
void filter_message(struct filter *f, struct span *head, struct span *body);
/* Gives the open transaction up; nothing is told for it. Frees the message. */
void filter_reset(struct filter *f);
/* Nulls; no event follows. May be called with *f NULL. */
void filter_close(struct filter **f);

#endif
