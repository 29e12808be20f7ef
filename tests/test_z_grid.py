"""How fine z is in the pose lab (--z_grid): shapes, cells, the file of a run."""

import pytest
import torch
from helpers import (
    TINY,
    assert_close,
    settings_of,
)

from modules.models.pose import VAE_Model
from modules.models.rollout import noise_source, one_step, roll_out

ODD = {"frame_H": 22, "frame_W": 26}
SHAPES = [
    ({"z_grid": "full", **ODD}, (22, 26)),
    ({"z_grid": "coarse", **ODD}, (6, 7)),
    ({"z_grid": "vector", **ODD}, (1, 1)),
    ({"z_grid": "coarse", "frame_H": 32, "frame_W": 64}, (8, 16)),
    ({"z_grid": "full", "nets": "unet", **ODD}, (11, 13)),
    ({"z_grid": "coarse", "nets": "unet", **ODD}, (3, 4)),
    ({"z_grid": "vector", "nets": "unet", **ODD}, (1, 1)),
]


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return VAE_Model(settings_of([*TINY, "--precision", "float32"]).replace(**changes)).eval()


def clips_for(model, batch=2, length=3):
    size = model.settings.frame_H, model.settings.frame_W
    return torch.rand(2, batch, length, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("learned_prior", [False, True])
@pytest.mark.parametrize(("changes", "grid"), SHAPES, ids=str)
def test_z_has_the_shape_of_the_grid(changes, grid, learned_prior):
    model = tiny(learned_prior=learned_prior, **changes)
    frames, poses = clips_for(model)
    shapes = []

    def noise(shape):
        shapes.append(shape)
        return torch.zeros(2, *shape)

    for forced in (True, False):
        pred, mu, logvar = model(frames, poses, forced)
        assert mu.shape == logvar.shape == (2, 2, 4, *grid)
        assert pred.shape == (2, 2, *frames.shape[2:])
        assert model(frames, poses, forced, prior=True)[0].shape == pred.shape
    assert roll_out(model, frames[:, :1], poses, noise).shape == frames.shape
    assert shapes == [(2, 4, *grid)] and model.z_shape == (4, *grid)
    steps = one_step(model, frames[0], poses[0], noise_source("sample", 0, [0]))
    assert steps.shape == frames[0, 1:].shape


# ---------------------------------------------------------------- cells


def spread_z(model, z):
    """z (N, *grid) as the decoder gets it: (N, h, w)."""
    seen = []
    hook = model.Decoder_Fusion.register_forward_hook(lambda _, given, __: seen.append(given[2]))
    features = torch.zeros(1, 8, *model.feature_size)
    model.decode(features, torch.zeros(1, 2, *model.feature_size), z[None])
    hook.remove()
    return seen[0][0]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("z_grid", "side"), [("coarse", 4), ("vector", 99)])
@pytest.mark.parametrize("nets", ["course", "unet"])
def test_a_cell_pools_the_features_that_its_z_is_spread_to(z_grid, side, nets):
    model = tiny(z_grid=z_grid, nets=nets, **ODD)
    (h, w), (_, rows, columns) = model.feature_size, model.z_shape
    numbers = torch.arange(rows * columns).view(1, rows, columns).expand(model.z_shape).float()
    place = spread_z(model, numbers)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    assert torch.equal(place, (y // side * columns + x // side).float().expand(4, h, w))
    maps = torch.randn(1, 8, h, w, requires_grad=True)  # the last layer's output
    hook = model.Gaussian_Predictor[-1].register_forward_hook(lambda *_: maps)
    known = torch.zeros(1, 8, h, w), torch.zeros(1, 2, h, w)
    _, mu, logvar = model.Gaussian_Predictor(*known, torch.zeros(()), cell=model.cell)
    hook.remove()
    for cell in range(rows * columns):
        inside = place[0] == cell
        pooled = torch.stack([m[inside].mean() for m in maps[0]])
        assert_close(torch.cat([mu, logvar], 1)[0].flatten(1)[:, cell], pooled)
        (grad,) = torch.autograd.grad(mu.flatten(2)[0, 1, cell], maps, retain_graph=True)
        assert torch.equal(grad[0, 1] != 0, inside)
