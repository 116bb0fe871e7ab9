/*
 * trace: what happened to a message, or to the mail of an address: from whom it came, where it was
 * stored, who listed, retrieved and deleted it, and when its file went. The database and the file
 * tell a part of it; the nodes' logs, which the operator names, the rest. It changes nothing.
 */
#include "base/check.h"
#include "commands.h"
#include "trace_parts.h"

int command_trace(struct admin *a, const struct args *args)
{
    const char *path = args->opt[ARG_log], *word = args->v[0];
    struct log_reader *log = NULL;
    struct address addr;
    struct blob_id id;
    int64_t since_ms = 0;
    char why[512];
    bool message = blob_id_parse(span_str(word), &id) == ERR_OK;
    if (!message && !strchr(word, '@')) {
        return admin_fail(EX_DATAERR, "%s: neither the id of a message nor an address", word);
    }
    if ((!message && !admin_address(word, &addr)) ||
        (args->opt[ARG_since] && !admin_parse_time(args->opt[ARG_since], &since_ms))) {
        return EX_DATAERR;
    }
    if (path && !log_reader_open(path, &log, why, sizeof why)) {
        return admin_fail(EX_NOINPUT, "%s", why);
    }
    int code =
        message ? trace_message(a, &id, since_ms, log) : trace_mailbox(a, &addr, since_ms, log);
    log_reader_close(&log);
    return code;
}
