/*
 * dns_facts: see the header. Names are read as those of mail addresses are (address.h), so that a
 * host and a domain have one form; what only a mail domain may have, a host may not.
 *
 * The certificates are asked for as clients get them (tls_presented), not by their files: what is
 * published is what is seen.
 */
#include "dns_facts.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "address.h"
#include "base/check.h"
#include "net/tls.h"

#define PREFERENCE  10
#define POP3S_PORT  995
#define POP3_PORT   110
#define KEYS        8 /* kinds of key that a node may have for one name */
#define SHA256_SIZE 32

#define BAD(why, size, ...) (snprintf(why, size, __VA_ARGS__), ERR_INVALID)

/* --- names --------------------------------------------------------------------------------------
 */

/* RFC 952 and 1123: letters, digits and dashes, and not all of the last label digits. */
static bool is_host(const char *name)
{
    const char *last = strrchr(name, '.');
    return last && strspn(last + 1, "0123456789") < strlen(last + 1) &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") == strlen(name);
}

static bool parse_host(struct span text, char out[DNS_NAME_MAX + 1])
{
    struct address a;
    char full[DNS_NAME_MAX + 3];
    int n = snprintf(full, sizeof full, "x@%.*s", SPAN_ARG(text));
    if (n < 0 || (size_t)n >= sizeof full || address_parse(span_str(full), &a) != ERR_OK) {
        return false;
    }
    const char *name = a.canon + a.canon_local + 1;
    if (!is_host(name) || strlen(name) > DNS_NAME_MAX) {
        return false;
    }
    snprintf(out, DNS_NAME_MAX + 1, "%s", name);
    return true;
}

static struct dns_host *find_host(struct dns_facts *f, const char *name)
{
    for (size_t i = 0; i < f->n_hosts; i++) {
        if (strcmp(f->hosts[i].name, name) == 0) {
            return &f->hosts[i];
        }
    }
    return NULL;
}

static struct dns_host *get_host(struct dns_facts *f, const char *name)
{
    struct dns_host *h = find_host(f, name);
    if (!h) {
        CHECK(f->n_hosts < DNS_HOSTS); /* the settings' lists are shorter together */
        h = &f->hosts[f->n_hosts++];
        snprintf(h->name, sizeof h->name, "%s", name);
    }
    return h;
}

/* HOST or HOST:NUMBER. */
static bool parse_host_number(const char *word, uint64_t most, char name[DNS_NAME_MAX + 1],
                              uint64_t *number)
{
    struct span s = span_str(word), host = span_first(s, span_find(s, ':'));
    return parse_host(host, name) &&
           (host.n == s.n || span_u64(span_skip(s, host.n + 1), most, number) == ERR_OK);
}

/* --- the settings -------------------------------------------------------------------------------
 */

static enum err read_mx(const struct config_list *l, struct dns_facts *f, char *why, size_t size)
{
    for (size_t i = 0; i < l->n; i++) {
        char name[DNS_NAME_MAX + 1];
        uint64_t preference = PREFERENCE;
        if (!parse_host_number(l->v[i], UINT16_MAX, name, &preference)) {
            return BAD(why, size, "public.mx: %s: not a full host name, or one with :PREFERENCE",
                       l->v[i]);
        }
        struct dns_host *h = get_host(f, name);
        if (h->is_mx) {
            return BAD(why, size, "public.mx: %s is there twice", name);
        }
        h->is_mx = true;
        h->preference = (unsigned)preference;
    }
    return ERR_OK;
}

static enum err read_service(const struct config_list *l, const char *setting, unsigned port,
                             struct dns_facts *f, struct dns_service *v, size_t *n, char *why,
                             size_t size)
{
    for (size_t i = 0; i < l->n; i++) {
        char name[DNS_NAME_MAX + 1];
        uint64_t number = port;
        if (!parse_host_number(l->v[i], UINT16_MAX, name, &number) || number == 0) {
            return BAD(why, size, "%s: %s: not a full host name, or one with :PORT", setting,
                       l->v[i]);
        }
        CHECK(*n < DNS_SERVICES);
        v[(*n)++] = (struct dns_service){ get_host(f, name), (unsigned)number };
    }
    return ERR_OK;
}

/* In the form that answers have, too. */
static bool add_address(struct dns_host *h, const char *text)
{
    struct in6_addr v6;
    struct in_addr v4;
    char usual[INET6_ADDRSTRLEN];
    if (inet_pton(AF_INET, text, &v4) == 1) {
        texts_add(&h->ipv4, span_str(inet_ntop(AF_INET, &v4, usual, sizeof usual)));
        return true;
    }
    if (inet_pton(AF_INET6, text, &v6) == 1) {
        texts_add(&h->ipv6, span_str(inet_ntop(AF_INET6, &v6, usual, sizeof usual)));
        return true;
    }
    return false;
}

static enum err read_addresses(const struct config_list *l, struct dns_facts *f, char *why,
                               size_t size)
{
    for (size_t i = 0; i < l->n; i++) {
        struct span s = span_str(l->v[i]), host = span_first(s, span_find(s, '='));
        char name[DNS_NAME_MAX + 1];
        if (host.n == s.n || !parse_host(host, name)) {
            return BAD(why, size, "public.addresses: %s: not HOST=ADDRESS", l->v[i]);
        }
        struct dns_host *h = find_host(f, name);
        if (!h) {
            return BAD(why, size, "public.addresses: no other setting of [public] names %s", name);
        }
        if (!add_address(h, l->v[i] + host.n + 1)) {
            return BAD(why, size, "public.addresses: %s: not an IPv4 or IPv6 address", l->v[i]);
        }
    }
    return ERR_OK;
}

/* The web server of the policy may be somebody else's; mail and POP3 are ours. */
static enum err check_hosts(const struct dns_facts *f, char *why, size_t size)
{
    if (f->n_hosts == 0) {
        return BAD(why, size, "section [public] names no host: public.mx, public.pop3s");
    }
    for (size_t i = 0; i < f->n_hosts; i++) {
        const struct dns_host *h = &f->hosts[i];
        if (h->ipv4.n + h->ipv6.n == 0 && strcmp(h->name, f->policy_host) != 0) {
            return BAD(why, size, "public.addresses has no address of %s", h->name);
        }
    }
    return ERR_OK;
}

/* RFC 8460, section 3: commas, exclamation marks and semicolons must be escaped. */
static bool is_report_uri(const char *s)
{
    size_t scheme = strncmp(s, "mailto:", 7) == 0 ? 7 : strncmp(s, "https://", 8) == 0 ? 8 : 0;
    for (const char *p = s; *p; p++) {
        if (*p <= ' ' || *p > '~' || strchr(";!\"\\", *p)) {
            return false;
        }
    }
    return scheme > 0 && s[scheme] != '\0';
}

static enum err read_reports(const struct config_list *l, struct dns_facts *f, char *why,
                             size_t size)
{
    for (size_t i = 0; i < l->n; i++) {
        if (!is_report_uri(l->v[i])) {
            return BAD(why, size, "public.tls_rpt: %s: not mailto:ADDRESS or https://...", l->v[i]);
        }
        texts_add(&f->reports, span_str(l->v[i]));
    }
    return ERR_OK;
}

/* --- the policy ---------------------------------------------------------------------------------
 */

static void hash_hex(const void *p, size_t n, char out[2 * SHA256_SIZE + 1])
{
    unsigned char hash[SHA256_SIZE];
    unsigned size = sizeof hash;
    CHECK(EVP_Digest(p, n, hash, &size, EVP_sha256(), NULL) == 1);
    for (size_t i = 0; i < sizeof hash; i++) {
        snprintf(out + 2 * i, 3, "%02x", hash[i]);
    }
}

static char *make_policy(const struct config *c, const struct dns_facts *f)
{
    static const char *const modes[] = {
        [MTA_STS_NONE] = "none", [MTA_STS_TESTING] = "testing", [MTA_STS_ENFORCE] = "enforce"
    };
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    CHECK(out);
    fprintf(out, "version: STSv1\nmode: %s\n", modes[c->public_mta_sts]);
    for (size_t i = 0; i < f->n_hosts; i++) {
        if (f->hosts[i].is_mx) {
            fprintf(out, "mx: %s\n", f->hosts[i].name);
        }
    }
    fprintf(out, "max_age: %llu\n", (unsigned long long)c->public_mta_sts_max_age / 1000);
    CHECK(fclose(out) == 0);
    return text;
}

static bool is_policy_id(const char *s)
{
    for (; *s; s++) {
        if (!isalnum((unsigned char)*s)) {
            return false;
        }
    }
    return true;
}

static enum err read_policy_id(const struct config *c, struct dns_facts *f, char *why, size_t size)
{
    char hash[2 * SHA256_SIZE + 1];
    if (!is_policy_id(c->public_mta_sts_id)) {
        return BAD(why, size, "public.mta_sts_id: letters and digits alone");
    }
    hash_hex(f->policy, strlen(f->policy), hash);
    snprintf(f->policy_id, sizeof f->policy_id, "%.32s",
             *c->public_mta_sts_id ? c->public_mta_sts_id : hash);
    return ERR_OK;
}

static enum err read_policy(const struct config *c, struct dns_facts *f, char *why, size_t size)
{
    if (c->public_mta_sts == MTA_STS_OFF) {
        return ERR_OK;
    }
    if (c->public_mx.n == 0) {
        return BAD(why, size, "public.mta_sts says nothing without public.mx");
    }
    if (!parse_host(span_str(c->public_mta_sts_host), f->policy_host)) {
        return BAD(why, size, "public.mta_sts_host: %s",
                   *c->public_mta_sts_host ? "not a full host name" : "public.mta_sts needs it");
    }
    get_host(f, f->policy_host);
    f->policy = make_policy(c, f);
    return read_policy_id(c, f, why, size);
}

enum err dns_facts_read(const struct config *c, struct dns_facts *out, char *why, size_t size)
{
    *out = (struct dns_facts){ .ttl = (unsigned)(c->public_ttl / 1000),
                               .has_dane = c->public_dane == DANE_YES };
    enum err e = read_mx(&c->public_mx, out, why, size);
    if (e == ERR_OK) {
        e = read_service(&c->public_pop3s, "public.pop3s", POP3S_PORT, out, out->pop3s,
                         &out->n_pop3s, why, size);
    }
    if (e == ERR_OK) {
        e = read_service(&c->public_pop3, "public.pop3", POP3_PORT, out, out->pop3, &out->n_pop3,
                         why, size);
    }
    e = e == ERR_OK ? read_policy(c, out, why, size) : e;
    e = e == ERR_OK ? read_addresses(&c->public_addresses, out, why, size) : e;
    e = e == ERR_OK ? check_hosts(out, why, size) : e;
    e = e == ERR_OK ? read_reports(&c->public_tls_rpt, out, why, size) : e;
    if (e != ERR_OK) {
        dns_facts_fini(out);
    }
    return e;
}

void dns_facts_fini(struct dns_facts *f)
{
    for (size_t i = 0; i < f->n_hosts; i++) {
        struct dns_host *h = &f->hosts[i];
        texts_fini(&h->ipv4);
        texts_fini(&h->ipv6);
        texts_fini(&h->keys);
        texts_fini(&h->complaints);
    }
    texts_fini(&f->reports);
    free(f->policy);
    *f = (struct dns_facts){ 0 };
}

/* --- certificates -------------------------------------------------------------------------------
 */

static bool names_host(X509 *x, const char *host)
{
    return X509_check_host(x, host, strlen(host), X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, NULL) == 1;
}

/* 3 1 1 of RFC 7672, section 3.1.1: the key itself counts, whoever signed it. */
static void add_key(struct dns_host *h, X509 *x)
{
    unsigned char *spki = NULL;
    char hex[2 * SHA256_SIZE + 1];
    int n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &spki);
    CHECK(n > 0);
    hash_hex(spki, (size_t)n, hex);
    OPENSSL_free(spki);
    if (!texts_have(&h->keys, hex)) {
        texts_add(&h->keys, span_str(hex));
    }
}

/* Senders that follow the policy, and POP3 clients, look at the name and the dates. */
static void judge(struct dns_host *h, X509 *x)
{
    if (!names_host(x, h->name)) {
        texts_addf(&h->complaints, "the certificate that nodes present for it does not name it");
    }
    if (X509_cmp_current_time(X509_get0_notAfter(x)) < 0) {
        texts_addf(&h->complaints, "the certificate that nodes present for it has expired");
    }
}

static void read_presented(const struct tls *t, struct dns_host *h)
{
    X509 *v[KEYS];
    size_t n = tls_presented(t, h->name, v, KEYS);
    for (size_t i = 0; i < n; i++) {
        judge(h, v[i]);
        add_key(h, v[i]);
        X509_free(v[i]);
    }
}

static bool is_pop3(const struct dns_facts *f, const struct dns_host *h)
{
    for (size_t i = 0; i < f->n_pop3s; i++) {
        if (f->pop3s[i].host == h) {
            return true;
        }
    }
    for (size_t i = 0; i < f->n_pop3; i++) {
        if (f->pop3[i].host == h) {
            return true;
        }
    }
    return false;
}

static enum err read_nodes(const struct config *c, struct dns_facts *f, char *why, size_t size)
{
    struct tls_options o = { .certificate = c->tls_certificate,
                             .key = c->tls_key,
                             .directory = c->tls_directory };
    struct tls *t = NULL;
    if (!*c->tls_certificate) {
        return ERR_OK;
    }
    enum err e = tls_load(&o, &t, why, size);
    for (size_t i = 0; e == ERR_OK && i < f->n_hosts; i++) {
        struct dns_host *h = &f->hosts[i];
        if (h->is_mx || is_pop3(f, h)) {
            read_presented(t, h);
        }
    }
    tls_unref(&t);
    return e;
}

static enum err read_also(const char *path, struct dns_facts *f, char *why, size_t size)
{
    FILE *in = fopen(path, "re");
    X509 *x = in ? PEM_read_X509(in, NULL, NULL, NULL) : NULL;
    bool used = false;
    if (in) {
        fclose(in);
    }
    if (!x) {
        return BAD(why, size, "%s: no certificate (PEM) could be read", path);
    }
    for (size_t i = 0; i < f->n_hosts; i++) {
        if (f->hosts[i].is_mx && names_host(x, f->hosts[i].name)) {
            add_key(&f->hosts[i], x);
            used = true;
        }
    }
    X509_free(x);
    return used ? ERR_OK : BAD(why, size, "%s: names none of public.mx", path);
}

enum err dns_facts_read_keys(const struct config *c, const char *also, struct dns_facts *f,
                             char *why, size_t size)
{
    struct span rest = span_str(also);
    enum err e = read_nodes(c, f, why, size);
    while (e == ERR_OK && rest.n > 0) {
        struct span word = span_first(rest, span_find(rest, ','));
        char *path = span_dup(word);
        e = read_also(path, f, why, size);
        free(path);
        rest = span_skip(rest, word.n + 1);
    }
    return e;
}
