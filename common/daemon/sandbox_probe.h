/*
 * sandbox_probe: tries what a worker must not be able to do, and logs what came of it; for the test
 * of the sandbox, in builds with faults alone.
 */
#ifndef MAILFLEET_DAEMON_SANDBOX_PROBE_H
#define MAILFLEET_DAEMON_SANDBOX_PROBE_H

#ifdef MAILFLEET_FAULTS
/* When the fault sandbox_probe is armed: a line `sandbox.probe what=... result=...` a try. */
void sandbox_probe(void);
#else
static inline void sandbox_probe(void)
{
}
#endif

#endif
