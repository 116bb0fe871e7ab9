/*
 * token_http: asks an authorization server what a token is worth (RFC 7662), by libcurl.
 *
 * Owned by its opener, used by many threads at once: each takes a handle, with the connection that
 * it may have left open, or makes one. There are never more of them than threads. Nothing of the
 * environment counts: no proxy, no redirect, no .netrc; a token goes to the configured endpoint or
 * nowhere. It judges no claim and remembers no token.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <curl/curl.h>
#include <openssl/crypto.h>

#include "base/buffer.h"
#include "base/check.h"
#include "store/token_parts.h"

enum { ANSWER_MAX = 64 * 1024, HANDLES_MAX = 64, SECRET_MAX = 1024 };

struct token_http {
    char *url;
    char *id;     /* percent-encoded (RFC 6749, section 2.3.1), as the secret is */
    char *secret; /* NULL: the endpoint wants none */
    long timeout_ms;
    pthread_mutex_t mutex; /* guards the idle */
    CURL *idle[HANDLES_MAX];
    size_t n_idle;
};

/* --- opening --------------------------------------------------------------------------------- */

static bool is_loopback(const char *host)
{
    struct in_addr a;
    return strcmp(host, "[::1]") == 0 ||
           (inet_pton(AF_INET, host, &a) == 1 && ntohl(a.s_addr) >> 24 == 127);
}

static bool url_part(CURLU *u, CURLUPart part, char **out)
{
    return curl_url_get(u, part, out, 0) == CURLUE_OK;
}

static const char *check_url(const char *url)
{
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *user = NULL;
    const char *why = NULL;
    CHECK(u);
    if (curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK ||
        !url_part(u, CURLUPART_SCHEME, &scheme) || !url_part(u, CURLUPART_HOST, &host)) {
        why = "not a URL";
    } else if (url_part(u, CURLUPART_USER, &user)) {
        why = "holds a name; that is what oauth.client_id is for";
    } else if (strcmp(scheme, "https") != 0 &&
               !(strcmp(scheme, "http") == 0 && is_loopback(host))) {
        why = "must begin with https://, or with http:// and a loopback address";
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(user);
    curl_url_cleanup(u);
    return why;
}

/* The first line, without what ends it. */
static enum err read_secret(const char *path, char out[SECRET_MAX], char *why, size_t why_size)
{
    FILE *f = fopen(path, "re");
    if (!f) {
        snprintf(why, why_size, "oauth.client_secret_file: %s: %s", path, strerror(errno));
        return ERR_INVALID;
    }
    setvbuf(f, NULL, _IONBF, 0);
    size_t n = fread(out, 1, SECRET_MAX - 1, f);
    fclose(f);
    out[n] = '\0';
    out[strcspn(out, "\r\n")] = '\0';
    if (n == SECRET_MAX - 1 || *out == '\0') {
        snprintf(why, why_size, "oauth.client_secret_file: %s: %s", path,
                 *out ? "too long" : "no password in its first line");
        return ERR_INVALID;
    }
    return ERR_OK;
}

static char *encode(const char *text)
{
    char *made = curl_easy_escape(NULL, text, 0);
    CHECK(made);
    char *out = mem_strdup(made);
    OPENSSL_cleanse(made, strlen(made));
    curl_free(made);
    return out;
}

static enum err load_credentials(struct token_http *h, const struct config *c, char *why,
                                 size_t why_size)
{
    char secret[SECRET_MAX] = "";
    if (*c->oauth_client_secret_file) {
        enum err e = read_secret(c->oauth_client_secret_file, secret, why, why_size);
        if (e != ERR_OK) {
            return e;
        }
        if (!*c->oauth_client_id) {
            snprintf(why, why_size, "oauth.client_secret_file needs oauth.client_id");
            OPENSSL_cleanse(secret, sizeof secret);
            return ERR_INVALID;
        }
    }
    if (*c->oauth_client_id) {
        h->id = encode(c->oauth_client_id);
        h->secret = encode(secret);
    }
    OPENSSL_cleanse(secret, sizeof secret);
    return ERR_OK;
}

/* curl_global_init is for once in a process, before there are threads that use it. */
static void init_curl(void)
{
    CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

enum err token_http_open(const struct config *c, struct token_http **out, char *why,
                         size_t why_size)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    CHECK(pthread_once(&once, init_curl) == 0);
    const char *bad = check_url(c->oauth_introspection_url);
    if (bad) {
        snprintf(why, why_size, "oauth.introspection_url: %s: %s", c->oauth_introspection_url, bad);
        return ERR_INVALID;
    }
    struct token_http *h = NEW(struct token_http);
    CHECK(pthread_mutex_init(&h->mutex, NULL) == 0);
    h->url = mem_strdup(c->oauth_introspection_url);
    h->timeout_ms = (long)c->oauth_timeout;
    enum err e = load_credentials(h, c, why, why_size);
    if (e != ERR_OK) {
        token_http_close(&h);
        return e;
    }
    *out = h;
    return ERR_OK;
}

static void free_secret(char *s)
{
    if (s) {
        OPENSSL_cleanse(s, strlen(s));
        free(s);
    }
}

void token_http_close(struct token_http **hp)
{
    struct token_http *h = *hp;
    if (h) {
        while (h->n_idle > 0) {
            curl_easy_cleanup(h->idle[--h->n_idle]);
        }
        pthread_mutex_destroy(&h->mutex);
        free_secret(h->secret);
        free(h->id);
        free(h->url);
        free(h);
        *hp = NULL;
    }
}

/* --- handles --------------------------------------------------------------------------------- */

static CURL *take_handle(struct token_http *h)
{
    CHECK(pthread_mutex_lock(&h->mutex) == 0);
    CURL *c = h->n_idle > 0 ? h->idle[--h->n_idle] : NULL;
    CHECK(pthread_mutex_unlock(&h->mutex) == 0);
    c = c ? c : curl_easy_init();
    CHECK(c);
    return c;
}

/* Its connection stays open; what the token was is forgotten. */
static void give_handle(struct token_http *h, CURL *c)
{
    curl_easy_reset(c);
    CHECK(pthread_mutex_lock(&h->mutex) == 0);
    if (h->n_idle < HANDLES_MAX) {
        h->idle[h->n_idle++] = c;
        c = NULL;
    }
    CHECK(pthread_mutex_unlock(&h->mutex) == 0);
    curl_easy_cleanup(c);
}

/* --- asking ---------------------------------------------------------------------------------- */

static size_t on_answer(char *p, size_t size, size_t n, void *arg)
{
    return buf_add(arg, span_of(p, size * n)) == ERR_OK ? size * n : 0;
}

/* An option that this libcurl does not know would be a hole. */
#define SET(c, option, value) CHECK(curl_easy_setopt((c), (option), (value)) == CURLE_OK)

static void set_transfer(CURL *c, const struct token_http *h)
{
    bool tls = strncmp(h->url, "http://", 7) != 0;
    SET(c, CURLOPT_URL, h->url);
    SET(c, CURLOPT_PROTOCOLS_STR, tls ? "https" : "http");
    SET(c, CURLOPT_FOLLOWLOCATION, 0L);
    SET(c, CURLOPT_PROXY, "");
    SET(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(c, CURLOPT_NOSIGNAL, 1L);
    SET(c, CURLOPT_TIMEOUT_MS, h->timeout_ms);
    SET(c, CURLOPT_SSL_VERIFYPEER, 1L);
    SET(c, CURLOPT_SSL_VERIFYHOST, 2L);
    SET(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (h->id) {
        SET(c, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        SET(c, CURLOPT_USERNAME, h->id);
        SET(c, CURLOPT_PASSWORD, h->secret);
    }
}

/* Status of the answer; 0: there was none, and *why says so. */
static long transfer(const struct token_http *h, CURL *c, const char *body, struct buf *answer,
                     const char **why)
{
    struct curl_slist *headers = curl_slist_append(NULL, "Accept: application/json");
    long status = 0;
    CHECK(headers);
    set_transfer(c, h);
    SET(c, CURLOPT_POSTFIELDS, body);
    SET(c, CURLOPT_HTTPHEADER, headers);
    SET(c, CURLOPT_WRITEFUNCTION, on_answer);
    SET(c, CURLOPT_WRITEDATA, answer);
    CURLcode e = curl_easy_perform(c);
    if (e == CURLE_OK) {
        CHECK(curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK);
    } else {
        *why = e == CURLE_WRITE_ERROR ? "the endpoint's answer is too long" : curl_easy_strerror(e);
    }
    curl_slist_free_all(headers);
    return status;
}

static enum err read_answer(struct span answer, json_t **claims, const char **why)
{
    json_t *v = json_loadb(answer.n ? answer.p : "", answer.n, JSON_REJECT_DUPLICATES, NULL);
    const json_t *active = json_object_get(v, "active");
    if (json_is_true(active)) {
        *claims = v;
        return ERR_OK;
    }
    bool told = json_is_false(active);
    *why = told ? "it is not active" : "the endpoint's answer is not one of RFC 7662";
    json_decref(v);
    return told ? ERR_DENIED : ERR_TEMP;
}

static enum err judge_status(long status, struct span answer, json_t **claims, const char **why)
{
    if (status == 200) {
        return read_answer(answer, claims, why);
    }
    if (status == 401 || status == 403) {
        *why = "the endpoint refuses oauth.client_id or its password";
    } else if (status > 0) {
        *why = "the endpoint answers with an HTTP error";
    }
    return ERR_TEMP;
}

/* A form's encoding, which is more than a token's own characters need. */
static char *make_body(CURL *c, struct span token)
{
    static const char name[] = "token_type_hint=access_token&token=";
    char *value = curl_easy_escape(c, token.p, (int)token.n);
    CHECK(value);
    size_t n = strlen(value);
    char *body = mem_new(sizeof name + n, 1);
    memcpy(body, name, sizeof name - 1);
    memcpy(body + sizeof name - 1, value, n);
    OPENSSL_cleanse(value, n);
    curl_free(value);
    return body;
}

enum err token_http_ask(struct token_http *h, struct span token, json_t **claims, const char **why)
{
    struct buf answer;
    CURL *c = take_handle(h);
    char *body = make_body(c, token);
    buf_init(&answer, ANSWER_MAX);
    long status = transfer(h, c, body, &answer, why);
    give_handle(h, c);
    enum err e = judge_status(status, buf_span(&answer), claims, why);
    OPENSSL_cleanse(body, strlen(body));
    free(body);
    buf_fini(&answer);
    return e;
}
