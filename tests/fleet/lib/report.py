"""What a scenario came to, whether that is what it says that users see, and the table of all of them.

Nothing here knows the laboratory: it is told what clients were answered and what was measured.
"""

import re

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
HEAD = ("| scenario | what users see | how long | lost | duplicated | shown by |\n"
        "|---|---|---|---|---|---|")
LEAST = 1  # seconds: less is not worth a word
HELD = 10  # answers, as many as a reader gets in the two seconds until a lease is given back

# Clients of the laboratory -> under which name a scenario tells what they may be answered. Not here: the
# guesser, who is told that the password is wrong, or whatever others are told.
CLIENTS = {"reader 1": "readers", "reader 2": "readers", "reader of quiet ones": "quiet readers",
           "submitter": "submitter", "mta": "mta", "sender": "sender"}


def first_line(kind):
    return (kind.__doc__ or "").strip().splitlines()[0].rstrip(".")


def unexpected(kind, answers, busy=False):
    """What clients (who -> answer -> how often) were answered that the scenario does not tell of.

    busy: others have the processors. A cache that does not answer within cache.timeout is done without, but
    may have made the lease that it was asked for: it is given back when the cache answers, and a mailbox
    that is opened before that is in use."""
    def fine(answer, n):
        return answer == "ok" or busy and answer == "IN-USE" and n <= HELD
    return [f"{who} was answered: {answer} ({n} times)" for who, found in sorted(answers.items())
            if who in CLIENTS for answer, n in sorted(found.items())
            if not fine(answer, n) and answer not in kind.answers.get(CLIENTS[who], ())]


class Result:
    """What one scenario came to."""

    def __init__(self, kind):
        self.kind, self.name = kind, kind.name
        self.wrong = []
        self.seconds = 0
        self.gaps, self.measured, self.totals = {}, {}, {}

    def longest(self):
        """what -> the longest time without it, since the fault where the scenario has measured that:
        what it does before and after is its own."""
        return {what: self.measured.get(f"no {what}", seconds) for what, seconds in self.gaps.items()}

    def count(self, kind):
        return sum(line.startswith(f"{kind}: ") for line in self.wrong)


def row(results):
    """The line of the table for one scenario, of all times that it was played: the worst of each."""
    kind = results[0].kind
    worst = {what: max(result.longest()[what] for result in results) for what in results[0].longest()}
    gaps = "; ".join(f"no {what} {seconds:.1f} s" for what, seconds in worst.items() if seconds >= LEAST)
    return (f"| {first_line(kind)} | {kind.sees or 'nothing'} | {gaps or f'under {LEAST} s'} "
            f"| {max(result.count('missing') for result in results)} "
            f"| {max(result.count('twice') for result in results)} | `tests/fleet/run {kind.name}` |")


def write_table(path, results, order, note):
    """Puts the rows into a document; those of scenarios that were not played stay, and so does the note
    below them unless there is another one. Only what went well is for a table of what fails."""
    if not results or any(result.wrong for result in results):
        raise ValueError("something was wrong: the table stays as it is")
    before, rest = path.read_text().split(BEGIN, 1)
    old, after = rest.split(END, 1)
    rows = {match[1]: line for line in old.splitlines()
            if (match := re.search(r"`tests/fleet/run (\S+)` \|$", line))}
    notes = [line for line in old.splitlines() if line and not line.startswith("|")]
    for name in {result.name for result in results}:
        rows[name] = row([result for result in results if result.name == name])
    lines = [rows[name] for name in order if name in rows]
    made = "\n".join([HEAD, *lines, "", *([note] if note else notes)]).rstrip()
    path.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}")
