/*
 * move_list: reading the accounts of a move. The whole file is read before anything is begun, so a
 * mistake in its last line costs nothing. No password is ever printed.
 */
#include "move_list.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "given.h"

static char *dup_word(struct span word)
{
    return word.n && !span_eq(word, SPAN("-")) ? span_dup(word) : NULL;
}

static void free_account(struct move_account *m)
{
    if (m->password) {
        explicit_bzero(m->password, strlen(m->password));
    }
    free(m->password);
    free(m->text);
    free(m->url);
}

void move_list_free(struct move_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        free_account(&l->accounts[i]);
    }
    free(l->accounts);
    *l = (struct move_list){ 0 };
}

static int add_account(struct move_list *l, struct span address, struct span password,
                       struct span url)
{
    struct move_account m = { .text = span_dup(address),
                              .password = dup_word(password),
                              .url = dup_word(url) };
    if (!admin_address(m.text, &m.address)) {
        free_account(&m);
        return EX_DATAERR;
    }
    if ((l->n & (l->n - 1)) == 0) { /* full: it doubles */
        l->accounts = mem_grow(l->accounts, l->n ? l->n * 2 : 1, sizeof *l->accounts);
    }
    l->accounts[l->n++] = m;
    return EX_OK;
}

static int add_line(struct move_list *l, struct span line, const char *path, size_t number)
{
    line = span_trim(line);
    if (!line.n || line.p[0] == '#') {
        return EX_OK;
    }
    struct span address = span_word(&line), password = span_word(&line), url = span_word(&line);
    if (line.n) {
        return admin_fail(EX_DATAERR, "%s:%zu: more than ADDRESS, PASSWORD and URL", path, number);
    }
    int code = add_account(l, address, password, url);
    return code == EX_OK ? code : admin_fail(code, "%s:%zu: nothing was done", path, number);
}

static int read_lines(FILE *f, const char *path, struct move_list *l)
{
    char *line = NULL;
    size_t size = 0, number = 0;
    ssize_t n;
    int code = EX_OK;
    while (code == EX_OK && (n = getline(&line, &size, f)) >= 0) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) {
            n--;
        }
        code = add_line(l, span_of(line, (size_t)n), path, ++number);
    }
    if (code == EX_OK && ferror(f)) {
        code = admin_fail(EX_IOERR, "%s: %s", path, strerror(errno));
    }
    if (line) {
        explicit_bzero(line, size);
    }
    free(line);
    return code;
}

static int by_address(const void *a, const void *b)
{
    const struct move_account *const *x = a, *const *y = b;
    return strcmp((*x)->address.canon, (*y)->address.canon);
}

/* Two at once would each take what the other has not got yet. */
static int check_twice(const struct move_list *l, const char *path)
{
    const struct move_account **sorted = NEW_ARRAY(const struct move_account *, l->n + 1);
    int code = EX_OK;
    for (size_t i = 0; i < l->n; i++) {
        sorted[i] = &l->accounts[i];
    }
    qsort(sorted, l->n, sizeof *sorted, by_address);
    for (size_t i = 1; i < l->n && code == EX_OK; i++) {
        if (by_address(&sorted[i - 1], &sorted[i]) == 0) {
            code = admin_fail(EX_DATAERR, "%s: %s is there twice", path, sorted[i]->address.canon);
        }
    }
    free(sorted);
    return code;
}

int move_list_read(const char *path, struct move_list *out)
{
    struct move_list l = { 0 };
    bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : given_open(path);
    if (!f) {
        return admin_fail(EX_NOINPUT, "%s: %s", path, strerror(errno));
    }
    int code = read_lines(f, path, &l);
    if (!standard) {
        fclose(f);
    }
    if (code == EX_OK) {
        code = check_twice(&l, path);
    }
    if (code == EX_OK && l.n == 0) {
        code = admin_fail(EX_DATAERR, "%s: no accounts", path);
    }
    if (code != EX_OK) {
        move_list_free(&l);
        return code;
    }
    *out = l;
    return EX_OK;
}

int move_list_one(const char *address, struct move_list *out)
{
    struct move_list l = { 0 };
    int code = add_account(&l, span_str(address), SPAN(""), SPAN(""));
    if (code == EX_OK) {
        *out = l;
    } else {
        move_list_free(&l);
    }
    return code;
}

int move_password(const char *path, char **out)
{
    char *line = NULL;
    size_t size = 0;
    if (!path) {
        return EX_OK;
    }
    FILE *f = given_open(path);
    if (!f) {
        return admin_fail(EX_NOINPUT, "%s: %s", path, strerror(errno));
    }
    ssize_t n = getline(&line, &size, f);
    fclose(f);
    if (n < 0) {
        free(line);
        return admin_fail(EX_NOINPUT, "%s: no password is in it", path);
    }
    line[strcspn(line, "\r\n")] = '\0';
    *out = line;
    return EX_OK;
}

int move_number(const struct args *args, enum arg option, uint64_t max, uint64_t *out)
{
    const char *text = args->opt[option];
    if (text && (span_u64(span_str(text), max, out) != ERR_OK || *out == 0)) {
        return admin_fail(EX_DATAERR, "--%s %s: not a number from 1 to %llu", args_name(option),
                          text, (unsigned long long)max);
    }
    return EX_OK;
}
