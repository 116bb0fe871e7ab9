/*
 * posix_volume: the file calls of a volume that is a directory of a mounted file system. They
 * block, are safe from any thread, and know neither loop nor pool: spool_posix makes them on its
 * threads, the operator's command makes them directly.
 *
 * Whoever fails writes one line to why, which has room for HEALTH_WHY octets.
 */
#ifndef MAILFLEET_STORE_POSIX_VOLUME_H
#define MAILFLEET_STORE_POSIX_VOLUME_H

#include "store/posix_dirs.h"
#include "store/spool_backend.h"

#define POSIX_SCHEME "file:///" /* and the rest of an absolute path */

struct posix_volume {
    struct volume volume;
    _Atomic int root;     /* the kept descriptor; -1 until the sentinel was found right */
    _Atomic bool is_nfs;  /* a create is durable by protocol */
    _Atomic bool noatime; /* O_NOATIME is permitted, as far as is known */
    struct posix_dirs dirs;

    /* For posix_volume_probe, which is not called twice at a time. */
    uint64_t day;  /* the day whose directories are being made, */
    unsigned made; /* and how many are */
};

void posix_volume_init(struct posix_volume *pv, const struct volume *v);
void posix_volume_fini(struct posix_volume *pv);

/* One step of a file, as backend_write_fn tells. On failure the file is closed. */
enum err posix_volume_write(struct posix_volume *pv, struct outfile *f, char *why);
/* The next piece of at most chunk octets, as backend_read_fn tells. On failure it is closed. */
enum err posix_volume_read(struct posix_volume *pv, struct infile *f, uint64_t chunk, char *why);
enum err posix_volume_unlink(struct posix_volume *pv, const struct blob_id *id, char *why);
void posix_volume_probe(struct posix_volume *pv, bool prepare, struct backend_report *r);

/* Walks the root's path anew and finds its sentinel right; *out is the caller's. */
enum err posix_volume_root(const struct volume *v, int *out, char *why);

/* As volume_create and volume_check. */
enum err posix_volume_create(const struct volume *v, const struct spool_options *o, char *why,
                             size_t why_size);
enum err posix_volume_check(const struct volume *v, const struct spool_options *o, char *why,
                            size_t why_size);
/* As volume_learn. */
enum err posix_volume_learn(struct volume *v, const struct spool_options *o, char *why,
                            size_t why_size);

#endif
