"""The first screen of report.html: what the run is, how good it is, what to type next."""

import contextlib
import html
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from ..config import TRAINING
from ..config.fields import ONCE
from ..runs.folder import SCHEDULE
from . import page, tables
from .reading import Run

OPEN_DEMO = "bash scripts/disc_demo.sh"
DETERMINED = {"dancer": "poses", "arm": "actions"}  # worlds -> what determines their frames
COPYING = {"pose": "copying the first frame", "robot": "copying the last given frame"}
NETS = {"course": "the course's nets", "unet": "U-Net", "vgg": "VGG, LSTM", "dcgan": "DCGAN, LSTM"}
PSNR = "PSNR = -10 log10 of the mean squared error, values in 0..1; +6 dB is half the error"


def first_screen(run: Run, clips: Sequence[dict]) -> str:
    """`clips` are those of the page."""
    score, error = score_texts(run, clips)
    typed = "".join(f"{page.note(why)}{page.code(text)}" for why, text in next_commands(run))
    return (
        f"<div class=summary><p>{html.escape(sentence(run))}</p>"
        f'<p class=score>{html.escape(score)}</p><p title="{PSNR}">{html.escape(error)}</p>'
        f"<div class=columns><div>{page.facts(facts_of(run))}</div>"
        f"<div><h3>Next</h3>{typed}</div></div></div>"
    )


def sentence(run: Run) -> str:
    """What is predicted from what."""
    settings = run.settings
    model = "A conditional VAE" if settings.get("latent", True) else "A deterministic network"
    if settings.get("lab") != "robot":
        return (
            f"{model} predicts a video frame by frame from its first frame and a pose for every "
            "frame; each prediction is the next input."
        )
    given, predicted = (settings.get(key, "-") for key in ("n_past", "n_future"))
    blind = settings.get("condition") == "none"
    more = "alone" if blind else "and the actions and positions of a robot arm"
    return f"{model} predicts {predicted} frames of a video from {given} given frames {more}."


def score_texts(run: Run, clips: Sequence[dict]) -> tuple[str, str]:
    """The score with its unit, its clips and its baseline; the same as an error."""
    settings, tested = run.settings, tables.is_tested(run)
    psnr, copied = tables.score_and_baseline(run, tested)
    if psnr is None or copied is None:
        return "no score yet: the first validation has not ended", ""
    count = len(run.clips) if tested else run.facts.get("val_clips", "the")
    length = clips[0]["length"] if clips else "-"
    if settings.get("lab") == "robot":  # later frames are not scored
        length = settings["n_past"] + settings["n_future"]
    copying = COPYING[settings.get("lab", "pose")]
    score = f"{psnr:.2f} dB PSNR on {count} {'unseen' if tested else 'validation'} "
    score += f"clip{'s' * (count != 1)} of {length} frames, "
    score += f"{tables.gain_text(psnr - copied)} {copying}"
    errors = [f"{100 * 10 ** (-x / 20):.2g} %" for x in (psnr, copied)]
    text = f"Values are off by about {errors[0]} of their range (RMS); {copying}: {errors[1]}."
    if psnr < copied:
        text += " This run is worse than no prediction: train longer, or look at its curves."
    if not tested:
        text += " The best epoch was chosen by this score: test on unseen clips."
    return score, text


# ---------------------------------------------------------------- what is it?


FACTS = {  # name -> parts; a part with anything unknown is left out
    "data": ("{DR}", "synthetic ({world})", "own video ({video})", "{frame_W}x{frame_H} pixels",
             "{fps:g} frames/s"),
    "model": ("{net}", "{parameters:,} parameters"),
    "training": ("{progress} epochs", "the best: {best:.0f}", "{time}", "seed {seed}",
                 "{precision}"),
    "machine": ("{gpus}", "{processor}"),
    "begun": ("{begun:.16}", "commit {commit}"),
}  # fmt: skip


def facts_of(run: Run) -> dict[str, str]:
    """{name: text} of what the run folder knows."""
    known = run.settings | run.facts | run.settings.get("environment", {})
    known |= {"progress": run.progress, "best": tables.best_row(run).get("epoch")}
    known |= {"net": NETS.get(known.get("nets")), "begun": known.pop("time", "").replace("T", " ")}
    known["commit"] = re.sub(r"(.{10}).*?(\+?)$", r"\1\2", known.get("commit", ""))
    if "seconds" in known:
        known["time"] = tqdm.format_interval(known["seconds"])
    known = {name: value for name, value in known.items() if value not in (None, "")}
    return {name: ", ".join(parts_of(parts, known)) for name, parts in FACTS.items()}


def parts_of(parts: Sequence[str], known: dict) -> Iterator[str]:
    for text in parts:
        with contextlib.suppress(KeyError):
            yield text.format_map(known)


def about_z(run: Run) -> str:
    """What is to be known about z on this data set."""
    known = DETERMINED.get(run.facts.get("world"))
    if not known or not run.settings.get("latent", True):
        return ""
    return (
        f"In this synthetic data set the {known} determine the frames, so z has nothing to encode; "
        f"{OPEN_DEMO} trains where the future is open."
    )


# ---------------------------------------------------------------- what next?


def next_commands(run: Run) -> list[tuple[str, str]]:
    """[(what for, command)]"""
    if not run.settings:
        return []
    place, weights, around = run.folder, run.folder / "best_score.ckpt", run.folder.parent
    typed = {"DR": run.settings.get("DR") or "DATASET", "save_root": place, "ckpt_path": weights}
    tester = " ".join(["python Tester.py", *(flag(*setting) for setting in typed.items())])
    if not run.finished:
        return [("If it was interrupted, the same command resumes it (see Command).", "")]
    if not tables.is_tested(run):
        return [("Score it on the test clips:", tester)]
    compare = f"python scripts/compare.py {shlex.quote(str(around))}"
    commands = [("Compare it with your other runs:", compare)]
    if about_z(run):
        commands.append(("z has nothing to encode here; where the future is open:", OPEN_DEMO))
    elif run.settings.get("latent", True) and not run.predicted.get("futures"):
        commands.append(("Sample 20 futures of each test clip:", f"{tester} --n_samples 20"))
    return commands


def flag(key: str, value: Any) -> str:
    """A setting as it is typed."""
    if isinstance(value, bool):
        return f"--{key}" if value else f"--no-{key}"
    words = [shlex.quote(str(word)) for word in (value if isinstance(value, list) else [value])]
    if len(words) == 1 and words[0].startswith("-"):  # not another flag
        return f"--{key}={words[0]}"
    return " ".join([f"--{key}", *words])


def command(run: Run, save_root: str = "") -> str:
    """The command that trains the same run, by default into a new folder."""
    lab = TRAINING.get(run.settings.get("lab", "pose"))
    if not run.settings or lab is None:
        return ""
    typed = {"lab": lab.default("lab")} if lab.default("lab") != "pose" else {}
    typed["DR"] = run.settings.get("DR") or "DATASET"
    typed["save_root"] = save_root or f"runs/{run.folder.resolve().name}-again"
    names = lab.names() - typed.keys() - lab.names(ONCE) - {"lab"}
    for name, value in run.settings.items():
        if name in names and value not in (None, lab.default(name)):
            typed[name] = value if name != "schedule" else str(run.folder / SCHEDULE)
    return " ".join(["python Trainer.py", *(flag(*setting) for setting in typed.items())])
