/*
 * dns_policy: gets the MTA-STS policy of domains from their web server (RFC 8461, section 3.3),
 * many at a time, and notes how it differs from the fleet's.
 *
 * It blocks, on libcurl's loop; each transfer has a deadline. Names are looked up by the system's
 * resolver. One owner.
 */
#ifndef MAILFLEET_ADMIN_DNS_POLICY_H
#define MAILFLEET_ADMIN_DNS_POLICY_H

#include "dns_check.h"

struct dns_policies;

struct dns_policy_options {
    const char *policy; /* what it is to be; borrowed, as the rest */
    const char *from;   /* HOST:PORT to be asked in place of where each name leads; NULL */
    const char *ca;     /* PEM file of authorities, not the system's; NULL */
    size_t jobs;
    struct dns_findings *findings;
};

/* o is copied. INVALID: why is one line. */
enum err dns_policies_open(const struct dns_policy_options *o, struct dns_policies **out, char *why,
                           size_t why_size);
/* Waits while jobs transfers are open. False: it has had enough, as dns_check. */
bool dns_policies_ask(struct dns_policies *p, const char *domain);
void dns_policies_wait(struct dns_policies *p);
/* Policies that were as they should be. */
size_t dns_policies_right(const struct dns_policies *p);
bool dns_policies_gave_up(const struct dns_policies *p);
void dns_policies_close(struct dns_policies **p);

#endif
