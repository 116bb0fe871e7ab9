/*
 * dns: what the DNS is to say of the fleet, printed for the zones, or compared with what it says.
 *
 * The walk is one: the hosts of section [public], then the domains of the database, a page at a
 * time. It gives sets of records to a printer, to a table for JSON, or to dns_check. Which records
 * there are is the business of dns_rrsets.
 */
#include <stdlib.h>

#include "base/check.h"
#include "commands.h"
#include "dns_check.h"
#include "dns_policy.h"
#include "table.h"

#define DOMAIN_PAGE  5000
#define JOBS         32
#define JOBS_MAX     1024
#define LIMIT        1000 /* findings, without --limit */
#define EXIT_DIFFERS 1

struct walk {
    struct admin *admin;
    const struct dns_facts *facts;
    struct texts names; /* that were asked for; none: all */
    struct texts page;  /* of domains */
    char last[DOMAIN_MAX + 1];
    bool ended;
    rrset_fn *fn;
    void *arg;
    struct dns_check *check;       /* with --check alone */
    struct dns_policies *policies; /* NULL: they are not looked at */
};

/* --- which hosts and domains --------------------------------------------------------------------
 */

/* Whether a name is zone, or in it. */
static bool is_below(const char *name, const char *zone)
{
    size_t n = strlen(name), z = strlen(zone);
    return n >= z && strcmp(name + n - z, zone) == 0 && (n == z || name[n - z - 1] == '.');
}

static bool is_wanted(const struct walk *w, const char *host)
{
    for (size_t i = 0; i < w->names.n; i++) {
        if (is_below(host, w->names.v[i])) {
            return true;
        }
    }
    return w->names.n == 0;
}

static bool has_host_below(const struct dns_facts *f, const char *zone)
{
    for (size_t i = 0; i < f->n_hosts; i++) {
        if (is_below(f->hosts[i].name, zone)) {
            return true;
        }
    }
    return false;
}

static int read_names(struct walk *w, const struct args *args)
{
    char at[DOMAIN_MAX + 2];
    for (int i = 0; i < args->n; i++) {
        if (!admin_domain(args->v[i], at)) {
            return EX_DATAERR;
        }
        if (!texts_have(&w->names, at + 1)) {
            texts_add(&w->names, span_str(at + 1));
        }
    }
    texts_sort(&w->names);
    return EX_OK;
}

/* What was asked for by name and is neither. */
static int check_names(const struct walk *w)
{
    for (size_t i = 0; i < w->names.n; i++) {
        if (!texts_have(&w->page, w->names.v[i]) && !has_host_below(w->facts, w->names.v[i])) {
            return admin_fail(EX_NOUSER, "%s: no domain of ours, and no host of [public] is in it",
                              w->names.v[i]);
        }
    }
    return EX_OK;
}

/* --- the walk -----------------------------------------------------------------------------------
 */

static void ask_for_page(const struct walk *w)
{
    struct admin *a = w->admin;
    admin_sql(a, "SELECT name FROM domain WHERE name > $1 AND ($3::text[] IS NULL OR "
                 "name = ANY ($3)) ORDER BY name LIMIT $2");
    pg_text(a->batch, span_str(w->last));
    pg_i64(a->batch, DOMAIN_PAGE);
    if (w->names.n == 0) {
        pg_null(a->batch);
        return;
    }
    struct span *v = NEW_ARRAY(struct span, w->names.n);
    for (size_t i = 0; i < w->names.n; i++) {
        v[i] = span_str(w->names.v[i]);
    }
    pg_texts(a->batch, v, w->names.n);
    free(v);
}

static int next_page(struct walk *w)
{
    struct admin *a = w->admin;
    texts_fini(&w->page);
    ask_for_page(w);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "domains");
    }
    int n = admin_rows(a, 0);
    for (int i = 0; i < n; i++) {
        struct span name = pg_get_span(admin_result(a, 0), i, 0);
        if (!span_starts(name, SPAN("["))) { /* an address literal is in no zone */
            texts_add(&w->page, name);
        }
        snprintf(w->last, sizeof w->last, "%.*s", SPAN_ARG(name));
    }
    w->ended = n < DOMAIN_PAGE;
    return EX_OK;
}

static bool give_hosts(const struct walk *w)
{
    for (size_t i = 0; i < w->facts->n_hosts; i++) {
        const struct dns_host *h = &w->facts->hosts[i];
        if (is_wanted(w, h->name) && !dns_rrsets_host(w->facts, h, w->fn, w->arg)) {
            return false;
        }
    }
    return true;
}

/* Transfers wait on another loop than questions, so that these must have ended. */
static bool give_policies(const struct walk *w)
{
    dns_check_wait(w->check);
    for (size_t i = 0; i < w->page.n; i++) {
        if (!dns_policies_ask(w->policies, w->page.v[i])) {
            return false;
        }
    }
    dns_policies_wait(w->policies);
    return true;
}

static bool give_page(const struct walk *w)
{
    for (size_t i = 0; i < w->page.n; i++) {
        if (!dns_rrsets_domain(w->facts, w->page.v[i], w->fn, w->arg)) {
            return false;
        }
    }
    return !w->policies || give_policies(w);
}

/* Names are typed: they are all on the first page. */
static int walk(struct walk *w)
{
    int code = next_page(w);
    code = code == EX_OK ? check_names(w) : code;
    bool more = code == EX_OK && give_hosts(w);
    while (more) {
        more = give_page(w) && !w->ended;
        code = more ? next_page(w) : code;
        more = more && code == EX_OK;
    }
    texts_fini(&w->page);
    return code;
}

/* --- printing -----------------------------------------------------------------------------------
 */

static bool print_text(void *arg, const struct rrset *s)
{
    const struct dns_facts *f = arg;
    rrset_print(s, f->ttl, stdout);
    return true;
}

struct rows {
    const struct dns_facts *facts;
    struct table *table;
};

static bool add_rows(void *arg, const struct rrset *s)
{
    struct rows *r = arg;
    for (size_t i = 0; i < s->data.n; i++) {
        table_text(r->table, span_str(s->name));
        table_text(r->table, span_str(dns_type_name(s->type)));
        table_number(r->table, r->facts->ttl);
        table_text(r->table, span_str(s->data.v[i]));
    }
    return true;
}

static int print_json(struct walk *w)
{
    static const struct column columns[] = {
        { "name", "NAME", COLUMN_TEXT },
        { "type", "TYPE", COLUMN_TEXT },
        { "ttl", "TTL", COLUMN_NUMBER },
        { "data", "DATA", COLUMN_TEXT },
    };
    struct rows rows = { w->facts, table_new(columns, ARRAY_LEN(columns)) };
    w->fn = add_rows;
    w->arg = &rows;
    int code = walk(w);
    if (code == EX_OK) {
        table_print(rows.table, true, "", stdout);
    }
    table_free(&rows.table);
    return code;
}

static int print(struct walk *w, struct dns_facts *facts)
{
    if (w->admin->json) {
        return print_json(w);
    }
    w->fn = print_text;
    w->arg = facts;
    return walk(w);
}

/* --- checking -----------------------------------------------------------------------------------
 */

static void add_finding(struct table *t, const struct dns_finding *f)
{
    static const char *const states[] = { [DNS_MISSING] = "missing",
                                          [DNS_FOREIGN] = "foreign",
                                          [DNS_DIFFERS] = "differs",
                                          [DNS_UNKNOWN] = "unknown" };
    table_text(t, span_str(f->name));
    table_text(t, span_str(f->what));
    table_text(t, span_str(states[f->state]));
    *f->expected ? table_text(t, span_str(f->expected)) : table_none(t);
    *f->found ? table_text(t, span_str(f->found)) : table_none(t);
}

static void print_findings(const struct admin *a, struct dns_findings *f)
{
    static const struct column columns[] = {
        { "name", "NAME", COLUMN_TEXT },   { "what", "WHAT", COLUMN_TEXT },
        { "state", "STATE", COLUMN_TEXT }, { "expected", "EXPECTED", COLUMN_TEXT },
        { "found", "FOUND", COLUMN_TEXT },
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    dns_findings_sort(f);
    for (size_t i = 0; i < f->n; i++) {
        add_finding(t, &f->v[i]);
    }
    if (a->json || f->n > 0) {
        table_print(t, a->json, "", stdout);
    }
    table_free(&t);
}

/* What was not compared is said, so that silence means that all was. */
static void say_totals(const struct walk *w, const struct dns_findings *f)
{
    size_t right = dns_check_right(w->check), not_signed = dns_check_unsigned(w->check);
    char policies[48] = "";
    if (w->policies) {
        snprintf(policies, sizeof policies, " and %zu policies", dns_policies_right(w->policies));
    }
    admin_say("%zu sets of records%s are as they should be; %zu findings, %zu of them unknown",
              right, policies, f->n, f->unknown);
    if (not_signed > 0) {
        admin_say("no resolver vouched (AD) for %zu TLSA sets: senders use them where the zone is "
                  "signed",
                  not_signed);
    }
    if (dns_findings_full(f)) {
        admin_say("stopped after %zu findings: see --limit", f->n);
    }
    if (dns_check_gave_up(w->check)) {
        admin_say("the name servers do not answer: the rest was not asked");
    }
    if (w->policies && dns_policies_gave_up(w->policies)) {
        admin_say("the policies' web server does not answer: the rest was not asked");
    }
}

static int outcome(const struct dns_findings *f)
{
    return f->n > f->unknown ? EXIT_DIFFERS : f->n > 0 ? EX_TEMPFAIL : EX_OK;
}

static void check_certificates(const struct walk *w, struct dns_findings *f)
{
    for (size_t i = 0; i < w->facts->n_hosts; i++) {
        const struct dns_host *h = &w->facts->hosts[i];
        for (size_t k = 0; is_wanted(w, h->name) && k < h->complaints.n; k++) {
            dns_findings_say(f, f->order++, h->name, "certificate", DNS_DIFFERS,
                             h->complaints.v[k]);
        }
    }
    if (!*w->admin->config->tls_certificate) {
        admin_say("tls.certificate is not set: no certificate was looked at");
    }
}

static bool parse_number(const char *text, uint64_t otherwise, uint64_t most, uint64_t *out)
{
    *out = otherwise;
    if (text && (span_u64(span_str(text), most, out) != ERR_OK || *out == 0)) {
        admin_fail(EX_DATAERR, "%s: a number from 1 to %llu", text, (unsigned long long)most);
        return false;
    }
    return true;
}

static int open_check(struct walk *w, const struct args *args, struct dns_findings *findings)
{
    struct admin *a = w->admin;
    uint64_t jobs, limit;
    char why[256];
    if (!parse_number(args->opt[ARG_jobs], JOBS, JOBS_MAX, &jobs) ||
        !parse_number(args->opt[ARG_limit], LIMIT, UINT32_MAX, &limit)) {
        return EX_DATAERR;
    }
    *findings = (struct dns_findings){ .limit = (size_t)limit };
    struct dns_policy_options o = { .policy = w->facts->policy,
                                    .from = args->opt[ARG_policy_from],
                                    .ca = args->opt[ARG_ca],
                                    .jobs = (size_t)jobs,
                                    .findings = findings };
    if (o.policy && !args->opt[ARG_no_policy] &&
        dns_policies_open(&o, &w->policies, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_DATAERR, "%s", why);
    }
    if (dns_check_open(a->loop, &a->config->dns_servers, (size_t)jobs, findings, &w->check, why,
                       sizeof why) != ERR_OK) {
        return admin_fail(EX_CONFIG, "%s", why);
    }
    return EX_OK;
}

static int check(struct walk *w, const struct args *args)
{
    struct dns_findings findings = { 0 };
    int code = open_check(w, args, &findings);
    if (code == EX_OK) {
        check_certificates(w, &findings);
        w->fn = dns_check_ask;
        w->arg = w->check;
        code = walk(w);
        dns_check_wait(w->check);
    }
    if (code == EX_OK) {
        print_findings(w->admin, &findings);
        say_totals(w, &findings);
        code = outcome(&findings);
    }
    dns_policies_close(&w->policies);
    dns_check_close(&w->check);
    dns_findings_fini(&findings);
    return code;
}

/* --- the command --------------------------------------------------------------------------------
 */

static int print_policy(const struct dns_facts *f)
{
    if (!f->policy) {
        return admin_fail(EX_CONFIG, "public.mta_sts is off: there is no policy");
    }
    fputs(f->policy, stdout);
    return EX_OK;
}

static int read_keys(const struct admin *a, const struct args *args, struct dns_facts *f)
{
    const char *also = args->opt[ARG_also];
    char why[512];
    if (dns_facts_read_keys(a->config, also ? also : "", f, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CONFIG, "%s", why);
    }
    if (f->has_dane && !*a->config->tls_certificate && !also) {
        admin_say("tls.certificate is not set: there are no TLSA records");
    }
    return EX_OK;
}

/* Options that only --check has a use for. */
static int check_options(const struct args *args)
{
    static const enum arg of_check[] = { ARG_no_policy, ARG_policy_from, ARG_ca, ARG_jobs,
                                         ARG_limit };
    for (size_t i = 0; i < ARRAY_LEN(of_check) && !args->opt[ARG_check]; i++) {
        if (args->opt[of_check[i]]) {
            return admin_fail(EX_USAGE, "an option makes no sense without --check");
        }
    }
    return EX_OK;
}

static int run(struct walk *w, const struct args *args, struct dns_facts *f)
{
    int code = check_options(args);
    code = code == EX_OK ? read_names(w, args) : code;
    if (code == EX_OK && args->opt[ARG_mta_sts]) {
        return print_policy(f);
    }
    code = code == EX_OK ? read_keys(w->admin, args, f) : code;
    if (code != EX_OK) {
        return code;
    }
    return args->opt[ARG_check] ? check(w, args) : print(w, f);
}

int command_dns(struct admin *a, const struct args *args)
{
    struct dns_facts *f = NEW(struct dns_facts);
    struct walk w = { .admin = a, .facts = f };
    char why[512];
    int code;
    if (dns_facts_read(a->config, f, why, sizeof why) == ERR_OK) {
        code = run(&w, args, f);
    } else {
        code = admin_fail(EX_CONFIG, "%s", why);
    }
    texts_fini(&w.names);
    dns_facts_fini(f);
    free(f);
    return code;
}
