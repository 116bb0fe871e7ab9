/*
 * date: strftime would ask the locale for its names of days and months; these are the standard's.
 */
#include "base/date.h"

#include <time.h>

#include "base/check.h"

enum err date_write(uint64_t unix_seconds, struct buf *out)
{
    static const char days[] = "SunMonTueWedThuFriSat";
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    struct tm tm;
    time_t t = (time_t)unix_seconds;
    CHECK(gmtime_r(&t, &tm));
    return buf_addf(out, "%.3s, %d %.3s %d %02d:%02d:%02d +0000", days + 3 * tm.tm_wday, tm.tm_mday,
                    months + 3 * tm.tm_mon, tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}
