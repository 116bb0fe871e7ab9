"""memcached is lost in several ways: what it had costs time and nothing else."""

from fleet import greeting
from hosts import freeze, thaw
from scenario import Scenario

TTL = 8  # seconds, for cache.list_ttl: how long a list may be old where a cache is out of reach


class CacheScenario(Scenario):
    sees = "nothing"

    def went_on(self, since):
        """Nobody had to wait longer than a call to a cache, and a try again, take."""
        for what in "delivery", "poll", "quiet poll":
            self.since(since, what, within=8)


class CacheKilled(CacheScenario):
    """One memcached of three is killed (SIGKILL) and comes back empty."""

    name = "cache-kill"

    def run(self, lab):
        self.day.lists_cached()
        killed = self.now()
        lab["memcached2"].kill()
        self.wait(6)
        lab["memcached2"].up()
        self.wait(3)
        self.went_on(killed)


class CacheRestartEmpty(CacheScenario):
    """Each memcached is restarted, empty, one after the other."""

    name = "cache-restart-empty"

    def run(self, lab):
        self.day.lists_cached()
        began = self.now()
        for cache in lab.caches:
            cache.stop()
            cache.up()
            self.wait(2)
        self.went_on(began)


class CachesGone(CacheScenario):
    """All memcached are killed (SIGKILL)."""

    name = "cache-all"

    def run(self, lab):
        self.day.lists_cached()
        killed = self.now()
        for cache in lab.caches:
            cache.kill()
        self.wait(8)
        for cache in lab.caches:
            cache.up()
        self.wait(3)
        self.went_on(killed)


class OldLists(CacheScenario):
    """What some nodes can't tell a cache others may read there, for cache.list_ttl."""

    late_allowed = True
    sees = "new mail may be listed late, by cache.list_ttl at most; [IN-USE] after a session that could not " \
           "give its mailbox back"
    answers = dict.fromkeys(("readers", "quiet readers"), {"IN-USE"})

    def run(self, lab):
        lab.reload({"cache.list_ttl": f"{TTL}s"})
        try:
            self.day.lists_cached()
            began = self.now()
            self.begin(lab)
            self.wait(8)
            self.end(lab)
            # No list that was stored before this moment is left when this is over.
            self.wait(TTL + 1)
            self.day.ledger.late_allowed = False
            self.wait(3)
            self.went_on(began)
        finally:
            lab.reload({"cache.list_ttl": None})

    def begin(self, lab):
        raise NotImplementedError

    def end(self, lab):
        raise NotImplementedError


class CacheFrozen(OldLists):
    """One memcached of three is frozen (SIGSTOP) and goes on with what it had."""

    name = "cache-freeze"

    def begin(self, lab):
        freeze(lab["memcached2"])

    def end(self, lab):
        thaw(lab["memcached2"])


class CachePartitioned(OldLists):
    """One memcached of three is out of reach for some nodes only."""

    name = "cache-partition"

    def begin(self, lab):
        cache = lab.hosts["cache2"]
        for node in "mx1", "pop1":
            cache.cut(lab.hosts[node])
        for node, reached in ("mx1", False), ("pop1", False), ("mx2", True), ("pop2", True):
            self.expect(self.reaches(lab.hosts[node], cache) == reached,
                        f"{node} {'does not reach' if reached else 'reaches'} the cache")

    @staticmethod
    def reaches(host, cache):
        with host.inside():
            return greeting(cache.address, 11211, b"version\r\n", 0.5).startswith(b"VERSION")

    def end(self, lab):
        lab.hosts["cache2"].heal()
