/*
 * mailfleet-frontend: the POP3 daemon. What it listens on, and who takes the connections; all
 * else is in daemon (processes), session (one client) and store (mail).
 */
#include <stddef.h>

#include "auth.h"
#include "session.h"

static const struct daemon_port ports[] = {
    { .setting = offsetof(struct config, pop3_listen), .limited = true },
    { .setting = offsetof(struct config, pop3_tls_listen), .tls = true, .limited = true },
    { .setting = offsetof(struct config, pop3_proxy_listen), .proxy = true, .limited = true },
    { .setting = offsetof(struct config, pop3_proxy_tls_listen),
      .proxy = true,
      .tls = true,
      .limited = true },
};

/* RFC 7301 */
static const char *const alpn[] = { "pop3", NULL };

static void limits(const struct config *c, struct throttle_options *o)
{
    o->address_sessions = (unsigned)c->pop3_address_sessions;
    o->network_sessions = (unsigned)c->pop3_network_sessions;
    o->address_rate = (unsigned)c->pop3_address_rate;
    o->network_rate = (unsigned)c->pop3_network_rate;
}

int main(int argc, char **argv)
{
    static const struct daemon_service service = {
        .name = "mailfleet-frontend",
        .role = "frontend",
        .ports = ports,
        .n = sizeof ports / sizeof *ports,
        .health = offsetof(struct config, frontend_health),
        .agent = offsetof(struct config, frontend_agent),
        .alpn = alpn,
        .client_certificates = true,
        .check = auth_check,
        .limits = limits,
        .accept = session_accept,
    };
    return daemon_main(argc, argv, &service);
}
