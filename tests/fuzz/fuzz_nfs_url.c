/*
 * fuzz_nfs_url: any text as the URL of a volume.
 *
 * What is accepted must be what it says: written anew from its parts it is accepted, too, and has
 * the same parts. What is refused has a reason, and leaves no trace.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "store/nfs_url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_path(const char *path, char *out)
{
    for (; *path; path++, out += 3) {
        snprintf(out, 4, "%%%02x", (unsigned char)*path);
    }
}

static void write_url(const struct nfs_export *u, char *out, size_t size)
{
    char path[3 * sizeof u->path] = "", mount[32] = "", owner[64] = "";
    bool bracket = strchr(u->host, ':') || u->host[0] == '[';
    write_path(u->path + 1, path);
    if (u->mount_port) {
        snprintf(mount, sizeof mount, "mountport=%u&", u->mount_port);
    }
    if (u->has_owner) {
        snprintf(owner, sizeof owner, "uid=%u&gid=%u", u->uid, u->gid);
    }
    snprintf(out, size, NFS_SCHEME "%s%s%s:%u/%s?%s%s", bracket ? "[" : "", u->host,
             bracket ? "]" : "", u->port, path, mount, owner);
}

static void check_parts(const struct nfs_export *u)
{
    CHECK(*u->host && memchr(u->host, '\0', sizeof u->host) && !strchr(u->host, '/'));
    CHECK(u->port);
    CHECK(u->path[0] == '/' && memchr(u->path, '\0', sizeof u->path));
    CHECK(u->has_owner || (!u->uid && !u->gid));
    CHECK(u->uid < UINT32_MAX && u->gid < UINT32_MAX);
}

static void check_again(const struct nfs_export *u)
{
    struct nfs_export again;
    char url[8192], why[128];
    write_url(u, url, sizeof url);
    CHECK(nfs_url_parse(url, &again, why, sizeof why));
    CHECK(!strcmp(again.host, u->host) && again.port == u->port);
    CHECK(!strcmp(again.path, u->path) && again.mount_port == u->mount_port);
    CHECK(again.has_owner == u->has_owner && again.uid == u->uid && again.gid == u->gid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_new(size + 1, 1), why[128] = "";
    struct nfs_export u, before;
    if (size) {
        memcpy(text, data, size);
    }
    memset(&u, 0x5a, sizeof u);
    before = u;
    if (nfs_url_parse(text, &u, why, sizeof why)) {
        check_parts(&u);
        check_again(&u);
    } else {
        CHECK(*why && !memcmp(&u, &before, sizeof u));
    }
    free(text);
    return 0;
}
