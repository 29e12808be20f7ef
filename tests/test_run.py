"""A run from end to end: train, test; what it writes, prints and draws."""

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from types import SimpleNamespace

import pytest
from helpers import (
    ROOT,
    SHORT,
    bits,
    files_below,
    load,
    make_dataset,
    read_csv,
    reproducible,
    settings_of,
)
from PIL import Image

import Trainer
from modules.report.pages import FUTURES, LATENTS
from modules.report.pictures import gif_time
from modules.runs.folder import files_of_run

SETTINGS = {"train/beta", "train/tfr", "train/lr"}
MEASURED = {"train/loss", "train/mse", "train/kl", "val/psnr", "val/ssim", "val/loss", "val/kl"}
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
ROUNDING = 2.0**-24  # of float32, in which an epoch sums its losses
WITHOUT_PLOTS = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def train(call, dataset, tmp_path):
    """train(flag, ...) -> the run folder, and what was printed, of a run that succeeded."""

    def run(*flags, name="run"):
        done = call("Trainer", "--DR", dataset, "--save_root", tmp_path / name, *SHORT, *flags)
        assert done.code == 0, done.err
        return tmp_path / name, done.out

    return run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Data, and a run of two epochs with its plots; no test changes them."""
    base = tmp_path_factory.mktemp("drawn")
    data, run = make_dataset(base / "data"), base / "run"
    places = ["--DR", data, "--save_root", run, "--num_epoch", 2, "--per_save", 1]
    Trainer.train(settings_of([*places, *SHORT, "--store_visualization"]))
    return SimpleNamespace(data=data, run=run)


def images_on(page):
    return {b64decode(data) for data in re.findall(r"png;base64,([^\"]+)", page.read_text())}


def test_train_then_test(call, drawn, tmp_path):
    run = shutil.copytree(drawn.run, tmp_path / "run")
    names = {p.name for p in run.iterdir()}
    assert {"args.json", "metrics.csv", "last.ckpt", "best_score.ckpt", "epoch=0.ckpt"} <= names
    assert {"val.gif", "val_strip.png", "val_frames.csv", "plots"} <= names
    on_page = images_on(run / "report.html")
    shown = {"val_strip.png"}
    shown |= {f"plots/{name}" for name in FUTURES + LATENTS}
    assert on_page == {(run / name).read_bytes() for name in shown}
    done = call("Tester", "--DR", drawn.data, "--save_root", run, "--ckpt", run / "best_score.ckpt")
    assert done.code == 0, done.err
    names = {p.name for p in run.iterdir()}
    assert {"pred_seq0.gif", "pred_seq1.gif", "submission.csv", "scores.json"} <= names
    tested = {"strip0.png", "strip1.png", *LATENTS}
    on_page |= {(run / name).read_bytes() for name in tested}
    assert images_on(run / "report.html") == on_page
    scores = json.loads((run / "scores.json").read_text())["mean"]
    assert f"<td>{scores['psnr']:.2f}</td>" in (run / "report.html").read_text()


def test_resume_never_moves_all_that_a_run_with_plots_writes(drawn):
    written = sorted(str(path.relative_to(drawn.run)) for path in files_of_run(drawn.run))
    assert sorted(set(written)) == files_below(drawn.run)


# ---------------------------------------------------------------- reproducibility


def weights_of(folder):
    return {name: bits(value) for name, value in load(folder)["state_dict"].items()}


RANDOM = "--shuffle --jump_start .5 --warp .5 --feedback_noise .1 --tfr .5 --tfr_coin batch"


@WITHOUT_PLOTS
def test_the_same_command_gives_the_same_run_to_the_bit_and_another_seed_another_one(train):
    flags = ["--num_epoch", 2, *RANDOM.split()]
    first, again = train(*flags, name="first")[0], train(*flags, name="again")[0]
    assert weights_of(first) == weights_of(again)
    assert reproducible(first / "metrics.csv") == reproducible(again / "metrics.csv")
    assert (first / "val.gif").read_bytes() == (again / "val.gif").read_bytes()
    assert weights_of(train("--seed", 1, *flags, name="other")[0]) != weights_of(first)


@WITHOUT_PLOTS
def test_decoding_threads_and_the_cache_folder_change_no_bit(train, tmp_path):
    first = train("--num_epoch", 1, "--num_workers", 0, name="a")[0]
    second = train("--num_epoch", 1, "--num_workers", 3, "--cache_dir", tmp_path / "c", name="b")[0]
    assert weights_of(first) == weights_of(second)


@WITHOUT_PLOTS
def test_training_learns(train):
    line = "--num_epoch 8 --tfr 0 --lr 0.005 --lr_schedule constant --kl_anneal_stop 1e-4"
    rows = read_csv(train(*line.split())[0] / "metrics.csv")
    assert rows[-1]["train/mse"] < rows[0]["train/mse"] / 4
    assert rows[-1]["val/psnr"] > rows[0]["val/psnr"] + 3


# ---------------------------------------------------------------- metrics.csv


@WITHOUT_PLOTS
def test_every_epoch_has_a_row_and_a_line_and_every_frame_a_psnr(train):
    line = "--num_epoch 3 --tfr_sde 1 --kl_anneal_type Monotonic --lr_milestones 2"
    folder, printed = train(*line.split())
    rows = read_csv(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert all(SETTINGS | MEASURED <= {k for k, v in row.items() if v is not None} for row in rows)
    assert all(row["train/frames_per_second"] > 0 for row in rows)
    assert [row["train/tfr"] for row in rows] == pytest.approx([1, 0.9, 0.8])
    assert [row["train/beta"] for row in rows] == pytest.approx([0, 1 / 3, 2 / 3])
    assert [row["train/lr"] for row in rows] == pytest.approx([1e-3, 1e-3, 1e-4])
    printed_lines = printed.splitlines()
    lines = [i for i, line in enumerate(printed_lines) if line.startswith("epoch ")]
    for row, i in zip(rows, lines, strict=True):
        loss = row["train/mse"] + row["train/beta"] * row["train/kl"]
        assert row["train/loss"] == pytest.approx(loss, rel=100 * ROUNDING)
        shown = dict(pair.split() for pair in printed_lines[i].split(": ")[1].split(", ")[:6])
        for name in ("loss", "mse", "kl", "beta", "tfr", "lr"):
            assert float(shown[name]) == pytest.approx(row[f"train/{name}"], rel=0.05)
        assert len(printed_lines[i]) <= 100
        assert f"psnr {row['val/psnr']:.2f}" in printed_lines[i + 1]
    rows = read_csv(folder / "val_frames.csv")
    assert [row["frame"] for row in rows] == [1, 2, 3, 4, 5]
    psnr = [row["rollout"] for row in rows]
    (line,) = [line for line in printed.splitlines() if line.startswith("validation, ")]
    assert f"PSNR {sum(psnr) / 5:.2f} dB" in line
    assert f"lowest {min(psnr):.2f} dB" in line
    assert f"drawn: {folder / 'val.gif'}\n" in printed  # --no-plots: no strip, no plot
    assert not (folder / "val_strip.png").exists()


@WITHOUT_PLOTS
def test_val_every_and_the_last_epoch_are_validated(train):
    folder, printed = train("--num_epoch", 5, "--val_every", 2)
    rows = read_csv(folder / "metrics.csv")
    done = [row["val/psnr"] is not None for row in rows]
    assert done == [row["val/ssim"] is not None for row in rows] == [False, True, False, True, True]
    assert printed.count("val psnr") == 3


# ---------------------------------------------------------------- plots


def colours(path):
    with Image.open(path) as image:
        return len(image.convert("RGB").getcolors(2**24))


def test_every_plot_is_written_and_not_blank(drawn):
    folder = drawn.run
    names = {p.name for p in (folder / "plots").iterdir()}
    expected = "loss mse kl beta tfr lr psnr ssim".split()
    assert {f"{name}.pdf" for name in expected} <= names
    expected += ["curves", "psnr_per_frame"]
    assert {f"{name}.png" for name in expected} | {*FUTURES, *LATENTS} <= names
    for name in (name for name in names if name.endswith(".png")):
        assert colours(folder / "plots" / name) > 10, name
    assert colours(folder / "val_strip.png") > 10
    assert gif_time(folder / "val.gif") == 6 * 20


# ---------------------------------------------------------------- output of a shell


def test_output_into_a_file_has_no_progress_bars(dataset, tmp_path):
    for script, more in (("Trainer.py", [*SHORT, "--num_epoch", "1"]), ("Tester.py", [])):
        flags = ["--DR", dataset, "--save_root", tmp_path / "run", *more]
        if script == "Tester.py":
            flags += ["--ckpt_path", tmp_path / "run/best_score.ckpt"]
        command = [sys.executable, script, *map(str, flags)]
        done = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""
        assert b"\r" not in done.stdout
        assert b"\x1b" not in done.stdout
        assert b"it/s" not in done.stdout
