/*
 * dns_rrsets: the records that the DNS is to have, made of the facts: those of each host, and those
 * of each domain that mail is taken for.
 *
 * A set may be empty: then there must be no such record, which is checked but can't be printed.
 * Bytes alone; who asks for sets says what becomes of them.
 */
#ifndef MAILFLEET_ADMIN_DNS_RRSETS_H
#define MAILFLEET_ADMIN_DNS_RRSETS_H

#include <stdio.h>

#include "dns_facts.h"
#include "net/dns_records.h"

#define RRSET_NAME_SIZE (DNS_NAME_MAX + 1)

struct rrset {
    char name[RRSET_NAME_SIZE]; /* without the dot of the root */
    enum dns_type type;
    const char *tag;   /* of TXT: what records of this purpose begin with; others are not ours */
    struct texts data; /* as in net/dns_records.h */
};

/* Borrowed until it returns. False: no more of them. */
typedef bool rrset_fn(void *arg, const struct rrset *s);

/* False: fn had enough. */
bool dns_rrsets_host(const struct dns_facts *f, const struct dns_host *h, rrset_fn *fn, void *arg);
/* domain: lower case, A-labels. Names that would be too long for the DNS are left out. */
bool dns_rrsets_domain(const struct dns_facts *f, const char *domain, rrset_fn *fn, void *arg);

/* As lines of a zone file (RFC 1035, section 5), with absolute names. */
void rrset_print(const struct rrset *s, unsigned ttl, FILE *out);

/*
 * What is wrong with what was found: the texts that are missing, and those that should not be
 * there. How TXT records of a purpose are spaced does not matter; other ones are passed over.
 */
void rrset_compare(const struct rrset *s, char *const *found, size_t n, struct texts *missing,
                   struct texts *foreign);
/* The same of two lists of texts. */
void texts_compare(const struct texts *wanted, const struct texts *found, struct texts *missing,
                   struct texts *foreign);

#endif
