/*
 * dns_check: see the header. A question owns a copy of its set and is freed when it was answered,
 * which each is exactly once.
 */
#include "dns_check.h"

#include <stdlib.h>

#include "base/check.h"
#include "net/loop.h"

#define QUESTION_MS 5000
#define GIVE_UP     256 /* questions in a row that nobody answers: not some zones, but the servers */

struct dns_check {
    struct loop *loop;
    struct dns *dns;
    struct dns_findings *findings;
    size_t jobs, open;
    size_t right, not_signed;
    size_t failed_in_row;
};

struct question {
    struct dns_check *check;
    size_t order;
    struct rrset set;
};

/* --- findings -----------------------------------------------------------------------------------
 */

static void note(struct dns_findings *f, struct dns_finding finding)
{
    if (f->n == f->room) {
        f->room = f->room ? 2 * f->room : 64;
        f->v = mem_grow(f->v, f->room, sizeof *f->v);
    }
    f->unknown += finding.state == DNS_UNKNOWN;
    f->v[f->n++] = finding;
}

static char *join(const struct texts *t)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    CHECK(out);
    for (size_t i = 0; i < t->n; i++) {
        fprintf(out, "%s%s", i ? ", " : "", t->v[i]);
    }
    CHECK(fclose(out) == 0);
    return text;
}

void dns_findings_add(struct dns_findings *f, size_t order, const char *name, const char *what,
                      const struct texts *missing, const struct texts *foreign)
{
    if (missing->n + foreign->n > 0) {
        note(f, (struct dns_finding){ .order = order,
                                      .name = mem_strdup(name),
                                      .what = what,
                                      .state = foreign->n == 0   ? DNS_MISSING
                                               : missing->n == 0 ? DNS_FOREIGN
                                                                 : DNS_DIFFERS,
                                      .expected = join(missing),
                                      .found = join(foreign) });
    }
}

void dns_findings_say(struct dns_findings *f, size_t order, const char *name, const char *what,
                      enum dns_state state, const char *says)
{
    note(f, (struct dns_finding){ .order = order,
                                  .name = mem_strdup(name),
                                  .what = what,
                                  .state = state,
                                  .expected = mem_strdup(""),
                                  .found = mem_strdup(says) });
}

bool dns_findings_full(const struct dns_findings *f)
{
    return f->limit > 0 && f->n >= f->limit;
}

static int by_order(const void *a, const void *b)
{
    const struct dns_finding *x = a, *y = b;
    return (x->order > y->order) - (x->order < y->order);
}

void dns_findings_sort(struct dns_findings *f)
{
    if (f->n) {
        qsort(f->v, f->n, sizeof *f->v, by_order);
    }
}

void dns_findings_fini(struct dns_findings *f)
{
    for (size_t i = 0; i < f->n; i++) {
        free(f->v[i].name);
        free(f->v[i].expected);
        free(f->v[i].found);
    }
    free(f->v);
    *f = (struct dns_findings){ 0 };
}

/* --- questions ----------------------------------------------------------------------------------
 */

static void compare(struct question *q, char *const *found, size_t n, bool authentic)
{
    struct dns_check *c = q->check;
    struct texts missing = { 0 }, foreign = { 0 };
    rrset_compare(&q->set, found, n, &missing, &foreign);
    if (missing.n + foreign.n == 0) {
        c->right++;
        c->not_signed += q->set.type == DNS_TLSA && n > 0 && !authentic;
    }
    dns_findings_add(c->findings, q->order, q->set.name, dns_type_name(q->set.type), &missing,
                     &foreign);
    texts_fini(&missing);
    texts_fini(&foreign);
}

static void question_free(struct question *q)
{
    q->check->open--;
    texts_fini(&q->set.data);
    free(q);
}

static void on_records(void *arg, enum err e, const struct dns_records *r, const char *why)
{
    struct question *q = arg;
    struct dns_check *c = q->check;
    if (e == ERR_OK) {
        compare(q, r->v, r->n, r->authentic);
    } else if (e == ERR_NOTFOUND) {
        compare(q, NULL, 0, false);
    } else if (e != ERR_CLOSED) {
        dns_findings_say(c->findings, q->order, q->set.name, dns_type_name(q->set.type),
                         DNS_UNKNOWN, why);
    }
    c->failed_in_row = e == ERR_OK || e == ERR_NOTFOUND ? 0 : c->failed_in_row + 1;
    question_free(q);
}

static void wait_below(struct dns_check *c, size_t most)
{
    while (c->open > most) {
        uv_run(loop_uv(c->loop), UV_RUN_ONCE);
    }
}

bool dns_check_ask(void *check, const struct rrset *s)
{
    struct dns_check *c = check;
    wait_below(c, c->jobs - 1);
    if (dns_findings_full(c->findings) || dns_check_gave_up(c)) {
        return false;
    }
    struct question *q = NEW(struct question);
    q->check = c;
    q->order = c->findings->order++;
    q->set = *s;
    q->set.data = (struct texts){ 0 };
    for (size_t i = 0; i < s->data.n; i++) {
        texts_add(&q->set.data, span_str(s->data.v[i]));
    }
    c->open++;
    dns_look_up(c->dns, q->set.name, q->set.type, on_records, q);
    return true;
}

void dns_check_wait(struct dns_check *c)
{
    wait_below(c, 0);
}

size_t dns_check_right(const struct dns_check *c)
{
    return c->right;
}

size_t dns_check_unsigned(const struct dns_check *c)
{
    return c->not_signed;
}

bool dns_check_gave_up(const struct dns_check *c)
{
    return c->failed_in_row >= GIVE_UP;
}

enum err dns_check_open(struct loop *l, const struct config_list *servers, size_t jobs,
                        struct dns_findings *findings, struct dns_check **out, char *why,
                        size_t why_size)
{
    struct dns *dns;
    enum err e = dns_open(l, servers, QUESTION_MS, &dns, why, why_size);
    if (e == ERR_OK) {
        struct dns_check *c = NEW(struct dns_check);
        *c = (struct dns_check){ .loop = l, .dns = dns, .findings = findings, .jobs = jobs };
        *out = c;
    }
    return e;
}

void dns_check_close(struct dns_check **pc)
{
    struct dns_check *c = *pc;
    *pc = NULL;
    if (c) {
        dns_close(&c->dns);
        CHECK(c->open == 0);
        free(c);
    }
}
