-- one by one
-- An index on a table that is in use, so not in a transaction. One that failed is there, and invalid.
DROP INDEX CONCURRENTLY IF EXISTS account_created;
CREATE INDEX CONCURRENTLY account_created ON account (created_at);
