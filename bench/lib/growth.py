"""What bench/scale has measured: its shape, how costs grow, and docs/benchmarks/scale.md. Nothing here measures.

scale.json is one object:

    {"format": 1, "machine": {...}, "rounds": 3, "seconds": 5,      machine as in results.py
     "quick": false,
     "series": [{"name": "sizes", "title": "...", "of": "messages in the mailbox", "what": "...",
                 "operations": [{"name": "poll", "title": "poll", "what": "...", "figure": "cpu",
                                 "expected": "flat"}]}],
     "points": [{"series": "sizes", "operation": "poll", "at": 100, "round": 1,
                 "operations": 5000, "errors": 0, "seconds": 5.0,
                 "cpu": {"front-end": 1.2}, "queries": 10, "cache": 20000,
                 "memory": 0, "problem": "...",                     memory: octets, of sessions that stand
                 "small": {...}}],                                  what a small mailfleet did right behind it
     "storage": {"message": 250.1, "mailbox": 700.2, ...}}          octets of the database for each

Figures, for one operation:
    cpu       CPU seconds of all parts, for 1,000
    database  CPU seconds of PostgreSQL, for 1,000
    memory    octets

How a figure grows, by the medians at each place; where a small mailfleet did the same in turns, a figure is divided
by that one's, as machines change with the minutes:
    flat           nowhere more than 15 % above the first place (or above the small mailfleet)
    proportional   from no place to the next by more than what it is a figure of (and 15 %)
    worse          anything else
"""

import json
import statistics
from pathlib import Path

import report

FIGURES = {"cpu": "CPU s for 1,000", "database": "PostgreSQL's CPU s for 1,000",
           "memory": "octets for one"}
SLACK = 1.15  # of a figure that is made of few rounds on a machine that does other things, too


def load(path):
    results = json.loads(Path(path).read_text(encoding="utf-8"))
    if results.get("format") != 1:
        raise ValueError(f"{path}: of another format")
    return results


# --- figures -------------------------------------------------------------------------------------


def figure(point, name):
    if point.get("problem") or point["errors"] or not point["operations"]:
        return None
    if name == "memory":
        return point["memory"] / point["operations"]
    spent = point["cpu"].get("PostgreSQL", 0) if name == "database" else sum(point["cpu"].values())
    return 1000 * spent / point["operations"]


def points(results, series, operation, at=None):
    return [p for p in results["points"] if p["series"] == series and p["operation"] == operation
            and (at is None or p["at"] == at)]


def places(results, series, operation):
    return sorted({p["at"] for p in points(results, series, operation)})


def median(results, series, operation, at, name):
    found = [figure(p, name) for p in points(results, series, operation, at)]
    found = [value for value in found if value is not None]
    return statistics.median(found) if found else None


def medians(results, series, operation):
    """[(place, median)] of an operation's own figure; the median is None where no round counts."""
    return [(at, median(results, series["name"], operation["name"], at, operation["figure"]))
            for at in places(results, series["name"], operation["name"])]


def ratio(results, series, operation, at):
    """The median of the rounds' figures, each divided by that of the small mailfleet; None: no round counts."""
    pairs = [(figure(p, operation["figure"]), figure(p["small"], operation["figure"]))
             for p in points(results, series["name"], operation["name"], at)]
    found = [large / small for large, small in pairs if large is not None and small]
    return statistics.median(found) if found else None


def is_beside(results, series):
    return any("small" in p for p in results["points"] if p["series"] == series["name"])


def curve(results, series, operation):
    """[(place, how large the figure is)]: the medians, or where a small mailfleet was beside, how many times as
    large as that one's, which comes first."""
    if not is_beside(results, series):
        return medians(results, series, operation)
    return [("beside", 1.0)] + [(at, ratio(results, series, operation, at))
                                for at in places(results, series["name"], operation["name"])]


def growth(found):
    """A word for a curve; None for less than two places, or when one of them could not be measured."""
    if len(found) < 2 or any(value is None for _, value in found):
        return None
    if all(value <= SLACK * found[0][1] for _, value in found):
        return "flat"
    if found[0][0] == "beside":
        return "worse"
    for (x, y), (next_x, next_y) in zip(found, found[1:]):
        if x and next_y > SLACK * y * next_x / x:
            return "worse"
    return "proportional"


def good(operation, found):
    """Whether it grows as it may; what is flat always does."""
    word = growth(found)
    return None if word is None else word in ("flat", operation["expected"])


# --- the page ------------------------------------------------------------------------------------


def each(point, name):
    return None if figure(point, "cpu") is None else point[name] / point["operations"]


def typical(found):
    found = [value for value in found if value is not None]
    return report.significant(statistics.median(found)) if found else "-"


def spread(found):
    found = [value for value in found if value is not None]
    if not found:
        return "-"
    middle, least, most = (report.significant(f(found)) for f in (statistics.median, min, max))
    return middle if len(found) == 1 else f"{middle} ({least} - {most})"


HEADER = ["all parts (least - most)", "front-end", "delivery node", "PostgreSQL", "memcached",
          "queries", "cache commands", "rate"]
PARTS = HEADER[1:5]
BESIDE = ["the small one's figure", "times"]


def row(results, series, operation, at):
    found = points(results, series["name"], operation["name"], at)
    if is_beside(results, series):
        times = ratio(results, series, operation, at)
        smalls = [figure(p["small"], operation["figure"]) for p in found]
        return [*plain_row(found, operation, at), spread(smalls), report.significant(times) if times else "-"]
    return plain_row(found, operation, at)


def plain_row(found, operation, at):
    if operation["figure"] == "memory":
        return [f"{at:,}", spread([figure(p, "memory") for p in found])]
    whole = [p for p in found if figure(p, "cpu") is not None]
    cells = [f"{at:,}", spread([figure(p, "cpu") for p in found])]
    cells += [typical([1000 * p["cpu"].get(part, 0) / p["operations"] for p in whole])
              for part in PARTS]
    cells += [typical([each(p, name) for p in whole]) for name in ("queries", "cache")]
    return cells + [typical([p["operations"] / p["seconds"] for p in whole]) + "/s"]


def said(operation, found):
    word = growth(found)
    if word is None:
        failed = ", ".join(f"{at:,}" for at, value in found if value is None)
        return f"not measured at {failed}" if failed else "not measured"
    factor = report.significant(found[-1][1] / found[0][1]) if found[0][1] else "?"
    verdict = "" if good(operation, found) else f" **It must be {operation['expected']}.**"
    if found[0][0] == "beside":
        each = ", ".join(f"{report.significant(value)} at {at:,}" for at, value in found[1:])
        return f"{word}: {each} times that of the small fleet beside.{verdict}"
    return f"{word}: {factor} times from {found[0][0]:,} to {found[-1][0]:,}.{verdict}"


def section(results, series, operation):
    name = series["name"], operation["name"]
    found = curve(results, series, operation)
    of_memory = operation["figure"] == "memory"
    lines = [f"### {operation['title']}", "", f"{operation['what']}", "",
             f"{FIGURES[operation['figure']]}: {said(operation, found)}", ""]
    if at := places(results, *name):
        header = [series["of"], *(["octets"] if of_memory else HEADER),
                  *(BESIDE if is_beside(results, series) else [])]
        lines += [report.markdown([header, *(row(results, series, operation, x) for x in at)],
                                  left=0), ""]
    failed = [f"- {p['at']:,}, round {p['round']}: {p.get('problem') or p['errors']}"
              for p in points(results, *name) if p.get("problem") or p["errors"]]
    return lines + (["These rounds don't count:", "", *failed, ""] if failed else [])


def plot(results, series, folder):
    """The CPU of all operations of a series over what grows; memory has none of its own."""
    from plots import Line, lines
    of_database = {"database": " (PostgreSQL)"}
    drawn = [Line(operation["title"] + of_database.get(operation["figure"], ""),
                  [point for point in medians(results, series, operation) if point[1] is not None])
             for operation in series["operations"] if operation["figure"] != "memory"]
    drawn = [line for line in drawn if line.points]
    if drawn:
        lines(folder / f"{series['name']}.svg", series["of"], "CPU seconds for 1,000 operations", drawn)
    return f"{folder.name}/{series['name']}.svg" if drawn else None


def summary(results):
    table = [["what grows", "operation", "figure", "growth", "may be", "good"]]
    for series in results["series"]:
        for operation in series["operations"]:
            found = curve(results, series, operation)
            if found:
                fine = {True: "yes", False: "**no**", None: "not known"}[good(operation, found)]
                table.append([series["of"], operation["title"], FIGURES[operation["figure"]],
                              said(operation, found).partition(". ")[0].rstrip("."),
                              operation["expected"], fine])
    return report.markdown(table, left=6)


INTRODUCTION = """\
# How costs grow

Made by

    bench/scale --rounds {rounds} --seconds {seconds} --write

One delivery node and one front-end, PostgreSQL and memcached on the machine below, which the load
generators share. CPU is in seconds for 1,000 operations, by part; queries and cache commands are for one.
A figure is the median of {rounds} rounds of about {seconds} s. *Flat* is what rises nowhere by more than
15 %, *proportional* what rises no faster than what it is a figure of, within 15 %. What grows with the database is
measured in turns with a small fleet on the same machine, and judged by the median of the ratios: minutes lie
between two places, in which a machine that others share may have become slower.

Where the content of messages does not matter the database is filled in bulk: such a pointer names a file
that was never written, and nothing here reads one.
"""


def page(results, folder):
    lines = [INTRODUCTION.format(rounds=results["rounds"], seconds=results["seconds"]), summary(results),
             "", *report.machine(results)]
    for series in results["series"]:
        lines += [f"## {series['title']}", "", series["what"], ""]
        if picture := plot(results, series, folder):
            lines += [f"![CPU seconds for 1,000 operations by {series['of']}]({picture})", ""]
        for operation in series["operations"]:
            lines += section(results, series, operation)
    if results.get("storage"):
        lines += ["## The size of the database", "", "Octets, with indexes:", "",
                  *(f"- {name}: {value:,.0f}" for name, value in results["storage"].items()), ""]
    return "\n".join(lines).rstrip() + "\n"


def write(results, docs=report.DOCS):
    """docs/scale.md and the plots in docs/scale."""
    if results["quick"]:
        raise ValueError("a quick run is too short to be written down")
    folder = docs / "scale"
    for old in folder.glob("*.svg"):
        old.unlink()
    (docs / "scale.md").write_text(page(results, folder), encoding="utf-8")


def text(results, series):
    """A series, to be printed."""
    lines = [series["title"]]
    for operation in series["operations"]:
        at = places(results, series["name"], operation["name"])
        if not at:
            continue
        header = [series["of"], *(["octets"] if operation["figure"] == "memory" else HEADER),
                  *(BESIDE if is_beside(results, series) else [])]
        lines += [f"{operation['title']}: {said(operation, curve(results, series, operation))}",
                  report.aligned([header, *(row(results, series, operation, x) for x in at)]), ""]
    return "\n".join(lines)
