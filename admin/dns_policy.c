/*
 * dns_policy: see the header. A fetch owns its handle and what came, until it has ended.
 *
 * It looks as senders do: no redirection is followed, the certificate must be valid for
 * mta-sts.DOMAIN, and the type must be text/plain. The order of the lines does not matter.
 */
#include "dns_policy.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <strings.h>

#include "base/buffer.h"
#include "base/check.h"

#define CONNECT_MS  5000L
#define TRANSFER_MS 10000L
#define BODY_MAX    65536 /* RFC 8461, section 3.3, proposes 64 KiB */
#define GIVE_UP     64    /* transfers in a row that came to nothing */

struct dns_policies {
    struct dns_policy_options o;
    struct texts wanted; /* lines */
    struct curl_slist *connect_to;
    CURLM *multi;
    size_t open, right, failed_in_row;
};

struct fetch {
    struct dns_policies *all;
    size_t order;
    char *name; /* mta-sts.DOMAIN */
    CURL *curl;
    struct buf body;
    char error[CURL_ERROR_SIZE];
};

/* --- the end of a transfer ----------------------------------------------------------------------
 */

static void add_lines(struct texts *t, struct span rest)
{
    while (rest.n > 0) {
        struct span line = span_first(rest, span_find(rest, '\n'));
        rest = span_skip(rest, line.n + 1);
        if (line.n > 0 && line.p[line.n - 1] == '\r') {
            line.n--;
        }
        line = span_trim(line);
        if (line.n > 0) {
            texts_add(t, line);
            ascii_lower(t->v[t->n - 1] + span_find(line, ':'),
                        line.n - span_find(line, ':')); /* names of hosts, and modes */
        }
    }
}

static void compare(struct fetch *f)
{
    struct texts found = { 0 }, missing = { 0 }, foreign = { 0 };
    add_lines(&found, buf_span(&f->body));
    texts_compare(&f->all->wanted, &found, &missing, &foreign);
    f->all->right += missing.n + foreign.n == 0;
    dns_findings_add(f->all->o.findings, f->order, f->name, "policy", &missing, &foreign);
    texts_fini(&found);
    texts_fini(&missing);
    texts_fini(&foreign);
}

static void say(struct fetch *f, bool temporary, const char *why)
{
    dns_findings_say(f->all->o.findings, f->order, f->name, "policy",
                     temporary ? DNS_UNKNOWN : DNS_DIFFERS, why);
}

static bool is_plain_text(CURL *c)
{
    const char *type = NULL;
    curl_easy_getinfo(c, CURLINFO_CONTENT_TYPE, &type);
    return type && strncasecmp(type, "text/plain", 10) == 0 && strchr("; ", type[10]);
}

/* Whether there was an answer, right or wrong. */
static bool judge_answer(struct fetch *f)
{
    char why[64];
    long status = 0;
    curl_easy_getinfo(f->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200 && is_plain_text(f->curl)) {
        compare(f);
        return true;
    }
    bool temporary = status >= 500 || status == 429;
    snprintf(why, sizeof why, status == 200 ? "its type is not text/plain" : "status %ld", status);
    say(f, temporary, why);
    return !temporary;
}

/* What another try would not mend; a name that leads nowhere is told by the DNS's answers. */
static bool is_wrong(CURLcode r)
{
    return r == CURLE_PEER_FAILED_VERIFICATION || r == CURLE_WRITE_ERROR ||
           r == CURLE_SSL_CACERT_BADFILE;
}

static bool judge(struct fetch *f, CURLcode r)
{
    if (r == CURLE_OK) {
        return judge_answer(f);
    }
    say(f, !is_wrong(r),
        r == CURLE_WRITE_ERROR ? "longer than 64 KiB"
        : f->error[0]          ? f->error
                               : curl_easy_strerror(r));
    return is_wrong(r);
}

static void fetch_free(struct fetch *f)
{
    curl_multi_remove_handle(f->all->multi, f->curl);
    curl_easy_cleanup(f->curl);
    buf_fini(&f->body);
    free(f->name);
    f->all->open--;
    free(f);
}

static void take_ended(struct dns_policies *p)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(p->multi, &left)) != NULL;) {
        struct fetch *f = NULL;
        CHECK(m->msg == CURLMSG_DONE);
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &f);
        p->failed_in_row = judge(f, m->data.result) ? 0 : p->failed_in_row + 1;
        fetch_free(f);
    }
}

static void wait_below(struct dns_policies *p, size_t most)
{
    int running;
    while (p->open > most) {
        CHECK(curl_multi_perform(p->multi, &running) == CURLM_OK);
        take_ended(p);
        if (p->open > most) {
            CHECK(curl_multi_poll(p->multi, NULL, 0, 1000, NULL) == CURLM_OK);
        }
    }
}

/* --- the beginning ------------------------------------------------------------------------------
 */

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct fetch *f = arg;
    return buf_add(&f->body, span_of(p, size * n)) == ERR_OK ? size * n : 0;
}

static void set_options(struct fetch *f, const char *url)
{
    const struct dns_policy_options *o = &f->all->o;
    CURL *c = f->curl;
    CHECK(curl_easy_setopt(c, CURLOPT_URL, url) == CURLE_OK);
    curl_easy_setopt(c, CURLOPT_PRIVATE, f);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, f->error);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "https");
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, TRANSFER_MS);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, f);
    if (o->ca) {
        curl_easy_setopt(c, CURLOPT_CAINFO, o->ca);
        curl_easy_setopt(c, CURLOPT_CAPATH, NULL);
    }
    if (f->all->connect_to) {
        curl_easy_setopt(c, CURLOPT_CONNECT_TO, f->all->connect_to);
    }
}

bool dns_policies_ask(struct dns_policies *p, const char *domain)
{
    char url[DNS_NAME_MAX + 64];
    wait_below(p, p->o.jobs - 1);
    if (dns_findings_full(p->o.findings) || dns_policies_gave_up(p)) {
        return false;
    }
    struct fetch *f = NEW(struct fetch);
    f->all = p;
    f->order = p->o.findings->order++;
    CHECK(asprintf(&f->name, "mta-sts.%s", domain) >= 0);
    snprintf(url, sizeof url, "https://%s/.well-known/mta-sts.txt", f->name);
    buf_init(&f->body, BODY_MAX);
    f->curl = curl_easy_init();
    CHECK(f->curl);
    set_options(f, url);
    CHECK(curl_multi_add_handle(p->multi, f->curl) == CURLM_OK);
    p->open++;
    return true;
}

void dns_policies_wait(struct dns_policies *p)
{
    wait_below(p, 0);
}

size_t dns_policies_right(const struct dns_policies *p)
{
    return p->right;
}

bool dns_policies_gave_up(const struct dns_policies *p)
{
    return p->failed_in_row >= GIVE_UP;
}

/* HOST:PORT, [HOST]:PORT for IPv6. */
static bool is_place(const char *s)
{
    uint64_t port;
    const char *colon = strrchr(s, ':');
    return colon && colon > s && strpbrk(s, " \t/") == NULL &&
           span_u64(span_str(colon + 1), UINT16_MAX, &port) == ERR_OK && port > 0;
}

enum err dns_policies_open(const struct dns_policy_options *o, struct dns_policies **out, char *why,
                           size_t why_size)
{
    char place[300];
    if (o->from && (!is_place(o->from) || strlen(o->from) > DNS_NAME_MAX)) {
        snprintf(why, why_size, "%.200s: not HOST:PORT", o->from);
        return ERR_INVALID;
    }
    CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
    struct dns_policies *p = NEW(struct dns_policies);
    p->o = *o;
    add_lines(&p->wanted, span_str(o->policy));
    if (o->from) {
        snprintf(place, sizeof place, "::%s", o->from); /* whatever host and port */
        p->connect_to = curl_slist_append(NULL, place);
        CHECK(p->connect_to);
    }
    p->multi = curl_multi_init();
    CHECK(p->multi);
    *out = p;
    return ERR_OK;
}

void dns_policies_close(struct dns_policies **pp)
{
    struct dns_policies *p = *pp;
    *pp = NULL;
    if (p) {
        wait_below(p, 0);
        curl_multi_cleanup(p->multi);
        curl_slist_free_all(p->connect_to);
        texts_fini(&p->wanted);
        free(p);
    }
}
