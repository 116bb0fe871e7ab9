/*
 * tls_certs: an array of names, sorted, each with its certificate.
 *
 * Certificates are kept as what OpenSSL has parsed, and given to the SSL that needs one: a context
 * for each would cost thousands of them many megabytes. It owns all of it. It knows nothing of the
 * default certificate, and does not look at dates: a certificate that is not valid any more is
 * better than one of another name.
 */
#include "net/tls_certs.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/span.h"
#include "net/tls.h"

/* The longest DNS name as text (RFC 1035), and its NUL. */
#define NAME_SIZE 254

struct cert {
    X509 *leaf;
    EVP_PKEY *key;
    STACK_OF(X509) * chain; /* without the leaf */
};

struct entry {
    char *name; /* lower case; `*.example.org` for a wildcard */
    size_t cert;
};

struct tls_certs {
    struct cert *certs; /* in the order of their files' names */
    size_t cert_count;
    struct entry *entries; /* sorted by name, then cert */
    size_t entry_count, entry_room;
};

const char *tls_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    ERR_clear_error();
    return reason ? reason : "cannot be read";
}

int tls_no_pass_phrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

/* --- the files ------------------------------------------------------------------------------- */

bool tls_is_pem(const char *name)
{
    size_t n = strlen(name);
    return name[0] != '.' && n > 4 && strcmp(name + n - 4, ".pem") == 0;
}

static int is_pem(const struct dirent *d)
{
    return tls_is_pem(d->d_name);
}

/* In the order of their octets: on every node the same. */
static int by_file_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

void tls_file_stamp(const char *path, EVP_MD_CTX *hash)
{
    struct stat st = { 0 };
    int64_t is[8] = { 0 };
    if (stat(path, &st) != 0) {
        is[0] = errno;
    } else {
        is[1] = (int64_t)st.st_dev;
        is[2] = (int64_t)st.st_ino;
        is[3] = st.st_size;
        is[4] = st.st_mtim.tv_sec;
        is[5] = st.st_mtim.tv_nsec;
        is[6] = st.st_ctim.tv_sec;
        is[7] = st.st_ctim.tv_nsec;
    }
    CHECK(EVP_DigestUpdate(hash, path, strlen(path) + 1) == 1);
    CHECK(EVP_DigestUpdate(hash, is, sizeof is) == 1);
}

static char *join(const char *directory, const char *name)
{
    size_t size = strlen(directory) + strlen(name) + 2;
    char *path = mem_raw(size);
    snprintf(path, size, "%s/%s", directory, name);
    return path;
}

void tls_certs_stamp(const char *directory, EVP_MD_CTX *hash)
{
    struct dirent **found = NULL;
    int n = scandir(directory, &found, is_pem, by_file_name);
    if (n < 0) {
        tls_file_stamp(directory, hash);
    }
    for (int i = 0; i < n; i++) {
        char *path = join(directory, found[i]->d_name);
        tls_file_stamp(path, hash);
        free(path);
        free(found[i]);
    }
    free(found);
}

/* --- one file -------------------------------------------------------------------------------- */

static void cert_fini(struct cert *c)
{
    X509_free(c->leaf);
    EVP_PKEY_free(c->key);
    sk_X509_pop_free(c->chain, X509_free);
}

/* The certificates that follow, up to the end of the file. */
static bool read_chain(BIO *in, struct cert *c)
{
    X509 *x;
    CHECK((c->chain = sk_X509_new_null()) != NULL);
    while ((x = PEM_read_bio_X509(in, NULL, tls_no_pass_phrase, NULL)) != NULL) {
        CHECK(sk_X509_push(c->chain, x) > 0);
    }
    bool end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    if (end) {
        ERR_clear_error();
    }
    return end;
}

/* NULL, or what is wrong. c is to be given back either way. */
static const char *read_cert(const char *path, SSL *probe, struct cert *c)
{
    ERR_clear_error();
    BIO *in = BIO_new_file(path, "r");
    if (!in) {
        return tls_reason();
    }
    const char *why = NULL;
    c->leaf = PEM_read_bio_X509_AUX(in, NULL, tls_no_pass_phrase, NULL);
    if (!c->leaf || !read_chain(in, c)) {
        why = tls_reason();
    } else if (BIO_seek(in, 0) != 0 ||
               !(c->key = PEM_read_bio_PrivateKey(in, NULL, tls_no_pass_phrase, NULL)) ||
               SSL_use_cert_and_key(probe, c->leaf, c->key, c->chain, 1) != 1) {
        why = tls_reason();
    }
    BIO_free(in);
    return why;
}

/* --- names ----------------------------------------------------------------------------------- */

/* In lower case, without the dot of the root. False: no name that a client could ask for. */
static bool plain_name(struct span name, char out[NAME_SIZE])
{
    if (name.n > 0 && name.p[name.n - 1] == '.') {
        name.n--;
    }
    if (name.n == 0 || name.n >= NAME_SIZE || memchr(name.p, '\0', name.n)) {
        return false;
    }
    memcpy(out, name.p, name.n);
    out[name.n] = '\0';
    ascii_lower(out, name.n);
    return true;
}

static void add_entry(struct tls_certs *c, const char *name, size_t cert)
{
    if (c->entry_count == c->entry_room) {
        c->entry_room = c->entry_room ? 2 * c->entry_room : 64;
        c->entries = mem_grow(c->entries, c->entry_room, sizeof *c->entries);
    }
    c->entries[c->entry_count++] = (struct entry){ mem_strdup(name), cert };
}

/* Every dNSName of the certificate; how many. */
static size_t add_names(struct tls_certs *c, size_t cert)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(c->certs[cert].leaf, NID_subject_alt_name, NULL, NULL);
    size_t n = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        int type;
        char name[NAME_SIZE];
        const ASN1_STRING *s = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        if (type == GEN_DNS &&
            plain_name(span_of(ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s)), name)) {
            add_entry(c, name, cert);
            n++;
        }
    }
    GENERAL_NAMES_free(names);
    return n;
}

static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int by = strcmp(x->name, y->name);
    return by ? by : (x->cert > y->cert) - (x->cert < y->cert);
}

/* --- loading --------------------------------------------------------------------------------- */

static enum err load_file(struct tls_certs *c, const char *path, SSL *probe, char *why,
                          size_t why_size)
{
    struct cert *cert = &c->certs[c->cert_count++];
    const char *wrong = read_cert(path, probe, cert);
    if (!wrong && add_names(c, c->cert_count - 1) == 0) {
        wrong = "no DNS name in its certificate";
    }
    if (wrong) {
        snprintf(why, why_size, "%s: %s", path, wrong);
        return ERR_INVALID;
    }
    return ERR_OK;
}

enum err tls_certs_load(const char *directory, SSL_CTX *ctx, struct tls_certs **out, char *why,
                        size_t why_size)
{
    struct dirent **found = NULL;
    int n = scandir(directory, &found, is_pem, by_file_name);
    if (n < 0) {
        snprintf(why, why_size, "%s: %s", directory, strerror(errno));
        return ERR_INVALID;
    }
    struct tls_certs *c = NEW(struct tls_certs);
    c->certs = NEW_ARRAY(struct cert, (size_t)n + 1);
    SSL *probe = SSL_new(ctx);
    CHECK(probe);
    enum err e = ERR_OK;
    for (int i = 0; i < n; i++) {
        char *path = join(directory, found[i]->d_name);
        e = e == ERR_OK ? load_file(c, path, probe, why, why_size) : e;
        free(path);
        free(found[i]);
    }
    free(found);
    SSL_free(probe);
    if (e != ERR_OK) {
        tls_certs_free(&c);
        return e;
    }
    if (c->entry_count) {
        qsort(c->entries, c->entry_count, sizeof *c->entries, by_name);
    }
    *out = c;
    return ERR_OK;
}

void tls_certs_free(struct tls_certs **cp)
{
    struct tls_certs *c = *cp;
    *cp = NULL;
    if (!c) {
        return;
    }
    for (size_t i = 0; i < c->cert_count; i++) {
        cert_fini(&c->certs[i]);
    }
    for (size_t i = 0; i < c->entry_count; i++) {
        free(c->entries[i].name);
    }
    free(c->certs);
    free(c->entries);
    free(c);
}

size_t tls_certs_count(const struct tls_certs *c)
{
    return c ? c->cert_count : 0;
}

/* --- looking up ------------------------------------------------------------------------------ */

/* The first entry whose name is not before this one. */
static size_t lower_bound(const struct tls_certs *c, const char *name)
{
    size_t low = 0, high = c->entry_count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (strcmp(c->entries[mid].name, name) < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

/* From the last to the first: of two with the same kind of key the first file's stays. */
static enum err use_all(const struct tls_certs *c, const char *name, SSL *ssl)
{
    size_t first = lower_bound(c, name), end = first;
    while (end < c->entry_count && strcmp(c->entries[end].name, name) == 0) {
        end++;
    }
    if (first == end) {
        return ERR_NOTFOUND;
    }
    SSL_certs_clear(ssl); /* else the default one might be chosen for its kind of key */
    while (end-- > first) {
        const struct cert *k = &c->certs[c->entries[end].cert];
        /* It has taken them before, when they were loaded. */
        CHECK(SSL_use_cert_and_key(ssl, k->leaf, k->key, k->chain, 1) == 1);
    }
    return ERR_OK;
}

enum err tls_certs_use(const struct tls_certs *c, const char *name, SSL *ssl)
{
    char exact[NAME_SIZE], wildcard[NAME_SIZE + 1];
    if (!c || !plain_name(span_str(name), exact) || exact[0] == '*') {
        return ERR_NOTFOUND;
    }
    enum err e = use_all(c, exact, ssl);
    const char *dot = strchr(exact, '.');
    if (e == ERR_NOTFOUND && dot && dot > exact) {
        snprintf(wildcard, sizeof wildcard, "*%s", dot);
        e = use_all(c, wildcard, ssl);
    }
    return e;
}
