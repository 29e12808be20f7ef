"""A page: one HTML file with all that it shows, so that it opens from disk, without a network.

page.css and page.js are put into every page.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import finite, write_atomically
from . import charts, clips, tables
from .boundary import part

WIDE = 1000  # pixels: pictures that have a row of the page of their own
BUDGET = 28_000_000  # characters of packed clips on a page
RELOAD_SECONDS = 60
PLOTS = "best_of_n", "rank_histogram", "kl_over_time", "kl_per_dimension"  # no film strips


@dataclass
class Page:
    """A page, and what page.js draws on it. It reloads itself while it is `live`."""

    title: str
    status: str = ""
    live: bool = False
    first: str = ""  # above the list of contents
    sections: dict[str, str] = field(default_factory=dict)
    clips: list[dict] = field(default_factory=list)
    charts: list[dict] = field(default_factory=list)
    tracks: dict[str, str] = field(default_factory=dict)  # packed frames -> id

    def add(self, title: str, make: Callable[..., str], *args: Any) -> None:
        """A section with the HTML that make(*args) returns, as a part; none if it is empty."""
        with part(f"{self.title}: {title}"):
            if text := make(*args):
                self.sections[title] = text

    def track(self, packed: str) -> str:
        """The id of packed frames; what several runs share is on the page once."""
        return self.tracks.setdefault(packed, f"track{len(self.tracks)}")

    def room_for(self, texts: Iterable[str]) -> bool:
        new = {text for text in texts if text not in self.tracks}
        return not self.tracks or sum(map(len, [*self.tracks, *new])) <= BUDGET

    def write(self, path: Path) -> None:
        text = self.text().encode(errors="backslashreplace")
        write_atomically(path, lambda file: file.write(text))

    def text(self) -> str:
        style, script = (Path(__file__).with_name(f"page.{kind}").read_text("utf-8") for kind in
                         ("css", "js"))  # fmt: skip
        known = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        policy += f"script-src 'sha256-{known}'"  # no other script of this page runs
        title = html.escape(self.title)
        status = f'<p class="status">{html.escape(self.status)}</p>' if self.status else ""
        frames = [
            f'<script type="text/plain" id="{name}">{packed}</script>'
            for packed, name in self.tracks.items()
        ]
        return "\n".join(
            [
                '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f'<title>{title}</title>\n<link rel="icon" href="data:,">',
                f"<style>\n{style}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>{status}",
                '<button type="button" id="theme" hidden>light / dark</button>\n</header>\n<main>',
                self.first,
                *self.contents(),
                "</main>",
                *frames,
                f'<script type="application/json" id="data">{self.data()}</script>',
                f"<script>\n{script}</script>\n</body>\n</html>\n",
            ]
        )

    def contents(self) -> Iterable[str]:
        """The list of contents and the sections."""
        ids = {title: re.sub(r"\W+", "-", title.lower()) for title in self.sections}
        links = (f'<a href="#{ids[title]}">{html.escape(title)}</a>' for title in ids)
        yield f"<nav>{' '.join(links)}</nav>" * (len(ids) > 1)
        for title, text in self.sections.items():
            head = f"<h2>{html.escape(title)}</h2>"
            yield f'<section id="{ids[title]}">\n{head}\n{text}\n</section>'

    def data(self) -> str:
        """The curves and clips, in a form that cannot end its script element."""
        values = {"clips": self.clips, "charts": self.charts}
        values["reload_s"] = RELOAD_SECONDS if self.live else None
        text = json.dumps(finite(values), allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# ---------------------------------------------------------------- html


def note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def code(text: str) -> str:
    """A command, with a button that copies it."""
    return f"<pre class=command><code>{html.escape(text)}</code></pre>" * bool(text)


def table(
    rows: Iterable[Sequence[str]], head: Sequence[str], meanings: Mapping[str, str] = {}
) -> str:
    """Rows of text below a head; {heading: its definition}, shown on hover."""
    rows = [*rows]
    top = (heading(cell, meanings.get(cell.strip(), "")) for cell in head)
    lines = (
        f"<tr{' class=below' * any(cell.endswith(tables.BELOW) for cell in row)}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        for row in rows
    )
    body = "</tr>\n".join([*lines, ""])
    whole = f"<table>\n<thead><tr>{''.join(top)}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"
    return f'<div class="scroll" tabindex="0">{whole}</div>' if rows else ""


def heading(cell: str, meaning: str) -> str:
    title = f' title="{html.escape(meaning)}"' if meaning else ""
    return f'<th scope="col"{title}>{html.escape(cell)}</th>'


def facts(rows: Mapping[str, str]) -> str:
    """{name: value} without the empty ones."""
    lines = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(x)}</dd>" for k, x in rows.items() if x)
    return f"<dl>{''.join(lines)}</dl>"


def picture(path: Path, label: str) -> str:
    """A PNG embedded in the page."""
    content = path.read_bytes()
    data, text = base64.b64encode(content).decode(), html.escape(label)
    kind = " plot" if path.stem in PLOTS else ""
    kind += " wide" * (int.from_bytes(content[16:20], "big") > WIDE)  # of a PNG, the width is there
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f'<figure class="picture{kind}">{image}<figcaption>{text}</figcaption></figure>'


def pictures(labels: Mapping[Path, str]) -> str:
    """{path of a PNG: its label} -> all in one block, without those that cannot be read."""
    figures = []
    for path, label in labels.items():
        with part(path):
            figures.append(picture(path, label))
    text = "\n".join(figures)
    return f'<div class="pictures">\n{text}\n</div>' if text else ""


# ---------------------------------------------------------------- curves and clips


def add_charts(page: Page, drawn: Sequence[charts.Chart]) -> str:
    """-> where page.js draws them, and a note of what is constant."""
    changing, constants = charts.without_constants(drawn)
    page.charts = [chart.as_json() for chart in changing]
    return '<div id="charts"></div>' + note(constants) if changing else ""


KINDS = "condition", "truth", "prediction"  # in the order of the player


def kind_of(label: str) -> str:
    """What page.js does with a track."""
    return {clips.TRUTH: "truth", "pose": "condition"}.get(label, "prediction")


def add_clip(page: Page, runs: Mapping[str, dict], styles: Mapping[str, int] | None = None) -> None:
    """The same clip of one run or several, {name: the clip's file}, as one entry of the player.

    `styles` are those of the runs' lines; without them every prediction has a style of its own.
    """
    first = next(iter(runs.values()))
    tracks, lines = [], []
    for name, clip in runs.items():
        for label, packed in clip["tracks"].items():
            kind = kind_of(label)
            shown = label if kind != "prediction" or len(runs) == 1 else name
            track = {"label": shown, "kind": kind, "source": page.track(packed)}
            tracks += [track] if track not in tracks else []
        style = (styles or {}).get(name, 0)
        lines += psnr_lines(name if len(runs) > 1 else "", clip, style)
    baselines = {line.name: line for line in lines if line.baseline}
    lines = [line for line in lines if not line.baseline] + [*baselines.values()]
    tracks.sort(key=lambda track: KINDS.index(track["kind"]))
    chart = None
    if lines:
        panel = charts.Panel("", lines)
        chart = charts.Chart("psnr_of_clip", "PSNR per frame", "frame", "dB", [panel]).as_json()
    page.clips.append({k: first[k] for k in clips.HEAD} | {"tracks": tracks, "psnr": chart})


def psnr_lines(name: str, clip: dict, style: int) -> list[charts.Series]:
    lines = []
    for label, values in clip["psnr"].items():
        frames = [*range(clip["given"], clip["given"] + len(values))]
        baseline = label not in clip["tracks"]
        shown = name if name and not baseline else label
        lines.append(charts.Series(shown, frames, values, baseline=baseline))
    for i, line in enumerate(line for line in lines if not line.baseline):
        line.style = style + i
    return lines


def player(page: Page, left: str) -> str:
    """Where page.js puts the player, and a note of what is `left` out."""
    text = '<div id="player"><noscript>The player needs JavaScript.</noscript></div>'
    return text + note(left) if page.clips else ""
