/*
 * nfs_url: takes the URL of a volume apart, and refuses what it does not understand: an option that
 * is misspelt would else be a volume with other properties than its operator thinks.
 */
#include "store/nfs_url.h"

#include <stdio.h>

#include "base/span.h"

/* The head of *rest up to c, which goes too; all of it when there is none. */
static struct span take_until(struct span *rest, char c)
{
    size_t n = span_find(*rest, c);
    struct span head = span_first(*rest, n);
    *rest = span_skip(*rest, n + 1);
    return head;
}

static bool refuse(char *why, size_t why_size, const char *text)
{
    snprintf(why, why_size, "%s", text);
    return false;
}

static bool copy(struct span s, char *out, size_t size)
{
    if (!s.n || s.n >= size || memchr(s.p, '\0', s.n)) {
        return false;
    }
    memcpy(out, s.p, s.n);
    out[s.n] = '\0';
    return true;
}

static bool read_port(struct span s, uint16_t *out)
{
    uint64_t v;
    if (span_u64(s, UINT16_MAX, &v) != ERR_OK || !v) {
        return false;
    }
    *out = (uint16_t)v;
    return true;
}

/* The highest is what servers take for "nobody" or for "leave it". */
static bool read_id(struct span s, uint32_t *out)
{
    uint64_t v;
    if (span_u64(s, UINT32_MAX - 1, &v) != ERR_OK) {
        return false;
    }
    *out = (uint32_t)v;
    return true;
}

/* host, host:port, [address] or [address]:port */
static bool read_authority(struct span s, struct nfs_export *u)
{
    struct span host;
    if (s.n && s.p[0] == '[') {
        s = span_skip(s, 1);
        if (span_find(s, ']') == s.n) {
            return false;
        }
        host = take_until(&s, ']');
        if (s.n && s.p[0] != ':') {
            return false;
        }
    } else {
        size_t n = span_find(s, ':');
        host = span_first(s, n);
        s = span_skip(s, n);
    }
    u->port = NFS_DEFAULT_PORT;
    return copy(host, u->host, sizeof u->host) && (!s.n || read_port(span_skip(s, 1), &u->port));
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool read_path(struct span s, char *out, size_t size)
{
    size_t n = 0;
    while (s.n) {
        char c = s.p[0];
        size_t used = 1;
        if (c == '%') {
            if (s.n < 3 || hex_digit(s.p[1]) < 0 || hex_digit(s.p[2]) < 0) {
                return false;
            }
            c = (char)(hex_digit(s.p[1]) * 16 + hex_digit(s.p[2]));
            used = 3;
        }
        if (!c || n + 1 >= size) {
            return false;
        }
        out[n++] = c;
        s = span_skip(s, used);
    }
    out[n] = '\0';
    return n > 0;
}

static bool read_option(struct span option, struct nfs_export *u, bool *uid, bool *gid)
{
    struct span value = option, name = take_until(&value, '=');
    if (span_eq(name, SPAN("mountport"))) {
        return read_port(value, &u->mount_port);
    }
    if (span_eq(name, SPAN("uid"))) {
        return *uid = read_id(value, &u->uid);
    }
    if (span_eq(name, SPAN("gid"))) {
        return *gid = read_id(value, &u->gid);
    }
    return false;
}

bool nfs_url_parse(const char *text, struct nfs_export *out, char *why, size_t why_size)
{
    struct nfs_export u = { 0 };
    bool uid = false, gid = false;
    struct span options = span_str(text);
    if (!span_starts(options, SPAN(NFS_SCHEME))) {
        return refuse(why, why_size, "does not begin with " NFS_SCHEME);
    }
    options = span_skip(options, sizeof NFS_SCHEME - 1);
    struct span place = take_until(&options, '?');
    size_t slash = span_find(place, '/');
    if (!read_authority(span_first(place, slash), &u)) {
        return refuse(why, why_size, "names no host, or a port that is none");
    }
    if (!read_path(span_skip(place, slash), u.path, sizeof u.path)) {
        return refuse(why, why_size, "names no path of an export");
    }
    while (options.n) {
        if (!read_option(take_until(&options, '&'), &u, &uid, &gid)) {
            return refuse(why, why_size,
                          "has an option that is not mountport=, uid= or gid=, "
                          "or a value that is out of range");
        }
    }
    if (uid != gid) {
        return refuse(why, why_size, "has uid= or gid=, but not both");
    }
    u.has_owner = uid;
    *out = u;
    return true;
}
