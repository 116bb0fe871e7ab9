"""Accounts and pointers in bulk, as SQL: what the daemons would make one at a time.

Rows lie in the tables in no order of the addresses, as in a database that has grown for years.
Pointers name files that were never written: whoever reads such a message gets an error.
"""

from system import DOMAIN

SAMPLE = "sample@" + DOMAIN  # whose hash and keys all have
SIZE = 4096  # that pointers tell
BATCH = 400_000  # pointers of a transaction

ACCOUNTS = f"""
SET synchronous_commit = off;
BEGIN;
CREATE TEMPORARY TABLE made ON COMMIT DROP AS
    SELECT nextval('mailbox_ids') AS id, addr FROM (
        SELECT 'u' || lpad(n::text, 6, '0') || '@{DOMAIN}' AS addr
        FROM generate_series($first, $last) n ORDER BY md5(n::text)) shuffled;
INSERT INTO mailbox (mailbox_id) SELECT id FROM made;
INSERT INTO account (mailbox_id, addr, hash, scram)
    SELECT id, made.addr, a.hash, a.scram FROM made, account a WHERE a.addr = '{SAMPLE}';
INSERT INTO address (addr, domain, mailbox_id) SELECT addr, '{DOMAIN}', id FROM made;
COMMIT;
"""

# A mailbox that has messages keeps them; new ones come behind. What came at one time lies together.
POINTERS = f"""
SET synchronous_commit = off;
BEGIN;
CREATE TEMPORARY TABLE filled ON COMMIT DROP AS
    SELECT m.mailbox_id AS id, m.next_seq FROM mailbox m JOIN address a USING (mailbox_id)
    WHERE a.addr BETWEEN 'u' || lpad('$first', 6, '0') AND 'u' || lpad('$last', 6, '0') || '@~';
INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)
    SELECT id, next_seq + n - 1,
           (lpad(to_hex(1750000000000 + 1000 * n), 12, '0') || substr(md5(id || ':' || next_seq + n), 1, 20))::uuid,
           {SIZE}, 300, 1, false
    FROM filled, generate_series(1, $each) n ORDER BY n, md5(id::text);
UPDATE mailbox m SET version = version + 1, next_seq = m.next_seq + $each, msgs = msgs + $each,
                     octets = octets + $each * {SIZE}::bigint
    FROM filled WHERE m.mailbox_id = filled.id;
COMMIT;
"""


class Bulk:
    def __init__(self, system):
        self.system = system
        self.mailboxes = 0

    def fill_in(self, text, **values):
        for name, value in values.items():
            text = text.replace(f"${name}", str(value))
        self.system.fleet.sql(text)

    def grow(self, mailboxes):
        """As many mailboxes as that."""
        if mailboxes > self.mailboxes:
            self.fill_in(ACCOUNTS, first=self.mailboxes, last=mailboxes - 1)
            self.mailboxes = mailboxes
        self.tidy()

    def point(self, first, count, each):
        """So many further messages for each of these users, and nothing of them is cached."""
        batch = max(1, BATCH // max(1, each))
        for at in range(first, first + count, batch):
            self.fill_in(POINTERS, first=at, last=min(at + batch, first + count) - 1, each=each)
        self.tidy()
        self.system.forget()

    def tidy(self):
        """What the database would come to by itself before long."""
        sql = self.system.fleet.sql
        sql("VACUUM ANALYZE mailbox, account, address, message", superuser=True)
        sql("CHECKPOINT", superuser=True)

    def storage(self):
        """Octets for each message and each mailbox, indexes included."""
        sizes = {name: int(octets) for name, octets in self.system.fleet.sql(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relname IN "
            "('message', 'mailbox', 'account', 'address') AND relkind = 'r'")}
        messages, mailboxes = (int(n) for n in self.system.fleet.sql(
            "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM mailbox)")[0])
        return {"messages": messages, "mailboxes": mailboxes,
                "for a message": sizes["message"] / messages,
                "for a mailbox, with its account and address":
                    sum(sizes[name] for name in ("mailbox", "account", "address")) / mailboxes}
