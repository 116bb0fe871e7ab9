/*
 * nfs_url: the URL of a volume on an NFS server (RFC 2224 in form, with options of ours).
 *
 *   nfs://host[:port]/export/path[?mountport=N][&uid=N&gid=N]
 *
 * Text only; looks nothing up.
 */
#ifndef MAILFLEET_STORE_NFS_URL_H
#define MAILFLEET_STORE_NFS_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NFS_SCHEME       "nfs://"
#define NFS_DEFAULT_PORT 2049

struct nfs_export {
    char host[256]; /* a name or an address, an IPv6 one without its brackets */
    uint16_t port;
    uint16_t mount_port; /* 0: the server's portmapper is asked */
    char path[1024];     /* what is mounted; absolute, %XX decoded */
    bool has_owner;      /* uid and gid were given */
    uint32_t uid, gid;
};

/* False: why says what is wrong, in words that follow "its URL". *out is untouched then. */
bool nfs_url_parse(const char *text, struct nfs_export *out, char *why, size_t why_size);

#endif
