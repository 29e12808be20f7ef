"""HTML pages of runs: each is one file with all that it shows. They read run folders only.

page.css and page.js are put into every page. Frames, curves and the figures are in it too, so that
a page opens from disk, without a network.
"""

import base64
import hashlib
import html
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import BASELINES, OBJECTIVES, TRAINING
from ..config.fields import MAY_CHANGE, ONCE
from ..files import finite, write_atomically
from ..runs.folder import FUTURES, LATENTS, SCHEDULE, TEST_FUTURES, VAL_CLIP, VAL_FUTURES, clip_file
from . import charts, clips, tables
from .boundary import part
from .reading import Run, read_json, read_run, score_of

# These do not distinguish runs: where a run is and what it computes on.
PLACE = {"environment"}.union(*(lab.names(MAY_CHANGE) for lab in TRAINING.values()))
PLACE -= {"num_epoch", "precision", "ckpt_path"}
CLIPS = 8  # test clips on a page
SHOWN = ["val_strip.png", *(f"plots/{name}" for name in FUTURES + LATENTS)]
SHOWN_OF_TEST = [*(f"strip{i}.png" for i in range(CLIPS)), *FUTURES, *LATENTS]
PLAYED = [VAL_CLIP, VAL_FUTURES]
PLAYED_OF_TEST = [*map(clip_file, range(CLIPS)), TEST_FUTURES]
WIDE = 1000  # pixels: pictures that have a row of the page of their own
BUDGET = 28_000_000  # characters of packed clips on a page
ALT = {
    "val_strip": "film strip of the validation rollout",
    "futures": "film strip of sampled futures, their mean and their deviation",
    "best_of_n": "best, mean and worst PSNR and SSIM of N sampled futures",
    "rank_histogram": "rank histogram of the true values among the samples",
    "kl_over_time": "KL of z in every frame of a clip",
    "kl_per_dimension": "KL of every dimension of z",
    "traversal": "predictions for values of the strongest dimensions of z",
}
DISTRIBUTION = {  # a row of the page -> where distribution.json and scores.json have it
    "ELBO (nats per frame)": "z/elbo",
    "importance bound (nats per frame)": "z/importance_bound",
    "bits per value": "z/bits_per_value",
    "KL (nats per frame)": "z/kl",
    "KL at events (nats per frame)": "z/events/at_events",
    "KL elsewhere (nats per frame)": "z/events/elsewhere",
    "active units of z": "z/active_units",
    "sampled futures": "futures/n_samples",
    "PSNR of a future, mean": "futures/psnr_mean",
    "PSNR of a future, best": "futures/psnr_best",
    "PSNR of a future, worst": "futures/psnr_worst",
    "SSIM of a future, mean": "futures/ssim_mean",
    "SSIM of a future, best": "futures/ssim_best",
    "diversity": "futures/diversity",
    "sharpness": "futures/sharpness",
    "true futures per clip": "futures/true_futures",
    "energy score": "futures/energy_score",
    "true values in the 50 % interval": "futures/coverage_50",
    "true values in the 90 % interval": "futures/coverage_90",
}


# ---------------------------------------------------------------- html


@dataclass
class Page:
    """A page, and what page.js draws on it."""

    title: str
    status: str = ""
    parts: list[str] = field(default_factory=list)
    clips: list[dict] = field(default_factory=list)
    charts: list[dict] = field(default_factory=list)
    tracks: dict[str, str] = field(default_factory=dict)  # packed frames -> id

    def add(self, title: str, *parts: str) -> None:
        """A section, if it has any content."""
        if any(parts):
            text = "\n".join(part for part in parts if part)
            self.parts.append(f"<section>\n<h2>{html.escape(title)}</h2>\n{text}\n</section>")

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
                *self.parts,
                "</main>",
                *frames,
                f'<script type="application/json" id="data">{self.data()}</script>',
                f"<script>\n{script}</script>\n</body>\n</html>\n",
            ]
        )

    def data(self) -> str:
        """The curves and clips, in a form that cannot end its script element."""
        values = {"clips": self.clips, "charts": self.charts}
        text = json.dumps(finite(values), allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def table(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    """Rows of text below a head."""
    rows = [*rows]
    top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    whole = f"<table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="scroll" tabindex="0">{whole}</div>' if rows else ""


def picture(path: Path, label: str) -> str:
    """A PNG embedded in the page."""
    content = path.read_bytes()
    data, text = base64.b64encode(content).decode(), html.escape(label)
    wide = " wide" * (int.from_bytes(content[16:20], "big") > WIDE)  # of a PNG, the width is there
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f'<figure class="picture{wide}">{image}<figcaption>{text}</figcaption></figure>'


def pictures(labels: Mapping[Path, str]) -> str:
    """{path of a PNG: its label} -> all in one block, without those that cannot be read."""
    figures = []
    for path, label in labels.items():
        with part(path):
            figures.append(picture(path, label))
    text = "\n".join(figures)
    return f'<div class="pictures">\n{text}\n</div>' if text else ""


def alt(path: Path) -> str:
    known = ALT.get(path.stem)
    if not known and path.stem.startswith("strip"):
        known = f"film strip of test clip {path.stem.removeprefix('strip')}"
    where = ", validation" if path.parent.name == "plots" else ""
    return (known or path.stem) + where


# ---------------------------------------------------------------- clips


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
    page.clips.append(
        {name: first[name] for name in ("title", "size", "given", "frame_ms")}
        | {"tracks": tracks, "psnr": chart}
    )


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


def player() -> str:
    """Where page.js puts the player."""
    return '<div id="player"><noscript>The player needs JavaScript.</noscript></div>'


# ---------------------------------------------------------------- the page of one run


def flag(key: str, value: Any) -> str:
    """A setting as it is typed."""
    if isinstance(value, bool):
        return f"--{key}" if value else f"--no-{key}"
    words = [shlex.quote(str(word)) for word in (value if isinstance(value, list) else [value])]
    if len(words) == 1 and words[0].startswith("-"):  # not another flag
        return f"--{key}={words[0]}"
    return " ".join([f"--{key}", *words])


def command(run: Run) -> str:
    """The command that trains the same run into a new folder."""
    lab = TRAINING.get(run.settings.get("lab", "pose"))
    if not run.settings or lab is None:
        return ""
    typed = {"lab": lab.default("lab")} if lab.default("lab") != "pose" else {}
    typed["DR"] = run.settings.get("DR") or "DATASET"
    typed["save_root"] = f"runs/{run.folder.resolve().name}-again"
    names = lab.names() - typed.keys() - lab.names(ONCE) - {"lab"}
    for name, value in run.settings.items():
        if name in names and value not in (None, lab.default(name)):
            typed[name] = value if name != "schedule" else str(run.folder / SCHEDULE)
    return " ".join(["python Trainer.py", *(flag(*setting) for setting in typed.items())])


def write_run_page(folder: Path, status: str = "") -> None:
    """report.html: what Trainer and Tester wrote into the folder.

    `status` is what a run that is not finished is doing.
    """
    path = folder / "report.html"
    with part(path):
        run = read_run(folder)
        if not (status or run.finished):
            status = f"unfinished: {run.progress} epochs"
        page = Page(f"Run {folder.name}", status)
        for title, section in SECTIONS.items():
            with part(f"{path}: {title}"):
                page.add(title, section(page, run))
        page.write(path)


def rollouts(page: Page, run: Run) -> str:
    names = [name for name in PLAYED if (run.folder / name).is_file()]
    names += [name for name in PLAYED_OF_TEST if name in run.tested]
    left = 0
    for name in names:
        with part(run.folder / name):
            clip = clips.read(run.folder / name)
            if page.room_for(clip["tracks"].values()):
                add_clip(page, {clip["title"]: clip})
            else:
                left += 1
    more = f"{left} more clips are left out: the page would exceed 30 MB." if left else ""
    return player() + note(more) if page.clips else ""


def scores(page: Page, run: Run) -> str:
    return table([tables.row_of([run])[1:]], tables.HEAD[1:]) + test_scores(run) + note(run.note)


def command_box(page: Page, run: Run) -> str:
    again = command(run)
    return f"<pre class=command><code>{html.escape(again)}</code></pre>" * bool(again)


def curves(page: Page, run: Run) -> str:
    lab, loss = run.settings.get("lab", "pose"), run.settings.get("loss", "mse")
    units = {"loss": OBJECTIVES.get(loss, "loss")}
    baseline = BASELINES.get(lab, "baseline")
    return add_charts(page, charts.run_charts(run.epochs, run.frames, units, baseline))


def add_charts(page: Page, drawn: Sequence[charts.Chart]) -> str:
    """-> where page.js draws them, and a note of what is constant."""
    changing, constants = charts.without_constants(drawn)
    page.charts = [chart.as_json() for chart in changing]
    return '<div id="charts"></div>' + note(constants) if changing else ""


def test_scores(run: Run) -> str:
    """Tester's scores of every clip, and their mean."""
    keys = tables.columns_of({"mean": run.scores, "clips": run.clips})
    named = {f"test clip {i}": clip for i, clip in enumerate(run.clips[:CLIPS])}
    named |= {f"mean of {len(run.clips)}": run.scores} if run.clips else {}
    rows = [
        [name, *(f"{clip[key]:.3f}" if clip.get(key) is not None else "-" for key in keys.values())]
        for name, clip in named.items()
    ]
    return table(rows, ["PSNR (dB)", *keys]) if keys else ""


def distribution_table(page: Page, run: Run) -> str:
    """The scores of z and of sampled futures: a column for each set of clips that has any."""
    tested = run.predicted
    columns = {
        "validation, best weights": read_json(run.folder / "distribution.json"),
        "test": tested,
        "test, deterministic twin": tested.get("twin"),
        "test, ideal forecast": {"futures": score_of(tested, "futures/ideal")},
    }
    cells = {}
    for heading, known in columns.items():
        values = [score_of(known, path) for path in DISTRIBUTION.values()]
        values = ["-" if value is None else f"{value:.5g}" for value in values]
        if set(values) != {"-"}:
            cells[heading] = values
    rows = [[name, *row] for name, row in zip(DISTRIBUTION, zip(*cells.values()))]
    rows = [row for row in rows if set(row[1:]) != {"-"}]
    return table(rows, ("measure", *cells))


def figures(page: Page, run: Run) -> str:
    shown = [name for name in SHOWN if (run.folder / name).is_file()]
    shown += [name for name in SHOWN_OF_TEST if name in run.tested]
    return pictures({run.folder / name: alt(run.folder / name) for name in shown})


SECTIONS = {
    "Rollouts": rollouts,
    "Scores": scores,
    "Command": command_box,
    "Curves": curves,
    "Predicted distribution": distribution_table,
    "Figures": figures,
}
