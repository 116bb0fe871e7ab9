/*
 * load_mail: messages by SMTP or LMTP, over so many connections at once. `load_mail --help` tells.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "mail_client.h"
#include "options.h"

#define RECIPIENTS_MAX 2000 /* their commands fit into what a client may have to say */

static const char help[] =
    "usage: load_mail --server HOST:PORT --protocol smtp|lmtp --user FORMAT --users FIRST:COUNT\n"
    "           --at-once N (--operations N | --seconds S) [OPTION]...\n"
    "\n"
    "An operation is a transaction: a message that all its recipients have got.\n"
    "\n"
    "  --user FORMAT       address with %u, %Nu or %0Nu for the number\n"
    "  --size OCTETS|real  of a message; real: 1 KiB to 6 MiB, the median 8 KiB, the mean 64 KiB\n"
    "                      (4096)\n"
    "  --recipients N      of a message, the next users in turn (1)\n"
    "  --per-connection N|all\n"
    "                      messages (1)\n"
    "  --pipeline          MAIL, RCPT and DATA in one piece, if the server says PIPELINING\n"
    "  --from ADDRESS      the reverse-path (sender@client.example)\n"
    "  --serial N          number of the first message (the time in microseconds)\n"
    "  --sources N         connect from so many addresses of 127/8, in turn (16; 0: none)\n"
    "  --time-out SECONDS  for an operation (60)\n"
    "\n"
    "A line of JSON on standard output tells what came of it. Exit status: 0, 1 if anything went\n"
    "wrong, 64 for a wrong command line.\n";

static const char *const protocols[] = { "smtp", "lmtp", NULL };

static const struct option options[] = {
    OPTIONS_COMMON,
    OPTIONS_USERS,
    { "protocol", required_argument, NULL, 'c' },
    { "size", required_argument, NULL, 'z' },
    { "recipients", required_argument, NULL, 'R' },
    { "per-connection", required_argument, NULL, 'k' },
    { "pipeline", no_argument, NULL, 'P' },
    { "from", required_argument, NULL, 'f' },
    { "serial", required_argument, NULL, 'i' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

/* One option of this program alone. */
static void take(struct mail_plan *mail, struct load_plan *plan, int option, const char *value)
{
    switch (option) {
    case 'c':
        plan->work = protocols[options_word(value, protocols, "protocol")];
        break;
    case 'z':
        mail->size = strcmp(value, "real") == 0
                         ? 0
                         : options_number(value, MESSAGE_MIN, MESSAGE_MAX, "--size");
        break;
    case 'R':
        mail->recipients = options_number(value, 1, RECIPIENTS_MAX, "--recipients");
        break;
    case 'k':
        mail->per_connection = strcmp(value, "all") == 0
                                   ? UINT64_MAX
                                   : options_number(value, 1, LATER_MAX, "--per-connection");
        break;
    case 'P':
        mail->pipeline = true;
        break;
    case 'f':
        mail->from = value;
        break;
    case 'i':
        mail->serial = options_number(value, 1, UINT64_MAX / 2, "--serial");
        break;
    case 'h':
        fputs(help, stdout);
        exit(0);
    default:
        exit(64); /* getopt_long has said why */
    }
}

/* No two runs send the same message: they would have to send more than one in a microsecond. */
static uint64_t first_serial(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
    struct options o = OPTIONS_DEFAULT;
    struct load_plan plan = { .work = NULL };
    struct mail_plan mail = { .recipients = 1,
                              .per_connection = 1,
                              .size = 4096,
                              .from = "sender@client.example",
                              .serial = first_serial() };
    struct tickets tickets;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (!options_take(&o, option, optarg)) {
            take(&mail, &plan, option, optarg);
        }
    }
    if (optind != argc || !plan.work) {
        options_wrong("--protocol is needed, and options alone; see --help");
    }
    options_finish(&o, &plan, &tickets);
    if (mail.recipients > o.count) {
        options_wrong("%" PRIu64 " recipients need as many --users", mail.recipients);
    }
    mail.lmtp = plan.work == protocols[1];
    mail.names = options_names(&o);
    mail.first = o.first;
    mail.users = o.count;
    mail.tickets = &tickets;
    plan.messages = mail.recipients;
    return load_run(&plan, &mail_client, &mail);
}
