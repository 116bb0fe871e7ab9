/*
 * options: see the header.
 */
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

_Noreturn void options_wrong(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(EX_USAGE);
}

uint64_t options_number(const char *text, uint64_t least, uint64_t most, const char *what)
{
    uint64_t n;
    if (span_u64(span_str(text), most, &n) != ERR_OK || n < least) {
        options_wrong("%s: %s is a number from %" PRIu64 " to %" PRIu64, text, what, least, most);
    }
    return n;
}

unsigned options_word(const char *text, const char *const *words, const char *what)
{
    for (unsigned i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0) {
            return i;
        }
    }
    options_wrong("%s is no %s", text, what);
}

/* FIRST:COUNT */
static void take_users(struct options *o, const char *text)
{
    struct span s = span_str(text);
    size_t colon = span_find(s, ':');
    if (span_u64(span_first(s, colon), LATER_MAX, &o->first) != ERR_OK ||
        span_u64(span_skip(s, colon + 1), LATER_MAX, &o->count) != ERR_OK || !o->count) {
        options_wrong("%s: users are FIRST:COUNT", text);
    }
}

bool options_take(struct options *o, int option, const char *value)
{
    switch (option) {
    case 's':
        o->server = value;
        break;
    case 'u':
        o->user = value;
        break;
    case 'U':
        take_users(o, value);
        break;
    case 'n':
        o->at_once = options_number(value, 1, 1000000, "--at-once");
        break;
    case 'o':
        o->operations = options_number(value, 1, LATER_MAX, "--operations");
        break;
    case 't':
        o->seconds = options_number(value, 1, 86400, "--seconds");
        break;
    case 'S':
        o->sources = options_number(value, 0, SOURCES_MAX, "--sources");
        break;
    case 'T':
        o->time_out = options_number(value, 1, 86400, "--time-out");
        break;
    default:
        return false;
    }
    return true;
}

void options_finish(const struct options *o, struct load_plan *plan, struct tickets *tickets)
{
    if (!o->server) {
        options_wrong("--server HOST:PORT is missing");
    }
    if (!o->operations == !o->seconds) {
        options_wrong("either --operations or --seconds is needed");
    }
    if (target_parse(o->server, (unsigned)o->sources, &plan->target) != ERR_OK) {
        options_wrong("%s: no such server", o->server);
    }
    *tickets = (struct tickets){ .limit = o->operations ? o->operations : UINT64_MAX };
    plan->tickets = tickets;
    plan->at_once = plan->opening = o->at_once;
    plan->seconds = o->seconds;
    plan->time_out = o->time_out;
}

struct names options_names(const struct options *o)
{
    struct names names;
    if (!o->user) {
        options_wrong("--user is missing, such as u%%06u@bench.example");
    }
    if (names_parse(o->user, &names) != ERR_OK) {
        options_wrong("%s: one %%u, %%Nu or %%0Nu is allowed", o->user);
    }
    return names;
}
