/*
 * dns_check: asks the DNS for sets of records, many at a time, and notes what is not as it should
 * be: in the order of the questions, whatever came first.
 *
 * One owner. It blocks, on the command's loop; every question has a deadline. When no server has
 * told for many questions in a row it has had enough, as when so much is wrong already that nobody
 * reads on.
 */
#ifndef MAILFLEET_ADMIN_DNS_CHECK_H
#define MAILFLEET_ADMIN_DNS_CHECK_H

#include "dns_rrsets.h"
#include "net/dns.h"

/*
 * MISSING: some or all are not there. FOREIGN: there are others too. DIFFERS: other ones are in
 * their place. UNKNOWN: it was not to be had; found says why.
 */
enum dns_state { DNS_MISSING, DNS_FOREIGN, DNS_DIFFERS, DNS_UNKNOWN };

struct dns_finding {
    size_t order;
    char *name;
    const char *what; /* a type of record, or `policy`, `certificate` */
    enum dns_state state;
    char *expected, *found; /* "" for nothing */
};

struct dns_findings {
    size_t n, room, limit; /* of 0 there is no limit */
    struct dns_finding *v;
    size_t order;   /* of the next question */
    size_t unknown; /* of them */
};

/* The lists joined with commas. Nothing is noted when both are empty. */
void dns_findings_add(struct dns_findings *f, size_t order, const char *name, const char *what,
                      const struct texts *missing, const struct texts *foreign);
/* Of one text; UNKNOWN, or DIFFERS. */
void dns_findings_say(struct dns_findings *f, size_t order, const char *name, const char *what,
                      enum dns_state state, const char *says);
bool dns_findings_full(const struct dns_findings *f);
void dns_findings_sort(struct dns_findings *f);
void dns_findings_fini(struct dns_findings *f);

struct dns_check;

/* findings is borrowed for its life. INVALID: why is one line. */
enum err dns_check_open(struct loop *l, const struct config_list *servers, size_t jobs,
                        struct dns_findings *findings, struct dns_check **out, char *why,
                        size_t why_size);
/* A rrset_fn: waits while jobs questions are open. False: it has had enough. */
bool dns_check_ask(void *check, const struct rrset *s);
/* Waits for all that is open. */
void dns_check_wait(struct dns_check *c);
/* Sets that were as they should be; and of those, the TLSA sets that no resolver vouched for. */
size_t dns_check_right(const struct dns_check *c);
size_t dns_check_unsigned(const struct dns_check *c);
/* Whether it gave up because the servers do not tell. */
bool dns_check_gave_up(const struct dns_check *c);
void dns_check_close(struct dns_check **c);

#endif
