/*
 * mailfleet-deliver: the SMTP and LMTP daemon. What it listens on, and who takes the connections;
 * all else is in daemon (processes), session (one peer) and store (mail).
 */
#include <stddef.h>

#include "gate.h"
#include "session.h"

static const struct daemon_port ports[] = {
    { .setting = offsetof(struct config, smtp_listen), .limited = true, .tag = SESSION_SMTP },
    { .setting = offsetof(struct config, smtp_proxy_listen),
      .proxy = true,
      .limited = true,
      .tag = SESSION_SMTP },
    { .setting = offsetof(struct config, lmtp_listen), .tag = SESSION_LMTP },
};

/* What clients of RFC 7301 call it; of the three none is registered. */
static const char *const alpn[] = { "smtp", "esmtp", "lmtp", NULL };

static void limits(const struct config *c, struct throttle_options *o)
{
    o->address_sessions = (unsigned)c->smtp_address_sessions;
    o->network_sessions = (unsigned)c->smtp_network_sessions;
    o->address_rate = (unsigned)c->smtp_address_rate;
    o->network_rate = (unsigned)c->smtp_network_rate;
    o->guesses = (unsigned)c->smtp_max_unknown;
}

int main(int argc, char **argv)
{
    static const struct daemon_service service = {
        .name = "mailfleet-deliver",
        .role = "deliver",
        .ports = ports,
        .n = sizeof ports / sizeof *ports,
        .health = offsetof(struct config, deliver_health),
        .agent = offsetof(struct config, deliver_agent),
        .drain_refuses = true,
        .alpn = alpn,
        .check = gate_check,
        .open = gate_open,
        .limits = limits,
        .accept = session_accept,
    };
    return daemon_main(argc, argv, &service);
}
