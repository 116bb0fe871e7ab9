/*
 * mail_source: from a URL to the kind of source that reads it. A path has its address filled in
 * here, and is opened for the source.
 */
#include "mail_source.h"

#include <fcntl.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/check.h"
#include "source_open.h"
#include "source_parts.h"

#define PATH_LIMIT 4096

/*
 * A part of an address in a path: one name, which leads to no other folder. Addresses may hold
 * almost anything before their @.
 */
static bool add_part(struct buf *out, struct span part)
{
    if (!part.n || part.p[0] == '.' || span_find(part, '/') < part.n ||
        span_find(part, '\0') < part.n) {
        return false;
    }
    return buf_add(out, part) == ERR_OK;
}

static bool add_place(struct buf *out, char c, struct span address)
{
    size_t at = address.n;
    while (at > 0 && address.p[at - 1] != '@') {
        at--;
    }
    struct span local = span_first(address, at ? at - 1 : address.n);
    struct span domain = span_skip(address, at ? at : address.n);
    switch (c) {
    case 'a':
        return add_part(out, address);
    case 'u':
        return add_part(out, local);
    case 'd':
        return add_part(out, domain);
    case '%':
        return buf_addc(out, '%') == ERR_OK;
    default:
        return false;
    }
}

static bool add_path(struct buf *out, const char *path, struct span address)
{
    for (const char *p = path; *p; p++) {
        bool good = *p == '%' ? add_place(out, *++p, address) : buf_addc(out, *p) == ERR_OK;
        if (!good) {
            return false;
        }
    }
    return buf_addc(out, '\0') == ERR_OK;
}

struct kind {
    const char *scheme;
    enum err (*open)(const char *url, const struct source_options *o, struct mail_source **out,
                     char *why, size_t why_size); /* of the whole URL; or else */
    enum err (*open_fd)(int fd, const struct source_options *o, struct mail_source **out, char *why,
                        size_t why_size);
    int flags; /* for the path */
};

static enum err open_path(const struct kind *k, const char *path, const struct source_options *o,
                          struct mail_source **out, char *why, size_t why_size)
{
    struct buf full;
    int fd;
    buf_init(&full, PATH_LIMIT);
    enum err e =
        add_path(&full, path, span_str(o->address))
            ? source_open(buf_span(&full).p, strcspn(path, "%"), k->flags, &fd, why, why_size)
            : source_fail(ERR_INVALID, why, why_size, "%s: can't be filled in for this address",
                          path);
    buf_fini(&full);
    return e == ERR_OK ? k->open_fd(fd, o, out, why, why_size) : e;
}

enum err mail_source_open(const char *url, const struct source_options *o, struct mail_source **out,
                          char *why, size_t why_size)
{
    static const struct kind kinds[] = {
        { "maildir:", NULL, maildir_open, O_RDONLY | O_DIRECTORY },
        { "mbox:", NULL, mbox_open, O_RDONLY | O_NONBLOCK | O_NOCTTY },
        { "pop3:", pop3_source_open, NULL, 0 },
        { "pop3s:", pop3_source_open, NULL, 0 },
        { "pop3+plain:", pop3_source_open, NULL, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct kind *k = &kinds[i];
        size_t n = strlen(k->scheme);
        if (strncmp(url, k->scheme, n) == 0) {
            return k->open ? k->open(url, o, out, why, why_size)
                           : open_path(k, url + n, o, out, why, why_size);
        }
    }
    return source_fail(ERR_INVALID, why, why_size,
                       "%s: not maildir:, mbox:, pop3:, pop3s: or pop3+plain:", url);
}
