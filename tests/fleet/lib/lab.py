"""The laboratory: a whole fleet, each part of it on a host of its own, with what surrounds it.

Lab is a Fleet whose parts have places; hosts are in lab.hosts by name, parts in lab[name]:

    dns1                    nsd1: the zone, with what `mailfleet dns` prints in it
    mx1 mx2, mx3            the delivery nodes (preference 10, 10 and 20), parts of the same names
    pop1 pop2               the front-ends, the same
    lb1 lb2                 haproxy1, keepalived1, ...: one of them has the service's address
    db1 db2 db3             etcd1, patroni1, pgbouncer1 (which nodes use with pgbouncer=True), ...
    cache1 cache2 cache3    memcached1, ...
    nas1 nas2               ganesha1, ...: a volume each, on a file system of its own (VOLUME_SIZE)
    out1                    postfix1: the sending MTA
    client1                 where the mail clients are
    ops                     where the operator's command is run

recover() is the end of every fault: all of it is as it was, or it says what is not. Nothing of this
knows scenarios or messages. Everything is in one folder, which is memory, and on its hosts.
"""

import collections
import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

from fleet import Fleet, Node, Ports, greeting
from hosts import SUBNET, Host, thaw_all, unmount_below
from nas import Ganesha
from part import ROOT, FleetError, processes
from parts import Balancer, Cache, Etcd, Keepalived, Mta, NameServer, Patroni, Pgbouncer, template

DOMAIN = "lab.test"
SERVICE = f"{SUBNET}.100"
STATE_SIZE = "6g"
VOLUME_SIZE = "192m"
LOG_SIZE = "48m"

HOSTS = {"dns1": 2, "mx1": 11, "mx2": 12, "mx3": 13, "pop1": 21, "pop2": 22, "db1": 31, "db2": 32,
         "db3": 33, "lb1": 41, "lb2": 42, "cache1": 51, "cache2": 52, "cache3": 53, "nas1": 61,
         "nas2": 62, "out1": 71, "client1": 81, "ops": 91}
# Whose packet filter of deploy/firewall a host has; the others are not the fleet's.
ROLES = {"dns": "dns", "mx": "deliver", "pop": "frontend", "db": "database", "lb": "balancer",
         "cache": "cache", "nas": "filer"}
PREFERENCE = {"mx1": 10, "mx2": 10, "mx3": 20}


class LabPorts(Ports):
    """What the world knows: each part has a host of its own."""

    def __init__(self):
        super().__init__(0)
        self.smtp, self.pop3, self.pop3s, self.balancer_health = 25, 110, 995, 8404
        self.memcached, self.nfs, self.mount = 11211, 2049, 20048

    def deliver(self, n):
        return {"smtp": 25, "smtp_proxy": 2525, "lmtp": 24, "agent": 9126, "health": 9125}

    def frontend(self, n):
        return {"pop3": 1100, "pop3s": 9950, "pop3_proxy": 110, "pop3s_proxy": 995,
                "agent": 9111, "health": 9110}


class Lab(Fleet):
    service = SERVICE

    def __init__(self, network, state, build, settings=None, env=None, pgbouncer=False,
                 say=lambda line: None):
        self.network = network
        self.pgbouncer = pgbouncer
        self.hosts = {name: Host(network, name, number) for name, number in HOSTS.items()}
        self.operator = self.hosts["ops"]
        super().__init__(state, build=build, settings={
            "dns.servers": self.hosts["dns1"].address,
            "proxy.networks": ", ".join(self.hosts[lb].address for lb in ("lb1", "lb2")),
            "node.health_networks": network.subnet,
            # A test has few addresses, which do what those of a whole town do.
            "limits.exempt": network.subnet,
            "node.drain_time": "3s",
            # All hosts share the processors of one, and those perhaps with other tests.
            "cache.timeout": "200ms",
            **self.public(),
            **(settings or {})}, env=env, say=say)
        self.ports = LabPorts()
        self.node_settings = {node.name: {"smtp.hostname": f"{node.name}.{DOMAIN}"}
                              for node in self.delivery_nodes}

    # --- what there is -----------------------------------------------------------------------------

    def make_delivery_nodes(self, count):
        return [Node(self, name, "mailfleet-deliver", LabPorts().deliver(1), self.hosts[name])
                for name in PREFERENCE]

    def make_front_ends(self, count):
        return [Node(self, name, "mailfleet-frontend", LabPorts().frontend(1), self.hosts[name])
                for name in ("pop1", "pop2")]

    def make_parts(self):
        hosts = self.hosts
        three = [(n, hosts[f"db{n}"]) for n in (1, 2, 3)]
        self.etcd = [Etcd(self, f"etcd{n}", host) for n, host in three]
        Etcd.members = self.etcd
        bin_dir = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
        self.patroni = [Patroni(self, f"patroni{n}", host,
                                [f"{etcd.address}:2379" for etcd in self.etcd], bin_dir)
                        for n, host in three]
        self.pgbouncers = [Pgbouncer(self, f"pgbouncer{n}", host) for n, host in three]
        self.caches = [Cache(self, f"memcached{n}", hosts[f"cache{n}"]) for n in (1, 2, 3)]
        user = pwd.getpwnam(self.user)
        self.nas = [Ganesha(self, f"ganesha{n}", 2049, 20048, [self.state / "nas" / f"nas{n}"],
                            self.state / "bin" / "no_portmapper.so", place=hosts[f"nas{n}"],
                            export={"Squash": "All_Squash", "Anonymous_uid": user.pw_uid,
                                    "Anonymous_gid": user.pw_gid}) for n in (1, 2)]
        self.nsd = NameServer(self, "nsd1", hosts["dns1"], {DOMAIN: self.zone()})
        self.balancers = [Balancer(self, f"haproxy{n}", hosts[f"lb{n}"]) for n in (1, 2)]
        self.keepalived = [Keepalived(self, "keepalived1", hosts["lb1"], hosts["lb2"], 150),
                           Keepalived(self, "keepalived2", hosts["lb2"], hosts["lb1"], 100)]
        self.mta = Mta(self, "postfix1", hosts["out1"], hosts["dns1"].address)
        parts = [self.nsd, *self.etcd, *self.patroni, *self.pgbouncers, *self.caches, *self.nas,
                 *self.delivery_nodes, *self.front_ends, *self.balancers, *self.keepalived,
                 self.mta]
        for part in parts:
            part.log = self.state / "log" / part.place.name / f"{part.name}.log"
        return parts

    def parts_on(self, host):
        return [part for part in self.parts if part.place is self.hosts[host]]

    def public(self):
        """What the world is to know."""
        addresses = {"pop": SERVICE, **{name: self.hosts[name].address for name in PREFERENCE}}
        return {"public.mx": ", ".join(f"{name}.{DOMAIN}:{preference}"
                                       for name, preference in PREFERENCE.items()),
                "public.pop3s": f"pop.{DOMAIN}", "public.pop3": f"pop.{DOMAIN}",
                "public.addresses": " ".join(f"{name}.{DOMAIN}={address}"
                                             for name, address in addresses.items()),
                "public.ttl": "1m", "public.tls_rpt": f"mailto:tls@{DOMAIN}"}

    def zone(self, records=""):
        """As deploy/dns/example.net.zone is: what is not the fleet's, and its records."""
        hosts = "".join(f"{name} A {host.address}\n" for name, host in self.hosts.items()
                        if name not in PREFERENCE)
        return (f"$ORIGIN {DOMAIN}.\n$TTL 5\n@ SOA dns1 hostmaster 1 60 60 3600 5\n@ NS dns1\n"
                f"{hosts}{records}")

    def publish(self):
        """The zone as `mailfleet dns` has it, which knows the domain; until that is served."""
        self.nsd.serve(DOMAIN, self.zone(self.admin("dns", DOMAIN)))
        self.wait_for(20, self.why_not_published)

    def why_not_published(self):
        found = self.dns_findings()
        return f"mailfleet dns --check finds {found}" if found else None

    def dns_findings(self):
        """What `mailfleet dns --check` finds in the zone: (name, type) -> state."""
        with self.operator.inside():
            done = subprocess.run([self.admin_program, "--config", self.config, "dns", "--check", "--json",
                                   DOMAIN], cwd="/", stdout=subprocess.PIPE, text=True, check=False,
                                  stderr=subprocess.PIPE, env=self.env, **self.run_as(self.user))
        if done.returncode not in (os.EX_OK, 1, os.EX_TEMPFAIL):
            raise FleetError(done.stderr)
        return {(row["name"], row["what"]): row["state"] for row in json.loads(done.stdout)}

    def certificate_names(self):
        return ["localhost", DOMAIN, f"*.{DOMAIN}"]

    @property
    def database_hosts(self):
        port = 6432 if self.pgbouncer else 5432
        return ",".join(f"{part.address}:{port}" for part in self.patroni)

    @property
    def cache_servers(self):
        return [f"{cache.address}:11211" for cache in self.caches]

    def volume_urls(self):
        user = pwd.getpwnam(self.user)
        return [nas.url(1, user.pw_uid, user.pw_gid) for nas in self.nas]

    def check_ports(self):
        """All are free: the hosts are new."""

    # --- up and down -------------------------------------------------------------------------------

    def up(self):
        self.mount(self.state, STATE_SIZE)
        self.lay_out()
        for host in self.hosts:
            self.make_dir(self.state / "log" / host, None, 0o755)
            if host.startswith(("mx", "pop")):
                self.mount(self.state / "log" / host, LOG_SIZE)
        for nas in self.nas:
            folder = nas.exports[1]
            self.make_dir(folder, None, 0o755)
            self.mount(folder, VOLUME_SIZE)
            self.own(folder, self.user, 0o750)
        for host in self.hosts.values():
            self.set_up_kernel(host)
        behind = [self.nsd, *self.etcd, *self.caches, *self.nas, *self.pgbouncers]
        self.start_all(behind + self.patroni)
        self.wait_for(60, self.why_no_database)
        self.create_database()
        self.init_store()
        self.start_all(self.parts)
        self.wait_for(30, self.why_not_recovered)

    @staticmethod
    def mount(folder, size):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"nosuid,nodev,mode=755,size={size}",
                        "mailfleet-lab", folder], check=True)

    def set_up_kernel(self, host):
        """Packet filter and sysctls, as deploy/ has them for its role."""
        kind = host.name.rstrip("0123456789")
        if kind in ("mx", "pop", "lb"):
            host.sysctl(ROOT / "deploy/sysctl/60-mailfleet.conf")
        if kind == "lb":
            host.sysctl(ROOT / "deploy/sysctl/61-mailfleet-balancer.conf")
        if kind in ROLES:
            host.run("nft", "-f", "-", stdin=template(
                "firewall/nftables.conf", role=ROLES[kind], nodes=self.addresses("mx", "pop"),
                balancers=self.addresses("lb"), databases=self.addresses("db"),
                operators=self.addresses("ops")))

    def addresses(self, *kinds):
        return ", ".join(host.address for host in self.hosts.values()
                         if host.name.rstrip("0123456789") in kinds)

    def start_all(self, parts):
        """Those that do not run, all at once; each on a host that is on. Until they are ready."""
        parts = [part for part in parts if part.place.on]
        for part in parts:
            part.start()
        for part in parts:
            part.wait_ready()

    def down(self):
        """Nodes in good order, which tells their last words; the rest with its hosts.

        What is found in the nodes' logs that must never be there.
        """
        told = []
        for node in self.delivery_nodes + self.front_ends:
            if node.pids() and not node.stop():
                told.append(f"{node.name} did not stop in time and was killed")
        return told

    def remove(self):
        """The state folder too: only when nothing runs any more."""
        unmount_below(self.state)
        with contextlib.suppress(OSError):
            self.state.rmdir()

    # --- how it is -----------------------------------------------------------------------------

    def roles(self):
        """name of each Patroni -> role and state, as most of those know them that answer to others:
        one that is cut off may take an old primary for the primary."""
        found = []
        for part in self.patroni:
            if part.place.on:
                with contextlib.suppress(OSError, ValueError, KeyError), self.operator.inside():
                    found.append(part.cluster())
        if not found:
            raise OSError("no Patroni answers")
        leaders = collections.Counter(leader_of(roles) for roles in found)
        return next(roles for roles in found if leader_of(roles) == leaders.most_common(1)[0][0])

    def primary(self):
        """The Patroni whose PostgreSQL is the primary, or None."""
        with contextlib.suppress(OSError):
            if leader := leader_of(self.roles()):
                return self[leader]
        return None

    def balancer(self):
        """The keepalived that has the service's address; None when there is none, or two."""
        found = [part for part in self.keepalived if part.holds()]
        return found[0] if len(found) == 1 else None

    def why_no_database(self):
        """What is missing of a primary with two standbys, one of them synchronous; or None."""
        try:
            roles = self.roles()
        except OSError as error:
            return str(error)
        wanted = sorted(["leader", "sync_standby", "replica"])
        if sorted(role for role, _ in roles.values()) != wanted \
                or any(state not in ("running", "streaming") for _, state in roles.values()):
            return f"the database is not whole: {roles}"
        return None

    def why_not_recovered(self):
        reasons = [f"{part.name}: {reason}" for part in self.parts
                   if (reason := part.why_not_ready())]
        if self.balancer() is None:
            reasons.append("the service's address is not on one balancer")
        database = self.why_no_database()
        return "; ".join(reasons + ([database] if database else [])) or None

    @staticmethod
    def wait_for(seconds, why_not):
        deadline = time.monotonic() + seconds
        while reason := why_not():
            if time.monotonic() > deadline:
                raise FleetError(f"not within {seconds} s: {reason}")
            time.sleep(0.1)

    def empty_caches(self):
        """Everything that is cached is forgotten, tombstones too: the next poll asks the database."""
        for cache in self.caches:
            with cache.place.inside():
                greeting(cache.address, 11211, b"flush_all\r\n")

    def reload(self, settings):
        """Other settings of all nodes, in force when this returns; None takes one back."""
        self.settings.update(settings)
        self.settings = {key: value for key, value in self.settings.items() if value is not None}
        nodes = [node for node in self.delivery_nodes + self.front_ends if node.pids()]
        before = {node.name: self.reloads(node) for node in nodes}
        for node in nodes:
            node.prepare()
            os.kill(node.pids()[0], signal.SIGHUP)
        self.wait_for(20, lambda: next((f"{node.name} has not reloaded" for node in nodes
                                        if self.reloads(node) == before[node.name]), None))

    def renew_certificate(self):
        """Another certificate with another key, as a tool for that puts them there: the key first."""
        new = self.state / "tls.new"
        self.make_dir(new, None, 0o700)
        for name in "ca.pem", "ca.key":
            shutil.copy2(self.state / "tls" / name, new)
        self.issue_certificate(new)
        for name in "node.key", "node.pem":
            (new / name).rename(self.state / "tls" / name)
        shutil.rmtree(new)

    @staticmethod
    def reloads(node):
        return node.log.read_text(errors="replace").count(" worker.reloaded ")

    # --- faults and their end ----------------------------------------------------------------------

    def power_off(self, host):
        self.say(f"{host}: power off")
        self.hosts[host].power_off()

    def power_on(self, host):
        self.say(f"{host}: power on")
        self.hosts[host].power_on()
        self.start_all(self.parts_on(host))

    def recover(self, seconds=60):
        """No cut, every host on, nothing frozen, every part there and ready."""
        for host in self.hosts.values():
            if host.cuts:
                host.heal()
            if not host.on:
                host.power_on()
        alive = processes()
        thaw_all([host.path for host in self.hosts.values()], alive)
        for part in self.parts:
            if not part.runs(alive):
                part.start()
        self.wait_for(seconds, self.why_not_recovered)


def leader_of(roles):
    return next((name for name, (role, _) in roles.items() if role == "leader"), None)


def remove_states(makers, folder):
    """State folders that dead makers left behind, by their pids."""
    for path in Path(folder).glob("mailfleet-lab-*"):
        if path.name.split("-")[2] in makers or not os.path.exists(
                f"/proc/{path.name.split('-')[2]}"):
            unmount_below(path)
            with contextlib.suppress(OSError):
                path.rmdir()
