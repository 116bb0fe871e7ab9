/*
 * load_bare: connections and memcached gets, for the limits of a machine. `load_bare --help` tells.
 */
#include <stdio.h>
#include <stdlib.h>

#include "bare_client.h"
#include "base/check.h"
#include "options.h"

static const char help[] =
    "usage: load_bare --server HOST:PORT --work connect|get --at-once N\n"
    "           (--operations N | --seconds S) [OPTION]...\n"
    "\n"
    "  connect  an operation is a connection, which the server closes (bare_server --close)\n"
    "  get      an operation is an item out of memcached, over --at-once connections that stay\n"
    "\n"
    "  --size OCTETS       of an item (1024)\n"
    "  --sources N         connect from so many addresses of 127/8, in turn (16; 0: none)\n"
    "  --time-out SECONDS  for an operation (60)\n"
    "\n"
    "A line of JSON on standard output tells what came of it. Exit status: 0, 1 if anything went\n"
    "wrong, 64 for a wrong command line.\n";

static const char *const works[] = { "connect", "get", NULL };

static const struct option options[] = {
    OPTIONS_COMMON,
    { "work", required_argument, NULL, 'w' },
    { "size", required_argument, NULL, 'z' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

static char *make_item(uint64_t size)
{
    char *item = mem_raw(size);
    uint64_t random = 1;
    for (uint64_t i = 0; i < size; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        item[i] = (char)(random >> 56);
    }
    return item;
}

int main(int argc, char **argv)
{
    struct options o = OPTIONS_DEFAULT;
    struct load_plan plan = { .work = NULL };
    struct bare_plan bare = { .size = 1024, .per_connection = UINT64_MAX };
    struct tickets tickets;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (options_take(&o, option, optarg)) {
            continue;
        }
        if (option == 'w') {
            plan.work = works[options_word(optarg, works, "work")];
        } else if (option == 'z') {
            bare.size = options_number(optarg, 1, ITEM_MAX, "--size");
        } else if (option == 'h') {
            fputs(help, stdout);
            return 0;
        } else {
            return 64; /* getopt_long has said why */
        }
    }
    if (optind != argc || !plan.work) {
        options_wrong("--work is needed, and options alone; see --help");
    }
    options_finish(&o, &plan, &tickets);
    char *item = make_item(bare.size);
    bare.item = span_of(item, bare.size);
    bare.tickets = &tickets;
    int status = load_run(&plan, plan.work == works[0] ? &connect_client : &get_client, &bare);
    free(item);
    return status;
}
