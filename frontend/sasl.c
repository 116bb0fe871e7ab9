/*
 * sasl: the table of mechanisms, and one exchange as a small machine of states.
 *
 * An exchange owns what it keeps and wipes it; the context is borrowed. SCRAM's messages are
 * sasl_scram's, OAuth's sasl_oauth's. It links no library and does no I/O; nobody is looked up and
 * nothing is logged here.
 */
#include "sasl.h"

#include <stdlib.h>

#include "base/check.h"
#include "sasl_oauth.h"
#include "sasl_scram.h"

enum err sasl_plain(struct span message, struct span *user, struct span *password)
{
    size_t n = span_find(message, '\0');
    struct span authzid = span_first(message, n);
    struct span rest = span_skip(message, n + 1);
    n = span_find(rest, '\0');
    struct span authcid = span_first(rest, n);
    rest = span_skip(rest, n + 1);

    if (authcid.n == 0 || rest.n == 0 || span_find(rest, '\0') < rest.n) {
        return ERR_INVALID;
    }
    if (authzid.n > 0 && !span_eq_nocase(authzid, authcid)) {
        return ERR_DENIED;
    }
    *user = authcid;
    *password = rest;
    return ERR_OK;
}

/* --- which mechanisms ------------------------------------------------------------------------ */

enum {
    NEEDS_PRIVACY = 1,
    NEEDS_BINDING = 2,
    NEEDS_TOKENS = 4,
    NEEDS_CERTIFICATE = 8,
    NEEDS_KEYS = 16
};

static const struct {
    const char *name;
    unsigned needs;
} mechanisms[] = {
#define X(name, text, needs) { text, needs },
    SASL_MECHANISM_LIST(X)
#undef X
};

bool sasl_find(struct span name, enum sasl_mechanism *out)
{
    for (size_t i = 0; i < SASL_MECHANISMS; i++) {
        if (span_eq_nocase(name, span_str(mechanisms[i].name))) {
            *out = (enum sasl_mechanism)i;
            return true;
        }
    }
    return false;
}

static unsigned connection_has(const struct sasl_context *c)
{
    return (c->secure || c->plaintext ? NEEDS_PRIVACY : 0u) |
           (c->has_exporter || c->end_point_n > 0 ? NEEDS_BINDING : 0u) |
           (c->keys ? NEEDS_KEYS : 0u) | (c->tokens ? NEEDS_TOKENS : 0u) |
           (c->n_names > 0 ? NEEDS_CERTIFICATE : 0u);
}

size_t sasl_offer(const struct config_list *wanted, struct sasl_context *c, const char **out)
{
    unsigned has = connection_has(c), seen = 0;
    size_t n = 0;
    enum sasl_mechanism m;
    for (size_t i = 0; i < wanted->n; i++) {
        if (sasl_find(span_str(wanted->v[i]), &m) && !(mechanisms[m].needs & ~has) &&
            !(seen & 1u << m)) {
            seen |= 1u << m;
            out[n++] = mechanisms[m].name;
        }
    }
    c->plus_offered = seen & 1u << SASL_SCRAM_SHA_256_PLUS;
    return n;
}

/* --- one exchange ---------------------------------------------------------------------------- */

enum state {
    STATE_FIRST,  /* the client's first message, or none yet */
    STATE_KEYS,   /* SCRAM: the caller looks for them */
    STATE_FINAL,  /* SCRAM: the client's proof */
    STATE_SHOWN,  /* SCRAM: the client was shown that we know its password */
    STATE_TOKEN,  /* OAuth: the caller looks at it */
    STATE_FAILED, /* the client was told in a challenge; its answer ends it */
    STATE_END
};

struct sasl {
    enum sasl_mechanism mechanism;
    const struct sasl_context *context;
    enum state state;
    bool asked;                 /* for the first message, by an empty challenge */
    struct sasl_action failure; /* STATE_FAILED */
    struct buf text;
    char user[SASL_USER_SIZE]; /* of a token */
    struct sasl_scram scram;
};

struct sasl *sasl_new(enum sasl_mechanism m, const struct sasl_context *c)
{
    struct sasl *s = NEW(struct sasl);
    s->mechanism = m;
    s->context = c;
    buf_init(&s->text, 64);
    sasl_scram_init(&s->scram, c, m == SASL_SCRAM_SHA_1 ? SCRAM_SHA_1 : SCRAM_SHA_256,
                    m == SASL_SCRAM_SHA_256_PLUS);
    return s;
}

void sasl_free(struct sasl **sp)
{
    struct sasl *s = *sp;
    if (s) {
        sasl_scram_fini(&s->scram);
        buf_fini(&s->text);
        explicit_bzero(s, sizeof *s);
        free(s);
        *sp = NULL;
    }
}

static struct sasl_action challenge(struct span text)
{
    return (struct sasl_action){ .type = SASL_CHALLENGE, .text = text };
}

static struct sasl_action failed(enum err e, const char *why)
{
    return (struct sasl_action){ .type = SASL_FAILED, .err = e, .why = why };
}

/* The client hears the reason in a challenge, and of the failure when it has answered. */
static struct sasl_action fail_later(struct sasl *s, struct sasl_action failure, struct span text)
{
    s->failure = failure;
    s->state = STATE_FAILED;
    return challenge(text);
}

/* --- PLAIN and EXTERNAL ---------------------------------------------------------------------- */

static struct sasl_action step_plain(struct sasl *s, struct span response)
{
    struct sasl_action a = { .type = SASL_PASSWORD };
    enum err e = sasl_plain(response, &a.user, &a.password);
    s->state = STATE_END;
    if (e == ERR_OK) {
        return a;
    }
    return failed(e,
                  e == ERR_DENIED ? "nobody may act for somebody else" : "not a message of PLAIN");
}

/* Without a name the certificate's only one is meant; which of several would be a guess. */
static struct sasl_action step_external(struct sasl *s, struct span response)
{
    const struct sasl_context *c = s->context;
    s->state = STATE_END;
    if (!span_utf8(response) || span_find(response, '\0') < response.n) {
        return failed(ERR_INVALID, "not a name");
    }
    for (size_t i = 0; i < c->n_names; i++) {
        struct span name = span_str(c->names[i]);
        if (response.n == 0 ? c->n_names == 1 : span_eq_nocase(name, response)) {
            return (struct sasl_action){ .type = SASL_CERTIFICATE, .user = name };
        }
    }
    return failed(ERR_DENIED, response.n == 0 ? "the certificate does not say which account"
                                              : "the certificate has another name");
}

/* --- OAuth ----------------------------------------------------------------------------------- */

static struct sasl_action refuse_token(struct sasl *s)
{
    /* RFC 7628, section 3.2.2; and what XOAUTH2's clients know. */
    struct span why = s->mechanism == SASL_OAUTHBEARER
                          ? SPAN("{\"status\":\"invalid_token\"}")
                          : SPAN("{\"status\":\"401\",\"schemes\":\"bearer\"}");
    return fail_later(s, failed(ERR_DENIED, "the token is not good"), why);
}

static struct sasl_action step_token(struct sasl *s, struct span response)
{
    struct sasl_action a = { .type = SASL_TOKEN };
    enum err e = s->mechanism == SASL_OAUTHBEARER
                     ? oauth_bearer(response, s->user, sizeof s->user, &a.text)
                     : oauth_xoauth2(response, s->user, sizeof s->user, &a.text);
    if (e != ERR_OK) {
        s->state = STATE_END;
        return failed(ERR_INVALID, "not a message with a token");
    }
    if (a.text.n == 0) {
        return refuse_token(s);
    }
    a.user = span_str(s->user);
    s->state = STATE_TOKEN;
    return a;
}

struct sasl_action sasl_token_answer(struct sasl *s, bool good)
{
    CHECK(s->state == STATE_TOKEN);
    if (!good) {
        return refuse_token(s);
    }
    s->state = STATE_END;
    return (struct sasl_action){ .type = SASL_DONE };
}

/* --- SCRAM ----------------------------------------------------------------------------------- */

static struct sasl_action step_scram(struct sasl *s, struct span response)
{
    struct sasl_action a = sasl_scram_first(&s->scram, response);
    s->state = a.type == SASL_KEYS ? STATE_KEYS : STATE_END;
    return a;
}

struct sasl_action sasl_keys_answer(struct sasl *s, const struct scram_keys *k)
{
    CHECK(s->state == STATE_KEYS);
    s->state = STATE_FINAL;
    return sasl_scram_keys(&s->scram, k);
}

/* A wrong proof is told by the protocol around, which all clients show, without a last message. */
static struct sasl_action step_final(struct sasl *s, struct span response)
{
    struct sasl_action a = sasl_scram_final(&s->scram, response);
    s->state = a.type == SASL_CHALLENGE ? STATE_SHOWN : STATE_END;
    if (a.type != SASL_FAILED) {
        return a;
    }
    buf_addf(&s->text, "e=%s", a.why);
    return fail_later(s, a, buf_span(&s->text));
}

static struct sasl_action step_shown(struct sasl *s, struct span response)
{
    s->state = STATE_END;
    if (response.n > 0) {
        return failed(ERR_INVALID, "nothing was to be said");
    }
    return (struct sasl_action){ .type = SASL_PROVEN, .user = span_str(s->scram.user) };
}

/* --- all of them ----------------------------------------------------------------------------- */

static struct sasl_action step_first(struct sasl *s, struct span response)
{
    switch (s->mechanism) {
    case SASL_PLAIN:
        return step_plain(s, response);
    case SASL_OAUTHBEARER:
    case SASL_XOAUTH2:
        return step_token(s, response);
    case SASL_EXTERNAL:
        return step_external(s, response);
    default:
        return step_scram(s, response);
    }
}

struct sasl_action sasl_step(struct sasl *s, struct span response)
{
    if (!response.p && s->state == STATE_FIRST && !s->asked) {
        s->asked = true; /* every mechanism here begins with the client */
        return challenge(SPAN(""));
    }
    response = response.p ? response : SPAN("");
    switch (s->state) {
    case STATE_FIRST:
        return step_first(s, response);
    case STATE_FINAL:
        return step_final(s, response);
    case STATE_SHOWN:
        return step_shown(s, response);
    case STATE_FAILED:
        s->state = STATE_END;
        return s->failure;
    default:
        UNREACHABLE();
    }
}
