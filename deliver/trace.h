/*
 * trace: the header fields that final delivery puts in front of a message: Return-Path: and
 * Received: (RFC 5321, section 4.4; RFC 3848 and 6531 for the `with` words). Bytes only.
 */
#ifndef MAILFLEET_DELIVER_TRACE_H
#define MAILFLEET_DELIVER_TRACE_H

#include "base/blob_id.h"
#include "base/buffer.h"

struct trace {
    struct span reverse_path;
    struct span helo;         /* what the client called itself; untrusted */
    struct span client;       /* its address, as text */
    struct span hostname;     /* ours */
    struct span tls;          /* version and cipher; empty without */
    struct span forward_path; /* empty unless there is exactly one: blind copies stay blind */
    const struct blob_id *id;
    uint64_t unix_seconds;
    bool lmtp, esmtp, utf8;
};

#define TRACE_MAX 4096

/* Each appends one field, folded, with CRLF. out needs TRACE_MAX octets of room. */
void trace_return_path(const struct trace *t, struct buf *out);
void trace_received(const struct trace *t, struct buf *out);

#endif
