"""Worlds with an open future from end to end: drawn, trained on, tested with several futures."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROBOT_SIZES, TINY, in_float64
from robot_helpers import is_picture, read_clip
from test_worlds import FUTURES as TRUE_FUTURES
from test_worlds import draw_world

from modules.evaluation.futures import sample_futures
from modules.models.loading import load_model
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
SCORES = "psnr_best ssim_worst diversity sharpness energy_score coverage_50 coverage_90".split()


@pytest.fixture(scope="module", params=FLAGS)
def world(request):
    return request.param


@pytest.fixture(scope="module")
def data(tmp_path_factory, world):
    root = tmp_path_factory.mktemp(world) / "data"
    draw_world(root, world, *(["--train_frames", "16"] if world == "lamps" else []))
    return root


@pytest.fixture
def run(call, tmp_path, data, world):
    """run(flag, ...) -> a run of one epoch and its test with N futures."""

    def once(*flags):
        done = SimpleNamespace(data=data, run=tmp_path / "run", test=tmp_path / "test")
        place = "--DR", done.data, "--save_root"
        trained = call("Trainer", *place, done.run, *FLAGS[world], *SMALL, *flags)
        assert trained.code == 0, trained.err
        done.ckpt = done.run / "best_score.ckpt"
        more = "--ckpt_path", done.ckpt, "--n_samples", N, "--device", "cpu"
        more = *more, "--precision", "float32", *flags
        with in_float64():
            tested = call("Tester", *place, done.test, *more)
        assert tested.code == 0, tested.err
        done.printed = trained.out, tested.out
        done.val = json.loads((done.run / "distribution.json").read_text())
        done.scores = json.loads((done.test / "scores.json").read_text())
        done.page = (done.test / "report.html").read_text()
        return done

    return once


def pictures_in(folder):
    return {path.name for path in folder.rglob("*.png")}


def test_a_run_and_its_test_write_scores_and_figures(run, world):
    done = run()
    for folder in (done.run / "plots", done.test):
        assert {*FUTURES, *LATENTS} <= pictures_in(folder)
        assert all(is_picture(folder / name) for name in FUTURES + LATENTS)
    moved = {path.relative_to(done.test).parts[0] for path in files_of_run(done.test)}
    assert moved == {path.name for path in done.test.iterdir()}  # by --resume never
    futures = done.scores["futures"]
    assert futures["n_samples"] == N and futures["true_futures"] == TRUE_FUTURES
    assert done.val["futures"]["n_samples"] == 20 and done.val["futures"]["true_futures"] == 1
    for scores in (futures, done.val["futures"]):
        assert all(np.isfinite(scores[name]) for name in SCORES)
        assert 0 <= scores["coverage_50"] <= scores["coverage_90"] <= 1
        assert sum(scores["rank_histogram"]) > 100
    for text, scores in zip(done.printed, (done.val, done.scores)):
        assert f"{scores['futures']['energy_score']:.3f}" in text
        assert f"ELBO {scores['z']['elbo']:.1f} nats per frame" in text
        assert "\nKL at events (their frame and the next two): " in text
    assert f"({TRUE_FUTURES} true futures per clip; " in done.printed[1]
    assert f"\nideal forecast{'-':>11}" in done.printed[1]
    assert f"<td>{futures['ideal']['energy_score']:.5g}</td></tr>" in done.page


def test_without_plots_there_are_the_scores_alone(run, world):
    done = run("--no-plots")
    assert pictures_in(done.run) == pictures_in(done.test) == set()
    if world == "disc":
        check_by_hand(done)


def rms(x):
    return np.sqrt(np.square(x).mean((1, 2, 3)))


@in_float64()
def check_by_hand(done):
    """The scores of the robot's test from its clips, the files beside them, and one rollout."""
    model = load_model(done.ckpt, "cpu", "float32")
    clips = [read_clip(folder, LENGTH) for folder in sorted(done.data.glob("test/*/*"))]
    frames, conditions = (torch.stack(x) for x in zip(*clips))
    sampled = sample_futures(model, frames[:, :2], conditions, 1, range(N))
    sampled = sampled.half().double().numpy()  # futures are kept as halves
    energies = []
    for i in range(len(clips)):
        true = np.load(done.data / f"futures/{i}.npz")["frames"][:, :LENGTH]
        true = true.transpose(0, 1, 4, 2, 3)[:, 2:] / 255
        mine = sampled[:, i, 2:]
        error = np.mean([rms(x - y) for x in mine for y in true], 0)
        spread = np.mean([rms(mine[a] - mine[b]) for a in range(N) for b in range(a)], 0)
        energies.append((error - spread / 2).mean())
    assert done.scores["futures"]["energy_score"] == pytest.approx(np.mean(energies))
    rows = (done.data / "events/test.csv").read_text().splitlines()[1:]
    near = np.zeros((len(clips), LENGTH), bool)
    for row in rows:
        clip, frame = map(int, row.split(","))
        near[clip, frame : frame + 3] = True
    with torch.no_grad():
        _, mu, logvar = model(frames, conditions, True)
    kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(2)[:, 1:].double().numpy()
    events = done.scores["z"]["events"]
    assert events["at_events"] == pytest.approx(kl[near[:, 2:]].mean())
    assert events["elsewhere"] == pytest.approx(kl[~near[:, 2:]].mean())
