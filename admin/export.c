/*
 * export: writes a mailbox out, for a move to another server or for its owner: `mailfleet export
 * ADDRESS maildir:/path` (or mbox:).
 *
 * Lines end with LF there, as in any Maildir or mbox; a message that would not come back exactly
 * so is written as it is. Nothing that exists is written to. The mailbox stays as it is; what
 * arrives meanwhile comes along or not. Messages are read through the spool, which checks their
 * ids and lengths; one is in memory at a time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/maildrop.h"
#include "commands.h"
#include "open_spool.h"
#include "progress.h"
#include "source_parts.h"
#include "table.h"

#define PAGE      1000 /* pointers in one go */
#define NAME_SIZE 160
#define MS_OF_S   1000
#define US_OF_MS  1000
#define NS_OF_MS  1000000
#define TMP_NAME  "tmp/message"

struct export
{
    struct admin *admin;
    struct open_spool *volumes;
    const char *path;
    bool mbox;
    int dir;    /* of a Maildir; -1: none */
    FILE *file; /* the mbox, or the Maildir's dovecot-uidlist */
    uint64_t messages, octets, failed, sizes;
    struct progress progress;
    /* The message that is being read: */
    struct spool_reader *reader;
    struct buf octets_read;
    bool done;
    enum err err;
};

/* A message, and its row. */
struct exported {
    struct pointer pointer;
    char uidl[UIDL_MAX + 1];
    struct span handle;
    struct span octets; /* as they go into the file */
};

/* --- reading --------------------------------------------------------------------------------- */

static void on_piece(void *arg, enum err e, struct span piece, bool last)
{
    struct export *x = arg;
    if (e == ERR_OK) {
        e = buf_add(&x->octets_read, piece);
    }
    x->done = last || e != ERR_OK;
    x->err = e;
    if (last) {
        x->reader = NULL;
    } else if (e == ERR_OK) {
        spool_read_next(x->reader);
    }
}

static enum err read_message(struct export *x, const struct exported *m)
{
    buf_init(&x->octets_read, m->pointer.size);
    x->done = false;
    x->reader = spool_read(x->volumes->spool, &m->pointer, m->handle, on_piece, x);
    while (!x->done) {
        uv_run(loop_uv(x->admin->loop), UV_RUN_ONCE);
    }
    spool_read_close(&x->reader);
    if (x->err == ERR_OK && buf_len(&x->octets_read) != m->pointer.size) {
        return ERR_CORRUPT;
    }
    return x->err;
}

/* --- lines ----------------------------------------------------------------------------------- */

/* Without the CR of each CRLF. The result is never longer. */
static void add_plain(struct span s, struct buf *out)
{
    while (s.n) {
        size_t lf = span_find(s, '\n');
        size_t cr = lf < s.n && lf > 0 && s.p[lf - 1] == '\r' ? 1 : 0;
        CHECK(buf_add(out, span_first(s, lf - cr)) == ERR_OK);
        CHECK(lf == s.n || buf_addc(out, '\n') == ERR_OK);
        s = span_skip(s, lf + 1);
    }
}

static uint64_t served(struct span s)
{
    return crlf_count(&(struct crlf){ 0 }, s);
}

/* m->octets, which point into plain or into what was read. */
static void choose_lines(struct export *x, struct exported *m, struct buf *plain)
{
    struct span whole = buf_span(&x->octets_read);
    add_plain(whole, plain);
    m->octets = served(buf_span(plain)) == whole.n ? buf_span(plain) : whole;
    if (served(m->octets) != whole.n && x->sizes++ == 0) {
        admin_say("%s: its lines end with a bare LF here and there: another server would send %llu "
                  "octets in place of %zu",
                  m->uidl, (unsigned long long)served(m->octets), whole.n);
    }
}

/* --- a Maildir ------------------------------------------------------------------------------- */

static bool write_file(int dir, const char *name, struct span s, uint64_t ms)
{
    const struct timespec t = { (time_t)(ms / MS_OF_S), (long)(ms % MS_OF_S * NS_OF_MS) };
    const struct timespec times[2] = { t, t };
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = fd >= 0;
    while (good && s.n) {
        ssize_t n = write(fd, s.p, s.n);
        good = n > 0;
        s = span_skip(s, n > 0 ? (size_t)n : 0);
    }
    good = good && futimens(fd, times) == 0;
    return fd >= 0 && close(fd) == 0 && good;
}

/* S and W: sizes of the file, and as it is served, so that no server has to read it for them. */
static bool add_to_maildir(struct export *x, const struct exported *m)
{
    char base[NAME_SIZE], name[NAME_SIZE + 16], id[BLOB_ID_CHARS + 1];
    uint64_t ms = blob_id_time(&m->pointer.id);
    blob_id_text(&m->pointer.id, id);
    snprintf(base, sizeof base, "%llu.M%lluQ%llu.%s,S=%zu,W=%llu",
             (unsigned long long)(ms / MS_OF_S), (unsigned long long)(ms % MS_OF_S * US_OF_MS),
             (unsigned long long)x->messages, id, m->octets.n,
             (unsigned long long)served(m->octets));
    snprintf(name, sizeof name, "cur/%s:2,", base);
    return write_file(x->dir, TMP_NAME, m->octets, ms) &&
           renameat(x->dir, TMP_NAME, x->dir, name) == 0 &&
           fprintf(x->file, "%llu P%s :%s\n", (unsigned long long)x->messages + 1, m->uidl, base) >
               0;
}

/* The header's N is not known before the end: it has room for any number. */
static bool write_list_head(struct export *x)
{
    return fseek(x->file, 0, SEEK_SET) == 0 &&
           fprintf(x->file, "3 V%010llu N%010llu\n", (unsigned long long)time(NULL),
                   (unsigned long long)x->messages + 1) > 0;
}

static bool open_maildir(struct export *x)
{
    static const char *const folders[] = { "cur", "new", "tmp" };
    if (mkdir(x->path, 0700) != 0) {
        return false;
    }
    x->dir = open(x->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    for (size_t i = 0; i < ARRAY_LEN(folders) && x->dir >= 0; i++) {
        if (mkdirat(x->dir, folders[i], 0700) != 0) {
            return false;
        }
    }
    int fd = x->dir < 0 ? -1
                        : openat(x->dir, "dovecot-uidlist",
                                 O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    x->file = fd < 0 ? NULL : fdopen(fd, "w");
    return x->file && write_list_head(x);
}

/* --- an mbox --------------------------------------------------------------------------------- */

/* mboxrd: a `>` more in front of each line that is `From ` behind any number of them. */
static bool write_quoted(FILE *f, struct span s)
{
    while (s.n) {
        struct span line = span_first(s, span_find(s, '\n') + 1), rest = line;
        s = span_skip(s, line.n);
        while (rest.n && rest.p[0] == '>') {
            rest = span_skip(rest, 1);
        }
        if ((span_starts(rest, SPAN("From ")) && fputc('>', f) == EOF) ||
            fwrite(line.p, 1, line.n, f) != line.n) {
            return false;
        }
    }
    return true;
}

/* The line end behind the message is the mbox's, not the message's. */
static bool add_to_mbox(struct export *x, const struct exported *m)
{
    char date[64];
    struct tm tm;
    time_t s = (time_t)(blob_id_time(&m->pointer.id) / MS_OF_S);
    return gmtime_r(&s, &tm) && strftime(date, sizeof date, "%a %b %e %H:%M:%S %Y", &tm) &&
           fprintf(x->file, "From MAILER-DAEMON %s\n", date) > 0 &&
           write_quoted(x->file, m->octets) && fputc('\n', x->file) != EOF;
}

static bool open_mbox(struct export *x)
{
    int fd = open(x->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    x->file = fd < 0 ? NULL : fdopen(fd, "w");
    return x->file;
}

/* --- the mailbox ----------------------------------------------------------------------------- */

/* False: nothing more can be written. */
static bool export_message(struct export *x, struct exported *m)
{
    struct buf plain;
    bool good = true;
    enum err e = read_message(x, m);
    buf_init(&plain, m->pointer.size);
    if (e == ERR_OK) {
        choose_lines(x, m, &plain);
        good = x->mbox ? add_to_mbox(x, m) : add_to_maildir(x, m);
        x->messages++;
        x->octets += m->pointer.size;
    } else {
        admin_say("%s: %s: left out", m->uidl, err_text(e));
        x->failed++;
    }
    buf_fini(&plain);
    buf_fini(&x->octets_read);
    progress_step(&x->progress, 1);
    return good;
}

static void read_row(const PGresult *r, int row, struct exported *m)
{
    struct span uidl = pg_get_span(r, row, 5);
    m->pointer = (struct pointer){ .seq = (uint64_t)pg_get_i64(r, row, 0),
                                   .id = pg_get_uuid(r, row, 1),
                                   .size = (uint32_t)pg_get_i64(r, row, 2),
                                   .skip = (uint32_t)pg_get_i64(r, row, 3),
                                   .volume = (uint16_t)pg_get_i64(r, row, 4) };
    m->handle = pg_get_span(r, row, 6);
    if (uidl.n && uidl.n <= UIDL_MAX) {
        snprintf(m->uidl, sizeof m->uidl, "%.*s", SPAN_ARG(uidl));
    } else {
        blob_id_text(&m->pointer.id, m->uidl);
    }
}

static int fail_write(const struct export *x)
{
    return admin_fail(EX_IOERR, "%s: %s: what is there is not whole", x->path, strerror(errno));
}

static int export_mailbox(struct export *x, uint64_t mailbox_id)
{
    struct admin *a = x->admin;
    uint64_t after = 0;
    int n;
    do {
        admin_sql(a, "SELECT seq, blob_id, size, skip, volume_id, uidl, handle FROM message "
                     "WHERE mailbox_id = $1 AND seq > $2 ORDER BY seq LIMIT $3");
        pg_i64(a->batch, (int64_t)mailbox_id);
        pg_i64(a->batch, (int64_t)after);
        pg_i64(a->batch, PAGE);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "messages");
        }
        n = admin_rows(a, 0);
        for (int i = 0; i < n; i++) {
            struct exported m;
            read_row(admin_result(a, 0), i, &m);
            after = m.pointer.seq;
            if (!export_message(x, &m)) {
                return fail_write(x);
            }
        }
    } while (n == PAGE);
    return EX_OK;
}

/* --- the command ----------------------------------------------------------------------------- */

static void report(const struct export *x)
{
    static const struct column columns[] = {
        { "messages", "Messages", COLUMN_NUMBER },
        { "octets", "Octets", COLUMN_NUMBER },
        { "sizes_differ", "Of another size at other servers", COLUMN_NUMBER },
        { "failed", "Messages left out", COLUMN_NUMBER },
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_number(t, x->messages);
    table_number(t, x->octets);
    table_number(t, x->sizes);
    table_number(t, x->failed);
    table_print_record(t, x->admin->json, stdout);
    table_free(&t);
}

static int run_export(struct export *x, uint64_t mailbox_id)
{
    if (!(x->mbox ? open_mbox(x) : open_maildir(x))) {
        return admin_fail(EX_CANTCREAT, "%s: %s", x->path, strerror(errno));
    }
    progress_begin(&x->progress, "messages", 0, 0);
    int code = export_mailbox(x, mailbox_id);
    if (code == EX_OK && !x->mbox && !write_list_head(x)) {
        code = fail_write(x);
    }
    if (code == EX_OK && (fflush(x->file) != 0 || syncfs(fileno(x->file)) != 0)) {
        code = fail_write(x);
    }
    progress_end(&x->progress);
    if (code == EX_OK) {
        report(x);
    }
    return code == EX_OK && x->failed ? EX_TEMPFAIL : code;
}

/* `maildir:/path`, `mbox:/path`, or a path and --format. */
static int parse_target(const struct args *args, struct export *x)
{
    static const char *const kinds[] = { "maildir", "mbox" };
    const char *format = args->opt[ARG_format];
    x->path = args->v[1];
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        size_t n = strlen(kinds[i]);
        bool url = strncmp(x->path, kinds[i], n) == 0 && x->path[n] == ':';
        if (url && format) {
            return admin_fail(EX_USAGE, "--format makes no sense with %s:", kinds[i]);
        }
        if (url || (format && strcmp(format, kinds[i]) == 0)) {
            x->mbox = i == 1;
            x->path += url ? n + 1 : 0;
            return EX_OK;
        }
    }
    return admin_fail(EX_USAGE,
                      "maildir:/path or mbox:/path is wanted, or --format maildir or mbox");
}

int command_export(struct admin *a, const struct args *args)
{
    struct export x = { .admin = a, .dir = -1 };
    struct address addr;
    uint64_t mailbox_id = 0;
    if (!admin_address(args->v[0], &addr)) {
        return EX_DATAERR;
    }
    int code = parse_target(args, &x);
    code = code == EX_OK ? admin_mailbox(a, &addr, &mailbox_id) : code;
    code = code == EX_OK ? open_spool(a, &x.volumes) : code;
    if (code != EX_OK) {
        return code;
    }
    code = run_export(&x, mailbox_id);
    close_spool(a, &x.volumes);
    if (x.file && fclose(x.file) != 0 && code == EX_OK) {
        code = fail_write(&x);
    }
    if (x.dir >= 0) {
        close(x.dir);
    }
    return code;
}
