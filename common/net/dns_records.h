/*
 * dns_records: the records of one answer, as text: what is compared with what an operator means.
 *
 * The data is written as in a zone file (RFC 1035, section 5): names in lower case with the dot of
 * the root, addresses in their usual form, octets as hex digits. The strings of a TXT record are
 * joined without quotes, as those who read them do; what is not printable is \DDD. Bytes only.
 */
#ifndef MAILFLEET_NET_DNS_RECORDS_H
#define MAILFLEET_NET_DNS_RECORDS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* With the numbers of the protocol. */
enum dns_type {
    DNS_A = 1,
    DNS_CNAME = 5,
    DNS_MX = 15,
    DNS_TXT = 16,
    DNS_AAAA = 28,
    DNS_SRV = 33,
    DNS_TLSA = 52
};

const char *dns_type_name(enum dns_type t);

struct dns_records {
    size_t n;
    char **v;
    bool authentic; /* the server says that it has validated the answer (AD; RFC 4035) */
};

/*
 * Those of a type in a whole answer; whose they are is not looked at, as an alias leads to them.
 * NOTFOUND: there are none, or there is no such name. TEMP: the server says that it failed or does
 * not serve this. CORRUPT: not an answer. why is one line, a literal.
 */
enum err dns_records_parse(const unsigned char *octets, size_t n, enum dns_type type,
                           struct dns_records *out, const char **why);
void dns_records_fini(struct dns_records *r);

#endif
