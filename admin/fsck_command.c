/*
 * fsck_command: `mailfleet fsck`: what fsck_run finds, a line each as it is found, and the totals.
 * The exit code has the bits of the classes that were found; a run that did not come to its end has
 * a code of sysexits.h, which all are greater.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "commands.h"
#include "fsck.h"
#include "table.h"

static const struct {
    const char *key;
    int exit;
} classes[] = {
#define X(name, key, exit) { key, exit },
    FINDING_LIST(X)
#undef X
};

static const struct column columns[] = {
    { "class", "CLASS", COLUMN_TEXT },
    { "volume", "VOLUME", COLUMN_NUMBER },
    { "path", "PATH", COLUMN_TEXT },
    { "id", "ID", COLUMN_TEXT },
    { "octets", "OCTETS", COLUMN_NUMBER },
    { "changed", "CHANGED", COLUMN_NUMBER },
    { "mailbox", "MAILBOX", COLUMN_NUMBER },
    { "pointer_volume", "POINTER'S VOLUME", COLUMN_NUMBER },
    { "from", "FROM", COLUMN_TEXT },
    { "to", "TO", COLUMN_TEXT },
};

static void add_recipients(struct table *t, const struct envelope *e)
{
    struct buf text;
    buf_init(&text, SIZE_MAX);
    for (size_t i = 0; i < e->n; i++) {
        buf_addf(&text, "%s%.*s", i ? " " : "", SPAN_ARG(e->to[i].address));
    }
    table_text(t, buf_span(&text));
    buf_fini(&text);
}

static void add_finding(struct table *t, const struct finding *f)
{
    char id[BLOB_ID_CHARS + 1];
    table_text(t, span_str(classes[f->cls].key));
    table_number(t, f->volume);
    table_text(t, span_str(f->path));
    if (f->id) {
        blob_id_text(f->id, id);
        table_text(t, span_str(id));
    } else {
        table_none(t);
    }
    table_number(t, f->size);
    table_limit(t, (uint64_t)f->changed_ms);
    table_limit(t, f->mailbox_id);
    table_limit(t, f->other_volume);
    if (f->envelope) {
        table_text(t, f->envelope->reverse_path);
        add_recipients(t, f->envelope);
    } else {
        table_none(t);
        table_none(t);
    }
}

/* Names of foreign files may be anything: a control character could drive the terminal. */
static void print_clean(const char *text)
{
    for (; *text; text++) {
        putchar((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text);
    }
}

static void print_line(const struct finding *f)
{
    printf("%-12s volume %u ", classes[f->cls].key, f->volume);
    print_clean(f->path);
    if (f->cls != FINDING_MISSING) {
        printf("  %llu octets", (unsigned long long)f->size);
    }
    if (f->mailbox_id) {
        printf("  mailbox %llu", (unsigned long long)f->mailbox_id);
    }
    if (f->other_volume) {
        printf("  its pointer names volume %u", f->other_volume);
    }
    for (size_t i = 0; f->envelope && i < f->envelope->n; i++) {
        char address[512];
        snprintf(address, sizeof address, "%s%.*s", i ? " " : "  to ",
                 SPAN_ARG(f->envelope->to[i].address));
        print_clean(address);
    }
    putchar('\n');
}

static bool on_finding(void *arg, const struct finding *f)
{
    const struct admin *a = arg;
    if (a->json) {
        struct table *t = table_new(columns, ARRAY_LEN(columns));
        add_finding(t, f);
        table_print_record(t, true, stdout);
        table_free(&t);
    } else {
        print_line(f);
    }
    fflush(stdout); /* it may take hours, and be killed */
    return !ferror(stdout);
}

static void print_totals(const struct admin *a, const struct fsck_totals *totals)
{
    struct column total_columns[4 + FINDING_CLASSES] = {
        { "files", "Files", COLUMN_NUMBER },
        { "octets", "Octets", COLUMN_NUMBER },
        { "pointers", "Pointers", COLUMN_NUMBER },
        { "directories", "Directories", COLUMN_NUMBER },
    };
    for (size_t i = 0; i < FINDING_CLASSES; i++) {
        total_columns[4 + i] = (struct column){ classes[i].key, classes[i].key, COLUMN_NUMBER };
    }
    struct table *t = table_new(total_columns, ARRAY_LEN(total_columns));
    table_number(t, totals->files);
    table_number(t, totals->octets);
    table_number(t, totals->pointers);
    table_number(t, totals->directories);
    for (size_t i = 0; i < FINDING_CLASSES; i++) {
        table_number(t, totals->found[i]);
    }
    table_print_record(t, a->json, stdout);
    table_free(&t);
}

static bool parse_number(const char *text, uint64_t most, uint64_t *out)
{
    if (!text || span_u64(span_str(text), most, out) == ERR_OK) {
        return true;
    }
    admin_fail(EX_DATAERR, "%s: a number up to %llu", text, (unsigned long long)most);
    return false;
}

static bool parse(const struct args *args, struct fsck_options *o)
{
    uint64_t volume = 0, jobs = 0;
    *o = (struct fsck_options){ .deep = args->opt[ARG_deep],
                                .garbage = args->opt[ARG_all],
                                .resume = args->opt[ARG_resume] };
    if (!parse_number(args->opt[ARG_volume], INT16_MAX, &volume) ||
        !parse_number(args->opt[ARG_jobs], 64, &jobs) ||
        !parse_number(args->opt[ARG_rate], 1000000000, &o->rate) ||
        (args->opt[ARG_since] && !admin_parse_time(args->opt[ARG_since], &o->since_ms)) ||
        (args->opt[ARG_older] && !admin_parse_time(args->opt[ARG_older], &o->older_ms))) {
        return false;
    }
    o->volume = (uint16_t)volume;
    o->jobs = (unsigned)jobs;
    o->since_ms = o->since_ms > 0 ? o->since_ms : 0;
    return true;
}

int command_fsck(struct admin *a, const struct args *args)
{
    struct fsck_options o;
    struct fsck_totals totals;
    if (!parse(args, &o)) {
        return EX_DATAERR;
    }
    int code = fsck_run(a, &o, on_finding, a, &totals);
    if (code != EX_OK) {
        return code;
    }
    print_totals(a, &totals);
    for (size_t i = 0; i < FINDING_CLASSES; i++) {
        code |= totals.found[i] ? classes[i].exit : 0;
    }
    return code;
}
