/*
 * gen_conf: writes the manual page mailfleet.conf(5) to standard output.
 *
 * Run by the build. The settings come from the table that the parser reads (base/config.h), so
 * that the page can't differ from the program; only what surrounds them is written here. Owns
 * nothing.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/config.h"

static const char *const head[] = {
    ".Dd November 21, 2026",
    ".Dt MAILFLEET.CONF 5",
    ".Os",
    ".Sh NAME",
    ".Nm mailfleet.conf",
    ".Nd settings of the mailfleet daemons and the mailfleet command",
    ".Sh DESCRIPTION",
    "Each daemon reads this file when it starts and again at",
    ".Dv SIGHUP .",
    "A file with an error in it is never applied in part:",
    "a daemon that starts ends with",
    ".Ql FILE:LINE: what is wrong ,",
    "one that runs logs the same and keeps the settings it has.",
    ".Pp",
    "A line is a section in brackets, a setting of that section,",
    ".Ql key = value ,",
    "or a comment that begins with",
    ".Ql #",
    "or",
    ".Ql \\&; .",
    "A comment may also follow a value, behind a blank and a semicolon.",
    "Unknown sections and keys are errors, and so is a setting that is given twice.",
    "A setting without a default is empty until it is given.",
    ".Pp",
    "Values are of these types:",
    ".Bl -tag -width number",
    ".It Ar text",
    "Characters as they are, without quotes.",
    ".It Ar list",
    "Words, separated by commas or blanks.",
    "Addresses to listen on are",
    ".Ql host:port ,",
    "or",
    ".Ql [host]:port",
    "for IPv6.",
    ".It Ar number",
    "A decimal number.",
    ".It Ar size",
    "A number of octets; K, M or G behind it stand for powers of 1024.",
    ".It Ar time",
    "A number with its unit: ms, s, m, h or d.",
    ".It Ar choice",
    "One of the words that are listed.",
    ".El",
    ".Sh SETTINGS",
    NULL,
};

static const char *const tail[] = {
    ".Sh FILES",
    ".Bl -tag -width Ds",
    ".It Pa /etc/mailfleet/mailfleet.conf",
    "Read unless",
    ".Fl -config",
    "names another file.",
    ".El",
    ".Sh EXAMPLES",
    "A node of a fleet with both roles, behind a balancer:",
    ".Bd -literal -offset indent",
    "[node]",
    "user = mailfleet",
    "workers = 8",
    "fleet_key_file = /etc/mailfleet/fleet.key",
    "",
    "[database]",
    "url = host=db1,db2 dbname=mailfleet target_session_attrs=read-write",
    "",
    "[cache]",
    "servers = cache1:11211, cache2:11211",
    "",
    "[smtp]",
    "hostname = mx.example.org",
    "proxy_listen = 0.0.0.0:2525, [::]:2525",
    "",
    "[pop3]",
    "proxy_listen = 0.0.0.0:110, [::]:110",
    "proxy_tls_listen = 0.0.0.0:995, [::]:995",
    "",
    "[proxy]",
    "networks = 192.0.2.0/24",
    "",
    "[tls]",
    "certificate = /etc/mailfleet/tls/fullchain.pem",
    "key = /etc/mailfleet/tls/key.pem",
    ".Ed",
    NULL,
};

static void print_lines(const char *const *lines)
{
    for (; *lines; lines++) {
        puts(*lines);
    }
}

/* Text that mdoc(7) must take as it is; it wants each sentence on a line of its own. */
static void print_text(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\\') {
            fputs("\\e", stdout);
        } else if (s[i] == '"') {
            fputs("\\(dq", stdout);
        } else if (s[i] == ' ' && i > 0 && s[i - 1] == '.') {
            putchar('\n');
        } else {
            putchar(s[i]);
        }
    }
}

/* \& keeps a word from being taken for a macro or for punctuation. */
static void print_literal(const char *s, size_t n, char behind)
{
    fputs(".Ql \"\\&", stdout);
    print_text(s, n);
    printf("\" %c\n", behind);
}

/* The type decides what the range of the table means. */
static void print_range(const struct config_doc *d)
{
    const char *dots = strstr(d->range, "..");
    if (strcmp(d->type, "choice") == 0) {
        puts("One of");
        for (const char *word = d->range; *word;) {
            size_t n = strcspn(word, "|");
            print_literal(word, n, word[n] ? ',' : '.');
            word += n + (word[n] == '|');
        }
    } else if (strcmp(d->type, "text") == 0) {
        printf("At most %s character%s.\n", d->range, strcmp(d->range, "1") == 0 ? "" : "s");
    } else if (strcmp(d->type, "list") == 0) {
        printf("At most %s words.\n", d->range);
    } else {
        CHECK(dots);
        printf("From %.*s to %s.\n", (int)(dots - d->range), d->range, dots + 2);
    }
}

static void print_setting(const struct config_doc *d)
{
    printf(".It Cm %s No = Ar %s\n\\&", d->key, d->type);
    print_text(d->help, strlen(d->help));
    puts("\n.br");
    print_range(d);
    if (d->def[0]) {
        puts("Default:");
        print_literal(d->def, strlen(d->def), '.');
    }
}

static bool section_seen(size_t i)
{
    for (size_t k = 0; k < i; k++) {
        if (strcmp(config_doc(k)->section, config_doc(i)->section) == 0) {
            return true;
        }
    }
    return false;
}

static void print_section(const char *section)
{
    printf(".Ss Section %s\n.Bl -tag -width Ds\n", section);
    const struct config_doc *d;
    for (size_t i = 0; (d = config_doc(i)); i++) {
        if (strcmp(d->section, section) == 0) {
            print_setting(d);
        }
    }
    puts(".El");
}

int main(void)
{
    print_lines(head);
    for (size_t i = 0; config_doc(i); i++) {
        if (!section_seen(i)) {
            print_section(config_doc(i)->section);
        }
    }
    print_lines(tail);
    return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
