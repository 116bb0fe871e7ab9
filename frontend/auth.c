/*
 * auth: the steps between the mechanism and the store.
 *
 *   PASSWORD, TOKEN, CERTIFICATE   one question to the store, which ends the exchange; but a bad
 *                                  token gets the mechanism's own words first
 *   KEYS                           the store gives the keys of a SCRAM user and keeps the login
 *                                  open; the response to them is the proof, which the mechanism
 *                                  does not see before the store has counted it
 *   PROVEN, WRONG                  that login is ended, one way or the other
 *
 * It owns the exchange and the login between two steps of SCRAM. Secrets are in sasl alone.
 */
#include "auth.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "store/token.h"

#define NAMES_MAX 8 /* mail addresses of a client's certificate that are looked at */

struct auth {
    struct store *store;
    const struct sockaddr *client;
    struct sasl_context context;
    char names[NAMES_MAX][SASL_NAME_SIZE];
    struct sasl *sasl;
    auth_fn *fn;
    void *arg;
    struct op *op;
    struct scram_login *scram; /* between KEYS and PROVEN or WRONG */
    bool proof_next;           /* what the client says next is its proof */
    struct span proof;         /* borrowed, while the store counts it */
    char user[256];            /* cut */
    bool token;                /* a refusal is first explained to the client */
    enum login_verdict refused;
};

static struct auth_result auth_act(struct auth *a, struct sasl_action act);

static void auth_tell(struct auth *a, struct auth_result r)
{
    if (r.state != AUTH_WAIT) {
        a->fn(a->arg, &r);
    }
}

static struct auth_result auth_done(enum login_verdict v, struct login *l)
{
    return (struct auth_result){ .state = AUTH_DONE, .verdict = v, .login = l };
}

static void note_user(struct auth *a, struct span user)
{
    struct span cut = span_first(user, sizeof a->user - 1);
    memcpy(a->user, cut.p, cut.n);
    a->user[cut.n] = '\0';
}

/* --- answers of the store -------------------------------------------------------------------- */

static void on_login(void *arg, enum login_verdict v, struct login *l)
{
    struct auth *a = arg;
    a->op = NULL;
    if (a->token && v == LOGIN_DENIED) {
        a->refused = v;
        auth_tell(a, auth_act(a, sasl_token_answer(a->sasl, false)));
    } else {
        auth_tell(a, auth_done(v, l));
    }
}

static void on_keys(void *arg, enum login_verdict v, struct scram_login **l,
                    const struct scram_keys *k)
{
    struct auth *a = arg;
    a->op = NULL;
    if (v != LOGIN_OK) {
        auth_tell(a, auth_done(v, NULL));
        return;
    }
    a->scram = *l;
    *l = NULL;
    a->proof_next = true;
    auth_tell(a, auth_act(a, sasl_keys_answer(a->sasl, k)));
}

static void on_proof(void *arg, enum login_verdict v, struct scram_login **l,
                     const struct scram_keys *k)
{
    struct auth *a = arg;
    (void)k; /* the mechanism has them */
    a->op = NULL;
    if (v != LOGIN_OK) {
        auth_tell(a, auth_done(v, NULL));
        return;
    }
    a->scram = *l;
    *l = NULL;
    auth_tell(a, auth_act(a, sasl_step(a->sasl, a->proof)));
}

/* --- actions of the mechanism ---------------------------------------------------------------- */

static struct auth_result ask(struct auth *a, enum login_proof proof, struct span user,
                              struct span secret)
{
    struct login_claim c = { .proof = proof, .user = user, .secret = secret, .client = a->client };
    note_user(a, user);
    a->token = proof == LOGIN_TOKEN;
    a->op = store_login(a->store, &c, on_login, a);
    return (struct auth_result){ .state = AUTH_WAIT };
}

static struct auth_result ask_keys(struct auth *a, const struct sasl_action *act)
{
    note_user(a, act->user);
    a->op = store_scram(a->store, act->hash, act->user, a->client, on_keys, a);
    return (struct auth_result){ .state = AUTH_WAIT };
}

static struct auth_result auth_failed(struct auth *a, enum err e)
{
    if (a->refused) {
        return auth_done(a->refused, NULL);
    }
    if (e == ERR_DENIED) {
        return auth_done(LOGIN_DENIED, NULL);
    }
    return (struct auth_result){ .state = AUTH_INVALID };
}

static struct auth_result auth_act(struct auth *a, struct sasl_action act)
{
    switch (act.type) {
    case SASL_CHALLENGE:
        return (struct auth_result){ .state = AUTH_CHALLENGE, .challenge = act.text };
    case SASL_KEYS:
        return ask_keys(a, &act);
    case SASL_PASSWORD:
        return ask(a, LOGIN_PASSWORD, act.user, act.password);
    case SASL_TOKEN:
        return ask(a, LOGIN_TOKEN, act.user, act.text);
    case SASL_CERTIFICATE:
        return ask(a, LOGIN_CERTIFICATE, act.user, SPAN(""));
    case SASL_PROVEN:
        a->op = store_scram_login(a->store, &a->scram, on_login, a);
        return (struct auth_result){ .state = AUTH_WAIT };
    case SASL_WRONG:
        a->op = store_scram_wrong(a->store, &a->scram, on_login, a);
        return (struct auth_result){ .state = AUTH_WAIT };
    case SASL_FAILED:
        return auth_failed(a, act.err);
    case SASL_DONE: /* a good token opens the maildrop: on_login */
        break;
    }
    UNREACHABLE();
}

struct auth_result auth_respond(struct auth *a, struct span response)
{
    CHECK(!a->op);
    if (a->proof_next) {
        a->proof_next = false;
        a->proof = response;
        a->op = store_scram_proof(a->store, &a->scram, on_proof, a);
        return (struct auth_result){ .state = AUTH_WAIT };
    }
    return auth_act(a, sasl_step(a->sasl, response));
}

/* --- the configuration ----------------------------------------------------------------------- */

bool auth_check(struct config *c, char *why, size_t why_size)
{
    for (size_t i = 0; i < c->auth_mechanisms.n; i++) {
        enum sasl_mechanism m;
        if (!sasl_find(span_str(c->auth_mechanisms.v[i]), &m)) {
            snprintf(why, why_size, "auth.mechanisms: %s: not a mechanism that is known here",
                     c->auth_mechanisms.v[i]);
            return false;
        }
    }
    return token_check_config(c, why, why_size) == ERR_OK;
}

/* --- the connection -------------------------------------------------------------------------- */

static struct sasl_context context_of(const struct auth_options *o)
{
    return (struct sasl_context){
        .secure = conn_secure(o->conn),
        .plaintext = o->config->pop3_plaintext_login == PLAINTEXT_LOGIN_ALWAYS,
        .keys = o->config->auth_scram == AUTH_SCRAM_ALWAYS || !store_fleet(o->store).keyless,
        .tokens = store_tokens(o->store)
    };
}

/* Bindings are not computed for an offer, of which most clients make no use: TLS here has one. */
size_t auth_offer(const struct auth_options *o, const char **out)
{
    char names[NAMES_MAX][SASL_NAME_SIZE];
    struct sasl_context c = context_of(o);
    c.has_exporter = conn_tls(o->conn);
    c.n_names = conn_certificate_names(o->conn, names, NAMES_MAX);
    return sasl_offer(&o->config->auth_mechanisms, &c, out);
}

static void fill_context(struct auth *a, const struct auth_options *o)
{
    const char *offered[SASL_MECHANISMS];
    struct sasl_context *c = &a->context;
    *c = context_of(o);
    c->has_exporter = conn_tls_exporter(o->conn, c->exporter);
    c->end_point_n = conn_tls_end_point(o->conn, c->end_point);
    c->n_names = conn_certificate_names(o->conn, a->names, NAMES_MAX);
    c->names = (const char(*)[SASL_NAME_SIZE])a->names;
    sasl_offer(&o->config->auth_mechanisms, c, offered);
}

struct auth *auth_open(const struct auth_options *o, const char *mechanism, auth_fn *fn, void *arg)
{
    struct auth *a = NEW(struct auth);
    enum sasl_mechanism m;
    CHECK(sasl_find(span_str(mechanism), &m));
    a->store = o->store;
    a->client = conn_peer(o->conn);
    fill_context(a, o);
    a->sasl = sasl_new(m, &a->context);
    a->fn = fn;
    a->arg = arg;
    return a;
}

struct span auth_user(const struct auth *a)
{
    return span_str(a->user);
}

void auth_close(struct auth **ap)
{
    struct auth *a = *ap;
    *ap = NULL;
    if (a) {
        op_cancel(&a->op);
        store_scram_drop(&a->scram);
        sasl_free(&a->sasl);
        free(a);
    }
}
