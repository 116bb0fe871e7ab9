/*
 * postgres: initdb and pg_ctl behind a few calls.
 *
 * A child, the keeper, waits on a pipe whose other end only the test program has: when that ends,
 * by exit or by crash, the keeper stops the server and removes the directory.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "migrations.h"

#define BIN "/usr/lib/postgresql/15/bin"

struct postgres {
    char dir[80];
    char url[160];
    unsigned port;
    pid_t keeper;
    int alive; /* the pipe's end */
    PGconn *conn;
};

/* As the user postgres when root, with its output out of the way. */
__attribute__((format(printf, 1, 2))) static int run_server_command(const char *fmt, ...)
{
    char what[512], line[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    snprintf(line, sizeof line, "cd / && %s " BIN "/%s >/dev/null 2>&1 </dev/null",
             geteuid() == 0 ? "runuser -u postgres --" : "", what);
    return system(line);
}

/* Listens on this port of the loopback address, or on one of the system's choice (0). -1: it is
 * taken. */
static int listen_on(unsigned *port)
{
    struct sockaddr_in a = { .sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)*port) };
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    if (bind(fd, (struct sockaddr *)&a, n) != 0 || listen(fd, 16) != 0) {
        close(fd);
        return -1;
    }
    CHECK(getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    *port = ntohs(a.sin_port);
    return fd;
}

int silent_host(unsigned *port)
{
    *port = 0;
    int fd = listen_on(port);
    CHECK(fd >= 0);
    return fd;
}

/* None that the system hands out: a connection of any program would have it before the server
 * begins. */
static unsigned free_port(void)
{
    for (;;) {
        uint16_t random;
        CHECK(getrandom(&random, sizeof random, 0) == sizeof random);
        unsigned port = 10000 + random % 10000;
        int fd = listen_on(&port);
        if (fd >= 0) {
            close(fd);
            return port;
        }
    }
}

static pid_t postmaster(const struct postgres *p)
{
    char path[128];
    int pid = 0;
    snprintf(path, sizeof path, "%s/data/postmaster.pid", p->dir);
    FILE *f = fopen(path, "re");
    if (f) {
        CHECK(fscanf(f, "%d", &pid) == 1);
        fclose(f);
    }
    return pid;
}

static pid_t parent_of(pid_t pid)
{
    char path[64];
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (f) {
        if (fscanf(f, "%*d (%*[^)]) %*c %d", &parent) != 1) {
            parent = 0;
        }
        fclose(f);
    }
    return parent;
}

/* To the postmaster first, so that it makes no child that is missed. */
static void signal_all(const struct postgres *p, int signo)
{
    pid_t head = postmaster(p);
    if (head <= 0) {
        return;
    }
    kill(head, signo);
    DIR *proc = opendir("/proc");
    CHECK(proc != NULL);
    for (struct dirent *d; (d = readdir(proc));) {
        pid_t pid = (pid_t)atoi(d->d_name);
        if (pid > 0 && parent_of(pid) == head) {
            kill(pid, signo);
        }
    }
    closedir(proc);
}

static void keep(const struct postgres *p, int gone)
{
    char c, line[128];
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++) {
        dup2(null, fd);
    }
    setsid(); /* what ends the test's process group must not end its keeper */
    while (read(gone, &c, 1) > 0) {
    }
    signal_all(p, SIGCONT);
    run_server_command("pg_ctl -D %s/data -m immediate stop", p->dir);
    snprintf(line, sizeof line, "rm -rf %s", p->dir);
    _exit(system(line));
}

static void start_keeper(struct postgres *p)
{
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    p->keeper = fork();
    CHECK(p->keeper >= 0);
    if (p->keeper == 0) {
        close(ends[1]);
        keep(p, ends[0]);
    }
    close(ends[0]);
    p->alive = ends[1];
}

void postgres_up(struct postgres *p)
{
    /* fsync is off: these tests end processes, not machines. */
    CHECK(run_server_command("pg_ctl -D %s/data -w -t 60 -l %s/log -o '-p %u -k %s"
                             " -c listen_addresses=127.0.0.1 -c fsync=off' start",
                             p->dir, p->dir, p->port, p->dir) == 0);
}

void postgres_down(struct postgres *p)
{
    PQfinish(p->conn);
    p->conn = NULL;
    CHECK(run_server_command("pg_ctl -D %s/data -w -m fast stop", p->dir) == 0);
}

void postgres_freeze(struct postgres *p)
{
    signal_all(p, SIGSTOP);
}

void postgres_thaw(struct postgres *p)
{
    signal_all(p, SIGCONT);
}

static void run_script(struct postgres *p, const struct script *script)
{
    for (const char *s = script->statements; s && *s; s += strlen(s) + 1) {
        postgres_sql(p, script->alone ? "%s" : "BEGIN; %s; COMMIT", s);
    }
}

struct postgres *postgres_start(void)
{
    struct postgres *p = NEW(struct postgres);
    const char *tmp = getenv("TMPDIR");
    snprintf(p->dir, sizeof p->dir, "%s/mailfleet-pg-XXXXXX", tmp ? tmp : "/tmp");
    CHECK(mkdtemp(p->dir) != NULL);
    start_keeper(p);
    if (geteuid() == 0) {
        const struct passwd *user = getpwnam("postgres");
        CHECK(user && chown(p->dir, user->pw_uid, user->pw_gid) == 0);
    }
    p->port = free_port();
    snprintf(p->url, sizeof p->url, "host=%s port=%u user=postgres dbname=postgres", p->dir,
             p->port);
    CHECK(run_server_command("initdb -D %s/data -U postgres -A trust -E UTF8 --locale=C --no-sync",
                             p->dir) == 0);
    postgres_up(p);
    for (size_t i = 0; i < migrations_count; i++) {
        const struct migration *m = &migrations[i];
        run_script(p, &m->expand);
        run_script(p, &m->contract);
        postgres_sql(p, "INSERT INTO schema_version (version, name) VALUES (%u, '%s')", m->number,
                     m->name);
    }
    return p;
}

void postgres_stop(struct postgres **pp)
{
    struct postgres *p = *pp;
    if (!p) {
        return;
    }
    *pp = NULL;
    PQfinish(p->conn);
    close(p->alive);
    waitpid(p->keeper, NULL, 0);
    free(p);
}

const char *postgres_url(const struct postgres *p)
{
    return p->url;
}

unsigned postgres_port(const struct postgres *p)
{
    return p->port;
}

PGconn *postgres_conn(struct postgres *p)
{
    if (!p->conn) {
        p->conn = PQconnectdb(p->url);
        CHECK(PQstatus(p->conn) == CONNECTION_OK);
        PQclear(PQexec(p->conn, "SET client_min_messages = warning"));
    }
    return p->conn;
}

long long postgres_sql(struct postgres *p, const char *fmt, ...)
{
    char *sql;
    va_list ap;
    va_start(ap, fmt);
    CHECK(vasprintf(&sql, fmt, ap) >= 0);
    va_end(ap);
    PGresult *r = PQexec(postgres_conn(p), sql);
    free(sql);
    if (PQresultStatus(r) != PGRES_TUPLES_OK && PQresultStatus(r) != PGRES_COMMAND_OK) {
        fprintf(stderr, "%s", PQresultErrorMessage(r));
        CHECK(!"the test's own SQL failed");
    }
    long long v = PQntuples(r) > 0 ? atoll(PQgetvalue(r, 0, 0)) : 0;
    PQclear(r);
    return v;
}

void postgres_settle(struct postgres *p)
{
    if (PQtransactionStatus(postgres_conn(p)) != PQTRANS_IDLE) {
        postgres_sql(p, "ROLLBACK");
    }
    while (postgres_sql(p, "SELECT count(*) FROM pg_stat_activity"
                           " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")) {
        usleep(1000);
    }
}
