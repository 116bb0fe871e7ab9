/*
 * lines: see the header.
 */
#include "lines.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "given.h"

#define LINE_MOST 4096 /* octets; a line of more is no line of a list */

int lines_open(struct lines *l, const char *path)
{
    *l = (struct lines){ .path = path };
    l->file = strcmp(path, "-") == 0 ? stdin : given_open(path);
    return l->file ? EX_OK : admin_fail(EX_NOINPUT, "%s: %s", path, strerror(errno));
}

static const char *trim(char *text, size_t n)
{
    while (n > 0 && strchr(" \t\r\n", text[n - 1])) {
        text[--n] = '\0';
    }
    return text + strspn(text, " \t");
}

int lines_next(struct lines *l, const char **line)
{
    *line = NULL;
    errno = 0;
    for (ssize_t n; (n = getline(&l->text, &l->cap, l->file)) >= 0;) {
        l->number++;
        if (n > LINE_MOST || strlen(l->text) != (size_t)n) {
            return admin_fail(EX_DATAERR, "%s:%zu: this is no line of text", l->path, l->number);
        }
        const char *begin = trim(l->text, (size_t)n);
        if (*begin && *begin != '#') {
            *line = begin;
            return EX_OK;
        }
    }
    return ferror(l->file) ? admin_fail(EX_IOERR, "%s: %s", l->path, strerror(errno)) : EX_OK;
}

void lines_close(struct lines *l)
{
    if (l->file && l->file != stdin) {
        fclose(l->file);
    }
    free(l->text);
    *l = (struct lines){ 0 };
}
