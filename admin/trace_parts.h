/*
 * trace: what its two questions (trace_message.c, trace_mailbox.c) share: the events that they
 * tell, in the order of their times, and the sessions that log lines name.
 *
 * Memory grows with what belongs to the question, never with the logs.
 */
#ifndef MAILFLEET_ADMIN_TRACE_PARTS_H
#define MAILFLEET_ADMIN_TRACE_PARTS_H

#include "admin.h"
#include "log_lines.h"

/* --- the log --------------------------------------------------------------------------------- */

typedef void trace_line_fn(void *arg, const struct log_line *l);
/* From its beginning: the lines since then. log may be NULL. EX_OK, or a code after a message. */
int trace_read_log(struct log_reader *log, int64_t since_ms, trace_line_fn *take, void *arg);

/* --- sessions -------------------------------------------------------------------------------- */

#define SESSION_KEY 128 /* of `NODE SESSION`, as the ledger writes it behind `pop3` */

struct trace_session {
    char key[SESSION_KEY];
    char user[256], peer[64]; /* of its login, when that was found */
    char result[32];
    int64_t ms; /* of the login; 0: it was not found */
    int64_t mailbox;
    uint64_t messages;           /* that were there */
    uint64_t retrieved, deleted; /* when its end was found */
};

struct trace_sessions {
    void *root; /* a tree */
};

void trace_session_key(const struct log_line *l, char out[SESSION_KEY]);
/* Found, or made. */
struct trace_session *trace_session(struct trace_sessions *s, const char *key);
/* NULL: it is not among them. */
struct trace_session *trace_session_find(const struct trace_sessions *s, const char *key);
struct trace_session *trace_session_of(const struct trace_sessions *s, const struct log_line *l);
/* From a line pop3.login. */
void trace_session_login(struct trace_session *s, const struct log_line *l);
void trace_sessions_free(struct trace_sessions *s);

/* --- events ---------------------------------------------------------------------------------- */

/* In the order that they have at the same time. */
#define TRACE_LIST(X)                                                                              \
    X(RECEIVED, "received")                                                                        \
    X(FILTERED, "filtered")                                                                        \
    X(STORED, "stored")                                                                            \
    X(REFUSED, "refused")                                                                          \
    X(MESSAGE, "message")                                                                          \
    X(LOGIN, "login")                                                                              \
    X(LISTED, "listed")                                                                            \
    X(RETRIEVED, "retrieved")                                                                      \
    X(OTHER, "logged")                                                                             \
    X(DELETED, "deleted")                                                                          \
    X(EXPIRED, "expired")                                                                          \
    X(GIVEN_UP, "given-up")                                                                        \
    X(UNDELETED, "undeleted")                                                                      \
    X(REMOVED, "account-removed")                                                                  \
    X(UNLINKED, "unlinked")                                                                        \
    X(STANDS, "stands")

enum trace_kind {
#define X(kind, text) TRACE_##kind,
    TRACE_LIST(X)
#undef X
};

struct trace_event {
    enum trace_kind kind;
    int64_t ms;
    bool undated;                        /* ms is its place, not its time */
    int64_t mailbox;                     /* 0: none */
    const struct trace_session *session; /* who; NULL: nobody's, or */
    char key[SESSION_KEY];               /* `NODE SESSION`, if known */
    char peer[64];
    int64_t volume;             /* of an unlinking */
    char id[BLOB_ID_CHARS + 1]; /* where the question was about more than one */
    char *what;                 /* owned */
};

struct trace_events {
    struct trace_event *v;
    size_t n, room;
};

/* Valid until the next. */
struct trace_event *trace_add(struct trace_events *t, enum trace_kind kind, int64_t ms);
/* Adds to what is said of it, which is one sentence. */
void trace_say(struct trace_event *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void trace_events_free(struct trace_events *t);
/* As it may be shown: what is no text is ?. */
const char *trace_clean(char *text);
void trace_time(int64_t ms, char out[32]);

/* Whose mailboxes are whose. */
struct trace_names {
    struct trace_name {
        int64_t mailbox;
        char address[ENTRY_TARGET_MAX + 1]; /* empty: no account has it, nor had */
        int64_t removed_ms;                 /* 0: it was not */
        char removed_by[64];
    } * v;
    size_t n;
};
/* Each once. */
void trace_names_add(struct trace_names *n, int64_t mailbox);
const struct trace_name *trace_names_find(const struct trace_names *n, int64_t mailbox);
/* EX_OK, or a code after a message. */
int trace_names_read(struct admin *a, struct trace_names *n);

/* As a table or JSON: the events of one message by their times, or those of many, kind by kind. */
void trace_print(struct admin *a, struct trace_events *t, const struct trace_names *names,
                 bool many);

/* Milliseconds since 1970 of a timestamptz. */
#define TRACE_MS(column) "(extract(epoch FROM " column ") * 1000)::bigint"

/* --- the questions --------------------------------------------------------------------------- */

/* log may be NULL. EX_OK, or a code after a message. */
int trace_message(struct admin *a, const struct blob_id *id, int64_t since_ms,
                  struct log_reader *log);
int trace_mailbox(struct admin *a, const struct address *addr, int64_t since_ms,
                  struct log_reader *log);

#endif
