/*
 * blocklist: all lists are asked at once for each client, and what they say is put together in the
 * order of the configuration, no later than the deadline.
 *
 * A question to a list can't be called off (dns.h), so a check lives until its last one is
 * answered, also when it has been told or cancelled; how many there are is bounded. A check belongs
 * to the blocklist until it is told, then to its questions alone.
 *
 * A fault lists nobody, and that of an allow list too: without its word no block list counts.
 */
#include "net/blocklist.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "net/dns.h"

/* Open at once: c-ares walks through them at each time-out, and has 65,536 numbers for them. */
#define QUESTIONS_MAX 4096
#define ZONE_MAX      180 /* with the nibbles of an IPv6 address the name is still a name */
#define NAME_SIZE     256
#define ERROR_LOG_MS  3600000u /* between two lines of what a list itself complains of */
#define FAULT_LOG_MS  60000u   /* between two lines of one that does not answer */

struct zone {
    char name[ZONE_MAX + 1];
    struct netset *counts; /* the answers that do */
    bool allows;
    uint64_t error_log_at, fault_log_at; /* when the next line may come */
};

struct blocklist {
    struct loop *loop;
    struct dns *dns;
    uint64_t timeout_ms;
    struct netset *unasked, *errors;
    struct zone *zones; /* block lists first */
    size_t n;
    struct list checks; /* not yet told, those with the first deadline first */
    size_t alive;       /* with those that were told and have open questions */
    uv_timer_t timer;
    bool closed; /* freed with the last check */
    bool timer_closed;
};

enum answer { OPEN, NO, YES, FAULT };

struct question {
    struct check *check;
    struct zone *zone;
    enum answer answer;
};

struct check {
    struct op op;
    struct list link; /* of blocklist.checks, until it is told */
    struct task task;
    struct blocklist *list;
    blocklist_fn *done;
    uint64_t deadline;
    const struct zone *listed; /* what it is told */
    size_t open;               /* questions */
    bool decided, told;
    struct question questions[];
};

/* --- the end ---------------------------------------------------------------------------------- */

static void zones_free(struct blocklist *b)
{
    for (size_t i = 0; i < b->n; i++) {
        netset_free(&b->zones[i].counts);
    }
    free(b->zones);
    netset_free(&b->unasked);
    netset_free(&b->errors);
}

static void free_if_over(struct blocklist *b)
{
    if (b->closed && b->timer_closed && b->alive == 0) {
        zones_free(b);
        free(b);
    }
}

static void check_free_if_over(struct check *c)
{
    struct blocklist *b = c->list;
    if (c->told && c->open == 0) {
        b->alive--;
        free(c);
        free_if_over(b);
    }
}

static void on_timer_closed(uv_handle_t *h)
{
    struct blocklist *b = h->data;
    b->timer_closed = true;
    free_if_over(b);
}

/* --- deciding --------------------------------------------------------------------------------- */

static void on_told(struct task *t)
{
    struct check *c = CONTAINER_OF(t, struct check, task);
    c->told = true;
    if (!c->op.cancelled) {
        c->done(c->op.arg, c->listed ? span_str(c->listed->name) : SPAN(""));
    }
    check_free_if_over(c);
}

/* Never inline, whoever finds out. */
static void decide(struct check *c, const struct zone *listed)
{
    c->decided = true;
    c->listed = listed;
    list_del(&c->link);
    c->task.run = on_told;
    loop_post(c->list->loop, &c->task);
}

/* Whether the allow lists leave a block list its say; OPEN while that is not known. */
static enum answer allow_lists(const struct check *c)
{
    enum answer all = NO;
    for (size_t i = 0; i < c->list->n; i++) {
        const struct question *q = &c->questions[i];
        if (!q->zone->allows) {
            continue;
        }
        if (q->answer == YES || q->answer == FAULT) {
            return YES;
        }
        all = q->answer == OPEN ? OPEN : all;
    }
    return all;
}

/* As soon as no open question can change it. */
static void decide_if_known(struct check *c)
{
    const struct zone *listed = NULL;
    for (size_t i = 0; i < c->list->n && !listed; i++) {
        const struct question *q = &c->questions[i];
        if (q->zone->allows) {
            break;
        }
        if (q->answer == OPEN) {
            if (allow_lists(c) == YES) {
                break;
            }
            return;
        }
        listed = q->answer == YES ? q->zone : NULL;
    }
    enum answer allowed = listed ? allow_lists(c) : YES;
    if (allowed != OPEN) {
        decide(c, allowed == YES ? NULL : listed);
    }
}

/* --- answers ---------------------------------------------------------------------------------- */

static void log_fault(struct blocklist *b, struct zone *z, const char *why)
{
    uint64_t now = loop_now(b->loop);
    stats_add(STAT_blocklist_faults, 1);
    if (now >= z->fault_log_at) {
        LOG(LOG_WARN, "blocklist.fault", F_STR("zone", z->name), F_STR("why", why));
        z->fault_log_at = now + FAULT_LOG_MS;
    }
}

/* What big lists answer when they don't serve the asker: it says nothing of the client. */
static void log_error_code(struct blocklist *b, struct zone *z, struct in_addr code)
{
    uint64_t now = loop_now(b->loop);
    char text[INET_ADDRSTRLEN];
    stats_add(STAT_blocklist_faults, 1);
    if (now >= z->error_log_at) {
        inet_ntop(AF_INET, &code, text, sizeof text);
        LOG(LOG_ERROR, "blocklist.refuses", F_STR("zone", z->name), F_STR("answer", text));
        z->error_log_at = now + ERROR_LOG_MS;
    }
}

static enum answer read_answer(struct blocklist *b, struct zone *z, const struct in_addr *v,
                               size_t n)
{
    enum answer a = NO;
    for (size_t i = 0; i < n; i++) {
        struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr = v[i] };
        if (netset_has(b->errors, (const struct sockaddr *)&sa)) {
            log_error_code(b, z, v[i]);
            return FAULT;
        }
        if (netset_has(z->counts, (const struct sockaddr *)&sa)) {
            a = YES;
        }
    }
    return a;
}

static void on_answer(void *arg, enum err e, const struct in_addr *v, size_t n, const char *why)
{
    struct question *q = arg;
    struct check *c = q->check;
    c->open--;
    if (q->answer == OPEN) { /* else it came after the deadline */
        if (e == ERR_OK) {
            q->answer = read_answer(c->list, q->zone, v, n);
        } else {
            q->answer = e == ERR_NOTFOUND ? NO : FAULT;
        }
        if (e == ERR_TEMP) {
            log_fault(c->list, q->zone, why);
        }
    }
    if (!c->decided) {
        decide_if_known(c);
    }
    check_free_if_over(c);
}

/* --- deadlines -------------------------------------------------------------------------------- */

/* What is still open is a fault, and then all is known. */
static void give_up(struct check *c)
{
    for (size_t i = 0; i < c->list->n; i++) {
        struct question *q = &c->questions[i];
        if (q->answer == OPEN) {
            q->answer = FAULT;
            log_fault(c->list, q->zone, "no answer in time");
        }
    }
    decide_if_known(c);
}

static void on_timer(uv_timer_t *t)
{
    struct blocklist *b = t->data;
    uint64_t now = loop_now(b->loop);
    LIST_FOR_SAFE (link, &b->checks) {
        struct check *c = CONTAINER_OF(link, struct check, link);
        if (c->deadline > now) {
            uv_timer_start(&b->timer, on_timer, c->deadline - now, 0);
            return;
        }
        give_up(c);
    }
}

/* --- names ------------------------------------------------------------------------------------ */

/* RFC 5782, sections 2.1 and 2.4: octets or nibbles, the last first. */
static bool name_of(const struct sockaddr *client, const char *zone, char out[NAME_SIZE])
{
    struct in6_addr a;
    size_t n = 0;
    if (!netaddr_mapped(client, &a)) {
        return false;
    }
    if (IN6_IS_ADDR_V4MAPPED(&a)) {
        const uint8_t *p = &a.s6_addr[12];
        snprintf(out, NAME_SIZE, "%u.%u.%u.%u.%s", p[3], p[2], p[1], p[0], zone);
        return true;
    }
    for (size_t i = sizeof a.s6_addr; i-- > 0;) {
        n += (size_t)snprintf(out + n, NAME_SIZE - n, "%x.%x.", a.s6_addr[i] & 15u,
                              a.s6_addr[i] >> 4u);
    }
    snprintf(out + n, NAME_SIZE - n, "%s", zone);
    return true;
}

/* --- asking ----------------------------------------------------------------------------------- */

static void ask_all(struct check *c, const struct sockaddr *client)
{
    struct blocklist *b = c->list;
    char name[NAME_SIZE];
    c->open = b->n; /* an answer may come at once, and must not find itself the last */
    for (size_t i = 0; i < b->n; i++) {
        CHECK(name_of(client, c->questions[i].zone->name, name));
        stats_add(STAT_blocklist_queries, 1);
        dns_ask(b->dns, name, on_answer, &c->questions[i]);
    }
}

struct op *blocklist_ask(struct blocklist *b, const struct sockaddr *client, blocklist_fn *done,
                         void *arg)
{
    struct check *c = mem_new(1, sizeof *c + b->n * sizeof *c->questions);
    struct in6_addr a;
    c->op.arg = arg;
    c->list = b;
    c->done = done;
    c->deadline = loop_now(b->loop) + b->timeout_ms;
    for (size_t i = 0; i < b->n; i++) {
        c->questions[i] = (struct question){ .check = c, .zone = &b->zones[i] };
    }
    bool crowded = (b->alive + 1) * b->n > QUESTIONS_MAX;
    b->alive++;
    list_add(&b->checks, &c->link);
    if (crowded) {
        log_fault(b, &b->zones[0], "too many questions are open");
    }
    if (crowded || !netaddr_mapped(client, &a) || netset_has(b->unasked, client)) {
        decide(c, NULL);
        return &c->op;
    }
    ask_all(c, client);
    if (!uv_is_active((uv_handle_t *)&b->timer)) {
        uv_timer_start(&b->timer, on_timer, b->timeout_ms, 0);
    }
    return &c->op;
}

/* --- the life of it --------------------------------------------------------------------------- */

static struct netset *networks(const char *const *words, size_t n)
{
    const char *bad;
    struct netset *s;
    struct config_list l = { n, (const char **)(uintptr_t)words }; /* it is only read */
    return netset_parse(&l, &s, &bad) == ERR_OK ? s : NULL;
}

static bool is_domain(struct span s)
{
    bool label = false;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char ch = (unsigned char)s.p[i];
        if (ch == '.' ? !label : !isalnum(ch) && ch != '-' && ch != '_') {
            return false;
        }
        label = ch != '.';
    }
    return label && s.n <= ZONE_MAX && span_find(s, '.') < s.n;
}

/* ZONE or ZONE=NETWORK. */
static bool parse_zone(const char *text, bool allows, struct zone *out)
{
    struct span s = span_str(text), name = span_first(s, span_find(s, '='));
    const char *filter = name.n < s.n ? text + name.n + 1 : "127.0.0.0/8";
    if (!is_domain(name)) {
        return false;
    }
    *out = (struct zone){ .allows = allows, .counts = networks(&filter, 1) };
    memcpy(out->name, name.p, name.n);
    return out->counts != NULL;
}

static enum err parse_zones(struct blocklist *b, const struct config_list *l, bool allows,
                            const char *setting, char *why, size_t why_size)
{
    for (size_t i = 0; i < l->n; i++) {
        if (!parse_zone(l->v[i], allows, &b->zones[b->n])) {
            snprintf(why, why_size, "%s: %s: not a domain, or domain=network", setting, l->v[i]);
            return ERR_INVALID;
        }
        b->n++;
    }
    return ERR_OK;
}

static enum err parse(struct blocklist *b, const struct config *c, char *why, size_t why_size)
{
    static const char *const unasked[] = {
        "0.0.0.0/8",     "10.0.0.0/8",     "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.168.0.0/16", "::/127",        "fc00::/7",    "fe80::/10",
    };
    static const char *const errors[] = { "127.255.255.0/24" };
    const struct config_list *zones = &c->blocklist_zones, *allow = &c->blocklist_allow_zones;
    b->unasked = networks(unasked, ARRAY_LEN(unasked));
    b->errors = networks(errors, ARRAY_LEN(errors));
    CHECK(b->unasked && b->errors);
    b->zones = NEW_ARRAY(struct zone, zones->n + allow->n);
    enum err e = parse_zones(b, zones, false, "blocklist.zones", why, why_size);
    return e == ERR_OK ? parse_zones(b, allow, true, "blocklist.allow_zones", why, why_size) : e;
}

enum err blocklist_open(struct loop *l, const struct config *c, struct blocklist **out, char *why,
                        size_t why_size)
{
    struct blocklist *b = NEW(struct blocklist);
    b->loop = l;
    b->timeout_ms = c->blocklist_timeout;
    list_init(&b->checks);
    enum err e = parse(b, c, why, why_size);
    bool wanted = c->blocklist_zones.n > 0;
    if (e == ERR_OK && wanted) {
        e = dns_open(l, &c->dns_servers, c->blocklist_timeout, &b->dns, why, why_size);
    }
    if (e != ERR_OK || !wanted) {
        zones_free(b);
        free(b);
        if (e == ERR_OK) {
            *out = NULL;
        }
        return e;
    }
    b->timer.data = b;
    CHECK(uv_timer_init(loop_uv(l), &b->timer) == 0);
    *out = b;
    return ERR_OK;
}

enum err blocklist_check(const struct config *c, char *why, size_t why_size)
{
    struct blocklist b = { 0 };
    enum err e = parse(&b, c, why, why_size);
    zones_free(&b);
    return e == ERR_OK ? dns_check(&c->dns_servers, why, why_size) : e;
}

void blocklist_close(struct blocklist **pb)
{
    struct blocklist *b = *pb;
    *pb = NULL;
    if (b) {
        b->closed = true;
        uv_close((uv_handle_t *)&b->timer, on_timer_closed);
        dns_close(&b->dns); /* all that is open is answered: those that wait are told */
    }
}
