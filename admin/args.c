/*
 * args: getopt_long over the table of the header. Owns nothing.
 */
#include "args.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "admin.h"
#include "base/check.h"

static const struct option options[] = {
#define X(name, option, value, help)                                                               \
    { option, sizeof value > 1 ? required_argument : no_argument, NULL, ARG_##name },
    ARG_LIST(X)
#undef X
        { 0 }
};

static const struct {
    const char *value, *help;
} docs[] = {
#define X(name, option, value, help) { value, help },
    ARG_LIST(X)
#undef X
};

const char *args_name(enum arg option)
{
    return options[option].name;
}

bool args_parse(int argc, char **argv, uint64_t allowed, struct args *out)
{
    struct args a = { 0 };
    int i;
    optind = 0; /* glibc: scan anew */
    while ((i = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (i == '?') {
            return false;
        }
        if (!(allowed & UINT64_C(1) << i)) {
            fprintf(stderr, "mailfleet: --%s makes no sense here\n", options[i].name);
            return false;
        }
        a.opt[i] = optarg ? optarg : "";
    }
    a.n = argc - optind;
    a.v = argv + optind;
    *out = a;
    return true;
}

bool args_yes(const struct args *args, const char *fmt, ...)
{
    if (args->opt[ARG_yes]) {
        return true;
    }
    char what[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    admin_say("would %s; nothing is done without --yes", what);
    return false;
}

void args_help(uint64_t allowed)
{
    for (size_t i = 0; i < ARG_COUNT; i++) {
        if (allowed & UINT64_C(1) << i) {
            char left[64];
            snprintf(left, sizeof left, "--%s %s", options[i].name, docs[i].value);
            printf("  %-26s %s\n", left, docs[i].help);
        }
    }
}
