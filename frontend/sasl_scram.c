/*
 * sasl_scram: reads what a SCRAM client says and writes what it is told.
 *
 * What is kept of an exchange lies in buffers with bounds, wiped at its end. Keys come from the
 * caller, and whether a name has any is not seen here. Errors of the first message end the exchange
 * at once: RFC 5802's words for them (`e=`) have their place in the server's final message alone,
 * and a client that waits for a salt does not look for them.
 *
 * What is wrong beside the proof, a channel that does not match included, is INVALID: no password
 * was tried, so nobody is to hear that it was wrong. DENIED is a name that acts for another.
 */
#include "sasl_scram.h"

#include <stdlib.h>

#include "base/check.h"
#include "proto/base64.h"
#include "sasl_gs2.h"

enum {
    MESSAGE_MAX = 2048, /* of the client; names and nonces are far shorter */
    NONCE_MAX = MESSAGE_MAX + 64,
    TEXT_MAX = NONCE_MAX + 2 * SCRAM_SALT_MAX + 64,
    AUTH_MAX = 2 * MESSAGE_MAX + TEXT_MAX,
};

void sasl_scram_init(struct sasl_scram *s, const struct sasl_context *c, enum scram_hash h,
                     bool plus)
{
    *s = (struct sasl_scram){ .context = c, .plus = plus, .keys.hash = h };
    buf_init(&s->binding, MESSAGE_MAX + sizeof c->end_point);
    buf_init(&s->nonce, NONCE_MAX);
    buf_init(&s->auth, AUTH_MAX);
    buf_init(&s->text, TEXT_MAX);
}

void sasl_scram_fini(struct sasl_scram *s)
{
    buf_fini(&s->binding);
    buf_fini(&s->nonce);
    buf_fini(&s->auth);
    buf_fini(&s->text);
    explicit_bzero(s, sizeof *s);
}

static struct sasl_action failed(enum err e, const char *why)
{
    return (struct sasl_action){ .type = SASL_FAILED, .err = e, .why = why };
}

/* Every part has a bound, and the buffers have room for the parts. */
static void add(struct buf *b, struct span s)
{
    CHECK(buf_add(b, s) == ERR_OK);
}

static void add_base64(struct buf *b, const void *p, size_t n)
{
    CHECK(base64_encode(span_of(p, n), b) == ERR_OK);
}

/* --- attributes ------------------------------------------------------------------------------ */

/* Takes the attribute in front off *rest if it is called name: `name=value` and a comma or the end.
 */
static bool attribute(struct span *rest, char name, struct span *value)
{
    size_t n = span_find(*rest, ',');
    if (n < 3 || rest->p[0] != name || rest->p[1] != '=') {
        return false;
    }
    *value = span_skip(span_first(*rest, n), 2);
    *rest = span_skip(*rest, n + 1);
    return true;
}

static bool is_letter(char c)
{
    char lower = (char)(c | 0x20);
    return lower >= 'a' && lower <= 'z';
}

/* What may follow in any message: attributes that nobody here knows. `m` asks to be known. */
static const char *check_extensions(struct span message, struct span rest)
{
    struct span value;
    if (!span_utf8(message) || span_find(message, '\0') < message.n ||
        message.p[message.n - 1] == ',') {
        return "invalid-encoding";
    }
    while (rest.n > 0) {
        char name = rest.p[0];
        if (name == 'm') {
            return "extensions-not-supported";
        }
        if (!is_letter(name) || !attribute(&rest, name, &value)) {
            return "invalid-encoding";
        }
    }
    return NULL;
}

static bool is_nonce(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '!' || s.p[i] > '~' || s.p[i] == ',') {
            return false;
        }
    }
    return s.n > 0;
}

/* --- the first message ----------------------------------------------------------------------- */

/*
 * What the client's flag asks for can be had: NULL, and the channel's data is behind the header.
 * A client that believes that we can't bind was told so by somebody else.
 */
static const char *bind_channel(struct sasl_scram *s, const struct gs2 *g)
{
    const struct sasl_context *c = s->context;
    add(&s->binding, g->header);
    if (g->flag != 'p') {
        bool lost = g->flag == 'y' && (s->plus || c->plus_offered);
        return lost      ? "server-does-support-channel-binding"
               : s->plus ? "channel-bindings-dont-match"
                         : NULL;
    }
    if (!s->plus) {
        return "channel-binding-not-supported";
    }
    if (span_eq(g->binding, SPAN("tls-exporter")) && c->has_exporter) {
        add(&s->binding, span_of(c->exporter, sizeof c->exporter));
        return NULL;
    }
    if (span_eq(g->binding, SPAN("tls-server-end-point")) && c->end_point_n > 0) {
        add(&s->binding, span_of(c->end_point, c->end_point_n));
        return NULL;
    }
    return "unsupported-channel-binding-type";
}

static enum err read_name(struct span in, char out[SASL_USER_SIZE])
{
    char raw[SASL_USER_SIZE];
    enum err e = gs2_name(in, raw, sizeof raw);
    return e == ERR_OK ? scram_prepare_user(span_str(raw), out, SASL_USER_SIZE) : e;
}

static struct sasl_action read_user(struct sasl_scram *s, struct span authzid, struct span user)
{
    char other[SASL_USER_SIZE];
    if (read_name(user, s->user) != ERR_OK) {
        return failed(ERR_INVALID, "invalid-username-encoding");
    }
    if (authzid.n > 0) {
        if (read_name(authzid, other) != ERR_OK) {
            return failed(ERR_INVALID, "invalid-username-encoding");
        }
        if (!span_eq_nocase(span_str(other), span_str(s->user))) {
            return failed(ERR_DENIED, "nobody may act for somebody else");
        }
    }
    return (
        struct sasl_action){ .type = SASL_KEYS, .hash = s->keys.hash, .user = span_str(s->user) };
}

struct sasl_action sasl_scram_first(struct sasl_scram *s, struct span message)
{
    struct gs2 g;
    struct span bare, rest, user, nonce;
    if (message.n > MESSAGE_MAX) {
        return failed(ERR_INVALID, "the message is too long");
    }
    if (gs2_parse(message, &g, &bare) != ERR_OK) {
        return failed(ERR_INVALID, "invalid-encoding");
    }
    rest = bare;
    if (span_starts(rest, SPAN("m="))) {
        return failed(ERR_INVALID, "extensions-not-supported");
    }
    if (!attribute(&rest, 'n', &user) || !attribute(&rest, 'r', &nonce) || !is_nonce(nonce)) {
        return failed(ERR_INVALID, "invalid-encoding");
    }
    const char *why = check_extensions(message, rest);
    if (why) {
        return failed(ERR_INVALID, why);
    }
    if ((why = bind_channel(s, &g))) {
        return failed(ERR_INVALID, why);
    }
    add(&s->auth, bare);
    add(&s->nonce, nonce);
    return read_user(s, g.authzid, user);
}

/* --- ours ------------------------------------------------------------------------------------ */

struct sasl_action sasl_scram_keys(struct sasl_scram *s, const struct scram_keys *k)
{
    char ours[SCRAM_NONCE_SIZE];
    CHECK(k->hash == s->keys.hash);
    s->keys = *k;
    scram_nonce(ours);
    add(&s->nonce, span_str(s->context->nonce ? s->context->nonce : ours));
    add(&s->text, SPAN("r="));
    add(&s->text, buf_span(&s->nonce));
    add(&s->text, SPAN(",s="));
    add_base64(&s->text, k->salt, k->salt_n);
    add(&s->text, SPAN(",i="));
    CHECK(buf_addu(&s->text, k->iterations) == ERR_OK);
    add(&s->auth, SPAN(","));
    add(&s->auth, buf_span(&s->text));
    return (struct sasl_action){ .type = SASL_CHALLENGE, .text = buf_span(&s->text) };
}

/* --- the final message ----------------------------------------------------------------------- */

/* Cuts `,p=` off the end. */
static bool cut_proof(struct span *message, struct span *proof)
{
    const char *comma = message->n > 0 ? memrchr(message->p, ',', message->n) : NULL;
    if (!comma) {
        return false;
    }
    size_t n = (size_t)(comma - message->p);
    struct span last = span_skip(*message, n + 1);
    *message = span_first(*message, n);
    return attribute(&last, 'p', proof);
}

/* NULL, or what is wrong with all but the proof. */
static const char *check_final(const struct sasl_scram *s, struct span message)
{
    struct span rest = message, binding, nonce;
    char octets[MESSAGE_MAX];
    size_t n;
    if (!attribute(&rest, 'c', &binding) || !attribute(&rest, 'r', &nonce) ||
        base64_decode(binding, octets, &n) != ERR_OK) {
        return "invalid-encoding";
    }
    const char *why = check_extensions(message, rest);
    if (why) {
        return why;
    }
    if (!span_eq(nonce, buf_span(&s->nonce))) {
        return "other-error";
    }
    return span_eq(span_of(octets, n), buf_span(&s->binding)) ? NULL
                                                              : "channel-bindings-dont-match";
}

static struct sasl_action verify(struct sasl_scram *s, struct span proof)
{
    uint8_t signature[SCRAM_KEY_MAX];
    size_t n = scram_hash_size(s->keys.hash);
    if (!scram_verify(&s->keys, buf_span(&s->auth), proof, signature)) {
        return (struct sasl_action){ .type = SASL_WRONG, .user = span_str(s->user) };
    }
    buf_clear(&s->text);
    add(&s->text, SPAN("v="));
    add_base64(&s->text, signature, n);
    explicit_bzero(signature, sizeof signature);
    return (struct sasl_action){ .type = SASL_CHALLENGE, .text = buf_span(&s->text) };
}

struct sasl_action sasl_scram_final(struct sasl_scram *s, struct span message)
{
    struct span proof, without = message;
    char octets[MESSAGE_MAX];
    size_t n;
    if (message.n > MESSAGE_MAX) {
        return failed(ERR_INVALID, "the message is too long");
    }
    if (!cut_proof(&without, &proof) || base64_decode(proof, octets, &n) != ERR_OK) {
        return failed(ERR_INVALID, "invalid-encoding");
    }
    const char *why = check_final(s, without);
    if (why) {
        return failed(ERR_INVALID, why);
    }
    add(&s->auth, SPAN(","));
    add(&s->auth, without);
    struct sasl_action a = verify(s, span_of(octets, n));
    explicit_bzero(octets, sizeof octets);
    return a;
}
