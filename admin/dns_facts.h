/*
 * dns_facts: what the DNS is to say of the fleet: section [public] of the configuration, read and
 * checked, and the keys of the certificates that its nodes present.
 *
 * Owns copies of all of it. It asks no server and no database.
 */
#ifndef MAILFLEET_ADMIN_DNS_FACTS_H
#define MAILFLEET_ADMIN_DNS_FACTS_H

#include "base/config.h"
#include "texts.h"

#define DNS_NAME_MAX 253 /* octets of a name as text, without the dot of the root */

struct dns_host {
    char name[DNS_NAME_MAX + 1]; /* lower case, A-labels, no dot at its end */
    bool is_mx;
    unsigned preference;
    struct texts ipv4, ipv6; /* in their usual form */
    struct texts keys;       /* SHA-256 of public keys (SPKI), in hex */
    struct texts complaints; /* of the certificates: what is wrong with them for this name */
};

struct dns_service {
    const struct dns_host *host;
    unsigned port;
};

/* One of the settings' words names a host more than once at the most, and each word is one. */
#define DNS_HOSTS    64
#define DNS_SERVICES 8

struct dns_facts {
    size_t n_hosts;
    struct dns_host hosts[DNS_HOSTS];
    size_t n_pop3s, n_pop3;
    struct dns_service pop3s[DNS_SERVICES], pop3[DNS_SERVICES];
    unsigned ttl; /* seconds */
    bool has_dane;
    char *policy;                       /* of MTA-STS, lines that end in LF; NULL: there is none */
    char policy_id[33];                 /* of it */
    char policy_host[DNS_NAME_MAX + 1]; /* where it is */
    struct texts reports;               /* URIs of TLS-RPT */
};

/* ERR_INVALID: why (256 octets) names the setting. */
enum err dns_facts_read(const struct config *c, struct dns_facts *out, char *why, size_t why_size);
void dns_facts_fini(struct dns_facts *f);

/*
 * The keys of the mail exchangers' certificates, as nodes present them to who asks for the host's
 * name, and of the first certificate in each of the files also, for the hosts that it names. With
 * neither tls.certificate nor also nothing is added. ERR_INVALID: why is one line.
 */
enum err dns_facts_read_keys(const struct config *c, const char *also, struct dns_facts *f,
                             char *why, size_t why_size);

#endif
