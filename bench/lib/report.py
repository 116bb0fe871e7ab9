#!/usr/bin/python3 -B
"""report: what bench/run has measured, as tables for a terminal, and as docs/benchmarks/speed.md.

    bench/lib/report.py RESULTS [--write]

Everything is made of the stored results, and of nothing else: the same ones make the same octets.
What figures are and which targets they reach is for results.py to say; this only says it well.
"""

import argparse
import statistics
import sys
from pathlib import Path

import results as of

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs/benchmarks"


# --- numbers -------------------------------------------------------------------------------------


def significant(value, digits=3):
    """1234.5 -> 1,234; 1.2345 -> 1.23; 0.012345 -> 0.0123"""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    magnitude = f"{rounded:e}".partition("e")[2]
    return f"{value:,.{max(0, digits - 1 - int(magnitude))}f}"


def octets(value):
    for unit in "B", "KiB", "MiB", "GiB":
        if value < 1024 or unit == "GiB":
            return f"{significant(value)} {unit}"
        value /= 1024
    raise AssertionError


def seconds(value):
    if value >= 1:
        return f"{significant(value)} s"
    return f"{significant(1000 * value)} ms" if value >= 1e-3 else f"{significant(1e6 * value)} µs"


def shown(figure, value):
    """A figure with its unit, as a person reads it."""
    unit = of.FIGURES[figure][1]
    if figure == "cpu":
        return f"{significant(value)} s"
    return {"s": seconds, "B": octets, "B/s": lambda v: f"{octets(v)}/s",
            "/s": lambda v: f"{significant(v)}/s", "": significant}[unit](value)


def cell(figure, spread):
    """Median, and how far single runs went."""
    if spread is None:
        return "-"
    if spread.count == 1:
        return shown(figure, spread.median)
    return f"{shown(figure, spread.median)} ({shown(figure, spread.low)} - {shown(figure, spread.high)})"


def title(figure):
    return of.FIGURES[figure][0]


# --- one scenario --------------------------------------------------------------------------------


def kind(results, system):
    return results["systems"].get(system, {}).get("kind", "limit")


def name_of(results, system):
    """Of a system, or of SCENARIO/SYSTEM."""
    at, _, last = system.rpartition("/")
    named = results["systems"].get(last, {}).get("title", last)
    there = at and of.scenario(results, at)
    return f"{named} ({there['title']})" if there else named


def measured(results, name):
    """Systems of which there is a figure, ours first."""
    at = of.scenario(results, name)
    order = {"ours": 0, "peer": 1, "limit": 2}
    there = [s for s in at["systems"] if any(of.values(results, name, s, f) for f in at["shows"])]
    return sorted(there, key=lambda s: order[kind(results, s)])


def beside(results, name, system):
    """How many times ours the first figure of a system is."""
    figure = of.scenario(results, name)["shows"][0]
    ours = of.spread(results, name, of.OURS, figure)
    other = of.spread(results, name, system, figure)
    if not ours or not other or not ours.median:
        return "-"
    return f"{significant(other.median / ours.median)}"


def rows(results, name):
    """The table of a scenario, its header first."""
    figures = of.scenario(results, name)["shows"]
    there = measured(results, name)
    compared = of.OURS in there
    found = [["", *map(title, figures)] + [f"{title(figures[0])}, mailfleet = 1"] * compared]
    for system in there:
        found.append([name_of(results, system),
                      *(cell(f, of.spread(results, name, system, f)) for f in figures)]
                     + [beside(results, name, system)] * compared)
    return found


def parts(results, name, system):
    """[(part, CPU seconds for 1,000)], of the round whose sum is the median or next to it."""
    at = of.scenario(results, name)
    found = [(of.figure(run, "cpu", at["facts"]), run) for run in results["runs"]
             if run["scenario"] == name and run["system"] == system]
    found = sorted((pair for pair in found if pair[0] is not None), key=lambda pair: pair[0])
    if not found:
        return []
    run = found[(len(found) - 1) // 2][1]
    return [(part, 1000 * cpu / run["operations"]) for part, cpu in run["cpu"].items()]


def part_rows(results, name):
    """Where our CPU seconds go, and those of whoever has parts."""
    found = [(s, parts(results, name, s)) for s in measured(results, name)]
    return [[name_of(results, s), ", ".join(f"{part} {significant(cpu)}" for part, cpu in those)]
            for s, those in found if len(those) > 1]


def bound(target):
    """`at most 0.125` of the other, or of its own."""
    words = {"<=": "at most", ">=": "at least"}[target["relation"]]
    if target["against"] is None:
        return f"{words} {shown(target['figure'], target['value'])}"
    return f"{words} {significant(target['value'])}"


def verdict_row(results, verdict):
    target = verdict.target
    if verdict.ours is None:
        return [target["what"], "not measured", "-", "-", "-"]
    ours = f"{title(target['figure'])} {shown(target['figure'], verdict.ours)}"
    if verdict.reached is None:
        return [target["what"], ours, "not measured", "-", "not known"]
    if verdict.other is None:
        return [target["what"], ours, "-", bound(target), "yes" if verdict.reached else "**no**"]
    other = f"{name_of(results, verdict.other_system)}: {shown(target['figure'], verdict.other)}"
    return [target["what"], ours, other, f"{significant(verdict.ratio)} ({bound(target)})",
            "yes" if verdict.reached else "**no**"]


VERDICTS = ["target", "mailfleet", "beside it", "ratio", "reached"]


def problems(results, name):
    """What was measured and does not count."""
    for run in results["runs"]:
        if run["scenario"] == name and (run.get("problem") or run["errors"]):
            said = run.get("problem") or f"{run['errors']} errors"
            yield f"{name_of(results, run['system'])}, round {run['round']}: {said}"


# --- a terminal ----------------------------------------------------------------------------------


def aligned(table):
    widths = [max(len(row[n]) for row in table) for n in range(len(table[0]))]
    lines = ["  ".join([row[0].ljust(widths[0])]
                       + [word.rjust(width) for word, width in zip(row[1:], widths[1:])])
             for row in table]
    return "\n".join(line.rstrip() for line in lines)


def text(results, name):
    """A scenario, to be printed."""
    at = of.scenario(results, name)
    lines = [f"{at['title']} ({name})", aligned(rows(results, name))]
    lines += [f"CPU s for 1,000, {system}: {said}" for system, said in part_rows(results, name)]
    for verdict in of.judge(results, name):
        what, ours, other, ratio, reached = verdict_row(results, verdict)
        lines.append(f"{reached.strip('*'):>9}: {what}: {ours}; {other}; {ratio}")
    lines += [f"does not count: {line}" for line in problems(results, name)]
    return "\n".join(lines) + "\n"


# --- the page ------------------------------------------------------------------------------------


def markdown(table, left=1):
    """left: so many columns are text."""
    rule = [":---" if n < left else "---:" for n in range(len(table[0]))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [table[0], rule, *table[1:]])


def bars_of(results, name, figure):
    """The bars of a panel: parts where they are known, for ours."""
    from plots import Bar
    for system in measured(results, name):
        spread = of.spread(results, name, system, figure)
        if spread is None:
            continue
        those = parts(results, name, system) if figure == "cpu" else []
        if kind(results, system) != "ours" or len(those) < 2:
            those = [(None, spread.median)]
        yield Bar(name_of(results, system), those, kind(results, system), spread.low, spread.high,
                  shown(figure, spread.median))


def plot(results, name, folder):
    """Writes a scenario's plot; its name."""
    from plots import Panel, bars
    figures = of.scenario(results, name)["shows"]
    panels = [Panel(f"{title(f)} ({'less' if of.FIGURES[f][2] else 'more'} is better)",
                    list(bars_of(results, name, f))) for f in figures]
    bars(folder / f"{name}.svg", [panel for panel in panels if panel.bars])
    return f"{folder.name}/{name}.svg"


def section(results, at, folder):
    name = at["name"]
    measured_at = at["measured"]
    lines = [f"### {at['title']}", "", at["what"], "",
             f"{measured_at['rounds']} rounds, {moment(measured_at['time'])}.", ""]
    if measured(results, name):
        lines += [f"![{at['title']}: {', '.join(map(title, at['shows']))}]"
                  f"({plot(results, name, folder)})", "", markdown(rows(results, name)), ""]
    else:
        lines += ["Not measured.", ""]
    if split := part_rows(results, name):
        lines += ["CPU seconds for 1,000, by part:", "",
                  *(f"- {system}: {said}" for system, said in split), ""]
    if at["targets"]:
        lines += [markdown([VERDICTS, *(verdict_row(results, v)
                                        for v in of.judge(results, name))], left=5), ""]
    if failed := list(problems(results, name)):
        lines += ["These runs don't count:", "", *(f"- {line}" for line in failed), ""]
    return lines


def summary(results):
    """All targets."""
    found = [[at["title"], *verdict_row(results, verdict)]
             for at in results["scenarios"] for verdict in of.judge(results, at["name"])]
    reached = sum(row[-1] == "yes" for row in found)
    return [f"{reached} of {len(found)} targets are reached.", "",
            markdown([["", *VERDICTS], *found], left=6), ""]


def moment(time):
    return time.replace("T", ", ").replace("Z", " UTC")


def machine(results):
    lines = [f"Measured {moment(results['machine']['time'])}, at commit {results['machine']['commit']}.", ""]
    lines += [f"- {name}: {value}" for name, value in results["machine"]["facts"]]
    return [*lines, *host(results.get("runs", [])), ""]


def host(runs):
    """How much a virtual machine's neighbours have disturbed."""
    shares = [run["stolen"] for run in runs if "stolen" in run]
    if not shares:
        return []
    again = sum(run.get("again", 0) for run in runs)
    return [f"- shared with others: of the processors' time the host took {statistics.median(shares):.1%} "
            f"in the median round and {max(shares):.1%} in the worst; {again} rounds that it disturbed "
            "were taken again"]


def programs(results):
    lines = []
    for system in results["systems"].values():
        version = f" {system['version']}" if system.get("version") else ""
        settings = f": {'; '.join(system['settings'])}" if system.get("settings") else ""
        lines.append(f"- **{system['title']}**{version}{settings}")
    return [*lines, ""]


INTRODUCTION = """\
# Speed

Made by

    bench/run --rounds {rounds} --seconds {seconds} --write

Every system was measured on the same machine and file system in the same run, one after the other in each
round. A figure is the median of the rounds, with the least and the most behind it. CPU seconds are those
of all processes of a system, mailfleet's with PostgreSQL and memcached; the load generators are not
counted, but have the same cores. So compare CPU seconds first: rates and latencies rest on what else the
machine does.

What is counted is what a client waits for, and half a second behind it. Nobody's deletion has given space
back by then but where files go at once: Dovecot Maildir and sdbox unlink at QUIT, mdbox leaves octets behind
for `doveadm purge`, Cyrus (`expunge_mode: delayed`) files for `cyr_expire`, and mailfleet rows of its ledger
for `mailfleet reap`. None of these three is run. What the reaper takes for a message is in
[costs.md](costs.md).

Mailboxes of many messages are filled in bulk, mailfleet's with pointers alone: those messages are listed and
deleted, and not read.

mailfleet's clients each come from an address of their own, and none is exempt from its guard against guesses.

**Peers** are the mail servers of Debian 12 in their quickest setting, **limits** what the machine can do
at most with nothing behind it. A ratio is mailfleet's figure divided by the other.
"""


def page(results, folder):
    first = results["scenarios"][0]["measured"]
    lines = [INTRODUCTION.format(rounds=first["rounds"], seconds=first["seconds"]), "## Targets", "", *summary(results), "## The machine", "",
             *machine(results), "## The programs", "", *programs(results)]
    group = None
    for at in results["scenarios"]:
        if at["group"] != group:
            group = at["group"]
            lines += [f"## {group[:1].upper()}{group[1:]}", ""]
        lines += section(results, at, folder)
    return "\n".join(lines).rstrip() + "\n"


def write(results, docs=DOCS):
    """docs/speed.md and the plots in docs/speed."""
    if why := of.unpublishable(results):
        raise ValueError(why)
    folder = docs / "speed"
    text = page(results, folder)
    for old in folder.glob("*.svg"):
        if f"{folder.name}/{old.name}" not in text:
            old.unlink()
    (docs / "speed.md").write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(prog="bench/lib/report.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", nargs="?", type=Path, const=DOCS, metavar="DIR",
                        help="write speed.md and its plots (in docs/benchmarks)")
    options = parser.parse_args()
    results = of.load(options.results)
    if options.write:
        write(results, options.write)
        return
    for at in results["scenarios"]:
        print(text(results, at["name"]))


if __name__ == "__main__":
    sys.exit(main())
