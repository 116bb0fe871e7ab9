/*
 * Tests of tls: certificates by name, protocols, resumption across contexts and times, client
 * certificates, channel bindings. Client and server are two SSLs with memory between them.
 */
#include "net_fixture.h"

#include <dirent.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

static char dir[64], sni[80];
static const char *const pop3[] = { "pop3", NULL };
static const uint8_t secret[TLS_SECRET_SIZE] = "the secret of a fleet";

/* --- certificates ---------------------------------------------------------------------------- */

static const char *at(const char *name)
{
    static char paths[4][160]; /* each lasts for three more calls */
    static unsigned next;
    char *path = paths[next++ % ARRAY_LEN(paths)];
    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

struct made {
    X509 *cert;
    EVP_PKEY *key;
};

static void made_free(struct made *m)
{
    X509_free(m->cert);
    EVP_PKEY_free(m->key);
}

static void extend(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    assert_non_null(e);
    X509_add_ext(cert, e, -1);
    X509_EXTENSION_free(e);
}

/* By itself when there is no issuer. san: `DNS:a.test,email:b@c.test`; with neither, a root. */
static struct made make(const char *san, EVP_PKEY *key, const EVP_MD *md, const struct made *issuer)
{
    static long serial = 1;
    struct made m = { X509_new(), key };
    X509_set_version(m.cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(m.cert), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(m.cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(m.cert), 3600);
    X509_NAME *name = X509_get_subject_name(m.cert);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               (const unsigned char *)(issuer ? "leaf" : "root"), -1, -1, 0);
    X509_set_issuer_name(m.cert, issuer ? X509_get_subject_name(issuer->cert) : name);
    X509_set_pubkey(m.cert, key);
    if (san) {
        extend(m.cert, NID_subject_alt_name, san);
    } else if (!issuer) {
        extend(m.cert, NID_basic_constraints, "critical,CA:TRUE");
    }
    assert_true(X509_sign(m.cert, issuer ? issuer->key : key, md) > 0);
    return m;
}

static struct made make_ec(const char *san)
{
    return make(san, EVP_EC_gen("P-256"), EVP_sha256(), NULL);
}

/* Chain and key in one file. */
static void write_both(const char *path, const struct made *m, bool key_first)
{
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    for (int i = 0; i < 2; i++) {
        int ok = key_first == (i == 0)
                     ? PEM_write_PrivateKey(out, m->key, NULL, NULL, 0, NULL, NULL)
                     : PEM_write_X509(out, m->cert);
        assert_int_equal(ok, 1);
    }
    assert_int_equal(fclose(out), 0);
}

static void write_text(const char *path, const char *text)
{
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fputs(text, out);
    assert_int_equal(fclose(out), 0);
}

static void empty_dir(const char *path)
{
    DIR *d = opendir(path);
    char file[512];
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        unlink(file);
    }
    if (d) {
        closedir(d);
    }
}

static int setup(void **state)
{
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(dir, sizeof dir, "%.40s/mailfleet-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
    make_certificate(dir);
    snprintf(sni, sizeof sni, "%s/sni", dir);
    assert_int_equal(mkdir(sni, 0700), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    empty_dir(sni);
    rmdir(sni);
    empty_dir(dir);
    rmdir(dir);
    return 0;
}

/* --- servers and clients --------------------------------------------------------------------- */

static struct tls_options options(void)
{
    static char certificate[160], key[160];
    snprintf(certificate, sizeof certificate, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    return (struct tls_options){
        .certificate = certificate, .key = key, .service = "test", .ticket_life = 3600 * 1000
    };
}

static struct tls *load(const struct tls_options *o)
{
    struct tls *t = NULL;
    char why[512] = "";
    if (tls_load(o, &t, why, sizeof why) != ERR_OK) {
        fail_msg("%s", why);
    }
    return t;
}

struct pair {
    SSL_CTX *ctx;
    SSL *client, *server;
    bool up;
};

static void pair_init(struct pair *p, struct tls *t)
{
    BIO *a, *b;
    p->ctx = SSL_CTX_new(TLS_client_method());
    p->client = SSL_new(p->ctx);
    p->server = SSL_new(tls_ctx(t));
    assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
    SSL_set_bio(p->client, a, a);
    SSL_set_bio(p->server, b, b);
    SSL_set_connect_state(p->client);
    SSL_set_accept_state(p->server);
}

static void pair_fini(struct pair *p)
{
    SSL_set_shutdown(p->client, SSL_SENT_SHUTDOWN); /* else it would think its session broken */
    SSL_free(p->client);
    SSL_free(p->server);
    SSL_CTX_free(p->ctx);
}

/* The client reads on after it, as a ticket comes behind the handshake. */
static bool shake(struct pair *p)
{
    char none[16];
    for (int i = 0; i < 20; i++) {
        SSL_do_handshake(p->client);
        SSL_do_handshake(p->server);
    }
    p->up = SSL_is_init_finished(p->client) && SSL_is_init_finished(p->server);
    if (p->up) {
        SSL_read(p->client, none, sizeof none);
        SSL_read(p->server, none, sizeof none);
        p->up = SSL_get_shutdown(p->client) == 0;
    }
    ERR_clear_error();
    return p->up;
}

/* --- certificates by name -------------------------------------------------------------------- */

/* The certificate that a client gets. NULL: asks for no name, wants any kind of key. */
static X509 *ask(struct tls *t, const char *name, const char *sigalgs)
{
    struct pair p = { 0 };
    pair_init(&p, t);
    if (name) {
        assert_int_equal(SSL_set_tlsext_host_name(p.client, name), 1);
    }
    if (sigalgs) {
        assert_int_equal(SSL_set1_sigalgs_list(p.client, sigalgs), 1);
    }
    X509 *x = shake(&p) ? SSL_get1_peer_certificate(p.client) : NULL;
    pair_fini(&p);
    return x;
}

static void expect(struct tls *t, const char *name, const char *sigalgs, const X509 *want)
{
    X509 *got = ask(t, name, sigalgs);
    if (!got || X509_cmp(got, want) != 0) {
        fail_msg("%s: another certificate", name ? name : "no name");
    }
    X509_free(got);
}

static X509 *default_cert(void)
{
    FILE *in = fopen(at("cert.pem"), "r");
    X509 *x = PEM_read_X509(in, NULL, NULL, NULL);
    fclose(in);
    return x;
}

static void test_certificates_by_name(void **state)
{
    (void)state;
    struct tls_options o = options();
    X509 *normal = default_cert();
    struct made one = make_ec("DNS:One.Test,DNS:*.one.test,IP:192.0.2.1");
    struct made exact = make_ec("DNS:exact.one.test");
    struct made rsa = make("DNS:both.test", EVP_RSA_gen(2048), EVP_sha256(), NULL);
    struct made ec = make_ec("DNS:both.test");
    struct made late = make_ec("DNS:both.test");
    write_both(at("sni/a.pem"), &one, false);
    write_both(at("sni/b.pem"), &exact, true);
    write_both(at("sni/c.pem"), &rsa, false);
    write_both(at("sni/d.pem"), &ec, false);
    write_both(at("sni/e.pem"), &late, false);
    write_text(at("sni/README"), "not a certificate");
    write_text(at("sni/.hidden.pem"), "not a certificate");
    o.directory = sni;
    struct tls *t = load(&o);
    assert_int_equal(tls_certificates(t), 6);
    expect(t, NULL, NULL, normal);
    expect(t, "unknown.test", NULL, normal);
    expect(t, "one.test", NULL, one.cert);
    expect(t, "oNe.tEST", NULL, one.cert);
    expect(t, "mail.one.test", NULL, one.cert);
    expect(t, "exact.one.test", NULL, exact.cert);
    expect(t, "a.exact.one.test", NULL, normal); /* a wildcard stands for one label */
    expect(t, ".one.test", NULL, normal);
    expect(t, "test", NULL, normal);
    expect(t, "both.test", "RSA-PSS+SHA256", rsa.cert);
    expect(t, "both.test", "ECDSA+SHA256", ec.cert);
    assert_null(ask(t, "one.test", "RSA-PSS+SHA256")); /* and not the default's, or another's */
    tls_unref(&t);
    X509_free(normal);
    struct made *all[] = { &one, &exact, &rsa, &ec, &late };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        made_free(all[i]);
    }
    empty_dir(sni);
}

static void refuse(const struct tls_options *o, const char *named)
{
    struct tls *t = NULL;
    char why[512] = "";
    assert_int_equal(tls_load(o, &t, why, sizeof why), ERR_INVALID);
    assert_null(t);
    if (!strstr(why, named) || strchr(why, '\n')) {
        fail_msg("not a line that names %s: %s", named, why);
    }
}

static void test_one_bad_file_refuses_all(void **state)
{
    (void)state;
    struct tls_options o = options();
    struct made good = make_ec("DNS:good.test"), other = make_ec("DNS:other.test");
    struct made nameless = make_ec("IP:192.0.2.1"), mixed = { other.cert, good.key };
    write_both(at("sni/a.pem"), &good, false);
    o.directory = sni;

    write_text(at("sni/b.pem"), "not a certificate\n");
    refuse(&o, "sni/b.pem: ");
    write_both(at("sni/b.pem"), &mixed, false);
    refuse(&o, "sni/b.pem: private key mismatch");
    write_both(at("sni/b.pem"), &nameless, false);
    refuse(&o, "sni/b.pem: no DNS name");
    write_pem(dir, "sni/b.pem", NULL, other.cert);
    refuse(&o, "sni/b.pem: ");
    write_pem(dir, "sni/b.pem", other.key, NULL);
    refuse(&o, "sni/b.pem: ");
    struct made weak = make("DNS:weak.test", EVP_RSA_gen(512), EVP_sha256(), NULL);
    write_both(at("sni/b.pem"), &weak, false);
    refuse(&o, "sni/b.pem: ");
    empty_dir(sni);
    o.directory = at("none");
    refuse(&o, "/none: ");
    o.directory = NULL;
    o.client_ca = at("key.pem");
    refuse(&o, "key.pem: ");
    made_free(&good);
    made_free(&other);
    made_free(&nameless);
    made_free(&weak);
}

/* More than a loop over all of them would be good for. */
static void test_thousands_of_names(void **state)
{
    (void)state;
    struct tls_options o = options();
    char name[64], file[64];
    EVP_PKEY *key = EVP_EC_gen("P-256");
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "DNS:name%d.test", i);
        snprintf(file, sizeof file, "sni/%d.pem", i);
        struct made m = make(name, key, EVP_sha256(), NULL);
        write_both(at(file), &m, false);
        X509_free(m.cert);
    }
    EVP_PKEY_free(key);
    o.directory = sni;
    struct tls *t = load(&o);
    for (int i = 0; i < 1000; i += 111) {
        snprintf(name, sizeof name, "name%d.test", i);
        X509 *got = ask(t, name, NULL);
        assert_non_null(got);
        assert_int_equal(X509_check_host(got, name, 0, 0, NULL), 1);
        X509_free(got);
    }
    tls_unref(&t);
    empty_dir(sni);
}

/* Whatever changes, in a file or in which there are, changes the stamp; reading them does not. */
static void test_stamp(void **state)
{
    (void)state;
    struct tls_options o = options();
    uint8_t before[TLS_STAMP_SIZE], after[TLS_STAMP_SIZE];
    struct made one = make_ec("DNS:one.test");
    o.directory = sni;
    tls_stamp(&o, before);
    struct tls *t = load(&o);
    tls_unref(&t);
    tls_stamp(&o, after);
    assert_memory_equal(before, after, sizeof before);
    write_both(at("sni/a.pem"), &one, false);
    tls_stamp(&o, after);
    assert_memory_not_equal(before, after, sizeof before);
    memcpy(before, after, sizeof before);
    write_both(at("sni/new"), &one, false);
    tls_stamp(&o, after);
    assert_memory_equal(before, after, sizeof before);
    assert_int_equal(rename(at("sni/new"), at("sni/a.pem")), 0);
    tls_stamp(&o, after);
    assert_memory_not_equal(before, after, sizeof before);
    made_free(&one);
    empty_dir(sni);
}

/* --- protocols ------------------------------------------------------------------------------- */

static void test_alpn(void **state)
{
    (void)state;
    static const struct {
        const char *offer;
        bool up;
        const char *chosen;
    } cases[] = {
        { "", true, "" },
        { "\4pop3", true, "pop3" },
        { "\2h2\4pop3", true, "pop3" },
        { "\10http/1.1", false, "" },
        { "\4POP3", false, "" },
        { "\4imap\2h2", false, "" },
    };
    for (size_t listed = 0; listed < 2; listed++) {
        struct tls_options o = options();
        o.alpn = listed ? pop3 : NULL;
        struct tls *t = load(&o);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
            struct pair p = { 0 };
            const unsigned char *got;
            unsigned n;
            pair_init(&p, t);
            SSL_set_alpn_protos(p.client, (const unsigned char *)cases[i].offer,
                                (unsigned)strlen(cases[i].offer));
            assert_int_equal(shake(&p), cases[i].up || !listed);
            SSL_get0_alpn_selected(p.client, &got, &n);
            assert_true(span_eq(span_of(got, n), span_str(listed ? cases[i].chosen : "")));
            pair_fini(&p);
        }
        tls_unref(&t);
    }
}

/* --- resumption ------------------------------------------------------------------------------ */

static uint64_t now = 1700000000;

static uint64_t test_clock(void)
{
    return now;
}

static struct tls_options fleet_options(void)
{
    struct tls_options o = options();
    o.ticket_secret = secret;
    o.clock = test_clock;
    return o;
}

/* A session with this server, to be resumed; with offer: whether that one was. */
static SSL_SESSION *meet(struct tls *t, int version, SSL_SESSION *offer, bool *resumed)
{
    struct pair p = { 0 };
    pair_init(&p, t);
    SSL_set_max_proto_version(p.client, version);
    if (offer) {
        assert_int_equal(SSL_set_session(p.client, offer), 1);
    }
    assert_true(shake(&p));
    bool hit = SSL_session_reused(p.server);
    assert_int_equal(hit, SSL_session_reused(p.client));
    if (resumed) {
        *resumed = hit;
    }
    SSL_SESSION *s = SSL_get1_session(p.client);
    assert_int_equal(SSL_SESSION_get_max_early_data(s), 0);
    pair_fini(&p);
    return s;
}

static bool resumes(struct tls *t, int version, SSL_SESSION *s)
{
    bool resumed;
    SSL_SESSION_free(meet(t, version, s, &resumed));
    return resumed;
}

static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

static void test_resumed_on_another_node(void **state)
{
    (void)state;
    struct tls_options o = fleet_options(), strange = o, service = o, life = o, own = o;
    uint8_t other[TLS_SECRET_SIZE] = "of another fleet";
    strange.ticket_secret = other;
    service.service = "another";
    life.ticket_life *= 2;
    own.ticket_secret = NULL;
    struct tls *a = load(&o), *b = load(&o), *c = load(&strange), *d = load(&service),
               *e = load(&life), *f = load(&own);
    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        SSL_SESSION *s = meet(a, versions[i], NULL, NULL);
        assert_true(SSL_SESSION_has_ticket(s));
        assert_true(resumes(b, versions[i], s));
        assert_false(resumes(c, versions[i], s));
        assert_false(resumes(d, versions[i], s));
        assert_false(resumes(e, versions[i], s));
        assert_false(resumes(f, versions[i], s));
        SSL_SESSION_free(s);
        s = meet(f, versions[i], NULL, NULL); /* without a secret: by itself alone */
        assert_true(resumes(f, versions[i], s));
        assert_false(resumes(a, versions[i], s));
        SSL_SESSION_free(s);
    }
    struct tls *all[] = { a, b, c, d, e, f };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        tls_unref(&all[i]);
    }
}

/* The key changes with the slot, the one before still opens, and renewing lengthens no life. */
static void test_tickets_end(void **state)
{
    (void)state;
    struct tls_options o = fleet_options();
    const uint64_t life = o.ticket_life / 1000, start = now - now % life;
    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        bool resumed;
        now = start + life / 2;
        struct tls *t = load(&o);
        SSL_SESSION *first = meet(t, versions[i], NULL, NULL);
        now = start + life + 1; /* the next slot */
        SSL_SESSION *renewed = meet(t, versions[i], first, &resumed);
        assert_true(resumed);
        now = start + life + life / 2 - 1;
        assert_true(resumes(t, versions[i], first));
        assert_true(resumes(t, versions[i], renewed));
        now = start + life + life / 2; /* a life after the full handshake */
        assert_false(resumes(t, versions[i], first));
        assert_false(resumes(t, versions[i], renewed));
        SSL_SESSION *late = meet(t, versions[i], NULL, NULL);
        now = start + 3 * life + 1; /* two slots on: the key is forgotten */
        assert_false(resumes(t, versions[i], late));
        now = start + life + 2; /* a clock that was ahead */
        assert_true(resumes(t, versions[i], late));
        now = start + life - 1; /* by a slot: its key is not known yet */
        assert_false(resumes(t, versions[i], late));
        SSL_SESSION_free(first);
        SSL_SESSION_free(renewed);
        SSL_SESSION_free(late);
        tls_unref(&t);
    }
    now = start;
}

/* --- client certificates --------------------------------------------------------------------- */

#define NAMES 3

/* How many names the server sees of a client with this certificate; -1: the handshake failed. */
static int names_of(struct tls *t, const struct made *m, SSL_SESSION **session,
                    char names[NAMES][TLS_NAME_SIZE])
{
    struct pair p = { 0 };
    pair_init(&p, t);
    if (m) {
        assert_int_equal(SSL_use_certificate(p.client, m->cert), 1);
        assert_int_equal(SSL_use_PrivateKey(p.client, m->key), 1);
    }
    if (*session) {
        SSL_set_session(p.client, *session);
    }
    bool had = *session != NULL;
    int n = -1;
    if (shake(&p)) {
        n = (int)tls_client_names(p.server, names, NAMES);
        assert_int_equal(SSL_session_reused(p.server), had);
        SSL_SESSION_free(*session);
        *session = SSL_get1_session(p.client);
    }
    pair_fini(&p);
    return n;
}

static void forget(SSL_SESSION **s)
{
    SSL_SESSION_free(*s);
    *s = NULL;
}

static void test_client_certificates(void **state)
{
    (void)state;
    struct tls_options o = fleet_options(), without = o;
    char names[NAMES][TLS_NAME_SIZE];
    SSL_SESSION *s = NULL;
    struct made root = make_ec(NULL), strange = make_ec("email:alice@example.org");
    struct made two = make("DNS:x.test,email:alice@example.org,email:Bob@example.org",
                           EVP_EC_gen("P-256"), EVP_sha256(), &root);
    struct made many = make("email:1@x.test,email:2@x.test,email:3@x.test,email:4@x.test",
                            EVP_EC_gen("P-256"), EVP_sha256(), &root);
    struct made bare = make(NULL, EVP_EC_gen("P-256"), EVP_sha256(), &root);
    struct made odd =
        make("email:a b@x.test,email:good@x.test", EVP_EC_gen("P-256"), EVP_sha256(), &root);
    struct made old = make("email:alice@example.org", EVP_EC_gen("P-256"), EVP_sha256(), &root);
    X509_gmtime_adj(X509_getm_notAfter(old.cert), -60);
    X509_sign(old.cert, root.key, EVP_sha256());
    write_pem(dir, "ca.pem", NULL, root.cert);
    char ca[160];
    snprintf(ca, sizeof ca, "%s/ca.pem", dir);
    o.client_ca = ca;
    struct tls *t = load(&o), *plain = load(&without);

    assert_int_equal(names_of(t, NULL, &s, names), 0);
    forget(&s);
    for (int resumed = 0; resumed < 2; resumed++) {
        memset(names, 0, sizeof names);
        assert_int_equal(names_of(t, &two, &s, names), 2);
        assert_string_equal(names[0], "alice@example.org");
        assert_string_equal(names[1], "Bob@example.org");
    }
    forget(&s);
    assert_int_equal(names_of(t, &many, &s, names), NAMES);
    forget(&s);
    assert_int_equal(names_of(t, &bare, &s, names), 0);
    forget(&s);
    assert_int_equal(names_of(t, &odd, &s, names), 1);
    assert_string_equal(names[0], "good@x.test");
    forget(&s);
    assert_int_equal(names_of(t, &strange, &s, names), -1);
    assert_int_equal(names_of(t, &old, &s, names), -1);
    /* Not asked for: not seen. */
    assert_int_equal(names_of(plain, &two, &s, names), 0);
    /* Nor is that session taken where they are. */
    assert_false(resumes(t, TLS1_3_VERSION, s));
    forget(&s);
    tls_unref(&t);
    tls_unref(&plain);
    struct made *all[] = { &root, &strange, &two, &many, &bare, &odd, &old };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        made_free(all[i]);
    }
}

/* --- channel bindings ------------------------------------------------------------------------ */

static void test_exporter(void **state)
{
    (void)state;
    static const char label[] = "EXPORTER-Channel-Binding";
    struct tls_options o = options();
    struct tls *t = load(&o);
    for (int i = 0; i < 3; i++) {
        struct pair p = { 0 };
        uint8_t here[TLS_EXPORTER_SIZE], there[TLS_EXPORTER_SIZE];
        bool bare = i == 2; /* 1.2 without the extended master secret: not unique */
        pair_init(&p, t);
        SSL_set_max_proto_version(p.client, i == 0 ? TLS1_3_VERSION : TLS1_2_VERSION);
        if (bare) {
            SSL_set_options(p.client, SSL_OP_NO_EXTENDED_MASTER_SECRET);
        }
        assert_true(shake(&p));
        assert_int_equal(tls_exporter(p.server, here), !bare);
        if (!bare) {
            assert_int_equal(SSL_export_keying_material(p.client, there, sizeof there, label,
                                                        strlen(label), (const uint8_t *)"", 0, 1),
                             1);
            assert_memory_equal(here, there, sizeof here);
        }
        pair_fini(&p);
    }
    tls_unref(&t);
}

static void check_end_point(struct pair *p, X509 *cert, const EVP_MD *md)
{
    uint8_t got[TLS_END_POINT_SIZE], want[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (md) {
        assert_int_equal(X509_digest(cert, md, want, &n), 1);
    }
    assert_int_equal(tls_end_point(p->server, got), n);
    assert_memory_equal(got, want, n);
}

/* By the hash of the signature, of the certificate that the client saw. */
static void test_end_point(void **state)
{
    (void)state;
    struct tls_options o = fleet_options();
    struct made certs[] = {
        make("DNS:sha1.test", EVP_EC_gen("P-256"), EVP_sha1(), NULL),
        make("DNS:sha256.test", EVP_EC_gen("P-256"), EVP_sha256(), NULL),
        make("DNS:sha384.test", EVP_EC_gen("P-384"), EVP_sha384(), NULL),
        make("DNS:sha512.test", EVP_RSA_gen(2048), EVP_sha512(), NULL),
        make("DNS:ed.test", EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), NULL, NULL),
    };
    const char *names[] = { "sha1.test", "sha256.test", "sha384.test", "sha512.test", "ed.test" };
    const EVP_MD *mds[] = { EVP_sha256(), EVP_sha256(), EVP_sha384(), EVP_sha512(), NULL };
    for (size_t i = 0; i < ARRAY_LEN(certs); i++) {
        char file[64];
        snprintf(file, sizeof file, "sni/%s.pem", names[i]);
        write_both(at(file), &certs[i], false);
    }
    o.directory = sni;
    struct tls *t = load(&o);
    for (size_t i = 0; i < ARRAY_LEN(certs); i++) {
        struct pair p = { 0 };
        pair_init(&p, t);
        SSL_set_tlsext_host_name(p.client, names[i]);
        assert_true(shake(&p));
        check_end_point(&p, certs[i].cert, mds[i]);
        pair_fini(&p);
    }
    tls_unref(&t);

    /* A session that is resumed after the certificate was replaced is bound to the old one: the
     * client has seen no other. */
    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        X509 *old = default_cert();
        struct tls *a = load(&o);
        SSL_SESSION *s = meet(a, versions[i], NULL, NULL);
        tls_unref(&a);
        make_certificate(dir);
        struct tls *b = load(&o);
        struct pair p = { 0 };
        pair_init(&p, b);
        SSL_set_max_proto_version(p.client, versions[i]);
        SSL_set_session(p.client, s);
        assert_true(shake(&p) && SSL_session_reused(p.server));
        check_end_point(&p, old, EVP_sha256());
        pair_fini(&p);
        SSL_SESSION_free(s);
        tls_unref(&b);
        X509_free(old);
    }
    for (size_t i = 0; i < ARRAY_LEN(certs); i++) {
        made_free(&certs[i]);
    }
    empty_dir(sni);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_certificates_by_name),
        cmocka_unit_test(test_one_bad_file_refuses_all),
        cmocka_unit_test(test_thousands_of_names),
        cmocka_unit_test(test_stamp),
        cmocka_unit_test(test_alpn),
        cmocka_unit_test(test_resumed_on_another_node),
        cmocka_unit_test(test_tickets_end),
        cmocka_unit_test(test_client_certificates),
        cmocka_unit_test(test_exporter),
        cmocka_unit_test(test_end_point),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, setup, teardown);
}
