"""The command line of deploy/quickstart, which installs and builds first."""

import argparse
import json
import os
import sys

import demonstration
from fleet import DEFAULT_BASE_PORT, HOST, PORTS, Fleet, FleetError

NAS_VOLUMES = 2

COMMANDS = """\
commands:
  (none)            start everything and show that it works
  up                start what is missing; keeps all data
  down              stop everything; keeps all data
  status [--json]   what runs where; --json for tools
  start NAME        one part: postgres, memcached, deliver1, deliver2, frontend1,
  stop NAME         frontend2, haproxy or nas
  kill NAME         the same with SIGKILL
"""


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="deploy/quickstart", epilog=COMMANDS,
        description="A whole mailfleet on this machine: two delivery nodes, two front-ends, "
                    "HAProxy, PostgreSQL and memcached.",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("command", nargs="?", default="all", metavar="COMMAND",
                        choices=["all", "up", "down", "status", "start", "stop", "kill"])
    parser.add_argument("name", nargs="?", metavar="NAME", help="for start, stop and kill")
    parser.add_argument("--json", action="store_true", help="for status")
    parser.add_argument("--state", metavar="DIR", default=os.environ["MAILFLEET_STATE"],
                        help="the folder that holds everything (default: "
                             "/var/lib/mailfleet-quickstart, for other users than root "
                             "~/.local/state/mailfleet-quickstart)")
    parser.add_argument("--base-port", type=int, metavar="N",
                        help=f"ports N to N + {PORTS - 1} are used "
                             f"(default {DEFAULT_BASE_PORT}; remembered)")
    parser.add_argument("--nas", action="store_true",
                        help="for a new fleet: the mail is on two volumes of an NFS server on "
                             "this machine, instead of in a local folder (remembered); needs "
                             "root or sudo; not where there are users that you do not trust")
    options = parser.parse_intermixed_args(argv)
    if (options.name is None) == (options.command in ("start", "stop", "kill")):
        parser.error("start, stop and kill take the NAME of a part, the others none")
    if options.base_port is not None and not 1024 <= options.base_port <= 65536 - PORTS:
        parser.error(f"--base-port is a number from 1024 to {65536 - PORTS}")
    return options


def state_of(part, pids):
    if not pids:
        return "down"
    reason = part.probe()
    return "ready" if reason is None else f"up, but not ready: {reason.splitlines()[0]}"


def print_status(fleet):
    status = fleet.status()
    where = {"postgres": str(fleet.ports.postgres), "memcached": str(fleet.ports.memcached),
             "nas": f"nfs {fleet.ports.nfs}, mount {fleet.ports.mount}",
             "haproxy": f"smtp {fleet.ports.smtp}, pop3 {fleet.ports.pop3}, "
                        f"pop3s {fleet.ports.pop3s}"}
    for node in fleet.delivery_nodes + fleet.front_ends:
        where[node.name] = ", ".join(f"{kind} {port}" for kind, port in node.ports.items()
                                     if not kind.endswith("_proxy"))
    rows = [("PART", "STATE", "PIDS", f"PORTS ON {HOST}")]
    for part in fleet.parts:
        pids = status["pids"][part.name]
        rows.append((part.name, state_of(part, pids),
                     " ".join(map(str, pids[:4])) + (" ..." if len(pids) > 4 else ""),
                     where[part.name]))
    print_table(rows)
    print()
    print_table([("ACCOUNT", "PASSWORD"),
                 *((a["address"], a["password"]) for a in status["accounts"])])
    print()
    print_table([("volume " + str(volume["id"]), volume["url"]) for volume in status["volumes"]]
                + [("CA", status["ca"]), ("logs", str(fleet.state / "log")),
                   ("operator", f"{status['admin']} --config {status['config']}")])


def print_table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def run(options, fleet):
    if options.command not in ("all", "up") and not fleet.config.exists():
        if options.command == "down":
            return
        raise FleetError(f"there is no fleet in {fleet.state} yet")
    if options.command == "status":
        if options.json:
            print(json.dumps(fleet.status(), indent=2))
        else:
            print_status(fleet)
        return
    with fleet.locked():
        if options.command == "down":
            fleet.down()
            print("the fleet is down")
        elif options.command in ("start", "stop", "kill"):
            part = fleet[options.name]
            {"start": part.up, "stop": part.stop, "kill": part.kill}[options.command]()
        else:
            fleet.up()
            demonstration.add_accounts(fleet)
            if options.command == "all":
                demonstration.show(fleet)
            demonstration.how_to_connect(fleet)


def main(argv):
    options = parse(argv)
    try:
        run(options, Fleet(options.state, options.base_port,
                           build=os.environ.get("MAILFLEET_BUILD"),
                           say=lambda line: print(f"  {line}", flush=True),
                           nas=NAS_VOLUMES if options.nas else 0))
    except FleetError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `status | head`: nobody reads the rest, nor what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
