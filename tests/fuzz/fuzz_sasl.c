/*
 * fuzz_sasl: whole exchanges of every mechanism. The first octet chooses the mechanism, the second
 * what the connection has; the rest are the responses, each with two octets of length in front
 * (0xffff: none at all).
 *
 * Holds that an exchange ends after few steps, that no mechanism gives an action of another, and
 * that what it says to the client is printable and short.
 */
#include <stdlib.h>

#include "base/check.h"
#include "sasl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool take_response(struct span *in, char **copy, struct span *out)
{
    if (in->n < 2) {
        return false;
    }
    size_t n = (size_t)(unsigned char)in->p[0] << 8 | (unsigned char)in->p[1];
    *in = span_skip(*in, 2);
    *out = (struct span){ 0 };
    *copy = NULL;
    if (n != 0xffff) {
        *out = span_first(*in, n);
        *in = span_skip(*in, n);
        *copy = span_dup(*out); /* its bounds are watched */
        out->p = *copy;
    }
    return true;
}

/* Our nonce is known here, and so a recorded exchange goes through to its end. */
static void make_context(unsigned bits, struct sasl_context *c)
{
    static const char names[2][SASL_NAME_SIZE] = { "alice@example.org", "bob@example.org" };
    *c = (struct sasl_context){ .secure = true,
                                .tokens = true,
                                .plus_offered = bits & 1,
                                .has_exporter = bits & 2,
                                .end_point_n = bits & 4 ? 32 : 0,
                                .names = names,
                                .n_names = 1 + (bits & 8) / 8,
                                .nonce = "server" };
}

static struct sasl_action give_keys(struct sasl *s, enum scram_hash h)
{
    struct scram_keys k;
    CHECK(scram_parse(SPAN("SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$6dlGYMOdZcOPutkcNY8U2g7vK9Y=:"
                           "D+CSWLOshSulAsxiupA+qs2/fTE= "
                           "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
                           "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
                           "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="),
                      h, &k) == ERR_OK);
    return sasl_keys_answer(s, &k);
}

static void check_challenge(struct span s)
{
    CHECK(s.n <= 4096);
    for (size_t i = 0; i < s.n; i++) {
        CHECK(s.p[i] >= ' ' && s.p[i] <= '~');
    }
}

/* Which mechanisms an action may come from. */
static void check_type(enum sasl_action_type type, enum sasl_mechanism m)
{
    bool oauth = m == SASL_OAUTHBEARER || m == SASL_XOAUTH2;
    bool scram = !oauth && m != SASL_PLAIN && m != SASL_EXTERNAL;
    switch (type) {
    case SASL_CHALLENGE:
    case SASL_FAILED:
        return;
    case SASL_PASSWORD:
        CHECK(m == SASL_PLAIN);
        return;
    case SASL_CERTIFICATE:
        CHECK(m == SASL_EXTERNAL);
        return;
    case SASL_TOKEN:
    case SASL_DONE:
        CHECK(oauth);
        return;
    default:
        CHECK(scram);
    }
}

/* Whether the exchange goes on. */
static bool take_action(struct sasl *s, enum sasl_mechanism m, struct sasl_action a, bool good)
{
    check_type(a.type, m);
    if (a.type == SASL_KEYS) {
        CHECK(a.user.n > 0 && span_utf8(a.user));
        a = give_keys(s, a.hash);
    } else if (a.type == SASL_TOKEN) {
        CHECK(a.text.n > 0 && span_utf8(a.user));
        a = sasl_token_answer(s, good);
    }
    if (a.type == SASL_CHALLENGE) {
        check_challenge(a.text);
        return true;
    }
    CHECK(a.type != SASL_FAILED || (a.why && (a.err == ERR_INVALID || a.err == ERR_DENIED)));
    CHECK(a.type != SASL_PASSWORD || (a.user.n > 0 && a.password.n > 0));
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    struct sasl_context c;
    enum sasl_mechanism m = data[0] % SASL_MECHANISMS;
    make_context(data[1], &c);
    struct sasl *s = sasl_new(m, &c);
    struct span in = span_of(data + 2, size - 2), response;
    char *copy;
    bool more = true;
    for (unsigned steps = 0; more && take_response(&in, &copy, &response); steps++) {
        CHECK(steps < 4);
        more = take_action(s, m, sasl_step(s, response), data[1] & 16);
        free(copy);
    }
    sasl_free(&s);
    return 0;
}
