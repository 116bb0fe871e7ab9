/*
 * fuzz_config: any octets as a configuration file.
 *
 * What is refused leaves nothing behind and tells why in one line; what is accepted can be shown,
 * setting by setting, and is the same when it is read again.
 */
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SHOWN_MAX 65536

static void check_refusal(const char *why, const struct config *c)
{
    CHECK(!c);
    size_t n = strlen(why);
    CHECK(n > 0 && n < 256 && !strchr(why, '\n'));
}

static void compare(const struct config *a, const struct config *b)
{
    static char shown[SHOWN_MAX], again[SHOWN_MAX];
    for (size_t i = 0; config_doc(i); i++) {
        config_show(a, i, shown, sizeof shown);
        config_show(b, i, again, sizeof again);
        CHECK(strcmp(shown, again) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("config", MFD_CLOEXEC);
        CHECK(fd >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    struct config *c = NULL, *d = NULL;
    char why[256] = "";
    if (config_load(path, &c, why, sizeof why) != ERR_OK) {
        check_refusal(why, c);
        return 0;
    }
    CHECK(config_load(path, &d, why, sizeof why) == ERR_OK);
    compare(c, d);
    config_free(&c);
    config_free(&d);
    return 0;
}
