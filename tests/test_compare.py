"""scripts/compare.py: how runs are grouped, what is drawn of them, which errors are reported."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from base64 import b64decode
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT

from modules.cli.entry import run
from modules.report import tables

SCRIPT = ROOT / "scripts" / "compare.py"
spec = importlib.util.spec_from_file_location("compare", SCRIPT)
compare = importlib.util.module_from_spec(spec)
sys.modules["compare"] = compare  # dataclasses look it up
spec.loader.exec_module(compare)


def write_run(folder, psnr, frames=(), scores=None, baseline=compare.COPIED, **settings):
    """A run folder with only the files that compare.py reads."""
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps({"save_root": str(folder)} | settings))
    rows = [f"{i},{0.5 / (i + 1)},{'' if p is None else p},10.0" for i, p in enumerate(psnr)]
    head = "epoch,train/loss,val/psnr,val/psnr_given_frame_repeated"
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    rows = [f"{i + 1},{p},12.0" for i, p in enumerate(frames)]
    (folder / "val_frames.csv").write_text("\n".join([f"frame,rollout,{baseline}", *rows]) + "\n")
    if scores:
        (folder / "scores.json").write_text(json.dumps({"mean": scores}))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Three seeds of one configuration, and one run of another."""
    for seed, psnr in enumerate(([20, 30], [22, 31], [24, 35])):
        frames = [30 + seed, 20 - seed]
        write_run(tmp_path / f"all/cyclical/seed{seed}", psnr, frames, seed=seed, kl="Cyclical")
    scores = {"psnr": 21.5, "drift": -0.25}
    write_run(tmp_path / "all/none", [19, None, 18], [25, 15], scores, seed=0, kl="None")
    return tmp_path / "all"


@pytest.fixture
def call(monkeypatch, capsys):
    """call(flag, ...) -> code, out, err of the script, run in this process."""

    def in_process(*flags):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, flags)])
        code = 0
        try:
            run(compare.main)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        if isinstance(code, str):  # sys.exit(text) prints it and ends with 1
            code, err = 1, err + code
        return SimpleNamespace(code=code, out=out, err=err)

    return in_process


def test_runs_that_differ_by_seed_and_place_only_are_one_group(runs):
    groups = compare.group(compare.find_runs([runs]))
    assert {name: len(members) for name, members in groups.items()} == {"cyclical": 3, "none": 1}
    assert compare.differences(groups) == {"cyclical": "--kl Cyclical", "none": "--kl None"}


def test_runs_without_settings_are_groups_of_one(runs):
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


def test_several_groups_in_one_folder_are_kept_apart(tmp_path):
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


def test_a_run_from_pretrained_weights_is_another_group(tmp_path):
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


def test_a_line_is_the_mean_of_its_runs_with_a_band_of_one_standard_deviation(runs):
    groups = compare.group(compare.find_runs([runs]))
    lines, bands = lines_of(groups, "epochs", "epoch", "val/psnr")
    assert set(lines) == {"cyclical (3 runs)", "none"}
    np.testing.assert_allclose(lines["cyclical (3 runs)"], [[0, 22], [1, 32]])
    np.testing.assert_allclose(lines["none"], [[0, 19], [2, 18]])  # None is left out
    (band,) = bands
    edges = band.get_paths()[0].vertices
    for epoch, psnr in enumerate(([20, 22, 24], [30, 31, 35])):
        y = edges[edges[:, 0] == epoch, 1]
        middle, spread = np.mean(psnr), np.std(psnr, ddof=1)
        np.testing.assert_allclose([y.min(), y.max()], [middle - spread, middle + spread])


def test_psnr_per_frame_is_averaged_over_runs(runs):
    groups = compare.group(compare.find_runs([runs]))
    lines, _ = lines_of(groups, "frames", "frame", "rollout")
    np.testing.assert_allclose(lines["cyclical (3 runs)"], [[1, 31], [2, 19]])


def test_runs_of_different_lengths_are_averaged_over_shared_epochs(tmp_path):
    for seed, psnr in enumerate(([20, 30, 40], [22, 32])):
        write_run(tmp_path / f"a/{seed}", psnr, seed=seed, kl="None")
    lines, _ = lines_of(compare.group(compare.find_runs([tmp_path])), "epochs", "epoch", "val/psnr")
    np.testing.assert_allclose(list(lines.values())[0], [[0, 21], [1, 31]])


def test_an_unfinished_seed_does_not_hide_its_group(runs):
    for seed, label in ((2, "cyclical (2 of 3 runs)"), (1, "cyclical (1 of 3 runs)")):
        (runs / f"cyclical/seed{seed}/val_frames.csv").unlink()
        groups = compare.group(compare.find_runs([runs]))
        lines, bands = lines_of(groups, "frames", "frame", "rollout")
        assert set(lines) == {label, "none"}
        np.testing.assert_allclose(lines[label], [[1, 29.5 + seed / 2], [2, 20.5 - seed / 2]])
        assert len(bands) == (1 if seed == 2 else 0)
        lines, _ = lines_of(groups, "epochs", "epoch", "val/psnr")
        assert "cyclical (3 runs)" in lines


def test_the_baseline_is_drawn_for_older_and_unfinished_runs_too(tmp_path):
    write_run(
        tmp_path / "a", [20], [30, 31], baseline="its name in an older version", seed=0, kl="None"
    )
    write_run(tmp_path / "b", [20], [32, 33], seed=0, kl="Cyclical")
    write_run(tmp_path / "c", [20], seed=1, kl="Cyclical")
    groups = compare.group(compare.find_runs([tmp_path]))
    _, axes = compare.plt.subplots()
    compare.draw_baseline(axes, groups, compare.frames_of, "frame", compare.COPIED)
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_xydata(), [[1, 12], [2, 12]])
    compare.plt.close(axes.figure)


def test_settings_that_older_runs_did_not_store_are_what_they_did(tmp_path):
    write_run(tmp_path / "old", [20], seed=0, lr=0.1)
    for name, reduction in (("same", "mean"), ("other", "sum")):
        new = {"loss_reduction": reduction, "kl_anneal_from": "start", "lab": "pose"}
        write_run(tmp_path / name, [20], seed=1, lr=0.1, environment={"torch": name}, **new)
    groups = compare.group(compare.find_runs([tmp_path]))
    assert sorted(map(len, groups.values())) == [1, 2]
    assert "--loss_reduction sum" in compare.differences(groups).values()


def test_table_and_page_have_every_group(runs, tmp_path):
    out = tmp_path / "page"
    (runs / "none" / "val_strip.png").write_bytes(b"a strip")
    command = [sys.executable, SCRIPT, str(runs), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| cyclical | 3 | 2 | 32.00 ± 2.65 | 32.00 ± 2.65 | - | - |" in done.stdout
    assert "| none | 1 | 3 | 19.00 | 18.00 | 21.50 | -0.25 |" in done.stdout
    text = (out / "report.html").read_text()
    pictures = [b64decode(data) for data in re.findall(r"base64,([^\"]+)", text)]
    drawn = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert set(drawn) == {"loss.png", "psnr.png", "psnr_per_frame.png"}
    assert set(pictures) == {*drawn.values(), b"a strip"}
    assert "--kl Cyclical" in text and "19.00" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)  # no other file is needed


def test_the_page_of_one_run(call, runs, tmp_path):
    done = call(runs / "none", "--out", tmp_path / "page")
    assert done.code == 0, done.err
    assert "| none | 1 | 3 | 19.00 | 18.00 | 21.50 | -0.25 |" in done.out


def test_scores_older_than_the_last_weights_are_not_shown(runs):
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


def test_rows_with_different_columns_are_read_back(tmp_path):
    rows = [{"epoch": 0, "a": 1.5}, {"epoch": 1, "a": 0.1, "b": None}, {"b": 1 / 3, "epoch": 2}]
    tables.write_csv(tmp_path / "rows.csv", rows)
    found = compare.pages.read_csv(tmp_path / "rows.csv")
    assert found == [{"a": None, "b": None} | row for row in rows]


def test_names_are_escaped_in_html(call, tmp_path):
    write_run(tmp_path / "a<b>", [20], seed=0, note="<script>")
    write_run(tmp_path / "c", [20], seed=0, note="&")
    call(tmp_path, "--out", tmp_path / "page")
    text = (tmp_path / "page/report.html").read_text()
    assert "a&lt;b&gt;" in text and "<script>" not in text and "&lt;script&gt;" in text


@pytest.mark.parametrize("rows", [b"epoch,val/psnr\n0,x\n", b"epoch,val/psnr\n0,1,2\n", b"\xff"])
def test_damaged_numbers_are_named(call, runs, tmp_path, rows):
    (runs / "none" / "metrics.csv").write_bytes(rows)
    done = call(runs, "--out", tmp_path / "page")
    assert done.code == 1 and done.err.startswith("error: ")
    assert "metrics.csv is damaged" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("text", ["[1, 2]", "{", "3"])
def test_damaged_settings_are_named(call, runs, tmp_path, text):
    (runs / "none" / "args.json").write_text(text)
    done = call(runs, "--out", tmp_path / "page")
    assert done.code == 1 and "args.json is damaged" in done.err


@pytest.mark.parametrize("flags", [["nowhere"], ["."]])
def test_a_folder_without_runs_is_refused(call, tmp_path, flags):
    done = call(*(tmp_path / flag for flag in flags), "--out", tmp_path / "page")
    assert done.code == 1
    assert done.err.startswith("error: no run (metrics.csv) in or below")
    assert not (tmp_path / "page").exists()


def test_an_output_folder_that_cannot_be_written_names_its_flag(call, runs, tmp_path):
    (tmp_path / "file").touch()
    done = call(runs, "--out", tmp_path / "file" / "page")
    assert done.code == 1 and done.err.startswith("error: --out")
