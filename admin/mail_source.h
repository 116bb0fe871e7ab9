/*
 * mail_source: a mailbox somewhere else, as an import reads it: a Maildir, an mbox file, a POP3
 * server.
 *
 * A source says what its server would have said: UIDLs, order, sizes as served. It blocks, and is
 * one thread's. Everything in a list is the source's, until it is closed.
 */
#ifndef MAILFLEET_ADMIN_MAIL_SOURCE_H
#define MAILFLEET_ADMIN_MAIL_SOURCE_H

#include "base/span.h"

/*
 * What a pointer's row can tell. Sparse files are not refused below that: a file system that
 * compresses shows real mail as sparse, too, and the bound is what keeps holes from being read for
 * ever.
 */
#define SOURCE_OCTETS_MAX INT32_MAX

struct source_message {
    char uidl[71];     /* RFC 1939, section 7; never empty, unique in its list */
    char named[71];    /* its UIDL before the old server had made a list; empty: none other */
    uint64_t size;     /* octets as the old server sends it: lines end with CRLF */
    int64_t time_ms;   /* when it arrived, since 1970; 0: not known */
    bool size_known;   /* false: size is found out by reading */
    bool too_large;    /* more than SOURCE_OCTETS_MAX: it is not read */
    bool uidl_changed; /* no UIDL of RFC 1939, or not the only one: it could not be kept */
};

struct mail_source;

/* Octets of a message as they are served, with CRLF, not dot-stuffed. False ends the reading. */
typedef bool source_piece_fn(void *arg, struct span piece);

struct mail_source_ops {
    /* The messages, in the order of the old server. On failure why holds one line. */
    enum err (*list)(struct mail_source *s, const struct source_message **m, size_t *n, char *why,
                     size_t why_size);
    enum err (*read)(struct mail_source *s, size_t i, source_piece_fn *fn, void *arg, char *why,
                     size_t why_size);
    void (*close)(struct mail_source *s);
};

/* The head of each kind of source. */
struct mail_source {
    const struct mail_source_ops *ops;
};

struct source_options {
    const char *address;  /* the account, for URLs and logins; its @ and the rest are part of it */
    const char *password; /* pop3: of the account, or of the master; NULL: none */
    const char *master;   /* pop3: log in as ADDRESS*master; NULL: as ADDRESS */
    const char *ca;       /* pop3: PEM file of authorities, in place of the system's; NULL: those */
    const char *format;   /* how the old server made UIDLs; NULL: found out */
};

/*
 * By URL: `maildir:/path`, `mbox:/path`, `pop3://host[:port]` (STLS required),
 * `pop3s://host[:port]`, `pop3+plain://host[:port]` (no TLS, for a trusted network), each with
 * `;AUTH=MECHANISM@` in front of the host to log in by that alone. In a path %a is the address, %u
 * its local part, %d its domain; links are followed in front of the first of them only
 * (source_open.h). INVALID: no such kind; why holds one line.
 */
enum err mail_source_open(const char *url, const struct source_options *o, struct mail_source **out,
                          char *why, size_t why_size);
/* fd, of the folder or the file, is theirs from then on, whatever becomes of it. */
enum err maildir_open(int fd, const struct source_options *o, struct mail_source **out, char *why,
                      size_t why_size);
enum err mbox_open(int fd, const struct source_options *o, struct mail_source **out, char *why,
                   size_t why_size);
enum err pop3_source_open(const char *url, const struct source_options *o, struct mail_source **out,
                          char *why, size_t why_size);

#endif
