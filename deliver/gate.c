/*
 * gate: opens and checks milters and block lists. What is opened lives as long as the worker.
 */
#include "gate.h"

#include <stdio.h>

#include "address.h"
#include "base/check.h"
#include "store/warning.h"

static bool quarantine_valid(const struct config *c, char *why, size_t why_size)
{
    struct address a;
    if (*c->filter_quarantine && address_parse(span_str(c->filter_quarantine), &a) != ERR_OK) {
        snprintf(why, why_size, "filter.quarantine: %s: not an address", c->filter_quarantine);
        return false;
    }
    return true;
}

/* See filter_append: what is larger than half could never be taken, and would be tried again for
 * days. */
static bool memory_valid(const struct config *c, char *why, size_t why_size)
{
    if (c->filter_milters.n == 0 || c->filter_memory / 2 >= c->smtp_max_size) {
        return true;
    }
    snprintf(why, why_size, "filter.memory must be twice smtp.max_size or more");
    return false;
}

bool gate_check(struct config *c, char *why, size_t why_size)
{
    struct filters *f = NULL;
    const struct config *read = c;
    if (!quarantine_valid(c, why, why_size) || blocklist_check(c, why, why_size) != ERR_OK ||
        warning_read(c, why, why_size) != ERR_OK ||
        filters_open(NULL, &read, &f, why, why_size) != ERR_OK) {
        return false;
    }
    filters_close(&f);
    return memory_valid(c, why, why_size);
}

bool gate_open(struct worker *w, char *why, size_t why_size)
{
    struct gate *g = NEW(struct gate);
    w->shared = g;
    return filters_open(w->loop, &w->config, &g->filters, why, why_size) == ERR_OK &&
           blocklist_open(w->loop, w->config, &g->blocklist, why, why_size) == ERR_OK;
}
