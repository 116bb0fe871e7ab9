/*
 * warning: checks the operator's text once, when it is read, so that every message made of it is
 * one that any client can read: ASCII header fields, valid UTF-8, lines that stay below 998 octets
 * (RFC 5322, section 2.1.1) whatever is put in for the signs.
 */
#include "store/warning.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/date.h"

#define LINE_MAX_OCTETS 998
#define ADDRESS_OCTETS  320 /* of %a */
#define NUMBER_OCTETS   40  /* of %p, %u, %l */

static const char built_in[] =
    "Subject: Your mailbox is %p per cent full\n"
    "\n"
    "The mailbox %a holds %u; its limit is %l. It is %p per cent full.\n"
    "\n"
    "When it is full it takes no new messages: they wait at their senders, or are\n"
    "sent back. Please delete what you do not need any more, on the server as well.\n";

/* Written here, or of no use in a message that nobody sent. */
static const char *const ours[] = {
    "Return-Path",
    "Received",
    "From",
    "Sender",
    "To",
    "Cc",
    "Bcc",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
};

/* Takes the next line off *rest, without its LF or CRLF. */
static struct span next_line(struct span *rest)
{
    struct span line = span_first(*rest, span_find(*rest, '\n'));
    *rest = span_skip(*rest, line.n + 1);
    if (line.n > 0 && line.p[line.n - 1] == '\r') {
        line.n--;
    }
    return line;
}

/* --- checking -------------------------------------------------------------------------------- */

/* Octets that the line may come to; 0 when a % stands for nothing. */
static size_t longest(struct span line)
{
    size_t n = 1; /* so that an empty line is not 0 */
    for (size_t i = 0; i < line.n; i++, n++) {
        if (line.p[i] != '%') {
            continue;
        }
        switch (++i < line.n ? line.p[i] : '\0') {
        case 'a':
            n += ADDRESS_OCTETS;
            break;
        case 'p':
        case 'u':
        case 'l':
            n += NUMBER_OCTETS;
            break;
        case '%':
            break;
        default:
            return 0;
        }
    }
    return n;
}

static bool has_control(struct span line)
{
    for (size_t i = 0; i < line.n; i++) {
        unsigned char c = (unsigned char)line.p[i];
        if ((c < ' ' && c != '\t') || c == 0x7f) {
            return true;
        }
    }
    return false;
}

static bool is_ascii(struct span line)
{
    for (size_t i = 0; i < line.n; i++) {
        if ((unsigned char)line.p[i] > '~') {
            return false;
        }
    }
    return true;
}

/* What is wrong with a line, or NULL. */
static const char *line_wrong(struct span line)
{
    size_t n = longest(line);
    if (has_control(line)) {
        return "a control character";
    }
    if (n == 0) {
        return "a % that is not one of %a, %p, %u, %l and %%";
    }
    return n > LINE_MAX_OCTETS ? "the line is too long" : NULL;
}

static bool is_ours(struct span name)
{
    for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
        if (span_eq_nocase(name, span_str(ours[i]))) {
            return true;
        }
    }
    return false;
}

/* What is wrong with a line of the header, or NULL. first: there is no field before it. */
static const char *field_wrong(struct span line, bool first)
{
    struct span name = span_first(line, span_find(line, ':'));
    if (!is_ascii(line)) {
        return "a header field that is not ASCII (RFC 2047 tells how to write others)";
    }
    if (line.p[0] == ' ' || line.p[0] == '\t') {
        return !first && span_trim(line).n > 0 ? NULL : "a continuation of nothing";
    }
    if (name.n == line.n || name.n == 0 || span_find(name, ' ') < name.n ||
        span_find(name, '\t') < name.n) {
        return "not a header field; the header ends with an empty line";
    }
    return is_ours(name) ? "a header field that mailfleet writes" : NULL;
}

enum err warning_check(struct span text, char *why, size_t why_size)
{
    bool header = true, first = true, subject = false;
    if (!span_utf8(text)) {
        snprintf(why, why_size, "not UTF-8");
        return ERR_INVALID;
    }
    for (unsigned number = 1; text.n > 0; number++) {
        struct span line = next_line(&text);
        const char *wrong = line_wrong(line);
        header = header && line.n > 0;
        if (!wrong && header) {
            wrong = field_wrong(line, first);
            subject = subject || span_starts_nocase(line, SPAN("Subject:"));
            first = false;
        }
        if (wrong) {
            snprintf(why, why_size, "line %u: %s", number, wrong);
            return ERR_INVALID;
        }
    }
    if (!subject) {
        snprintf(why, why_size, "it must begin with header fields, Subject: among them");
        return ERR_INVALID;
    }
    return ERR_OK;
}

/* --- reading --------------------------------------------------------------------------------- */

/* Octets read, at most size; -1 with errno. Anything but a file could hang, or never end. */
static ssize_t read_whole(const char *path, char *to, size_t size)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return -1;
    }
    size_t n = 0;
    ssize_t got = -1;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        while (n < size && (got = read(fd, to + n, size - n)) > 0) {
            n += (size_t)got;
        }
    } else {
        errno = EINVAL;
    }
    int error = errno;
    close(fd);
    errno = error;
    return got < 0 ? -1 : (ssize_t)n;
}

enum err warning_read(struct config *c, char *why, size_t why_size)
{
    const char *path = c->quota_warn_file;
    char text[WARNING_FILE_MAX + 1], wrong[200];
    if (!*path) {
        return ERR_OK;
    }
    ssize_t n = read_whole(path, text, sizeof text);
    if (n < 0) {
        snprintf(why, why_size, "quota.warn_file: %s: %s", path, strerror(errno));
        return ERR_INVALID;
    }
    if ((size_t)n == sizeof text) {
        snprintf(why, why_size, "quota.warn_file: %s: more than %u octets", path, WARNING_FILE_MAX);
        return ERR_INVALID;
    }
    if (warning_check(span_of(text, (size_t)n), wrong, sizeof wrong) != ERR_OK) {
        snprintf(why, why_size, "quota.warn_file: %s: %s", path, wrong);
        return ERR_INVALID;
    }
    c->warning = config_keep(c, span_of(text, (size_t)n));
    return ERR_OK;
}

/* --- writing --------------------------------------------------------------------------------- */

/* A number that a person reads. */
static void amount(uint64_t n, bool messages, char out[NUMBER_OCTETS])
{
    static const char *const units[] = { "KB", "MB", "GB", "TB" };
    if (messages || n < 1024) {
        snprintf(out, NUMBER_OCTETS, "%llu %s", (unsigned long long)n,
                 messages ? "messages" : "octets");
        return;
    }
    size_t unit = 0;
    double v = (double)n / 1024;
    for (; v >= 1024 && unit + 1 < ARRAY_LEN(units); unit++) {
        v /= 1024;
    }
    snprintf(out, NUMBER_OCTETS, "%.1f %s", v, units[unit]);
}

static enum err write_line(const struct warning *w, struct span line, struct buf *out)
{
    char used[NUMBER_OCTETS], limit[NUMBER_OCTETS];
    enum err e = ERR_OK;
    amount(w->used, w->messages, used);
    amount(w->limit, w->messages, limit);
    while (line.n > 0 && e == ERR_OK) {
        struct span plain = span_first(line, span_find(line, '%'));
        line = span_skip(line, plain.n);
        e = buf_add(out, plain);
        if (line.n == 0 || e != ERR_OK) {
            break;
        }
        switch (line.n > 1 ? line.p[1] : '\0') {
        case 'a':
            e = buf_add(out, w->address);
            break;
        case 'p':
            e = buf_addu(out, w->per_cent);
            break;
        case 'u':
            e = buf_add(out, span_str(used));
            break;
        case 'l':
            e = buf_add(out, span_str(limit));
            break;
        default:
            e = buf_addc(out, '%');
        }
        line = span_skip(line, 2);
    }
    return e == ERR_OK ? buf_add(out, SPAN("\r\n")) : e;
}

/* The fields that are ours, in front of the text's. */
static enum err write_head(const struct warning *w, struct buf *out)
{
    char id[BLOB_ID_CHARS + 1];
    const char *at = memrchr(w->address.p, '@', w->address.n);
    struct span domain = at ? span_skip(w->address, (size_t)(at + 1 - w->address.p)) : w->hostname;
    blob_id_text(w->id, id);
    enum err e = buf_addf(out,
                          "Return-Path: <>\r\n"
                          "From: <postmaster@%.*s>\r\n"
                          "To: <%.*s>\r\n"
                          "Date: ",
                          SPAN_ARG(domain), SPAN_ARG(w->address));
    if (e == ERR_OK) {
        e = date_write(w->unix_seconds, out);
    }
    return e != ERR_OK ? e
                       : buf_addf(out,
                                  "\r\n"
                                  "Message-ID: <%s@%.*s>\r\n"
                                  "Auto-Submitted: auto-generated\r\n"
                                  "MIME-Version: 1.0\r\n"
                                  "Content-Type: text/plain; charset=utf-8\r\n"
                                  "Content-Transfer-Encoding: 8bit\r\n",
                                  id, SPAN_ARG(w->hostname));
}

enum err warning_write(const struct warning *w, struct buf *out)
{
    CHECK(!has_control(w->address));
    struct span text = span_str(w->text ? w->text : built_in);
    enum err e = write_head(w, out);
    while (text.n > 0 && e == ERR_OK) {
        e = write_line(w, next_line(&text), out);
    }
    return e;
}
