"""scripts/compare.py: how runs are grouped, what is drawn of them, which errors are reported.

The page itself, in a browser: test_page.py.
"""

import importlib.util
import json
import re
import subprocess
import sys
from base64 import b64decode
from functools import partial

import numpy as np
import pytest
from helpers import ROOT, write_tested
from matplotlib.figure import Figure

from modules.files import write_csv
from modules.report import charts, groups, reading, tables

SCRIPT = ROOT / "scripts" / "compare.py"
NAMED = "run", "runs", "epochs", "best val PSNR"
spec = importlib.util.spec_from_file_location("compare", SCRIPT)
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)


def write_run(folder, psnr, frames=(), scores=None, baseline=groups.COPIED, **settings):
    """A run folder with only the files that compare.py reads."""
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps({"save_root": str(folder)} | settings))
    rows = [f"{i},{0.5 / (i + 1)},{'' if p is None else p},10.0" for i, p in enumerate(psnr)]
    head = "epoch,train/loss,val/psnr,val/psnr_given_frame_repeated"
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    rows = [f"{i + 1},{p},12.0" for i, p in enumerate(frames)]
    (folder / "val_frames.csv").write_text("\n".join([f"frame,rollout,{baseline}", *rows]) + "\n")
    if scores:
        write_tested(folder, {"scores.json": json.dumps({"mean": scores})})
    return folder


@pytest.fixture
def runs(tmp_path):
    """Three seeds of one configuration, and one run of another."""
    for seed, psnr in enumerate(([20, 30], [22, 31], [24, 35])):
        frames = [30 + seed, 20 - seed]
        write_run(tmp_path / f"all/cyclical/seed{seed}", psnr, frames, seed=seed, kl="Cyclical")
    scores = {"psnr": 21.5, "drift": -0.25, "psnr_given_frame_repeated": 11.0}
    write_run(tmp_path / "all/none", [19, None, 18], [25, 15], scores, seed=0, kl="None")
    return tmp_path / "all"


@pytest.fixture
def call(in_process):
    """call(flag, ...) -> code, out, err of the script, run in this process."""
    return partial(in_process, compare.main, SCRIPT)


def test_runs_that_differ_by_seed_and_place_only_are_one_group(runs):
    found = groups.group(groups.find_runs([runs]))
    assert {name: len(members) for name, members in found.items()} == {"cyclical": 3, "none": 1}
    assert groups.differences(found) == (["kl"], [["cyclical", "Cyclical"], ["none", "None"]])


def test_groups_are_named_by_their_folders(tmp_path):
    for seed in (3, 4):
        write_run(tmp_path / f"here/run{seed}", [20], seed=seed, kl="None")
    assert list(groups.group(groups.find_runs([tmp_path]))) == ["here"]
    write_run(tmp_path / "here/other", [20], seed=0, kl="Cyclical")
    found = groups.group(groups.find_runs([tmp_path]))
    assert {name: len(members) for name, members in found.items()} == {
        "other": 1,
        "run3 and 1 more": 2,
    }


def test_a_run_from_pretrained_weights_is_another_group(tmp_path):
    for name, path in (("fresh", None), ("tuned", "a.ckpt")):
        write_run(tmp_path / name, [20], seed=0, ckpt_path=path, lr=0.1)
    found = groups.group(groups.find_runs([tmp_path]))
    assert groups.differences(found) == (["ckpt_path"], [["fresh", "-"], ["tuned", "a.ckpt"]])


def test_a_run_that_was_moved_aside_is_left_out(runs):
    (runs / "none" / "before-1").mkdir()
    (runs / "none" / "metrics.csv").rename(runs / "none" / "before-1" / "metrics.csv")
    assert list(groups.group(groups.find_runs([runs]))) == ["cyclical"]


def lines_of(folder, rows_of, x, column):
    """{label: line} of the runs in a folder."""
    found = groups.group(groups.find_runs([folder]))
    return {line.label: line for line in groups.lines(found, rows_of, x, column)}


def test_a_line_is_the_mean_of_its_runs_with_a_band_of_one_standard_deviation(runs):
    lines = lines_of(runs, groups.epochs_of, "epoch", "val/psnr")
    assert set(lines) == {"cyclical (3 runs)", "none"}
    mean = lines["cyclical (3 runs)"]
    assert (mean.x, mean.y) == ([0, 1], [22, 32])
    deviations = [np.std(psnr, ddof=1) for psnr in ([20, 22, 24], [30, 31, 35])]
    np.testing.assert_allclose(mean.spread, deviations)
    assert (lines["none"].x, lines["none"].y) == ([0, 2], [19, 18])  # None is left out
    assert lines["none"].spread is None


def test_runs_of_different_lengths_are_averaged_over_shared_epochs(tmp_path):
    for seed, psnr in enumerate(([20, 30, 40], [22, 32])):
        write_run(tmp_path / f"a/{seed}", psnr, seed=seed, kl="None")
    (line,) = lines_of(tmp_path, groups.epochs_of, "epoch", "val/psnr").values()
    assert (line.x, line.y) == ([0, 1], [21, 31])


def test_a_seed_without_values_does_not_hide_its_group(runs):
    for seed, label in ((2, "cyclical (2 of 3 runs)"), (1, "cyclical (1 of 3 runs)")):
        (runs / f"cyclical/seed{seed}/val_frames.csv").unlink()
        lines = lines_of(runs, groups.frames_of, "frame", "rollout")
        assert set(lines) == {label, "none"}
        np.testing.assert_allclose(lines[label].y, [29.5 + seed / 2, 20.5 - seed / 2])
        assert (lines[label].spread is not None) == (seed == 2)
        assert "cyclical (3 runs)" in lines_of(runs, groups.epochs_of, "epoch", "val/psnr")


def test_an_unfinished_run_is_a_line_of_its_own_and_in_no_mean(tmp_path):
    for seed, psnr in enumerate(([20, 30, 40], [22, 32, 42], [21])):
        write_run(tmp_path / f"a/s{seed}", psnr, seed=seed, kl="None", num_epoch=3)
    lines = lines_of(tmp_path, groups.epochs_of, "epoch", "val/psnr")
    assert set(lines) == {"a (2 runs)", "s2 (unfinished: 1 of 3 epochs)"}
    assert lines["a (2 runs)"].y == [21, 31, 41]
    _, rows = groups.score_table(groups.group(groups.find_runs([tmp_path])))
    shown = [[dict(zip(["run", *tables.HEAD], row))[name] for name in NAMED] for row in rows]
    assert shown == [["a", "2", "3", "41.00 ± 1.41"], ["s2", "1", "1 of 3", "21.00"]]


def test_the_ranking_has_the_baseline_and_marks_what_is_below_it(call, runs, tmp_path):
    write_run(runs / "worse", [-3.32], seed=0, kl="x")
    assert call(runs, "--out", tmp_path / "page").code == 0
    text = (tmp_path / "page/report.html").read_text()
    sections = re.findall(r"<h2>(.*)</h2>", text)
    assert sections[:3] == ["Ranking", "Settings that differ", "Curves"]
    assert "Ranked by best val PSNR. The best is cyclical: 32.00 ± 2.65 dB, 22.00 ± 2.65 dB" in text
    below = re.findall(r"<tr class=below><td>(\w+)</td>.*<td>-13.32 \(below\)</td>", text)
    assert below == ["worse"]


def test_the_best_group_is_first(runs):
    write_run(runs / "running", [40], seed=1, kl="x", num_epoch=3)
    assert ranking(runs) == ["running", "cyclical", "none"]  # by validation: not all are tested
    for scored in runs.glob("cyclical/*"):
        write_tested(scored, {"scores.json": json.dumps({"mean": {"psnr": 20.0}})})
    assert ranking(runs) == ["none", "cyclical", "running"]


def ranking(folder):
    return [row[0] for row in groups.score_table(groups.group(groups.find_runs([folder])))[1]]


# ---------------------------------------------------------------- groups and panels by a flag


@pytest.fixture
def grid(tmp_path):
    """Three KL types with two teacher forcing ratios, of one seed."""
    for i, kl in enumerate(("Cyclical", "Monotonic", "None")):
        for tfr in (0.0, 1.0):
            psnr = [20 + i + 10 * tfr]
            write_run(tmp_path / f"{kl}/tfr{tfr}", psnr, seed=0, kl_anneal_type=kl, tfr=tfr)
    return tmp_path


def test_panels_by_a_flag_have_the_same_lines(grid):
    found = groups.panels(groups.find_runs([grid]), [], "kl_anneal_type")
    assert list(found) == [f"kl_anneal_type {kl}" for kl in ("Cyclical", "Monotonic", "None")]
    assert all(list(members) == ["tfr 0.0", "tfr 1.0"] for members in found.values())
    (chart,) = (c for c in groups.charts_of(found) if c.name == "psnr")
    styles = [[(s.name, s.style) for s in p.series if not s.baseline] for p in chart.panels]
    assert styles == [[("tfr 0.0", 0), ("tfr 1.0", 1)]] * 3


def test_a_figure_has_a_line_for_each_run_or_for_each_value_of_a_flag(grid):
    runs = dict(zip("abcdef", groups.find_runs([grid])))
    chart = groups.figure("Figure 1", "val/psnr", {name: runs[name] for name in "ac"})
    assert (chart.name, chart.title, chart.x) == ("Figure 1", "Validation PSNR (mean)", "epoch")
    assert [(s.label, s.y) for s in chart.panels[0].series[:2]] == [("a", [20]), ("c", [21])]
    (panel,) = groups.figure("f", "val/psnr", runs, "tfr").panels
    lines = [(s.label, s.y, s.spread) for s in panel.series[:2]]
    assert lines == [("tfr 0.0 (3 runs)", [21], [1]), ("tfr 1.0 (3 runs)", [31], [1])]
    assert len(groups.figure("f", "train/loss", runs, "tfr", "kl_anneal_type").panels) == 3
    assert not groups.figure("f", "val/ssim", runs).panels
    assert not groups.figure("f", "val/psnr", {}, "tfr").panels


@pytest.mark.parametrize("flag", ["--group_by", "--panel_by"])
def test_a_flag_that_no_run_has_is_refused(call, grid, tmp_path, flag):
    done = call(grid, "--out", tmp_path / "page", flag, "nothing")
    assert done.code == 1 and f"{flag} nothing: no run has this setting" in done.err
    assert not (tmp_path / "page").exists()


# ---------------------------------------------------------------- axes and colours


def curve(*values):
    return charts.Series("a", list(range(len(values))), list(values))


def test_a_log_axis_is_chosen_where_a_few_values_flatten_the_rest():
    assert charts.flattens([curve(9, 1, *[0.1, 0.09, 0.08, 0.07] * 4)])
    assert charts.flattens([curve(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 900, 0.2)])  # a spike
    assert not charts.flattens([curve(9, 8, 7, 6, 5, 4, 3, 2)])
    assert not charts.flattens([curve(9, 1, 1.1)])  # too few values
    assert not charts.flattens([curve(9, 1, *[0.1, -0.1] * 8)])  # no logarithm
    assert not charts.flattens([curve(*[1] * 9)]) and not charts.flattens([])
    assert not charts.flattens([curve(float("nan"), 2)])


def test_epochs_have_ticks_at_whole_numbers_and_decibels_a_linear_axis():
    axes, panel = Figure().subplots(), charts.Panel("", [curve(1, 2)])
    charts.draw_panel(axes, charts.Chart("psnr", "PSNR", "epoch", "dB", [panel]), panel)
    assert all(tick == round(tick) for tick in axes.get_xticks())
    panels = [charts.Panel("", [curve(90, 30, *[3, 2.9, 2.8, 2.7] * 4)])]
    assert charts.Chart("mse", "MSE", "epoch", "MSE", panels).log
    assert not charts.Chart("psnr", "PSNR", "epoch", "dB", panels).log


def test_table_and_page_have_every_group(runs, tmp_path):
    out = tmp_path / "page"
    (runs / "none" / "val_strip.png").write_bytes(b"a strip")
    command = [sys.executable, SCRIPT, str(runs), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    head, _, *rows = [line.split(" | ") for line in done.stdout.splitlines() if line[0] == "|"]
    assert rows[0][:7] == ["| cyclical", "3", "2", "22.00 ± 2.65", "-", "-", "32.00 ± 2.65"]
    assert " ".join(rows[1]) == "| none 1 3 9.00 21.50 11.00 19.00 18.00 10.00 -0.25 |"
    assert len(head) == len(rows[0])
    text = (out / "report.html").read_text()
    pictures = [b64decode(data) for data in re.findall(r"png;base64,([^\"]+)", text)]
    drawn = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert set(drawn) == {"loss.png", "psnr.png", "psnr_per_frame.png"}
    assert {path.stem for path in out.glob("*.pdf")} == {"loss", "psnr", "psnr_per_frame"}
    assert pictures == [b"a strip"]
    assert "<td>Cyclical</td>" in text and "19.00" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)  # no other file is needed


def test_rows_with_different_columns_are_read_back(tmp_path):
    rows = [{"epoch": 0, "a": 1.5}, {"epoch": 1, "a": 0.1, "b": None}, {"b": 1 / 3, "epoch": 2}]
    write_csv(tmp_path / "rows.csv", rows)
    found = reading.read_csv(tmp_path / "rows.csv")
    assert found == [{"a": None, "b": None} | row for row in rows]


DAMAGED = {
    "metrics.csv": "epoch,val/psnr\n0,x\n",
    "val_frames.csv": "frame,rollout,x\n1,2\n,3,4\n5,6,7",
    "args.json": '{"lab": []}',
    "scores.json": '{"mean": {"psnr": "high"}}',
    "val_clip.json": '{"title": "a", "size": [' + 9000 * "[",
}


def test_a_damaged_run_or_clip_is_named_and_left_out(call, runs, tmp_path):
    for name, content in DAMAGED.items():
        folder = write_run(runs / f"bad {name}", [20], [30], {"psnr": 20.0}, seed=0, kl=name)
        (folder / name).write_text(content)
    done = call(runs, "--out", tmp_path / "page")
    assert done.code == 0
    for name in DAMAGED:
        assert done.out.count(f"bad {name} is left out: ") == (name != "val_clip.json")
    assert "bad val_clip.json/val_clip.json is left out: " in done.out
    text = (tmp_path / "page/report.html").read_text()
    assert "cyclical" in text and "bad val_clip.json" in text and "bad args.json" not in text


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


@pytest.mark.parametrize(
    ("values", "cell"),
    [
        ([], "-"),
        ([None], "-"),
        ([35.123], "35.12"),
        ([0.0], "0.00"),
        ([35, None, 36], "35.50 ± 0.71"),
        ([0.0003], "0.0003"),
        ([-0.0004, -0.0002], "-0.0003 ± 0.0001"),
        ([0.012, 0.008], "0.01 ± 0.003"),
        ([8, 8], "8.00 ± 0.00"),
        ([1, -0.9], "0.05 ± 1.34"),
        ([16281.4], "16281"),
        ([1000, 1010], "1005 ± 7"),
    ],
)
def test_a_cell_shows_its_value(values, cell):
    assert tables.mean_text(values) == cell
