/*
 * source_mbox: an mbox file, as an old server would serve it by POP3.
 *
 * The file is read once to find the messages, and again for each of them; nothing of it is kept but
 * places and UIDLs, however long its lines are. As Dovecot reads it: a message begins behind a line
 * `From ` with a date, and the line end in front of the next such line, or of the end, is not its.
 *
 * Headers in which servers keep their books (X-UID, Status...) are not served where a server has
 * them, as Dovecot and UW do: the first message has X-IMAPbase then. What is told of a message
 * without a UIDL is a hash of what does not change in it.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "mail_source.h"
#include "source_parts.h"

#define PIECE    65536
#define FROM_MAX 512 /* octets of a line that is looked at for a date */
#define HASH_HEX 64
#define MS_OF_S  1000

struct item {
    uint64_t from, begin, end; /* of its From_ line, and of the message */
    int64_t time_s;
    char *uidl; /* X-UIDL; NULL: none */
    uint32_t uid, validity, last_uid;
    bool internal; /* UW's first message, which is no message */
    char hash[HASH_HEX + 1];
};

enum quoting { QUOTING_KEPT, QUOTING_ONE /* mboxo */, QUOTING_ALL /* mboxrd */ };

struct mbox {
    struct mail_source head;
    int fd;
    enum quoting quoting;
    bool xuidl;   /* what a message has for X-UIDL comes first, whatever else there is */
    char *format; /* of UIDLs; NULL: none was given */
    bool books;   /* a server keeps its books in the headers */
    struct item *items;
    struct source_message *messages;
    size_t n;
};

/* --- lines ----------------------------------------------------------------------------------- */

/* Lines from an offset on; those that do not fit come in parts. */
struct lines {
    int fd;
    uint64_t next; /* to read from the file */
    uint64_t end;
    char mem[PIECE];
    size_t at, n;
    bool begins, failed;
};

struct part {
    struct span s; /* with its line end */
    uint64_t offset;
    bool begins, ends; /* the line */
};

static void lines_init(struct lines *l, int fd, uint64_t begin, uint64_t end)
{
    l->fd = fd;
    l->next = begin;
    l->end = end;
    l->at = l->n = 0;
    l->begins = true;
    l->failed = false;
}

static void lines_fill(struct lines *l)
{
    memmove(l->mem, l->mem + l->at, l->n - l->at);
    l->n -= l->at;
    l->at = 0;
    while (l->n < sizeof l->mem && l->next < l->end) {
        uint64_t left = l->end - l->next;
        size_t want = sizeof l->mem - l->n;
        ssize_t got =
            pread(l->fd, l->mem + l->n, left < want ? (size_t)left : want, (off_t)l->next);
        if (got <= 0) {
            l->failed = got < 0;
            l->end = l->next; /* it is shorter than it was */
            return;
        }
        l->n += (size_t)got;
        l->next += (uint64_t)got;
    }
}

static bool lines_next(struct lines *l, struct part *out)
{
    struct span rest = span_of(l->mem + l->at, l->n - l->at);
    size_t lf = span_find(rest, '\n');
    if (lf == rest.n) {
        lines_fill(l);
        rest = span_of(l->mem, l->n);
        lf = span_find(rest, '\n');
    }
    if (!rest.n) {
        return false;
    }
    out->ends = lf < rest.n;
    out->s = span_first(rest, lf + 1);
    out->offset = l->next - rest.n;
    out->begins = l->begins;
    l->begins = out->ends;
    l->at += out->s.n;
    return true;
}

static struct span without_end(struct span s)
{
    s.n -= s.n && s.p[s.n - 1] == '\n' ? 1 : 0;
    s.n -= s.n && s.p[s.n - 1] == '\r' ? 1 : 0;
    return s;
}

/* --- From_ lines ----------------------------------------------------------------------------- */

/* The forms that asctime, date and mailers write; times without a zone are taken for UTC. */
static bool parse_date(const char *text, int64_t *out)
{
    static const char *const forms[] = { "%a %b %d %H:%M:%S %Y %z",  "%a %b %d %H:%M:%S %Y",
                                         "%a %b %d %H:%M %Y",        "%a %b %d %H:%M:%S %z %Y",
                                         "%a %b %d %H:%M:%S GMT %Y", "%a %b %d %H:%M:%S UTC %Y",
                                         "%a, %d %b %Y %H:%M:%S %z" };
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct tm t = { 0 };
        const char *end = strptime(text, forms[i], &t);
        if (end && (!*end || *end == ' ')) {
            long zone = t.tm_gmtoff; /* timegm sets it anew */
            *out = (int64_t)timegm(&t) - zone;
            return true;
        }
    }
    return false;
}

/* `From address date`: the date begins behind some blank, as addresses may have some. */
static bool is_from(const struct part *p, int64_t *time_s)
{
    char text[FROM_MAX + 1];
    struct span s = without_end(p->s);
    if (!p->begins || !span_starts(s, SPAN("From ")) || s.n > FROM_MAX) {
        return false;
    }
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    for (const char *blank = strchr(text, ' '); blank; blank = strchr(blank + 1, ' ')) {
        if (blank[1] != ' ' && parse_date(blank + 1, time_s)) {
            return true;
        }
    }
    return false;
}

/* --- headers --------------------------------------------------------------------------------- */

static bool is_header(struct span line, const char *name, struct span *value)
{
    struct span want = span_str(name);
    if (!span_starts_nocase(line, want) || line.n <= want.n || line.p[want.n] != ':') {
        return false;
    }
    *value = span_trim(without_end(span_skip(line, want.n + 1)));
    return true;
}

static bool is_books(struct span line)
{
    static const char *const names[] = { "X-UID",    "X-IMAPbase", "X-IMAP",        "Status",
                                         "X-Status", "X-Keywords", "Content-Length" };
    struct span value;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (is_header(line, names[i], &value)) {
            return true;
        }
    }
    return false;
}

static bool is_blank(const struct part *p)
{
    return p->begins && without_end(p->s).n == 0;
}

/* Where one is in a message, line by line. */
struct place {
    bool body;
    bool books; /* in one of those headers, which may go on over several lines */
};

static void place_next(struct place *w, const struct part *p)
{
    if (w->body || !p->begins) {
        return;
    }
    bool goes_on = p->s.p[0] == ' ' || p->s.p[0] == '\t';
    w->books = goes_on ? w->books : is_books(p->s);
    w->body = is_blank(p);
}

/* --- finding the messages -------------------------------------------------------------------- */

struct finder {
    struct mbox *m;
    struct item *item; /* the one that is being read */
    struct place place;
    EVP_MD_CTX *hash;
    uint64_t blank_lines; /* that may be no part of it, and are not hashed yet */
    uint64_t end;         /* of the line before, without its end */
};

static void hash_part(struct finder *f, const struct part *p)
{
    if (p->begins && f->place.body && without_end(p->s).n == 0) {
        f->blank_lines++;
        return;
    }
    for (; f->blank_lines; f->blank_lines--) {
        EVP_DigestUpdate(f->hash, "\n", 1);
    }
    struct span s = without_end(p->s);
    EVP_DigestUpdate(f->hash, s.p, s.n);
    if (p->ends) {
        EVP_DigestUpdate(f->hash, "\n", 1);
    }
}

static uint32_t number(struct span s)
{
    uint64_t v = 0;
    return span_u64(s, UINT32_MAX, &v) == ERR_OK ? (uint32_t)v : 0;
}

static void note_header(struct finder *f, struct span line)
{
    struct item *i = f->item;
    struct span value;
    if (is_header(line, "X-UIDL", &value) && !i->uidl && value.n) {
        i->uidl = span_dup(value);
    } else if (is_header(line, "X-UID", &value)) {
        i->uid = number(value);
    } else if (is_header(line, "X-IMAPbase", &value) || is_header(line, "X-IMAP", &value)) {
        i->internal = !span_starts_nocase(line, SPAN("X-IMAPbase"));
        i->validity = number(span_word(&value));
        i->last_uid = number(span_word(&value));
    }
}

static void end_item(struct finder *f)
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (!f->item) {
        return;
    }
    f->item->end = f->end > f->item->begin ? f->end : f->item->begin;
    CHECK(EVP_DigestFinal_ex(f->hash, hash, &n) == 1);
    for (unsigned i = 0; i < n; i++) {
        snprintf(f->item->hash + (size_t)2 * i, 3, "%02x", hash[i]);
    }
}

static void begin_item(struct finder *f, const struct part *p, int64_t time_s)
{
    struct mbox *m = f->m;
    end_item(f);
    if ((m->n & (m->n - 1)) == 0) {
        m->items = mem_grow(m->items, m->n ? m->n * 2 : 1, sizeof *m->items);
    }
    f->item = &m->items[m->n++];
    *f->item = (struct item){ .from = p->offset, .begin = p->offset + p->s.n, .time_s = time_s };
    f->place = (struct place){ 0 };
    f->blank_lines = 0;
    CHECK(EVP_DigestInit_ex(f->hash, EVP_sha256(), NULL) == 1);
}

static bool find_part(struct finder *f, const struct part *p)
{
    int64_t time_s;
    if (is_from(p, &time_s)) {
        begin_item(f, p, time_s);
    } else if (!f->item) {
        return false;
    } else {
        place_next(&f->place, p);
        if (!f->place.body && p->begins) {
            note_header(f, p->s);
        }
        if (!f->place.books) {
            hash_part(f, p);
        }
    }
    f->end = p->offset + (p->ends ? without_end(p->s).n : p->s.n);
    return true;
}

static enum err find_messages(struct mbox *m, char *why, size_t why_size)
{
    struct stat st;
    if (fstat(m->fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        return source_fail(ERR_DENIED, why, why_size, "not a plain file");
    }
    struct finder f = { .m = m, .hash = EVP_MD_CTX_new() };
    struct lines *l = mem_raw(sizeof *l);
    struct part p;
    enum err e = ERR_OK;
    lines_init(l, m->fd, 0, (uint64_t)st.st_size);
    while (e == ERR_OK && lines_next(l, &p)) {
        if (!find_part(&f, &p)) {
            e = source_fail(ERR_INVALID, why, why_size, "not an mbox: its first line is no From_");
        } else if (f.end > f.item->begin + SOURCE_OCTETS_MAX) {
            /* Where the next one begins only reading would tell, and a hole may have no end. */
            e = source_fail(ERR_INVALID, why, why_size,
                            "message %zu is larger than 2 GiB: take it out of the file", m->n);
        }
    }
    if (e == ERR_OK && l->failed) {
        e = source_fail(ERR_TEMP, why, why_size, "%s", strerror(errno));
    }
    end_item(&f);
    EVP_MD_CTX_free(f.hash);
    free(l);
    return e;
}

/* --- listing --------------------------------------------------------------------------------- */

/* UW keeps its books in a first message of its own. */
static void drop_internal(struct mbox *m, uint32_t *validity, uint32_t *next)
{
    *validity = m->n ? m->items[0].validity : 0;
    *next = m->n ? m->items[0].last_uid + 1 : 1;
    m->books = *validity != 0 || m->format;
    if (m->n && m->items[0].internal) {
        free(m->items[0].uidl);
        memmove(m->items, m->items + 1, --m->n * sizeof *m->items);
    }
}

/* Numbers rise, or a server would give new ones. */
static void number_items(struct mbox *m, uint32_t next)
{
    uint32_t last = 0;
    for (size_t i = 0; i < m->n; i++) {
        struct item *t = &m->items[i];
        if (t->uid <= last || t->uid >= next) {
            t->uid = next++;
        }
        last = t->uid;
    }
}

/*
 * Where a server has numbered the messages it served them by their numbers: an X-UIDL in there is
 * another server's, and old. So Dovecot does, unless pop3_reuse_xuidl is set.
 */
static enum err set_uidl(struct mbox *m, size_t i, uint32_t validity, char *why, size_t why_size)
{
    const struct item *t = &m->items[i];
    const char *format = m->format ? m->format : "dovecot";
    bool numbered = m->format || validity;
    if ((m->xuidl && t->uidl) || !numbered) {
        source_uidl(&m->messages[i], span_str(t->uidl ? t->uidl : t->hash));
        return ERR_OK;
    }
    const struct uidl_parts parts = { .validity = validity, .uid = t->uid };
    struct buf text;
    buf_init(&text, PIECE);
    enum err e = uidl_format(format, &parts, &text, why, why_size);
    source_uidl(&m->messages[i], buf_span(&text));
    buf_fini(&text);
    return e;
}

static enum err mbox_list(struct mail_source *s, const struct source_message **out, size_t *n,
                          char *why, size_t why_size)
{
    struct mbox *m = CONTAINER_OF(s, struct mbox, head);
    uint32_t validity, next;
    enum err e = find_messages(m, why, why_size);
    if (e != ERR_OK) {
        return e;
    }
    drop_internal(m, &validity, &next);
    number_items(m, next);
    m->messages = NEW_ARRAY(struct source_message, m->n + 1);
    for (size_t i = 0; i < m->n && e == ERR_OK; i++) {
        m->messages[i].time_ms = m->items[i].time_s * MS_OF_S;
        e = set_uidl(m, i, validity, why, why_size);
    }
    if (e != ERR_OK) {
        return e;
    }
    source_uidls_unique(m->messages, m->n);
    *out = m->messages;
    *n = m->n;
    return ERR_OK;
}

/* --- reading --------------------------------------------------------------------------------- */

/* What a `>` was put in front of. A header `>From ` is none of mboxo's: mailers write such. */
static struct span unquoted(const struct mbox *m, const struct part *p, bool body)
{
    size_t marks = 0;
    while (marks < p->s.n && p->s.p[marks] == '>') {
        marks++;
    }
    bool quoted = p->begins && marks && span_starts(span_skip(p->s, marks), SPAN("From ")) &&
                  (m->quoting == QUOTING_ALL || (m->quoting == QUOTING_ONE && marks == 1 && body));
    return span_skip(p->s, quoted ? 1 : 0);
}

/* A server may have written the file anew since it was listed. */
static bool still_there(struct lines *l, const struct mbox *m, const struct item *t)
{
    struct part p;
    int64_t time_s;
    lines_init(l, m->fd, t->from, t->begin);
    return lines_next(l, &p) && is_from(&p, &time_s) && time_s == t->time_s &&
           p.offset + p.s.n == t->begin;
}

static enum err mbox_read(struct mail_source *s, size_t i, source_piece_fn *fn, void *arg,
                          char *why, size_t why_size)
{
    struct mbox *m = CONTAINER_OF(s, struct mbox, head);
    CHECK(i < m->n);
    const struct item *t = &m->items[i];
    struct lines *l = mem_raw(sizeof *l);
    struct crlf crlf = { 0 };
    struct place place = { 0 };
    struct part p;
    struct buf out;
    bool more = true;
    enum err e = still_there(l, m, t)
                     ? ERR_OK
                     : source_fail(ERR_TEMP, why, why_size, "the file was written anew meanwhile");
    buf_init(&out, (size_t)2 * PIECE);
    lines_init(l, m->fd, t->begin, t->end);
    while (e == ERR_OK && more && lines_next(l, &p)) {
        place_next(&place, &p);
        if (!m->books || !place.books || place.body) {
            crlf_add(&crlf, unquoted(m, &p, place.body), &out);
            more = fn(arg, buf_span(&out));
            buf_clear(&out);
        }
    }
    if (e == ERR_OK && more && l->next < t->end) {
        e = source_fail(ERR_TEMP, why, why_size, "the file has become shorter meanwhile");
    }
    buf_fini(&out);
    free(l);
    return e;
}

/* --- life ------------------------------------------------------------------------------------ */

static void mbox_close(struct mail_source *s)
{
    struct mbox *m = CONTAINER_OF(s, struct mbox, head);
    for (size_t i = 0; i < m->n; i++) {
        free(m->items[i].uidl);
    }
    close(m->fd);
    free(m->items);
    free(m->messages);
    free(m->format);
    free(m);
}

/* True: it is the first word of *s, and was taken off. */
static bool take_word(struct span *s, const char *word)
{
    size_t n = span_find(*s, ',');
    if (!span_eq(span_first(*s, n), span_str(word))) {
        return false;
    }
    *s = span_skip(*s, n + 1);
    return true;
}

/* `mboxo` or `mboxrd`, `xuidl`, a format of UIDLs: with commas, in this order, each as one likes.
 */
static void take_format(struct mbox *m, const char *format)
{
    struct span s = span_str(format);
    m->quoting = take_word(&s, "mboxo")    ? QUOTING_ONE
                 : take_word(&s, "mboxrd") ? QUOTING_ALL
                                           : QUOTING_KEPT;
    m->xuidl = take_word(&s, "xuidl");
    m->format = s.n ? span_dup(s) : NULL;
}

enum err mbox_open(int fd, const struct source_options *o, struct mail_source **out, char *why,
                   size_t why_size)
{
    static const struct mail_source_ops ops = { mbox_list, mbox_read, mbox_close };
    struct mbox *m = NEW(struct mbox);
    (void)why;
    (void)why_size;
    m->head.ops = &ops;
    m->fd = fd;
    if (o->format) {
        take_format(m, o->format);
    }
    *out = &m->head;
    return ERR_OK;
}
