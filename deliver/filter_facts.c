/*
 * filter_facts: see the header. Milters get texts that end in a NUL, so nothing behind one in what
 * a client said is told.
 */
#include "filter_facts.h"

#include <stdio.h>
#include <string.h>

#define TEXT_MOST (8u << 10) /* of one command's path and parameters */
#define NAME_MOST 255        /* of an id */

/* Up to a NUL in it. */
static struct span text_of(struct span s)
{
    return span_first(s, span_find(s, '\0'));
}

static struct span keep(struct filter_facts *f, struct span s)
{
    return span_str(arena_dup(&f->arena, text_of(s)));
}

/* Appends a text with its NUL; what does not fit is left out as a whole. */
static bool add_text(struct buf *b, struct span before, struct span s, struct span after)
{
    s = text_of(s);
    if (buf_room(b) <= before.n + s.n + after.n) {
        return false;
    }
    buf_add(b, before);
    buf_add(b, s);
    buf_add(b, after);
    buf_addc(b, '\0');
    return true;
}

/* `<path>` and the parameters, as milters get them; the two macros are spans of it. */
static void set_path(struct filter_facts *f, struct buf *b, struct span path,
                     const struct span *params, size_t n, enum milter_macro address,
                     enum milter_macro host)
{
    buf_clear(b);
    path = text_of(path);
    size_t length = add_text(b, SPAN("<"), path, SPAN(">")) ? path.n : 0;
    for (size_t i = 0; i < n; i++) {
        add_text(b, SPAN(""), params[i], SPAN(""));
    }
    struct span written = span_first(span_skip(buf_span(b), 1), length);
    const char *at = length ? memrchr(written.p, '@', length) : NULL;
    f->told.macros[address] = written;
    f->told.macros[host] = at ? span_skip(written, (size_t)(at - written.p) + 1) : SPAN("");
}

static void set_client(struct filter_facts *f, const struct filter_client *c)
{
    struct milter_facts *t = &f->told;
    char host[NETADDR_TEXT], bracketed[NETADDR_TEXT + 2];
    netaddr_host(c->address, host);
    snprintf(bracketed, sizeof bracketed, "[%s]", host);
    t->client_address = keep(f, span_str(host));
    t->client_name = keep(f, span_str(bracketed));
    t->client_family = c->address->sa_family != AF_INET && c->address->sa_family != AF_INET6 ? 'U'
                       : strchr(host, ':')                                                   ? '6'
                                                                                             : '4';
    t->client_port = netaddr_port(c->address);
    snprintf(f->client_port, sizeof f->client_port, "%u", t->client_port);
    t->macros[MILTER_CLIENT_ADDR] = t->client_address;
    t->macros[MILTER_CLIENT_NAME] = SPAN("unknown"); /* no name is looked up */
    t->macros[MILTER_CLIENT_PORT] = span_str(f->client_port);
    if (c->local) {
        netaddr_host(c->local, host);
        t->macros[MILTER_IF_ADDR] = keep(f, span_str(host));
    }
}

void filter_facts_init(struct filter_facts *f, const struct filter_client *c,
                       const struct rewrite *message)
{
    struct milter_facts *t = &f->told;
    *f = (struct filter_facts){ .told.message = message };
    arena_init(&f->arena, 4096);
    buf_init(&f->helo, TEXT_MOST);
    buf_init(&f->mail, TEXT_MOST);
    buf_init(&f->rcpt, TEXT_MOST);
    buf_init(&f->name, NAME_MOST + 1);
    set_client(f, c);
    t->macros[MILTER_J] = keep(f, c->hostname);
    t->macros[MILTER_DAEMON_NAME] = t->macros[MILTER_J];
    t->macros[MILTER_V] = SPAN("mailfleet " MAILFLEET_VERSION);
    t->macros[MILTER_TLS_VERSION] = keep(f, c->tls_version);
    t->macros[MILTER_CIPHER] = keep(f, c->tls_cipher);
}

void filter_facts_fini(struct filter_facts *f)
{
    buf_fini(&f->helo);
    buf_fini(&f->mail);
    buf_fini(&f->rcpt);
    buf_fini(&f->name);
    arena_fini(&f->arena);
}

static void set_helo(struct filter_facts *f, struct span helo)
{
    helo = span_first(text_of(helo), TEXT_MOST);
    if (f->told.greetings == 0 || !span_eq(helo, buf_span(&f->helo))) {
        buf_clear(&f->helo);
        buf_add(&f->helo, helo);
        f->told.helo = buf_span(&f->helo);
        f->told.greetings++;
    }
}

void filter_facts_mail(struct filter_facts *f, struct span helo, struct span reverse_path,
                       const struct span *parameters, size_t n)
{
    set_helo(f, helo);
    set_path(f, &f->mail, reverse_path, parameters, n, MILTER_MAIL_ADDR, MILTER_MAIL_HOST);
    f->told.mail = buf_span(&f->mail);
}

void filter_facts_rcpt(struct filter_facts *f, struct span forward_path)
{
    set_path(f, &f->rcpt, forward_path, NULL, 0, MILTER_RCPT_ADDR, MILTER_RCPT_HOST);
    f->told.rcpt = buf_span(&f->rcpt);
}

void filter_facts_name(struct filter_facts *f, struct span id)
{
    buf_clear(&f->name);
    buf_add(&f->name, span_first(text_of(id), NAME_MOST));
    f->told.macros[MILTER_I] = buf_span(&f->name);
}

struct span filter_facts_id(const struct filter_facts *f)
{
    return f->told.macros[MILTER_I];
}
