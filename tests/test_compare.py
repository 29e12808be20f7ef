"""scripts/compare.py: which runs go together, what is drawn of them, and what its user is told."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from base64 import b64decode

import numpy as np
import pytest
from helpers import ROOT

from modules import report

SCRIPT = ROOT / "scripts" / "compare.py"
spec = importlib.util.spec_from_file_location("compare", SCRIPT)
compare = importlib.util.module_from_spec(spec)
sys.modules["compare"] = compare  # dataclasses look it up
spec.loader.exec_module(compare)


def write_run(folder, psnr, frames=(), scores=None, **settings):
    """A run folder that holds only what compare.py reads."""
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps({"save_root": str(folder)} | settings))
    rows = [f"{i},{0.5 / (i + 1)},{'' if p is None else p},10.0" for i, p in enumerate(psnr)]
    head = "epoch,train/loss,val/psnr,val/psnr_given_frame_repeated"
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    rows = [f"{i + 1},{p},12.0" for i, p in enumerate(frames)]
    (folder / "val_frames.csv").write_text(
        "\n".join(["frame,rollout,given frame repeated", *rows]) + "\n"
    )
    if scores:
        (folder / "scores.json").write_text(json.dumps({"mean": scores}))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Three seeds of one setting, and one run of another."""
    for seed, psnr in enumerate(([20, 30], [22, 31], [24, 35])):
        frames = [30 + seed, 20 - seed]
        write_run(tmp_path / f"all/cyclical/seed{seed}", psnr, frames, seed=seed, kl="Cyclical")
    scores = {"psnr": 21.5, "drift": -0.25}
    write_run(tmp_path / "all/none", [19, None, 18], [25, 15], scores, seed=0, kl="None")
    return tmp_path / "all"


def call(*flags):
    command = [sys.executable, SCRIPT, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


def test_runs_that_differ_only_by_seed_and_place_go_together(runs):
    groups = compare.group(compare.find_runs([runs]))
    assert {name: len(members) for name, members in groups.items()} == {"cyclical": 3, "none": 1}
    assert compare.differences(groups) == {"cyclical": "--kl Cyclical", "none": "--kl None"}


def test_runs_without_settings_stay_apart(runs):
    for path in runs.rglob("args.json"):
        path.unlink()
    names = list(compare.group(compare.find_runs([runs])))
    assert names == ["cyclical/seed0", "cyclical/seed1", "cyclical/seed2", "none"]


def test_groups_are_named_by_their_folders(tmp_path):
    for seed in (3, 4):
        write_run(tmp_path / f"here/run{seed}", [20], seed=seed, kl="None")
    assert list(compare.group(compare.find_runs([tmp_path]))) == ["here"]
    write_run(tmp_path / "here/other", [20], seed=0, kl="Cyclical")
    found = compare.group(compare.find_runs([tmp_path]))
    assert {name: len(members) for name, members in found.items()} == {
        "other": 1,
        "run3 and 1 more": 2,
    }


def test_groups_in_one_folder_are_all_there(tmp_path):
    for tfr in (0.0, 0.5):
        for seed in (0, 1):
            write_run(tmp_path / f"sweep/tfr{tfr}_{seed}", [20 + tfr], seed=seed, tfr=tfr)
    write_run(tmp_path / "base", [20], seed=0, tfr=1.0)
    groups = compare.group(compare.find_runs([tmp_path]))
    assert {name: len(members) for name, members in groups.items()} == {
        "base": 1,
        "sweep/tfr0.0_0 and 1 more": 2,
        "sweep/tfr0.5_0 and 1 more": 2,
    }
    assert list(compare.differences(groups).values()) == ["--tfr 1.0", "--tfr 0.0", "--tfr 0.5"]


def test_a_run_that_began_with_trained_weights_is_another(tmp_path):
    for name, path in (("fresh", None), ("tuned", "a.ckpt")):
        write_run(tmp_path / name, [20], seed=0, ckpt_path=path, lr=0.1)
    groups = compare.group(compare.find_runs([tmp_path]))
    assert compare.differences(groups) == {"fresh": "-", "tuned": "--ckpt_path a.ckpt"}


def test_a_run_that_was_moved_aside_is_left_out(runs):
    (runs / "none" / "before-1").mkdir()
    (runs / "none" / "metrics.csv").rename(runs / "none" / "before-1" / "metrics.csv")
    assert list(compare.group(compare.find_runs([runs]))) == ["cyclical"]


def lines_of(groups, rows, *lines):
    figure, axes = compare.plt.subplots()
    compare.draw_lines(axes, groups, lambda run: getattr(run, rows), *lines)
    compare.plt.close(figure)
    return {line.get_label(): line.get_xydata() for line in axes.lines}, axes.collections


def test_a_line_is_the_mean_of_its_runs_in_a_band_of_one_deviation(runs):
    groups = compare.group(compare.find_runs([runs]))
    lines, bands = lines_of(groups, "epochs", "epoch", "val/psnr")
    assert set(lines) == {"cyclical (3 runs)", "none"}
    np.testing.assert_allclose(lines["cyclical (3 runs)"], [[0, 22], [1, 32]])
    np.testing.assert_allclose(lines["none"], [[0, 19], [2, 18]])  # no value, no point
    (band,) = bands
    edges = band.get_paths()[0].vertices
    for epoch, psnr in enumerate(([20, 22, 24], [30, 31, 35])):
        y = edges[edges[:, 0] == epoch, 1]
        middle, spread = np.mean(psnr), np.std(psnr, ddof=1)
        np.testing.assert_allclose([y.min(), y.max()], [middle - spread, middle + spread])


def test_psnr_of_every_frame_is_drawn_alike(runs):
    groups = compare.group(compare.find_runs([runs]))
    lines, _ = lines_of(groups, "frames", "frame", "rollout")
    np.testing.assert_allclose(lines["cyclical (3 runs)"], [[1, 31], [2, 19]])


def test_runs_of_different_lengths_are_averaged_where_all_have_been(tmp_path):
    for seed, psnr in enumerate(([20, 30, 40], [22, 32])):
        write_run(tmp_path / f"a/{seed}", psnr, seed=seed, kl="None")
    lines, _ = lines_of(compare.group(compare.find_runs([tmp_path])), "epochs", "epoch", "val/psnr")
    np.testing.assert_allclose(list(lines.values())[0], [[0, 21], [1, 31]])


def test_the_table_and_the_page_hold_every_group(runs, tmp_path):
    out = tmp_path / "page"
    (runs / "none" / "val_strip.png").write_bytes(b"a strip")
    done = call(runs, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "| cyclical | 3 | 2 | 32.00 ± 2.65 | 32.00 ± 2.65 | - | - |" in done.stdout
    assert "| none | 1 | 3 | 19.00 | 18.00 | 21.50 | -0.25 |" in done.stdout
    text = (out / "report.html").read_text()
    pictures = [b64decode(data) for data in re.findall(r"base64,([^\"]+)", text)]
    drawn = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert set(drawn) == {"loss.png", "psnr.png", "psnr_per_frame.png"}
    assert set(pictures) == {*drawn.values(), b"a strip"}
    assert "--kl Cyclical" in text and "19.00" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)  # it needs no other file


def test_one_run_has_a_page_too(runs, tmp_path):
    done = call(runs / "none", "--out", tmp_path / "page")
    assert done.returncode == 0, done.stderr
    assert "| none | 1 | 3 | 19.00 | 18.00 | 21.50 | -0.25 |" in done.stdout


def test_scores_from_before_the_last_weights_are_not_shown(runs):
    folder = runs / "none"
    for name in ("strip0.png", "last.ckpt"):
        (folder / name).write_bytes(b"of the test")
    for later, shown in ((-9, True), (9, False)):
        then = (folder / "scores.json").stat().st_mtime + later
        os.utime(folder / "last.ckpt", (then, then))
        assert bool(compare.read_run(folder).scores) == shown
        compare.pages.write_run_page(folder)
        text = (folder / "report.html").read_text()
        assert ("21.50" in text) == ("base64" in text) == shown


def test_rows_from_before_there_was_a_column_stay_in_theirs(tmp_path):
    rows = [{"epoch": 0, "a": 1.5}, {"epoch": 1, "a": 0.1, "b": None}, {"b": 1 / 3, "epoch": 2}]
    report.write_csv(tmp_path / "rows.csv", rows)
    found = compare.pages.read_csv(tmp_path / "rows.csv")
    assert found == [{"a": None, "b": None} | row for row in rows]


def test_names_are_no_html(tmp_path):
    write_run(tmp_path / "a<b>", [20], seed=0, note="<script>")
    write_run(tmp_path / "c", [20], seed=0, note="&")
    call(tmp_path, "--out", tmp_path / "page")
    text = (tmp_path / "page/report.html").read_text()
    assert "a&lt;b&gt;" in text and "<script>" not in text and "&lt;script&gt;" in text


@pytest.mark.parametrize("rows", [b"epoch,val/psnr\n0,x\n", b"epoch,val/psnr\n0,1,2\n", b"\xff"])
def test_damaged_numbers_are_named(runs, tmp_path, rows):
    (runs / "none" / "metrics.csv").write_bytes(rows)
    done = call(runs, "--out", tmp_path / "page")
    damaged = done.returncode == 1 and "metrics.csv is damaged" in done.stderr
    assert damaged and "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["[1, 2]", "{", "3"])
def test_damaged_settings_are_named(runs, tmp_path, text):
    (runs / "none" / "args.json").write_text(text)
    done = call(runs, "--out", tmp_path / "page")
    assert done.returncode == 1 and "args.json is damaged" in done.stderr


@pytest.mark.parametrize("flags", [["nowhere"], ["."]])
def test_no_run_no_page(tmp_path, flags):
    done = call(*(tmp_path / flag for flag in flags), "--out", tmp_path / "page")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no run (metrics.csv) in or below")
    assert not (tmp_path / "page").exists()


def test_a_page_that_cannot_be_written_names_its_flag(runs, tmp_path):
    (tmp_path / "file").touch()
    done = call(runs, "--out", tmp_path / "file" / "page")
    assert done.returncode == 1 and done.stderr.startswith("error: --out")
