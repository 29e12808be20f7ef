"""Worlds with an open future from end to end: drawn, trained on, tested with several futures."""

import itertools
import json

import numpy as np
import pytest
import torch
from helpers import ROBOT_SIZES, TINY, in_float64
from robot_helpers import is_picture, read_clip
from test_worlds import FUTURES as TRUE_FUTURES
from test_worlds import draw_world

from modules.models import load_model, sample_futures
from modules.report.pages import FUTURES, LATENTS
from modules.runs.folder import files_of_run

N = 3  # sampled futures
LENGTH = 14  # frames of a robot clip that are used
SMALL = "--batch_size 2 --num_epoch 1 --device cpu --precision float32".split()
FLAGS = {
    "lamps": [*TINY, *"--train_vi_len 4 --val_vi_len 12 --z_grid vector --learned_prior".split()],
    "disc": f"{ROBOT_SIZES} --n_future 10 --n_eval {LENGTH} --epoch_size 2 --nets dcgan".split(),
}
FLAGS["disc"] = ["--lab", "robot", *FLAGS["disc"], "--learned_prior", "--posterior_share", 0.5]
SCORES = "psnr_best psnr_from_event_of_mean crps error_spread ssim_worst diversity".split()
SCORES += "sharpness energy_score coverage_50 coverage_90".split()


@pytest.mark.parametrize("world", FLAGS)
def test_a_run_and_its_test_write_scores_and_figures(call, tmp_path, world):
    data, run, test = (tmp_path / name for name in ("data", "run", "test"))
    draw_world(data, world, *(["--train_frames", "16"] if world == "lamps" else []))
    trained = call("Trainer", "--DR", data, "--save_root", run, *FLAGS[world], *SMALL)
    assert trained.code == 0, trained.err
    ckpt, cpu = run / "best_score.ckpt", ["--device", "cpu", "--precision", "float32"]
    words = ["--DR", data, "--save_root", test, "--ckpt_path", ckpt, "--n_samples", N, *cpu]
    with in_float64():
        tested = call("Tester", *words)
    assert tested.code == 0, tested.err
    val = json.loads((run / "distribution.json").read_text())
    scores = json.loads((test / "scores.json").read_text())
    for folder in (run / "plots", test):
        assert all(is_picture(folder / name) for name in FUTURES + LATENTS)
    moved = {path.relative_to(test).parts[0] for path in files_of_run(test)}
    assert moved == {path.name for path in test.iterdir()}  # by --resume never
    futures = scores["futures"]
    assert (futures["n_samples"], futures["true_futures"]) == (N, TRUE_FUTURES + 1 - N)
    assert (val["futures"]["n_samples"], val["futures"]["true_futures"]) == (20, 1)
    for text, printed in ((trained.out, val), (tested.out, scores)):
        measures = printed["futures"]
        assert all(np.isfinite(measures[name]) for name in SCORES)
        assert 0 <= measures["coverage_50"] <= measures["coverage_90"] <= 1
        assert sum(measures["rank_histogram"]) > 100
        assert f"{measures['energy_score']:.5g}" in text
        assert f"ELBO {printed['z']['elbo']:.1f} nats per frame" in text
        assert "\nKL at events (their frame and the next two): " in text
    assert "\nthe world's true entropy: " in tested.out
    assert f"{scores['z']['bits_per_value']:.3f} bits per value" in tested.out
    page = (test / "report.html").read_text()
    assert f"<td>{scores['codes']['png_of_differences']:.5g}</td>" in page
    assert ("ideal" in futures) == (world == "disc")  # clips of the lamps are longer than futures
    if world == "disc":
        assert futures["ideal"]["n_samples"] == N
        assert f"<td>{futures['ideal']['energy_score']:.5g}</td>" in page
        check_by_hand(ckpt, data, scores)
    without = call("Tester", *words, "--no-plots")
    assert without.code == 0 and not [*test.rglob("*.png")], without.err


def rms(x):
    return np.sqrt(np.square(x).mean((1, 2, 3)))


@in_float64()
def check_by_hand(ckpt, data, scores):
    """The scores of the robot's test from its clips, the files beside them, and one rollout."""
    model = load_model(ckpt, "cpu", "float32")
    clips = [read_clip(folder, LENGTH) for folder in sorted(data.glob("test/*/*"))]
    frames, conditions = (torch.stack(x) for x in zip(*clips))
    sampled = sample_futures(model, frames[:, :2], conditions, N, 1)
    sampled = sampled.half().double().numpy()  # futures are kept as halves
    energies = []
    for i in range(len(clips)):
        true = np.load(data / f"futures/{i}.npz")["frames"][N:, :LENGTH]
        true = true.transpose(0, 1, 4, 2, 3)[:, 2:] / 255
        true = np.concatenate([true, frames[i : i + 1, 2:].numpy()])  # the clip is one of them
        futures = sampled[:, i, 2:]
        error = np.mean([rms(x - y) for x in futures for y in true], 0)
        spread = np.mean([rms(a - b) for a, b in itertools.combinations(futures, 2)], 0)
        energies.append((error - spread / 2).mean())
    assert scores["futures"]["energy_score"] == pytest.approx(np.mean(energies))
