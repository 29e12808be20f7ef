"""report.html of a run. It is made from the run folder only."""

import datetime
from pathlib import Path

from ..config import BASELINES, OBJECTIVES, TRAINING
from ..config.fields import MAY_CHANGE
from ..runs.folder import FUTURES, LATENTS, TEST_FUTURES, VAL_CLIP, VAL_FUTURES, clip_file
from . import charts, clips, measures, summary, tables
from .boundary import part
from .distribution import describe_z
from .page import Page, add_charts, add_clip, code, note, pictures, player, table
from .reading import Run, read_json, read_run, score_of

# These do not distinguish runs: where a run is and what it computes on.
PLACE = {"environment"}.union(*(lab.names(MAY_CHANGE) for lab in TRAINING.values()))
PLACE -= {"num_epoch", "precision", "ckpt_path"}
CLIPS = 8  # test clips on a page
PLAYED = [VAL_CLIP, VAL_FUTURES]
PLAYED_OF_TEST = [*map(clip_file, range(CLIPS)), TEST_FUTURES]
SHOWN = {  # group of figures -> files of the run, files of its test
    "Validation": (["val_strip.png"], []),
    "Test": ([], [f"strip{i}.png" for i in range(CLIPS)]),
    "Sampled futures": ([f"plots/{name}" for name in FUTURES], FUTURES),
    "z": ([f"plots/{name}" for name in LATENTS], LATENTS),
}
ALT = {
    "val_strip": "film strip of the rollout",
    "futures": "sampled futures, their mean and their deviation",
    "best_of_n": "best, mean and worst PSNR and SSIM of N sampled futures",
    "rank_histogram": "rank histogram of the true values among the samples",
    "kl_over_time": "KL of z in every frame of a clip",
    "kl_per_dimension": "KL of every dimension of z",
    "traversal": "predictions for values of the strongest dimensions of z",
}


def write_run_page(folder: Path, status: str = "", live: bool = False) -> None:
    """report.html: what Trainer and Tester wrote into the folder.

    `status` is what a run that is not finished is doing; it is `live` while it trains.
    """
    path = folder / "report.html"
    with part(path):
        run = read_run(folder)
        if not (status or run.finished):
            status = f"unfinished: {run.progress} epochs"
        if status:
            status += f"; written {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
        page = Page(f"Run {folder.resolve().name}", status, live)
        for title, section in SECTIONS.items():
            page.add(title, section, page, run)
        with part(f"{path}: summary"):
            page.first = summary.first_screen(run, page.clips)
        page.write(path)


def rollouts(page: Page, run: Run) -> str:
    names = [name for name in PLAYED_OF_TEST if name in run.tested]
    names += [name for name in PLAYED if (run.folder / name).is_file()]
    left = 0
    for name in names:
        with part(run.folder / name):
            clip = clips.read(run.folder / name)
            if page.room_for(clip["tracks"].values()):
                add_clip(page, {clip["title"]: clip})
            else:
                left += 1
    text = f"{left} more clips are left out: the page would exceed 30 MB."
    return player(page, text * bool(left))


def scores(page: Page, run: Run) -> str:
    """The run as a row, Tester's scores of every clip, and their mean."""
    keys = tables.columns_of({"mean": run.scores, "clips": run.clips})
    named = {f"test clip {i}": clip for i, clip in enumerate(run.clips[:CLIPS])}
    named |= {f"mean of {len(run.clips)}": run.scores} if run.clips else {}
    rows = [
        [name, *(f"{clip[key]:.3f}" if clip.get(key) is not None else "-" for key in keys.values())]
        for name, clip in named.items()
    ]
    row = table([tables.row_of([run])[1:]], tables.HEAD[1:], tables.MEANINGS)
    of_clips = table(rows, ["PSNR (dB)", *keys], tables.MEANINGS) if keys else ""
    return row + of_clips + note(run.note)


def command_box(page: Page, run: Run) -> str:
    return code(summary.command(run, "" if run.finished else str(run.folder)))


def curves(page: Page, run: Run) -> str:
    lab, loss = run.settings.get("lab", "pose"), run.settings.get("loss", "mse")
    units = {"loss": OBJECTIVES.get(loss, "loss")}
    baseline = BASELINES.get(lab, "baseline")
    return add_charts(page, charts.run_charts(run.epochs, run.frames, units, baseline))


def distribution_table(page: Page, run: Run) -> str:
    """The scores of z and of sampled futures: a column for each set of clips that has any."""
    of_validation, tested = read_json(run.folder / "distribution.json"), run.predicted
    columns = {
        "validation, best weights": of_validation,
        "test": tested,
        "test, deterministic twin": tested.get("twin"),
        "test, ideal forecast": {"futures": score_of(tested, "futures/ideal")},
        f"test, {measures.MINUS}": tested.get("minus_twin"),
    }
    head, *rows = measures.table_of(columns)
    if not rows:
        return ""
    known = of_validation or tested
    words = [*describe_z(known["z"], known.get("futures") or {}), summary.about_z(run)]
    return f"{''.join(map(note, words))}<div class=meanings>{table(rows, head)}</div>"


def figures(page: Page, run: Run) -> str:
    """The pictures of the run folder, in groups."""
    text = ""
    for title, (own, of_test) in SHOWN.items():
        paths = {f"{alt(x)}, validation": x for x in own if (run.folder / x).is_file()}
        paths |= {f"{alt(x)}, test": x for x in of_test if x in run.tested}
        block = pictures({run.folder / name: label for label, name in paths.items()})
        text += f"<h3>{title}</h3>\n{block}\n" if block else ""
    return text


def alt(name: str) -> str:
    stem = Path(name).stem
    return ALT.get(stem) or f"film strip of clip {stem.removeprefix('strip')}"


SECTIONS = {
    "Rollouts": rollouts,
    "Scores": scores,
    "Curves": curves,
    "Predicted distribution": distribution_table,
    "Figures": figures,
    "Command": command_box,
}
