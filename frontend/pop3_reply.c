/*
 * pop3_reply: see the header.
 */
#include "pop3_reply.h"

#include "base/check.h"

void pop3_reply_put(struct buf *out, struct span s)
{
    enum err e = buf_add(out, s);
    CHECK(e == ERR_OK);
}

void pop3_reply_text(struct buf *out, const char *s)
{
    pop3_reply_put(out, span_str(s));
}

void pop3_reply_number(struct buf *out, uint64_t n)
{
    enum err e = buf_addu(out, n);
    CHECK(e == ERR_OK);
}

void pop3_reply_ok(struct buf *out, const char *text)
{
    pop3_reply_text(out, "+OK ");
    pop3_reply_text(out, text);
    pop3_reply_text(out, "\r\n");
}

void pop3_reply_err(struct buf *out, const char *text)
{
    pop3_reply_text(out, "-ERR ");
    pop3_reply_text(out, text);
    pop3_reply_text(out, "\r\n");
}
