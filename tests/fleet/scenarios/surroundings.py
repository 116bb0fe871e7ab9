"""What nodes stand on besides databases, caches and volumes: their clock, DNS, the disk of their logs,
their certificates."""

import datetime
import re
import time

from lab import DOMAIN
from mail import Smtp
from scenario import BROKEN, Scenario
from volumes import filled

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


class Surroundings(Scenario):
    def goes_on(self, since, *kinds):
        for what in kinds or ("delivery", "poll", "quiet poll"):
            self.since(since, what, within=8)


class ClockOff(Surroundings):
    """The clocks of a delivery node and of a front-end are 10 minutes off, one fast and one slow."""

    name = "clock-off"
    sees = "a date in Received: that is 10 minutes off; sessions break off when the nodes are restarted, by the " \
           "scenario itself, to get another clock"
    answers = {"readers": BROKEN | {"IN-USE"}, "quiet readers": BROKEN | {"IN-USE"},
               "sender": BROKEN | {"421", "451"}, "mta": {"deferred"}}

    def run(self, lab):
        for seconds in 600, -600:
            began = self.now()
            for name, off in ("mx1", seconds), ("pop1", -seconds):
                self.restart(lab[name], off)
            self.wait(6)
            for name, off in ("mx1", seconds), ("pop1", -seconds):
                self.expect(abs(clock(lab[name]) - off) < 60, f"{name} has the right time")
            self.well_again()
            self.goes_on(began)
        for name in "mx1", "pop1":
            self.restart(lab[name], 0)

    @staticmethod
    def restart(node, seconds):
        node.stop()
        node.start({"LD_PRELOAD": FAKETIME, "FAKETIME": f"{seconds:+}",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1"} if seconds else {})
        node.wait_ready()


def clock(node):
    """How much a node's clock is fast, as the last line of its log has it."""
    line = node.log.read_text(errors="replace").splitlines()[-1]
    return datetime.datetime.fromisoformat(line.split()[0].replace("Z", "+00:00")).timestamp() \
        - time.time()


class DnsDown(Surroundings):
    """The name server is killed (SIGKILL)."""

    name = "dns-down"
    sees = "nothing; mail whose sender has to look up the MX hosts comes later"
    answers = {"mta": {"deferred"}}

    def run(self, lab):
        log = self.day.town.mta_log
        killed = self.now()
        lab.nsd.kill()
        self.wait(2)
        before = sum(log.by.values())
        self.wait(8)
        self.goes_on(killed)
        self.expect(set(lab.dns_findings().values()) == {"unknown"}, "no answer is taken for one")
        self.expect(sum(log.by.values()) == before,
                    "the sending MTA knows the MX hosts without a name server")
        lab.nsd.up()
        self.until(30, lambda: None if sum(log.by.values()) > before
                   else "the sending MTA does not try again")


class ZoneChanged(Surroundings):
    """Records of the zone are lost, changed and added; `mailfleet dns --check` finds each."""

    name = "dns-check"
    changes = (
        (rf"^{DOMAIN}\. .* MX 20 mx3\..*\n", "", (DOMAIN, "MX"), "missing"),
        (r"\Z", f"{DOMAIN}. 60 IN MX 30 dns1.{DOMAIN}.\n", (DOMAIN, "MX"), "foreign"),
        (r"(?<= SRV 0 1 )995(?= )", "996", (f"_pop3s._tcp.{DOMAIN}", "SRV"), "differs"),
        (r"(?<=^_25\._tcp\.mx1\.)(.*)[0-9a-f]{8}$", r"\g<1>01234567", (f"_25._tcp.mx1.{DOMAIN}", "TLSA"), "differs"),
    )

    def run(self, lab):
        began, right = self.now(), lab.nsd.records[DOMAIN]
        self.expect(lab.why_not_published() is None, "the zone is not what the fleet prints")
        for pattern, new, what, state in self.changes:
            wrong, count = re.subn(pattern, new, right, count=1, flags=re.MULTILINE)
            self.expect(count == 1, f"the zone has no {what} to change")
            lab.nsd.serve(DOMAIN, wrong)
            wanted = {what: state}
            self.until(10, lambda wanted=wanted: None if (found := lab.dns_findings()) == wanted
                       else f"mailfleet dns --check finds {found}, not {wanted}")
        lab.publish()
        self.wait(2)
        self.goes_on(began)


class LogsFull(Surroundings):
    """The disks of logs of a delivery node and of a front-end are full."""

    name = "disk-full-of-logs"

    def run(self, lab):
        mta, began = self.day.town.mta_log, self.now()
        logs = [lab[name].log for name in ("mx1", "pop1")]
        with filled(*(log.parent for log in logs)):
            self.wait(2)  # a page that was begun has room
            full, before = sizes(logs), mta.by["mx1.lab.test"]
            self.wait(6)
            self.expect(sizes(logs) == full, "there is room for logs")
            self.expect(mta.by["mx1.lab.test"] > before, "the node accepts no mail any more")
            self.expect(lab["pop1"].why_not_ready() is None, "the front-end is not ready any more")
            self.goes_on(began)
        self.until(20, lambda: None if all(new > old for new, old in zip(sizes(logs), full))
                   else "there is room again, and nothing is logged")


def sizes(files):
    return [file.stat().st_size for file in files]


class CertificatesRolled(Surroundings):
    """The certificates and keys of all nodes are replaced."""

    name = "certs-rolled"

    def run(self, lab):
        town = self.day.town
        began = self.now()
        old = self.certificates(lab)
        self.expect(len(set(old.values())) == 1, "nodes have different certificates")
        with lab.hosts["client1"].inside(), town.service.open(True) as pop3:
            box = self.day.ledger.mailboxes[town.idle[0]]
            pop3.ok(f"USER {box.address}")
            pop3.ok(f"PASS {box.password}")
            lab.renew_certificate()
            self.until(20, lambda: self.why_not_new(lab, set(old.values())))
            pop3.ok("NOOP")
            pop3.quit()
        self.expect(set(lab.dns_findings().values()) == {"differs"}, "the DNS has keys that nobody has")
        lab.publish()
        self.wait(3)
        self.well_again()
        self.goes_on(began)

    def why_not_new(self, lab, old):
        late = [name for name, found in self.certificates(lab).items() if found in old]
        return f"{', '.join(late)} still present the old certificate" if late else None

    def certificates(self, lab):
        """Node -> what it presents; the clients of the load verify it meanwhile."""
        found = {}
        with lab.operator.inside():
            for way, node in zip(self.day.town.ways, lab.front_ends):
                with way.open(True) as pop3:
                    found[node.name] = pop3.socket.getpeercert(True)
            for node in lab.delivery_nodes:
                with Smtp(25, host=node.address, name=f"{node.name}.lab.test",
                          starttls=self.day.town.tls, timeout=10) as smtp:
                    found[node.name] = smtp.socket.getpeercert(True)
        return found
