/*
 * replay: gives each file of a corpus to a fuzz target once; TAP on standard output.
 *
 *   replay_TARGET FOLDER|FILE...
 *
 * So what a hunt has found stays found, in every test run and with any compiler. It looks for
 * nothing new: tests/fuzz/run does.
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define INPUT_MOST (4u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned number;

static void report(bool ok, const char *path)
{
    printf("%s %u - %s\n", ok ? "ok" : "not ok", ++number, path);
    fflush(stdout); /* a target that is broken aborts */
}

/* The target sees memory of the input's own size. */
static bool replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        report(false, path);
        return false;
    }
    uint8_t *data = mem_new(INPUT_MOST, 1);
    size_t n = fread(data, 1, INPUT_MOST, f);
    fclose(f);
    uint8_t *exact = mem_grow(data, n > 0 ? n : 1, 1);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    report(true, path);
    return true;
}

static int visible(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

static bool replay_folder(const char *path, struct dirent **names, int n)
{
    bool ok = n > 0;
    for (int i = 0; i < n; i++) {
        char *file = NULL;
        CHECK(asprintf(&file, "%s/%s", path, names[i]->d_name) > 0);
        ok = replay_file(file) && ok;
        free(file);
        free(names[i]);
    }
    free(names);
    return ok;
}

int main(int argc, char **argv)
{
    bool ok = argc > 1;
    for (int i = 1; i < argc; i++) {
        struct dirent **names;
        int n = scandir(argv[i], &names, visible, alphasort);
        ok = (n < 0 ? replay_file(argv[i]) : replay_folder(argv[i], names, n)) && ok;
    }
    printf("1..%u\n", number);
    return ok && number > 0 ? 0 : 1;
}
