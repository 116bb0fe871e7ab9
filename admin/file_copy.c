/*
 * file_copy: a reader of the whole file, envelope block and all, feeds a writer with the same id;
 * at its end another reader reads the copy. The writer makes the block anew from what it says, so
 * that it is one that envelope.c makes: a block that would differ is refused before anything is
 * written. The message must have the hash that its envelope has; the copy must have the hash of all
 * octets that were read.
 *
 * A copying lives from its first read to its end, owns reader, writer and block, and frees them.
 */
#include "file_copy.h"

#include <openssl/evp.h>
#include <stdlib.h>

#include "base/check.h"
#include "store/envelope.h"

struct copying {
    struct file_copy *copy;
    struct spool *spool;
    size_t *pending;
    struct spool_reader *reader;
    struct spool_writer *writer;
    struct buf block;           /* as it was read */
    struct envelope block_says; /* borrows block */
    EVP_MD_CTX *message, *file, *again;
    uint8_t sum[EVP_MAX_MD_SIZE]; /* of the file that was read */
};

static EVP_MD_CTX *hash_new(void)
{
    EVP_MD_CTX *h = EVP_MD_CTX_new();
    CHECK(h && EVP_DigestInit_ex(h, EVP_sha256(), NULL) == 1);
    return h;
}

static void hash_add(EVP_MD_CTX *h, struct span octets)
{
    CHECK(EVP_DigestUpdate(h, octets.p, octets.n) == 1);
}

static void end(struct copying *c, enum copy_end how, const char *why)
{
    struct pointer orphan; /* it was noted */
    c->copy->end = how;
    snprintf(c->copy->why, sizeof c->copy->why, "%s", why);
    spool_read_close(&c->reader);
    if (c->writer) {
        spool_abort(&c->writer, &orphan);
    }
    EVP_MD_CTX_free(c->message);
    EVP_MD_CTX_free(c->file);
    EVP_MD_CTX_free(c->again);
    buf_fini(&c->block);
    (*c->pending)--;
    free(c);
}

/* --- reading it again ------------------------------------------------------------------------ */

static void on_again(void *arg, enum err e, struct span piece, bool last)
{
    struct copying *c = arg;
    uint8_t sum[EVP_MAX_MD_SIZE];
    if (last) {
        struct span handle = e == ERR_OK ? spool_reader_handle(c->reader) : SPAN("");
        nfs_handle_set(&c->copy->new_handle, handle);
        c->reader = NULL;
    }
    if (e != ERR_OK) {
        end(c, COPY_TARGET, err_text(e));
        return;
    }
    hash_add(c->again, piece);
    if (!last) {
        spool_read_next(c->reader);
        return;
    }
    CHECK(EVP_DigestFinal_ex(c->again, sum, NULL) == 1);
    if (memcmp(sum, c->sum, 32) == 0) {
        end(c, COPY_DONE, "");
    } else {
        end(c, COPY_TARGET, "the copy is not the same");
    }
}

/* The pointer as it would be if the block were a part of the message. */
static struct pointer whole(const struct pointer *p, uint16_t volume)
{
    return (struct pointer){ .id = p->id, .size = p->skip + p->size, .volume = volume };
}

static void read_again(struct copying *c)
{
    struct pointer p = whole(&c->copy->from, c->copy->to);
    c->again = hash_new();
    c->reader = spool_read(c->spool, &p, nfs_handle_span(&c->copy->new_handle), on_again, c);
}

/* --- writing --------------------------------------------------------------------------------- */

static void on_write(void *arg, enum spool_event ev, enum err e, const struct pointer *p,
                     struct span handle)
{
    struct copying *c = arg;
    if (ev == SPOOL_READY) {
        spool_read_next(c->reader);
        return;
    }
    c->writer = NULL;
    if (ev == SPOOL_FAILED) {
        end(c, COPY_TARGET, err_text(e));
        return;
    }
    CHECK(p->skip == c->copy->from.skip && p->size == c->copy->from.size);
    nfs_handle_set(&c->copy->new_handle, handle);
    read_again(c);
}

static bool create(struct copying *c)
{
    const struct envelope *e = &c->block_says;
    struct spool_message m = { .reverse_path = e->reverse_path,
                               .to = e->to,
                               .n = e->n,
                               .uidl = e->uidl,
                               .id = &c->copy->from.id,
                               .volume = c->copy->to };
    return spool_create(c->spool, &m, on_write, c, &c->writer) == ERR_OK;
}

/* --- reading --------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void take_mailboxes(struct file_copy *copy, const struct envelope *e)
{
    size_t n = 0;
    free(copy->mailboxes);
    copy->mailboxes = NEW_ARRAY(int64_t, e->n + 1);
    for (size_t i = 0; i < e->n; i++) {
        copy->mailboxes[i] = (int64_t)e->to[i].mailbox_id;
    }
    qsort(copy->mailboxes, e->n, sizeof *copy->mailboxes, by_number);
    for (size_t i = 0; i < e->n; i++) {
        if (n == 0 || copy->mailboxes[n - 1] != copy->mailboxes[i]) {
            copy->mailboxes[n++] = copy->mailboxes[i];
        }
    }
    copy->n_mailboxes = n;
}

/* The block is one that would be made again, of this message. */
static bool check_block(struct copying *c, struct envelope_recipient **to)
{
    const struct pointer *p = &c->copy->from;
    struct envelope *e = &c->block_says;
    size_t skip;
    struct buf again;
    if (envelope_parse(buf_span(&c->block), e, to, &skip) != ERR_OK) {
        return false;
    }
    buf_init(&again, SIZE_MAX);
    bool same =
        envelope_write(e, &again) == ERR_OK && span_eq(buf_span(&again), buf_span(&c->block));
    buf_fini(&again);
    return same && skip == p->skip && e->complete && e->size == p->size &&
           blob_id_eq(&e->id, &p->id);
}

/* False: it has ended. */
static bool take_block(struct copying *c)
{
    struct envelope_recipient *to = NULL;
    bool right = check_block(c, &to), created = false;
    if (right) {
        take_mailboxes(c->copy, &c->block_says);
        created = c->copy->stands || create(c);
    }
    free(to);
    c->block_says.to = NULL;
    if (!right) {
        end(c, COPY_SOURCE, "its envelope is damaged");
    } else if (!created) {
        end(c, COPY_TARGET, "the volume can't be written");
    }
    return right && created;
}

static bool is_right_message(struct copying *c)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    char hex[ENVELOPE_SHA256_HEX + 1];
    CHECK(EVP_DigestFinal_ex(c->message, sum, NULL) == 1);
    for (size_t i = 0; i < ENVELOPE_SHA256_HEX / 2; i++) {
        snprintf(hex + 2 * i, 3, "%02x", sum[i]);
    }
    return memcmp(hex, c->block_says.sha256, ENVELOPE_SHA256_HEX) == 0;
}

static void read_to_end(struct copying *c)
{
    CHECK(EVP_DigestFinal_ex(c->file, c->sum, NULL) == 1);
    if (buf_len(&c->block) < c->copy->from.skip || !is_right_message(c)) {
        end(c, COPY_SOURCE, "it has not the hash that its envelope says");
    } else if (c->copy->stands) {
        read_again(c);
    } else {
        spool_finish(c->writer);
    }
}

static void on_piece(void *arg, enum err e, struct span piece, bool last)
{
    struct copying *c = arg;
    if (last) {
        c->reader = NULL;
    }
    if (e != ERR_OK) {
        end(c, COPY_SOURCE, err_text(e));
        return;
    }
    size_t missing = c->copy->from.skip - buf_len(&c->block);
    struct span rest = span_skip(piece, missing < piece.n ? missing : piece.n);
    hash_add(c->file, piece);
    if (missing > 0) {
        CHECK(buf_add(&c->block, span_first(piece, piece.n - rest.n)) == ERR_OK);
        if (buf_len(&c->block) == c->copy->from.skip && !take_block(c)) {
            return;
        }
    }
    hash_add(c->message, rest);
    bool more = !c->writer || spool_append(c->writer, rest);
    if (last) {
        read_to_end(c);
    } else if (more) {
        spool_read_next(c->reader);
    }
}

static void start(struct spool *s, struct file_copy *copy, size_t *pending)
{
    struct copying *c = NEW(struct copying);
    struct pointer p = whole(&copy->from, copy->from.volume);
    c->copy = copy;
    c->spool = s;
    c->pending = pending;
    c->message = hash_new();
    c->file = hash_new();
    buf_init(&c->block, SIZE_MAX); /* skip is its length */
    copy->new_handle = (struct nfs_handle){ 0 };
    c->reader = spool_read(s, &p, nfs_handle_span(&copy->handle), on_piece, c);
}

void file_copy_run(struct admin *a, struct spool *s, struct file_copy *c, size_t n)
{
    size_t pending = n;
    for (size_t i = 0; i < n; i++) {
        start(s, &c[i], &pending);
    }
    while (pending > 0) {
        uv_run(loop_uv(a->loop), UV_RUN_ONCE);
    }
}
