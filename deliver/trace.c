/*
 * trace: writes Return-Path: and Received:. What the peer said of itself is cut to what may stand
 * in a header, so that it can't write fields of its own. Owns nothing.
 */
#include "trace.h"

#include "base/check.h"
#include "base/date.h"

/* The name of a peer: printable, without what would end the clause or begin a comment. */
static void add_name(struct buf *out, struct span s)
{
    s = span_first(s, 255);
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool bad = c <= ' ' || c == 0x7f || c == '(' || c == ')' || c == ';' || c == '\\';
        buf_addc(out, bad ? '?' : (char)c);
    }
    if (s.n == 0) {
        buf_add(out, SPAN("unknown"));
    }
}

/* RFC 3848, and RFC 6531, section 4.3. */
static void add_with(struct buf *out, const struct trace *t)
{
    if (t->utf8) {
        buf_add(out, t->lmtp ? SPAN("UTF8LMTP") : SPAN("UTF8SMTP"));
    } else if (t->lmtp) {
        buf_add(out, SPAN("LMTP"));
    } else {
        buf_add(out, t->esmtp ? SPAN("ESMTP") : SPAN("SMTP"));
    }
    if (t->tls.n > 0 && (t->utf8 || t->lmtp || t->esmtp)) {
        buf_addc(out, 'S');
    }
}

void trace_return_path(const struct trace *t, struct buf *out)
{
    CHECK(buf_room(out) >= TRACE_MAX);
    buf_addf(out, "Return-Path: <%.*s>\r\n", SPAN_ARG(t->reverse_path));
}

void trace_received(const struct trace *t, struct buf *out)
{
    char id[BLOB_ID_CHARS + 1];
    blob_id_text(t->id, id);
    CHECK(buf_room(out) >= TRACE_MAX);
    buf_add(out, SPAN("Received: from "));
    add_name(out, t->helo);
    buf_addf(out, " ([%s%.*s])\r\n\tby %.*s (mailfleet) with ",
             span_find(t->client, ':') < t->client.n ? "IPv6:" : "", SPAN_ARG(t->client),
             SPAN_ARG(t->hostname));
    add_with(out, t);
    buf_addf(out, " id %s", id);
    if (t->tls.n > 0) {
        buf_addf(out, "\r\n\t(%.*s)", SPAN_ARG(t->tls));
    }
    if (t->forward_path.n > 0) {
        buf_addf(out, "\r\n\tfor <%.*s>", SPAN_ARG(t->forward_path));
    }
    buf_add(out, SPAN(";\r\n\t"));
    date_write(t->unix_seconds, out);
    buf_add(out, SPAN("\r\n"));
}
