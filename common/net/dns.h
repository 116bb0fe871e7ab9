/*
 * dns: questions asked of name servers on the loop (c-ares): for IPv4 addresses, which the answers
 * of block lists are (RFC 5782), and for records as text, which the operator's command compares.
 * Hosts to connect to are looked up by getaddrinfo on threads.
 *
 * Nothing is remembered and nothing is searched for in other domains. Loop thread only.
 */
#ifndef MAILFLEET_NET_DNS_H
#define MAILFLEET_NET_DNS_H

#include <netinet/in.h>

#include "base/config.h"
#include "net/dns_records.h"
#include "net/loop.h"

struct dns;

/* Of one answer; what comes behind is left out. */
#define DNS_ADDRESSES 16

/*
 * servers: ADDRESS or ADDRESS:PORT, [ADDRESS]:PORT for IPv6; none: those of /etc/resolv.conf as it
 * is now. A server that does not answer is asked again, or another one, within timeout_ms. INVALID:
 * why is one line.
 */
enum err dns_open(struct loop *l, const struct config_list *servers, uint64_t timeout_ms,
                  struct dns **out, char *why, size_t why_size);
/* The same, of the text alone; on any thread. */
enum err dns_check(const struct config_list *servers, char *why, size_t why_size);
/* Questions that are open are answered with CLOSED before it returns. */
void dns_close(struct dns **d);

/*
 * OK: n > 0. NOTFOUND: there is no such name, or it has no address. TEMP: no server has told, why
 * says so. It may come before dns_ask returns.
 */
typedef void dns_fn(void *arg, enum err e, const struct in_addr *v, size_t n, const char *why);
void dns_ask(struct dns *d, const char *name, dns_fn *done, void *arg);

/*
 * The records of a type. OK: r, which lasts until it returns, has some. Else r is NULL, and why is
 * one line: NOTFOUND as above, TEMP: no server has told, or what came makes no sense. name must be
 * one that can be asked for (INVALID).
 */
typedef void dns_records_fn(void *arg, enum err e, const struct dns_records *r, const char *why);
void dns_look_up(struct dns *d, const char *name, enum dns_type type, dns_records_fn *done,
                 void *arg);

#endif
