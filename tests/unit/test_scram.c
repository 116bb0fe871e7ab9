/*
 * scram: the exchanges that the RFCs print, keys as another implementation makes them, and texts
 * that must not be read.
 */
#include "store/scram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <gsasl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/check.h"

/* Of "pencil", with the salts of RFC 5802, section 5, and RFC 7677, section 3. */
#define SHA_1                                                                                      \
    "SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$6dlGYMOdZcOPutkcNY8U2g7vK9Y=:D+CSWLOshSulAsxiupA+qs2/fTE="
#define SHA_256                                                                                    \
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"    \
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

#define AUTH_1                                                                                     \
    SPAN("n=user,r=fyko+d2lbbFgONRv9qkxdawL,"                                                      \
         "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096,"                 \
         "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j")
#define AUTH_256                                                                                   \
    SPAN("n=user,r=rOprNGfwEbeRWgbNEkqO,"                                                          \
         "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096," \
         "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")

static struct scram_keys parse(const char *text, enum scram_hash h)
{
    struct scram_keys k;
    assert_int_equal(scram_parse(span_str(text), h, &k), ERR_OK);
    assert_int_equal(k.hash, h);
    return k;
}

static size_t unbase64(const char *text, uint8_t out[64])
{
    size_t n = strlen(text), padding = strcspn(text, "=");
    assert_true(n <= 64);
    assert_int_equal(EVP_DecodeBlock(out, (const uint8_t *)text, (int)n), n / 4 * 3);
    return n / 4 * 3 - (n - padding);
}

static void check_rfc(const char *text, enum scram_hash h, struct span auth, const char *proof,
                      const char *signature)
{
    struct scram_keys k = parse(text, h);
    uint8_t p[64], want[64], got[SCRAM_KEY_MAX] = { 0 };
    size_t n = unbase64(proof, p);
    assert_int_equal(unbase64(signature, want), scram_hash_size(h));
    assert_true(scram_verify(&k, auth, span_of(p, n), got));
    assert_memory_equal(got, want, n);
    /* Cut, longer, changed, and of another message: wrong. */
    assert_false(scram_verify(&k, auth, span_of(p, n - 1), got));
    assert_false(scram_verify(&k, auth, span_of(p, n + 1), got));
    assert_false(scram_verify(&k, auth, span_of(p, 0), got));
    assert_false(scram_verify(&k, span_skip(auth, 1), span_of(p, n), got));
    for (size_t i = 0; i < n; i++) {
        p[i] ^= 1;
        assert_false(scram_verify(&k, auth, span_of(p, n), got));
        p[i] ^= 1;
    }
}

static void knows_the_rfcs_exchanges(void **state)
{
    (void)state;
    check_rfc(SHA_1, SCRAM_SHA_1, AUTH_1,
              "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "rmF9pqV8S7suAoZWja4dJRkFsKQ=");
    check_rfc(SHA_256, SCRAM_SHA_256, AUTH_256, "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
              "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

/* What a client with a password sends. */
static void make_proof(const struct scram_keys *k, const char *password, struct span auth,
                       uint8_t out[SCRAM_KEY_MAX])
{
    char salted[SCRAM_KEY_MAX], client[SCRAM_KEY_MAX], server[SCRAM_KEY_MAX], stored[SCRAM_KEY_MAX];
    bool sha_1 = k->hash == SCRAM_SHA_1;
    uint8_t mask[SCRAM_KEY_MAX];
    assert_int_equal(gsasl_scram_secrets_from_password(
                         sha_1 ? GSASL_HASH_SHA1 : GSASL_HASH_SHA256, password, k->iterations,
                         (const char *)k->salt, k->salt_n, salted, client, server, stored),
                     GSASL_OK);
    size_t n = scram_hash_size(k->hash);
    HMAC(sha_1 ? EVP_sha1() : EVP_sha256(), stored, (int)n, (const uint8_t *)auth.p, auth.n, mask,
         NULL);
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)client[i] ^ mask[i];
    }
}

static bool proves(const struct scram_keys *k, const char *password, struct span auth)
{
    uint8_t proof[SCRAM_KEY_MAX], signature[SCRAM_KEY_MAX];
    make_proof(k, password, auth, proof);
    return scram_verify(k, auth, span_of(proof, scram_hash_size(k->hash)), signature);
}

static void derives_what_gnu_sasl_derives(void **state)
{
    (void)state;
    static const enum scram_hash all[] = { SCRAM_SHA_256, SCRAM_SHA_1 };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct scram_keys a, b;
        assert_int_equal(scram_derive(all[i], SPAN("p\xc3\xa4ss wort"), 4096, &a), ERR_OK);
        assert_int_equal(scram_derive(all[i], SPAN("p\xc3\xa4ss wort"), 4096, &b), ERR_OK);
        assert_int_equal(a.salt_n, b.salt_n);
        assert_memory_not_equal(a.salt, b.salt, a.salt_n);
        assert_memory_not_equal(a.stored, b.stored, scram_hash_size(all[i]));
        assert_true(proves(&a, "p\xc3\xa4ss wort", SPAN("message")));
        assert_false(proves(&a, "p\xc3\xa4ss Wort", SPAN("message")));
    }
}

static void prepares_passwords(void **state)
{
    (void)state;
    struct scram_keys k;
    /* RFC 4013, section 3: a soft hyphen is nothing, a roman nine is IX. */
    assert_int_equal(scram_derive(SCRAM_SHA_256, SPAN("I\xc2\xadX"), 1, &k), ERR_OK);
    assert_true(proves(&k, "IX", SPAN("m")));
    assert_int_equal(scram_derive(SCRAM_SHA_256, SPAN("\xe2\x85\xa8"), 1, &k), ERR_OK);
    assert_true(proves(&k, "IX", SPAN("m")));
    const struct span bad[] = { SPAN(""),
                                SPAN("a\0b"),
                                SPAN("\x07"),
                                SPAN("\xff"),
                                SPAN("\xd8\xa7"
                                     "1"),
                                SPAN("\xc2\xad") };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(scram_derive(SCRAM_SHA_256, bad[i], 1, &k), ERR_INVALID);
    }
}

static void prepares_users(void **state)
{
    (void)state;
    char out[8] = "before";
    assert_int_equal(scram_prepare_user(SPAN("\xe2\x85\xa8"), out, sizeof out), ERR_OK);
    assert_string_equal(out, "IX");
    assert_int_equal(scram_prepare_user(SPAN("1234567"), out, sizeof out), ERR_OK);
    assert_string_equal(out, "1234567");
    assert_int_equal(scram_prepare_user(SPAN("12345678"), out, sizeof out), ERR_LIMIT);
    assert_int_equal(scram_prepare_user(SPAN("\x07"), out, sizeof out), ERR_INVALID);
    assert_int_equal(scram_prepare_user(SPAN("a\0b"), out, sizeof out), ERR_INVALID);
    assert_string_equal(out, "1234567");
}

static void fakes_are_steady_and_wrong(void **state)
{
    (void)state;
    uint8_t mac[32] = { 1 };
    struct scram_keys a, b, real;
    scram_fake(SCRAM_SHA_256, mac, 5000, &a);
    scram_fake(SCRAM_SHA_256, mac, 5000, &b);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(a.iterations, 5000);
    assert_int_equal(scram_derive(SCRAM_SHA_256, SPAN("x"), 5000, &real), ERR_OK);
    assert_int_equal(a.salt_n, real.salt_n);
    assert_false(proves(&a, "x", SPAN("m")));
    mac[31] ^= 1;
    scram_fake(SCRAM_SHA_256, mac, 5000, &b);
    assert_memory_not_equal(a.salt, b.salt, a.salt_n);
}

static void writes_what_it_reads(void **state)
{
    (void)state;
    char text[SCRAM_TEXT_MAX];
    struct scram_keys k = parse(SHA_256 " " SHA_1, SCRAM_SHA_1);
    scram_format(&k, text);
    assert_string_equal(text, SHA_1);
    k = parse(SHA_1 " " SHA_256, SCRAM_SHA_256);
    scram_format(&k, text);
    assert_string_equal(text, SHA_256);
    k = parse("SCRAM-SHA-512$anything " SHA_256, SCRAM_SHA_256);
    assert_int_equal(k.iterations, 4096);

    k.iterations = SCRAM_ITERATIONS_MAX;
    k.salt_n = SCRAM_SALT_MAX;
    memset(k.salt, 0xff, sizeof k.salt);
    scram_format(&k, text);
    struct scram_keys again = parse(text, SCRAM_SHA_256);
    assert_memory_equal(&again, &k, sizeof k);
}

static void tells_absent_from_broken(void **state)
{
    (void)state;
#define STORED "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
    static const char *const broken[] = {
        "SCRAM-SHA-256",
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$4096:AAAA$" STORED,
        "SCRAM-SHA-256$4096:AAAA$" STORED ":",
        "SCRAM-SHA-256$4096$" STORED ":" STORED,
        "SCRAM-SHA-256$0:AAAA$" STORED ":" STORED,
        "SCRAM-SHA-256$-1:AAAA$" STORED ":" STORED,
        "SCRAM-SHA-256$2147483648:AAAA$" STORED ":" STORED,
        "SCRAM-SHA-256$4096:$" STORED ":" STORED,
        "SCRAM-SHA-256$4096:AAA$" STORED ":" STORED,
        "SCRAM-SHA-256$4096:====$" STORED ":" STORED,
        "SCRAM-SHA-256$4096:AB==$" STORED ":" STORED, /* stray bits */
        "SCRAM-SHA-256$4096:AAAA$" STORED ":AAAA",
        "SCRAM-SHA-256$4096:AAAA$AAAA:" STORED,
        "SCRAM-SHA-256$4096:AAAA$" STORED ":" STORED "=",
        "SCRAM-SHA-256$4096:AAAA$" STORED ":" STORED "\t",
        " " SHA_256,
        "SCRAM-SHA-512$x  " SHA_256,
        SHA_1 " ",
        "{CRYPT}x " SHA_256,
    };
    struct scram_keys k;
    char salt[400] = "SCRAM-SHA-256$4096:";
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        assert_int_equal(scram_parse(span_str(broken[i]), SCRAM_SHA_256, &k), ERR_CORRUPT);
    }
    memset(salt + strlen(salt), 'A', 92); /* 69 octets */
    strcat(salt, "$" STORED ":" STORED);
    assert_int_equal(scram_parse(span_str(salt), SCRAM_SHA_256, &k), ERR_CORRUPT);
    assert_int_equal(scram_parse(SPAN(""), SCRAM_SHA_256, &k), ERR_NOTFOUND);
    assert_int_equal(scram_parse(SPAN(SHA_1), SCRAM_SHA_256, &k), ERR_NOTFOUND);
    assert_int_equal(scram_parse(SPAN("scram-sha-256$x"), SCRAM_SHA_256, &k), ERR_NOTFOUND);
}

static void makes_nonces(void **state)
{
    (void)state;
    char a[SCRAM_NONCE_SIZE], b[SCRAM_NONCE_SIZE];
    scram_nonce(a);
    scram_nonce(b);
    assert_int_equal(strlen(a), SCRAM_NONCE_SIZE - 1);
    assert_string_not_equal(a, b);
    assert_null(strchr(a, ','));
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_the_rfcs_exchanges),
        cmocka_unit_test(derives_what_gnu_sasl_derives),
        cmocka_unit_test(prepares_passwords),
        cmocka_unit_test(prepares_users),
        cmocka_unit_test(fakes_are_steady_and_wrong),
        cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(tells_absent_from_broken),
        cmocka_unit_test(makes_nonces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
