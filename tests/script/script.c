/*
 * script: the reader of scripts and the three ways to run one.
 *
 * A struct script owns its text; a struct run owns the engine for one way of feeding it. What the
 * engine is given lies in memory of its own size and is freed right after the step, so that the
 * sanitizers see an engine that reads too far or keeps what it was only lent.
 */
#include "script.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define FILE_MOST  (1u << 20)
#define INPUT_MOST (16u << 20)
#define OUT_MOST   (64u << 20)
#define SEEDS      16

enum item_kind { REPLY, REPLY_PREFIX, ACTION, ANSWER, END };

struct item {
    enum item_kind kind;
    unsigned line;
    struct span text; /* in script.texts */
};

struct script {
    const char *path;
    char *texts; /* the escapes of a text only ever make it shorter */
    size_t texts_n;
    struct span options;
    struct buf input;
    struct item *items; /* ends with END */
    size_t n;
    char why[256]; /* why it can't be read */
};

static int hex(char c)
{
    const char *digits = "0123456789abcdef";
    const char *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* One escape behind its backslash: how many characters it has, 0 if it is none. */
static size_t unescape_one(struct span s, char *out)
{
    const char *names = "rnt0\\", *values = "\r\n\t\0\\";
    const char *at = s.n > 0 && s.p[0] ? strchr(names, s.p[0]) : NULL;
    if (at) {
        *out = values[at - names];
        return 1;
    }
    if (s.n < 3 || s.p[0] != 'x' || hex(s.p[1]) < 0 || hex(s.p[2]) < 0) {
        return 0;
    }
    *out = (char)(hex(s.p[1]) * 16 + hex(s.p[2]));
    return 3;
}

static bool unescape(struct script *s, struct span text, struct span *out)
{
    char *start = s->texts + s->texts_n, *to = start;
    while (text.n > 0) {
        size_t n = 1;
        char c = text.p[0];
        if (c == '\\') {
            size_t escape = unescape_one(span_skip(text, 1), &c);
            if (escape == 0) {
                return false;
            }
            n += escape;
        }
        *to++ = c;
        text = span_skip(text, n);
    }
    *out = span_of(start, (size_t)(to - start));
    s->texts_n += out->n;
    return true;
}

static bool add_input(struct script *s, struct span text, uint64_t times)
{
    for (uint64_t i = 0; i < times && text.n > 0; i++) {
        if (buf_add(&s->input, text) != ERR_OK) {
            return false;
        }
    }
    return true;
}

static void add_item(struct script *s, enum item_kind kind, unsigned line, struct span text)
{
    s->items = mem_grow(s->items, s->n + 1, sizeof *s->items);
    s->items[s->n++] = (struct item){ kind, line, text };
}

/* `word text`: the text is everything behind one blank. False: the line makes no sense. */
static bool read_line(struct script *s, unsigned number, struct span line)
{
    static const struct {
        const char *word;
        enum item_kind kind;
    } items[] = { { "S", REPLY }, { "S*", REPLY_PREFIX }, { "A", ACTION }, { "=", ANSWER } };

    size_t word_n = span_find(line, ' ');
    struct span word = span_first(line, word_n), text = span_skip(line, word_n + 1);
    uint64_t times = 1;
    if (line.n == 0 || line.p[0] == '#') {
        return true;
    }
    if (span_eq(word, SPAN("C*"))) {
        size_t digits = span_find(text, ' ');
        if (span_u64(span_first(text, digits), INPUT_MOST, &times) != ERR_OK) {
            return false;
        }
        text = span_skip(text, digits + 1);
    }
    if (!unescape(s, text, &text)) {
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(items); i++) {
        if (span_eq(word, span_str(items[i].word))) {
            add_item(s, items[i].kind, number, text);
            return true;
        }
    }
    if (span_eq(word, SPAN("O"))) {
        s->options = text;
        return true;
    }
    if (span_eq(word, SPAN("C"))) {
        return add_input(s, text, 1) && add_input(s, SPAN("\r\n"), 1);
    }
    if (span_eq(word, SPAN("C-")) || span_eq(word, SPAN("C*"))) {
        return add_input(s, text, times);
    }
    return false;
}

static bool read_text(struct script *s, struct span text)
{
    unsigned number = 0;
    while (text.n > 0) {
        size_t n = span_find(text, '\n');
        if (!read_line(s, ++number, span_first(text, n))) {
            snprintf(s->why, sizeof s->why, "line %u makes no sense", number);
            return false;
        }
        text = span_skip(text, n + 1);
    }
    add_item(s, END, number, SPAN(""));
    return true;
}

static bool script_load(struct script *s, const char *path)
{
    *s = (struct script){ .path = path, .texts = mem_new(FILE_MOST, 1) };
    buf_init(&s->input, INPUT_MOST);
    FILE *f = fopen(path, "rb");
    if (!f) {
        snprintf(s->why, sizeof s->why, "can't be opened");
        return false;
    }
    char *text = mem_new(FILE_MOST, 1);
    size_t n = fread(text, 1, FILE_MOST, f);
    bool ok = read_text(s, span_of(text, n));
    fclose(f);
    free(text);
    return ok;
}

static void script_fini(struct script *s)
{
    buf_fini(&s->input);
    free(s->items);
    free(s->texts);
}

struct run {
    const struct script *script;
    const struct script_adapter *adapter;
    void *engine;
    struct buf out; /* replies that are not compared yet */
    struct buf action;
    const struct item *next; /* of the script */
    size_t fed, eaten;       /* octets of the input */
    char what[64];           /* what went wrong: in a word, and the texts */
    struct span got;
    struct buf copy; /* got's memory */
};

static bool fail(struct run *r, const char *what, struct span got)
{
    snprintf(r->what, sizeof r->what, "%s", what);
    buf_clear(&r->copy);
    buf_add(&r->copy, got);
    return false;
}

/* The octets before the first CRLF; false if there is none. */
static bool first_line(struct span all, struct span *line)
{
    const char *end = all.n > 0 ? memmem(all.p, all.n, "\r\n", 2) : NULL;
    if (end) {
        *line = span_of(all.p, (size_t)(end - all.p));
    }
    return end != NULL;
}

/* All replies that the script has before its next action, and no other. */
static bool compare_replies(struct run *r)
{
    for (; r->next->kind == REPLY || r->next->kind == REPLY_PREFIX; r->next++) {
        struct span line, want = r->next->text;
        if (!first_line(buf_span(&r->out), &line)) {
            return fail(r, "a reply line was expected", buf_span(&r->out));
        }
        if (r->next->kind == REPLY ? !span_eq(line, want) : !span_starts(line, want)) {
            return fail(r, "another reply was expected", line);
        }
        buf_take(&r->out, line.n + 2);
    }
    return buf_len(&r->out) == 0 || fail(r, "no reply was expected", buf_span(&r->out));
}

static bool compare_action(struct run *r, bool open)
{
    struct span action = buf_span(&r->action);
    if (!compare_replies(r)) {
        return false;
    }
    if (r->next->kind != ACTION || !span_eq(r->next->text, action)) {
        return fail(r, "another action was expected", action);
    }
    r->next++;
    if (!open || !r->adapter->waits(r->engine)) {
        return true;
    }
    if (r->next->kind != ANSWER || !r->adapter->answer(r->engine, r->next->text, &r->out)) {
        return fail(r, "an answer was expected", action);
    }
    r->next++;
    return true;
}

/* The engine sees a copy that lives for this step only. */
static bool step(struct run *r)
{
    size_t n = r->fed - r->eaten;
    char *copy = mem_new(n > 0 ? n : 1, 1);
    memcpy(copy, buf_span(&r->script->input).p + r->eaten, n);
    struct span in = span_of(copy, n);
    buf_clear(&r->action);
    bool open = r->adapter->step(r->engine, &in, &r->out, &r->action);
    r->eaten = r->fed - in.n;
    free(copy);
    return open;
}

/* How many octets the engine gets next: all, one, or as the seed has it. */
struct way {
    const char *name;
    bool bytes;
    bool random;
    unsigned short seed[3];
};

static size_t piece(struct way *w, size_t left)
{
    size_t n = w->bytes ? 1 : left;
    if (w->random) {
        size_t most = nrand48(w->seed) % 2 ? 4 : 64;
        n = 1 + (size_t)nrand48(w->seed) % most;
    }
    return n < left ? n : left;
}

static bool converse(struct run *r, struct way *w)
{
    size_t total = buf_len(&r->script->input);
    for (;;) {
        bool open = step(r);
        if (buf_len(&r->action) > 0) {
            if (!compare_action(r, open)) {
                return false;
            }
        } else if (open && r->eaten < r->fed) {
            return fail(r, "the engine neither reads nor asks", SPAN(""));
        } else if (open && r->fed < total) {
            r->fed += piece(w, total - r->fed);
        } else {
            open = false;
        }
        if (!open) {
            break;
        }
    }
    struct span left = span_skip(buf_span(&r->script->input), r->eaten);
    return compare_replies(r) &&
           (r->next->kind == END || fail(r, "the engine is done", SPAN(""))) &&
           (left.n == 0 || fail(r, "input is left over", left));
}

static void print_escaped(const char *title, struct span s)
{
    printf("#   %s", title);
    for (size_t i = 0; i < s.n && i < 300; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '\\') {
            printf("\\\\");
        } else if (c < 32 || c > 126) {
            printf(c == '\r' ? "\\r" : c == '\n' ? "\\n" : "\\x%02x", c);
        } else {
            putchar(c);
        }
    }
    putchar('\n');
}

static void explain(const struct run *r, const char *way)
{
    printf("# %s:%u: %s (%s)\n", r->script->path, r->next->line, r->what, way);
    print_escaped("script: ", r->next->text);
    print_escaped("engine: ", buf_span(&r->copy));
}

static bool run_way(const struct script *s, const struct script_adapter *a, struct way w)
{
    struct run r = { .script = s, .adapter = a, .next = s->items };
    buf_init(&r.out, OUT_MOST);
    buf_init(&r.action, OUT_MOST);
    buf_init(&r.copy, OUT_MOST);
    r.engine = a->open(s->options, &r.out);
    bool ok = r.engine ? converse(&r, &w) : fail(&r, "an option is not known", s->options);
    if (!ok) {
        explain(&r, w.name);
    }
    if (r.engine) {
        a->close(r.engine);
    }
    buf_fini(&r.out);
    buf_fini(&r.action);
    buf_fini(&r.copy);
    return ok;
}

static bool run_random(const struct script *s, const struct script_adapter *a)
{
    for (unsigned short seed = 1; seed <= SEEDS; seed++) {
        char name[32];
        snprintf(name, sizeof name, "seed %u", seed);
        if (!run_way(s, a, (struct way){ .name = name, .random = true, .seed = { seed } })) {
            return false;
        }
    }
    return true;
}

static bool report(const char *path, const char *way, bool ok)
{
    static unsigned number;
    printf("%s %u - %s, %s\n", ok ? "ok" : "not ok", ++number, path, way);
    return ok;
}

static bool run_file(const char *path, const struct script_adapter *a)
{
    struct script s;
    bool ok = script_load(&s, path);
    if (!ok) {
        printf("# %s: %s\n", path, s.why);
    }
    bool whole = report(path, "at once", ok && run_way(&s, a, (struct way){ .name = "at once" }));
    bool bytes = report(path, "byte by byte",
                        ok && run_way(&s, a, (struct way){ .name = "bytes", .bytes = true }));
    bool random = report(path, "random pieces", ok && run_random(&s, a));
    script_fini(&s);
    return whole && bytes && random;
}

int script_main(int argc, char **argv, const struct script_adapter *a)
{
    bool ok = argc > 1;
    printf("1..%d\n", 3 * (argc - 1));
    for (int i = 1; i < argc; i++) {
        ok = run_file(argv[i], a) && ok;
    }
    return ok ? 0 : 1;
}
