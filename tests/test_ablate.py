"""scripts/ablate.py: its arms are what their names say, and take the same number of steps."""

import io
import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, SHORT, write_tested
from PIL import Image

from modules.cli.parser import parse
from modules.config import PoseModel
from modules.config.fields import FIXED
from modules.errors import UserError
from modules.report import figures
from modules.training.losses import calibrated_loss

sys.path.insert(0, str(ROOT / "scripts"))
import ablate
import ablate_kl
import jobs
import study


def settings(flags, epochs=10):
    line = ["--DR", "data", "--save_root", "run", *flags.split(), "--num_epoch", str(epochs)]
    return parse("Trainer", line)[0].as_dict()


@pytest.mark.parametrize("name", ablate.ARMS)
def test_every_arm_is_a_command_of_trainer_without_ineffective_flags(name, capsys):
    found = settings(ablate.ARMS[name])
    assert found["DR"] == "data"
    assert found["loss_reduction"] == "mean"  # as the published runs of this study
    assert "no effect" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ablate_kl.ARMS)
@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_every_arm_of_the_kl_study_is_a_command_of_trainer(lab, name, capsys):
    flags = f"--lab {lab} {ablate_kl.study_of(lab).arms[name]}"
    loss, schedule, forcing = name.split(", ")
    found = settings(flags)
    assert found["loss"] == loss.split()[0] and found["tfr"] == float(forcing)
    clipped = lab == "pose" and found["loss"] == "mse"  # docs/training.md
    assert found["grad_clip"] == (0.001 if clipped else {"pose": 1, "robot": 0}[lab])
    assert found["kl_anneal_type"] == ("None" if schedule == "small beta" else schedule)
    assert "no effect" not in capsys.readouterr().out


@pytest.mark.usefixtures("float64")
def test_the_matched_beta_has_the_gradient_of_the_calibrated_loss(tmp_path):
    mse, values = 0.0125, 3 * 32 * 64
    (tmp_path / "metrics.csv").write_text(f"epoch,train/mse\n0,9\n1,{mse}\n")
    beta = float(ablate_kl.matched_beta("pose", tmp_path).split()[1])
    error = torch.tensor(mse**0.5, requires_grad=True)  # of every value
    true = torch.zeros(2, 3, 3, 32, 64)
    kl, pred = 3 * error, true + error
    squared = torch.nn.functional.mse_loss(pred, true) + beta * kl
    calibrated = calibrated_loss(pred, true) + kl * 2 / values
    ours, theirs = (
        torch.autograd.grad(x, error, retain_graph=True)[0].item() for x in (squared, calibrated)
    )
    assert ours / mse == pytest.approx(theirs, rel=2e-5 / mse)  # MSE_FLOOR is 1e-5
    with pytest.raises(UserError, match="must be trained first"):
        ablate_kl.matched_beta("pose", tmp_path / "other")


def test_differences_have_intervals_over_seeds_and_clips(capsys):
    def scores(*psnr):
        clips = [{"psnr": x} for x in psnr]
        return {"clips": clips, "mean": {"psnr": sum(psnr) / len(psnr)}, "z": {"kl": psnr[0]}}

    arms = {"A": [scores(1, 2), scores(3, 4), scores(5, 6)]}
    arms["B"] = [scores(1, 3), scores(3, 5), scores(5, 7)]
    one = SimpleNamespace(columns={"PSNR": "mean/psnr", "KL": "z/kl"})
    study.print_differences(one, arms, "A")
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| A | +0 [0, 0] | +0 [0, 0] |",
        "| B | +0.5 [0.5, 0.5] | +0 [0, 0] |",  # no difference between the seeds
    ]


@pytest.mark.parametrize("one", [ablate.STUDY, *map(ablate_kl.study_of, ["pose", "robot"])])
def test_the_figure_shows_columns_of_the_table(one):
    assert one.drawn.keys() <= one.columns.keys()


def test_the_kl_study_knows_the_lab_of_a_data_set(tmp_path, dataset):
    assert ablate_kl.lab_of(dataset) == "pose"
    robot = tmp_path / "robot"
    (robot / "train/traj_0_to_1.tfrecords/0").mkdir(parents=True)
    with pytest.raises(UserError, match=str(robot)):
        ablate_kl.lab_of(robot)
    (robot / "train/traj_0_to_1.tfrecords/0/0.png").touch()
    assert ablate_kl.lab_of(robot) == "robot"


@pytest.mark.parametrize("name", ablate.LEFT_OUT)
def test_an_arm_without_a_part_differs_in_the_settings_of_this_part_only(name):
    best, other = settings(ablate.ARMS["best"]), settings(ablate.ARMS[name])
    changed = {flag for flag in best if best[flag] != other[flag]}
    words = ablate.PARTS[name.removeprefix("best - ")].split()
    flags_of_part = {word[2:] for word in words if word.startswith("--")}
    assert changed
    assert changed <= flags_of_part | {"grad_clip", "tfr_d_step", "kl_anneal_type"}


@pytest.mark.parametrize("name", ablate.ADDED)
def test_an_arm_with_a_part_differs_in_the_settings_of_this_part_only(name):
    public, other = (settings(ablate.ARMS[x]) for x in ("best public recipe", name))
    words = ablate.PARTS[name.removeprefix("public + ")].split()
    flags_of_part = {word[2:] for word in words if word.startswith("--")}
    assert {flag for flag in public if public[flag] != other[flag]} == flags_of_part


def test_best_training_does_not_change_the_courses_nets():
    names = "course defaults", "the course's nets, best training"
    plain, better = (settings(ablate.ARMS[name]) for name in names)
    for flag in PoseModel.names(FIXED) | {"output_activation"}:
        assert plain[flag] == better[flag]


@pytest.mark.parametrize(("name", "steps"), [("course defaults", 79), ("best", 32)])
def test_epochs_give_about_the_required_steps(name, steps):
    epochs = study.epochs_for(480, ablate.ARMS[name], frames=2520)
    assert epochs == round(480 / steps)
    assert study.epochs_for(1, ablate.ARMS[name], frames=2520) == 1


# ---------------------------------------------------------------- the script


@pytest.fixture
def ablate_with(in_process):
    """ablate_with(flag, ...) -> code, out, err of the script, run in this process."""
    return partial(in_process, ablate.main, "ablate.py")


def test_an_arm_is_trained_and_tested_once(ablate_with, dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(ablate.ARMS, "best", " ".join([*SHORT, "--no-plots"]))
    monkeypatch.chdir(tmp_path)  # it runs from any folder
    flags = ["--DR", dataset, "--runs", tmp_path, "--steps", 1, "--seeds", 3, 3, "--arms", "best"]
    first = ablate_with(*flags)
    written = (tmp_path / "best/seed3/last.ckpt").stat().st_mtime_ns
    again = ablate_with(*flags)
    assert (first.code, again.code) == (0, 0), first.err + again.err
    scores = json.loads((tmp_path / "best/seed3/scores.json").read_text())["mean"]
    assert f"| best | {scores['psnr']:.2f} | {scores['psnr_pose_box']:.2f} |" in first.out
    assert first.out == again.out
    with Image.open(tmp_path / "arms.png") as figure:
        figure.load()
    assert (tmp_path / "best/seed3/last.ckpt").stat().st_mtime_ns == written
    assert first.err.startswith(f"best, seed 3: PSNR {scores['psnr']:.2f} dB, ")
    assert first.err.count("\n") == 1 and again.err == ""  # no progress bar in a file


def test_the_figure_shows_every_seed_and_the_mean(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: saved.append(figure))
    arms = {
        "A": {"KL": [1e-4, 3e-4], "PSNR": [30.0, 31.0]},
        "B $": {"KL": [20.0], "PSNR": [None]},  # a run without this score
    }
    figures.draw_arms(tmp_path / "arms.png", arms, {"PSNR": "dB", "KL": "nats"})
    psnr, kl = saved[0].axes
    drawn = [[(x, *set(line.get_ydata())) for x in line.get_xdata()] for line in psnr.lines]
    assert drawn == [[(30.0, 0), (31.0, 0)], [(30.5, 0)], []]
    assert [*kl.lines[1].get_xdata()] == pytest.approx([2e-4])
    assert (psnr.get_xscale(), kl.get_xscale()) == ("linear", "log")
    assert (psnr.get_xlabel(), kl.get_xlabel()) == ("dB", "nats")
    assert [label.get_text() for label in psnr.get_yticklabels()] == ["A", r"B \$"]
    assert psnr.get_ylim() == kl.get_ylim() and psnr.get_ylim()[0] > 1  # the first arm on top
    assert psnr.get_xlim() != kl.get_xlim()
    figures.draw_arms(tmp_path / "arms.png", arms, {"PSNR": "dB", "KL": "dB"})
    assert len({axes.get_xlim() for axes in saved[1].axes}) == 1


@pytest.fixture
def complete(tmp_path, dataset):
    """The flags of a run that is complete, and its folder."""
    folder = tmp_path / "best" / "seed0"
    flags = f"{ablate.ARMS['best']} --seed 0 --num_epoch 5".split()
    line = ["--lab", "pose", "--DR", str(dataset), "--save_root", str(folder), *flags]
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps(jobs.settings_of(line).as_dict()))
    scores = {"psnr": 30.0, "psnr_pose_box": 20.0, "drift": 1.0}
    write_tested(folder, {"scores.json": json.dumps({"mean": scores})})
    return ["--DR", dataset, "--runs", tmp_path, "--seeds", 0, "--arms", "best"], folder


def change_stored(folder, **changes):
    args = json.loads((folder / "args.json").read_text()) | changes
    (folder / "args.json").write_text(json.dumps(args))


def test_scores_of_another_run_are_refused(ablate_with, complete):
    flags, folder = complete
    done = ablate_with(*flags, "--steps", 5)  # 16 frames, one step per epoch
    assert "| best | 30.00 | 20.00 | 1.00 |" in done.out, done.err
    done = ablate_with(*flags, "--steps", 7)
    assert done.code == 1 and "--num_epoch 5, now it is 7" in done.err
    change_stored(folder, warp=0.1)
    done = ablate_with(*flags, "--steps", 5)
    assert done.code == 1 and "--warp 0.1, now it is 0.5" in done.err


def test_a_terminal_has_a_progress_bar_over_all_runs(ablate_with, complete, monkeypatch):
    flags, _ = complete
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert ablate_with(*flags, "--steps", 5).code == 0
    assert "1/1 runs" in terminal.getvalue()


def test_a_folder_without_data_is_refused(ablate_with, tmp_path):
    done = ablate_with("--DR", tmp_path, "--runs", tmp_path / "runs")
    assert done.code == 1 and done.err.startswith(f"error: --DR {tmp_path}")
