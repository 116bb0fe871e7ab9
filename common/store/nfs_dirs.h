/*
 * nfs_dirs: the handles of a volume's directories, as far as they are known: of some days, and of
 * their hash directories. Memory only; what is missing is nfs_walk's to find.
 */
#ifndef MAILFLEET_STORE_NFS_DIRS_H
#define MAILFLEET_STORE_NFS_DIRS_H

#include "store/envelope.h"
#include "store/nfs_handle.h"

/* Days that are kept at most; the one that was not asked for longest goes first. */
#define NFS_DIRS_DAYS 16

/* Where a message file is: its day, its hash directory, and the three names. */
struct nfs_place {
    uint32_t day;  /* since 1970 */
    uint32_t leaf; /* 0 to 16^fanout - 1 */
    char day_name[12];
    char leaf_name[SPOOL_FANOUT_MAX + 1];
    char file_name[BLOB_ID_CHARS + 1];
};
void nfs_place_of(const struct blob_id *id, unsigned fanout, struct nfs_place *out);

struct nfs_dirs {
    unsigned fanout;
    uint64_t uses;
    struct nfs_day *days[NFS_DIRS_DAYS]; /* NULL: free */
};

void nfs_dirs_init(struct nfs_dirs *d, unsigned fanout);
void nfs_dirs_fini(struct nfs_dirs *d);

/* NULL: not known. Valid until the next call of a function that is not one of these two. */
const struct nfs_handle *nfs_dirs_day(struct nfs_dirs *d, uint32_t day);
const struct nfs_handle *nfs_dirs_leaf(struct nfs_dirs *d, uint32_t day, uint32_t leaf);

void nfs_dirs_set_day(struct nfs_dirs *d, uint32_t day, const struct nfs_handle *h);
/* Nothing if the day is not known. */
void nfs_dirs_set_leaf(struct nfs_dirs *d, uint32_t day, uint32_t leaf, const struct nfs_handle *h);
/* A name that was found in a day's directory: anything else than a hash directory is left out. */
void nfs_dirs_found(struct nfs_dirs *d, uint32_t day, const char *name, const struct nfs_handle *h);

/*
 * A leaf of this day has to be looked for. True: so many were that listing the day's directory,
 * which has nothing but hash directories, is fewer calls. Once; never if they are too many.
 */
bool nfs_dirs_should_list(struct nfs_dirs *d, uint32_t day);
void nfs_dirs_set_listed(struct nfs_dirs *d, uint32_t day);
/* It was listed to its end: a leaf that is not known was not there then. */
bool nfs_dirs_listed(const struct nfs_dirs *d, uint32_t day);

/* They may be wrong: of this day; of all. */
void nfs_dirs_forget(struct nfs_dirs *d, uint32_t day);
void nfs_dirs_clear(struct nfs_dirs *d);

#endif
