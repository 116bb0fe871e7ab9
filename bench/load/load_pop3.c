/*
 * load_pop3: POP3 sessions, so many at once, each of which is checked. `load_pop3 --help` tells.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "options.h"
#include "pop3_client.h"

#define OPENING 64 /* sessions that log in at the same time, where they are held */

static const char help[] =
    "usage: load_pop3 --server HOST:PORT --user FORMAT --users FIRST:COUNT --password WORD\n"
    "           --work WORK --at-once N (--operations N | --seconds S) [OPTION]...\n"
    "\n"
    "An operation is a session: connect, log in, STAT, what WORK says, QUIT.\n"
    "  poll   nothing more          drain  RETR and DELE of all messages\n"
    "  uidl   UIDL                  retr   RETR of all messages\n"
    "  list   LIST                  storm  nothing more, once for each user\n"
    "  idle   --at-once sessions are held until standard input ends; {\"ready\": N} tells that\n"
    "         they stand; latency is that of logging in\n"
    "\n"
    "  --user FORMAT       address with %u, %Nu or %0Nu for the number\n"
    "  --tls none|stls|pop3s\n"
    "  --resume            TLS sessions, where the server gives tickets\n"
    "  --pipeline          send commands in one piece where no answer is needed in between\n"
    "  --messages N        each mailbox has so many, or it is an error\n"
    "  --size OCTETS       each message is of this size\n"
    "  --sources N         so many addresses of 127/8 are those of the users (60000; 0: none)\n"
    "  --time-out SECONDS  for an operation (60)\n"
    "\n"
    "A line of JSON on standard output tells what came of it. Exit status: 0, 1 if anything went\n"
    "wrong, 64 for a wrong command line.\n";

static const char *const works[] = {
    "poll", "uidl", "list", "drain", "retr", "idle", "storm", NULL
};
enum { WORK_STORM = POP3_IDLE + 1 };
static const char *const tls_modes[] = { "none", "stls", "pop3s", NULL };

static const struct option options[] = {
    OPTIONS_COMMON,
    OPTIONS_USERS,
    { "password", required_argument, NULL, 'p' },
    { "work", required_argument, NULL, 'w' },
    { "tls", required_argument, NULL, 'x' },
    { "resume", no_argument, NULL, 'r' },
    { "pipeline", no_argument, NULL, 'P' },
    { "messages", required_argument, NULL, 'm' },
    { "size", required_argument, NULL, 'z' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

/* One option of this program alone. */
static void take(struct pop3_plan *pop3, struct load_plan *plan, int option, const char *value)
{
    switch (option) {
    case 'p':
        pop3->password = value;
        break;
    case 'w':
        plan->work = works[options_word(value, works, "work")];
        break;
    case 'x':
        plan->tls = (enum load_tls)options_word(value, tls_modes, "mode of TLS");
        pop3->stls = plan->tls == LOAD_STLS;
        break;
    case 'r':
        plan->resume = true;
        break;
    case 'P':
        pop3->pipeline = true;
        break;
    case 'm':
        pop3->messages = options_number(value, 0, LATER_MAX, "--messages");
        pop3->count_known = true;
        break;
    case 'z':
        pop3->size = options_number(value, MESSAGE_MIN, MESSAGE_MAX, "--size");
        break;
    case 'h':
        fputs(help, stdout);
        exit(0);
    default:
        exit(64); /* getopt_long has said why */
    }
}

int main(int argc, char **argv)
{
    struct options o = OPTIONS_DEFAULT;
    o.sources = SOURCES_MAX;
    struct load_plan plan = { .work = NULL };
    struct pop3_plan pop3 = { .password = NULL };
    struct tickets tickets;
    struct users users;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (!options_take(&o, option, optarg)) {
            take(&pop3, &plan, option, optarg);
        }
    }
    if (optind != argc || !plan.work || !pop3.password) {
        options_wrong("--work and --password are needed, and options alone; see --help");
    }
    unsigned work = options_word(plan.work, works, "work");
    if (!o.operations && !o.seconds) { /* these know their number */
        o.operations = work == WORK_STORM ? o.count : work == POP3_IDLE ? o.at_once : 0;
    }
    if (o.at_once > o.count) {
        options_wrong("%" PRIu64 " at once need as many --users", o.at_once);
    }
    options_finish(&o, &plan, &tickets);
    pop3.work = work == WORK_STORM ? POP3_POLL : (enum pop3_work)work;
    pop3.names = options_names(&o);
    pop3.users = &users;
    pop3.tickets = &tickets;
    plan.holds = work == POP3_IDLE;
    if (plan.holds && plan.opening > OPENING) {
        plan.opening = OPENING;
    }
    users_init(&users, o.first, o.count);
    int status = load_run(&plan, &pop3_client, &pop3);
    users_fini(&users);
    return status;
}
