#!/usr/bin/python3 -B
"""A mailbox of 100,000 messages: it lists whole, from the database and from the cache, where its
list is several items; it takes mail and deletes one message like any other. The messages are
pointers alone, made in the database: what is tested is lists, and no list touches a file."""

import harness

COUNT = 100_000


class Large(harness.FleetTest):
    time_limit = 300
    postgres_settings = {"shared_preload_libraries": "pg_stat_statements",
                         "pg_stat_statements.track": "all"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.fleet.sql("CREATE EXTENSION pg_stat_statements", superuser=True)
        cls.user = cls.account("large")
        cls.fleet.sql(f"""
            WITH box AS (UPDATE mailbox SET next_seq = {COUNT} + 1, msgs = {COUNT},
                                octets = {COUNT} * 1000::bigint + {COUNT} * ({COUNT} + 1::bigint) / 2
                          WHERE mailbox_id = (SELECT mailbox_id FROM address
                                               WHERE addr = '{cls.user.address}')
                         RETURNING mailbox_id)
            INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)
            SELECT box.mailbox_id, n, lpad(to_hex(n), 32, '0')::uuid, 1000 + n, 200, 1, false
              FROM box, generate_series(1, {COUNT}) n""")

    def list_queries(self):
        """How often the database was asked for pointers."""
        rows = self.fleet.sql("SELECT coalesce(sum(calls), 0) FROM pg_stat_statements "
                              "WHERE query LIKE '%JOIN message m%'", superuser=True)
        return int(rows[0][0])

    def check(self, node, count, first=1):
        with self.pop3(self.user, node) as pop3:
            sizes, uidls = pop3.list(), pop3.uidl()
            self.assertEqual(pop3.stat(), (count, sum(sizes.values())))
            self.assertEqual(len(sizes), count)
            self.assertEqual(len(set(uidls.values())), count)
            self.assertEqual(sizes[1], 1000 + first)
            self.assertEqual(sizes[COUNT - first + 1], 1000 + COUNT)
            pop3.quit()

    def test_lists(self):
        self.check(0, COUNT)
        self.assertGreater(self.list_queries(), 0)

        def from_the_cache():
            before = self.list_queries()
            self.check(0, COUNT)
            self.check(1, COUNT)
            self.assertEqual(self.list_queries(), before)

        self.eventually(60, from_the_cache)

    def test_mail_and_delete(self):
        self.deliver(b"Subject: one more\r\n\r\nx\r\n", self.user)
        with self.pop3(self.user, 1) as pop3:
            count = pop3.stat()[0]
            self.assertEqual(count, COUNT + 1)
            pop3.ok("DELE 1")
            pop3.quit()
        self.check(0, COUNT, first=2)


if __name__ == "__main__":
    harness.main()
