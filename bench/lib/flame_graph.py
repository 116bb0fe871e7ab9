"""Flame graphs: stacks out of `perf script`, folded, and drawn as an SVG file.

A frame is as wide as its share of the samples, and stands on its caller; what stands beside it is
sorted by name, not by time. The file needs no script: each frame says its name and share when it is
pointed at. Same stacks, same octets.
"""

import collections
import html
import re

WIDTH, ROW, MARGIN = 1400, 17, 10
LETTER = 6.6  # pixels of a letter, about
NARROWEST = 0.4  # pixels: narrower frames are left out, and so is what stands on them
COLOURS = {"kernel": "#E8A33D", "library": "#7FB8DA", "own": "#E06B4F", "process": "#C8C8C8"}
MEANINGS = {"own": "the program's own code", "library": "libraries", "kernel": "the kernel"}

HEAD = re.compile(r"^(\S.*?)\s+\d+\s*$")
FRAME = re.compile(r"^\s+[0-9a-f]+ (.*?)(?:\+0x[0-9a-f]+)? \((.*)\)$")


# --- stacks --------------------------------------------------------------------------------------


def place(dso):
    """Whose code a frame is."""
    if dso.startswith(("[kernel", "[vdso", "[guest.kernel")) or dso.endswith(".ko"):
        return "kernel"
    return "library" if ".so" in dso or dso.startswith("[") else "own"


def fold(script):
    """Counter of stacks, outermost first: ((name, place), ...), from `perf script -F comm,pid,ip,sym,dso`."""
    stacks = collections.Counter()
    process, frames = None, []

    def end():
        if process:
            stacks[((process, "process"), *reversed(frames))] += 1

    for line in script:
        if not line.strip():
            end()
            process, frames = None, []
        elif match := FRAME.match(line):
            name, dso = match.groups()
            frames.append((name if name != "[unknown]" else f"[{dso.strip('[]').rpartition('/')[2]}]",
                           place(dso)))
        elif match := HEAD.match(line):
            process, frames = match[1], []
    end()
    return stacks


def folded(stacks):
    """As other tools read them: a;b;c 12"""
    return "".join(f"{';'.join(name for name, _ in stack)} {n}\n"
                   for stack, n in sorted(stacks.items()))


# --- the picture ---------------------------------------------------------------------------------


class Frame:
    def __init__(self, name, kind):
        self.name, self.kind = name, kind
        self.samples = 0
        self.above = {}

    def on(self, name, kind):
        return self.above.setdefault((name, kind), Frame(name, kind))

    def height(self):
        return 1 + max((frame.height() for frame in self.above.values()), default=0)


def tree(stacks):
    root = Frame("all", "process")
    for stack, n in stacks.items():
        frame = root
        frame.samples += n
        for name, kind in stack:
            frame = frame.on(name, kind)
            frame.samples += n
    return root


def label(name, width):
    """As much of a name as fits."""
    room = int((width - 4) / LETTER)
    if room < 3:
        return ""
    return name if len(name) <= room else name[:room - 1] + "…"


def draw(frame, x, level, height, total, out):
    width = (WIDTH - 2 * MARGIN) * frame.samples / total
    if width < NARROWEST:
        return
    y = height - (level + 1) * ROW
    said = html.escape(f"{frame.name}: {frame.samples:,} samples, {frame.samples / total:.2%}")
    out.append(f'<g><title>{said}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" '
               f'height="{ROW - 1}" fill="{COLOURS[frame.kind]}" rx="1"/>')
    if text := label(frame.name, width):
        out.append(f'<text x="{x + 2:.1f}" y="{y + ROW - 5}">{html.escape(text)}</text>')
    out.append("</g>\n")
    for _, above in sorted(frame.above.items()):
        draw(above, x, level + 1, height, total, out)
        x += (WIDTH - 2 * MARGIN) * above.samples / total


def legend(height, out):
    x = MARGIN
    for kind, meaning in MEANINGS.items():
        out.append(f'<rect x="{x}" y="{height - 15}" width="12" height="12" fill="{COLOURS[kind]}"/>'
                   f'<text x="{x + 17}" y="{height - 5}">{meaning}</text>\n')
        x += 30 + int(LETTER * len(meaning))


def svg(stacks, title):
    root = tree(stacks)
    rows = root.height() * ROW
    height = rows + 60
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
           f'viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11">\n'
           f'<rect width="100%" height="100%" fill="white"/>\n'
           f'<text x="{MARGIN}" y="18" font-size="14">{html.escape(title)}</text>\n']
    draw(root, MARGIN, 0, rows + 30, max(1, root.samples), out)
    legend(height, out)
    return "".join(out) + "</svg>\n"
