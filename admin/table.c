/*
 * table: see the header. Text is cut nowhere; control characters of what the database holds are
 * shown as question marks, so that a name can't drive the operator's terminal.
 */
#include "table.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "base/check.h"

struct cell {
    bool none;
    uint64_t number;
    char *text; /* of every cell: what a person sees */
};

struct table {
    const struct column *columns;
    size_t n;
    struct cell *cells; /* row after row */
    size_t n_cells, room;
};

struct table *table_new(const struct column *columns, size_t n)
{
    struct table *t = NEW(struct table);
    t->columns = columns;
    t->n = n;
    return t;
}

void table_free(struct table **pt)
{
    struct table *t = *pt;
    if (!t) {
        return;
    }
    *pt = NULL;
    for (size_t i = 0; i < t->n_cells; i++) {
        free(t->cells[i].text);
    }
    free(t->cells);
    free(t);
}

static struct cell *add_cell(struct table *t, char *text)
{
    if (t->n_cells == t->room) {
        t->room = t->room ? 2 * t->room : 64;
        t->cells = mem_grow(t->cells, t->room, sizeof *t->cells);
    }
    t->cells[t->n_cells] = (struct cell){ .text = text };
    return &t->cells[t->n_cells++];
}

void table_text(struct table *t, struct span v)
{
    char *text = span_dup(v);
    for (char *p = text; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f) {
            *p = '?';
        }
    }
    add_cell(t, text);
}

void table_number(struct table *t, uint64_t v)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, v);
    add_cell(t, mem_strdup(text))->number = v;
}

void table_flag(struct table *t, bool v)
{
    add_cell(t, mem_strdup(v ? "yes" : "no"))->number = v;
}

void table_none(struct table *t)
{
    add_cell(t, mem_strdup("-"))->none = true;
}

void table_days(struct table *t, int64_t v)
{
    v < 0 ? table_none(t) : table_number(t, (uint64_t)v);
}

void table_limit(struct table *t, uint64_t v)
{
    v ? table_number(t, v) : table_none(t);
}

static json_t *cell_json(const struct column *c, const struct cell *cell)
{
    if (cell->none) {
        return json_null();
    }
    switch (c->type) {
    case COLUMN_NUMBER:
        return json_integer((json_int_t)cell->number);
    case COLUMN_FLAG:
        return json_boolean(cell->number != 0);
    case COLUMN_TEXT:
        break;
    }
    /* Old mail systems left addresses that are no UTF-8; JSON can't hold them. */
    json_t *s = json_string(cell->text);
    return s ? s : json_null();
}

static json_t *row_json(const struct table *t, size_t row)
{
    json_t *o = json_object();
    for (size_t i = 0; i < t->n; i++) {
        json_object_set_new(o, t->columns[i].key,
                            cell_json(&t->columns[i], &t->cells[row * t->n + i]));
    }
    return o;
}

static void print_row_json(const struct table *t, size_t row, FILE *out)
{
    json_t *o = row_json(t, row);
    json_dumpf(o, out, 0);
    json_decref(o);
}

static void print_json(const struct table *t, FILE *out)
{
    fputc('[', out);
    for (size_t row = 0; row < t->n_cells / t->n; row++) {
        fputs(row ? ",\n" : "\n", out);
        print_row_json(t, row, out);
    }
    fputs("\n]\n", out);
}

/* Columns of a terminal, near enough: continuation bytes of UTF-8 take none. */
static size_t text_width(const char *s)
{
    size_t n = 0;
    for (; *s; s++) {
        n += ((unsigned char)*s & 0xc0) != 0x80;
    }
    return n;
}

static void print_cell(FILE *out, const char *text, size_t width, bool right, bool last)
{
    size_t pad = width - text_width(text);
    if (last && !right) {
        pad = 0;
    }
    fprintf(out, "%*s%s%*s%s", right ? (int)pad : 0, "", text, right ? 0 : (int)pad, "",
            last ? "\n" : "  ");
}

static void print_text(const struct table *t, FILE *out)
{
    size_t *width = NEW_ARRAY(size_t, t->n);
    for (size_t i = 0; i < t->n; i++) {
        width[i] = text_width(t->columns[i].title);
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t w = text_width(t->cells[i].text);
        width[i % t->n] = w > width[i % t->n] ? w : width[i % t->n];
    }
    for (size_t i = 0; i < t->n; i++) {
        print_cell(out, t->columns[i].title, width[i], t->columns[i].type == COLUMN_NUMBER,
                   i + 1 == t->n);
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t c = i % t->n;
        print_cell(out, t->cells[i].text, width[c], t->columns[c].type == COLUMN_NUMBER,
                   c + 1 == t->n);
    }
    free(width);
}

void table_print(const struct table *t, bool json, const char *nothing_text, FILE *out)
{
    CHECK(t->n_cells % t->n == 0);
    if (json) {
        print_json(t, out);
    } else if (t->n_cells == 0) {
        fprintf(out, "%s\n", nothing_text);
    } else {
        print_text(t, out);
    }
}

void table_print_record(const struct table *t, bool json, FILE *out)
{
    CHECK(t->n_cells == t->n);
    if (json) {
        print_row_json(t, 0, out);
        fputc('\n', out);
        return;
    }
    size_t width = 0;
    for (size_t i = 0; i < t->n; i++) {
        size_t w = text_width(t->columns[i].title);
        width = w > width ? w : width;
    }
    for (size_t i = 0; i < t->n; i++) {
        fprintf(out, "%s:%*s %s\n", t->columns[i].title,
                (int)(width - text_width(t->columns[i].title)), "", t->cells[i].text);
    }
}
