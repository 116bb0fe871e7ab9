/*
 * source_maildir: a Maildir, as Dovecot or Courier would serve it by POP3, or a mailbox of Cyrus.
 *
 * cur and new are read, tmp never, and nothing is changed. What has come since the old server
 * looked last gets the numbers that it would give it next. Its owner may be a stranger: links are
 * not followed, and only plain files are read.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "mail_source.h"
#include "source_lists.h"
#include "source_parts.h"

#define LIST_MAX   (1u << 30) /* octets of a list: some ten million messages */
#define PIECE      65536
#define MS_OF_S    1000
#define CYRUS_NAME 16

enum folder { FOLDER_NEW, FOLDER_CUR, FOLDER_ITSELF, FOLDERS };
static const char *const folder_names[] = { "new", "cur", "." };

struct file {
    char *name;
    size_t base; /* octets in front of the flags */
    enum folder folder;
    int64_t time_ms;
    bool size_known;
    uint64_t size; /* as served */
    bool too_large;
    uint32_t uid, order;
    struct span uidl; /* of the old server's list; where has_uidl */
    bool has_uidl;
    struct span guid;
    uint64_t number, validity; /* of Courier's list */
};

struct maildir {
    struct mail_source head;
    int root, folders[FOLDERS]; /* of the latter -1: not there */
    char *format;               /* NULL: none was given */
    bool courier;               /* it doubles CRs */
    char *text;                 /* of the list, that spans point into */
    struct file *files;
    struct source_message *messages;
    size_t n;
};

static struct span base_name(const struct file *f)
{
    return span_of(f->name, f->base);
}

static int compare(struct span a, struct span b)
{
    int d = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return d ? d : (a.n > b.n) - (a.n < b.n);
}

/* --- orders ---------------------------------------------------------------------------------- */

static uint64_t take_digits(struct span *s)
{
    uint64_t v = 0;
    while (s->n && s->p[0] >= '0' && s->p[0] <= '9') {
        v = v * 10 + (uint64_t)(s->p[0] - '0');
        *s = span_skip(*s, 1);
    }
    return v;
}

/* `.M123456P78.host`: of the second that is in front of it. */
static bool microseconds(struct span rest, uint64_t *out)
{
    if (!rest.n || rest.p[0] != '.') {
        return false;
    }
    rest = span_skip(rest, 1);
    rest = span_first(rest, span_find(rest, '.'));
    size_t m = span_find(rest, 'M');
    struct span digits = span_skip(rest, m + 1);
    *out = take_digits(&digits);
    return m < rest.n;
}

/* As Dovecot sorts those that it has not seen yet. */
static int by_dovecot_name(const void *a, const void *b)
{
    struct span x = base_name(a), y = base_name(b);
    uint64_t s = take_digits(&x), t = take_digits(&y), u, v;
    if (s == t && microseconds(x, &u) && microseconds(y, &v) && u != v) {
        return u < v ? -1 : 1;
    }
    return s != t ? (s < t ? -1 : 1) : compare(x, y);
}

/* As Courier sorts all of them. */
static int by_courier_name(const void *a, const void *b)
{
    struct span x = base_name(a), y = base_name(b), s = x, t = y;
    uint64_t u = take_digits(&s), v = take_digits(&t);
    return u != v ? (u < v ? -1 : 1) : compare(x, y);
}

static int by_order(const void *a, const void *b)
{
    const struct file *x = a, *y = b;
    if (x->order != y->order) {
        return x->order < y->order ? -1 : 1;
    }
    return (x->uid > y->uid) - (x->uid < y->uid);
}

/* --- reading the folder ---------------------------------------------------------------------- */

static enum err fail_errno(const char *what, char *why, size_t why_size)
{
    enum err e = errno == ENOENT                     ? ERR_NOTFOUND
                 : errno == EACCES || errno == ELOOP ? ERR_DENIED
                                                     : ERR_TEMP;
    return source_fail(e, why, why_size, "%s: %s", what, strerror(errno));
}

/* The size as served, where the name has it: `,W=1234`. */
static void size_of_name(struct file *f)
{
    struct span s = base_name(f);
    for (; s.n; s = span_skip(s, 1)) {
        if (span_starts(s, SPAN(",W="))) {
            s = span_skip(s, 3);
            f->size_known =
                span_u64(span_first(s, span_find(s, ',')), UINT64_MAX, &f->size) == ERR_OK;
            return;
        }
    }
}

/*
 * When it arrived is in the name, and it is what servers set its time to. Copying makes the one
 * later, IMAP's APPEND the other: so the earlier.
 */
static int64_t arrival(const struct file *f, const struct stat *st)
{
    struct span s = base_name(f);
    size_t before = s.n;
    uint64_t named = take_digits(&s);
    size_t digits = before - s.n;
    int64_t changed = (int64_t)st->st_mtime;
    bool use = digits >= 9 && digits <= 11 && (int64_t)named < changed;
    return (use ? (int64_t)named : changed) * MS_OF_S;
}

static void add_file(struct maildir *m, const struct file *f)
{
    if ((m->n & (m->n - 1)) == 0) {
        m->files = mem_grow(m->files, m->n ? m->n * 2 : 1, sizeof *m->files);
    }
    m->files[m->n++] = *f;
}

static void take_entry(struct maildir *m, enum folder folder, const char *name)
{
    struct stat st;
    if (name[0] == '.' ||
        fstatat(m->folders[folder], name, &st, AT_SYMLINK_NOFOLLOW) != 0 /* gone meanwhile */ ||
        !S_ISREG(st.st_mode)) {
        return;
    }
    struct file f = { .name = mem_strdup(name), .folder = folder, .order = UINT32_MAX };
    f.base = span_find(span_str(name), ':');
    f.time_ms = arrival(&f, &st);
    f.too_large = st.st_size > SOURCE_OCTETS_MAX; /* served it is no smaller */
    size_of_name(&f);
    add_file(m, &f);
}

typedef bool entry_fn(struct maildir *m, enum folder folder, const char *name, void *arg);

/* False: it was not read to its end, unless fn ended it. */
static bool each_entry(struct maildir *m, enum folder folder, entry_fn *fn, void *arg)
{
    int fd = openat(m->folders[folder], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    const struct dirent *e;
    bool more = true;
    errno = 0;
    while (more && (e = readdir(d))) {
        more = fn(m, folder, e->d_name, arg);
        errno = 0;
    }
    bool good = errno == 0;
    closedir(d);
    return good;
}

static bool on_entry(struct maildir *m, enum folder folder, const char *name, void *arg)
{
    (void)arg;
    take_entry(m, folder, name);
    return true;
}

/* Of nothing there is no array, and qsort() wants one. */
static void sort(void *v, size_t n, size_t size, int (*by)(const void *, const void *))
{
    if (n > 0) {
        qsort(v, n, size, by);
    }
}

/* new first: what is moved to cur meanwhile is met twice rather than not at all. */
static enum err scan(struct maildir *m, char *why, size_t why_size)
{
    for (enum folder i = FOLDER_NEW; i <= FOLDER_CUR; i++) {
        if (!each_entry(m, i, on_entry, NULL)) {
            return fail_errno(folder_names[i], why, why_size);
        }
    }
    sort(m->files, m->n, sizeof *m->files, by_dovecot_name);
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) {
        if (n > 0 && compare(base_name(&m->files[n - 1]), base_name(&m->files[i])) == 0) {
            free(m->files[i].name);
        } else {
            m->files[n++] = m->files[i];
        }
    }
    m->n = n;
    return ERR_OK;
}

/* --- the old server's list ------------------------------------------------------------------- */

/* A plain file of the folder; NOTFOUND: there is none. */
static enum err read_text(struct maildir *m, const char *name, struct span *out, char *why,
                          size_t why_size)
{
    struct stat st;
    int fd = openat(m->root, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        enum err e = fail_errno(name, why, why_size);
        if (fd >= 0) {
            close(fd);
        }
        return e;
    }
    size_t n = 0, size = (size_t)st.st_size;
    bool good = S_ISREG(st.st_mode) && st.st_size >= 0 && size <= LIST_MAX;
    m->text = good ? mem_raw(size + 1) : NULL;
    while (good && n < size) {
        ssize_t got = read(fd, m->text + n, size - n);
        good = got >= 0;
        if (got <= 0) {
            break;
        }
        n += (size_t)got;
    }
    close(fd);
    *out = span_of(m->text, n);
    return good ? ERR_OK : source_fail(ERR_TEMP, why, why_size, "%s: can't be read", name);
}

static int entry_by_name(const void *a, const void *b)
{
    const struct uidlist_entry *x = a, *y = b;
    return compare(x->name, y->name);
}

static void use_entry(struct file *f, const struct uidlist_entry *e)
{
    f->uid = e->uid;
    f->order = e->order;
    f->has_uidl = e->has_uidl;
    f->uidl = e->uidl.n ? e->uidl : base_name(f);
    f->guid = e->guid;
    if (!f->size_known && e->size_known) {
        f->size_known = true;
        f->size = e->size;
    }
}

/* Files are in the order in which Dovecot numbers those that are new to it. */
static void number_files(struct maildir *m, struct uidlist *l)
{
    sort(l->entries, l->n, sizeof *l->entries, entry_by_name);
    for (size_t i = 0; i < m->n; i++) {
        struct file *f = &m->files[i];
        const struct uidlist_entry key = { .name = base_name(f) };
        const struct uidlist_entry *e =
            l->n ? bsearch(&key, l->entries, l->n, sizeof key, entry_by_name) : NULL;
        if (e) {
            use_entry(f, e);
        } else {
            f->uid = l->next++;
        }
    }
    sort(m->files, m->n, sizeof *m->files, by_order);
}

static enum err set_uidls(struct maildir *m, const char *format, uint32_t validity, char *why,
                          size_t why_size)
{
    enum err e = ERR_OK;
    struct buf text;
    buf_init(&text, PIECE);
    for (size_t i = 0; i < m->n && e == ERR_OK; i++) {
        const struct file *f = &m->files[i];
        struct span name = base_name(f);
        const struct uidl_parts parts = { validity, f->uid, name, f->guid.n ? f->guid : name };
        buf_clear(&text);
        if (!f->has_uidl) {
            e = uidl_format(format, &parts, &text, why, why_size);
        }
        source_uidl(&m->messages[i], f->has_uidl ? f->uidl : buf_span(&text));
    }
    buf_fini(&text);
    return e;
}

static enum err list_dovecot(struct maildir *m, char *why, size_t why_size)
{
    struct span text;
    struct uidlist l;
    enum err e = read_text(m, "dovecot-uidlist", &text, why, why_size);
    if (e != ERR_OK) {
        return e;
    }
    if (uidlist_parse(text, &l) != ERR_OK) {
        return source_fail(ERR_CORRUPT, why, why_size, "dovecot-uidlist: can't be understood");
    }
    number_files(m, &l);
    free(l.entries);
    return set_uidls(m, m->format ? m->format : "dovecot", l.validity, why, why_size);
}

static int sizelist_by_name(const void *a, const void *b)
{
    const struct sizelist_entry *x = a, *y = b;
    return compare(x->name, y->name);
}

/* What a name without a number becomes: octets that a UIDL may not have are told in hex. */
static void courier_name(struct span name, struct buf *out)
{
    for (size_t i = 0; i < name.n; i++) {
        unsigned char c = (unsigned char)name.p[i];
        (void)(c < 0x21 || c > 0x7e || strchr("'\"+", c) ? buf_addf(out, "+%02X", c)
                                                         : buf_addc(out, (char)c));
    }
}

static void courier_uidl(const struct file *f, struct source_message *s)
{
    struct buf text;
    buf_init(&text, PIECE);
    if (f->number && f->validity) {
        (void)buf_addf(&text, "UID%llu-%llu", (unsigned long long)f->number,
                       (unsigned long long)f->validity);
    } else if (f->number) {
        (void)buf_addf(&text, "UID%llu", (unsigned long long)f->number);
    } else {
        courier_name(base_name(f), &text);
    }
    source_uidl(s, buf_span(&text));
    buf_fini(&text);
}

static enum err list_courier(struct maildir *m, char *why, size_t why_size)
{
    struct span text;
    struct sizelist l;
    enum err e = read_text(m, "courierpop3dsizelist", &text, why, why_size);
    if (e != ERR_OK) {
        return e;
    }
    if (sizelist_parse(text, &l) != ERR_OK) {
        return source_fail(ERR_CORRUPT, why, why_size, "courierpop3dsizelist: can't be understood");
    }
    m->courier = true;
    sort(l.entries, l.n, sizeof *l.entries, sizelist_by_name);
    sort(m->files, m->n, sizeof *m->files, by_courier_name);
    for (size_t i = 0; i < m->n; i++) {
        struct file *f = &m->files[i];
        const struct sizelist_entry key = { .name = base_name(f) };
        const struct sizelist_entry *x =
            l.n ? bsearch(&key, l.entries, l.n, sizeof key, sizelist_by_name) : NULL;
        f->size_known = x;
        f->size = x ? x->size : 0;
        f->number = x ? x->number : l.next++;
        f->validity = x ? x->validity : l.validity;
        courier_uidl(f, &m->messages[i]);
    }
    free(l.entries);
    return ERR_OK;
}

/* Nobody has seen this mailbox by numbers: the names are as good as anything. */
static enum err list_names(struct maildir *m, char *why, size_t why_size)
{
    return set_uidls(m, m->format && strchr(m->format, '%') ? m->format : "%f", 0, why, why_size);
}

/* --- Cyrus ----------------------------------------------------------------------------------- */

static void add_cyrus(struct maildir *m, const struct cyrus_entry *e)
{
    char name[CYRUS_NAME];
    int n = snprintf(name, sizeof name, "%u.", e->uid);
    const struct file f = { .name = mem_strdup(name),
                            .base = (size_t)n,
                            .folder = FOLDER_ITSELF,
                            .time_ms = e->time_s * MS_OF_S,
                            .size_known = true,
                            .size = e->size,
                            .too_large = e->size > SOURCE_OCTETS_MAX,
                            .uid = e->uid };
    add_file(m, &f);
}

static enum err list_cyrus(struct maildir *m, char *why, size_t why_size)
{
    struct span text;
    struct cyrus_index x;
    enum err e = read_text(m, "cyrus.index", &text, why, why_size);
    if (e != ERR_OK) {
        return e;
    }
    e = cyrus_parse(text, &x);
    if (e != ERR_OK) {
        return source_fail(e, why, why_size,
                           e == ERR_INVALID ? "cyrus.index: of a version that is not known here"
                                            : "cyrus.index: can't be understood");
    }
    for (size_t i = 0; i < x.n; i++) {
        add_cyrus(m, &x.entries[i]);
    }
    free(x.entries);
    m->messages = NEW_ARRAY(struct source_message, m->n + 1);
    return set_uidls(m,
                     m->format    ? m->format
                     : x.new_uidl ? "cyrus"
                                  : "%u",
                     x.validity, why, why_size);
}

/* --- listing --------------------------------------------------------------------------------- */

static bool has(const struct maildir *m, const char *name)
{
    return faccessat(m->root, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Whether a format is made of numbers that only Dovecot's list has. */
static bool needs_list(const char *format)
{
    return format && (strcmp(format, "dovecot") == 0 || strpbrk(format, "uv")) &&
           strcmp(format, "courier") != 0;
}

/*
 * Whoever names a format means it: a list that is not there, since nobody has opened the mailbox
 * yet or since it is kept elsewhere, would make other UIDLs than the old server will.
 */
static enum err missing_list(const char *name, char *why, size_t why_size)
{
    return source_fail(ERR_NOTFOUND, why, why_size,
                       "there is no %s, which this format needs: the old server has not opened the "
                       "mailbox, or keeps it elsewhere (--format %%f takes the names of files)",
                       name);
}

/* A word that is none would otherwise be passed over where the names of files are taken. */
static bool is_format(const char *format)
{
    return !format || strchr(format, '%') || strcmp(format, "dovecot") == 0 ||
           strcmp(format, "courier") == 0 || strcmp(format, "cyrus") == 0;
}

static enum err list_by_kind(struct maildir *m, char *why, size_t why_size)
{
    bool courier = m->format && strcmp(m->format, "courier") == 0;
    bool has_courier = has(m, "courierpop3dsizelist");
    if (!is_format(m->format)) {
        return source_fail(ERR_INVALID, why, why_size,
                           "--format %s: neither dovecot, courier or cyrus, nor one with a %%",
                           m->format);
    }
    m->messages = NEW_ARRAY(struct source_message, m->n + 1);
    if (has(m, "dovecot-uidlist") && !courier) {
        return list_dovecot(m, why, why_size);
    }
    if (has_courier && (courier || !m->format)) {
        return list_courier(m, why, why_size);
    }
    if (m->n > 0 && courier) {
        return missing_list("courierpop3dsizelist", why, why_size);
    }
    if (m->n > 0 && needs_list(m->format)) {
        return missing_list("dovecot-uidlist", why, why_size);
    }
    return list_names(m, why, why_size);
}

/* What list_names told while there was no list. */
static void set_named(struct source_message *m, const struct file *f)
{
    struct source_message named = { 0 };
    source_uidl(&named, base_name(f));
    if (f->folder != FOLDER_ITSELF && strcmp(named.uidl, m->uidl) != 0) {
        memcpy(m->named, named.uidl, sizeof m->named);
    }
}

static void fill_messages(struct maildir *m)
{
    for (size_t i = 0; i < m->n; i++) {
        m->messages[i].size = m->files[i].size;
        m->messages[i].size_known = m->files[i].size_known;
        m->messages[i].time_ms = m->files[i].time_ms;
        m->messages[i].too_large = m->files[i].too_large;
    }
    source_uidls_unique(m->messages, m->n);
    for (size_t i = 0; i < m->n; i++) {
        set_named(&m->messages[i], &m->files[i]);
    }
}

static enum err maildir_list(struct mail_source *s, const struct source_message **out, size_t *n,
                             char *why, size_t why_size)
{
    struct maildir *m = CONTAINER_OF(s, struct maildir, head);
    enum err e;
    if (m->folders[FOLDER_CUR] < 0) {
        e = list_cyrus(m, why, why_size);
    } else {
        e = scan(m, why, why_size);
        e = e == ERR_OK ? list_by_kind(m, why, why_size) : e;
    }
    if (e != ERR_OK) {
        return e;
    }
    fill_messages(m);
    *out = m->messages;
    *n = m->n;
    return ERR_OK;
}

/* --- reading --------------------------------------------------------------------------------- */

/* Its flags have changed, or it was moved to cur. */
static bool on_renamed(struct maildir *m, enum folder folder, const char *name, void *arg)
{
    struct file *f = arg;
    struct span base = span_first(span_str(name), span_find(span_str(name), ':'));
    if (!span_eq(base, base_name(f))) {
        return true;
    }
    (void)m;
    free(f->name);
    f->name = mem_strdup(name);
    f->folder = folder;
    return false;
}

static int open_file(struct maildir *m, struct file *f)
{
    return openat(m->folders[f->folder], f->name,
                  O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
}

static int find_file(struct maildir *m, struct file *f)
{
    int fd = open_file(m, f);
    for (int i = FOLDER_CUR; i >= FOLDER_NEW && fd < 0 && errno == ENOENT; i--) {
        if (m->folders[i] >= 0) {
            each_entry(m, (enum folder)i, on_renamed, f);
            fd = open_file(m, f);
        }
    }
    return fd;
}

/* Plugins of Dovecot store messages otherwise than they serve them. */
static bool is_packed(struct span head)
{
    static const struct {
        const char *magic;
        size_t n;
    } kinds[] = { { "\x1f\x8b", 2 },
                  { "BZh", 3 },
                  { "\xfd"
                    "7zXZ",
                    5 },
                  { "\x28\xb5\x2f\xfd", 4 },
                  { "Dovecot-LZ4", 11 },
                  { "CRYPTED\x03\x07", 9 } };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (span_starts(head, span_of(kinds[i].magic, kinds[i].n))) {
            return true;
        }
    }
    return false;
}

static enum err read_file(struct maildir *m, int fd, source_piece_fn *fn, void *arg, char *why,
                          size_t why_size)
{
    struct crlf lines = { .always = m->courier };
    struct buf out;
    char piece[PIECE];
    bool first = true;
    enum err e = ERR_OK;
    buf_init(&out, (size_t)2 * PIECE);
    for (;;) {
        ssize_t got = read(fd, piece, sizeof piece);
        if (got < 0) {
            e = fail_errno("message", why, why_size);
        }
        if (got <= 0) {
            break;
        }
        struct span s = span_of(piece, (size_t)got);
        if (first && is_packed(s)) {
            e = source_fail(ERR_INVALID, why, why_size,
                            "stored compressed or encrypted: take it from the old server by pop3:");
            break;
        }
        first = false;
        crlf_add(&lines, s, &out);
        if (!fn(arg, buf_span(&out))) {
            break;
        }
        buf_clear(&out);
    }
    buf_fini(&out);
    return e;
}

static enum err maildir_read(struct mail_source *s, size_t i, source_piece_fn *fn, void *arg,
                             char *why, size_t why_size)
{
    struct maildir *m = CONTAINER_OF(s, struct maildir, head);
    struct stat st;
    CHECK(i < m->n);
    int fd = find_file(m, &m->files[i]);
    if (fd < 0) {
        return fail_errno(m->files[i].name, why, why_size);
    }
    enum err e = fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)
                     ? source_fail(ERR_DENIED, why, why_size, "not a plain file")
                 : st.st_size > SOURCE_OCTETS_MAX
                     ? source_fail(ERR_LIMIT, why, why_size, "it has grown beyond 2 GiB")
                     : read_file(m, fd, fn, arg, why, why_size);
    close(fd);
    return e;
}

/* --- life ------------------------------------------------------------------------------------ */

static void maildir_close(struct mail_source *s)
{
    struct maildir *m = CONTAINER_OF(s, struct maildir, head);
    for (size_t i = 0; i < m->n; i++) {
        free(m->files[i].name);
    }
    for (size_t i = 0; i < FOLDERS; i++) {
        if (m->folders[i] >= 0) {
            close(m->folders[i]);
        }
    }
    close(m->root);
    free(m->files);
    free(m->messages);
    free(m->text);
    free(m->format);
    free(m);
}

static int open_folder(int at, const char *path)
{
    return openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

enum err maildir_open(int fd, const struct source_options *o, struct mail_source **out, char *why,
                      size_t why_size)
{
    static const struct mail_source_ops ops = { maildir_list, maildir_read, maildir_close };
    struct maildir *m = NEW(struct maildir);
    m->head.ops = &ops;
    m->format = o->format ? mem_strdup(o->format) : NULL;
    m->root = fd;
    for (size_t i = 0; i < FOLDERS; i++) {
        m->folders[i] = open_folder(m->root, folder_names[i]);
    }
    if ((m->folders[FOLDER_NEW] < 0 || m->folders[FOLDER_CUR] < 0) && !has(m, "cyrus.index")) {
        maildir_close(&m->head);
        return source_fail(ERR_NOTFOUND, why, why_size, "neither a Maildir nor a mailbox of Cyrus");
    }
    *out = &m->head;
    return ERR_OK;
}
