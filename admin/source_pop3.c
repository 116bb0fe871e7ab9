/*
 * source_pop3: a POP3 server as a source of mail. Not made yet.
 */
#include "mail_source.h"
#include "source_parts.h"

enum err pop3_source_open(const char *url, const struct source_options *o, struct mail_source **out,
                          char *why, size_t why_size)
{
    (void)o;
    (void)out;
    return source_fail(ERR_INVALID, why, why_size, "%s: POP3 is not supported", url);
}
