/*
 * schema_version: the newest migration of deploy/schema that this program knows.
 */
#ifndef MAILFLEET_STORE_SCHEMA_VERSION_H
#define MAILFLEET_STORE_SCHEMA_VERSION_H

#define SCHEMA_VERSION 1

#endif
