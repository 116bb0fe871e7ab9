-- one by one
DROP INDEX CONCURRENTLY IF EXISTS account_created;
