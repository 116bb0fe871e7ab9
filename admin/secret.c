/*
 * secret: from a password, or from what another server made of it, to what is stored. Passwords are
 * wiped where they are used last.
 */
#include "secret.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/check.h"
#include "store/password.h"
#include "store/scram.h"

static void add_keys(struct secret *s, const struct scram_keys *k)
{
    char text[SCRAM_TEXT_MAX];
    size_t n = strlen(s->scram);
    scram_format(k, text);
    CHECK(n + 1 + strlen(text) <= ENTRY_SCRAM_MAX);
    sprintf(s->scram + n, "%s%s", n ? " " : "", text);
}

static bool offers(const struct admin *a, const char *mechanism)
{
    const struct config_list *l = &a->config->auth_mechanisms;
    for (size_t i = 0; i < l->n; i++) {
        if (strcasecmp(l->v[i], mechanism) == 0) {
            return true;
        }
    }
    return false;
}

/*
 * Keys of a new password. Always for SHA-256, so that a fleet that offers SCRAM later has them; for
 * SHA-1, which is weaker, only where it is offered.
 */
static void derive_keys(struct admin *a, struct span password, struct secret *s)
{
    static const struct {
        enum scram_hash hash;
        const char *unless; /* not without this mechanism; NULL: always */
    } kinds[] = { { SCRAM_SHA_256, NULL }, { SCRAM_SHA_1, "SCRAM-SHA-1" } };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct scram_keys k;
        if (kinds[i].unless && !offers(a, kinds[i].unless)) {
            continue;
        }
        if (scram_derive(kinds[i].hash, password, (uint32_t)a->config->auth_scram_iterations, &k) !=
            ERR_OK) {
            admin_say("SCRAM allows no such password (RFC 4013): the account has no keys");
            return;
        }
        add_keys(s, &k);
        explicit_bzero(&k, sizeof k);
    }
}

/* Each word of the text must be keys that we know, and they are stored as we write them. */
static int import_keys(const char *text, struct secret *s)
{
    size_t words = 1, n = 0;
    for (const char *p = text; *p; p++) {
        words += *p == ' ';
    }
    for (enum scram_hash h = SCRAM_SHA_256; h <= SCRAM_SHA_1; h++) {
        struct scram_keys k;
        enum err e = scram_parse(span_str(text), h, &k);
        if (e == ERR_OK) {
            add_keys(s, &k);
            explicit_bzero(&k, sizeof k);
            n++;
        }
    }
    if (n != words) {
        return admin_fail(EX_DATAERR, "--scram: not SCRAM-SHA-256 or SCRAM-SHA-1 keys as "
                                      "RFC 5803 has them");
    }
    return EX_OK;
}

static int import_hash(const char *hash, struct secret *s)
{
    if (strlen(hash) > PASSWORD_HASH_MAX || !password_hash_valid(hash)) {
        return admin_fail(EX_DATAERR, "--hash: not a hash that crypt(3) knows here");
    }
    memcpy(s->hash, hash, strlen(hash) + 1);
    return EX_OK;
}

static int hash_password(struct admin *a, struct span password, struct secret *s)
{
    const char *scheme = a->config->auth_scheme;
    if (password_hash(password, scheme, s->hash, sizeof s->hash) != ERR_OK) {
        return admin_fail(EX_CONFIG, "auth.scheme %s: can't make such a hash", scheme);
    }
    derive_keys(a, password, s);
    return EX_OK;
}

int secret_new(struct admin *a, const struct args *args, struct secret *s)
{
    const char *hash = args->opt[ARG_hash], *scram = args->opt[ARG_scram];
    int code = EX_OK;
    *s = (struct secret){ 0 };
    if (hash || scram) {
        if (args->opt[ARG_password_stdin]) {
            return admin_fail(EX_USAGE, "a password, or --hash and --scram in its place");
        }
        code = hash ? import_hash(hash, s) : EX_OK;
        return code == EX_OK && scram ? import_keys(scram, s) : code;
    }
    char *password = admin_read_password(args->opt[ARG_password_stdin] != NULL);
    if (!password) {
        return EX_DATAERR;
    }
    code = hash_password(a, span_str(password), s);
    explicit_bzero(password, strlen(password));
    free(password);
    return code;
}
