/*
 * log_lines: see the header. A reader owns a buffer of fixed size: a line that is longer than any
 * that the log writes is passed over, and so is one without an end, which may be half written.
 */
#include "log_lines.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "base/check.h"
#include "given.h"

#define TIME_OCTETS 24 /* 2026-01-31T12:00:00.000Z */
#define HEAD_WORDS  6  /* that are in front, at most: `Jan 31 12:00:00 host program[1]:` */
#define PROGRAM     SPAN("mailfleet")
#define BUFFER      (256u * 1024) /* of which the longest line has a small part */

/* --- one line -------------------------------------------------------------------------------- */

/* Up to the next space, which is taken too; unlike span_word, two spaces are not one. */
static struct span take_word(struct span *rest)
{
    size_t n = span_find(*rest, ' ');
    struct span word = span_first(*rest, n);
    *rest = span_skip(*rest, n + 1);
    return word;
}

static bool is_name(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '.' && c != '_') {
            return false;
        }
    }
    return s.n > 0;
}

static bool parse_time(struct span word, int64_t *ms)
{
    static const char form[] = "dddd-dd-ddTdd:dd:dd.dddZ";
    char text[TIME_OCTETS + 1];
    struct tm t = { 0 };
    if (word.n != TIME_OCTETS) {
        return false;
    }
    for (size_t i = 0; i < TIME_OCTETS; i++) {
        bool digit = word.p[i] >= '0' && word.p[i] <= '9';
        if (form[i] == 'd' ? !digit : word.p[i] != form[i]) {
            return false;
        }
    }
    memcpy(text, word.p, TIME_OCTETS);
    text[TIME_OCTETS] = '\0';
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &t);
    if (!end || *end != '.') {
        return false;
    }
    *ms = (int64_t)timegm(&t) * 1000 + (end[1] - '0') * 100 + (end[2] - '0') * 10 + (end[3] - '0');
    return true;
}

/* `program[1]:` of ours. A word with a colon at its end is where another program begins to speak.
 */
static bool is_program(struct span word)
{
    return span_starts(word, PROGRAM) && word.n > 2 &&
           span_eq(span_skip(word, word.n - 2), SPAN("]:"));
}

/* Takes what is in front of level and event. */
static bool take_head(struct span *rest, int64_t *ms)
{
    struct span first = *rest;
    if (parse_time(take_word(&first), ms)) {
        *rest = first;
        return true;
    }
    for (int i = 0; i < HEAD_WORDS && rest->n > 0; i++) {
        struct span word = take_word(rest);
        if (word.n > 0 && word.p[word.n - 1] == ':') {
            return is_program(word) && parse_time(take_word(rest), ms);
        }
    }
    return false;
}

static bool is_level(struct span s)
{
    return span_eq(s, SPAN("info")) || span_eq(s, SPAN("warn")) || span_eq(s, SPAN("error")) ||
           span_eq(s, SPAN("debug"));
}

/* Behind the first quote: up to the one that ends it. Its octets are all printable. */
static bool take_quoted(struct span *rest, struct span *value)
{
    for (size_t i = 0; i < rest->n; i++) {
        char c = rest->p[i];
        if (c == '"') {
            *value = span_first(*rest, i);
            *rest = span_skip(*rest, i + 1);
            return true;
        }
        if (c < ' ' || c > '~') {
            return false;
        }
        i += c == '\\';
    }
    return false;
}

static bool take_plain(struct span *rest, struct span *value)
{
    size_t n = 0;
    while (n < rest->n && rest->p[n] != ' ') {
        char c = rest->p[n++];
        if (c < ' ' || c > '~' || strchr("\"\\=", c)) {
            return false;
        }
    }
    *value = span_first(*rest, n);
    *rest = span_skip(*rest, n);
    return n > 0;
}

static bool take_field(struct span *rest, struct log_line *l)
{
    size_t n = span_find(*rest, '=');
    if (l->n == LOG_LINE_FIELDS || n == rest->n || !is_name(span_first(*rest, n))) {
        return false;
    }
    l->fields[l->n].key = span_first(*rest, n);
    *rest = span_skip(*rest, n + 1);
    bool quoted = rest->n > 0 && rest->p[0] == '"';
    l->fields[l->n].quoted = quoted;
    if (quoted) {
        *rest = span_skip(*rest, 1);
    }
    if (!(quoted ? take_quoted : take_plain)(rest, &l->fields[l->n].value)) {
        return false;
    }
    if (quoted && span_starts(*rest, SPAN("..."))) {
        *rest = span_skip(*rest, 3); /* the log has cut it */
    }
    l->n++;
    if (rest->n == 0) {
        return true;
    }
    bool more = rest->p[0] == ' ' && rest->n > 1;
    *rest = span_skip(*rest, 1);
    return more;
}

enum err log_line_parse(struct span line, struct log_line *out)
{
    struct log_line l = { .n = 0 };
    if (!take_head(&line, &l.ms)) {
        return ERR_INVALID;
    }
    l.level = take_word(&line);
    l.event = take_word(&line);
    if (!is_level(l.level) || !is_name(l.event)) {
        return ERR_INVALID;
    }
    while (line.n > 0) {
        if (!take_field(&line, &l)) {
            return ERR_INVALID;
        }
    }
    *out = l;
    return ERR_OK;
}

bool log_line_is(const struct log_line *l, const char *event)
{
    return span_eq(l->event, span_str(event));
}

static size_t find_field(const struct log_line *l, const char *key)
{
    size_t i = 0;
    while (i < l->n && !span_eq(l->fields[i].key, span_str(key))) {
        i++;
    }
    return i;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One octet of a quoted value. A backslash is followed by something: take_quoted has seen it. */
static char take_octet(struct span *v)
{
    char c = v->p[0];
    *v = span_skip(*v, 1);
    if (c != '\\' || v->n == 0) {
        return c;
    }
    c = v->p[0];
    *v = span_skip(*v, 1);
    if (c == 'x' && v->n >= 2 && hex_digit(v->p[0]) >= 0 && hex_digit(v->p[1]) >= 0) {
        c = (char)(hex_digit(v->p[0]) * 16 + hex_digit(v->p[1]));
        *v = span_skip(*v, 2);
    }
    return c;
}

bool log_line_text(const struct log_line *l, const char *key, char *out, size_t size)
{
    size_t i = find_field(l, key), n = 0;
    CHECK(size > 0);
    out[0] = '\0';
    if (i == l->n) {
        return false;
    }
    struct span v = l->fields[i].value;
    while (v.n > 0 && n + 1 < size) {
        char c = v.p[0];
        if (l->fields[i].quoted) {
            c = take_octet(&v);
        } else {
            v = span_skip(v, 1);
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return true;
}

struct span log_line_word(const struct log_line *l, const char *key)
{
    size_t i = find_field(l, key);
    return i < l->n && !l->fields[i].quoted ? l->fields[i].value : SPAN("");
}

bool log_line_number(const struct log_line *l, const char *key, uint64_t *out)
{
    return span_u64(log_line_word(l, key), UINT64_MAX, out) == ERR_OK;
}

/* --- many ------------------------------------------------------------------------------------ */

struct log_reader {
    char **paths;
    size_t n, next;
    FILE *copy; /* of standard input or a pipe, which is the only path then; else NULL */
    gzFile file;
    char why[512];
    size_t from, to; /* what is in the buffer and was not given out */
    bool skipping;   /* the rest of a line that is too long */
    char buffer[BUFFER];
};

static bool fail(struct log_reader *r, const char *path, const char *what)
{
    snprintf(r->why, sizeof r->why, "%s: %s", path, what);
    return false;
}

static void add_path(struct log_reader *r, const char *folder, const char *name)
{
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = NEW_ARRAY(char, size);
    snprintf(path, size, "%s%s%s", folder, *folder ? "/" : "", name);
    r->paths = mem_grow(r->paths, r->n + 1, sizeof *r->paths);
    r->paths[r->n++] = path;
}

/* As it is written, or under a name that logrotate gives it: .log.1, .log.2.gz, .log-20260131.gz.
 */
static int is_log(const struct dirent *d)
{
    const char *at = strstr(d->d_name, ".log");
    return at && strchr(".-", at[4]); /* or the end of the name */
}

static bool list_folder(struct log_reader *r, const char *path)
{
    struct dirent **names;
    int n = scandir(path, &names, is_log, alphasort);
    if (n < 0) {
        return fail(r, path, strerror(errno));
    }
    for (int i = 0; i < n; i++) {
        add_path(r, path, names[i]->d_name);
        free(names[i]);
    }
    free(names);
    return n > 0 ? true : fail(r, path, "no file *.log, *.log.* or *.log-* is in it");
}

/* What can be read once alone: standard input, or a pipe that has a name. */
static bool copy(struct log_reader *r, const char *name, FILE *from)
{
    size_t n;
    r->copy = tmpfile();
    if (!r->copy) {
        return fail(r, "temporary file", strerror(errno));
    }
    while ((n = fread(r->buffer, 1, sizeof r->buffer, from)) > 0) {
        if (fwrite(r->buffer, 1, n, r->copy) != n) {
            return fail(r, "temporary file", strerror(errno));
        }
    }
    if (ferror(from)) {
        return fail(r, name, strerror(errno));
    }
    add_path(r, "", name);
    return fflush(r->copy) == 0 ? true : fail(r, "temporary file", strerror(errno));
}

static bool copy_pipe(struct log_reader *r, const char *path)
{
    FILE *f = given_open(path);
    bool ok = f ? copy(r, path, f) : fail(r, path, strerror(errno));
    if (f) {
        fclose(f);
    }
    return ok;
}

static bool find_files(struct log_reader *r, const char *path)
{
    struct stat st;
    if (strcmp(path, "-") == 0) {
        return copy(r, "standard input", stdin);
    }
    bool known = stat(path, &st) == 0;
    if (!known && errno != EACCES) { /* what only root may see may have been opened: given.h */
        return fail(r, path, strerror(errno));
    }
    if (known && S_ISDIR(st.st_mode)) {
        return list_folder(r, path);
    }
    if (known && S_ISFIFO(st.st_mode)) {
        return copy_pipe(r, path);
    }
    add_path(r, "", path);
    return true;
}

bool log_reader_open(const char *path, struct log_reader **out, char *why, size_t why_size)
{
    struct log_reader *r = NEW(struct log_reader);
    if (!find_files(r, path)) {
        snprintf(why, why_size, "%s", r->why);
        log_reader_close(&r);
        return false;
    }
    log_reader_rewind(r);
    *out = r;
    return true;
}

static void close_file(struct log_reader *r)
{
    if (r->file) {
        gzclose_r(r->file);
        r->file = NULL;
    }
}

void log_reader_rewind(struct log_reader *r)
{
    close_file(r);
    r->from = r->to = r->next = 0;
    r->skipping = false;
}

const char *log_reader_failed(const struct log_reader *r)
{
    return *r->why ? r->why : NULL;
}

void log_reader_close(struct log_reader **pr)
{
    struct log_reader *r = *pr;
    if (!r) {
        return;
    }
    *pr = NULL;
    close_file(r);
    if (r->copy) {
        fclose(r->copy);
    }
    for (size_t i = 0; i < r->n; i++) {
        free(r->paths[i]);
    }
    free(r->paths);
    free(r);
}

/* What zlib does not read has no lines: nothing would be found, and nobody told. */
static bool is_unreadable(const struct log_reader *r)
{
    struct span s = span_of(r->buffer, r->to);
    return span_starts(s, SPAN("\xfd"
                               "7zXZ")) ||
           span_starts(s, SPAN("\x28\xb5\x2f\xfd")) || span_starts(s, SPAN("BZh"));
}

/* The file that is open goes on in the buffer. False: it has ended, or failed. */
static bool read_on(struct log_reader *r)
{
    int n = gzread(r->file, r->buffer + r->to, (unsigned)(sizeof r->buffer - r->to));
    if (n > 0) {
        r->to += (size_t)n;
        return true;
    }
    int code = Z_OK;
    const char *what = gzerror(r->file, &code);
    if (code == Z_BUF_ERROR) {
        return fail(r, r->paths[r->next - 1], "compressed, and cut off");
    }
    return code == Z_OK ? false
                        : fail(r, r->paths[r->next - 1], code == Z_ERRNO ? strerror(errno) : what);
}

/* Plain or compressed, as gzip does it. NULL: errno has why. */
static gzFile open_file(const struct log_reader *r, const char *path)
{
    int fd = r->copy ? fcntl(fileno(r->copy), F_DUPFD_CLOEXEC, 0) : given_descriptor(path);
    if (fd < 0) {
        return NULL;
    }
    if (r->copy) {
        CHECK(lseek(fd, 0, SEEK_SET) == 0);
    }
    gzFile file = gzdopen(fd, "r");
    CHECK(file);
    return file;
}

/* False: no further file, or it failed. */
static bool next_file(struct log_reader *r)
{
    if (r->next == r->n) {
        return false;
    }
    const char *path = r->paths[r->next++];
    close_file(r);
    r->from = r->to = 0;
    r->skipping = false;
    r->file = open_file(r, path);
    if (!r->file) {
        return fail(r, path, strerror(errno));
    }
    read_on(r);
    return is_unreadable(r) ? fail(r, path, "compressed, and not by gzip: unpack it into --log -")
                            : !*r->why;
}

/* More octets behind those that are there. False: the end of all, or it failed. */
static bool fill(struct log_reader *r)
{
    if (r->from > 0) {
        memmove(r->buffer, r->buffer + r->from, r->to - r->from);
        r->to -= r->from;
        r->from = 0;
    }
    if (r->to == sizeof r->buffer) {
        r->to = 0;
        r->skipping = true;
    }
    return (r->file && read_on(r)) || (!*r->why && next_file(r));
}

bool log_reader_next(struct log_reader *r, struct log_line *out)
{
    while (!*r->why) {
        struct span rest = span_of(r->buffer + r->from, r->to - r->from);
        size_t n = span_find(rest, '\n');
        if (n == rest.n) {
            if (!fill(r)) {
                return false;
            }
            continue;
        }
        r->from += n + 1;
        if (!r->skipping && log_line_parse(span_first(rest, n), out) == ERR_OK) {
            return true;
        }
        r->skipping = false;
    }
    return false;
}
