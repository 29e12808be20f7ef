"""The first screen of report.html: what the run is, how good it is, what to type next."""

import html
import shlex
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ..config import TRAINING
from ..config.fields import MAY_CHANGE, ONCE
from ..runs.folder import SCHEDULE
from . import page, tables
from .reading import Run

# These do not distinguish runs: where a run is and what it computes on.
PLACE = {"environment"}.union(*(lab.names(MAY_CHANGE) for lab in TRAINING.values()))
PLACE -= {"num_epoch", "precision", "ckpt_path"}
OPEN_DEMO = "bash scripts/disc_demo.sh"
DETERMINED = {"dancer": "poses", "arm": "actions"}  # worlds -> what determines their frames
COPYING = {"pose": "copying the first frame", "robot": "copying the last given frame"}
NETS = {"course": "the course's nets", "unet": "U-Net", "vgg": "VGG, LSTM", "dcgan": "DCGAN, LSTM"}
PSNR = "PSNR = -10 log10 of the mean squared error, values in 0..1; +6 dB is half the error"


def first_screen(run: Run, clips: Sequence[dict]) -> str:
    """`clips` are those of the page."""
    best = f"<p class=score>{html.escape(score_text(run, clips))}</p>"
    typed = "".join(f"{page.note(why)}{page.code(text)}" for why, text in next_commands(run))
    about = f"<div>{page.facts(facts_of(run))}</div><div><h3>Next</h3>{typed}</div>"
    head = f"<p>{html.escape(sentence(run))}</p>{best}{error_text(run)}"
    return f"<div class=summary>{head}<div class=columns>{about}</div></div>"


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


# ---------------------------------------------------------------- is it good?


def score_text(run: Run, clips: Sequence[dict]) -> str:
    """The score with its unit, its clips and its baseline."""
    tested = tables.is_tested(run)
    psnr, copied = tables.score_and_baseline(run, tested)
    if psnr is None:
        return "no score yet: the first validation has not ended"
    count, kind = (len(run.clips), "unseen") if tested else (run.facts["val_clips"], "validation")
    text = f"{psnr:.2f} dB PSNR on {count} {kind} clip{'s' * (count != 1)}"
    if length := length_of(run, clips):
        text += f" of {length} frames"
    if copied is not None:
        lab = run.settings.get("lab", "pose")
        text += f", {tables.gain_text(psnr - copied)} {COPYING.get(lab, 'the baseline')}"
    return text


def length_of(run: Run, clips: Sequence[dict]) -> int | None:
    """The number of frames of a scored clip."""
    if run.settings.get("lab") == "robot":
        return run.settings["n_past"] + run.settings["n_future"]
    return clips[0]["length"] if clips else None


def error_text(run: Run) -> str:
    """The score as an error, in words."""
    psnr, copied = tables.score_and_baseline(run, tables.is_tested(run))
    if psnr is None or copied is None:
        return ""
    errors = [f"{100 * 10 ** (-x / 20):.2g} %" for x in (psnr, copied)]
    text = f"A value is off by about {errors[0]} of its range (RMS); copied: {errors[1]}."
    if psnr < copied:
        text += " This run is worse than no prediction: train longer, or look at its curves."
    if not tables.is_tested(run):
        text += " The best epoch was chosen by this score: test on unseen clips."
    return f'<p title="{PSNR}">{html.escape(text)}</p>'


# ---------------------------------------------------------------- what is it?


def facts_of(run: Run) -> dict[str, str]:
    settings, facts = run.settings, run.facts
    place = settings.get("environment") or {}
    size = "{frame_W}x{frame_H} pixels".format_map(settings) if "frame_W" in settings else ""
    source = f"synthetic ({facts['world']})" if "world" in facts else ""
    source = f"own video ({facts['video']})" if "video" in facts else source
    rate = f"{facts['fps']:g} frames/s" if "fps" in facts else ""
    nets = NETS.get(settings.get("nets"), "")
    count = f"{facts['parameters']:,} parameters" if "parameters" in facts else ""
    precision = settings.get("precision", "")
    seconds = tqdm.format_interval(facts["seconds"]) if "seconds" in facts else ""
    best = tables.best_epoch(run)
    epochs = f"{run.progress} epochs" + f", the best: {best}" * (best is not None)
    seed = f"seed {settings['seed']}" if "seed" in settings else ""
    code = place.get("commit", "")
    edited = ", edited" * code.endswith("+")
    return {
        "data": joined(str(settings.get("DR") or ""), source, size, rate),
        "model": joined(nets, count),
        "training": joined(epochs, seconds, seed, precision),
        "machine": joined(place.get("gpus", ""), place.get("processor", "")),
        "begun": joined(
            place.get("time", "")[:16].replace("T", " "), f"commit {code[:10]}{edited}" * bool(code)
        ),
    }


def joined(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def about_z(run: Run) -> str:
    """What is to be known about z on this data set."""
    known = DETERMINED.get(run.facts.get("world"))
    if not known or not run.settings.get("latent", True):
        return ""
    return (
        f"In this synthetic data set the {known} determine the frames, so z has nothing to tell; "
        f"{OPEN_DEMO} trains where the future is open."
    )


# ---------------------------------------------------------------- what next?


def next_commands(run: Run) -> list[tuple[str, str]]:
    """[(what for, command)]"""
    if not run.settings:
        return []
    folder = shlex.quote(str(run.folder))
    tester = f"python Tester.py --DR {shlex.quote(str(run.settings.get('DR')))}"
    tester += (
        f" --save_root {folder} --ckpt_path {shlex.quote(str(run.folder / 'best_score.ckpt'))}"
    )
    if not run.finished:
        return [("If it was interrupted, the same command resumes it (see Command).", "")]
    if not tables.is_tested(run):
        return [("Score it on the test clips:", tester)]
    again = [
        (
            "Compare it with your other runs:",
            f"python scripts/compare.py {shlex.quote(str(run.folder.parent))}",
        )
    ]
    if about_z(run):
        again.append(("z has nothing to tell here; where the future is open:", OPEN_DEMO))
    elif run.settings.get("latent", True) and not run.predicted.get("futures"):
        again.append(("Sample 20 futures of each test clip:", f"{tester} --n_samples 20"))
    return again


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
