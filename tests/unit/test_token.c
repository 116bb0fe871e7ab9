/*
 * token: an endpoint that says everything it should not, and tokens signed with the wrong keys. The
 * endpoint is a server of the test's own, on loopback.
 */
#include "store/token.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <jose/b64.h>
#include <jose/jwk.h>
#include <jose/jws.h>
#include <microhttpd.h>

#include "base/check.h"
#include "net_fixture.h"

/* --- an endpoint ----------------------------------------------------------------------------- */

/* Token: what the endpoint says of it. */
static const struct {
    const char *token;
    unsigned status;
    const char *answer;
} answers[] = {
    { "good", 200, "{\"active\":true,\"email\":\"alice@example.org\"}" },
    { "a+b/c=", 200, "{\"active\":true,\"email\":\"plus@example.org\"}" },
    { "verified", 200, "{\"active\":true,\"email\":\"a@b\",\"email_verified\":true}" },
    { "unverified", 200, "{\"active\":true,\"email\":\"a@b\",\"email_verified\":false}" },
    { "inactive", 200, "{\"active\":false,\"email\":\"alice@example.org\"}" },
    { "nameless", 200, "{\"active\":true}" },
    { "number", 200, "{\"active\":true,\"email\":7}" },
    { "empty", 200, "{\"active\":true,\"email\":\"\"}" },
    { "expired", 200, "{\"active\":true,\"email\":\"a@b\",\"exp\":1000}" },
    { "later", 200, "{\"active\":true,\"email\":\"a@b\",\"nbf\":1e300}" },
    { "odd time", 200, "{\"active\":true,\"email\":\"a@b\",\"exp\":\"soon\"}" },
    { "ruled", 200,
      "{\"active\":true,\"email\":\"a@b\",\"iss\":\"https://id.example\",\"aud\":[\"x\",\"mail\"],"
      "\"scope\":\"openid mail.read\"}" },
    { "word", 200, "{\"active\":\"true\",\"email\":\"a@b\"}" },
    { "twice", 200, "{\"active\":false,\"active\":true,\"email\":\"a@b\"}" },
    { "html", 200, "<html><body>Sign in</body></html>" },
    { "list", 200, "[{\"active\":true,\"email\":\"a@b\"}]" },
    { "nothing", 200, "" },
    { "500", 500, "{\"active\":true,\"email\":\"a@b\"}" },
    { "401", 401, "{\"active\":true,\"email\":\"a@b\"}" },
    { "302", 302, "" },
    { "huge", 200, NULL },
};

struct endpoint {
    struct MHD_Daemon *daemon;
    unsigned requests; /* read when it is idle */
    char authorization[256];
};

struct post {
    struct MHD_PostProcessor *reader;
    char token[256];
};

static enum MHD_Result on_field(void *arg, enum MHD_ValueKind kind, const char *key,
                                const char *name, const char *type, const char *encoding,
                                const char *data, uint64_t at, size_t n)
{
    struct post *p = arg;
    (void)kind, (void)name, (void)type, (void)encoding;
    if (strcmp(key, "token") == 0 && at + n < sizeof p->token) {
        memcpy(p->token + at, data, n);
    }
    return MHD_YES;
}

/* What would be believed if it were read to its end. */
static struct MHD_Response *huge_answer(void)
{
    static const char head[] = "{\"active\":true,\"email\":\"a@b\",\"x\":\"";
    size_t n = 200000;
    char *text = malloc(n);
    memset(text, 'x', n);
    memcpy(text, head, sizeof head - 1);
    memcpy(text + n - 2, "\"}", 2);
    return MHD_create_response_from_buffer(n, text, MHD_RESPMEM_MUST_FREE);
}

static enum MHD_Result answer(struct MHD_Connection *c, const char *token)
{
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        if (strcmp(token, answers[i].token) == 0) {
            const char *text = answers[i].answer;
            struct MHD_Response *r =
                text ? MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
                                                       MHD_RESPMEM_PERSISTENT)
                     : huge_answer();
            MHD_add_response_header(r, "Location", "/good");
            enum MHD_Result rc = MHD_queue_response(c, answers[i].status, r);
            MHD_destroy_response(r);
            return rc;
        }
    }
    return MHD_NO;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *n, void **state)
{
    struct endpoint *e = arg;
    struct post *p = *state;
    (void)url, (void)method, (void)version;
    if (!p) {
        p = calloc(1, sizeof *p);
        p->reader = MHD_create_post_processor(c, 1024, on_field, p);
        *state = p;
        return p->reader ? MHD_YES : MHD_NO;
    }
    if (*n > 0) {
        MHD_post_process(p->reader, data, *n);
        *n = 0;
        return MHD_YES;
    }
    const char *who = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization");
    snprintf(e->authorization, sizeof e->authorization, "%s", who ? who : "");
    e->requests++;
    return answer(c, p->token);
}

static void on_completed(void *arg, struct MHD_Connection *c, void **state,
                         enum MHD_RequestTerminationCode why)
{
    struct post *p = *state;
    (void)arg, (void)c, (void)why;
    if (p) {
        MHD_destroy_post_processor(p->reader);
        free(p);
    }
}

/* --- a checker ------------------------------------------------------------------------------- */

struct token_fixture {
    struct loop *loop;
    struct endpoint endpoint;
    struct config config;
    struct token_checker *checker;
    char url[64], file[64], why[512];
    enum err result;
    char user[256];
    unsigned told, results[ERR_COUNT];
};

static int setup(void **state)
{
    struct token_fixture *f = calloc(1, sizeof *f);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    f->endpoint.daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, on_request, &f->endpoint,
        MHD_OPTION_SOCK_ADDR, &at, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_END);
    if (!f->endpoint.daemon) {
        return -1;
    }
    snprintf(f->url, sizeof f->url, "http://127.0.0.1:%u/introspect",
             MHD_get_daemon_info(f->endpoint.daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
    const char *tmp = getenv("TMPDIR");
    snprintf(f->file, sizeof f->file, "%.40s/test_token.XXXXXX", tmp ? tmp : "/tmp");
    close(mkstemp(f->file));
    f->loop = loop_open();
    f->config = (struct config){ .oauth_introspection_url = "",
                                 .oauth_client_id = "",
                                 .oauth_client_secret_file = "",
                                 .oauth_jwks_file = "",
                                 .oauth_issuer = "",
                                 .oauth_audience = "",
                                 .oauth_scope = "",
                                 .oauth_claim = "email",
                                 .oauth_timeout = 20000,
                                 .auth_threads = 2,
                                 .auth_queue = 4 };
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct token_fixture *f = *state;
    token_close(&f->checker);
    loop_close(&f->loop);
    MHD_stop_daemon(f->endpoint.daemon);
    unlink(f->file);
    free(f);
    return 0;
}

static void open_checker(struct token_fixture *f)
{
    token_close(&f->checker);
    if (token_open(f->loop, &f->config, &f->checker, f->why, sizeof f->why) != ERR_OK) {
        fail_msg("%s", f->why);
    }
    assert_non_null(f->checker);
}

static void on_told(void *arg, enum err e, struct span user)
{
    struct token_fixture *f = arg;
    f->result = e;
    f->told++;
    f->results[e]++;
    snprintf(f->user, sizeof f->user, "%.*s", SPAN_ARG(user));
    loop_stop(f->loop);
}

static void expect(struct token_fixture *f, const char *token, enum err e, const char *user)
{
    unsigned told = f->told;
    token_check(f->checker, span_str(token), on_told, f);
    assert_int_equal(f->told, told); /* never inline */
    loop_run(f->loop);
    if (f->result != e || strcmp(f->user, user) != 0) {
        fail_msg("%.40s: %s, %s", token, err_text(f->result), f->user);
    }
}

static void write_file(struct token_fixture *f, const char *text)
{
    FILE *out = fopen(f->file, "w");
    assert_non_null(out);
    assert_true(fputs(text, out) >= 0);
    assert_int_equal(fclose(out), 0);
}

/* --- the endpoint's word --------------------------------------------------------------------- */

static void believes_the_endpoint(void **state)
{
    struct token_fixture *f = *state;
    f->config.oauth_introspection_url = f->url;
    open_checker(f);
    expect(f, "good", ERR_OK, "alice@example.org");
    assert_string_equal(f->endpoint.authorization, "");
    expect(f, "a+b/c=", ERR_OK, "plus@example.org");
    expect(f, "verified", ERR_OK, "a@b");
    static const char *const denied[] = { "unverified", "inactive", "nameless", "number",
                                          "empty",      "expired",  "later",    "odd time" };
    for (size_t i = 0; i < ARRAY_LEN(denied); i++) {
        expect(f, denied[i], ERR_DENIED, "");
    }
    expect(f, "", ERR_DENIED, "");
    assert_int_equal(f->endpoint.requests, 3 + ARRAY_LEN(denied));
}

/* No fault looks like a bad token. */
static void tells_faults_from_answers(void **state)
{
    struct token_fixture *f = *state;
    static const char *const faults[] = { "word", "twice", "html", "list", "nothing",
                                          "500",  "401",   "302",  "huge", "hangs up" };
    f->config.oauth_introspection_url = f->url;
    open_checker(f);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        expect(f, faults[i], ERR_TEMP, "");
    }
    expect(f, "good", ERR_OK, "alice@example.org");
}

static void bears_an_endpoint_that_is_down(void **state)
{
    struct token_fixture *f = *state;
    struct sockaddr_in at;
    char url[64];
    int fd = listen_loopback(&at);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", ntohs(at.sin_port));
    f->config.oauth_introspection_url = url;
    f->config.oauth_timeout = 100;
    open_checker(f);
    expect(f, "good", ERR_TEMP, ""); /* taken, and never answered */
    close(fd);
    f->config.oauth_timeout = 20000;
    open_checker(f);
    expect(f, "good", ERR_TEMP, ""); /* refused */
}

static void applies_the_rules(void **state)
{
    struct token_fixture *f = *state;
    f->config.oauth_introspection_url = f->url;
    f->config.oauth_issuer = "https://id.example";
    f->config.oauth_audience = "mail";
    f->config.oauth_scope = "mail.read";
    open_checker(f);
    expect(f, "ruled", ERR_OK, "a@b");
    expect(f, "good", ERR_DENIED, "");
    f->config.oauth_issuer = "https://id.example/";
    open_checker(f);
    expect(f, "ruled", ERR_DENIED, "");
    f->config.oauth_issuer = "";
    f->config.oauth_audience = "mai";
    open_checker(f);
    expect(f, "ruled", ERR_DENIED, "");
    expect(f, "good", ERR_DENIED, "");
    f->config.oauth_audience = "";
    f->config.oauth_scope = "mail";
    open_checker(f);
    expect(f, "ruled", ERR_DENIED, "");
    expect(f, "good", ERR_DENIED, "");
    f->config.oauth_scope = "";
    f->config.oauth_claim = "iss";
    open_checker(f);
    expect(f, "ruled", ERR_OK, "https://id.example");
}

static void remembers_the_good_alone(void **state)
{
    struct token_fixture *f = *state;
    f->config.oauth_introspection_url = f->url;
    f->config.oauth_remember = 3600000;
    open_checker(f);
    for (int i = 0; i < 3; i++) {
        expect(f, "good", ERR_OK, "alice@example.org");
    }
    assert_int_equal(f->endpoint.requests, 1);
    expect(f, "inactive", ERR_DENIED, "");
    expect(f, "inactive", ERR_DENIED, "");
    assert_int_equal(f->endpoint.requests, 3);
    expect(f, "500", ERR_TEMP, "");
    expect(f, "500", ERR_TEMP, "");
    assert_int_equal(f->endpoint.requests, 5);

    f->config.oauth_remember = 0;
    open_checker(f);
    expect(f, "good", ERR_OK, "alice@example.org");
    expect(f, "good", ERR_OK, "alice@example.org");
    assert_int_equal(f->endpoint.requests, 7);
}

static void says_who_it_is(void **state)
{
    struct token_fixture *f = *state;
    write_file(f, "pass word:x\nnot this\n");
    f->config.oauth_introspection_url = f->url;
    f->config.oauth_client_id = "mail:fleet";
    f->config.oauth_client_secret_file = f->file;
    open_checker(f);
    expect(f, "good", ERR_OK, "alice@example.org");
    /* mail%3Afleet:pass%20word%3Ax */
    assert_string_equal(f->endpoint.authorization,
                        "Basic bWFpbCUzQWZsZWV0OnBhc3MlMjB3b3JkJTNBeA==");
}

static void detaches_when_cancelled(void **state)
{
    struct token_fixture *f = *state;
    f->config.oauth_introspection_url = f->url;
    open_checker(f);
    struct op *op = token_check(f->checker, SPAN("good"), on_told, f);
    op_cancel(&op);
    op = token_check(f->checker, SPAN(""), on_told, f);
    op_cancel(&op);
    expect(f, "inactive", ERR_DENIED, "");
    assert_int_equal(f->told, 1);
    op = token_check(f->checker, SPAN("good"), on_told, f);
    op_cancel(&op); /* and closed while it is asked */
}

static void has_a_bound(void **state)
{
    struct token_fixture *f = *state;
    enum { MANY = 64, BUSY = 8 + 1 }; /* threads, and room in the queue */
    struct sockaddr_in at;
    char url[64];
    int fd = listen_loopback(&at); /* takes connections and never answers */
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", ntohs(at.sin_port));
    f->config.oauth_introspection_url = url;
    f->config.oauth_timeout = 300;
    f->config.auth_queue = 1;
    open_checker(f);
    for (size_t i = 0; i < MANY; i++) {
        token_check(f->checker, SPAN("good"), on_told, f);
    }
    while (f->told < MANY) {
        loop_run(f->loop);
    }
    assert_in_range(f->results[ERR_LIMIT], MANY - BUSY, MANY - 1);
    assert_int_equal(f->results[ERR_LIMIT] + f->results[ERR_TEMP], MANY);
    close(fd);
}

static char *read_pem(const char *dir, const char *name)
{
    char path[128], *text = calloc(1, 8192);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    assert_true(fread(text, 1, 8191, in) > 0);
    fclose(in);
    unlink(path);
    return text;
}

/* It would say yes; but its certificate is its own. */
static void trusts_no_stranger(void **state)
{
    struct token_fixture *f = *state;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    char dir[80], url[64];
    snprintf(dir, sizeof dir, "%s.d", f->file);
    assert_int_equal(mkdir(dir, 0700), 0);
    make_certificate(dir);
    char *cert = read_pem(dir, "cert.pem"), *key = read_pem(dir, "key.pem");
    rmdir(dir);
    struct MHD_Daemon *d = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_TLS, 0, NULL, NULL, on_request, &f->endpoint,
        MHD_OPTION_SOCK_ADDR, &at, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
        MHD_OPTION_HTTPS_MEM_CERT, cert, MHD_OPTION_HTTPS_MEM_KEY, key, MHD_OPTION_END);
    assert_non_null(d);
    snprintf(url, sizeof url, "https://127.0.0.1:%u/",
             MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT)->port);
    f->config.oauth_introspection_url = url;
    open_checker(f);
    expect(f, "good", ERR_TEMP, "");
    assert_int_equal(f->endpoint.requests, 0);
    MHD_stop_daemon(d);
    free(cert);
    free(key);
}

/* --- configuration --------------------------------------------------------------------------- */

static void expect_refused(struct token_fixture *f, const char *part)
{
    struct token_checker *t = NULL;
    assert_int_equal(token_open(f->loop, &f->config, &t, f->why, sizeof f->why), ERR_INVALID);
    assert_null(t);
    if (!strstr(f->why, part) || strchr(f->why, '\n')) {
        fail_msg("%s", f->why);
    }
}

static void refuses_odd_settings(void **state)
{
    struct token_fixture *f = *state;
    struct token_checker *t = (struct token_checker *)f;
    assert_int_equal(token_open(f->loop, &f->config, &t, f->why, sizeof f->why), ERR_OK);
    assert_null(t);

    static const char *const urls[] = {
        "nonsense",           "http://id.example/introspect",
        "http://10.0.0.1/",   "http://127.0.0.1.example/",
        "http://localhost/",  "ftp://127.0.0.1/",
        "file:///etc/passwd",
    };
    for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
        f->config.oauth_introspection_url = urls[i];
        expect_refused(f, "oauth.introspection_url");
    }
    f->config.oauth_introspection_url = "https://me:secret@id.example/";
    expect_refused(f, "oauth.client_id");
    f->config.oauth_introspection_url = "https://id.example/introspect";
    f->config.oauth_jwks_file = f->file;
    expect_refused(f, "both");
    f->config.oauth_introspection_url = "";
    expect_refused(f, "oauth.jwks_file");
    f->config.oauth_jwks_file = "/nonexistent/keys";
    expect_refused(f, "No such file");
    f->config.oauth_jwks_file = "";

    f->config.oauth_introspection_url = "https://id.example/introspect";
    f->config.oauth_client_secret_file = "/nonexistent/secret";
    expect_refused(f, "oauth.client_secret_file");
    f->config.oauth_client_secret_file = f->file;
    expect_refused(f, "no password");
    write_file(f, "secret\n");
    expect_refused(f, "oauth.client_id");
    f->config.oauth_client_id = "me";
    open_checker(f);
}

/* --- signed tokens --------------------------------------------------------------------------- */

static json_t *make_key(const char *alg, const char *kid)
{
    json_t *key = json_pack("{s:s,s:s}", "alg", alg, "kid", kid);
    assert_true(jose_jwk_gen(NULL, key));
    return key;
}

/* The public halves, unless it is a secret. */
static void write_keys(struct token_fixture *f, json_t *const *keys, size_t n)
{
    json_t *set = json_pack("{s:[]}", "keys");
    for (size_t i = 0; i < n; i++) {
        json_t *copy = json_deep_copy(keys[i]);
        if (!json_object_get(copy, "k")) {
            assert_true(jose_jwk_pub(NULL, copy));
        }
        json_array_append_new(json_object_get(set, "keys"), copy);
    }
    char *text = json_dumps(set, 0);
    write_file(f, text);
    free(text);
    json_decref(set);
}

/* A compact token; header and claims are JSON. */
static char *sign(const json_t *key, const char *header, const char *claims)
{
    char *out = NULL;
    json_t *jws = json_pack("{s:o}", "payload", jose_b64_enc(claims, strlen(claims)));
    json_t *sig = json_pack("{s:o}", "protected", json_loads(header, 0, NULL));
    assert_true(jose_jws_sig(NULL, jws, sig, key));
    assert_true(asprintf(&out, "%s.%s.%s", json_string_value(json_object_get(jws, "protected")),
                         json_string_value(json_object_get(jws, "payload")),
                         json_string_value(json_object_get(jws, "signature"))) > 0);
    json_decref(sig);
    json_decref(jws);
    return out;
}

#define ALICE "\"email\":\"alice@example.org\""

static const char *valid_claims(void)
{
    static char out[200];
    snprintf(out, sizeof out, "{" ALICE ",\"exp\":%lld,\"nbf\":%lld}", (long long)time(NULL) + 1000,
             (long long)time(NULL) - 1000);
    return out;
}

static void expect_signed(struct token_fixture *f, const json_t *key, const char *header,
                          const char *claims, enum err e)
{
    char *token = sign(key, header, claims);
    expect(f, token, e, e == ERR_OK ? "alice@example.org" : "");
    free(token);
}

static void verifies_signatures(void **state)
{
    struct token_fixture *f = *state;
    static const char *const algs[] = { "RS256", "PS256", "ES256", "ES384" };
    json_t *keys[ARRAY_LEN(algs)];
    char header[100];
    f->config.oauth_jwks_file = f->file;
    for (size_t i = 0; i < ARRAY_LEN(algs); i++) {
        keys[i] = make_key(algs[i], algs[i]);
    }
    write_keys(f, keys, ARRAY_LEN(algs));
    open_checker(f);
    for (size_t i = 0; i < ARRAY_LEN(algs); i++) {
        json_t *other = make_key(algs[i], "other");
        snprintf(header, sizeof header, "{\"alg\":\"%s\",\"typ\":\"at+JWT\"}", algs[i]);
        expect_signed(f, keys[i], header, valid_claims(), ERR_OK);
        expect_signed(f, other, header, valid_claims(), ERR_DENIED);
        snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"%s\"}", algs[i], algs[i]);
        expect_signed(f, keys[i], header, valid_claims(), ERR_OK);
        snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"other\"}", algs[i]);
        expect_signed(f, keys[i], header, valid_claims(), ERR_DENIED);
        json_decref(other);
    }
    for (size_t i = 0; i < ARRAY_LEN(algs); i++) {
        json_decref(keys[i]);
    }
}

static void reads_the_file_again(void **state)
{
    struct token_fixture *f = *state;
    json_t *old = make_key("ES256", "old"), *new = make_key("ES256", "new");
    f->config.oauth_jwks_file = f->file;
    write_keys(f, &old, 1);
    open_checker(f);
    expect_signed(f, new, "{\"alg\":\"ES256\"}", valid_claims(), ERR_DENIED);
    write_keys(f, &new, 1);
    expect_signed(f, new, "{\"alg\":\"ES256\"}", valid_claims(), ERR_OK);
    expect_signed(f, old, "{\"alg\":\"ES256\"}", valid_claims(), ERR_DENIED);
    write_file(f, "{\"keys\":[");
    expect_signed(f, new, "{\"alg\":\"ES256\"}", valid_claims(), ERR_TEMP);
    write_keys(f, &new, 1);
    expect_signed(f, new, "{\"alg\":\"ES256\"}", valid_claims(), ERR_OK);
    json_decref(old);
    json_decref(new);
}

/* Signed by nobody, by a secret that everybody has, or changed afterwards. */
static void refuses_forged_tokens(void **state)
{
    struct token_fixture *f = *state;
    json_t *pair = make_key("ES256", "pair"), *secret = make_key("HS256", "secret");
    json_t *keys[] = { pair, secret };
    f->config.oauth_jwks_file = f->file;
    write_keys(f, keys, 2);
    open_checker(f);
    expect_signed(f, pair, "{\"alg\":\"ES256\"}", valid_claims(), ERR_OK);
    expect_signed(f, secret, "{\"alg\":\"HS256\"}", valid_claims(), ERR_DENIED);
    expect_signed(f, pair, "{\"alg\":\"ES256\",\"crit\":[\"x\"],\"x\":1}", valid_claims(),
                  ERR_DENIED);
    expect_signed(f, pair, "{\"alg\":\"ES256\",\"typ\":\"logout+jwt\"}", valid_claims(),
                  ERR_DENIED);

    /* {"alg":"none"}, {"alg":"ES256"} and {"email":"a@b","exp":99999999999} */
    static const char *const bad[] = {
        "eyJhbGciOiJub25lIn0.eyJlbWFpbCI6ImFAYiIsImV4cCI6OTk5OTk5OTk5OTl9.",
        "eyJhbGciOiJub25lIn0.eyJlbWFpbCI6ImFAYiIsImV4cCI6OTk5OTk5OTk5OTl9.AAAA",
        "eyJhbGciOiJFUzI1NiJ9.eyJlbWFpbCI6ImFAYiIsImV4cCI6OTk5OTk5OTk5OTl9.",
        "eyJhbGciOiJFUzI1NiJ9.eyJlbWFpbCI6ImFAYiIsImV4cCI6OTk5OTk5OTk5OTl9.AAAA",
        "eyJhbGciOiJFUzI1NiJ9.eyJlbWFpbCI6ImFAYiIsImV4cCI6OTk5OTk5OTk5OTl9",
        "..",
        "a.b.c",
        "a.b.c.d.e",
        "W10.W10.AAAA",
        "opaque",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        expect(f, bad[i], ERR_DENIED, "");
    }
    char *token = sign(pair, "{\"alg\":\"ES256\"}", valid_claims());
    for (size_t i = 0, n = strlen(token); i < n; i += 7) {
        char was = token[i];
        token[i] = was == 'A' ? 'Q' : 'A';
        expect(f, token, ERR_DENIED, "");
        token[i] = was;
    }
    expect(f, token, ERR_OK, "alice@example.org");
    free(token);
    json_decref(pair);
    json_decref(secret);
}

static void expects_times(void **state)
{
    struct token_fixture *f = *state;
    json_t *key = make_key("ES256", "k");
    long long now = time(NULL);
    const struct {
        long long exp, nbf;
        enum err e;
    } cases[] = {
        { now + 1000, now - 1000, ERR_OK },     { now - 30, now - 1000, ERR_OK },
        { now + 1000, now + 30, ERR_OK },       { now - 100, now - 1000, ERR_DENIED },
        { now + 1000, now + 1000, ERR_DENIED },
    };
    f->config.oauth_jwks_file = f->file;
    f->config.oauth_remember = 3600000;
    write_keys(f, &key, 1);
    open_checker(f);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char claims[200];
        snprintf(claims, sizeof claims, "{" ALICE ",\"exp\":%lld,\"nbf\":%lld}", cases[i].exp,
                 cases[i].nbf);
        expect_signed(f, key, "{\"alg\":\"ES256\"}", claims, cases[i].e);
    }
    expect_signed(f, key, "{\"alg\":\"ES256\"}", "{" ALICE "}", ERR_DENIED);
    expect_signed(f, key, "{\"alg\":\"ES256\"}", "[" ALICE "]", ERR_DENIED);
    json_decref(key);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(believes_the_endpoint),
        TEST(tells_faults_from_answers),
        TEST(bears_an_endpoint_that_is_down),
        TEST(applies_the_rules),
        TEST(remembers_the_good_alone),
        TEST(says_who_it_is),
        TEST(detaches_when_cancelled),
        TEST(has_a_bound),
        TEST(trusts_no_stranger),
        TEST(refuses_odd_settings),
        TEST(verifies_signatures),
        TEST(reads_the_file_again),
        TEST(refuses_forged_tokens),
        TEST(expects_times),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
