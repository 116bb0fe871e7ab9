/*
 * agent: answers HAProxy's agent-check (its configuration manual, `agent-check`): whoever connects
 * gets one line and is let go. Nothing that a client sends is looked at.
 *
 *   up ready 73%   takes connections; the weight is what is left of the node
 *   drain          takes no new ones
 *   stopped        the daemon ends
 *
 * Whether it is ready is not told here but by /readyz, which HAProxy asks as well: that is what a
 * balancer may disregard when no node is. Each line says all, as a balancer keeps what it was told:
 * `ready` takes `drain` back, `up` takes `stopped` back.
 *
 * On the master's loop. It owns its socket and the clients, of which there are few at a time.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "daemon/parts.h"
#include "net/listener.h"

#define CLIENTS_MAX 64
#define LINGER_MS   2000

struct agent {
    struct loop *loop;
    const struct health_view *view;
    const struct netset *networks;
    struct log_pace forbidden;
    struct listener *listener;
};

void agent_line(const struct health_view *v, struct buf *out)
{
    unsigned load = health_load(v);
    if (v->draining) {
        buf_add(out, SPAN("stopped\n"));
    } else if (atomic_load(&v->block->drain) != DRAIN_NO) {
        buf_add(out, SPAN("drain\n"));
    } else {
        buf_addf(out, "up ready %u%%\n", load < 100 ? 100 - load : 1); /* 0% would be a drain */
    }
}

static void on_client(void *arg, struct conn *c)
{
    struct agent *a = arg;
    bool allowed = health_allows(a->networks, conn_peer(c), &a->forbidden, loop_now(a->loop));
    if (!allowed || conn_count() > CLIENTS_MAX) {
        conn_close(&c, 0);
        return;
    }
    agent_line(a->view, conn_out(c));
    conn_close(&c, LINGER_MS);
}

enum err agent_open(struct loop *l, const char *address, const struct netset *networks,
                    const struct health_view *v, struct agent **out, char *why, size_t why_size)
{
    struct sockaddr_storage sa;
    if (netaddr_parse(address, &sa) != ERR_OK) {
        snprintf(why, why_size, "not an address with a port");
        return ERR_INVALID;
    }
    struct agent *a = NEW(struct agent);
    *a = (struct agent){ .loop = l, .view = v, .networks = networks };
    struct listener_options o = { .fd = listener_bind((const struct sockaddr *)&sa),
                                  .accept = on_client,
                                  .arg = a };
    if (o.fd < 0 || listener_open(l, &o, &a->listener) != ERR_OK) {
        snprintf(why, why_size, "can't listen there: %s", strerror(errno));
        free(a);
        return ERR_INVALID;
    }
    *out = a;
    return ERR_OK;
}

void agent_close(struct agent **pa)
{
    struct agent *a = *pa;
    *pa = NULL;
    listener_close(&a->listener);
    free(a);
}
