/*
 * dns_records: libresolv takes answers apart; here is what each type's data means. An array of
 * texts on the heap, the caller's.
 */
#include "net/dns_records.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/check.h"

/* The longest text: a TXT record of 65,535 octets, each four characters. */
#define TEXT_LIMIT (4 * 65536)

/* What is left of one record's data, and the answer that its names may point into. */
struct rdata {
    struct span left;
    const ns_msg *answer;
};

const char *dns_type_name(enum dns_type t)
{
    switch (t) {
    case DNS_A:
        return "A";
    case DNS_CNAME:
        return "CNAME";
    case DNS_MX:
        return "MX";
    case DNS_TXT:
        return "TXT";
    case DNS_AAAA:
        return "AAAA";
    case DNS_SRV:
        return "SRV";
    case DNS_TLSA:
        return "TLSA";
    }
    UNREACHABLE();
}

/* --- parts of data: each takes its octets, or says that they are not there ----------------------
 */

static bool take(struct rdata *r, size_t n, struct span *out)
{
    if (r->left.n < n) {
        return false;
    }
    *out = span_first(r->left, n);
    r->left = span_skip(r->left, n);
    return true;
}

/* A number of one or two octets, and a blank behind it. */
static bool put_number(struct rdata *r, size_t n, struct buf *out)
{
    struct span s;
    unsigned v = 0;
    if (!take(r, n, &s)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        v = v << 8 | (unsigned char)s.p[i];
    }
    return buf_addf(out, "%u ", v) == ERR_OK;
}

static bool put_name(struct rdata *r, struct buf *out)
{
    char name[NS_MAXDNAME];
    const unsigned char *begin = ns_msg_base(*r->answer), *end = ns_msg_end(*r->answer);
    int n = ns_name_uncompress(begin, end, (const unsigned char *)r->left.p, name, sizeof name);
    if (n < 0 || (size_t)n > r->left.n) {
        return false;
    }
    r->left = span_skip(r->left, (size_t)n);
    ascii_lower(name, strlen(name));
    return buf_addf(out, "%s%s", name, strcmp(name, ".") == 0 ? "" : ".") == ERR_OK;
}

static bool put_address(struct rdata *r, int family, struct buf *out)
{
    char text[INET6_ADDRSTRLEN];
    struct span s;
    return take(r, family == AF_INET ? 4 : 16, &s) &&
           inet_ntop(family, s.p, text, sizeof text) != NULL &&
           buf_add(out, span_str(text)) == ERR_OK;
}

static bool put_hex(struct rdata *r, struct buf *out)
{
    bool fits = true;
    for (size_t i = 0; i < r->left.n; i++) {
        fits = fits && buf_addf(out, "%02x", (unsigned char)r->left.p[i]) == ERR_OK;
    }
    r->left.n = 0;
    return fits;
}

static bool put_character(unsigned char c, struct buf *out)
{
    if (c < ' ' || c > '~' || c == '\\') {
        return buf_addf(out, "\\%03u", c) == ERR_OK;
    }
    return buf_addc(out, (char)c) == ERR_OK;
}

static bool put_strings(struct rdata *r, struct buf *out)
{
    struct span length, s;
    while (take(r, 1, &length)) {
        if (!take(r, (unsigned char)*length.p, &s)) {
            return false;
        }
        for (size_t i = 0; i < s.n; i++) {
            if (!put_character((unsigned char)s.p[i], out)) {
                return false;
            }
        }
    }
    return true;
}

static bool put_data(struct rdata *r, enum dns_type type, struct buf *out)
{
    switch (type) {
    case DNS_A:
        return put_address(r, AF_INET, out);
    case DNS_AAAA:
        return put_address(r, AF_INET6, out);
    case DNS_CNAME:
        return put_name(r, out);
    case DNS_MX:
        return put_number(r, 2, out) && put_name(r, out);
    case DNS_SRV:
        return put_number(r, 2, out) && put_number(r, 2, out) && put_number(r, 2, out) &&
               put_name(r, out);
    case DNS_TLSA:
        return put_number(r, 1, out) && put_number(r, 1, out) && put_number(r, 1, out) &&
               put_hex(r, out);
    case DNS_TXT:
        return put_strings(r, out);
    }
    UNREACHABLE();
}

/* --- the answer ---------------------------------------------------------------------------------
 */

static char *record_text(const ns_msg *answer, const ns_rr *rr, enum dns_type type)
{
    struct rdata r = { span_of(ns_rr_rdata(*rr), ns_rr_rdlen(*rr)), answer };
    struct buf text;
    buf_init(&text, TEXT_LIMIT);
    bool good = put_data(&r, type, &text) && r.left.n == 0;
    char *out = good ? span_dup(buf_span(&text)) : NULL;
    buf_fini(&text);
    return out;
}

static bool read_records(ns_msg *answer, enum dns_type type, struct dns_records *out)
{
    int count = ns_msg_count(*answer, ns_s_an);
    out->v = NEW_ARRAY(char *, (size_t)count + 1);
    for (int i = 0; i < count; i++) {
        ns_rr rr;
        if (ns_parserr(answer, ns_s_an, i, &rr) != 0) {
            return false;
        }
        if ((int)ns_rr_type(rr) != (int)type || ns_rr_class(rr) != ns_c_in) {
            continue;
        }
        char *text = record_text(answer, &rr, type);
        if (!text) {
            return false;
        }
        out->v[out->n++] = text;
    }
    return true;
}

static const char *failure(int rcode)
{
    switch (rcode) {
    case ns_r_servfail:
        return "the name server failed (SERVFAIL)";
    case ns_r_refused:
        return "the name server refuses to answer (REFUSED)";
    default:
        return "the name server answers with an error";
    }
}

enum err dns_records_parse(const unsigned char *octets, size_t n, enum dns_type type,
                           struct dns_records *out, const char **why)
{
    struct dns_records found = { 0 };
    ns_msg answer;
    *why = "what a name server sent is no answer";
    if (n > NS_MAXMSG || ns_initparse(octets, (int)n, &answer) != 0) {
        return ERR_CORRUPT;
    }
    int rcode = ns_msg_getflag(answer, ns_f_rcode);
    if (rcode != ns_r_noerror && rcode != ns_r_nxdomain) {
        *why = failure(rcode);
        return ERR_TEMP;
    }
    if (!read_records(&answer, type, &found)) {
        dns_records_fini(&found);
        return ERR_CORRUPT;
    }
    found.authentic = ns_msg_getflag(answer, ns_f_ad) != 0;
    if (found.n == 0) {
        dns_records_fini(&found);
        *why = rcode == ns_r_nxdomain ? "there is no such name" : "there is no such record";
        return ERR_NOTFOUND;
    }
    *out = found;
    return ERR_OK;
}

void dns_records_fini(struct dns_records *r)
{
    for (size_t i = 0; i < r->n; i++) {
        free(r->v[i]);
    }
    free(r->v);
    *r = (struct dns_records){ 0 };
}
