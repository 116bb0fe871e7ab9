-- The schema of mailfleet: accounts, and a pointer for every message of every mailbox. Message
-- content is never here.
--
-- Applied by `mailfleet migrate` in one transaction, which also records it in schema_version; how the
-- schema is changed later is told by CONTRIBUTING.md.
-- Names are unqualified: the schema in front of the role's search_path is used.
--
-- The same tables and functions are meant for plain PostgreSQL and, when one machine is outgrown,
-- for Citus: mailbox, account, message and ledger distributed by mailbox_id and colocated, address
-- by addr, blob_shared by blob_id (deploy/citus/tables has all of them; docs/scaling.md). So
--   - every hot table carries mailbox_id, in every unique key too, and each hot statement names it;
--   - each hot operation is one plpgsql function with the distribution column as its first
--     argument, and ids and times are given by the client: times in milliseconds since 1970;
--   - a statement locks rows of one mailbox, or of one file, and calls no function that asks a
--     table itself beside a table;
--   - there are no foreign keys, triggers, advisory locks, NOTIFY, temporary tables or session
--     settings (PgBouncer in transaction mode must work as well).
--
-- Locks: a function that changes a mailbox locks its mailbox row first, and a transaction that
-- changes several takes them in ascending order. Everything else deadlocks.
--
-- Errors that functions raise: MF001 no room (DETAIL: `<mailbox_id> <room code>`), MF002 not found,
-- MF003 a volume takes no files, MF004 too late.
-- Codes and states are the numbers of the C enums that the comments name.
--
-- An account is three rows, made in one transaction with an id from nextval('mailbox_ids'):
--   mailbox (mailbox_id and limits), account (mailbox_id, addr, hash), address (addr, domain,
--   mailbox_id). It ends in two steps: remove_account(), which restore_account() takes back, and
--   after reap.removal_grace purge_page() until nothing is left and purge_end(), with the deletion
--   of its address row.
-- A domain is a row of domain and a row '@name' of address, which holds its catch-all.

-- The migrations that are applied; the contracted ones have taken away what older programs use, and
-- can't be taken back.
CREATE TABLE schema_version (
    version       integer     PRIMARY KEY,
    name          text        NOT NULL,
    applied_at    timestamptz NOT NULL DEFAULT now(),
    contracted_at timestamptz
);

-- One row. Raising epoch puts everything that is cached out of reach.
-- Reapers may unlink while reap_timeline is the timeline of the write-ahead log: a restore or a promotion
-- changes that, so nothing of what an older database names is unlinked before an operator has looked
-- (`mailfleet reaping`). A flag would not do, as a restore brings back the flag of then.
CREATE TABLE fleet (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bigint  NOT NULL DEFAULT 1,
    reap_timeline bigint NOT NULL -- 0: held by an operator
);

CREATE TABLE volume (
    volume_id  smallint PRIMARY KEY CHECK (volume_id > 0),
    uuid       uuid     NOT NULL UNIQUE,    -- what the sentinel file holds
    url        text     NOT NULL UNIQUE CHECK (octet_length(url) BETWEEN 1 AND 1023),
    fanout     smallint NOT NULL DEFAULT 2 CHECK (fanout BETWEEN 0 AND 4), -- never changed
    state      smallint NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 3),  -- enum volume_state
    weight     integer  NOT NULL DEFAULT 100 CHECK (weight >= 0),
    free_floor bigint   NOT NULL DEFAULT 0 CHECK (free_floor >= 0)         -- octets
);

-- Limits here are what new accounts of the domain begin with; 0 is none. Its retention is that of all its
-- accounts but those with one of their own: follow_domain().
CREATE TABLE domain (
    name         text COLLATE "C" PRIMARY KEY CHECK (name = lower(name)),
    max_octets   bigint      NOT NULL DEFAULT 0 CHECK (max_octets >= 0),
    max_messages bigint      NOT NULL DEFAULT 0 CHECK (max_messages >= 0),
    max_size     bigint      NOT NULL DEFAULT 0 CHECK (max_size >= 0),
    retention_days smallint  NOT NULL DEFAULT 0 CHECK (retention_days >= 0),
    read_days    smallint    NOT NULL DEFAULT -1 CHECK (read_days >= -1),
    -- What all its mailboxes may hold together; 0 is none. usage_* is their sum at usage_at, which
    -- `mailfleet reap` brings up to date: a row that every delivery of a domain changed would be one
    -- queue for all of them.
    total_octets   bigint    NOT NULL DEFAULT 0 CHECK (total_octets >= 0),
    total_messages bigint    NOT NULL DEFAULT 0 CHECK (total_messages >= 0),
    usage_octets   bigint    NOT NULL DEFAULT 0,
    usage_messages bigint    NOT NULL DEFAULT 0,
    usage_at     timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now()
);

-- What USER and RCPT look up, in canonical form. A mailbox, or an alias with targets, or
-- '@domain', whose targets are the catch-all (NULL: none).
CREATE TABLE address (
    addr       text COLLATE "C" PRIMARY KEY
               CHECK (addr = lower(addr) AND octet_length(addr) BETWEEN 2 AND 320),
    domain     text COLLATE "C" NOT NULL,
    mailbox_id bigint,
    targets    text[] CHECK (cardinality(targets) BETWEEN 1 AND 1000), -- ENTRY_TARGETS_MAX
    CHECK (CASE WHEN addr LIKE '@%' THEN mailbox_id IS NULL
                ELSE (mailbox_id IS NULL) <> (targets IS NULL) END)
);
CREATE INDEX address_domain ON address (domain, addr); -- a domain's addresses, page by page
CREATE INDEX address_mailbox ON address (mailbox_id) WHERE mailbox_id IS NOT NULL;
-- Which aliases lead to an address: asked when an account is removed.
CREATE INDEX address_targets ON address USING gin (targets) WHERE targets IS NOT NULL;

-- An id is never given twice, as files in the spool name it. A restored database has an older
-- sequence: `mailfleet epoch` raises it beyond all that may have been given since.
CREATE SEQUENCE mailbox_ids;

-- What the columns of mailbox and message may hold, as domains: a CHECK of a table is read from its text and
-- asked anew by each statement that changes a row, of columns that it leaves alone too. Those of these two
-- were a third of what a delivery cost.
CREATE DOMAIN most AS bigint CHECK (VALUE >= 0); -- 0 is none
CREATE DOMAIN account_state AS smallint CHECK (VALUE IN (0, 1, 2)); -- enum account_state
CREATE DOMAIN keep_days AS smallint CHECK (VALUE >= 0); -- 0: kept for ever
CREATE DOMAIN keep_read AS smallint CHECK (VALUE >= -1); -- days after RETR; -1: as what is unread
CREATE DOMAIN own_uidl AS text CHECK (octet_length(VALUE) <= 70); -- '': the id's text
CREATE DOMAIN file_handle AS bytea CHECK (octet_length(VALUE) <= 64);

-- The hot row of a mailbox: counters and limits move under one lock, so quotas are exact. No index on
-- what a delivery changes and a fillfactor, so that its updates stay on their page.
CREATE TABLE mailbox (
    mailbox_id   bigint   PRIMARY KEY,
    version      bigint   NOT NULL DEFAULT 0,  -- rises with each change of its pointers
    next_seq     bigint   NOT NULL DEFAULT 1,
    msgs         bigint   NOT NULL DEFAULT 0,
    octets       bigint   NOT NULL DEFAULT 0,
    max_octets   most     NOT NULL DEFAULT 0,
    max_messages most     NOT NULL DEFAULT 0,
    max_size     most     NOT NULL DEFAULT 0,  -- 0 is the fleet's
    state        account_state NOT NULL DEFAULT 0,
    retention_days keep_days NOT NULL DEFAULT 0,
    read_days    keep_read NOT NULL DEFAULT -1,
    own_retention boolean NOT NULL DEFAULT false, -- retention_days is not the domain's
    own_read     boolean  NOT NULL DEFAULT false, -- nor is read_days
    warned       smallint NOT NULL DEFAULT 0,  -- per cent: thresholds of quota.warn up to it were told
    denied       uuid[]                        -- files of which delivered() has said no, the latest first
) WITH (fillfactor = 70);
-- All mailboxes, not only those that expire: whether some mailbox keeps its mail for ever is then one
-- look at the index's edge. By an index on one half it would be one only while the statistics are
-- fresh, and else a walk through the table.
CREATE INDEX mailbox_retention ON mailbox (retention_days, mailbox_id);
CREATE INDEX mailbox_read ON mailbox (read_days, mailbox_id);

-- The cold row: what only a login needs.
CREATE TABLE account (
    mailbox_id bigint      PRIMARY KEY,
    addr       text        NOT NULL,
    hash       text        NOT NULL DEFAULT '' CHECK (octet_length(hash) <= 383), -- crypt(3)
    -- SCRAM keys in the form of RFC 5803, separated by a blank; '': none
    scram      text        NOT NULL DEFAULT '' CHECK (octet_length(scram) <= 511),
    -- 1: it has a password and no keys to it, so that it can't log in by SCRAM
    keyless    smallint    NOT NULL
               GENERATED ALWAYS AS (CASE WHEN scram = '' AND hash <> '' AND left(hash, 1) NOT IN ('!', '*')
                                    THEN 1 ELSE 0 END) STORED,
    created_at timestamptz NOT NULL DEFAULT now()
);
-- Whether there is one such account is a look at the index's edge.
CREATE INDEX account_keyless ON account (keyless);

-- A row a message; its key covers the listing, which so reads the index alone. uidl and handle are
-- in it although most are empty: an empty one is one octet of what alignment would pad anyway,
-- both in the row and in the index, while a NULL would cost 8 octets in each (a null bitmap), and
-- leaving them out would send every listing to the table.
CREATE TABLE message (
    mailbox_id bigint   NOT NULL,
    seq        bigint   NOT NULL,              -- place in the mailbox; never used twice
    blob_id    uuid     NOT NULL,
    size       integer  NOT NULL,              -- octets as RETR sends it
    skip       integer  NOT NULL,              -- octets of the envelope block in front
    volume_id  smallint NOT NULL,
    shared     boolean  NOT NULL,              -- other mailboxes name the file: blob_shared
    uidl       own_uidl NOT NULL DEFAULT '',
    handle     file_handle NOT NULL DEFAULT '',
    PRIMARY KEY (mailbox_id, seq)
        INCLUDE (blob_id, size, skip, volume_id, shared, uidl, handle)
) WITH (
    -- Rows in pages that were not vacuumed yet cost a listing a look at the table.
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_vacuum_scale_factor = 0.02
);
-- The planner takes it that a mailbox has twenty messages, whatever is so on average: a plan is for all of them,
-- and where most have one it would not tell them from one message.
ALTER TABLE message ALTER COLUMN mailbox_id SET (n_distinct = -0.05);

-- What was retrieved, and when, of mailboxes that keep what was read for read_days: written once a
-- session, and by those mailboxes alone. Rows of messages that have gone are left to expire();
-- whatever gives a message back takes its row away, or it would go again at once.
CREATE TABLE read_mark (
    mailbox_id bigint      NOT NULL,
    seq        bigint      NOT NULL,
    read_at    timestamptz NOT NULL,
    PRIMARY KEY (mailbox_id, seq)
);

-- Deleted pointers whose files still stand. seq is 0 when the message was never in the mailbox (a file
-- that was given up, or a recipient of a shared file without room), or must not come back: supersede().
-- mailbox_id is 0 of copies that moving a file to another volume has left, and of files that nobody
-- lacks: see mark_copy(), set_aside(). A row can go back while claimed_at is NULL; then a reaper has
-- it. reclaimed: and had it from one that seemed dead.
CREATE TABLE ledger (
    mailbox_id   bigint      NOT NULL,
    blob_id      uuid        NOT NULL,
    seq          bigint      NOT NULL,
    size         integer     NOT NULL,
    skip         integer     NOT NULL,
    volume_id    smallint    NOT NULL,
    shared       boolean     NOT NULL,
    uidl         text        NOT NULL DEFAULT '',
    handle       bytea       NOT NULL DEFAULT '',
    deleted_at   timestamptz NOT NULL,
    unlink_after timestamptz NOT NULL,
    claimed_at   timestamptz,
    by_whom      text        NOT NULL,
    reclaimed    boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (mailbox_id, blob_id, seq)
);
CREATE INDEX ledger_due ON ledger (unlink_after);
-- `mailfleet ledger ID` and fsck ask by id; the ledger is small beside message, which has no such index.
CREATE INDEX ledger_blob ON ledger (blob_id);

-- What became of ledger rows: kept for reap.history, so that "lost or deleted?" has an answer after the
-- file has gone, too.
CREATE TABLE ledger_past (
    mailbox_id bigint      NOT NULL,
    blob_id    uuid        NOT NULL,
    seq        bigint      NOT NULL,
    size       integer     NOT NULL,
    volume_id  smallint    NOT NULL,
    uidl       text        NOT NULL DEFAULT '', -- so that an import does not bring it back
    deleted_at timestamptz NOT NULL,
    by_whom    text        NOT NULL,
    unlinked_at timestamptz NOT NULL,
    reclaimed  boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (mailbox_id, blob_id, seq)
);
CREATE INDEX ledger_past_blob ON ledger_past (blob_id);
CREATE INDEX ledger_past_age ON ledger_past (unlinked_at);

-- What undelete() gave back, for `mailfleet trace`: kept for reap.history.
CREATE TABLE undeleted (
    mailbox_id   bigint      NOT NULL,
    blob_id      uuid        NOT NULL,
    seq          bigint      NOT NULL,
    deleted_at   timestamptz NOT NULL,
    by_whom      text        NOT NULL,
    undeleted_at timestamptz NOT NULL,
    undeleted_by text        NOT NULL,
    PRIMARY KEY (mailbox_id, blob_id, seq, undeleted_at)
);
CREATE INDEX undeleted_blob ON undeleted (blob_id);
CREATE INDEX undeleted_age ON undeleted (undeleted_at);

-- What reapers unlinked of a volume, by UTC day: what the fuse adds up.
CREATE TABLE volume_reaped (
    volume_id smallint NOT NULL,
    day       date     NOT NULL,
    files     bigint   NOT NULL,
    octets    bigint   NOT NULL,
    PRIMARY KEY (volume_id, day)
);

-- Accounts that were removed: the tombstone while purge_after is to come, the receipt after it. Their
-- addresses are not given to others unless an operator says so.
CREATE TABLE removed (
    mailbox_id  bigint      PRIMARY KEY,
    addr        text COLLATE "C" NOT NULL,
    was_state   smallint    NOT NULL DEFAULT 0,    -- enum account_state: what it comes back as
    aliases     text[]      NOT NULL DEFAULT '{}', -- that led to it alone
    lists       text[]      NOT NULL DEFAULT '{}', -- that led to others too
    removed_at  timestamptz NOT NULL,
    purge_after timestamptz NOT NULL,
    purging     boolean     NOT NULL DEFAULT false, -- some of its pointers may have gone
    purged_at   timestamptz,
    by_whom     text        NOT NULL,
    msgs        bigint      NOT NULL,
    octets      bigint      NOT NULL
);
CREATE INDEX removed_addr ON removed (addr);
CREATE INDEX removed_aliases ON removed USING gin (aliases);
CREATE INDEX removed_due ON removed (purge_after) WHERE purged_at IS NULL;

-- How many pointers and ledger rows of all mailboxes name a shared file. At 0 a reaper claims it,
-- unlinks it, and forgets the row when the unlink has answered.
CREATE TABLE blob_shared (
    blob_id   uuid     PRIMARY KEY,
    volume_id smallint NOT NULL,
    refs      integer  NOT NULL CHECK (refs >= 0),
    octets    bigint   NOT NULL DEFAULT 0, -- of the file: pointers may all have gone when it goes
    claimed_at timestamptz
);
CREATE INDEX blob_shared_free ON blob_shared (blob_id) WHERE refs = 0;

-- A row while `mailfleet rebuild` is under way: files up to this day (YYYYMMDD) have their pointers.
CREATE TABLE rebuild (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    day text    NOT NULL DEFAULT ''
);

-- A row a daemon of each host, which it renews itself by announce(); times are the database's. A
-- drain is an operator's wish, and outlives the daemon. State and load are hints: no promise rests on
-- them.
CREATE TABLE node (
    name     text COLLATE "C" CHECK (octet_length(name) BETWEEN 1 AND 63),
    role     text COLLATE "C" CHECK (role IN ('deliver', 'frontend')),
    version  text        NOT NULL,
    schema   smallint    NOT NULL, -- the newest migration that its program knows
    since    timestamptz NOT NULL, -- it runs
    seen     timestamptz NOT NULL, -- it announced itself
    every_ms integer     NOT NULL, -- how often it does
    sessions integer     NOT NULL,
    capacity integer     NOT NULL, -- sessions
    load     smallint    NOT NULL, -- per cent
    ready    boolean     NOT NULL, -- but for a drain
    why      text        NOT NULL, -- not; empty when it is
    stopped  boolean     NOT NULL, -- in good order: no more is to be heard of it
    drains   boolean     NOT NULL, -- it has heard that it is to drain
    drain    boolean     NOT NULL DEFAULT false,
    drain_at timestamptz,
    drain_by text,
    PRIMARY KEY (name, role)
) WITH (fillfactor = 50); -- so that renewing a row stays on its page

-- The timeline of the write-ahead log. Fails on a standby.
CREATE FUNCTION wal_timeline() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;
END $$;
INSERT INTO fleet (reap_timeline) VALUES (wal_timeline());

-- The fleet's epoch and the timeline of the write-ahead log in one number: a promotion or a
-- point-in-time restore changes it without anybody's help. Fails on a standby.
CREATE FUNCTION fleet_epoch() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT (epoch << 32) | wal_timeline() FROM fleet);
END $$;

-- A daemon tells of itself, and is told whether it is to drain.
CREATE FUNCTION announce(host text, part text, version_is text, schema_is bigint, up_ms bigint,
                         next_ms bigint, open bigint, most bigint, percent bigint,
                         is_ready boolean, reason text, is_stopped boolean, is_draining boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    wanted boolean;
BEGIN
    INSERT INTO node AS n (name, role, version, schema, since, seen, every_ms, sessions, capacity,
                           load, ready, why, stopped, drains)
    VALUES (host, part, version_is, schema_is, now() - up_ms * interval '1 ms', now(), next_ms, open,
            most, percent, is_ready, reason, is_stopped, is_draining)
    ON CONFLICT (name, role) DO UPDATE
       SET version = excluded.version, schema = excluded.schema, since = excluded.since,
           seen = excluded.seen, every_ms = excluded.every_ms, sessions = excluded.sessions,
           capacity = excluded.capacity, load = excluded.load, ready = excluded.ready,
           why = excluded.why, stopped = excluded.stopped, drains = excluded.drains
    RETURNING drain INTO wanted;
    RETURN wanted;
END $$;

-- Whether a node was heard of within three of its intervals, or has said that it stops.
CREATE FUNCTION heard(n node) RETURNS boolean STABLE LANGUAGE sql
AS $$ SELECT n.stopped OR n.seen > now() - 3 * n.every_ms * interval '1 ms' $$;

-- Whether a node serves: what the drain of another counts on.
CREATE FUNCTION serves(n node) RETURNS boolean STABLE LANGUAGE sql
AS $$ SELECT n.ready AND NOT n.stopped AND NOT n.drain AND heard(n) $$;

-- Drains the daemons of a host; part '' is all of them. `final`: no other is left that serves in this
-- role, and then nothing is changed, unless forced. The rows of all nodes are locked, so that of two
-- operators at once one sees what the other did.
CREATE FUNCTION drain_node(host text, part text, who text, forced boolean)
RETURNS TABLE (role_is text, final boolean) LANGUAGE plpgsql AS $$
DECLARE
    n    node;
    held boolean := false;
BEGIN
    PERFORM 1 FROM node ORDER BY name, role FOR UPDATE;
    FOR n IN SELECT * FROM node WHERE name = host AND part IN ('', role) ORDER BY role LOOP
        role_is := n.role;
        final := serves(n) AND NOT EXISTS (SELECT FROM node AS o WHERE o.role = n.role
                                              AND o.name <> n.name AND serves(o));
        held := held OR final;
        RETURN NEXT;
    END LOOP;
    IF forced OR NOT held THEN
        UPDATE node SET drain = true, drain_at = now(), drain_by = who
         WHERE name = host AND part IN ('', role) AND NOT drain;
    END IF;
END $$;

CREATE FUNCTION ms_time(ms bigint) RETURNS timestamptz IMMUTABLE LANGUAGE sql
RETURN to_timestamp(ms / 1000.0);

-- When a grace that begins now is over. A node's clock may be late by more than the grace, and what it
-- deletes would be due at once: so it begins no earlier than by the database's clock. (deleted_at stays
-- what the node says, as its log has it.) Taken once, into a variable: Citus has no volatile function
-- within a statement on a distributed table.
CREATE FUNCTION grace_end(now_ms bigint, grace_ms bigint) RETURNS timestamptz LANGUAGE sql
RETURN greatest(ms_time(now_ms), clock_timestamp()) + grace_ms * interval '1 millisecond';

-- Whether a limit (0: none) is passed when so much is added to what is used, and the message that
-- passes it may do so by `past` per cent. What is over already takes nothing more.
CREATE FUNCTION passes(used bigint, added bigint, most bigint, past bigint)
RETURNS boolean IMMUTABLE LANGUAGE sql
RETURN most > 0 AND used + added > most
   AND (used > most OR used + added - most > most / 100 * past + most % 100 * past / 100);

-- Whether a mailbox with these counters takes len octets more: enum room. past: quota.grace; NULL:
-- the limits do not count. An expression that the planner inlines; a row as argument would not be
-- found on Citus' shards.
CREATE FUNCTION room(state smallint, msgs bigint, octets bigint, max_messages bigint,
                     max_octets bigint, max_size bigint, len bigint, past bigint DEFAULT 0)
RETURNS integer IMMUTABLE LANGUAGE sql
RETURN CASE
    WHEN state <> 0 THEN 4
    WHEN past IS NULL THEN 0
    WHEN max_size > 0 AND len > max_size OR passes(0, len, max_octets, past) THEN 2
    WHEN passes(msgs, 1, max_messages, past) OR passes(octets, len, max_octets, past) THEN 1
    ELSE 0
END;

-- How full a mailbox is, in per cent of the limit that it is nearer to; 0 without limits. Cut to
-- what a smallint holds.
CREATE FUNCTION filled(msgs bigint, octets bigint, max_messages bigint, max_octets bigint)
RETURNS integer IMMUTABLE LANGUAGE sql
RETURN least(32000, greatest(CASE WHEN max_messages > 0 THEN msgs * 100 / max_messages ELSE 0 END,
                             CASE WHEN max_octets > 0 THEN octets * 100 / max_octets ELSE 0 END));

-- The highest of these thresholds, which ascend, that is reached; 0: none.
CREATE FUNCTION threshold(per_cent integer, warn bigint[])
RETURNS integer IMMUTABLE LANGUAGE sql
RETURN coalesce(warn[width_bucket(per_cent, warn)], 0)::integer;

-- What an address leads to: no row when it is unknown. Two look-ups rather than a join, as address
-- and mailbox are distributed differently; STABLE, so that both see one snapshot. is_full: of a
-- domain, that its mailboxes held at usage_at what they may hold together.
CREATE FUNCTION lookup(a text)
RETURNS TABLE (box bigint, box_state smallint, most_octets bigint, most_messages bigint,
               most_size bigint, days smallint, days_read smallint, password text, keys text,
               leads_to text[], is_full boolean)
STABLE LANGUAGE plpgsql AS $$
BEGIN
    SELECT d.mailbox_id, d.targets INTO box, leads_to FROM address d WHERE d.addr = a;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF box IS NOT NULL THEN
        SELECT b.state, b.max_octets, b.max_messages, b.max_size, b.retention_days, b.read_days,
               c.hash, c.scram
          INTO box_state, most_octets, most_messages, most_size, days, days_read, password, keys
          FROM mailbox b JOIN account c ON c.mailbox_id = b.mailbox_id
         WHERE b.mailbox_id = box;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'address % names mailbox %, which is not there', a, box
                USING ERRCODE = 'data_corrupted';
        END IF;
    ELSIF a LIKE '@%' THEN
        SELECT d.total_octets > 0 AND d.usage_octets >= d.total_octets
            OR d.total_messages > 0 AND d.usage_messages >= d.total_messages
          INTO is_full FROM domain d WHERE d.name = substr(a, 2);
    END IF;
    is_full := coalesce(is_full, false);
    RETURN NEXT;
END $$;

-- The version and the pointers of a mailbox, for a statement that asks for several; one without messages
-- has a row without a pointer, and so has one with more than `most`, which says so instead. As it is
-- STABLE, all of it is of one snapshot, that of the statement.
CREATE FUNCTION listing(box bigint, most bigint)
RETURNS TABLE (at_version bigint, at_seq bigint, blob uuid, len integer, head integer, vol smallint,
               own_name text, fh bytea, too_long boolean)
STABLE LANGUAGE plpgsql AS $$
BEGIN
    SELECT b.version, b.msgs > most INTO at_version, too_long FROM mailbox b WHERE b.mailbox_id = box;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF NOT too_long THEN
        RETURN QUERY SELECT at_version, m.seq, m.blob_id, m.size, m.skip, m.volume_id, m.uidl::text,
                            m.handle::bytea, false
                       FROM message m WHERE m.mailbox_id = box ORDER BY m.seq;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    RETURN NEXT;
END $$;

-- Gives an account SCRAM keys of the password that made this hash, in place of those that the caller
-- saw. Another hash is another password: its keys are not these. Other keys were set meanwhile.
CREATE FUNCTION enroll(box bigint, password text, old text, keys text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE account c SET scram = keys
    WHERE c.mailbox_id = box AND c.hash = password AND c.scram = old;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'mailbox % has no account with this hash and keys', box
            USING ERRCODE = 'MF002';
    END IF;
END $$;

-- Counts the mailboxes of a file before they are delivered to: a failure may leak the file, but
-- can't unlink it too early.
CREATE FUNCTION share(blob uuid, vol bigint, n bigint, len bigint DEFAULT 0)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO blob_shared (blob_id, volume_id, refs, octets) VALUES (blob, vol, n, len);
END $$;

-- Refuses (MF003) a file whose volume is closed or gone. Asked behind the mailbox's lock, when the
-- transaction has its number: `mailfleet volume remove` closes a volume and waits for those that have a
-- lower one before it looks for the last time.
CREATE FUNCTION need_volume(vol bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM volume v WHERE v.volume_id = vol AND v.state <> 3) THEN
        RAISE EXCEPTION 'volume % is closed', vol USING ERRCODE = 'MF003';
    END IF;
END $$;

-- A ledger row for a file that the mailbox never listed; none when its volume is being removed or not
-- there any more: the file stays in its folder then, and the row would stay for ever.
CREATE FUNCTION discard(box bigint, blob uuid, vol bigint, len bigint, head bigint, many boolean,
                        now_ms bigint, grace_ms bigint, who text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    due timestamptz := grace_end(now_ms, grace_ms);
BEGIN
    IF NOT EXISTS (SELECT FROM volume v WHERE v.volume_id = vol AND v.state <> 3) THEN
        RETURN;
    END IF;
    INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared,
                        deleted_at, unlink_after, by_whom)
    VALUES (box, blob, 0, len, head, vol, many, ms_time(now_ms), due, who)
    ON CONFLICT DO NOTHING;
END $$;

-- Gives a mailbox its pointer; code is enum room. Without room: strict raises MF001, which undoes
-- the whole transaction; else the file's place in the mailbox goes to the ledger. What delivered() has
-- denied raises MF004: its sender was told that it was not. MF003: the file's volume is closed or gone,
-- since it was begun; that is asked after the lock, when the transaction has its number, as `mailfleet volume
-- remove` waits for those that have a lower one.
-- past: as room() has it. warn: ascending thresholds; passed is the one that this delivery crossed
-- upwards, 0 for none, and it is told once: `warned` keeps it until there is less in the mailbox.
-- waits: for a mailbox that is locked. Else nothing is done with such a one, nor with one that is not
-- there, and code is -1: what several senders wait for does not wait itself.
CREATE FUNCTION deliver(box bigint, blob uuid, vol bigint, len bigint, head bigint, many boolean,
                        fh bytea, strict boolean, now_ms bigint, grace_ms bigint,
                        past bigint DEFAULT 0, warn bigint[] DEFAULT '{}', waits boolean DEFAULT true,
                        OUT code integer, OUT passed integer) LANGUAGE plpgsql AS $$
DECLARE
    b    mailbox;
    used integer; -- per cent, with this message
    told integer := 0;
BEGIN
    passed := 0;
    IF waits THEN
        SELECT * INTO b FROM mailbox m WHERE m.mailbox_id = box FOR NO KEY UPDATE;
    ELSE
        SELECT * INTO b FROM mailbox m WHERE m.mailbox_id = box FOR NO KEY UPDATE SKIP LOCKED;
    END IF;
    IF b.mailbox_id IS NULL AND NOT waits THEN
        code := -1;
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM volume v WHERE v.volume_id = vol AND v.state <> 3) THEN
        RAISE EXCEPTION 'volume % is closed', vol USING ERRCODE = 'MF003';
    END IF;
    IF blob = ANY (b.denied) THEN
        RAISE EXCEPTION 'delivery of % to mailbox % comes too late', blob, box
            USING ERRCODE = 'MF004';
    END IF;
    code := CASE WHEN b.mailbox_id IS NULL THEN 3
            ELSE room(b.state, b.msgs, b.octets, b.max_messages, b.max_octets, b.max_size, len, past) END;
    IF code = 0 THEN
        -- The limits, or what the nodes have for thresholds, may have changed since the last one: so
        -- `warned` is never more than what is used.
        IF b.max_messages > 0 OR b.max_octets > 0 THEN
            used := filled(b.msgs + 1, b.octets + len, b.max_messages, b.max_octets);
            passed := threshold(used, warn);
            told := greatest(least(b.warned, used), passed);
            IF passed <= least(b.warned, filled(b.msgs, b.octets, b.max_messages, b.max_octets)) THEN
                passed := 0;
            END IF;
        END IF;
        UPDATE mailbox m
           SET version = b.version + 1, next_seq = b.next_seq + 1,
               msgs = b.msgs + 1, octets = b.octets + len, warned = told
         WHERE m.mailbox_id = box;
        INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared, handle)
        VALUES (box, b.next_seq, blob, len, head, vol, many, fh);
    ELSIF strict THEN
        RAISE EXCEPTION 'no room in mailbox %', box
            USING ERRCODE = 'MF001', DETAIL = format('%s %s', box, code);
    ELSE
        PERFORM discard(box, blob, vol, len, head, many, now_ms, grace_ms, 'no room');
    END IF;
END $$;

-- Several, one after the other. A loop, as a query of many rows would be planned anew by each call.
CREATE FUNCTION deliver_each(boxes bigint[], blobs uuid[], vols bigint[], lens bigint[], heads bigint[],
                             many boolean, fhs bytea[], strict boolean, now_ms bigint, grace_ms bigint,
                             past bigint, warn bigint[], waits boolean)
RETURNS TABLE (code integer, passed integer) LANGUAGE plpgsql AS $$
DECLARE
    told record;
BEGIN
    FOR i IN 1 .. cardinality(boxes) LOOP
        told := deliver(boxes[i], blobs[i], vols[i], lens[i], heads[i], many, fhs[i], strict, now_ms,
                        grace_ms, past, warn, waits);
        code := told.code;
        passed := told.passed;
        RETURN NEXT;
    END LOOP;
END $$;

-- Whether a delivery committed, when its answer was lost. The lock waits for one that has it; one that
-- waits for it may come after us, as may one that has not reached this server yet: what is denied
-- can't be delivered any more. An id tells when its delivery began, and none goes on for a day; the
-- latest are enough, as it's a matter of seconds: so many are more than one mailbox gets meanwhile.
CREATE FUNCTION delivered(box bigint, blob uuid) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    day_ago uuid;
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box FOR NO KEY UPDATE;
    PERFORM FROM message m WHERE m.mailbox_id = box AND m.blob_id = blob
      ORDER BY m.seq DESC LIMIT 1;
    IF FOUND THEN
        RETURN true;
    END IF;
    PERFORM FROM ledger l WHERE l.mailbox_id = box AND l.blob_id = blob AND l.seq > 0;
    IF FOUND THEN
        RETURN true;
    END IF;
    day_ago := ms_id((extract(epoch FROM clock_timestamp()) * 1000)::bigint - 86400000);
    UPDATE mailbox b
       SET denied = (array_prepend(blob, ARRAY(SELECT d.id FROM unnest(b.denied) WITH ORDINALITY d (id, n)
                                                WHERE d.id > day_ago ORDER BY d.n)))[1:256]
     WHERE b.mailbox_id = box AND (b.denied IS NULL OR blob <> ALL (b.denied));
    RETURN false;
END $$;

-- Whether a volume takes new files: for commands, which may be long at one. What nodes deliver is late by
-- some seconds.
CREATE FUNCTION takes_files(vol bigint) RETURNS boolean STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM volume v WHERE v.volume_id = vol AND v.state = 0);
END $$;

-- Locks mailboxes that change together: each by itself, in ascending order.
CREATE FUNCTION lock_mailboxes(boxes bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    box bigint;
BEGIN
    FOR box IN SELECT DISTINCT w.id FROM unnest(boxes) w (id) ORDER BY w.id LOOP
        PERFORM FROM mailbox b WHERE b.mailbox_id = box FOR NO KEY UPDATE;
    END LOOP;
END $$;

-- Which of these UIDLs came into the mailbox at places from since on, and before next, which it gives
-- next: what it has, or had. ids: the ids that they are the text of; the nil uuid for the others.
CREATE FUNCTION known_uidls(box bigint, since bigint, next bigint, uidls text[], ids uuid[])
RETURNS SETOF text STABLE LANGUAGE plpgsql AS $$
DECLARE
    gone boolean; -- some of these places; the ledger has no order that they could be found by
BEGIN
    gone := (SELECT count(*) FROM message m WHERE m.mailbox_id = box AND m.seq >= since) < next - since;
    RETURN QUERY
    WITH came AS (
        SELECT m.uidl, m.blob_id FROM message m WHERE m.mailbox_id = box AND m.seq >= since
        UNION ALL
        SELECT l.uidl, l.blob_id FROM ledger l
         WHERE gone AND l.mailbox_id = box AND l.seq >= since
        UNION ALL
        SELECT p.uidl, p.blob_id FROM ledger_past p
         WHERE gone AND p.mailbox_id = box AND p.seq >= since
    )
    SELECT w.uidl FROM unnest(uidls, ids) w (uidl, id)
     WHERE w.uidl IN (SELECT c.uidl FROM came c WHERE c.uidl <> '')
        OR w.id IN (SELECT c.blob_id FROM came c WHERE c.uidl = '');
END $$;

-- As prune(), of pointers whose messages were just imported once more, under the UIDLs that they have at
-- the old server by now. Their place in the ledger is 0: to undelete them would make two of each.
CREATE FUNCTION supersede(box bigint, seqs bigint[], blobs uuid[], now_ms bigint, grace_ms bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint := prune(box, seqs, blobs, now_ms, grace_ms, 'imported by its UIDL');
BEGIN
    UPDATE ledger l SET seq = 0 FROM unnest(seqs, blobs) AS w (seq, blob_id)
     WHERE l.mailbox_id = box AND l.blob_id = w.blob_id AND l.seq = w.seq;
    RETURN n;
END $$;

-- Gives a mailbox the pointers of imported messages, in this order; returns the place that it gives
-- next. Limits do not matter: the mail was accepted long ago, and to refuse it now would be to lose
-- it. The caller knows the UIDLs of what came to places before since, and names none of these; so an
-- import of a mailbox reads it once, not once a batch. What the mailbox got since then by these UIDLs
-- is left out, and its file goes to the ledger, unless it is that very file: so the call may be
-- repeated when its outcome is not known, and two imports may run at once. MF003: a file of what is new
-- lies on a volume that takes none any more (a message may take long to come).
CREATE FUNCTION import(box bigint, since bigint, blobs uuid[], vols bigint[], lens bigint[],
                       heads bigint[], uidls text[], ids uuid[], fhs bytea[], now_ms bigint,
                       grace_ms bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    place  bigint;
    known  text[];
    closed bigint;
    file   record;
    n      bigint;
    len    bigint;
BEGIN
    SELECT b.next_seq INTO place FROM mailbox b WHERE b.mailbox_id = box FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no mailbox %', box USING ERRCODE = 'MF002';
    END IF;
    known := ARRAY(SELECT known_uidls(box, since, place, uidls, ids));
    SELECT w.vol INTO closed FROM unnest(vols, uidls) w (vol, uidl)
     WHERE w.uidl <> ALL (known) AND NOT takes_files(w.vol) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'volume % takes no new mail any more', closed USING ERRCODE = 'MF003';
    END IF;
    FOR file IN
        SELECT w.* FROM unnest(blobs, vols, lens, heads, uidls) w (blob, vol, size, head, uidl)
         WHERE w.uidl = ANY (known)
           AND NOT EXISTS (SELECT FROM message m
                            WHERE m.mailbox_id = box AND m.seq >= since AND m.blob_id = w.blob)
           AND NOT EXISTS (SELECT FROM ledger l
                            WHERE l.mailbox_id = box AND l.blob_id = w.blob AND l.seq > 0)
    LOOP
        PERFORM discard(box, file.blob, file.vol, file.size, file.head, false, now_ms, grace_ms,
                        'imported already');
    END LOOP;
    WITH taken AS (
        INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared, uidl, handle)
        SELECT box, place + row_number() OVER (ORDER BY w.nth) - 1, w.blob, w.size, w.head, w.vol,
               false, w.uidl, w.fh
          FROM unnest(blobs, vols, lens, heads, uidls, fhs) WITH ORDINALITY
               w (blob, vol, size, head, uidl, fh, nth)
         WHERE w.uidl <> ALL (known)
        RETURNING size
    )
    SELECT count(*), coalesce(sum(t.size), 0) INTO n, len FROM taken t;
    IF n > 0 THEN
        UPDATE mailbox b
           SET version = b.version + 1, next_seq = b.next_seq + n, msgs = b.msgs + n,
               octets = b.octets + len
         WHERE b.mailbox_id = box;
    END IF;
    RETURN place + n;
END $$;

-- Moves pointers to the ledger; returns how many. They are named by place and id: after a restore
-- a place alone could name another message.
-- Each pointer is to be looked up by its key, whatever is in the mailbox besides. The planner, which makes one
-- plan for all mailboxes and for lists of any length, would rather read the mailbox as a whole where most have
-- few messages, to delete one of 20,000: LIMIT, which takes nothing away, has it expect a short list.
CREATE FUNCTION expunge(box bigint, seqs bigint[], blobs uuid[], now_ms bigint, grace_ms bigint,
                        who text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    gone_at timestamptz := ms_time(now_ms);
    due     timestamptz := grace_end(now_ms, grace_ms);
    n       bigint;
    len     bigint;
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box FOR NO KEY UPDATE;
    WITH gone AS (
        DELETE FROM message m
         USING (SELECT u.seq, u.blob_id FROM unnest(seqs, blobs) AS u (seq, blob_id)
                 LIMIT cardinality(seqs)) AS w
         WHERE m.mailbox_id = box AND m.seq = w.seq AND m.blob_id = w.blob_id
        RETURNING m.*
    ), kept AS (
        INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared, uidl, handle,
                            deleted_at, unlink_after, by_whom)
        SELECT g.mailbox_id, g.blob_id, g.seq, g.size, g.skip, g.volume_id, g.shared, g.uidl,
               g.handle, gone_at, due, who
          FROM gone g
    )
    SELECT count(*), coalesce(sum(g.size), 0) INTO n, len FROM gone g;
    IF n > 0 THEN
        UPDATE mailbox b
           SET version = b.version + 1, msgs = b.msgs - n, octets = b.octets - len,
               warned = least(b.warned, filled(b.msgs - n, b.octets - len, b.max_messages,
                                               b.max_octets))
         WHERE b.mailbox_id = box;
    END IF;
    RETURN n;
END $$;

-- As expunge(), of a mailbox that is suspended: nobody but an import knows its list. MF002: it is not.
CREATE FUNCTION prune(box bigint, seqs bigint[], blobs uuid[], now_ms bigint, grace_ms bigint, who text)
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box AND b.state = 1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'mailbox % is not suspended', box USING ERRCODE = 'MF002';
    END IF;
    RETURN expunge(box, seqs, blobs, now_ms, grace_ms, who);
END $$;

-- The least id that a message of this time can have.
CREATE FUNCTION ms_id(ms bigint) RETURNS uuid IMMUTABLE LANGUAGE sql
RETURN rpad(lpad(to_hex(greatest(ms, 0)), 12, '0'), 32, '0')::uuid;

-- Notes what was retrieved, by place and id as expunge() has it; the first time counts. Only of a
-- mailbox that has a rule for it. Its row is held against its removal alone: no delivery waits.
CREATE FUNCTION mark_read(box bigint, seqs bigint[], blobs uuid[], now_ms bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    since timestamptz := greatest(ms_time(now_ms), clock_timestamp()); -- as in grace_end()
    n bigint;
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box AND b.read_days >= 0 FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    INSERT INTO read_mark (mailbox_id, seq, read_at)
    SELECT box, m.seq, since
      FROM unnest(seqs, blobs) AS w (seq, blob_id)
      JOIN message m ON m.mailbox_id = box AND m.seq = w.seq AND m.blob_id = w.blob_id
     ORDER BY m.seq
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;

-- Gives mailboxes the retention of their domain where they have none of their own; returns how many it
-- has changed. Their own rows have it, so that expire() and the indexes it is asked by need no second look.
CREATE FUNCTION follow_domain(boxes bigint[], days bigint, days_read bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    PERFORM lock_mailboxes(boxes);
    UPDATE mailbox b
       SET retention_days = CASE WHEN b.own_retention THEN b.retention_days ELSE days END,
           read_days = CASE WHEN b.own_read THEN b.read_days ELSE days_read END
     WHERE b.mailbox_id = ANY (boxes)
       AND (NOT b.own_retention AND b.retention_days <> days
            OR NOT b.own_read AND b.read_days <> days_read);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;

-- Moves to the ledger what the mailbox keeps no longer, at most so many; returns how many. Days are
-- read under the lock: they may have been changed since the mailbox was chosen. A mailbox that is
-- suspended or removed keeps what it has, as nobody can fetch it. A rule that it has not is NULL here,
-- with which nothing compares.
CREATE FUNCTION expire(box bigint, now_ms bigint, grace_ms bigint, most bigint, who text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before      uuid;
    read_before timestamptz;
    seqs        bigint[];
    blobs       uuid[];
    n           bigint := 0;
BEGIN
    SELECT CASE WHEN b.retention_days > 0
                THEN ms_id(now_ms - b.retention_days * 86400000::bigint) END,
           CASE WHEN b.read_days >= 0 THEN ms_time(now_ms - b.read_days * 86400000::bigint) END
      INTO before, read_before FROM mailbox b
     WHERE b.mailbox_id = box AND b.state = 0 AND (b.retention_days > 0 OR b.read_days >= 0)
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT array_agg(o.seq), array_agg(o.blob_id) INTO seqs, blobs
      FROM (SELECT m.seq, m.blob_id FROM message m
             WHERE m.mailbox_id = box
               AND (m.blob_id < before
                    OR EXISTS (SELECT FROM read_mark r
                                WHERE r.mailbox_id = box AND r.seq = m.seq
                                  AND r.read_at <= read_before))
             ORDER BY m.seq LIMIT most) o;
    IF seqs IS NOT NULL THEN
        n := expunge(box, seqs, blobs, now_ms, grace_ms, who);
        DELETE FROM read_mark r WHERE r.mailbox_id = box AND r.seq = ANY (seqs);
    END IF;
    IF n < most THEN
        DELETE FROM read_mark r
         WHERE r.mailbox_id = box AND r.read_at <= read_before
           AND NOT EXISTS (SELECT FROM message m WHERE m.mailbox_id = box AND m.seq = r.seq);
    END IF;
    RETURN n;
END $$;

-- Removes an account so that it can come back: no logins and no mail from now on, a row that says
-- what it was. Its address stays taken. alone and among are the aliases that led to it; they are
-- changed in the same transaction, which MF002 undoes: it is not there, or was removed before.
CREATE FUNCTION remove_account(box bigint, name text, alone text[], among text[], now_ms bigint,
                               grace_ms bigint, who text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    was smallint;
    n   bigint;
    len bigint;
BEGIN
    SELECT b.state, b.msgs, b.octets INTO was, n, len FROM mailbox b
     WHERE b.mailbox_id = box AND b.state <> 2 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no mailbox % to remove', box USING ERRCODE = 'MF002';
    END IF;
    UPDATE mailbox b SET state = 2 WHERE b.mailbox_id = box;
    INSERT INTO removed (mailbox_id, addr, was_state, aliases, lists, removed_at, purge_after,
                         by_whom, msgs, octets)
    VALUES (box, name, was, alone, among, ms_time(now_ms), ms_time(now_ms + grace_ms), who, n, len);
END $$;

-- Takes it back, up to purge_after. MF002: it is too late, or it is not removed. What a purge has begun
-- with does not come back in part, whoever's clock is late.
CREATE FUNCTION restore_account(box bigint, now_ms bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    was smallint;
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box AND b.state = 2 FOR NO KEY UPDATE;
    DELETE FROM removed r
     WHERE r.mailbox_id = box AND NOT r.purging AND r.purged_at IS NULL
       AND r.purge_after > ms_time(now_ms)
    RETURNING r.was_state INTO was;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'mailbox % can not come back', box USING ERRCODE = 'MF002';
    END IF;
    UPDATE mailbox b SET state = was WHERE b.mailbox_id = box;
END $$;

-- Moves pointers of an account that was removed long enough ago to the ledger, at most so many;
-- returns how many. 0 too when it has come back.
CREATE FUNCTION purge_page(box bigint, now_ms bigint, grace_ms bigint, most bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    who   text;
    seqs  bigint[];
    blobs uuid[];
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box AND b.state = 2 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT 'removed by ' || r.by_whom INTO who FROM removed r
     WHERE r.mailbox_id = box AND r.purge_after <= ms_time(now_ms);
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT array_agg(o.seq), array_agg(o.blob_id) INTO seqs, blobs
      FROM (SELECT m.seq, m.blob_id FROM message m WHERE m.mailbox_id = box
             ORDER BY m.seq LIMIT most) o;
    IF seqs IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE removed r SET purging = true WHERE r.mailbox_id = box AND NOT r.purging;
    DELETE FROM read_mark r WHERE r.mailbox_id = box AND r.seq = ANY (seqs);
    RETURN expunge(box, seqs, blobs, now_ms, grace_ms, who);
END $$;

-- Its end, when purge_page() has left nothing: its rows go, but for the one of removed, which is the
-- receipt from now on. MF002: it has come back, or another reaper was faster.
CREATE FUNCTION purge_end(box bigint, now_ms bigint, grace_ms bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    who text;
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box AND b.state = 2 FOR UPDATE;
    UPDATE removed r SET purged_at = ms_time(now_ms)
     WHERE r.mailbox_id = box AND r.purged_at IS NULL AND r.purge_after <= ms_time(now_ms)
    RETURNING 'removed by ' || r.by_whom INTO who;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'mailbox % is not to be purged', box USING ERRCODE = 'MF002';
    END IF;
    PERFORM remove_mailbox(box, now_ms, grace_ms, who);
END $$;

-- Ends a mailbox: its pointers, few or none by now, go to the ledger, its rows go. Returns how many
-- pointers.
CREATE FUNCTION remove_mailbox(box bigint, now_ms bigint, grace_ms bigint, who text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    due timestamptz := grace_end(now_ms, grace_ms);
    n   bigint;
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no mailbox %', box USING ERRCODE = 'MF002';
    END IF;
    WITH gone AS (
        DELETE FROM message m WHERE m.mailbox_id = box RETURNING m.*
    )
    INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared, uidl, handle,
                        deleted_at, unlink_after, by_whom)
    SELECT g.mailbox_id, g.blob_id, g.seq, g.size, g.skip, g.volume_id, g.shared, g.uidl, g.handle,
           ms_time(now_ms), due, who
      FROM gone g;
    GET DIAGNOSTICS n = ROW_COUNT;
    DELETE FROM read_mark r WHERE r.mailbox_id = box;
    DELETE FROM account c WHERE c.mailbox_id = box;
    DELETE FROM mailbox b WHERE b.mailbox_id = box;
    RETURN n;
END $$;

-- Gives a mailbox back what was deleted since then and no reaper has claimed, at most so many, with
-- place, UIDL and handle as they were; returns how many. With a blob, that message alone. Limits do
-- not count: they stop new mail. A message whose id or UIDL is listed again stays where it is, since
-- a UIDL names one message, as does one whose file goes with another row that a reaper has. While
-- reapers are held after a restore, a row that was due may be one whose file has gone since.
CREATE FUNCTION undelete(box bigint, since_ms bigint, blob uuid, most bigint, now_ms bigint, who text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    in_order boolean     := reaping_here();
    now_at   timestamptz := clock_timestamp();
    n        bigint;
    len      bigint;
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box AND b.state <> 2 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no mailbox %', box USING ERRCODE = 'MF002';
    END IF;
    WITH back AS (
        DELETE FROM ledger d
         WHERE d.mailbox_id = box AND d.claimed_at IS NULL AND (d.blob_id, d.seq) IN (
            SELECT l.blob_id, l.seq FROM ledger l
             WHERE l.mailbox_id = box AND l.seq > 0 AND l.claimed_at IS NULL
               AND l.deleted_at >= ms_time(since_ms)
               AND (l.unlink_after > now_at OR in_order)
               AND (blob IS NULL OR l.blob_id = blob)
               AND NOT EXISTS (SELECT FROM message m
                                WHERE m.mailbox_id = box AND m.blob_id = l.blob_id)
               AND NOT EXISTS (SELECT FROM message m
                                WHERE m.mailbox_id = box AND m.uidl = l.uidl AND l.uidl <> '')
               AND NOT EXISTS (SELECT FROM ledger y
                                WHERE y.mailbox_id = box AND y.blob_id = l.blob_id
                                  AND (y.claimed_at IS NOT NULL OR y.seq > l.seq))
             ORDER BY l.seq LIMIT most)
        RETURNING d.*
    ), put AS (
        INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared, uidl, handle)
        SELECT k.mailbox_id, k.seq, k.blob_id, k.size, k.skip, k.volume_id, k.shared, k.uidl,
               k.handle
          FROM back k
        RETURNING size
    ), noted AS (
        INSERT INTO undeleted (mailbox_id, blob_id, seq, deleted_at, by_whom, undeleted_at,
                               undeleted_by)
        SELECT k.mailbox_id, k.blob_id, k.seq, k.deleted_at, k.by_whom, ms_time(now_ms), who
          FROM back k
        ON CONFLICT DO NOTHING
    ), unread AS ( -- or expire() takes again what was read before it was deleted
        DELETE FROM read_mark r USING back k
         WHERE r.mailbox_id = box AND k.mailbox_id = box AND r.seq = k.seq
    )
    SELECT count(*), coalesce(sum(p.size), 0) INTO n, len FROM put p;
    IF n > 0 THEN
        UPDATE mailbox b SET version = b.version + 1, msgs = b.msgs + n, octets = b.octets + len
         WHERE b.mailbox_id = box;
    END IF;
    RETURN n;
END $$;

-- Moving a file to another volume (`mailfleet volume drain`). Its copies are rows of mailbox 0, which
-- nobody is, so that the reaper ends them:
--   seq = volume    a complete copy: where the file was before it was moved;
--   seq = -volume   one that is being made, or was when its maker died.
-- As long as such a row stands, no pointer and no other row that may become one names the file at that
-- place: mark_copy() sees to it that the pointer is elsewhere, and move_file() takes the row away, or
-- moves nothing when a reaper has it. Nor while ledger_past has a row that was reclaimed: the reaper that
-- seemed dead may have been frozen in mid-unlink, or a file server may still have its call.

-- Says that a copy is going to be made of the file of this pointer. 0: the pointer is not, or not there,
-- any more. 1: it may be made. 2: a complete one stands there, and can be used. 3: neither, now. 4: nor
-- for a long time, as an unlink there may be late. 5: the volume takes no files.
CREATE FUNCTION mark_copy(box bigint, place bigint, blob uuid, old_vol bigint, new_vol bigint,
                          now_ms bigint, keep_ms bigint, who text)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    due timestamptz := grace_end(now_ms, keep_ms);
    m   message;
    r   ledger;
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box FOR NO KEY UPDATE;
    SELECT * INTO m FROM message o
     WHERE o.mailbox_id = box AND o.seq = place AND o.blob_id = blob AND o.volume_id = old_vol;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    IF NOT takes_files(new_vol) THEN
        RETURN 5;
    END IF;
    SELECT * INTO r FROM ledger l
     WHERE l.mailbox_id = 0 AND l.blob_id = blob AND l.seq IN (new_vol, -new_vol)
     ORDER BY l.seq LIMIT 1;
    IF FOUND THEN
        RETURN CASE WHEN r.seq > 0 AND r.claimed_at IS NULL THEN 2 ELSE 3 END;
    END IF;
    IF EXISTS (SELECT FROM ledger_past p
                WHERE p.mailbox_id = 0 AND p.blob_id = blob AND p.seq IN (new_vol, -new_vol)
                  AND p.reclaimed) THEN
        RETURN 4;
    END IF;
    INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared,
                        deleted_at, unlink_after, by_whom)
    VALUES (0, blob, -new_vol, m.size, m.skip, new_vol, false,
            ms_time(now_ms), due, who)
    ON CONFLICT DO NOTHING;
    RETURN CASE WHEN FOUND THEN 1 ELSE 3 END;
END $$;

-- The copy is complete and compared: the pointers follow it; returns how many. boxes: the mailboxes that
-- the envelope names, or, when the file is not shared, the one whose pointer has this place. Of a shared
-- file the rows of those who have deleted it follow, too, since undelete() makes pointers of them; of one
-- that is not there is none, as a pointer stands. MF002: there is nothing to move any more, or a reaper
-- has the copy. MF003: the volume takes no files any more. Ledger rows come before blob_shared, as for
-- release() and unshare().
CREATE FUNCTION move_file(boxes bigint[], place bigint, blob uuid, old_vol bigint, new_vol bigint,
                          fh bytea, many boolean, now_ms bigint, grace_ms bigint, who text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    due   timestamptz := grace_end(now_ms, grace_ms);
    n     bigint;
    named bigint;
    len   integer;
    head  integer;
    moved bigint[];
BEGIN
    PERFORM lock_mailboxes(boxes);
    IF NOT takes_files(new_vol) THEN
        RAISE EXCEPTION 'volume % takes no files any more', new_vol USING ERRCODE = 'MF003';
    END IF;
    DELETE FROM ledger l
     WHERE l.mailbox_id = 0 AND l.blob_id = blob AND l.seq IN (new_vol, -new_vol)
       AND l.claimed_at IS NULL;
    IF NOT FOUND OR EXISTS (SELECT FROM ledger l WHERE l.mailbox_id = 0 AND l.blob_id = blob
                                                   AND l.seq IN (new_vol, -new_vol)) THEN
        RAISE EXCEPTION 'no copy of % on volume %', blob, new_vol USING ERRCODE = 'MF002';
    END IF;
    IF many THEN
        WITH gone AS (
            UPDATE message m SET volume_id = new_vol, handle = fh
             WHERE m.mailbox_id = ANY (boxes) AND m.blob_id = blob AND m.volume_id = old_vol
               AND m.shared
            RETURNING m.mailbox_id, m.size, m.skip
        )
        SELECT count(*), max(g.size), max(g.skip), array_agg(g.mailbox_id)
          INTO n, len, head, moved FROM gone g;
    ELSE
        UPDATE message m SET volume_id = new_vol, handle = fh
         WHERE m.mailbox_id = boxes[1] AND m.seq = place AND m.blob_id = blob
           AND m.volume_id = old_vol AND NOT m.shared
        RETURNING 1, m.size, m.skip, boxes INTO n, len, head, moved;
    END IF;
    IF coalesce(n, 0) = 0 THEN
        RAISE EXCEPTION 'no pointer to % on volume %', blob, old_vol USING ERRCODE = 'MF002';
    END IF;
    UPDATE mailbox b SET version = b.version + 1 WHERE b.mailbox_id = ANY (moved);
    IF many THEN
        UPDATE ledger l SET volume_id = new_vol, handle = fh
         WHERE l.mailbox_id = ANY (boxes) AND l.blob_id = blob AND l.volume_id = old_vol
           AND l.shared;
        PERFORM FROM blob_shared s WHERE s.blob_id = blob FOR UPDATE;
        SELECT (SELECT count(*) FROM message m
                 WHERE m.mailbox_id = ANY (boxes) AND m.blob_id = blob AND m.shared
                   AND m.volume_id = new_vol)
             + (SELECT count(*) FROM ledger l
                 WHERE l.mailbox_id = ANY (boxes) AND l.blob_id = blob AND l.shared
                   AND l.volume_id = new_vol)
          INTO named;
        UPDATE blob_shared s SET volume_id = new_vol
         WHERE s.blob_id = blob AND s.volume_id = old_vol AND s.refs = named;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'file % is not named by what its envelope and blob_shared say', blob
                USING ERRCODE = 'data_corrupted';
        END IF;
    END IF;
    INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared,
                        deleted_at, unlink_after, by_whom)
    VALUES (0, blob, old_vol, len, head, old_vol, false,
            ms_time(now_ms), due, who);
    RETURN n;
END $$;

-- Whether reapers may run on this timeline of the log. Asked where a file is claimed: the database may
-- have been replaced in the middle of a run.
CREATE FUNCTION reaping_here() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM fleet f WHERE f.reap_timeline = wal_timeline());
END $$;

-- The reaper. Any number may run at once:
--   0. mailboxes with a rule of retention, by mailbox_retention and mailbox_read, whose first
--      pointers or marks are older: expire() until it has nothing more; accounts that were removed
--      long enough ago, by removed_due: purge_page() until it has nothing more, then purge_end();
--   1. the mailboxes of ledger rows that are due, by ledger_due;
--   2. claim() what is due of each, on the volumes that can be reached. A claim that is older than
--      stale_ms was a dead reaper's.
--   3. a row that is not shared: unlink the file, then release() the row and count the file by
--      reaped(); a shared one: release() and unshare(); all in one transaction;
--   4. claim_free() shared files that nobody names: unlink, then forget() and reaped().
-- Each step may be repeated after a crash: an unlink finds no file, release() and forget() raise
-- MF002 and take unshare() and reaped() back with them.

-- Rows that are due and not named otherwise: no pointer and no younger row of the mailbox; those of
-- mailbox 0 are of one file on each volume, and wait for none on another. vols: on these volumes
-- alone, but on none that has become readonly since. due_ms: due at that time, which may be long ago
-- when a run is long. The lock is what keeps undelete() from giving back one row of a file while
-- another is handed out.
CREATE FUNCTION claim(box bigint, now_ms bigint, stale_ms bigint, most bigint,
                      vols bigint[] DEFAULT NULL, due_ms bigint DEFAULT NULL)
RETURNS SETOF ledger LANGUAGE plpgsql AS $$
DECLARE
    due   timestamptz := ms_time(coalesce(due_ms, now_ms));
    fixed bigint[]    := ARRAY(SELECT v.volume_id FROM volume v WHERE v.state = 1);
BEGIN
    IF NOT reaping_here() THEN
        RETURN;
    END IF;
    PERFORM FROM mailbox b WHERE b.mailbox_id = box FOR NO KEY UPDATE;
    RETURN QUERY
    -- Looked for once: a plan that looked again for each row would pass those it has already, and in the
    -- end have all that is due, of which the reaper takes `most`.
    WITH due_rows AS MATERIALIZED (
        SELECT d.blob_id, d.seq FROM ledger d
         WHERE d.mailbox_id = box
           AND d.unlink_after <= due
           AND (vols IS NULL OR d.volume_id = ANY (vols))
           AND d.volume_id <> ALL (fixed)
           AND (d.claimed_at IS NULL OR d.claimed_at < ms_time(now_ms - stale_ms))
           AND NOT EXISTS (SELECT FROM message m
                            WHERE m.mailbox_id = box AND m.blob_id = d.blob_id)
           AND NOT EXISTS (SELECT FROM ledger y
                            WHERE y.mailbox_id = box AND y.blob_id = d.blob_id
                              AND (box <> 0 OR y.volume_id = d.volume_id)
                              AND y.unlink_after > due)
         LIMIT most FOR UPDATE OF d SKIP LOCKED)
    UPDATE ledger l SET claimed_at = ms_time(now_ms), reclaimed = l.claimed_at IS NOT NULL
      FROM due_rows r
     WHERE l.mailbox_id = box AND l.blob_id = r.blob_id AND l.seq = r.seq
    RETURNING l.*;
END $$;

-- A row ends: its file is gone, or was one of several mailboxes'. remember: in ledger_past. What mark_copy()
-- needs to know is remembered in any case.
CREATE FUNCTION release(box bigint, blob uuid, place bigint, now_ms bigint, remember boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF remember OR box = 0 THEN
        INSERT INTO ledger_past (mailbox_id, blob_id, seq, size, volume_id, uidl, deleted_at,
                                 by_whom, unlinked_at, reclaimed)
        SELECT l.mailbox_id, l.blob_id, l.seq, l.size, l.volume_id, l.uidl, l.deleted_at, l.by_whom,
               ms_time(now_ms), l.reclaimed
          FROM ledger l
         WHERE l.mailbox_id = box AND l.blob_id = blob AND l.seq = place
           AND (remember OR l.reclaimed)
        ON CONFLICT (mailbox_id, blob_id, seq) DO UPDATE
           SET deleted_at = excluded.deleted_at, by_whom = excluded.by_whom,
               volume_id = excluded.volume_id, uidl = excluded.uidl,
               unlinked_at = excluded.unlinked_at, reclaimed = excluded.reclaimed;
    END IF;
    DELETE FROM ledger l WHERE l.mailbox_id = box AND l.blob_id = blob AND l.seq = place;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such ledger row' USING ERRCODE = 'MF002';
    END IF;
END $$;

-- Counts down; returns what is left.
CREATE FUNCTION unshare(blob uuid) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    left_over integer;
BEGIN
    UPDATE blob_shared s SET refs = s.refs - 1 WHERE s.blob_id = blob
    RETURNING s.refs INTO left_over;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'file % is shared but not counted', blob
            USING ERRCODE = 'data_corrupted';
    END IF;
    RETURN left_over;
END $$;

-- Shared files behind this id that nobody names any more become the caller's, as by claim().
CREATE FUNCTION claim_free(last uuid, now_ms bigint, stale_ms bigint, most bigint, vols bigint[])
RETURNS SETOF blob_shared LANGUAGE plpgsql AS $$
DECLARE
    fixed bigint[] := ARRAY(SELECT v.volume_id FROM volume v WHERE v.state = 1);
    one uuid;
    n bigint;
    taken bigint := 0;
BEGIN
    IF NOT reaping_here() THEN
        RETURN;
    END IF;
    FOR one IN
        SELECT f.blob_id FROM blob_shared f
         WHERE f.refs = 0 AND f.blob_id > last AND f.volume_id = ANY (vols)
           AND f.volume_id <> ALL (fixed)
           AND (f.claimed_at IS NULL OR f.claimed_at < ms_time(now_ms - stale_ms))
         ORDER BY f.blob_id
    LOOP
        -- Each by itself, and asked again: another reaper may have been faster. Then there may be more
        -- of them further on: fewer than `most` are the last.
        RETURN QUERY
        UPDATE blob_shared s SET claimed_at = ms_time(now_ms)
         WHERE s.blob_id = one AND s.refs = 0
           AND (s.claimed_at IS NULL OR s.claimed_at < ms_time(now_ms - stale_ms))
        RETURNING s.*;
        GET DIAGNOSTICS n = ROW_COUNT;
        taken := taken + n;
        EXIT WHEN taken = most;
    END LOOP;
END $$;

CREATE FUNCTION forget(blob uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM blob_shared s WHERE s.blob_id = blob AND s.refs = 0;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such free file' USING ERRCODE = 'MF002';
    END IF;
END $$;

-- Files of a volume were unlinked: in the transaction that ends their rows, and after those, so
-- that reapers hold this row's lock shortly.
CREATE FUNCTION reaped(vol bigint, now_ms bigint, n bigint, len bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO volume_reaped AS r (volume_id, day, files, octets)
    VALUES (vol, (ms_time(now_ms) AT TIME ZONE 'UTC')::date, n, len)
    ON CONFLICT (volume_id, day) DO UPDATE
       SET files = r.files + excluded.files, octets = r.octets + excluded.octets;
END $$;

-- Mending and making anew, for `mailfleet recount`, `adopt` and `rebuild`.

-- Makes the counters of a mailbox what its pointers say; returns whether they were something else.
CREATE FUNCTION recount(box bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    n   bigint;
    len bigint;
    top bigint;
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box FOR NO KEY UPDATE;
    SELECT count(*), coalesce(sum(m.size), 0), coalesce(max(m.seq), 0) INTO n, len, top
      FROM message m WHERE m.mailbox_id = box;
    SELECT greatest(top, coalesce(max(l.seq), 0)) INTO top FROM ledger l WHERE l.mailbox_id = box;
    UPDATE mailbox b SET msgs = n, octets = len, next_seq = greatest(b.next_seq, top + 1)
     WHERE b.mailbox_id = box AND (b.msgs <> n OR b.octets <> len OR b.next_seq <= top);
    RETURN FOUND;
END $$;

-- Makes the count of a shared file what pointers and ledger rows say; returns it. boxes: all
-- mailboxes that may have a pointer to it, as there is no index of pointers by file. One that is
-- left out is one pointer too few, and in the end a file that is unlinked too early.
CREATE FUNCTION recount_shared(blob uuid, vol bigint, boxes bigint[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    former bigint[] := ARRAY(SELECT l.mailbox_id FROM ledger l WHERE l.blob_id = blob);
    n   bigint;
    len bigint;
BEGIN
    PERFORM lock_mailboxes(boxes || former);
    PERFORM FROM blob_shared s WHERE s.blob_id = blob FOR UPDATE;
    SELECT (SELECT count(*) FROM message m
             WHERE m.mailbox_id = ANY (boxes) AND m.blob_id = blob AND m.shared) +
           (SELECT count(*) FROM ledger l WHERE l.blob_id = blob AND l.shared) INTO n;
    IF n = 0 THEN
        UPDATE blob_shared s SET refs = 0 WHERE s.blob_id = blob;
    ELSE
        SELECT coalesce((SELECT m.size::bigint + m.skip FROM message m
                          WHERE m.mailbox_id = ANY (boxes) AND m.blob_id = blob LIMIT 1),
                        (SELECT l.size::bigint + l.skip FROM ledger l WHERE l.blob_id = blob LIMIT 1), 0)
          INTO len;
        INSERT INTO blob_shared AS s (blob_id, volume_id, refs, octets) VALUES (blob, vol, n, len)
        ON CONFLICT (blob_id) DO UPDATE SET refs = excluded.refs, octets = excluded.octets;
    END IF;
    RETURN n;
END $$;

-- Gives a mailbox a pointer to a file that was found without one: as a new message, with the id of
-- the file and the UIDL that it had elsewhere. No limit stops it, as it was accepted once. stored_ms:
-- when the file was stored; the mailbox must have been there (a minute for clocks that differ), or it
-- is another's under an old id. Returns 0: it has it now (unless really: it would), 1: it had it, 2: it
-- was deleted, 3: there is no such mailbox, 4: the mailbox is younger (enum outcome of admin/adopt.c).
-- MF003: as need_volume() has it.
CREATE FUNCTION adopt(box bigint, blob uuid, vol bigint, len bigint, head bigint, many boolean,
                      old_uidl text, stored_ms bigint, really boolean)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    place bigint;
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box AND b.state <> 2 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 3;
    END IF;
    IF NOT EXISTS (SELECT FROM account c
                    WHERE c.mailbox_id = box AND c.created_at <= ms_time(stored_ms + 60000)) THEN
        RETURN 4;
    END IF;
    IF EXISTS (SELECT FROM message m WHERE m.mailbox_id = box
                  AND (m.blob_id = blob OR old_uidl <> '' AND m.uidl = old_uidl)) THEN
        RETURN 1;
    END IF;
    IF EXISTS (SELECT FROM ledger l WHERE l.mailbox_id = box
                  AND (l.blob_id = blob OR old_uidl <> '' AND l.uidl = old_uidl))
       OR EXISTS (SELECT FROM ledger_past p WHERE p.mailbox_id = box
                     AND (p.blob_id = blob OR old_uidl <> '' AND p.uidl = old_uidl)) THEN
        RETURN 2;
    END IF;
    IF EXISTS (SELECT FROM blob_shared s WHERE s.blob_id = blob AND s.refs = 0) THEN
        RETURN 2;
    END IF;
    IF NOT really THEN
        RETURN 0;
    END IF;
    PERFORM need_volume(vol);
    UPDATE mailbox b
       SET version = b.version + 1, next_seq = b.next_seq + 1,
           msgs = b.msgs + 1, octets = b.octets + len
     WHERE b.mailbox_id = box RETURNING b.next_seq - 1 INTO place;
    INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared, uidl)
    VALUES (box, place, blob, len, head, vol, many, old_uidl);
    RETURN 0;
END $$;

-- A whole file that nothing names, and whose recipients (boxes) all have its message or have deleted it,
-- becomes the reaper's, as a copy that move_file() has left is. Returns 1, or 0 when something names it now.
CREATE FUNCTION set_aside(boxes bigint[], blob uuid, vol bigint, len bigint, head bigint, now_ms bigint,
                          grace_ms bigint, who text)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    due timestamptz := grace_end(now_ms, grace_ms);
BEGIN
    PERFORM lock_mailboxes(boxes);
    IF EXISTS (SELECT FROM message m
                WHERE m.mailbox_id = ANY (boxes) AND m.blob_id = blob AND m.volume_id = vol)
       OR EXISTS (SELECT FROM ledger l WHERE l.blob_id = blob AND l.volume_id = vol)
       OR EXISTS (SELECT FROM blob_shared s WHERE s.blob_id = blob AND s.volume_id = vol) THEN
        RETURN 0;
    END IF;
    PERFORM need_volume(vol);
    INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared,
                        deleted_at, unlink_after, by_whom)
    VALUES (0, blob, vol, len, head, vol, false, ms_time(now_ms), due, who);
    RETURN 1;
END $$;

-- As expunge(), of messages named by their ids alone, as logs name them.
CREATE FUNCTION expunge_ids(box bigint, blobs uuid[], now_ms bigint, grace_ms bigint, who text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    seqs bigint[];
    ids  uuid[];
BEGIN
    PERFORM FROM mailbox b WHERE b.mailbox_id = box FOR NO KEY UPDATE;
    SELECT array_agg(m.seq), array_agg(m.blob_id) INTO seqs, ids FROM message m
     WHERE m.mailbox_id = box AND m.blob_id = ANY (blobs);
    IF seqs IS NULL THEN
        RETURN 0;
    END IF;
    RETURN expunge(box, seqs, ids, now_ms, grace_ms, who);
END $$;

-- Gives a mailbox the pointers to these files, in the order of their ids and behind what it has; how
-- many. Those that it has or had are passed over, so it may be repeated; of files with one UIDL it
-- gets the first.
CREATE FUNCTION refill(box bigint, blobs uuid[], sizes bigint[], skips bigint[], vols bigint[],
                       many bigint[], uidls text[])
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    place bigint;
    n     bigint;
    len   bigint;
BEGIN
    SELECT b.next_seq - 1 INTO place FROM mailbox b WHERE b.mailbox_id = box FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    PERFORM need_volume(w.vol) FROM (SELECT DISTINCT vol FROM unnest(vols) vol) w;
    WITH given AS (
        SELECT w.*, row_number() OVER (PARTITION BY w.uidl ORDER BY w.blob_id) AS nth
          FROM unnest(blobs, sizes, skips, vols, many, uidls)
               AS w (blob_id, size, skip, volume_id, shared, uidl)
         WHERE w.blob_id NOT IN (SELECT m.blob_id FROM message m WHERE m.mailbox_id = box)
           AND w.blob_id NOT IN (SELECT l.blob_id FROM ledger l WHERE l.mailbox_id = box)
           AND w.blob_id NOT IN (SELECT p.blob_id FROM ledger_past p WHERE p.mailbox_id = box)
           AND w.uidl NOT IN (SELECT m.uidl FROM message m
                               WHERE m.mailbox_id = box AND m.uidl <> '')
    ), put AS (
        INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared, uidl)
        SELECT box, place + row_number() OVER (ORDER BY g.blob_id), g.blob_id, g.size, g.skip,
               g.volume_id, g.shared <> 0, g.uidl
          FROM given g WHERE g.uidl = '' OR g.nth = 1
        RETURNING size
    )
    SELECT count(*), coalesce(sum(p.size), 0) INTO n, len FROM put p;
    IF n > 0 THEN
        UPDATE mailbox b
           SET version = b.version + 1, next_seq = b.next_seq + n,
               msgs = b.msgs + n, octets = b.octets + len
         WHERE b.mailbox_id = box;
    END IF;
    RETURN n;
END $$;
