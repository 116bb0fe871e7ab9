/*
 * dial: sockets that connect. The conn watches them from the start: a socket that is not yet
 * connected takes and gives nothing, so that no state of its own is needed for that.
 *
 * It owns nothing and looks nothing up.
 */
#include "net/dial.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static enum err parse_local(struct span path, struct dial_address *out)
{
    struct dial_address d = { .a.local.sun_family = AF_UNIX };
    if (path.n == 0 || path.p[0] != '/' || path.n >= sizeof d.a.local.sun_path) {
        return ERR_INVALID;
    }
    memcpy(d.a.local.sun_path, path.p, path.n);
    d.len = sizeof d.a.local;
    *out = d;
    return ERR_OK;
}

/* An address in figures, IPv6 with its zone. */
static bool parse_figures(const char *host, unsigned port, struct dial_address *out)
{
    char text[8];
    struct addrinfo *found,
        hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_NUMERICHOST };
    snprintf(text, sizeof text, "%u", port);
    if (getaddrinfo(host, text, &hints, &found) != 0) {
        return false;
    }
    memcpy(&out->a, found->ai_addr, found->ai_addrlen);
    out->len = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

static bool is_label(struct span s, bool *figures)
{
    *figures = true;
    for (size_t i = 0; i < s.n; i++) {
        bool digit = s.p[i] >= '0' && s.p[i] <= '9', hyphen = s.p[i] == '-';
        bool letter = (s.p[i] | 0x20) >= 'a' && (s.p[i] | 0x20) <= 'z';
        if (!letter && !digit && s.p[i] != '_' && !(hyphen && i > 0 && i + 1 < s.n)) {
            return false;
        }
        *figures = *figures && digit;
    }
    return s.n > 0 && s.n <= 63;
}

/* Labels, of which the last is no number: that is an address which is wrong. */
static bool is_name(struct span s)
{
    bool figures = true;
    if (s.n > DIAL_NAME_MAX) {
        return false;
    }
    if (s.n > 1 && s.p[s.n - 1] == '.') {
        s.n--;
    }
    for (size_t at = 0; at <= s.n;) {
        struct span rest = span_skip(s, at), label = span_first(rest, span_find(rest, '.'));
        if (!is_label(label, &figures)) {
            return false;
        }
        at += label.n + 1;
    }
    return !figures;
}

static enum err parse_inet(struct span s, struct dial_address *out)
{
    size_t at = span_find(s, '@');
    struct span host, port;
    if (at < s.n) {
        port = span_first(s, at);
        host = span_skip(s, at + 1);
    } else {
        const char *colon = memrchr(s.p, ':', s.n);
        host = span_first(s, colon ? (size_t)(colon - s.p) : 0);
        port = span_skip(s, host.n + 1);
    }
    if (host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']') {
        host = span_of(host.p + 1, host.n - 2);
    }
    uint64_t number;
    if (host.n == 0 || span_u64(port, UINT16_MAX, &number) != ERR_OK || number == 0) {
        return ERR_INVALID;
    }
    struct dial_address d = { .port = (uint16_t)number };
    if (host.n > DIAL_NAME_MAX || span_find(host, '\0') < host.n) {
        return ERR_INVALID;
    }
    memcpy(d.host, host.p, host.n);
    if (!parse_figures(d.host, d.port, &d) && !is_name(host)) {
        return ERR_INVALID;
    }
    *out = d;
    return ERR_OK;
}

enum err dial_parse(const char *text, struct dial_address *out, char *why, size_t why_size)
{
    struct span s = span_str(text), kind = span_first(s, span_find(s, ':'));
    struct span rest = span_skip(s, kind.n + 1);
    enum err e = ERR_INVALID;
    if (span_eq(kind, SPAN("unix")) || span_eq(kind, SPAN("local"))) {
        e = parse_local(rest, out);
    } else if (span_eq(kind, SPAN("inet")) || span_eq(kind, SPAN("inet6"))) {
        e = parse_inet(rest, out);
    }
    if (e != ERR_OK) {
        snprintf(why, why_size, "%.200s: not inet:HOST:PORT or unix:/PATH", text);
    }
    return e;
}

enum err dial_open(struct loop *l, const struct dial_address *to, struct conn **out)
{
    int fd = socket(to->a.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd < 0) {
        return ERR_TEMP;
    }
    if (to->a.any.sa_family != AF_UNIX) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    if (connect(fd, &to->a.any, to->len) != 0 && errno != EINPROGRESS) {
        int e = errno;
        close(fd);
        errno = e;
        return e == EAGAIN ? ERR_LIMIT : ERR_TEMP;
    }
    *out = conn_open(l, fd);
    return ERR_OK;
}
