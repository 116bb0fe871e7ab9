"""Plots as SVG files, by matplotlib: bars of systems beside each other, and lines of what grows.

Text stays text, so that it can be searched and read aloud; the same figures make the same octets.
It knows nothing of what the figures mean.
"""

from collections import namedtuple

import matplotlib
import matplotlib.ticker

matplotlib.use("svg")
matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "mailfleet", "font.family": "sans-serif",
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
})

from matplotlib import pyplot  # noqa: E402

# Okabe and Ito's, which differ for every eye.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"]
WHOLE, PEER, LIMIT = "#005080", "#8C8C8C", "#D0D0D0"
BAR = 0.36  # inches
SPAN = 30  # times: more than that is hard to see side by side

# One bar: parts is [(name, value)] from left to right, of one that isn't divided [(None, value)]; kind is
# "ours", "peer" or "limit", said what stands behind it, low and high how far single runs went.
Bar = namedtuple("Bar", "label parts kind low high said")
# One panel of bars.
Panel = namedtuple("Panel", "title bars")
# One line: points is [(x, y)].
Line = namedtuple("Line", "label points")


def save(figure, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", bbox_inches="tight",
                   metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    # matplotlib leaves blanks at the ends of lines.
    path.write_text("".join(line.rstrip() + "\n" for line in path.read_text().splitlines()))


def colours(panels):
    """name -> colour, of the parts of all panels, in the order in which they come."""
    names = []
    for panel in panels:
        for bar in panel.bars:
            names += [name for name, _ in bar.parts if name and name not in names]
    return dict(zip(names, COLOURS))


def draw_bar(axes, y, bar, of_part):
    left = 0
    whole = {"ours": WHOLE, "peer": PEER, "limit": LIMIT}[bar.kind]
    for name, value in bar.parts:
        axes.barh(y, value, left=left, color=of_part.get(name, whole), height=0.7)
        left += value
    axes.plot([bar.low, bar.high], [y, y], color="black", linewidth=1, marker="|", markersize=6)
    axes.annotate(bar.said, (max(left, bar.high), y), xytext=(6, 0), textcoords="offset points",
                  va="center", fontsize=9)


def draw_panel(axes, panel, of_part):
    for y, bar in enumerate(panel.bars):
        draw_bar(axes, y, bar, of_part)
    axes.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars])
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.margins(x=0.25)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def legend(figure, of_part):
    if len(of_part) > 1:
        handles = [matplotlib.patches.Patch(color=colour, label=name)
                   for name, colour in of_part.items()]
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), frameon=False,
                      ncols=len(handles), fontsize=9)


def bars(path, panels):
    """Panels one below the other; parts of our own bars have the colours of the legend."""
    heights = [BAR * len(panel.bars) + 0.5 for panel in panels]
    figure, axes = pyplot.subplots(len(panels), squeeze=False, figsize=(8, sum(heights)),
                                   gridspec_kw={"height_ratios": heights},
                                   constrained_layout=True)
    of_part = colours(panels)
    for row, panel in zip(axes[:, 0], panels):
        draw_panel(row, panel, of_part)
    legend(figure, of_part)
    save(figure, path)


def plain(value, _position=None):
    """100, 20,000, 0.05: no powers of ten."""
    return f"{value:,g}"


def spans(drawn):
    """How many times the largest value of all lines is the least."""
    values = [y for line in drawn for _, y in line.points]
    return max(values) / max(min(values), 1e-12)


def lines(path, x_title, y_title, drawn):
    """Lines of what grows. What differs much is drawn by its logarithm, what doesn't from nought."""
    figure, axes = pyplot.subplots(figsize=(8, 4), constrained_layout=True)
    for n, line in enumerate(drawn):
        axes.plot(*zip(*line.points), label=line.label, color=COLOURS[n % len(COLOURS)],
                  marker="o", markersize=4, linewidth=1.5)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks(sorted({x for line in drawn for x, _ in line.points}))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.xaxis.set_major_formatter(plain)
    if spans(drawn) > SPAN:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(plain)
    axes.set_xlabel(x_title)
    axes.set_title(y_title, loc="left", fontsize=10)
    axes.grid(axis="y", color="#E0E0E0", linewidth=0.6)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)
