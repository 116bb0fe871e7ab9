/*
 * sandbox: which files a worker goes on to need, and the order in which the rest is given up.
 *
 * Files are named by their folders, since those are replaced by renaming: a certificate, and also
 * /etc/resolv.conf, which a DHCP client may do every hour. All of /etc can be read for that reason,
 * as far as the user that the daemon runs as may: what is secret there belongs to others.
 *
 * Nothing is kept. Rules hold what was there when the worker started: a volume that is mounted
 * later is seen if its mount point lies below a root, and not if it is one.
 */
#include "daemon/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/path.h"
#include "daemon/landlock.h"
#include "daemon/sandbox_calls.h"
#include "net/tls.h"
#include "store/pg_files.h"

#define READ (LANDLOCK_READ_FILES | LANDLOCK_LIST)
#define KEEP (READ | LANDLOCK_WRITE_FILES | LANDLOCK_MAKE)

/* --- what libraries need ---------------------------------------------------------------------- */

struct system_path {
    const char *path;
    unsigned what;
};

/* Those that are not there are nobody's need. */
static const struct system_path system_paths[] = {
    { "/etc", READ }, /* resolver, hosts, users, certificates, Kerberos and its folders of parts */
    { "/run/systemd/resolve", LANDLOCK_READ_FILES },
    { "/run/resolvconf", LANDLOCK_READ_FILES },
    { "/run/NetworkManager", LANDLOCK_READ_FILES },
    { "/lib", LANDLOCK_READ_FILES }, /* getaddrinfo loads its back-ends when it needs them */
    { "/lib64", LANDLOCK_READ_FILES },
    { "/usr/lib", LANDLOCK_READ_FILES },
    { "/usr/lib64", LANDLOCK_READ_FILES },
    { "/usr/local/lib", LANDLOCK_READ_FILES },
    { "/usr/share/ca-certificates", LANDLOCK_READ_FILES },
    { "/usr/local/share/ca-certificates", LANDLOCK_READ_FILES },
    { "/usr/share/zoneinfo", LANDLOCK_READ_FILES },
    { "/dev/urandom", LANDLOCK_READ_FILES },
    { "/dev/random", LANDLOCK_READ_FILES },
    { "/dev/null", LANDLOCK_READ_FILES | LANDLOCK_WRITE_FILES },
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    { "/proc", READ }, /* the sanitizer looks at the process's threads and memory */
#endif
};

/* --- what the configuration names ------------------------------------------------------------- */

struct place {
    char *path;
    const char *setting; /* NULL: no reload reads it */
};

struct places {
    struct place *v;
    size_t n;
    const char *adding; /* the setting whose places are being added; NULL: no reload reads them */
};

/* Takes path. */
static void add_place(struct places *p, char *path)
{
    p->v = mem_grow(p->v, p->n + 1, sizeof *p->v);
    p->v[p->n++] = (struct place){ path, p->adding };
}

/* Of a file in the root directory the file itself: its folder would be everything. */
static char *folder_of(const char *file)
{
    const char *slash = strrchr(file, '/');
    if (!slash) {
        return mem_strdup(".");
    }
    if (slash == file) {
        return mem_strdup(file);
    }
    char *folder = mem_strdup(file);
    folder[slash - file] = '\0';
    return folder;
}

/* The folder of a file, and of what it is a link to. */
static void add_file(struct places *p, const char *file)
{
    if (!*file) {
        return;
    }
    char *real = realpath(file, NULL);
    add_place(p, folder_of(file));
    if (real) {
        add_place(p, folder_of(real));
    }
    free(real);
}

static void add_folder(struct places *p, const char *folder)
{
    if (*folder) {
        add_place(p, mem_strdup(folder));
    }
}

/* Takes the path of a file. One folder after the other is the same when all links lead there. */
static void add_target(struct places *p, char *file)
{
    char *folder = folder_of(file);
    if (path_lies_in(folder, p->v[p->n - 1].path)) {
        free(folder);
    } else {
        add_place(p, folder);
    }
    free(file);
}

/* A folder of NAME.pem, and those that links in it lead to: clients of ACME have one for each name.
 * Below /etc all can be read anyway. */
static void add_certificates(struct places *p, const char *folder)
{
    const struct dirent *e;
    DIR *d = *folder ? opendir(folder) : NULL;
    add_folder(p, folder);
    while (d && (e = readdir(d))) {
        char file[PATH_MAX], *real = NULL;
        if (tls_is_pem(e->d_name) &&
            (size_t)snprintf(file, sizeof file, "%s/%s", folder, e->d_name) < sizeof file) {
            real = realpath(file, NULL);
        }
        if (real && !path_lies_in(real, "/etc")) {
            add_target(p, real);
        } else {
            free(real);
        }
    }
    if (d) {
        closedir(d);
    }
}

/* In a home directory there is more than what libpq reads: exactly that, then. */
static void on_pg_file(void *arg, const char *path)
{
    add_folder(arg, path);
}

static void list_places(struct places *p, const struct config *c, const char *config_path)
{
    const struct {
        const char *setting, *file;
    } files[] = {
        { NULL, config_path },
        { "tls.certificate", c->tls_certificate },
        { "tls.key", c->tls_key },
        { "tls.client_ca", c->tls_client_ca },
        { NULL, c->node_fleet_key_file },
        { "oauth.client_secret_file", c->oauth_client_secret_file },
        { "oauth.jwks_file", c->oauth_jwks_file },
        { "quota.warn_file", c->quota_warn_file },
    };
    *p = (struct places){ 0 };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        p->adding = files[i].setting;
        add_file(p, files[i].file);
    }
    p->adding = "tls.directory";
    add_certificates(p, c->tls_directory);
    p->adding = NULL;
    pg_files(c->database_url, on_pg_file, p);
}

static void free_places(struct places *p)
{
    for (size_t i = 0; i < p->n; i++) {
        free(p->v[i].path);
    }
    free(p->v);
}

/* --- Landlock --------------------------------------------------------------------------------- */

/* What can't be had is not missed: who wants to open it will say so. */
static void allow(struct landlock *l, const char *path, unsigned what)
{
    enum err e = landlock_allow(l, path, what);
    if (e == ERR_TEMP) {
        LOG(LOG_WARN, "sandbox.path", F_STR("path", path), F_STR("why", strerror(errno)));
    }
}

static void allow_all(struct landlock *l, const struct config *c, const char *config_path)
{
    struct places p;
    for (size_t i = 0; i < ARRAY_LEN(system_paths); i++) {
        allow(l, system_paths[i].path, system_paths[i].what);
    }
    list_places(&p, c, config_path);
    for (size_t i = 0; i < p.n; i++) {
        allow(l, p.v[i].path, READ);
    }
    free_places(&p);
    for (size_t i = 0; i < c->spool_roots.n; i++) {
        allow(l, c->spool_roots.v[i], KEEP);
    }
}

static enum err enter_landlock(const struct config *c, const char *config_path, unsigned abi,
                               char *why, size_t why_size)
{
#ifdef MAILFLEET_FAULTS
    const bool signals = false; /* a fault ends the node, not one process of it */
#else
    const bool signals = true;
#endif
    struct landlock *l = landlock_open(abi, signals);
    if (!l) {
        snprintf(why, why_size, "sandbox: Landlock: %s", strerror(errno));
        return ERR_TEMP;
    }
    allow_all(l, c, config_path);
    if (landlock_enter(&l) != ERR_OK) {
        snprintf(why, why_size, "sandbox: Landlock: %s", strerror(errno));
        return ERR_TEMP;
    }
    return ERR_OK;
}

/* --- both ------------------------------------------------------------------------------------- */

enum err sandbox_enter(const struct config *c, const char *config_path, char *why, size_t why_size)
{
    if (c->node_sandbox == SANDBOX_OFF) {
        LOG(LOG_WARN, "sandbox.off", F_STR("setting", "node.sandbox"));
        return ERR_OK;
    }
    unsigned abi = landlock_abi();
    if (abi == 0) {
        LOG(LOG_WARN, "sandbox.no_landlock", F_STR("why", "the kernel has none, or not turned on"));
    } else {
        enum err e = enter_landlock(c, config_path, abi, why, why_size);
        if (e != ERR_OK) {
            return e;
        }
    }
    int error = sandbox_calls_enter();
    if (error == ENOSYS) {
        LOG(LOG_WARN, "sandbox.no_seccomp", F_STR("why", "the kernel has none"));
    } else if (error) {
        snprintf(why, why_size, "sandbox: seccomp: %s", strerror(error));
        return ERR_TEMP;
    }
    LOG(LOG_INFO, "sandbox.on", F_U64("landlock", abi));
    return ERR_OK;
}

/* Begins with the place of the same number, as most often nothing has changed. */
static bool covers(const struct places *have, const struct place *want, size_t number)
{
    bool covered = !want->setting || path_lies_in(want->path, "/etc");
    for (size_t i = 0; i < have->n && !covered; i++) {
        covered = path_lies_in(want->path, have->v[(number + i) % have->n].path);
    }
    return covered;
}

bool sandbox_covers(const struct config *entered, const char *config_path, const struct config *c,
                    const char **lacks)
{
    struct places old, new;
    bool all = true;
    list_places(&old, entered, config_path);
    list_places(&new, c, config_path);
    for (size_t i = 0; i < new.n &&all; i++) {
        if (!covers(&old, &new.v[i], i)) {
            *lacks = new.v[i].setting;
            all = false;
        }
    }
    free_places(&old);
    free_places(&new);
    return all;
}
