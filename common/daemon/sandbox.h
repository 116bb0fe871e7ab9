/*
 * sandbox: what a worker gives up for good before it serves anybody: seccomp (libseccomp) and
 * Landlock. Not what a unit file gives up: this holds wherever the daemon runs.
 */
#ifndef MAILFLEET_DAEMON_SANDBOX_H
#define MAILFLEET_DAEMON_SANDBOX_H

#include "base/config.h"

/*
 * To be called with one thread only: threads that come later inherit it. What the configuration
 * names is still readable (its own folder, keys, certificates and what links in tls.directory lead
 * to now), spool.roots are writable. A kernel without Landlock is logged as a warning and no error.
 * On failure why holds one line.
 */
enum err sandbox_enter(const struct config *c, const char *config_path, char *why, size_t why_size);

/*
 * Whether processes that entered with one configuration can read the files of another that a reload
 * reads; if not, *lacks is the setting. Looks at paths alone, and takes links as they are now.
 */
bool sandbox_covers(const struct config *entered, const char *config_path, const struct config *c,
                    const char **lacks);

#endif
