/*
 * mailfleet-deliver: the SMTP and LMTP daemon. What it listens on, and who takes the connections;
 * all else is in daemon (processes), session (one peer) and store (mail).
 */
#include <stddef.h>

#include "session.h"

static const struct daemon_port ports[] = {
    { .setting = offsetof(struct config, smtp_listen), .tag = SESSION_SMTP },
    { .setting = offsetof(struct config, smtp_proxy_listen), .proxy = true, .tag = SESSION_SMTP },
    { .setting = offsetof(struct config, lmtp_listen), .tag = SESSION_LMTP },
};

/* What clients of RFC 7301 call it; of the three none is registered. */
static const char *const alpn[] = { "smtp", "esmtp", "lmtp", NULL };

int main(int argc, char **argv)
{
    static const struct daemon_service service = {
        .name = "mailfleet-deliver",
        .ports = ports,
        .n = sizeof ports / sizeof *ports,
        .health = offsetof(struct config, deliver_health),
        .alpn = alpn,
        .accept = session_accept,
    };
    return daemon_main(argc, argv, &service);
}
