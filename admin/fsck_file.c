/*
 * fsck_file: reads as much from the front as the envelope needs: little at first, as most have few
 * recipients. Owns the octets until fsck_file_fini.
 */
#include "fsck_file.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define FIRST_READ (4u << 10)
#define MOST_READ  (16u << 20) /* of an envelope: more recipients than a transaction may have */
#define DIGEST     32

/* More of its front, up to want octets. */
static enum err read_more(struct volume_walk *w, const char *path, struct buf *head, size_t want)
{
    size_t have = buf_len(head), got;
    char *to = buf_reserve(head, want - have);
    enum err e = volume_walk_read(w, path, have, to, want - have, &got);
    if (e == ERR_OK) {
        buf_commit(head, got);
    }
    return e;
}

/* What is there is the beginning of an envelope that was to become longer, or was never written. */
static bool is_cut(struct span head, const struct blob_id *id)
{
    char text[BLOB_ID_CHARS + 1], begin[64];
    blob_id_text(id, text);
    int n = snprintf(begin, sizeof begin, "mailfleet 1\nid: %s\n", text);
    bool zeros = true;
    for (size_t i = 0; i < head.n && zeros; i++) {
        zeros = !head.p[i];
    }
    return zeros || (head.n < (size_t)n && span_starts(span_of(begin, (size_t)n), head)) ||
           (envelope_is(head, id) && !memmem(head.p, head.n, "\n\n", 2));
}

static enum file_state judge(const struct fsck_file *f, const struct blob_id *id, uint64_t size)
{
    if (!f->readable) {
        return is_cut(buf_span(&f->head), id) ? FILE_UNFINISHED : FILE_FOREIGN;
    }
    if (!blob_id_eq(&f->envelope.id, id)) {
        return FILE_FOREIGN;
    }
    if (!f->envelope.complete || size < f->skip || size - f->skip < f->envelope.size) {
        return FILE_UNFINISHED;
    }
    return size - f->skip > f->envelope.size ? FILE_DAMAGED : FILE_WHOLE;
}

enum err fsck_file_read(struct volume_walk *w, const char *path, const struct blob_id *id,
                        uint64_t size, struct fsck_file *out)
{
    struct fsck_file f = { 0 };
    enum err e;
    buf_init(&f.head, SIZE_MAX);
    size_t want = FIRST_READ;
    for (;; want *= 4) {
        e = read_more(w, path, &f.head, want);
        f.readable =
            e == ERR_OK && envelope_parse(buf_span(&f.head), &f.envelope, &f.to, &f.skip) == ERR_OK;
        if (e != ERR_OK || f.readable || buf_len(&f.head) < want || want >= MOST_READ) {
            break;
        }
    }
    if (e != ERR_OK && e != ERR_CORRUPT) {
        buf_fini(&f.head);
        return e;
    }
    f.state = e == ERR_CORRUPT ? FILE_UNREADABLE : judge(&f, id, size);
    *out = f;
    return ERR_OK;
}

void fsck_file_fini(struct fsck_file *f)
{
    free(f->to);
    f->to = NULL;
    buf_fini(&f->head);
}

static bool is_hash(EVP_MD_CTX *md, const char *hex)
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char text[2 * DIGEST + 1];
    CHECK(EVP_DigestFinal_ex(md, sum, &n) == 1 && n == DIGEST);
    for (size_t i = 0; i < DIGEST; i++) {
        snprintf(text + 2 * i, 3, "%02x", sum[i]);
    }
    return strcmp(text, hex) == 0;
}

enum err fsck_file_verify(struct volume_walk *w, const char *path, const struct fsck_file *f,
                          void *mem, size_t n, bool *right)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    CHECK(md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1);
    uint64_t at = f->skip;
    size_t got = n;
    enum err e = ERR_OK;
    while (e == ERR_OK && got == n) {
        e = volume_walk_read(w, path, at, mem, n, &got);
        if (e == ERR_OK) {
            CHECK(EVP_DigestUpdate(md, mem, got) == 1);
            at += got;
        }
    }
    if (e == ERR_OK) {
        *right = is_hash(md, f->envelope.sha256);
    }
    EVP_MD_CTX_free(md);
    return e;
}
