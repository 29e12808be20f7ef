"""The package against the template's loops, written plainly in scripts/plain_reference.py."""

import itertools
import sys

import pytest
import torch
from helpers import (
    BATCH,
    LENGTH,
    ROOT,
    SHORT,
    SIZE,
    differences,
    long,
    make_dataset,
    make_trainer,
    random_clips,
)

sys.path.insert(0, str(ROOT / "scripts"))
from plain_reference import PlainDataset, PlainModel, plain_rollout, plain_step

from dataloader import Dataset_Dance
from modules.models.rollout import noise_source, roll_out

N_DIM = 4
SIZES = {"F_dim": 8, "L_dim": 2, "N_dim": N_DIM, "D_out_dim": 8}  # those of TINY


AS_TEMPLATE = "--no-feedback_clamp", "--norm_over", "step"


def make_plain(trainer):
    """The plain model with the trainer's weights, both in training mode."""
    plain = PlainModel(**SIZES)
    plain.load_state_dict(trainer.model.state_dict())
    trainer.model.train()
    return plain.train()


def noise_of_step(step, batch, length):
    """The noise that a training step draws for z after torch.manual_seed(step)."""
    torch.manual_seed(step)
    return torch.randn(batch, length - 1, N_DIM, *SIZE)


STRATEGIES = list(itertools.product((False, True), ("full", "frame"), ("current", "previous")))


@pytest.mark.parametrize("forced, feedback, posterior", STRATEGIES)
@pytest.mark.usefixtures("float64")
def test_twenty_steps_match_the_plain_loop(tmp_path, forced, feedback, posterior):
    flags = ("--feedback", feedback, "--posterior", posterior, *AS_TEMPLATE)
    trainer = make_trainer(tmp_path, *flags, "--kl_anneal_type", "None", "--lr", "0.001")
    plain = make_plain(trainer)
    optim = torch.optim.Adam(plain.parameters(), lr=0.001)
    more = {"detach": feedback == "frame", "previous": posterior == "previous"}
    for step in range(20):
        clips = random_clips(seed=step)
        torch.manual_seed(step)
        loss = trainer.training_one_step(*clips, forced)[0].item()
        noise = noise_of_step(step, BATCH, LENGTH)
        assert loss == pytest.approx(
            plain_step(plain, optim, *clips, forced, **more, noise=noise), rel=1e-5
        )
        for found, expected in zip(trainer.model.parameters(), plain.parameters()):
            assert (found.grad - expected.grad).abs().max() < 1e-5
    for (name, found), expected in zip(trainer.model.named_parameters(), plain.parameters()):
        assert (found - expected).abs().max() < 1e-5, name
    statistics_match(trainer.model, plain)


def statistics_match(model, plain):
    """Of the pose encoder's BatchNorm: averages, and how often they were updated."""
    found, expected = (x.label_transformation[2].state_dict() for x in (model, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def smooth_clips(number, length=LENGTH):
    """Two clips of smooth images that brighten over time, and their poses."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(4, 3, 3, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear").view(2, 2, 1, 3, *SIZE)
    time = torch.linspace(0, 1, length).view(1, 1, -1, 1, 1, 1)
    return (0.8 * images + 0.2 * time).unbind(0)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double()


def train_beside_the_template(trainers, forced, epochs=10, steps=12):
    """Train them and the plain loop on the same clips and noise -> (start, end) of its weights.

    Four batches are repeated: with a new batch in every step Adam amplifies rounding errors.
    """
    plain = make_plain(trainers[0])
    for trainer in trainers[1:]:
        trainer.model.load_state_dict(plain.state_dict())
        trainer.model.train()
    optim, start = torch.optim.Adam(plain.parameters(), lr=1e-3), weights(plain)
    for step in range(epochs * steps):
        clips, beta = smooth_clips(step % 4), trainers[0].kl_annealing.get_beta()
        for trainer in trainers:
            torch.manual_seed(step)
            trainer.training_one_step(*clips, forced)
            if step % steps == steps - 1:
                trainer.step_schedules()
        noise = noise_of_step(step, 2, LENGTH)
        plain_step(plain, optim, *clips, forced, noise=noise, beta=beta)
    statistics_match(trainers[0].model, plain)
    return start, weights(plain)


@pytest.mark.parametrize(
    "beta, forced",
    [
        ("1", True),
        *(
            pytest.param(*x, marks=long)
            for x in (("0", False), ("0", True), ("1", False), ("Cyclical", True))
        ),
    ],
)
@pytest.mark.usefixtures("float64")
def test_120_steps_with_the_courses_flags_match_the_template(tmp_path, beta, forced):
    """Adam at lr 1e-3 with its eps, the clipped gradient of the sum, cyclical annealing.

    --loss_reduction mean leads to other weights: clipping and eps depend on the scale. So does
    BatchNorm over all time steps.
    """
    kl = () if beta == "Cyclical" else ("--kl_anneal_type", "None", "--kl_anneal_stop", beta)
    ours = make_trainer(tmp_path, *AS_TEMPLATE, *kl)
    settings = ours.settings
    assert (settings.lr, settings.optim, settings.grad_clip) == (1e-3, "Adam", 1)
    assert settings.loss_reduction == "sum"
    other = [("--loss_reduction", "mean"), ("--norm_over", "clip")] if beta == "Cyclical" else []
    others = [make_trainer(tmp_path, *AS_TEMPLATE, *kl, *flags) for flags in other]
    start, end = train_beside_the_template([ours, *others], forced)
    moved = (end - start).norm()
    assert (weights(ours.model) - end).norm() <= 1e-4 * moved
    for trainer in others:
        assert (weights(trainer.model) - end).norm() > 1e-2 * moved


def test_a_rollout_matches_the_plain_loop(tmp_path):
    trainer = make_trainer(tmp_path, "--no-feedback_clamp")
    plain = make_plain(trainer).eval()
    given, poses = torch.rand(1, 3, *SIZE), torch.rand(1, 200, 3, *SIZE)
    found = roll_out(trainer.model, given[:, None], poses, noise_source("sample", 0, [0]))
    torch.manual_seed(0)
    expected = plain_rollout(plain, given, poses, N_DIM)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_clips_match_those_of_the_plain_loop(tmp_path):
    root = make_dataset(tmp_path / "data")
    ours, plain = Dataset_Dance(root, "train", 4, size=SIZE), PlainDataset(root, 4, SIZE)
    assert len(ours) == len(plain) == 4
    for a, b in zip(ours[2], plain[2]):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- runs of earlier versions


def test_a_run_of_earlier_versions_resumes_with_the_mean(tmp_path, call, no_plots):
    """Their checkpoints have no loss_reduction: they minimised the mean over the frames."""
    data = make_dataset(tmp_path / "data")

    def train(name, epochs, *flags):
        line = ["--DR", data, "--save_root", tmp_path / name, "--num_epoch", epochs, *SHORT]
        done = call("Trainer", *line, "--precision", "float32", "--kl_anneal_type", "None", *flags)
        assert done.code == 0, done.err
        return torch.load(tmp_path / name / "last.ckpt", weights_only=True)

    expected = train("mean", 2, "--loss_reduction", "mean")
    state = train("earlier", 1, "--loss_reduction", "mean")
    del state["args"]["loss_reduction"]
    torch.save(state, tmp_path / "earlier/last.ckpt")
    found = train("earlier", 2)
    assert found["args"]["loss_reduction"] == "mean"
    assert differences(found["state_dict"], expected["state_dict"]) == []
    assert differences(train("sum", 2)["state_dict"], expected["state_dict"]) != []
