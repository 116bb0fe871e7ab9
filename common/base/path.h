/*
 * path: paths of files, as text. Nothing is looked up, so links are not seen.
 */
#ifndef MAILFLEET_BASE_PATH_H
#define MAILFLEET_BASE_PATH_H

#include <stdbool.h>

/* path is folder or inside of it. Never when path has a `..`: it may lead anywhere. */
bool path_lies_in(const char *path, const char *folder);

#endif
