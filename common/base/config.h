/*
 * config: mailfleet.conf, read once into a struct of values.
 *
 * The settings are declared in settings.def. A bad file never half-applies: config_load gives a
 * whole new struct or nothing. Unknown sections, unknown keys and values out of range are errors
 * that name the file and the line. The file format is INI, read by inih.
 */
#ifndef MAILFLEET_BASE_CONFIG_H
#define MAILFLEET_BASE_CONFIG_H

#include "base/span.h"

struct config_list {
    size_t n;
    const char **v;
};

typedef const char *config_text; /* never NULL */
typedef struct config_list config_list;
typedef uint64_t config_number;
typedef uint64_t config_size;   /* octets */
typedef uint64_t config_time;   /* milliseconds */
typedef unsigned config_choice; /* index into the words of the table */

struct config {
#define S(type, section, key, def, range, help) config_##type section##_##key;
#include "base/settings.def"
#undef S
    const char *warning; /* what quota.warn_file holds, where it was read; else NULL */
};

/* Indices of the choice settings that code asks for, in the order of the table's words. */
enum { BARE_NEWLINE_REJECT, BARE_NEWLINE_NORMALIZE };
enum { POP3_LOCK_LEASE, POP3_LOCK_NONE };
enum { SANDBOX_ON, SANDBOX_OFF };
enum { PLAINTEXT_LOGIN_TLS, PLAINTEXT_LOGIN_ALWAYS };
enum { LOG_MESSAGES_YES, LOG_MESSAGES_NO };
enum { ENROLL_YES, ENROLL_NO };
enum { AUTH_SCRAM_READY, AUTH_SCRAM_ALWAYS };
enum { DANE_YES, DANE_NO };
enum { MTA_STS_OFF, MTA_STS_NONE, MTA_STS_TESTING, MTA_STS_ENFORCE };
enum { TRUST_TLS_NO, TRUST_TLS_YES };
enum { FILTER_LMTP_NO, FILTER_LMTP_YES };
enum { FILTER_ON_FAILURE_TEMPFAIL, FILTER_ON_FAILURE_ACCEPT };
enum { QUOTA_FULL_TEMPFAIL, QUOTA_FULL_REJECT };

/*
 * Reads a file. On failure *out is untouched and why (at least 256 bytes) holds one line for the
 * operator: `FILE:LINE: what is wrong`. The caller owns *out.
 */
enum err config_load(const char *path, struct config **out, char *why, size_t why_size);
void config_free(struct config **c);
/* A copy that lives as long as c: of what a file that it names holds. NULL: all of them together
 * are more than 1 MiB. */
const char *config_keep(struct config *c, struct span text);

/* What the manual and the operator's command print, a setting a call. */
struct config_doc {
    const char *type, *section, *key, *def, *range, *help;
};
/* NULL after the last. */
const struct config_doc *config_doc(size_t i);
/* The value in force, as text; out is cut to size. */
void config_show(const struct config *c, size_t i, char *out, size_t size);

#endif
