/*
 * sandbox_calls: the system calls that a worker may make, as a seccomp filter.
 */
#ifndef MAILFLEET_DAEMON_SANDBOX_CALLS_H
#define MAILFLEET_DAEMON_SANDBOX_CALLS_H

/* Puts the filter in force for this thread and those that it starts. 0, or an errno; ENOSYS: the
 * kernel has no seccomp. */
int sandbox_calls_enter(void);

#endif
