"""State dicts of published robot code, against an independent model with its names and rollout."""

import numpy as np
import pytest
import torch
import torch.nn as nn
from helpers import ROOT  # noqa: F401
from robot_reference import CONDITION, PAST, RNN, G, W, Z, make_nets, published_rollout

from modules.errors import UserError
from modules.models import load_model, roll_out

LENGTH = 6


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    made = make_nets()
    for net in made.values():
        for layer in net.modules():  # statistics that matter
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
        net.eval()
    return made


@pytest.fixture(scope="module")
def path(nets, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "state_dicts.pth"
    torch.save({name: net.state_dict() for name, net in nets.items()}, path)
    return path


def test_a_rollout_is_that_of_the_published_code(nets, path):
    torch.manual_seed(1)
    given, conditions = torch.rand(3, PAST, 3, 64, 64), torch.randn(3, LENGTH, CONDITION)
    z, steps = torch.randn(3, LENGTH - 1, Z), iter(range(LENGTH))
    model = load_model(path, "cpu", "float32")
    ours = roll_out(model, given, conditions, lambda shape: z[:, next(steps)])
    expected = published_rollout(nets, given, conditions, z)
    assert expected[:, PAST:].std() > 0.01
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_its_sizes_are_read_off_its_weights(path):
    settings = load_model(path, "cpu").settings
    found = {name: getattr(settings, name) for name in "g_dim z_dim rnn_size vgg_width".split()}
    assert found == {"g_dim": G, "z_dim": Z, "rnn_size": RNN, "vgg_width": W}
    assert (settings.predictor_rnn_layers, settings.posterior_rnn_layers) == (2, 1)
    assert settings.skip_from == "second_last"


def test_a_missing_weight_is_named(nets, tmp_path):
    state = {name: dict(net.state_dict()) for name, net in nets.items()}
    del state["decoder"]["upc3.1.main.0.weight"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth does not fit the model.*stages\.1\.1\.0\.weight"):
        load_model(tmp_path / "x.pth", "cpu")


def test_whole_pickled_modules_are_refused(nets, tmp_path):
    torch.save(nets, tmp_path / "model.pth")
    with pytest.raises(UserError, match="loading it would run code"):
        load_model(tmp_path / "model.pth", "cpu")
