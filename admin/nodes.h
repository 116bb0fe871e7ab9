/*
 * nodes: the daemons of the fleet as they have announced themselves: the table node.
 */
#ifndef MAILFLEET_ADMIN_NODES_H
#define MAILFLEET_ADMIN_NODES_H

#include "admin.h"
#include "args.h"

enum { ROLE_DELIVER, ROLE_FRONTEND, ROLE_COUNT };
extern const char *const node_roles[ROLE_COUNT];

/* The role that --role names, "" without; NULL after a message. */
const char *node_role(const struct args *args);
/* Says that there is no such node, and which there are; returns the code. */
int node_unknown(struct admin *a, const char *name, const char *role);

/* For `mailfleet check`: whether all are heard of, and of one version. */
typedef void node_report_fn(void *arg, bool ok, const char *what, const char *says);
void nodes_check(struct admin *a, node_report_fn *fn, void *arg);

#endif
