"""What bench/run has measured: its shape, and the figures that are made of it. Nothing here measures or prints.

results.json, in the folder of --state, is one object:

    {
      "format": 2,
      "machine":   {"time": "2026-11-22T15:04:05Z",       when the last run began
                    "commit": "a0e0863",                  of the tree, with "+" when it was changed
                    "facts": [["processor", "..."], ["cores", "2"], ["memory", "24 GiB"],
                              ["kernel", "..."], ["file system", "ext4 ..."], ...]},   to print as they are
      "quick":     false,                                 true: too short to be written anywhere
      "systems":   {"mailfleet": {"title": "mailfleet", "kind": "ours", "version": "0.1.0",
                                  "settings": ["fsync on", ...]},                     lines to print
                    "dovecot-sdbox": {"title": "Dovecot sdbox", "kind": "peer", ...},
                    "bare": {"title": "bare conversation", "kind": "limit", ...}},
      "scenarios": [{"name": "poll", "group": "poll", "title": "poll of an empty mailbox, 16 at once",
                     "what": "a sentence or two: what one operation is",
                     "one": "poll",                       what one operation is called
                     "systems": ["mailfleet", "dovecot-sdbox", ..., "bare"],
                     "shows": ["cpu", "rate", "p99"],     figures that matter here, the first one most
                     "facts": {"at_once": 16, "size": 4096, "recipients": 1, "messages": 0, "tls": "none"},
                     "measured": {"run": "2026-11-22T15:04:05Z",     the run that it is of: when that began
                                  "commit": "a0e0863", "time": "2026-11-22T15:20:00Z", "rounds": 3,
                                  "seconds": 8},                     of a load that ends by time
                     "targets": [{"what": "8 times fewer CPU seconds than the best peer",
                                  "figure": "cpu", "against": "peers", "relation": "<=", "value": 0.125},
                                 ...]}],
      "runs":      [{"scenario": "poll", "system": "mailfleet", "round": 1,
                     "operations": 20000, "errors": 0, "seconds": 10.0,
                     "messages": 20000,                   delivered or read; for many recipients more than operations
                     "latency_us": {"min": 1, "p50": 1, "p90": 1, "p99": 1, "p999": 1, "max": 1},
                     "cpu": {"front-end": 1.2, "PostgreSQL": 0.1, "memcached": 0.2},   seconds, by part
                     "client_cpu": 0.9,                   of the load generator
                     "memory": {"before": 1, "during": 2, "after": 1},   PSS in octets, around the sessions; idle only
                     "written": 123,                      octets that the system's processes wrote, by whole pages
                     "device_written": 456,               octets that the disk was given meanwhile, by whomever
                     "octets_in": 1, "octets_out": 2,     as the load generator counts: sent, received
                     "stolen": 0.01, "again": 1,          share of the processors' time that the host took;
                                                          how often the round was taken again for that
                     "extra": {"wal_syncs": 2},           more (EXTRA), of this system or scenario alone
                     "problem": "..."}]                   only when it failed: no figure is made of such a run
    }

Absent or null: not measured (a limit has no memory, a probe no latency). A run with errors or with a
problem counts for nothing, and is told.

A target compares mailfleet's median with another: "against" is
    "peers"             the best peer of that scenario, by that figure;
    "SYSTEM"            this system, in the same scenario;
    "SCENARIO/SYSTEM"   the same figure in another scenario;
    null                nothing: "value" is the bound of the figure itself.
It is reached when mailfleet / other is "<=" or ">=" than "value".

Figures, of one run (FIGURES says how they are named, and whether less is better):
    cpu          CPU seconds of all parts for 1,000 operations
    rate         operations a second
    messages     messages a second
    throughput   octets a second that the clients got (or sent, if these are more)
    p50, p99, p999, max   latency, seconds
    time         seconds for one operation: the median latency
    session      octets of memory for one session
    written      octets written to the disk for one operation
    amplified    octets that the disk was given for each octet of the message as it was sent once
    together     deliveries for each sync of the database's log
    queries      statements of the nodes for one operation, but for what they ask by themselves in the time
    cache        commands to memcached for one operation
    files        files of messages for one operation
    transactions transactions that made pointers, for one operation
    errors       of a run; the only figure that a run with errors has, and its worst round is judged
"""

import json
import statistics
from collections import namedtuple

# Figure -> (title, unit, whether less is better).
FIGURES = {
    "cpu": ("CPU for 1,000", "s", True),
    "rate": ("rate", "/s", False),
    "messages": ("messages", "/s", False),
    "throughput": ("throughput", "B/s", False),
    "p50": ("median latency", "s", True),
    "p99": ("p99 latency", "s", True),
    "p999": ("p99.9 latency", "s", True),
    "max": ("longest latency", "s", True),
    "time": ("time of one", "s", True),
    "session": ("memory of a session", "B", True),
    "written": ("written for one", "B", True),
    "amplified": ("written for each octet of mail", "", True),
    "together": ("deliveries for each sync", "", False),
    "queries": ("statements for one", "", True),
    "cache": ("cache commands for one", "", True),
    "files": ("files for one", "", True),
    "transactions": ("transactions for one", "", True),
    "errors": ("errors", "", True),
}

# Figure -> what a system has to count for it beside the rest (System.extra).
EXTRA = {"together": "wal_syncs", "queries": "queries", "cache": "cache", "files": "files",
         "transactions": "transactions"}

OURS = "mailfleet"
FORMAT = 2
ROUNDS_LEAST = 2  # of what is published

Spread = namedtuple("Spread", "median low high count")
Verdict = namedtuple("Verdict", "target ours other other_system ratio reached")


def load(path):
    with open(path, encoding="utf-8") as f:
        results = json.load(f)
    if results.get("format") != FORMAT:
        raise ValueError("of another format")
    return results


def scenario(results, name):
    return next((s for s in results["scenarios"] if s["name"] == name), None)


def unpublishable(results):
    """Why these are not what a page may show, or None: scenarios are of one tree, each of some rounds."""
    if results["quick"]:
        return "a quick run is too short to be written down"
    measured = [s["measured"] for s in results["scenarios"]]
    short = [s["name"] for s in results["scenarios"] if s["measured"]["rounds"] < ROUNDS_LEAST]
    commits = sorted({m["commit"] for m in measured})
    if short:
        return f"less than {ROUNDS_LEAST} rounds: {', '.join(short)}"
    if len(commits) > 1:
        return f"scenarios are of several commits: {', '.join(commits)}"
    if any(commit.endswith("+") for commit in commits) and len({m["run"] for m in measured}) > 1:
        return "scenarios of several runs are of a tree that was changed: nobody knows whether it is the same"
    return None


# --- figures ------------------------------------------------------------------------------------------


def figure(run, name, facts):
    """One figure of one run, or None when it was not measured."""
    if name == "errors" and (run["operations"] or run["errors"]):
        return run["errors"]
    if run.get("problem") or run["errors"] or not run["operations"]:
        return None
    latency = run.get("latency_us") or {}
    if name in latency:
        return latency[name] / 1e6
    made = {"cpu": of_cpu, "rate": of_rate, "messages": of_messages, "throughput": of_throughput,
            "time": of_time, "session": of_session, "written": of_written,
            "amplified": of_amplified, "together": of_together, "queries": of_extra("queries"),
            "cache": of_extra("cache"), "files": of_extra("files"), "transactions": of_extra("transactions")}
    return made[name](run, facts) if name in made else None


def of_cpu(run, _facts):
    return None if run.get("cpu") is None else 1000 * sum(run["cpu"].values()) / run["operations"]


def of_rate(run, _facts):
    return run["operations"] / run["seconds"] if run.get("seconds") else None


def of_messages(run, _facts):
    return run["messages"] / run["seconds"] if run.get("messages") and run.get("seconds") else None


def of_throughput(run, _facts):
    octets = max(run.get("octets_in") or 0, run.get("octets_out") or 0)
    return octets / run["seconds"] if octets and run.get("seconds") else None


def of_time(run, facts):
    return figure(run, "p50", facts)


def of_session(run, facts):
    memory = run.get("memory")
    return (memory["during"] - memory["before"]) / run["operations"] if memory else None


def of_written(run, _facts):
    return None if run.get("written") is None else run["written"] / run["operations"]


def of_amplified(run, facts):
    if run.get("device_written") is None or not facts.get("size"):
        return None
    return run["device_written"] / run["operations"] / facts["size"]


def of_together(run, _facts):
    extra = run.get("extra") or {}
    return run["operations"] / extra["wal_syncs"] if extra.get("wal_syncs") else None


def of_extra(name):
    def made(run, _facts):
        extra = run.get("extra") or {}
        return extra[name] / run["operations"] if name in extra else None
    return made


def values(results, name, system, wanted):
    """That figure of all rounds of a system in a scenario."""
    at = scenario(results, name)
    if at is None:
        return []
    found = (figure(run, wanted, at["facts"]) for run in results["runs"]
             if run["scenario"] == name and run["system"] == system)
    return [value for value in found if value is not None]


def spread(results, name, system, wanted):
    """Median, least and most of them, or None."""
    found = values(results, name, system, wanted)
    return Spread(statistics.median(found), min(found), max(found), len(found)) if found else None


# --- comparing -----------------------------------------------------------------------------------------


def best_peer(results, name, wanted):
    """(system, spread) of the peer that is best at it, or None."""
    peers = [s for s in scenario(results, name)["systems"]
             if results["systems"].get(s, {}).get("kind") == "peer"]
    found = [(s, spread(results, name, s, wanted)) for s in peers]
    found = [(s, v) for s, v in found if v]
    if not found:
        return None
    choose = min if FIGURES[wanted][2] else max
    return choose(found, key=lambda pair: pair[1].median)


def other_of(results, name, target):
    """(what it is compared with, its median), or None when that was not measured."""
    against = target["against"]
    if against == "peers":
        best = best_peer(results, name, target["figure"])
        return best and (best[0], best[1].median)
    at, _, system = against.rpartition("/")
    found = spread(results, at or name, system, target["figure"])
    return found and (against, found.median)


def judge(results, name):
    """A Verdict for each target of a scenario; what was not measured is not reached (None)."""
    return [judge_one(results, name, target) for target in scenario(results, name)["targets"]]


def judge_one(results, name, target):
    ours = spread(results, name, OURS, target["figure"])
    if ours is None:
        return Verdict(target, None, None, None, None, None)
    median = ours.high if target["figure"] == "errors" else ours.median
    ratio, other = median, None
    if target["against"] is not None:
        other = other_of(results, name, target)
        if other is None:
            return Verdict(target, median, None, None, None, None)
        ratio = median / other[1] if other[1] else float("inf")
    reached = ratio <= target["value"] if target["relation"] == "<=" else ratio >= target["value"]
    return Verdict(target, median, other and other[1], other and other[0], ratio, reached)
