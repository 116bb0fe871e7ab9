/*
 * admin: what every command of mailfleet(8) works with: the configuration, the database, the
 * cache, and a loop that is run until an answer is there. Commands are short and one at a time, so
 * waiting is right here; the calls are the daemons' own (pg, cache, spool), not a second set.
 *
 * Opened lazily: a command that needs no cache talks to none. One owner: main.
 */
#ifndef MAILFLEET_ADMIN_ADMIN_H
#define MAILFLEET_ADMIN_ADMIN_H

#include <sysexits.h>

#include "address.h"
#include "base/config.h"
#include "store/cache.h"
#include "store/directory.h"
#include "store/pg.h"
#include "store/spool.h"

struct admin {
    const char *config_path;
    struct config *config;
    bool json;
    struct loop *loop;
    struct pg *pg;
    uint64_t timeout_ms; /* of its statements; 0: database.timeout */
    bool any_schema;     /* the command works whatever state the schema is in; it says so first */
    bool schema_known;   /* it was asked for, and fits */
    bool schema_misfit;  /* so the batch was not sent; reply says why */
    struct seal *seal;   /* the cache's */
    struct cache *cache;
    bool cache_was_late;    /* and that was said */
    struct pg_batch *batch; /* being made */
    PGresult **results;     /* of the last batch; freed by the next */
    size_t n_results;
    struct pg_reply reply; /* of the last batch */
    int64_t clock_ms;      /* the database's when the monotonic clock was at clock_at */
    int64_t clock_at;      /* 0: it was not read */
};

/*
 * What a command shows goes to standard output, and is JSON if asked for; what it did and what
 * went wrong are lines `mailfleet: ...` on standard error.
 */
void admin_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Says it, and returns code. */
int admin_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What makes a word plural: `%llu message%s`. */
const char *admin_plural(uint64_t n);
/* The exit code and words for an err of the database or the cache. */
int admin_fail_reply(const struct admin *a, const char *what);

void admin_open(struct admin *a, const char *config_path, bool json);
void admin_close(struct admin *a);
/*
 * A second one beside a, with connections of its own: for a statement that takes long (timeout_ms;
 * 0 is database.timeout), or to change something while a's results are still being read. Ends
 * before a does.
 */
void admin_open_beside(struct admin *beside, const struct admin *a, uint64_t timeout_ms);
void admin_close_beside(struct admin *beside);
/* Becomes node.user if it is root, so that files are the daemons'. False after a message. */
bool admin_drop_root(struct admin *a);

/*
 * A batch: admin_sql begins a statement, pg_* of store/pg.h add arguments to a->batch, admin_run
 * sends it and waits. Results stay valid until the next admin_sql after it. The first one asks
 * before whether the schema is one that this program works with, and else is TEMP.
 */
void admin_sql(struct admin *a, const char *sql);
enum err admin_run(struct admin *a, enum pg_lane lane);
const PGresult *admin_result(const struct admin *a, size_t i);
int admin_rows(const struct admin *a, size_t i);

/*
 * Changes pointers or accounts as the cache protocol asks: tombstones, the batch that was made,
 * tombstones again. keys are those that the change makes wrong. A cache that can't be reached is
 * said on standard error, once, and stops nothing.
 */
enum err admin_run_change(struct admin *a, const struct cache_key *keys, size_t n);

/* A new password: from standard input (one line) or from the terminal, asked twice. The caller
 * frees and wipes it. NULL after a message. */
char *admin_read_password(bool from_stdin);
/* Canonical form of an address that an operator typed; false after a message. */
bool admin_address(const char *text, struct address *out);
/* A domain that an operator typed, in canonical form behind an @; false after a message. */
bool admin_domain(const char *text, char out[DOMAIN_MAX + 2]);
/* The mailbox of an account; EX_OK, or a code after a message. */
int admin_mailbox(struct admin *a, const struct address *addr, uint64_t *mailbox_id);
/* The same, of an account that was not removed: what it has is not changed any more. */
int admin_mailbox_kept(struct admin *a, const struct address *addr, uint64_t *mailbox_id);
/* EX_OK when the domains of these addresses are ours, or a code after a message. */
int admin_check_domains(struct admin *a, const struct address *addrs, size_t n);
/*
 * The addresses of one domain or ("") of all, in their order. There may be millions, and a
 * statement has a deadline: so they are read a page at a time, while there is more. The results
 * have the columns addr, mailbox_id and targets.
 */
#define ADDRESS_PAGE 5000
struct address_walk {
    const char *domain;
    char last[ENTRY_TARGET_MAX + 1];
    bool ended;
};
int admin_addresses(struct admin *a, struct address_walk *w);
/* All volumes, by id; the caller frees *v. EX_OK, or a code after a message. */
int admin_volumes(struct admin *a, struct volume **v, size_t *n);
/* Milliseconds since 1970. */
int64_t admin_now(void);
/*
 * The same by the database's clock, which all nodes share: what ends messages must not hang on one
 * node's. It is read once, and goes on by the monotonic clock; a node that is far off is told so.
 * Until it was read admin_clock is admin_now.
 */
int admin_read_clock(struct admin *a);
int64_t admin_clock(const struct admin *a);
/* `operator NAME`: who did it, for the ledger. */
void admin_who(char out[64]);
/* `2026-01-31`, `2026-01-31T12:00Z`, or `3d`, `12h`, `30m`, `10s` ago: milliseconds since 1970.
 * False after a message. */
bool admin_parse_time(const char *text, int64_t *ms);
/* `10M`, `2G`, `1000`; `none` is 0. */
enum err admin_parse_size(const char *text, uint64_t *out);

#endif
