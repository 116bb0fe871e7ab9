/*
 * dns_rrsets: see the header. One rule in it for each type of record; what the settings mean is
 * dns_facts' business.
 */
#include "dns_rrsets.h"

#include <stdlib.h>

#include "base/check.h"

#define STRING_MAX 255 /* octets of one string of a TXT record (RFC 1035, section 3.3) */

#define MTA_STS_TAG "v=STSv1"    /* RFC 8461, section 3.1 */
#define TLS_RPT_TAG "v=TLSRPTv1" /* RFC 8460, section 3 */

/* --- sets ---------------------------------------------------------------------------------------
 */

/* False: the name is too long, so that nobody can ask for it. */
static bool begin(struct rrset *s, enum dns_type type, const char *prefix, const char *name)
{
    *s = (struct rrset){ .type = type };
    int n = snprintf(s->name, sizeof s->name, "%s%s", prefix, name);
    return n >= 0 && (size_t)n < sizeof s->name;
}

static bool give(struct rrset *s, rrset_fn *fn, void *arg)
{
    bool more = fn(arg, s);
    texts_fini(&s->data);
    return more;
}

static void copy(struct texts *to, const struct texts *from)
{
    for (size_t i = 0; i < from->n; i++) {
        texts_add(to, span_str(from->v[i]));
    }
}

/* --- hosts --------------------------------------------------------------------------------------
 */

static bool give_addresses(const struct dns_host *h, rrset_fn *fn, void *arg)
{
    struct rrset v4, v6;
    begin(&v4, DNS_A, "", h->name);
    begin(&v6, DNS_AAAA, "", h->name);
    copy(&v4.data, &h->ipv4);
    copy(&v6.data, &h->ipv6);
    bool more = give(&v4, fn, arg);
    return more ? give(&v6, fn, arg) : (texts_fini(&v6.data), false);
}

/* Without DANE there must be none: senders would believe it. */
static bool give_keys(const struct dns_facts *f, const struct dns_host *h, rrset_fn *fn, void *arg)
{
    struct rrset s;
    if (!begin(&s, DNS_TLSA, "_25._tcp.", h->name)) {
        return true;
    }
    for (size_t i = 0; f->has_dane && i < h->keys.n; i++) {
        texts_addf(&s.data, "3 1 1 %s", h->keys.v[i]);
    }
    return give(&s, fn, arg);
}

bool dns_rrsets_host(const struct dns_facts *f, const struct dns_host *h, rrset_fn *fn, void *arg)
{
    if (h->ipv4.n + h->ipv6.n > 0 && !give_addresses(h, fn, arg)) {
        return false;
    }
    return !h->is_mx || give_keys(f, h, fn, arg);
}

/* --- domains ------------------------------------------------------------------------------------
 */

static bool give_mx(const struct dns_facts *f, const char *domain, rrset_fn *fn, void *arg)
{
    struct rrset s;
    begin(&s, DNS_MX, "", domain);
    for (size_t i = 0; i < f->n_hosts; i++) {
        const struct dns_host *h = &f->hosts[i];
        if (h->is_mx) {
            texts_addf(&s.data, "%u %s.", h->preference, h->name);
        }
    }
    return s.data.n == 0 || give(&s, fn, arg);
}

/* RFC 6186, section 3.3 and 3.4: the root as the target says that it is not offered. */
static bool give_service(const struct dns_service *v, size_t n, const char *prefix,
                         const char *domain, rrset_fn *fn, void *arg)
{
    struct rrset s;
    if (!begin(&s, DNS_SRV, prefix, domain)) {
        return true;
    }
    for (size_t i = 0; i < n; i++) {
        texts_addf(&s.data, "0 1 %u %s.", v[i].port, v[i].host->name);
    }
    if (n == 0) {
        texts_addf(&s.data, "0 0 0 .");
    }
    return give(&s, fn, arg);
}

static bool give_services(const struct dns_facts *f, const char *domain, rrset_fn *fn, void *arg)
{
    if (f->n_pop3s + f->n_pop3 == 0) {
        return true;
    }
    return give_service(f->pop3s, f->n_pop3s, "_pop3s._tcp.", domain, fn, arg) &&
           give_service(f->pop3, f->n_pop3, "_pop3._tcp.", domain, fn, arg);
}

static bool give_policy(const struct dns_facts *f, const char *domain, rrset_fn *fn, void *arg)
{
    struct rrset s;
    if (!begin(&s, DNS_TXT, "_mta-sts.", domain)) {
        return true;
    }
    s.tag = MTA_STS_TAG;
    if (f->policy) {
        texts_addf(&s.data, MTA_STS_TAG "; id=%s;", f->policy_id);
    }
    return give(&s, fn, arg);
}

/* The host may be the very name: then its addresses are there already. */
static bool give_policy_host(const struct dns_facts *f, const char *domain, rrset_fn *fn, void *arg)
{
    struct rrset s;
    if (!f->policy || !begin(&s, DNS_CNAME, "mta-sts.", domain) ||
        strcmp(s.name, f->policy_host) == 0) {
        return true;
    }
    texts_addf(&s.data, "%s.", f->policy_host);
    return give(&s, fn, arg);
}

static bool give_reports(const struct dns_facts *f, const char *domain, rrset_fn *fn, void *arg)
{
    struct rrset s;
    char *text;
    size_t size;
    if (f->reports.n == 0 || !begin(&s, DNS_TXT, "_smtp._tls.", domain)) {
        return true;
    }
    FILE *out = open_memstream(&text, &size);
    CHECK(out);
    for (size_t i = 0; i < f->reports.n; i++) {
        fprintf(out, "%s%s", i ? "," : "rua=", f->reports.v[i]);
    }
    CHECK(fclose(out) == 0);
    s.tag = TLS_RPT_TAG;
    texts_addf(&s.data, TLS_RPT_TAG "; %s", text);
    free(text);
    return give(&s, fn, arg);
}

bool dns_rrsets_domain(const struct dns_facts *f, const char *domain, rrset_fn *fn, void *arg)
{
    return give_mx(f, domain, fn, arg) && give_services(f, domain, fn, arg) &&
           give_policy(f, domain, fn, arg) && give_policy_host(f, domain, fn, arg) &&
           give_reports(f, domain, fn, arg);
}

/* --- text ---------------------------------------------------------------------------------------
 */

/* Strings of what may be quoted: no quotation mark and no backslash is in what we say. */
static void print_strings(const char *s, FILE *out)
{
    size_t left = strlen(s);
    do {
        size_t n = left < STRING_MAX ? left : STRING_MAX;
        fprintf(out, " \"%.*s\"", (int)n, s);
        s += n;
        left -= n;
    } while (left > 0);
    fputc('\n', out);
}

void rrset_print(const struct rrset *s, unsigned ttl, FILE *out)
{
    for (size_t i = 0; i < s->data.n; i++) {
        fprintf(out, "%s. %u IN %s", s->name, ttl, dns_type_name(s->type));
        if (s->type == DNS_TXT) {
            print_strings(s->data.v[i], out);
        } else {
            fprintf(out, " %s\n", s->data.v[i]);
        }
    }
}

/* --- comparing ----------------------------------------------------------------------------------
 */

static void keep_unknown(const struct texts *of, const struct texts *known, struct texts *out)
{
    for (size_t i = 0; i < of->n; i++) {
        if (!texts_have(known, of->v[i])) {
            texts_add(out, span_str(of->v[i]));
        }
    }
    texts_sort(out);
}

void texts_compare(const struct texts *wanted, const struct texts *found, struct texts *missing,
                   struct texts *foreign)
{
    keep_unknown(wanted, found, missing);
    keep_unknown(found, wanted, foreign);
}

/* Fields with a semicolon and one blank between them, none at the end. */
static void add_fields(struct texts *t, const char *s)
{
    char *text;
    size_t size;
    bool first = true;
    FILE *out = open_memstream(&text, &size);
    CHECK(out);
    for (struct span rest = span_str(s); rest.n > 0;) {
        struct span field = span_first(rest, span_find(rest, ';'));
        rest = span_skip(rest, field.n + 1);
        field = span_trim(field);
        if (field.n > 0) {
            fprintf(out, "%s%.*s", first ? "" : "; ", SPAN_ARG(field));
            first = false;
        }
    }
    CHECK(fclose(out) == 0);
    texts_add(t, span_of(text, size));
    free(text);
}

static void add_plain(const struct rrset *s, char *const *v, size_t n, struct texts *out)
{
    for (size_t i = 0; i < n; i++) {
        if (!s->tag) {
            texts_add(out, span_str(v[i]));
        } else if (span_starts(span_str(v[i]), span_str(s->tag))) {
            add_fields(out, v[i]);
        }
    }
}

void rrset_compare(const struct rrset *s, char *const *found, size_t n, struct texts *missing,
                   struct texts *foreign)
{
    struct texts wanted_plain = { 0 }, found_plain = { 0 };
    add_plain(s, s->data.v, s->data.n, &wanted_plain);
    add_plain(s, found, n, &found_plain);
    texts_compare(&wanted_plain, &found_plain, missing, foreign);
    texts_fini(&wanted_plain);
    texts_fini(&found_plain);
}
