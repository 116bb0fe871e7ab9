/*
 * netaddr: addresses and networks in text and binary.
 */
#ifndef MAILFLEET_NET_NETADDR_H
#define MAILFLEET_NET_NETADDR_H

#include <netinet/in.h>

#include "base/config.h"

#define NETADDR_TEXT 64

/* `host:port` or `[v6]:port`; host is a numeric address. */
enum err netaddr_parse(const char *text, struct sockaddr_storage *out);
/* The address alone, without port: 192.0.2.1, 2001:db8::1; IPv4-mapped is written as IPv4. */
void netaddr_host(const struct sockaddr *sa, char out[NETADDR_TEXT]);
uint16_t netaddr_port(const struct sockaddr *sa);
socklen_t netaddr_len(const struct sockaddr *sa);
bool netaddr_loopback(const struct sockaddr *sa);
/* As IPv6, IPv4 in its mapped form. False when it is no IP address. */
bool netaddr_mapped(const struct sockaddr *sa, struct in6_addr *out);
/* Clears all but the first bits. */
void netaddr_cut(struct in6_addr *a, unsigned bits);

/* A list of networks in CIDR form. */
struct netset;
/* ERR_INVALID names the bad word in *bad, which stays the list's. */
enum err netset_parse(const struct config_list *l, struct netset **out, const char **bad);
void netset_free(struct netset **s);
bool netset_has(const struct netset *s, const struct sockaddr *sa);

#endif
