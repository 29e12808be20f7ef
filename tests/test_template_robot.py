"""The robot lab's training step against the published loop, of robot_reference.py."""

import copy

import pytest
import torch
from helpers import make_trainer
from robot_reference import CONDITION, RNN, G, W, Z, make_nets, robot_step

from modules.checkpoints.published import convert

SIZES = f"--g_dim {G} --z_dim {Z} --rnn_size {RNN} --vgg_width {W}".split()
AS_PUBLISHED = "--published_step --loss_reduction sum --skip_from second_last --lr 0.001 "
AS_PUBLISHED += "--kl_anneal_type None"
BATCH, LENGTH, STEPS = 4, 4, 5
OPTIONS = [  # flags, and what they are in the published loop
    ("", {}),
    ("--n_past 3", {"past": 3}),
    ("--last_frame_skip --skip_from last", {"last_frame_skip": True}),
]


def clips_of(step):
    """Clips and conditions.

    All frames differ: BatchNorm divides by what differs within a time step, so that small
    differences would amplify rounding errors.
    """
    generator = torch.Generator().manual_seed(step)
    coarse = torch.rand(BATCH * LENGTH, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
    rows = torch.randn(BATCH, LENGTH, CONDITION, generator=generator)
    return images.unflatten(0, (BATCH, LENGTH)), rows


def distance(a, b):
    """Between two states: of their weights, and of their averages of BatchNorm.

    Without the biases before a BatchNorm: Adam divides their gradients, rounding errors, by
    themselves.
    """
    parts = [], []
    for name in b:
        if "num_batches" not in name and not name.endswith(".0.bias"):
            parts["running" in name].append((a[name] - b[name]).flatten())
    return torch.stack([torch.cat(part).norm() for part in parts])


def train_beside_the_published_loop(folder, forced, line, options):
    """-> how far the two ends are apart, in units of the distance moved; counts that differ."""
    torch.manual_seed(0)
    nets = make_nets()
    nets["decoder"].upc5[1].weight.data.mul_(10)  # predictions that differ, too
    optim = torch.optim.Adam([p for net in nets.values() for p in net.parameters()], lr=1e-3)
    start = convert({name: copy.deepcopy(net.state_dict()) for name, net in nets.items()})
    flags = [*AS_PUBLISHED.split(), *line.split()]
    trainer = make_trainer(folder, *flags, sizes=SIZES, lab="robot")
    trainer.model.load_state_dict(start)
    trainer.model.train()
    for step in range(STEPS):
        frames, rows = clips_of(step)
        torch.manual_seed(step)
        trainer.training_one_step(frames, rows, forced)
        torch.manual_seed(step)
        noise = torch.randn(BATCH, LENGTH - 1, Z)
        robot_step(nets, optim, frames, rows, forced, noise, **options)
    ours, end = (
        trainer.model.state_dict(),
        convert({k: net.state_dict() for k, net in nets.items()}),
    )
    counts = [name for name in end if "num_batches" in name and ours[name] != end[name]]
    return distance(ours, end) / distance(start, end), counts


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize(("line", "options"), OPTIONS)
def test_steps_are_those_of_the_published_loop(tmp_path, forced, line, options):
    """Weights, BatchNorm's averages, and how often those were updated."""
    found, counts = train_beside_the_published_loop(tmp_path, forced, line, options)
    assert found.max() <= 1e-8 and counts == []
