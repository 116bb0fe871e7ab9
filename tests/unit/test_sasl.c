/*
 * test_sasl: exchanges as the RFCs print them, all that is to be
 * refused in them, and GNU SASL's client at the other end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <gsasl.h>

#include "base/check.h"
#include "proto/base64.h"
#include "sasl.h"

static void check_plain(struct span message, enum err e, const char *user, const char *password)
{
    struct span u = SPAN("untouched"), p = SPAN("untouched");
    assert_int_equal(sasl_plain(message, &u, &p), e);
    assert_true(span_eq(u, span_str(user)));
    assert_true(span_eq(p, span_str(password)));
}

static void cuts_plain(void **state)
{
    (void)state;
    check_plain(SPAN("\0alice\0sesame"), ERR_OK, "alice", "sesame");
    check_plain(SPAN("alice\0alice\0sesame"), ERR_OK, "alice", "sesame");
    check_plain(SPAN("ALICE@x\0alice@X\0 "), ERR_OK, "alice@X", " ");
    check_plain(SPAN("bob\0alice\0sesame"), ERR_DENIED, "untouched", "untouched");
    check_plain(SPAN("alic\0alice\0sesame"), ERR_DENIED, "untouched", "untouched");
}

static void refuses_what_is_not_plain(void **state)
{
    (void)state;
    static const struct span bad[] = {
        { "", 0 },       { "\0", 1 },       { "\0\0", 2 },      { "a", 1 },      { "a\0b", 3 },
        { "\0a", 2 },    { "\0a\0", 3 },    { "\0\0b", 3 },     { "a\0\0b", 4 }, { "a\0b\0", 4 },
        { "\0\0\0", 3 }, { "\0a\0b\0", 5 }, { "\0a\0b\0c", 6 },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        check_plain(bad[i], ERR_INVALID, "untouched", "untouched");
    }
}

/* --- exchanges ------------------------------------------------------------------------------- */

/* Of "pencil", with the salts of RFC 5802, section 5, and RFC 7677, section 3. */
#define KEYS                                                                                       \
    "SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$6dlGYMOdZcOPutkcNY8U2g7vK9Y=:D+CSWLOshSulAsxiupA+qs2/fTE= " \
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"    \
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

static struct span text(const char *s)
{
    return span_str(s);
}

static struct sasl_action say(struct sasl *s, const char *response)
{
    return sasl_step(s, text(response));
}

static void expect_text(struct sasl_action a, enum sasl_action_type type, const char *want)
{
    assert_int_equal(a.type, type);
    if (!span_eq(a.text, span_str(want))) {
        fail_msg("%.*s instead of %s", SPAN_ARG(a.text), want);
    }
}

static void expect_user(struct sasl_action a, enum sasl_action_type type, const char *want)
{
    assert_int_equal(a.type, type);
    if (!span_eq(a.user, span_str(want))) {
        fail_msg("%.*s instead of %s", SPAN_ARG(a.user), want);
    }
}

static void expect_failed(struct sasl_action a, enum err e, const char *why)
{
    assert_int_equal(a.type, SASL_FAILED);
    assert_string_equal(a.why, why);
    assert_int_equal(a.err, e);
}

static struct scram_keys keys_for(enum scram_hash h)
{
    struct scram_keys k;
    assert_int_equal(scram_parse(SPAN(KEYS), h, &k), ERR_OK);
    return k;
}

static struct sasl_action give_keys(struct sasl *s, struct sasl_action a)
{
    assert_int_equal(a.type, SASL_KEYS);
    struct scram_keys k = keys_for(a.hash);
    return sasl_keys_answer(s, &k);
}

/* One that has everything. */
static struct sasl_context context(void)
{
    static const char names[][SASL_NAME_SIZE] = { "alice@example.org" };
    struct sasl_context c = { .secure = true,
                              .keys = true,
                              .tokens = true,
                              .has_exporter = true,
                              .end_point_n = 32,
                              .names = names,
                              .n_names = 1,
                              .nonce = "server" };
    memset(c.exporter, 'E', sizeof c.exporter);
    memset(c.end_point, 'P', sizeof c.end_point);
    return c;
}

/* --- which mechanisms ------------------------------------------------------------------------ */

static void expect_offer(struct sasl_context *c, const char *want)
{
    static const char *all[] = { "EXTERNAL", "nonsense", "plain",       "SCRAM-SHA-256-PLUS",
                                 "PLAIN",    "XOAUTH2",  "OAUTHBEARER", "SCRAM-SHA-256" };
    const struct config_list wanted = { ARRAY_LEN(all), all };
    const char *out[SASL_MECHANISMS];
    char got[200] = "";
    size_t n = sasl_offer(&wanted, c, out);
    for (size_t i = 0; i < n; i++) {
        strcat(strcat(got, i ? " " : ""), out[i]);
    }
    assert_string_equal(got, want);
    assert_int_equal(c->plus_offered, strstr(want, "-PLUS") != NULL);
}

static void offers_what_can_be_used(void **state)
{
    (void)state;
    struct sasl_context c = context();
    enum sasl_mechanism m;
    expect_offer(&c, "EXTERNAL PLAIN SCRAM-SHA-256-PLUS XOAUTH2 OAUTHBEARER SCRAM-SHA-256");
    c.has_exporter = false;
    c.n_names = 0;
    expect_offer(&c, "PLAIN SCRAM-SHA-256-PLUS XOAUTH2 OAUTHBEARER SCRAM-SHA-256");
    c.end_point_n = 0;
    c.tokens = false;
    expect_offer(&c, "PLAIN SCRAM-SHA-256");
    c.tokens = true;
    c.secure = false;
    expect_offer(&c, "SCRAM-SHA-256");
    c.plaintext = true;
    expect_offer(&c, "PLAIN XOAUTH2 OAUTHBEARER SCRAM-SHA-256");
    c.keys = false;
    expect_offer(&c, "PLAIN XOAUTH2 OAUTHBEARER");
    assert_true(sasl_find(SPAN("Scram-Sha-1"), &m) && m == SASL_SCRAM_SHA_1);
    assert_false(sasl_find(SPAN("SCRAM-SHA-1-PLUS"), &m));
}

/* --- PLAIN, EXTERNAL ------------------------------------------------------------------------- */

static void speaks_plain(void **state)
{
    (void)state;
    struct sasl_context c = context();
    struct sasl *s = sasl_new(SASL_PLAIN, &c);
    expect_text(sasl_step(s, (struct span){ 0 }), SASL_CHALLENGE, "");
    struct sasl_action a = sasl_step(s, SPAN("\0alice\0sesame"));
    expect_user(a, SASL_PASSWORD, "alice");
    assert_true(span_eq(a.password, SPAN("sesame")));
    sasl_free(&s);

    s = sasl_new(SASL_PLAIN, &c);
    expect_failed(sasl_step(s, SPAN("")), ERR_INVALID, "not a message of PLAIN");
    sasl_free(&s);
    s = sasl_new(SASL_PLAIN, &c);
    expect_failed(sasl_step(s, SPAN("bob\0alice\0sesame")), ERR_DENIED,
                  "nobody may act for somebody else");
    sasl_free(&s);
}

static struct sasl_action once(enum sasl_mechanism m, const struct sasl_context *c,
                               struct span response)
{
    static struct sasl *s; /* what the last one told lies in it */
    sasl_free(&s);
    s = sasl_new(m, c);
    struct sasl_action a = sasl_step(s, response);
    if (a.type != SASL_TOKEN && a.type != SASL_KEYS) {
        return a;
    }
    static char user[SASL_NAME_SIZE], token[SASL_NAME_SIZE];
    assert_true(a.user.n < sizeof user && a.text.n < sizeof token);
    memcpy(user, a.user.p, a.user.n);
    a.user.p = user;
    if (a.type == SASL_TOKEN) {
        memcpy(token, a.text.p, a.text.n);
        a.text.p = token;
    }
    sasl_free(&s);
    return a;
}

static void speaks_external(void **state)
{
    (void)state;
    static const char two[][SASL_NAME_SIZE] = { "a@b.example", "c@d.example" };
    struct sasl_context c = context();
    expect_user(once(SASL_EXTERNAL, &c, SPAN("")), SASL_CERTIFICATE, "alice@example.org");
    expect_user(once(SASL_EXTERNAL, &c, SPAN("Alice@Example.org")), SASL_CERTIFICATE,
                "alice@example.org");
    expect_failed(once(SASL_EXTERNAL, &c, SPAN("bob@example.org")), ERR_DENIED,
                  "the certificate has another name");
    expect_failed(once(SASL_EXTERNAL, &c, SPAN("alice@example.org\0")), ERR_INVALID, "not a name");
    expect_failed(once(SASL_EXTERNAL, &c, SPAN("\xff")), ERR_INVALID, "not a name");
    c.names = two;
    c.n_names = 2;
    expect_user(once(SASL_EXTERNAL, &c, SPAN("c@d.example")), SASL_CERTIFICATE, "c@d.example");
    expect_failed(once(SASL_EXTERNAL, &c, SPAN("")), ERR_DENIED,
                  "the certificate does not say which account");
}

/* --- OAuth ----------------------------------------------------------------------------------- */

static void expect_token(enum sasl_mechanism m, struct span response, const char *user,
                         const char *token)
{
    struct sasl_context c = context();
    struct sasl_action a = once(m, &c, response);
    expect_user(a, SASL_TOKEN, user);
    assert_true(span_eq(a.text, span_str(token)));
}

static void speaks_oauth(void **state)
{
    (void)state;
    /* RFC 7628, section 4.1, and what Google prints. */
    expect_token(SASL_OAUTHBEARER,
                 SPAN("n,a=user@example.com,\1host=server.example.com\1port=143\1"
                      "auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\1\1"),
                 "user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==");
    expect_token(SASL_OAUTHBEARER, SPAN("y,,\1auth=bEARER  x.y-z\1extra=1\1\1"), "", "x.y-z");
    expect_token(SASL_OAUTHBEARER, SPAN("n,a=a=2Cb=3Dc,\1auth=Bearer x\1\1"), "a,b=c", "x");
    expect_token(SASL_XOAUTH2,
                 SPAN("user=someuser@example.com\1auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlz"
                      "dGEuY29tCg\1\1"),
                 "someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg");
}

static void refuses_what_is_not_oauth(void **state)
{
    (void)state;
    struct sasl_context c = context();
    const struct span bearer[] = {
        SPAN(""),
        SPAN("\1"),
        SPAN("n,,\1\1"),
        SPAN("n,,auth=Bearer x\1\1"),
        SPAN("n,,\1auth=Bearer x"),
        SPAN("n,,\1auth=Bearer x\1"),
        SPAN("n,,\1auth=Bearer x\1\1\1"),
        SPAN("n,,\1auth=Basic x\1\1"),
        SPAN("n,,\1auth=Bearer \1\1"),
        SPAN("n,,\1auth=Bearer x y\1\1"),
        SPAN("n,,\1auth=Bearer =\1\1"),
        SPAN("n,,\1auth=Bearer x\1auth=Bearer y\1\1"),
        SPAN("n,,\1auth=Bearer x\1port=65536\1\1"),
        SPAN("n,,\1au th=Bearer x\1\1"),
        SPAN("n,,\1auth=Bearer x\0\1\1"),
        SPAN("n,,\1auth\1\1"),
        SPAN("p=tls-exporter,,\1auth=Bearer x\1\1"),
        SPAN("n,a==,\1auth=Bearer x\1\1"),
        SPAN("n,a=,\1auth=Bearer x\1\1"),
        SPAN("n,x,\1auth=Bearer x\1\1"),
        SPAN("auth=Bearer x\1\1"),
    };
    const struct span xoauth2[] = {
        SPAN(""),
        SPAN("\1"),
        SPAN("auth=Bearer x\1\1"),
        SPAN("user=\1auth=Bearer x\1\1"),
        SPAN("user=a\1\1"),
        SPAN("user=a\1auth=Bearer x\1"),
        SPAN("user=a\1user=b\1auth=Bearer x\1\1"),
        SPAN("user=\xff\1auth=Bearer x\1\1"),
    };
    char huge[1000] = "user=";
    memset(huge + 5, 'a', 700);
    strcpy(huge + 705, "\1auth=Bearer x\1\1");
    for (size_t i = 0; i < ARRAY_LEN(bearer); i++) {
        expect_failed(once(SASL_OAUTHBEARER, &c, bearer[i]), ERR_INVALID,
                      "not a message with a token");
    }
    for (size_t i = 0; i < ARRAY_LEN(xoauth2); i++) {
        expect_failed(once(SASL_XOAUTH2, &c, xoauth2[i]), ERR_INVALID,
                      "not a message with a token");
    }
    expect_failed(once(SASL_XOAUTH2, &c, span_str(huge)), ERR_INVALID,
                  "not a message with a token");
}

static void tells_of_a_bad_token(void **state)
{
    (void)state;
    struct sasl_context c = context();
    struct sasl *s = sasl_new(SASL_OAUTHBEARER, &c);
    assert_int_equal(say(s, "n,,\1auth=Bearer x\1\1").type, SASL_TOKEN);
    expect_text(sasl_token_answer(s, false), SASL_CHALLENGE, "{\"status\":\"invalid_token\"}");
    expect_failed(say(s, "\1"), ERR_DENIED, "the token is not good");
    sasl_free(&s);

    s = sasl_new(SASL_XOAUTH2, &c);
    assert_int_equal(say(s, "user=a\1auth=Bearer x\1\1").type, SASL_TOKEN);
    expect_text(sasl_token_answer(s, false), SASL_CHALLENGE,
                "{\"status\":\"401\",\"schemes\":\"bearer\"}");
    expect_failed(say(s, ""), ERR_DENIED, "the token is not good");
    sasl_free(&s);

    /* Nothing to be checked: told at once. */
    s = sasl_new(SASL_OAUTHBEARER, &c);
    expect_text(say(s, "n,,\1auth=\1\1"), SASL_CHALLENGE, "{\"status\":\"invalid_token\"}");
    expect_failed(say(s, "\1"), ERR_DENIED, "the token is not good");
    sasl_free(&s);

    s = sasl_new(SASL_OAUTHBEARER, &c);
    assert_int_equal(say(s, "n,,\1auth=Bearer x\1\1").type, SASL_TOKEN);
    assert_int_equal(sasl_token_answer(s, true).type, SASL_DONE);
    sasl_free(&s);
}

/* --- SCRAM ----------------------------------------------------------------------------------- */

static void speaks_the_rfcs_scram(void **state)
{
    (void)state;
    struct sasl_context c = { .nonce = "3rfcNHYJY1ZVvWVs7j" };
    struct sasl *s = sasl_new(SASL_SCRAM_SHA_1, &c);
    expect_text(sasl_step(s, (struct span){ 0 }), SASL_CHALLENGE, "");
    struct sasl_action a = say(s, "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL");
    expect_user(a, SASL_KEYS, "user");
    assert_int_equal(a.hash, SCRAM_SHA_1);
    expect_text(give_keys(s, a), SASL_CHALLENGE,
                "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096");
    expect_text(say(s, "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,"
                       "p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="),
                SASL_CHALLENGE, "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=");
    expect_user(say(s, ""), SASL_PROVEN, "user");
    sasl_free(&s);

    c.nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    s = sasl_new(SASL_SCRAM_SHA_256, &c);
    a = say(s, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    expect_text(give_keys(s, a), SASL_CHALLENGE,
                "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                "s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
    expect_text(say(s, "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                       "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
                SASL_CHALLENGE, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    expect_failed(say(s, "x"), ERR_INVALID, "nothing was to be said");
    sasl_free(&s);
}

static void reads_first_messages(void **state)
{
    (void)state;
    struct sasl_context c = context();
    expect_user(once(SASL_SCRAM_SHA_256, &c, SPAN("n,,n=a=2Cb=3Dc,r=x")), SASL_KEYS, "a,b=c");
    expect_user(once(SASL_SCRAM_SHA_256, &c, SPAN("n,a=Bob,n=bob,r=x")), SASL_KEYS, "bob");
    expect_user(once(SASL_SCRAM_SHA_256, &c, SPAN("n,,n=I\xc2\xadX,r=x")), SASL_KEYS, "IX");
    expect_user(once(SASL_SCRAM_SHA_256, &c, SPAN("n,,n=a,r=x,z=1,Y=a=b")), SASL_KEYS, "a");
    expect_user(once(SASL_SCRAM_SHA_256, &c, SPAN("y,,n=a,r=x")), SASL_KEYS, "a");
    expect_user(once(SASL_SCRAM_SHA_256_PLUS, &c, SPAN("p=tls-exporter,,n=a,r=x")), SASL_KEYS, "a");
    expect_user(once(SASL_SCRAM_SHA_256_PLUS, &c, SPAN("p=tls-server-end-point,,n=a,r=x")),
                SASL_KEYS, "a");
}

static void refuses_first_messages(void **state)
{
    (void)state;
    static const struct {
        const char *message, *why;
    } bad[] = {
        { "", "invalid-encoding" },
        { "n", "invalid-encoding" },
        { "n,", "invalid-encoding" },
        { "n,,", "invalid-encoding" },
        { "x,,n=a,r=x", "invalid-encoding" },
        { "p=,,n=a,r=x", "invalid-encoding" },
        { "p=a_b,,n=a,r=x", "invalid-encoding" },
        { "n,b=x,n=a,r=x", "invalid-encoding" },
        { "n,,r=x,n=a", "invalid-encoding" },
        { "n,,n=a", "invalid-encoding" },
        { "n,,n=,r=x", "invalid-encoding" },
        { "n,,n=a,r=", "invalid-encoding" },
        { "n,,n=a,r=x y", "invalid-encoding" },
        { "n,,n=a,r=x,", "invalid-encoding" },
        { "n,,n=a,r=x,1=2", "invalid-encoding" },
        { "n,,n=a,r=x,z=", "invalid-encoding" },
        { "n,,n=a,r=x,,z=1", "invalid-encoding" },
        { "n,,n=\xff,r=x", "invalid-encoding" },
        { "n,,n=a=2cb,r=x", "invalid-username-encoding" },
        { "n,,n=a=,r=x", "invalid-username-encoding" },
        { "n,,n=\xc2\xad,r=x", "invalid-username-encoding" },
        { "n,a==,n=a,r=x", "invalid-username-encoding" },
        { "n,,n=a,r=x,m=1", "extensions-not-supported" },
    };
    struct sasl_context c = context();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        expect_failed(once(SASL_SCRAM_SHA_256, &c, text(bad[i].message)), ERR_INVALID, bad[i].why);
    }
    expect_failed(once(SASL_SCRAM_SHA_256, &c, SPAN("n,,m=1,n=a,r=x")), ERR_INVALID,
                  "extensions-not-supported");
    expect_failed(once(SASL_SCRAM_SHA_256, &c, SPAN("n,,n=a,r=x,z=\0")), ERR_INVALID,
                  "invalid-encoding");
    expect_failed(once(SASL_SCRAM_SHA_256, &c, SPAN("n,a=bob,n=a,r=x")), ERR_DENIED,
                  "nobody may act for somebody else");
    char huge[4000];
    memset(huge, 'x', sizeof huge);
    memcpy(huge, "n,,n=a,r=", 9);
    expect_failed(once(SASL_SCRAM_SHA_256, &c, span_of(huge, sizeof huge)), ERR_INVALID,
                  "the message is too long");
    expect_user(once(SASL_SCRAM_SHA_256, &c, span_of(huge, 2048)), SASL_KEYS, "a");
    memset(huge, 'x', sizeof huge);
    memcpy(huge, "n,,n=", 5);
    memcpy(huge + 1000, ",r=x", 4);
    expect_failed(once(SASL_SCRAM_SHA_256, &c, span_of(huge, 1004)), ERR_INVALID,
                  "invalid-username-encoding");
}

static void refuses_to_be_downgraded(void **state)
{
    (void)state;
    struct sasl_context c = context();
    c.plus_offered = true;
    expect_failed(once(SASL_SCRAM_SHA_256, &c, SPAN("y,,n=a,r=x")), ERR_INVALID,
                  "server-does-support-channel-binding");
    expect_failed(once(SASL_SCRAM_SHA_1, &c, SPAN("y,,n=a,r=x")), ERR_INVALID,
                  "server-does-support-channel-binding");
    expect_user(once(SASL_SCRAM_SHA_256, &c, SPAN("n,,n=a,r=x")), SASL_KEYS, "a");
    expect_failed(once(SASL_SCRAM_SHA_256, &c, SPAN("p=tls-exporter,,n=a,r=x")), ERR_INVALID,
                  "channel-binding-not-supported");
    expect_failed(once(SASL_SCRAM_SHA_256_PLUS, &c, SPAN("y,,n=a,r=x")), ERR_INVALID,
                  "server-does-support-channel-binding");
    expect_failed(once(SASL_SCRAM_SHA_256_PLUS, &c, SPAN("n,,n=a,r=x")), ERR_INVALID,
                  "channel-bindings-dont-match");
    expect_failed(once(SASL_SCRAM_SHA_256_PLUS, &c, SPAN("p=tls-unique,,n=a,r=x")), ERR_INVALID,
                  "unsupported-channel-binding-type");
    c.has_exporter = false;
    expect_failed(once(SASL_SCRAM_SHA_256_PLUS, &c, SPAN("p=tls-exporter,,n=a,r=x")), ERR_INVALID,
                  "unsupported-channel-binding-type");
    c.end_point_n = 0;
    expect_failed(once(SASL_SCRAM_SHA_256_PLUS, &c, SPAN("p=tls-server-end-point,,n=a,r=x")),
                  ERR_INVALID, "unsupported-channel-binding-type");
}

/* Everything but the proof is judged first, and told in a last message. */
static void refuses_final_messages(void **state)
{
    (void)state;
    static const struct {
        const char *message, *error;
    } bad[] = {
        { "", "e=invalid-encoding" },
        { "c=biws,r=xserver", "e=invalid-encoding" },
        { "c=biws,r=xserver,p=", "e=invalid-encoding" },
        { "c=biws,r=xserver,p=!", "e=invalid-encoding" },
        { "c=biws,r=xserver,p=AAAA,z=1", "e=invalid-encoding" },
        { "c=biw,r=xserver,p=AAAA", "e=invalid-encoding" },
        { "r=xserver,c=biws,p=AAAA", "e=invalid-encoding" },
        { "c=biws,r=xserver,,p=AAAA", "e=invalid-encoding" },
        { "c=biws,r=xserver,m=1,p=AAAA", "e=extensions-not-supported" },
        { "c=biws,r=x,p=AAAA", "e=other-error" },
        { "c=biws,r=xserver1,p=AAAA", "e=other-error" },
        { "c=eSws,r=xserver,p=AAAA", "e=channel-bindings-dont-match" },
        { "c=biwsAAAA,r=xserver,p=AAAA", "e=channel-bindings-dont-match" },
    };
    struct sasl_context c = context();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct sasl *s = sasl_new(SASL_SCRAM_SHA_256, &c);
        give_keys(s, say(s, "n,,n=user,r=x"));
        expect_text(say(s, bad[i].message), SASL_CHALLENGE, bad[i].error);
        expect_failed(say(s, "whatever"), ERR_INVALID, bad[i].error + 2);
        sasl_free(&s);
    }
}

static void tells_a_wrong_proof(void **state)
{
    (void)state;
    static const char *const proofs[] = { "AAAA", "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=" };
    struct sasl_context c = context();
    for (size_t i = 0; i < ARRAY_LEN(proofs); i++) {
        char message[200];
        struct sasl *s = sasl_new(SASL_SCRAM_SHA_256, &c);
        give_keys(s, say(s, "n,,n=user,r=x"));
        snprintf(message, sizeof message, "c=biws,r=xserver,p=%s", proofs[i]);
        struct sasl_action a = say(s, message);
        expect_user(a, SASL_WRONG, "user");
        sasl_free(&s);
    }
}

/* --- GNU SASL at the other end --------------------------------------------------------------- */

struct client {
    Gsasl *library;
    Gsasl_session *session;
};

static void client_open(struct client *g, const char *mechanism, const char *user,
                        const char *password, const struct sasl_context *c)
{
    char binding[64], octets[64];
    struct buf b;
    assert_int_equal(gsasl_init(&g->library), GSASL_OK);
    assert_int_equal(gsasl_client_start(g->library, mechanism, &g->session), GSASL_OK);
    gsasl_property_set(g->session, GSASL_AUTHID, user);
    gsasl_property_set(g->session, GSASL_PASSWORD, password);
    if (c) {
        buf_init(&b, sizeof octets);
        assert_int_equal(base64_encode(span_of(c->exporter, sizeof c->exporter), &b), ERR_OK);
        snprintf(binding, sizeof binding, "%.*s", SPAN_ARG(buf_span(&b)));
        buf_fini(&b);
        gsasl_property_set(g->session, GSASL_CB_TLS_EXPORTER, binding);
    }
}

static void client_close(struct client *g)
{
    gsasl_finish(g->session);
    gsasl_done(g->library);
}

/* Both sides take turns until ours ends; *agreed is what the client thinks of it. */
static struct sasl_action converse(struct sasl *s, struct client *g, bool *agreed)
{
    struct sasl_action a = { .type = SASL_CHALLENGE };
    int rc = GSASL_NEEDS_MORE;
    while (a.type == SASL_CHALLENGE && (rc == GSASL_NEEDS_MORE || rc == GSASL_OK)) {
        char *response = NULL, challenge[4096];
        size_t n = 0;
        memcpy(challenge, a.text.n ? a.text.p : "", a.text.n);
        rc = rc == GSASL_OK ? rc : gsasl_step(g->session, challenge, a.text.n, &response, &n);
        if (rc == GSASL_OK || rc == GSASL_NEEDS_MORE) {
            a = sasl_step(s, span_of(response ? response : "", n));
            a = a.type == SASL_KEYS ? give_keys(s, a) : a;
        }
        gsasl_free(response);
    }
    *agreed = rc == GSASL_OK;
    return a;
}

static void talks_to_gnu_sasl(void **state)
{
    (void)state;
    struct sasl_context c = context(), other = context();
    c.nonce = NULL;
    other.exporter[31] ^= 1;
    const struct {
        const char *mechanism, *user, *password;
        const struct sasl_context *binding;
        enum sasl_action_type end;
    } talks[] = {
        { "SCRAM-SHA-256", "user", "pencil", NULL, SASL_PROVEN },
        { "SCRAM-SHA-1", "us=er,", "pencil", NULL, SASL_PROVEN },
        { "SCRAM-SHA-256-PLUS", "user", "pencil", &c, SASL_PROVEN },
        { "SCRAM-SHA-256", "user", "pencils", NULL, SASL_WRONG },
        { "SCRAM-SHA-1", "user", "pencils", NULL, SASL_WRONG },
        { "SCRAM-SHA-256-PLUS", "user", "pencils", &c, SASL_WRONG },
    };
    for (size_t i = 0; i < ARRAY_LEN(talks); i++) {
        enum sasl_mechanism m;
        struct client g;
        bool agreed;
        assert_true(sasl_find(span_str(talks[i].mechanism), &m));
        struct sasl *s = sasl_new(m, &c);
        client_open(&g, talks[i].mechanism, talks[i].user, talks[i].password, talks[i].binding);
        struct sasl_action a = converse(s, &g, &agreed);
        expect_user(a, talks[i].end, talks[i].user);
        assert_int_equal(agreed, talks[i].end == SASL_PROVEN);
        client_close(&g);
        sasl_free(&s);
    }

    /* Somebody in the middle: each end has another channel. */
    struct client g;
    bool agreed;
    struct sasl *s = sasl_new(SASL_SCRAM_SHA_256_PLUS, &c);
    client_open(&g, "SCRAM-SHA-256-PLUS", "user", "pencil", &other);
    expect_text(converse(s, &g, &agreed), SASL_CHALLENGE, "e=channel-bindings-dont-match");
    assert_false(agreed);
    client_close(&g);
    sasl_free(&s);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_plain),
        cmocka_unit_test(refuses_what_is_not_plain),
        cmocka_unit_test(offers_what_can_be_used),
        cmocka_unit_test(speaks_plain),
        cmocka_unit_test(speaks_external),
        cmocka_unit_test(speaks_oauth),
        cmocka_unit_test(refuses_what_is_not_oauth),
        cmocka_unit_test(tells_of_a_bad_token),
        cmocka_unit_test(speaks_the_rfcs_scram),
        cmocka_unit_test(reads_first_messages),
        cmocka_unit_test(refuses_first_messages),
        cmocka_unit_test(refuses_to_be_downgraded),
        cmocka_unit_test(refuses_final_messages),
        cmocka_unit_test(tells_a_wrong_proof),
        cmocka_unit_test(talks_to_gnu_sasl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
