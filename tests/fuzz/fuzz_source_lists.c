/*
 * fuzz_source_lists: any octets as one of the lists in which other servers keep UIDLs, or as a
 * format of UIDLs; the first octet chooses.
 *
 * What is accepted points into what was read, and keeps what its header promises.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "source_lists.h"
#include "source_parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inside(struct span in, struct span part)
{
    CHECK(part.n == 0 || (part.p >= in.p && part.p + part.n <= in.p + in.n));
}

static void check_uidlist(struct span in)
{
    struct uidlist l;
    if (uidlist_parse(in, &l) != ERR_OK) {
        return;
    }
    CHECK(l.validity && l.next);
    for (size_t i = 0; i < l.n; i++) {
        const struct uidlist_entry *e = &l.entries[i];
        check_inside(in, e->name);
        check_inside(in, e->uidl);
        check_inside(in, e->guid);
        CHECK(e->name.n && span_find(e->name, '/') == e->name.n && e->uid < l.next);
        CHECK(i == 0 || e->uid > l.entries[i - 1].uid);
    }
    free(l.entries);
}

static void check_sizelist(struct span in)
{
    struct sizelist l;
    if (sizelist_parse(in, &l) != ERR_OK) {
        return;
    }
    for (size_t i = 0; i < l.n; i++) {
        check_inside(in, l.entries[i].name);
        CHECK(l.entries[i].name.n);
    }
    free(l.entries);
}

static void check_cyrus(struct span in)
{
    struct cyrus_index x;
    if (cyrus_parse(in, &x) == ERR_OK) {
        CHECK(x.n <= in.n);
        free(x.entries);
    }
}

static void check_format(struct span in)
{
    const struct uidl_parts p = { 1234567890, 255, SPAN("16.host"), SPAN("Guid") };
    struct source_message m[2] = { 0 };
    struct buf out;
    char why[200] = "", *format = span_dup(in);
    buf_init(&out, 4096);
    if (uidl_format(format, &p, &out, why, sizeof why) == ERR_OK) {
        source_uidl(&m[0], buf_span(&out));
        source_uidl(&m[1], buf_span(&out));
        source_uidls_unique(m, 2);
        CHECK(m[0].uidl[0] && strcmp(m[0].uidl, m[1].uidl) != 0);
    } else {
        CHECK(why[0]);
    }
    buf_fini(&out);
    free(format);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const checks[])(struct span) = { check_uidlist, check_sizelist, check_cyrus,
                                                   check_format };
    if (size > 0) {
        checks[data[0] % ARRAY_LEN(checks)](span_of(data + 1, size - 1));
    }
    return 0;
}
