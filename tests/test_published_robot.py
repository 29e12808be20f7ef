"""State dicts of published robot code, against an independent model with its names and rollout."""

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers import ROOT  # noqa: F401

from modules.errors import UserError
from modules.models import load_model, roll_out

G, Z, RNN, W, PAST, LENGTH, CONDITION = 8, 4, 12, 4, 2, 6, 7


class Layer(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2))

    def forward(self, x):
        return self.main(x)


def layers(*widths):
    return nn.Sequential(*(Layer(a, b) for a, b in zip(widths, widths[1:])))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = layers(3, W, W), layers(W, 2 * W, 2 * W)
        self.c3 = layers(2 * W, 4 * W, 4 * W, 4 * W)
        self.c4 = layers(4 * W, 8 * W, 8 * W, 8 * W)
        self.c5 = nn.Sequential(nn.Conv2d(8 * W, G, 4), nn.BatchNorm2d(G), nn.Tanh())

    def forward(self, x):
        h1 = self.c1(x)
        h2 = self.c2(F.max_pool2d(h1, 2))
        h3 = self.c3(F.max_pool2d(h2, 2))
        h4 = self.c4(F.max_pool2d(h3, 2))
        return self.c5(F.max_pool2d(h4, 2)).view(-1, G), [h1, h2, h3, h4]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.upc1 = nn.Sequential(
            nn.ConvTranspose2d(G, 8 * W, 4), nn.BatchNorm2d(8 * W), nn.LeakyReLU(0.2)
        )
        self.upc2 = layers(16 * W, 8 * W, 8 * W, 4 * W)
        self.upc3 = layers(8 * W, 4 * W, 4 * W, 2 * W)
        self.upc4 = layers(4 * W, 2 * W, W)
        self.upc5 = nn.Sequential(Layer(2 * W, W), nn.ConvTranspose2d(W, 3, 3, 1, 1), nn.Sigmoid())

    def forward(self, vector, skips):
        x = self.upc1(vector.view(-1, G, 1, 1))
        for stage, skip in zip((self.upc2, self.upc3, self.upc4, self.upc5), skips[::-1]):
            x = stage(torch.cat([F.interpolate(x, scale_factor=2), skip], 1))
        return x


class Recurrent(nn.Module):
    """LSTM cells with the hidden state on the module, as published."""

    def __init__(self, inputs, n_layers):
        super().__init__()
        self.embed = nn.Linear(inputs, RNN)
        self.lstm = nn.ModuleList(nn.LSTMCell(RNN, RNN) for _ in range(n_layers))
        self.hidden = [None] * n_layers

    def step(self, x):
        x = self.embed(x)
        for i, cell in enumerate(self.lstm):
            self.hidden[i] = cell(x, self.hidden[i])
            x = self.hidden[i][0]
        return x


class Predictor(Recurrent):
    def __init__(self):
        super().__init__(CONDITION + G + Z, 2)
        self.output = nn.Sequential(nn.Linear(RNN, G), nn.BatchNorm1d(G), nn.Tanh())

    def forward(self, x):
        return self.output(self.step(x))


class Posterior(Recurrent):
    def __init__(self):
        super().__init__(G, 1)
        self.mu_net, self.logvar_net = nn.Linear(RNN, Z), nn.Linear(RNN, Z)

    def forward(self, x, eps):
        x = self.step(x)
        return self.mu_net(x) + eps * torch.exp(self.logvar_net(x) / 2)


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    made = {
        "encoder": Encoder(), "decoder": Decoder(), "frame_predictor": Predictor(),
        "posterior": Posterior(),
    }  # fmt: skip
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


@torch.no_grad()
def published_rollout(nets, given, conditions, z):
    """Given frames pass through with z of their posterior; skips stay those of frame PAST - 2."""
    frames, skips = [given[:, 0]], None
    for i in range(1, LENGTH):
        vector, maps = nets["encoder"](frames[-1])
        if i < PAST:
            skips = maps
            target, _ = nets["encoder"](given[:, i])
            latent = nets["posterior"](target, z[:, i - 1])
        else:
            latent = z[:, i - 1]
        x = nets["frame_predictor"](torch.cat([conditions[:, i], vector, latent], 1))
        frames.append(given[:, i] if i < PAST else nets["decoder"](x, skips))
    return torch.stack(frames, 1)


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
