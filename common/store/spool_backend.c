/*
 * spool_backend: what all kinds of volume do alike with a message file: hash it, complete its
 * envelope block, and check that what was read is what the pointer names.
 *
 * A file has one owner at a time (spool_backend.h); its memory is freed with it, a piece that was
 * read as soon as the next one takes its place. No I/O: descriptors and handles are the back-end's.
 */
#include "store/spool_backend.h"

#include <stdlib.h>
#include <time.h>

#include "base/check.h"

bool spool_is_uuid(struct span s)
{
    static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    bool ok = s.n == sizeof form - 1;
    for (size_t i = 0; ok && i < s.n; i++) {
        char c = s.p[i];
        ok = form[i] == '-' ? c == '-' : (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    }
    return ok;
}

uint64_t spool_today(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_REALTIME, &t) == 0);
    return (uint64_t)t.tv_sec * 1000 / SPOOL_DAY_MS;
}

struct outfile *outfile_new(const struct blob_id *id, struct buf *block)
{
    struct outfile *f = NEW(struct outfile);
    f->id = *id;
    f->file.fd = -1;
    f->first = true;
    f->block = *block;
    buf_init(block, block->limit);
    buf_init(&f->octets, SIZE_MAX);
    f->sha256 = EVP_MD_CTX_new();
    CHECK(f->sha256);
    return f;
}

void outfile_free(struct outfile **pf)
{
    struct outfile *f = *pf;
    *pf = NULL;
    if (f) {
        EVP_MD_CTX_free(f->sha256);
        buf_fini(&f->octets);
        buf_fini(&f->block);
        free(f);
    }
}

struct span outfile_tail(const struct outfile *f, uint64_t *offset)
{
    struct span block = buf_span(&f->block);
    *offset = block.n - ENVELOPE_TAIL;
    return span_skip(block, block.n - ENVELOPE_TAIL);
}

/* The block has the same length with dashes and without: its end is overwritten in memory. */
static void seal(struct outfile *f)
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    char hex[ENVELOPE_SHA256_HEX + 1], tail[ENVELOPE_TAIL + 1];
    CHECK(EVP_DigestFinal_ex(f->sha256, sum, NULL) == 1);
    for (size_t i = 0; i < ENVELOPE_SHA256_HEX; i++) {
        hex[i] = "0123456789abcdef"[sum[i / 2] >> (i % 2 ? 0 : 4) & 15];
    }
    hex[ENVELOPE_SHA256_HEX] = '\0';
    envelope_tail(f->size, hex, tail);
    memcpy(f->block.mem + f->block.tail - ENVELOPE_TAIL, tail, ENVELOPE_TAIL);
}

void outfile_prepare(struct outfile *f)
{
    struct span octets = buf_span(&f->octets);
    if (f->first) {
        CHECK(EVP_DigestInit_ex(f->sha256, EVP_sha256(), NULL) == 1);
        octets = span_skip(octets, buf_len(&f->block));
        f->size = 0;
    }
    CHECK(EVP_DigestUpdate(f->sha256, octets.p, octets.n) == 1);
    f->size += octets.n;
    if (f->last) {
        seal(f);
    }
    if (f->last && f->first) {
        memcpy(f->octets.mem + f->octets.head, f->block.mem + f->block.head, buf_len(&f->block));
    }
}

uint64_t outfile_offset(const struct outfile *f)
{
    return f->first ? 0 : buf_len(&f->block) + f->size - buf_len(&f->octets);
}

struct infile *infile_new(const struct pointer *p, struct span handle)
{
    struct infile *f = NEW(struct infile);
    f->id = p->id;
    f->file.fd = -1;
    CHECK(handle.n <= HANDLE_MAX);
    nfs_handle_set(&f->file.handle, handle);
    f->skip = p->skip;
    f->end = (uint64_t)p->skip + p->size;
    return f;
}

void infile_free(struct infile **pf)
{
    struct infile *f = *pf;
    *pf = NULL;
    if (f) {
        free(f->mem);
        free(f);
    }
}

size_t infile_next(const struct infile *f, uint64_t chunk, bool *last)
{
    uint64_t left = f->end - f->at;
    *last = left <= chunk;
    return (size_t)(*last ? left : chunk);
}

enum err infile_lend(struct infile *f, const char *octets, size_t want, size_t got)
{
    bool first = f->at == 0;
    free(f->mem);
    f->mem = NULL;
    f->piece = octets;
    f->len = got;
    f->at += got;
    if (got != want || (first && !envelope_is(span_of(octets, got), &f->id))) {
        return ERR_CORRUPT;
    }
    return ERR_OK;
}

enum err infile_take(struct infile *f, char *mem, size_t want, size_t got)
{
    enum err e = infile_lend(f, mem, want, got);
    f->mem = mem;
    return e;
}

struct span infile_piece(const struct infile *f)
{
    uint64_t start = f->at - f->len;
    return span_skip(span_of(f->piece, f->len), start < f->skip ? f->skip - start : 0);
}
