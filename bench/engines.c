/*
 * engines: what bench/instructions counts: the code that runs for every session and is pure, one
 * piece of work at a time, on the same octets each time.
 *
 *   engines [WORK]...     does each, all without a name, WARM_UP times and then COUNTED times
 *   engines --list        a line each: name, tab, what is one of it
 *   engines --made-with   a line each of what the figures depend on beside the code
 *
 * Under valgrind --tool=callgrind --collect-atstart=no only what lies between two calls of toggle
 * is counted, the engine's own share and not that of the client played here, and each work leaves
 * a dump under its name. Without valgrind nothing is counted, and perf may look at it.
 *
 * It checks what comes of each work, since a wrong one may be cheap. It does no I/O.
 */
#include <gnu/libc-version.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <valgrind/callgrind.h>

#include "address.h"
#include "base/check.h"
#include "net/proxy.h"
#include "pop3.h"
#include "proto/dot.h"
#include "smtp.h"
#include "store/cache_item.h"
#include "store/envelope.h"
#include "store/listing.h"
#include "trace.h"

#define WARM_UP 2
#define COUNTED 20

#define SIZE    8192  /* octets of a message */
#define LISTED  1000  /* messages of a mailbox that is listed */
#define POLLED  10    /* and of one that is polled */
#define MARKED  100   /* and of one that is emptied */
#define STUFFED 65536 /* octets that are stuffed and unstuffed */
#define COPIES  100   /* recipients of a message to many */
#define OUT_MAX (1u << 20)
#define NOW_MS  1767225600000ull /* the clock stands still */

static struct {
    struct buf message;   /* SIZE octets: a header and lines, some of which begin with a dot */
    struct buf data;      /* the same as it comes behind DATA */
    struct buf long_text; /* STUFFED octets, made like the message */
    struct buf long_data;
    struct buf listing; /* of LISTED messages, encoded */
    struct buf item;    /* and sealed */
    struct seal *seal;
    struct buf out; /* what a peer is sent */
    uint64_t sent;  /* octets of it that have left in this conversation */
    bool watched;   /* toggle counts */
} f;

/* --- what is counted ------------------------------------------------------------------------- */

static void toggle(void)
{
    if (f.watched) {
        CALLGRIND_TOGGLE_COLLECT;
    }
}

/* All that was written has left. */
static void send_out(void)
{
    f.sent += buf_len(&f.out);
    buf_clear(&f.out);
}

/* --- what they work on ----------------------------------------------------------------------- */

static void add(struct buf *b, struct span s)
{
    CHECK(buf_add(b, s) == ERR_OK);
}

/* A message of exactly n octets; every eighth line begins with a dot. */
static void write_message(struct buf *b, size_t n)
{
    static const char text[] = ".the quick brown fox jumps over the lazy dog, and then it rests";
    buf_init(b, n);
    add(b, SPAN("From: <sender@client.example>\r\nTo: <box@mail.example>\r\n"
                "Subject: instructions\r\nMessage-ID: <1@client.example>\r\n\r\n"));
    for (size_t line = 0; buf_len(b) + sizeof text + 1 <= n; line++) {
        bool dot = line % 8 == 0;
        add(b, span_of(text + !dot, sizeof text - 1 - !dot));
        add(b, SPAN("\r\n"));
    }
    while (buf_len(b) + 2 < n) {
        buf_addc(b, 'x');
    }
    add(b, SPAN("\r\n"));
    CHECK(buf_len(b) == n);
}

static void write_data(struct buf *b, const struct buf *message)
{
    struct dot_encoder e;
    buf_init(b, OUT_MAX);
    dot_encode_init(&e);
    dot_encode(&e, buf_span(message), b);
    dot_encode_end(&e, b);
}

static struct blob_id id_of(size_t n)
{
    uint8_t random[10];
    for (size_t i = 0; i < sizeof random; i++) {
        random[i] = (uint8_t)(n * 37 + i * 101);
    }
    return blob_id_make(NOW_MS - 1000 * n, random);
}

static struct maildrop *maildrop_of(size_t n)
{
    struct maildrop *m = maildrop_new(4711, 99);
    for (size_t i = 0; i < n; i++) {
        struct pointer p = { .id = id_of(n - i), .seq = i + 1, .size = SIZE, .skip = 300 };
        CHECK(maildrop_add(m, &p, SPAN(""), SPAN("")) == ERR_OK);
    }
    return m;
}

#define KEY "mf:l:0123456789abcdef0123456789abcdef"

static void prepare(void)
{
    static const uint8_t key[32] = "a key, and a secret to nobody";
    struct maildrop *m = maildrop_of(LISTED);
    unsigned parts;
    write_message(&f.message, SIZE);
    write_data(&f.data, &f.message);
    write_message(&f.long_text, STUFFED);
    write_data(&f.long_data, &f.long_text);
    f.seal = seal_new(key);
    buf_init(&f.listing, OUT_MAX);
    CHECK(listing_encode(m, &f.listing) == ERR_OK);
    buf_init(&f.item, OUT_MAX);
    CHECK(item_seal(f.seal, KEY, NOW_MS, buf_span(&f.listing), &f.item, &parts) == ERR_OK);
    buf_init(&f.out, OUT_MAX);
    maildrop_free(&m);
}

static void finish(void)
{
    struct buf *all[] = { &f.message, &f.data, &f.long_text, &f.long_data,
                          &f.listing, &f.item, &f.out };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        buf_fini(all[i]);
    }
    seal_free(&f.seal);
}

/* --- POP3 ------------------------------------------------------------------------------------ */

static struct pop3 *pop3_begin(void)
{
    static const char *const mechanisms[] = { "SCRAM-SHA-256", "PLAIN" };
    static const struct pop3_options o = { .tls_offered = true,
                                           .plaintext_login = true,
                                           .expire_min = -1,
                                           .max_errors = 20,
                                           .login_tries = 3 };
    f.sent = 0;
    toggle();
    struct pop3 *p = pop3_new(&o);
    pop3_offer(p, mechanisms, ARRAY_LEN(mechanisms));
    pop3_greet(p, SPAN("pop.mail.example"), &f.out);
    toggle();
    send_out();
    return p;
}

static void pop3_end(struct pop3 *p)
{
    toggle();
    pop3_free(&p);
    toggle();
}

static struct pop3_action pop3_next(struct pop3 *p, struct span *in)
{
    toggle();
    struct pop3_action a = pop3_step(p, in, &f.out);
    toggle();
    return a;
}

/* Stands for the store: everybody may log in, and has so many messages. */
static void pop3_answer(struct pop3 *p, const struct pop3_action *a, size_t messages)
{
    struct maildrop *m = a->kind == POP3_LOGIN ? maildrop_of(messages) : NULL;
    toggle();
    if (a->kind == POP3_LOGIN) {
        pop3_login_answer(p, LOGIN_OK, &m, 0, -1, &f.out);
    } else if (a->kind == POP3_FETCH) {
        pop3_fetch_answer(p, ERR_OK, buf_span(&f.message), true, &f.out);
    } else if (a->kind == POP3_COMMIT) {
        pop3_commit_answer(p, ERR_OK, &f.out);
    } else {
        CHECK(a->kind == POP3_FLUSH);
    }
    toggle();
}

/* The client says a line, or several, and waits for the end of the reply. */
static void pop3_say(struct pop3 *p, size_t messages, const char *line)
{
    struct span in = span_str(line);
    for (;;) {
        struct pop3_action a = pop3_next(p, &in);
        send_out();
        if (a.kind == POP3_NEED_INPUT || a.kind == POP3_CLOSE) {
            CHECK(in.n == 0);
            return;
        }
        pop3_answer(p, &a, messages);
    }
}

static void pop3_login(struct pop3 *p, size_t messages)
{
    pop3_say(p, messages, "USER box@mail.example\r\n");
    pop3_say(p, messages, "PASS correct horse battery staple\r\n");
    CHECK(pop3_maildrop(p));
}

static void pop3_poll(void)
{
    struct pop3 *p = pop3_begin();
    pop3_login(p, POLLED);
    pop3_say(p, POLLED, "STAT\r\n");
    pop3_say(p, POLLED, "UIDL\r\n");
    pop3_say(p, POLLED, "QUIT\r\n");
    CHECK(f.sent > POLLED * BLOB_ID_CHARS);
    pop3_end(p);
}

/* One command of a session, the rest of which isn't counted. */
static void pop3_command(size_t messages, const char *line, size_t sent)
{
    f.watched = false;
    struct pop3 *p = pop3_begin();
    pop3_login(p, messages);
    f.sent = 0;
    f.watched = true;
    pop3_say(p, messages, line);
    f.watched = false;
    CHECK(f.sent >= sent);
    pop3_end(p);
}

static void pop3_uidl(void)
{
    pop3_command(LISTED, "UIDL\r\n", LISTED * BLOB_ID_CHARS);
}

static void pop3_list(void)
{
    pop3_command(LISTED, "LIST\r\n", LISTED * sizeof "1 8192");
}

static void pop3_retr(void)
{
    pop3_command(1, "RETR 1\r\n", SIZE);
}

static void pop3_delete(void)
{
    f.watched = false;
    struct pop3 *p = pop3_begin();
    pop3_login(p, MARKED);
    f.watched = true;
    for (unsigned n = 1; n <= MARKED; n++) {
        char line[32];
        snprintf(line, sizeof line, "DELE %u\r\n", n);
        pop3_say(p, MARKED, line);
    }
    pop3_say(p, MARKED, "QUIT\r\n");
    f.watched = false;
    pop3_end(p);
}

/* --- SMTP ------------------------------------------------------------------------------------ */

static struct smtp *smtp_begin(bool lmtp)
{
    struct smtp_options o = { .lmtp = lmtp,
                              .tls_offered = true,
                              .normalize_newlines = true,
                              .max_size = 50 << 20,
                              .max_recipients = 1000,
                              .max_received = 100,
                              .max_errors = 20,
                              .hostname = "mx.mail.example" };
    f.sent = 0;
    toggle();
    struct smtp *s = smtp_new(&o);
    smtp_greet(s, &f.out);
    toggle();
    send_out();
    return s;
}

static void smtp_end(struct smtp *s)
{
    toggle();
    smtp_free(&s);
    toggle();
}

static struct smtp_action smtp_next(struct smtp *s, struct span *in)
{
    toggle();
    struct smtp_action a = smtp_step(s, in, &f.out);
    toggle();
    return a;
}

/* Stands for the store: every recipient is known, every message is kept. */
static void smtp_answer(struct smtp *s, const struct smtp_action *a, size_t recipients)
{
    static const enum smtp_verdict kept[COPIES]; /* OK */
    toggle();
    if (a->kind == SMTP_MAIL) {
        smtp_mail_answer(s, SMTP_OK, &f.out);
    } else if (a->kind == SMTP_RCPT) {
        smtp_rcpt_answer(s, SMTP_OK, &f.out);
    } else if (a->kind == SMTP_DATA_BEGIN) {
        smtp_data_answer(s, SMTP_OK, &f.out);
    } else if (a->kind == SMTP_DATA_END) {
        smtp_end_answer(s, kept, recipients, SPAN("06ay6v3mq8yb1t5mb2v3q4v5w6"), &f.out);
    } else {
        CHECK(a->kind == SMTP_FLUSH || a->kind == SMTP_DATA);
    }
    toggle();
}

/* Octets of a message that came of it. */
static size_t smtp_say(struct smtp *s, size_t recipients, struct span in)
{
    size_t taken = 0;
    for (;;) {
        struct smtp_action a = smtp_next(s, &in);
        send_out();
        if (a.kind == SMTP_NEED_INPUT || a.kind == SMTP_CLOSE) {
            CHECK(in.n == 0);
            return taken;
        }
        if (a.kind == SMTP_DATA) {
            taken += a.u.data.n;
        }
        smtp_answer(s, &a, recipients);
    }
}

static void smtp_data(void)
{
    struct smtp *s = smtp_begin(false);
    smtp_say(s, 1, SPAN("EHLO client.example\r\n"));
    smtp_say(s, 1, SPAN("MAIL FROM:<sender@client.example> SIZE=8192\r\n"));
    smtp_say(s, 1, SPAN("RCPT TO:<box@mail.example>\r\n"));
    smtp_say(s, 1, SPAN("DATA\r\n"));
    CHECK(smtp_say(s, 1, buf_span(&f.data)) == SIZE);
    smtp_say(s, 1, SPAN("QUIT\r\n"));
    smtp_end(s);
}

/* As a relay brings it: commands in one packet, and the message without dots. */
static void smtp_bdat(void)
{
    struct smtp *s = smtp_begin(false);
    smtp_say(s, 1, SPAN("EHLO client.example\r\n"));
    smtp_say(s, 1,
             SPAN("MAIL FROM:<sender@client.example> SIZE=8192\r\n"
                  "RCPT TO:<box@mail.example>\r\nBDAT 8192 LAST\r\n"));
    CHECK(smtp_say(s, 1, buf_span(&f.message)) == SIZE);
    smtp_say(s, 1, SPAN("QUIT\r\n"));
    smtp_end(s);
}

static void lmtp_copies(void)
{
    struct smtp *s = smtp_begin(true);
    smtp_say(s, COPIES, SPAN("LHLO gateway.example\r\n"));
    smtp_say(s, COPIES, SPAN("MAIL FROM:<sender@client.example> SIZE=8192\r\n"));
    for (unsigned n = 0; n < COPIES; n++) {
        char line[64];
        int len = snprintf(line, sizeof line, "RCPT TO:<box%03u@mail.example>\r\n", n);
        smtp_say(s, COPIES, span_of(line, (size_t)len));
    }
    smtp_say(s, COPIES, SPAN("DATA\r\n"));
    CHECK(smtp_say(s, COPIES, buf_span(&f.data)) == SIZE);
    smtp_say(s, COPIES, SPAN("QUIT\r\n"));
    smtp_end(s);
}

/* --- messages -------------------------------------------------------------------------------- */

static void dot_stuff(void)
{
    struct dot_encoder e;
    toggle();
    dot_encode_init(&e);
    dot_encode(&e, buf_span(&f.long_text), &f.out);
    dot_encode_end(&e, &f.out);
    toggle();
    CHECK(buf_len(&f.out) == buf_len(&f.long_data));
    buf_clear(&f.out);
}

static void dot_unstuff(void)
{
    struct dot_decoder d;
    struct span in = buf_span(&f.long_data);
    toggle();
    dot_decode_init(&d, true);
    bool whole = dot_decode(&d, &in, &f.out);
    toggle();
    CHECK(whole && buf_len(&f.out) == STUFFED);
    buf_clear(&f.out);
}

static void paths(void)
{
    struct span ascii = SPAN("<First.Last+tag@Mail.Example>");
    struct address a;
    toggle();
    enum err e = address_parse_path(&ascii, false, &a);
    toggle();
    CHECK(e == ERR_OK && a.canon_len == 27);
}

/* What a delivery writes in front of the message, and where to. */
static void front(void)
{
    struct blob_id id = id_of(1);
    struct envelope_recipient to = { 4711, SPAN("box@mail.example") };
    struct envelope e = { .id = id,
                          .reverse_path = SPAN("sender@client.example"),
                          .to = &to,
                          .n = 1,
                          .complete = true,
                          .size = SIZE };
    struct trace t = { .reverse_path = e.reverse_path,
                       .helo = SPAN("client.example"),
                       .client = SPAN("192.0.2.25"),
                       .hostname = SPAN("mx.mail.example"),
                       .forward_path = to.address,
                       .id = &id,
                       .unix_seconds = NOW_MS / 1000,
                       .esmtp = true };
    char path[SPOOL_PATH_MAX];
    memset(e.sha256, 'a', ENVELOPE_SHA256_HEX);
    toggle();
    enum err written = envelope_write(&e, &f.out);
    trace_return_path(&t, &f.out);
    trace_received(&t, &f.out);
    spool_path(&id, 2, path);
    toggle();
    CHECK(written == ERR_OK && buf_len(&f.out) > 300);
    buf_clear(&f.out);
}

/* --- the cache ------------------------------------------------------------------------------- */

static void list_encode(void)
{
    struct maildrop *m = maildrop_of(LISTED);
    toggle();
    enum err e = listing_encode(m, &f.out);
    toggle();
    CHECK(e == ERR_OK && buf_len(&f.out) == buf_len(&f.listing));
    buf_clear(&f.out);
    maildrop_free(&m);
}

static void list_decode(void)
{
    struct maildrop *m = NULL;
    struct buf in;
    buf_init(&in, OUT_MAX);
    add(&in, buf_span(&f.listing));
    toggle();
    enum err e = listing_decode(&in, &m);
    toggle();
    CHECK(e == ERR_OK && m->count == LISTED && m->octets == (uint64_t)LISTED * SIZE);
    toggle();
    maildrop_free(&m);
    toggle();
}

static void cache_seal(void)
{
    unsigned parts;
    toggle();
    enum err e = item_seal(f.seal, KEY, NOW_MS, buf_span(&f.listing), &f.out, &parts);
    toggle();
    CHECK(e == ERR_OK && parts == 0 && buf_len(&f.out) == buf_len(&f.item));
    buf_clear(&f.out);
}

static void cache_unseal(void)
{
    toggle();
    struct item it = item_parse(buf_span(&f.item));
    enum err e = item_unseal(f.seal, KEY, &it, it.sealed, NOW_MS, 300000, &f.out);
    toggle();
    CHECK(e == ERR_OK && span_eq(buf_span(&f.out), buf_span(&f.listing)));
    buf_clear(&f.out);
}

static void cache_key(void)
{
    struct span name = SPAN("box@mail.example");
    uint8_t mac[SEAL_MAC_SIZE];
    toggle();
    seal_mac(f.seal, "account", &name, 1, mac);
    toggle();
}

/* --- connections ----------------------------------------------------------------------------- */

static void proxy_header(void)
{
    static const char v2[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
                             "\xc0\0\2\x19\xc6\x33\x64\1\xc0\0\0\x6e";
    struct proxy_header h;
    size_t used = 0;
    toggle();
    enum err e = proxy_parse(span_of(v2, sizeof v2 - 1), &h, &used);
    toggle();
    CHECK(e == ERR_OK && used == sizeof v2 - 1);
}

/* --- the table ------------------------------------------------------------------------------- */

/* clang-format off */
static const struct work {
    const char *name;
    void (*run)(void);
    const char *what;
} works[] = {
    { "pop3_poll",   pop3_poll,   "a POP3 session: USER, PASS, STAT, UIDL of 10 messages, QUIT" },
    { "pop3_uidl",   pop3_uidl,   "UIDL of 1,000 messages" },
    { "pop3_list",   pop3_list,   "LIST of 1,000 messages" },
    { "pop3_retr",   pop3_retr,   "RETR of 8 KiB" },
    { "pop3_delete", pop3_delete, "DELE of 100 messages, one by one, and QUIT" },
    { "smtp_data",   smtp_data,   "an SMTP session that brings 8 KiB to one recipient by DATA" },
    { "smtp_bdat",   smtp_bdat,   "the same, pipelined and by BDAT" },
    { "lmtp_copies", lmtp_copies, "an LMTP session that brings 8 KiB to 100 recipients" },
    { "dot_stuff",   dot_stuff,   "64 KiB of a message, dots doubled for RETR" },
    { "dot_unstuff", dot_unstuff, "the same, back, as DATA does" },
    { "address",     paths,       "a forward-path parsed and brought to its canonical form" },
    { "front",       front,       "envelope, Return-Path:, Received: and path of a new file" },
    { "list_encode", list_encode, "the cached form of a list of 1,000 messages" },
    { "list_decode", list_decode, "the list out of it" },
    { "cache_seal",  cache_seal,  "that list sealed" },
    { "cache_unseal",cache_unseal,"and its seal checked and taken off" },
    { "cache_key",   cache_key,   "the cache's key of an account" },
    { "proxy",       proxy_header,"a PROXY header, version 2" },
};
/* clang-format on */

static void count(const struct work *w)
{
    for (unsigned n = 0; n < WARM_UP + COUNTED; n++) {
        if (n == WARM_UP) {
            CALLGRIND_ZERO_STATS;
        }
        f.watched = true;
        w->run();
        CHECK(buf_len(&f.out) == 0);
    }
    CALLGRIND_DUMP_STATS_AT(w->name);
}

static int list(void)
{
    for (size_t i = 0; i < ARRAY_LEN(works); i++) {
        printf("%s\t%u\t%s\n", works[i].name, COUNTED, works[i].what);
    }
    return 0;
}

static int made_with(void)
{
    printf("build\t%s\n", BUILD);
    printf("compiler\t%s\n", COMPILER);
    printf("libc\tglibc %s\n", gnu_get_libc_version());
    printf("openssl\t%s\n", OpenSSL_version(OPENSSL_VERSION_STRING));
    /* Of what the libraries choose their loops by, callgrind passes on no more than this. */
    printf("processor\t%s\n", __builtin_cpu_supports("avx2") ? "AVX2" : "no AVX2");
    return 0;
}

static const struct work *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(works); i++) {
        if (strcmp(works[i].name, name) == 0) {
            return &works[i];
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        return list();
    }
    if (argc == 2 && strcmp(argv[1], "--made-with") == 0) {
        return made_with();
    }
    for (int i = 1; i < argc; i++) {
        if (!find(argv[i])) {
            fprintf(stderr, "engines: there is no work named %s\n", argv[i]);
            return 64;
        }
    }
    prepare();
    for (size_t i = 0; i < ARRAY_LEN(works) && argc == 1; i++) {
        count(&works[i]);
    }
    for (int i = 1; i < argc; i++) {
        count(find(argv[i]));
    }
    finish();
    return 0;
}
