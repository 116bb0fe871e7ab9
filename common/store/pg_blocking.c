/*
 * pg_blocking: see the header. Without these settings libpq waits for a host that is frozen or
 * without power for as long as TCP does: at least minutes, for an answer hours.
 */
#include "store/pg_blocking.h"

#include "base/check.h"

PGconn *pg_blocking_connect(const char *url)
{
    /* The string comes last, as the last word wins. Times are in s, tcp_user_timeout in ms. */
    static const char *const keywords[] = {
        "connect_timeout",
        "tcp_user_timeout",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "dbname",
        NULL,
    };
    const char *const values[] = { "3", "15000", "10", "5", "3", url, NULL };
    PGconn *c = PQconnectdbParams(keywords, values, 1);
    CHECK(c);
    return c;
}
