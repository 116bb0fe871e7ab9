/*
 * date: a moment as header fields of mail tell it. Owns nothing, has no clock.
 */
#ifndef MAILFLEET_BASE_DATE_H
#define MAILFLEET_BASE_DATE_H

#include "base/buffer.h"

#define DATE_MAX 40

/* RFC 5322, section 3.3, in UTC and English whatever the locale; as buf_add. */
enum err date_write(uint64_t unix_seconds, struct buf *out);

#endif
