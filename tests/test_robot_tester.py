"""Tester.py in the robot lab: its files, its scores, several futures, what it refuses."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import EVAL, PAST, make_robot_data, read_csv, write_clip
from PIL import Image, ImageSequence
from robot_helpers import (
    clips_of,
    is_picture,
    predict,
    psnr,
    train_in,
)

from modules.report import pictures


@pytest.fixture(scope="module")
def trained(robot_trained):
    return robot_trained


@pytest.fixture
def make_test(call, trained, tmp_path):
    """make_test(flag, ...) -> code, out, err and the folder of a test."""

    def run(*flags, ckpt=trained.scaled, folder="test", data=trained.data):
        places = ["--DR", data, "--save_root", tmp_path / folder, "--ckpt_path", ckpt]
        done = call("Tester", *places, "--device", "cpu", "--precision", "float32", *flags)
        done.folder = tmp_path / folder
        return done

    return run


@pytest.fixture
def run_test(make_test, no_plots):
    return make_test


def scores_of(done):
    assert done.code == 0, done.err
    return json.loads((done.folder / "scores.json").read_text())


def test_the_lab_is_the_checkpoints(make_test):
    done = make_test()
    assert done.code == 0, done.err
    files = """pred_seq0.gif pred_seq1.gif strip0.png strip1.png test.json test_clip0.json
        test_clip1.json kl_per_dimension.png kl_over_time.png traversal.png scores.json
        psnr_per_frame.png report.html console.txt"""
    assert {p.name for p in done.folder.iterdir()} == {*files.split()}
    assert all(is_picture(p) for p in done.folder.glob("*.png"))
    assert "submission.csv" not in done.out


def frame_times(path):
    """uint8 (T, H, W, 3): the frame of a gif at every 100 ms."""
    frames = []
    with Image.open(path) as gif:
        for frame in ImageSequence.Iterator(gif):
            frames += [np.asarray(frame.convert("RGB"))] * (frame.info["duration"] // 100)
    return np.stack(frames)


def borders(frames, left, width):
    """Colours (T, 4, 3) of the four sides of the border of a clip in a gif's frames."""
    height, right = frames.shape[1], left + width
    middle = (left + right) // 2
    points = [(2, middle), (height - 3, middle), (height // 2, left + 2), (height // 2, right - 3)]
    return np.stack([frames[:, y, x] for y, x in points], axis=1).astype(int)


def test_a_gif_shows_truth_and_prediction_with_coloured_borders(run_test, trained):
    frames = frame_times(run_test().folder / "pred_seq1.gif")
    side, gap = 3 * (64 + 4), 6
    assert frames.shape == (EVAL, side, 2 * side + gap, 3)
    colours = np.array([pictures.GREEN] * PAST + [pictures.RED] * (EVAL - PAST))[:, None]
    assert abs(borders(frames, side + gap, side) - colours).max() < 25
    assert abs(borders(frames, 0, side) - pictures.GREY).max() < 25
    clips = clips_of(trained.data, "test")
    for left, clip in ((0, clips[1][0]), (side + gap, predict(trained.scaled, clips)[1])):
        shown = frames[:, 7:-6:3, left + 7 : left + side - 6 : 3]  # every enlarged pixel's centre
        expected = clip.numpy().transpose(0, 2, 3, 1) * 255
        assert abs(shown - expected).mean((1, 2, 3)).max() < 8  # 256 colours per frame
    assert abs(shown[PAST:] - expected[[PAST - 1]]).mean() > 16


@pytest.mark.usefixtures("float64")
def test_scores_are_computed_from_a_rollout(run_test, trained):
    scores, clips = scores_of(run_test()), clips_of(trained.data, "test")
    pred = predict(trained.scaled, clips)
    expected = [psnr(p.numpy(), frames) for p, (frames, _) in zip(pred, clips)]
    assert [clip["psnr"] for clip in scores["clips"]] == pytest.approx(expected)
    assert scores["mean"]["psnr"] == pytest.approx(np.mean(expected))
    repeated = np.mean([psnr(f[[PAST - 1] * EVAL].numpy(), f) for f, _ in clips])
    assert scores["mean"]["psnr_given_frame_repeated"] == pytest.approx(repeated)
    assert "futures" not in scores


def test_the_tester_gives_the_scores_of_validation(run_test, call, tmp_path):
    root = make_robot_data(tmp_path / "robot")
    shutil.rmtree(root / "test")
    shutil.copytree(root / "validate", root / "test")
    assert train_in(call, root, root / "run", 2, "--ema 0.5").code == 0
    best = max(row["val/psnr"] for row in read_csv(root / "run/metrics.csv"))
    scores = scores_of(run_test(data=root, ckpt=root / "run/best_score.ckpt"))
    assert scores["mean"]["psnr"] == best
    flags = ["--DR", root, "--save_root", root / "again", *"--lab robot --device cpu".split()]
    flags += ["--precision", "float32", "--ckpt_path", root / "run/best_score.ckpt"]
    again = call("Trainer", "--test", *flags)
    assert f"PSNR {best:.2f} dB" in again.out


@pytest.mark.parametrize("n_eval", [5, 14])
def test_n_eval_may_differ_from_the_runs(run_test, tmp_path, n_eval):
    for clip in range(3):
        write_clip(tmp_path / "robot", "test", 0, clip, 14)
    done = run_test("--n_eval", n_eval, "--batch_size", 2, data=tmp_path / "robot")
    assert len(scores_of(done)["clips"]) == 3
    gifs = [*done.folder.glob("pred_seq*.gif")]
    assert [pictures.gif_time(path) for path in gifs] == [100 * n_eval] * 3


# ---------------------------------------------------------------- several futures


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("batch_size", [1, 2])
def test_futures_are_scored_and_the_first_is_the_scored_rollout(run_test, trained, batch_size):
    scores = scores_of(run_test("--n_samples", 3, "--batch_size", batch_size))
    clips = clips_of(trained.data, "test")
    futures = [predict(trained.scaled, clips, sample=k) for k in range(3)]
    table = np.array([[psnr(p.numpy(), f) for p, (f, _) in zip(x, clips)] for x in futures])
    pixels = np.stack([torch.stack(x)[:, PAST:].numpy() for x in futures])
    expected = {
        "n_samples": 3,
        "psnr_mean": table.mean(),
        "psnr_best": table.max(axis=0).mean(),
        "psnr_worst": table.min(axis=0).mean(),
        "diversity": 255 * pixels.std(axis=0, ddof=1).mean(),
    }
    found = {name: scores["futures"][name] for name in expected}
    assert found == pytest.approx(expected)
    assert expected["psnr_best"] > expected["psnr_mean"] > expected["psnr_worst"]
    assert expected["diversity"] > 1
    assert scores["mean"]["psnr"] == pytest.approx(table[0].mean())


@pytest.mark.usefixtures("float64")
def test_futures_are_samples_where_the_scored_rollout_has_z_of_the_mean(run_test, trained):
    scores = scores_of(run_test("--n_samples", 3, "--z_source", "mean"))
    sampled = scores_of(run_test("--n_samples", 3, folder="sampled"))
    assert scores["futures"] == sampled["futures"] and scores["mean"] != sampled["mean"]
    clips = clips_of(trained.data, "test")
    pred = predict(trained.scaled, clips, kind="mean")
    expected = np.mean([psnr(p.numpy(), frames) for p, (frames, _) in zip(pred, clips)])
    assert scores["mean"]["psnr"] == pytest.approx(expected)


# ---------------------------------------------------------------- refusals

REFUSED = {
    "--lab robot --z_dim 3": ("--z_dim 3", "scaled.ckpt", "was trained with"),
    "--lab pose": ("--lab robot",),
    "--lab robot --n_future 8": ("--n_eval 6 is below --n_past + --n_future, 10",),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_contradicts_the_checkpoint_is_refused(run_test, line):
    done = run_test(*line.split())
    assert done.code == 1 and all(word in done.err for word in REFUSED[line])
