/*
 * fuzz_log_lines: any octets as a line of the log. What is taken points into it, has the log's
 * form, and its texts fit where they are put.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "log_lines.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inside(struct span in, struct span part)
{
    CHECK(part.n == 0 || (part.p >= in.p && part.p + part.n <= in.p + in.n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size);
    struct log_line l;
    char text[16];
    if (log_line_parse(in, &l) != ERR_OK) {
        return 0;
    }
    CHECK(l.n <= LOG_LINE_FIELDS && l.event.n > 0);
    check_inside(in, l.event);
    for (size_t i = 0; i < l.n; i++) {
        check_inside(in, l.fields[i].key);
        check_inside(in, l.fields[i].value);
        CHECK(l.fields[i].key.n > 0 && (l.fields[i].quoted || l.fields[i].value.n > 0));
        char *key = span_dup(l.fields[i].key);
        CHECK(log_line_text(&l, key, text, sizeof text));
        CHECK(span_find(log_line_word(&l, key), '"') == log_line_word(&l, key).n);
        free(key);
    }
    return 0;
}
