"""Training runs of the robot lab: what they write, what they compute, how they resume."""

import json

import numpy as np
import pytest
import torch
from helpers import (
    EVAL,
    PAST,
    differences,
    load,
    read_csv,
)
from helpers import SHORT as POSE
from robot_helpers import (
    clips_of,
    is_picture,
    make_robot,
    predict,
    psnr,
    random_robot_clips,
    train_in,
)

import Trainer
from modules.report.charts import CURVES
from modules.report.pages import FUTURES, LATENTS
from modules.report.pictures import gif_time
from modules.runs.folder import MOVING

# ---------------------------------------------------------------- training


@pytest.fixture
def train(call, robot_trained, tmp_path, no_plots):
    """train(folder, epochs, flags) -> the folder of a run that succeeded."""

    def run(name, epochs=1, line=""):
        done = train_in(call, robot_trained.data, tmp_path / name, epochs, line)
        assert done.code == 0, done.err
        return tmp_path / name

    return run


def test_a_run_writes_the_documented_files(call, robot_trained, tmp_path):
    folder = tmp_path / "run"
    assert train_in(call, robot_trained.data, folder, 2, "--per_save 1").code == 0
    files = """args.json facts.json metrics.csv val_frames.csv val.gif val_strip.png plots
        distribution.json val_clip.json val_futures.json console.txt best_score.ckpt last.ckpt
        epoch=0.ckpt epoch=1.ckpt report.html"""
    assert {p.name for p in folder.iterdir()} == {*files.split()}
    plots = {f"{name}.{kind}" for name in CURVES for kind in ("png", "pdf")}
    plots |= {"curves.png", "psnr_per_frame.png"}
    assert {p.name for p in (folder / "plots").iterdir()} == plots | {*FUTURES, *LATENTS, MOVING}
    assert all(is_picture(p) for p in [*folder.glob("plots/*.png"), folder / "val_strip.png"])
    args = json.loads((folder / "args.json").read_text())
    assert (args["lab"], args["n_past"], args["num_epoch"]) == ("robot", 2, 2)
    assert [row["epoch"] for row in read_csv(folder / "metrics.csv")] == [0, 1]
    assert [row["frame"] for row in read_csv(folder / "val_frames.csv")] == [2, 3, 4, 5]
    assert gif_time(folder / "val.gif") == 100 * EVAL


@pytest.mark.parametrize(
    "flags", ["", "--z_source mean --seed 4 --ema 0.5 --learned_prior --last_frame_skip"]
)
def test_scores_of_validation_are_those_of_rollouts_one_by_one(train, robot_trained, flags):
    folder = train("run", 2, f"--per_save 1 {flags}")
    seed, kind = (4, "mean") if flags else (1, "sample")
    clips = clips_of(robot_trained.data, "validate")
    copied = np.mean([psnr(frames[[PAST - 1] * EVAL], frames) for frames, _ in clips])
    for row in read_csv(folder / "metrics.csv"):
        pred = predict(folder / f"epoch={row['epoch']:.0f}.ckpt", clips, seed, kind)
        expected = np.mean([psnr(p, frames) for p, (frames, _) in zip(pred, clips)])
        assert row["val/psnr"] == pytest.approx(expected, abs=1e-4)
        assert row["val/psnr_given_frame_repeated"] == pytest.approx(copied, abs=1e-4)
    pred = predict(folder / "best_score.ckpt", clips, seed, kind)
    error = [(p - frames)[PAST:].square().mean((2, 3)) for p, (frames, _) in zip(pred, clips)]
    expected = (-10 * torch.stack(error).log10()).mean((0, 2))
    rows = read_csv(folder / "val_frames.csv")
    assert [row["rollout"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-3)


def test_bf16_applies_to_convolutions_only():
    model, seen = make_robot(precision="bf16"), {}
    model.frame_predictor.embed.register_forward_hook(lambda *x: seen.update(lstm=x[1][0].dtype))
    model.decoder.register_forward_hook(lambda *x: seen.update(skips=x[1][1].dtype))
    outputs = model(*random_robot_clips(), False)
    assert seen == {"lstm": torch.float32, "skips": torch.bfloat16}
    assert {x.dtype for x in outputs} == {torch.float32}


def test_standardised_conditions_are_those_of_the_training_set(train, robot_trained):
    state = load(train("run", 1, "--standardise"))["state_dict"]
    rows = torch.cat([rows for _, rows in clips_of(robot_trained.data, "train")])
    for name, expected in (("mean", rows.mean(0)), ("std", rows.std(0).clamp_min(1e-6))):
        torch.testing.assert_close(state[f"condition_{name}"], expected, rtol=1e-3, atol=1e-6)


def test_training_sees_the_frames_and_rows_that_were_drawn(train, monkeypatch):
    one_step, seen, trainers = Trainer.Trainer.training_one_step, [], set()

    def training_one_step(self, frames, conditions, *more):
        seen.append((frames, conditions))
        trainers.add(self)
        return one_step(self, frames, conditions, *more)

    monkeypatch.setattr(Trainer.Trainer, "training_one_step", training_one_step)
    train("run", 2, "--random_offset --batch_size 3")
    (trainer,) = trainers
    drawn = [batch for epoch in (0, 1) for batch in trainer.clips.batches(epoch)]
    dataset = trainer.clips.dataset
    frames, rows = np.asarray(dataset.frames), np.asarray(dataset.conditions)
    for numbers, (got, conditions) in zip(drawn, seen, strict=True):
        expected = frames[numbers].transpose(0, 1, 4, 2, 3) / 255
        assert np.allclose(got, expected, atol=1e-6)
        assert np.array_equal(conditions, rows[numbers])


# ---------------------------------------------------------------- resuming


def test_a_robot_run_is_not_resumed_as_a_pose_run(train, call, dataset):
    folder = train("run")
    done = call("Trainer", "--DR", dataset, "--save_root", folder, "--num_epoch", 2, *POSE)
    assert done.code == 1
    assert "--lab robot" in done.err


def test_validation_does_not_change_the_training(train):
    often = train("often", 3, "--val_every 1 --tfr 0.5")
    once = train("once", 3, "--val_every 3 --tfr 0.5")
    for name in ("state_dict", "optimizer"):
        assert differences(load(often)[name], load(once)[name]) == []


def test_weights_of_the_other_lab_are_refused(call, robot_trained, dataset, tmp_path):
    places = ["--DR", dataset, "--save_root", tmp_path / "x", "--ckpt_path", robot_trained.best]
    done = call("Trainer", *places, *POSE, "--num_epoch", 1)
    assert done.code == 1
    assert "--lab robot" in done.err
