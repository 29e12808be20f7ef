"""The robot lab's training step against the published loop, of robot_reference.py."""

import copy

import pytest
import torch
from helpers import long, make_trainer
from robot_reference import CONDITION, RNN, G, W, Z, make_nets, robot_step

from modules.runs.published import convert

SIZES = f"--g_dim {G} --z_dim {Z} --rnn_size {RNN} --vgg_width {W}".split()
AS_PUBLISHED = "--norm_over step --loss_reduction sum --skip_from second_last --lr 0.001".split()
BATCH, LENGTH = 4, 4


def clips_of(number):
    """One of four batches of clips and conditions.

    All frames differ: BatchNorm divides by what differs within a time step, so that small
    differences would amplify rounding errors.
    """
    generator = torch.Generator().manual_seed(number % 4)
    coarse = torch.rand(BATCH * LENGTH, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
    rows = torch.randn(BATCH, LENGTH, CONDITION, generator=generator)
    return images.unflatten(0, (BATCH, LENGTH)), rows


def noise_of_step(step):
    """The noise that a training step draws for z after torch.manual_seed(step)."""
    torch.manual_seed(step)
    return torch.randn(BATCH, LENGTH - 1, Z)


def distance(a, b):
    """Between two states, without the counts of BatchNorm."""
    return torch.cat([(a[n] - b[n]).flatten() for n in b if "num_batches" not in n]).norm()


def train_beside_the_published_loop(trainer, forced, beta, steps, offset=0.0, **more):
    """-> weights and statistics of the published nets, at first and at the end, by our names.

    `trainer` (or None) makes the same steps from the same weights.
    """
    torch.manual_seed(0)
    nets = make_nets()
    with torch.no_grad():  # predictions that differ, too
        nets["decoder"].upc5[1].weight.mul_(10)
        weights = [p for net in nets.values() for p in net.parameters()]
        for weight in weights:
            weight.add_(offset * torch.randn_like(weight))
    optim = torch.optim.Adam(weights, lr=1e-3)
    start = convert(copy.deepcopy({name: net.state_dict() for name, net in nets.items()}))
    if trainer:
        trainer.model.load_state_dict(start)
        trainer.model.train()
    for step in range(steps):
        frames, rows = clips_of(step)
        if trainer:
            torch.manual_seed(step)
            trainer.training_one_step(frames, rows, forced)
        robot_step(nets, optim, frames, rows, forced, noise_of_step(step), beta, **more)
    return start, convert({name: net.state_dict() for name, net in nets.items()})


def make_robot_trainer(folder, beta, *flags):
    kl = "--kl_anneal_type", "None", "--kl_anneal_stop", str(beta)
    return make_trainer(folder, *AS_PUBLISHED, *kl, *flags, sizes=SIZES, lab="robot")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "forced, beta",
    [(True, 1), *(pytest.param(*x, marks=long) for x in ((True, 0), (False, 1), (False, 0)))],
)
def test_120_steps_match_the_published_loop(tmp_path, forced, beta):
    """Weights, BatchNorm's averages, and how often those were updated.

    Free running amplifies rounding errors: the published loop's own distance to itself, started
    from weights that are 1e-15 off, grows as much. No more is allowed.
    """
    ours = make_robot_trainer(tmp_path, beta)
    start, end = train_beside_the_published_loop(ours, forced, beta, steps=120)
    found, allowed = ours.model.state_dict(), 1e-4 * distance(start, end)
    if distance(found, end) > allowed and not forced:
        _, other = train_beside_the_published_loop(None, forced, beta, steps=120, offset=1e-15)
        allowed = max(allowed, 2 * distance(other, end))
    assert distance(found, end) <= allowed
    counts = [name for name in end if "num_batches" in name]
    assert counts and all(found[name] == end[name] for name in counts)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("last_frame_skip", [False, True])
def test_five_free_running_steps_match_more_closely(tmp_path, last_frame_skip):
    """Before rounding errors have grown."""
    flags = ("--last_frame_skip", "--skip_from", "last") if last_frame_skip else ()
    ours, more = make_robot_trainer(tmp_path, 1, *flags), {"last_frame_skip": last_frame_skip}
    start, end = train_beside_the_published_loop(ours, False, 1, steps=5, **more)
    assert distance(ours.model.state_dict(), end) <= 1e-6 * distance(start, end)


@pytest.mark.usefixtures("float64")
def test_statistics_over_all_time_steps_are_another_experiment(tmp_path):
    """The default, which is faster."""
    ours = make_robot_trainer(tmp_path, 1, "--norm_over", "clip")
    start, end = train_beside_the_published_loop(ours, True, 1, steps=5)
    assert distance(ours.model.state_dict(), end) > 1e-2 * distance(start, end)
