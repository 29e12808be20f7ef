"""State dicts of published robot code, against an independent model with its names and rollout."""

import sys

import numpy as np
import pytest
import torch
import torch.nn as nn
from helpers import ROOT
from robot_reference import CONDITION, PAST, RNN, G, W, Z, make_nets, published_rollout

sys.path.insert(0, str(ROOT / "scripts"))
import convert_robot

from modules.checkpoints import checkpoint
from modules.errors import UserError
from modules.models import load_model, roll_out
from modules.models.loading import trained_posterior
from modules.runs import saving

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


# ---------------------------------------------------------------- scripts/convert_robot.py


@pytest.mark.parametrize("nested", [False, True])
def test_one_state_dict_of_all_nets_is_read_too(nets, path, tmp_path, nested):
    flat = {f"{net}.{k}": v for net, x in nets.items() for k, v in x.state_dict().items()}
    torch.save({"state_dict": flat, "epoch": 3} if nested else flat, tmp_path / "flat.pth")
    found, expected = (load_model(p, "cpu").state_dict() for p in (tmp_path / "flat.pth", path))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_converted_file_needs_no_flags(nets, path, tmp_path, in_process):
    """Its rollout is that of the published weights with what they do not tell."""
    out = tmp_path / "new/robot.ckpt"
    words = path, out, "--condition", "previous", "--last_frame_skip", "--n_past", 3
    done = in_process(convert_robot.main, "convert_robot.py", *words)
    assert done.code == 0, done.err
    model = load_model(out, "cpu", "float32")
    told = model.settings.condition, model.settings.last_frame_skip, model.settings.n_past
    assert told == ("previous", True, 3) and model.settings.skip_from == "last"
    plain = load_model(path, "cpu", "float32")
    changes = {"condition": "previous", "last_frame_skip": True, "skip_from": "last"}
    plain.settings = plain.settings.replace(n_past=3, **changes)
    torch.manual_seed(1)
    given, rows = torch.rand(2, 3, 3, 64, 64), torch.randn(2, LENGTH, CONDITION)
    assert torch.equal(*(roll_out(x, given, rows) for x in (model, plain)))
    assert trained_posterior(checkpoint.load(out)) and trained_posterior(checkpoint.load(path))
    again = in_process(convert_robot.main, "convert_robot.py", *words)
    assert again.code == 1 and f"{out} exists" in again.err
    with pytest.raises(UserError, match="holds weights only: start from them with --ckpt_path"):
        saving.load_run(out)
