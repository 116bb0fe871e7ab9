/*
 * config: reads mailfleet.conf into the struct that settings.def declares.
 *
 * A loaded config is one object: the struct and an arena with all its texts, freed together. The
 * file's syntax is inih's business, the meaning of each type of value is here. Whether values fit
 * the world (a file exists, an address can be bound) is for those who use them.
 */
#include "base/config.h"

#include <errno.h>
#include <ini.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/check.h"

enum {
    LINE_SIZE = 8192,
    TEXT_LIMIT = 1 << 20, /* of all values; no setting may be given twice, so it is never met */
};

struct loaded {
    struct arena arena;
    struct config config;
};

/* ---- the types of values ------------------------------------------------------------------- */

struct unit {
    const char *name;
    uint64_t factor;
};

struct setting {
    struct config_doc doc;
    const struct kind *kind;
    size_t offset; /* in struct config */
};

struct kind {
    /* ERR_INVALID: not of that form; ERR_LIMIT: outside the range. */
    enum err (*set)(const struct setting *s, struct loaded *l, const char *text);
    void (*show)(const struct setting *s, const struct config *c, struct buf *out);
    const char *form;           /* the words of the complaint for ERR_INVALID */
    const char *before, *after; /* for ERR_LIMIT: before RANGE after */
    const struct unit *units;   /* of numbers, the largest first, ended by NULL */
};

static void *field(const struct setting *s, struct loaded *l)
{
    return (char *)&l->config + s->offset;
}

static const void *shown(const struct setting *s, const struct config *c)
{
    return (const char *)c + s->offset;
}

static enum err parse_scaled(const struct unit *units, struct span s, uint64_t *out)
{
    size_t digits = strspn(s.p, "0123456789");
    struct span number = span_first(s, digits), name = span_skip(s, number.n);
    uint64_t v;
    enum err e = span_u64(number, UINT64_MAX, &v);
    if (e != ERR_OK) {
        return e;
    }
    if (v == 0 && name.n == 0) {
        *out = 0; /* nothing needs no unit */
        return ERR_OK;
    }
    for (const struct unit *u = units; u->name; u++) {
        if (span_eq(name, span_str(u->name))) {
            if (v > UINT64_MAX / u->factor) {
                return ERR_LIMIT;
            }
            *out = v * u->factor;
            return ERR_OK;
        }
    }
    return ERR_INVALID;
}

static enum err set_scaled(const struct setting *s, struct loaded *l, const char *text)
{
    uint64_t v, low, high;
    const struct unit *units = s->kind->units;
    const char *range = s->doc.range, *dots = strstr(range, "..");
    CHECK(dots && parse_scaled(units, span_of(range, (size_t)(dots - range)), &low) == ERR_OK);
    CHECK(parse_scaled(units, span_str(dots + 2), &high) == ERR_OK);
    enum err e = parse_scaled(units, span_str(text), &v);
    if (e == ERR_OK && (v < low || v > high)) {
        e = ERR_LIMIT;
    }
    if (e == ERR_OK) {
        *(uint64_t *)field(s, l) = v;
    }
    return e;
}

/* With the largest unit that leaves no fraction. */
static void show_scaled(const struct setting *s, const struct config *c, struct buf *out)
{
    uint64_t v = *(const uint64_t *)shown(s, c);
    const struct unit *u = s->kind->units;
    while (u[1].name && (v == 0 || v % u->factor != 0)) {
        u++;
    }
    buf_addu(out, v / u->factor);
    buf_add(out, span_str(u->name));
}

/* The range of a text or a list: the most characters or words. */
static size_t most(const struct setting *s)
{
    uint64_t n;
    CHECK(span_u64(span_str(s->doc.range), LINE_SIZE, &n) == ERR_OK);
    return (size_t)n;
}

static enum err set_text(const struct setting *s, struct loaded *l, const char *text)
{
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f) {
            return ERR_INVALID;
        }
    }
    if (strlen(text) > most(s)) {
        return ERR_LIMIT;
    }
    char *copy = arena_dup(&l->arena, span_str(text));
    CHECK(copy);
    *(const char **)field(s, l) = copy;
    return ERR_OK;
}

static void show_text(const struct setting *s, const struct config *c, struct buf *out)
{
    buf_add(out, span_str(*(const char *const *)shown(s, c)));
}

static enum err set_list(const struct setting *s, struct loaded *l, const char *text)
{
    size_t max = most(s), n = 0;
    const char **v = arena_alloc(&l->arena, max * sizeof *v);
    char *copy = arena_dup(&l->arena, span_str(text)), *save = NULL;
    CHECK(v && copy);
    for (char *w = strtok_r(copy, ", \t", &save); w; w = strtok_r(NULL, ", \t", &save)) {
        if (n == max) {
            return ERR_LIMIT;
        }
        v[n++] = w;
    }
    *(struct config_list *)field(s, l) = (struct config_list){ n, v };
    return ERR_OK;
}

static void show_list(const struct setting *s, const struct config *c, struct buf *out)
{
    const struct config_list *l = shown(s, c);
    for (size_t i = 0; i < l->n; i++) {
        buf_add(out, i ? SPAN(", ") : SPAN(""));
        buf_add(out, span_str(l->v[i]));
    }
}

/* Takes the next of the words that | separates off *words. */
static struct span next_choice(struct span *words)
{
    struct span word = span_first(*words, span_find(*words, '|'));
    *words = span_skip(*words, word.n + 1);
    return word;
}

static enum err set_choice(const struct setting *s, struct loaded *l, const char *text)
{
    struct span words = span_str(s->doc.range);
    for (unsigned i = 0; words.n; i++) {
        if (span_eq(next_choice(&words), span_str(text))) {
            *(unsigned *)field(s, l) = i;
            return ERR_OK;
        }
    }
    return ERR_LIMIT;
}

static void show_choice(const struct setting *s, const struct config *c, struct buf *out)
{
    struct span words = span_str(s->doc.range), word = next_choice(&words);
    for (unsigned i = *(const unsigned *)shown(s, c); i > 0; i--) {
        word = next_choice(&words);
    }
    buf_add(out, word);
}

static const struct unit plain_units[] = { { "", 1 }, { 0 } };
static const struct unit size_units[] = {
    { "G", 1 << 30 }, { "M", 1 << 20 }, { "K", 1 << 10 }, { "", 1 }, { 0 }
};
static const struct unit time_units[] = { { "d", 86400000 }, { "h", 3600000 }, { "m", 60000 },
                                          { "s", 1000 },     { "ms", 1 },      { 0 } };

static const struct kind kind_number = {
    set_scaled, show_scaled, "a number", "within ", "", plain_units,
};
static const struct kind kind_size = {
    set_scaled, show_scaled, "a number of octets, with K, M or G", "within ", "", size_units,
};
static const struct kind kind_time = {
    set_scaled, show_scaled, "a number with ms, s, m, h or d", "within ", "", time_units,
};
static const struct kind kind_text = {
    set_text, show_text, "text without control characters", "at most ", " characters", NULL,
};
static const struct kind kind_list = { set_list, show_list, "words", "at most ", " words", NULL };
static const struct kind kind_choice = { set_choice, show_choice, "", "one of ", "", NULL };

/* ---- the table ----------------------------------------------------------------------------- */

static const struct setting settings[] = {
#define S(type, section, key, def, range, help)                                                    \
    { { #type, #section, #key, def, range, help },                                                 \
      &kind_##type,                                                                                \
      offsetof(struct config, section##_##key) },
#include "base/settings.def"
#undef S
};

const struct config_doc *config_doc(size_t i)
{
    return i < ARRAY_LEN(settings) ? &settings[i].doc : NULL;
}

void config_show(const struct config *c, size_t i, char *out, size_t size)
{
    CHECK(i < ARRAY_LEN(settings));
    const struct setting *s = &settings[i];
    struct buf text;
    buf_init(&text, LINE_SIZE * 2); /* a list has two characters between words instead of one */
    s->kind->show(s, c, &text);
    snprintf(out, size, "%.*s", SPAN_ARG(buf_span(&text)));
    buf_fini(&text);
}

/* ---- reading ------------------------------------------------------------------------------- */

struct reading {
    struct loaded *loaded;
    FILE *file;
    unsigned line;
    bool given[ARRAY_LEN(settings)];
    char wrong[160]; /* empty while all is well */
};

#define WRONG(r, ...) snprintf((r)->wrong, sizeof(r)->wrong, __VA_ARGS__)

/*
 * inih's source of lines. It would take the end of a line that is too long for the next line, and
 * a NUL for the end of one: both stop here.
 */
static char *next_line(char *to, int size, void *arg)
{
    struct reading *r = arg;
    if (!fgets(to, size, r->file)) {
        return NULL;
    }
    r->line++;
    if (!strchr(to, '\n') && !feof(r->file)) {
        WRONG(r, "a line of more than %d characters, or with a NUL", size - 2);
        return NULL;
    }
    return to;
}

static void complain(struct reading *r, const struct setting *s, enum err e)
{
    const struct kind *k = s->kind;
    const struct config_doc *d = &s->doc;
    if (e == ERR_INVALID) {
        WRONG(r, "%s.%s must be %s", d->section, d->key, k->form);
    } else {
        WRONG(r, "%s.%s must be %s%s%s", d->section, d->key, k->before, d->range, k->after);
    }
}

/* inih's handler: 1 to go on, 0 to stop. */
static int take_value(void *arg, const char *section, const char *key, const char *value)
{
    struct reading *r = arg;
    bool section_known = false;
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const struct setting *s = &settings[i];
        if (strcmp(s->doc.section, section) != 0) {
            continue;
        }
        section_known = true;
        if (strcmp(s->doc.key, key) != 0) {
            continue;
        }
        enum err e = s->kind->set(s, r->loaded, value);
        if (e != ERR_OK) {
            complain(r, s, e);
        } else if (r->given[i]) {
            WRONG(r, "%s.%s is given twice", section, key);
        }
        r->given[i] = true;
        return r->wrong[0] == '\0';
    }
    if (section_known) {
        WRONG(r, "unknown key %s in section [%s]", key, section);
    } else {
        WRONG(r, "unknown section [%s]", section);
    }
    return 0;
}

/* inih is set up by variables of its own; only start and reload come here. */
static void read_file(struct reading *r)
{
    ini_allow_multiline = false; /* an indented setting is a setting */
    ini_use_stack = false;       /* the stack buffer has 200 octets */
    ini_initial_alloc = ini_max_line = LINE_SIZE;
    ini_stop_on_first_error = true;
    int e = ini_parse_stream(next_line, r, take_value, r);
    if (ferror(r->file)) {
        WRONG(r, "%s", strerror(errno));
    } else if (e != 0 && r->wrong[0] == '\0') {
        WRONG(r, "neither [section] nor key = value");
    }
}

static void set_defaults(struct loaded *l)
{
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const struct setting *s = &settings[i];
        CHECK(s->kind->set(s, l, s->doc.def) == ERR_OK);
    }
}

/* The defaults that are another value. */
static void set_others(struct loaded *l)
{
    struct config *c = &l->config;
    if (c->node_name[0] == '\0') {
        char host[HOST_NAME_MAX + 1] = "";
        gethostname(host, sizeof host - 1);
        c->node_name = arena_dup(&l->arena, host[0] ? span_str(host) : SPAN("localhost"));
        CHECK(c->node_name);
    }
    if (c->smtp_hostname[0] == '\0') {
        c->smtp_hostname = c->node_name;
    }
    if (c->auth_queue == 0) {
        c->auth_queue = c->node_max_sessions; /* a session waits for one login */
    }
}

enum err config_load(const char *path, struct config **out, char *why, size_t why_size)
{
    struct reading r = { .file = fopen(path, "re") };
    if (!r.file) {
        enum err e = errno == ENOENT ? ERR_NOTFOUND : ERR_TEMP;
        snprintf(why, why_size, "%s: %s", path, strerror(errno));
        return e;
    }
    r.loaded = NEW(struct loaded);
    arena_init(&r.loaded->arena, TEXT_LIMIT);
    set_defaults(r.loaded);
    read_file(&r);
    fclose(r.file);
    struct config *c = &r.loaded->config;
    if (r.wrong[0]) {
        snprintf(why, why_size, "%s:%u: %s", path, r.line, r.wrong);
        config_free(&c);
        return ERR_INVALID;
    }
    set_others(r.loaded);
    *out = c;
    return ERR_OK;
}

const char *config_keep(struct config *c, struct span text)
{
    return arena_dup(&CONTAINER_OF(c, struct loaded, config)->arena, text);
}

void config_free(struct config **c)
{
    if (c && *c) {
        struct loaded *l = CONTAINER_OF(*c, struct loaded, config);
        arena_fini(&l->arena);
        free(l);
        *c = NULL;
    }
}
