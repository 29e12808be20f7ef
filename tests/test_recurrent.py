"""The robot lab's model against the architecture of docs/robot.md, written as a loop."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from modules.config import RobotModel
from modules.models.robot import RecurrentVAE
from modules.training.losses import kl_criterion

G, Z, RNN, B, FUTURE = 8, 4, 16, 2, 3
BOTH = [False, True]
EXACT = {"rtol": 1e-9, "atol": 1e-9}

pytestmark = pytest.mark.usefixtures("float64")


def options(**changes):
    sizes = {"g_dim": G, "z_dim": Z, "rnn_size": RNN, "vgg_width": 4, "precision": "float32"}
    return RobotModel(**(sizes | changes))


class SmallEncoder(nn.Module):
    """A fast stand-in for the encoder: a vector and four maps, different for every frame."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3 * 64, G)

    def forward(self, x):
        vector = torch.tanh(self.out(F.avg_pool2d(x, 8).flatten(1)))
        return vector, *(F.avg_pool2d(x, size) for size in (1, 2, 4, 8))


class SmallDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(G, 3)

    def forward(self, vector, *skips):
        maps = sum(F.interpolate(skip, (64, 64)) / (2 + i) for i, skip in enumerate(skips))
        return torch.sigmoid(2 * self.out(vector)[:, :, None, None] + maps)


def make(nets="small", **changes):
    """A model in eval mode with weights large enough that every input shows in the output."""
    torch.manual_seed(0)
    model = RecurrentVAE(options(**changes | ({} if nets == "small" else {"nets": nets})))
    if nets == "small":
        model.encoder, model.decoder = SmallEncoder(), SmallDecoder()
    for name, value in model.state_dict().items():
        if name.endswith("running_mean") or (value.dim() == 1 and "bias" in name):
            nn.init.normal_(value, 0, 0.2)
        elif value.dim() > 1:
            nn.init.normal_(value, 0, 1.4 / value[0].numel() ** 0.5)
    return model.eval()


def clips(settings, batch=B, future=FUTURE):
    generator = torch.Generator().manual_seed(1)
    steps = settings.n_past + future
    frames = torch.rand(batch, steps, 3, 64, 64, generator=generator)
    return frames, torch.randn(batch, steps, 7, generator=generator)


# ---------------------------------------------------------------- the nets' sizes


def test_sizes_and_initial_weights():
    torch.manual_seed(0)
    model = RecurrentVAE(RobotModel(learned_prior=True))
    assert {k: sum(p.numel() for p in net.parameters()) for k, net in model.named_children()} == {
        "encoder": 8_689_600,
        "decoder": 11_822_659,
        "frame_predictor": 1_137_024,
        "posterior": 592_256,
        "prior": 592_256,
    }
    kinds = nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d
    layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    assert len(layers) == 20 + 2 + 8 + 21 + 1
    for layer in layers:
        mean, few = float(layer.weight.dim() == 1), layer.weight.numel() ** -0.5
        assert layer.weight.mean().item() == pytest.approx(mean, abs=0.1 * few)
        assert layer.weight.std().item() == pytest.approx(0.02, rel=4 * few)
        assert not layer.bias.any()
    hidden = model.frame_predictor.lstm.weight_hh_l1  # as PyTorch draws it
    assert hidden.abs().max().item() == pytest.approx(256**-0.5, rel=0.01)


# ---------------------------------------------------------------- the loop, step by step


class Stepped:
    """A recurrent net that is called once a step and stores its hidden state."""

    def __init__(self, net):
        self.net, self.hidden = net, None

    def __call__(self, x):
        *out, self.hidden = self.net(x[:, None], self.hidden)
        return [x[:, 0] for x in out]


def plain(model, frames, conditions, noise, known, skip_frames, posterior_until):
    """The model frame by frame -> predictions, and the mean KL.

    The frames before `known` are true ones, the others predictions; z of the frames before
    `posterior_until` is the posterior's, of the others the prior's; the skip connections of frame i
    come from frame skip_frames[i - 1].
    """
    settings, seen, kls = model.settings, [frames[:, 0]], []
    nets = model.frame_predictor, model.posterior, getattr(model, "prior", None)
    predictor, posterior, prior = map(Stepped, nets)
    preds, encoded = [], []
    for i in range(1, frames.shape[1]):
        encoded.append(model.encoder(seen[-1]))
        h, skips = encoded[-1][0], encoded[skip_frames[i - 1]][1:]
        mu_p, logvar_p = prior(h) if settings.learned_prior else torch.zeros(2, len(h), Z)
        mu, logvar = mu_p, logvar_p
        if i < posterior_until:
            mu, logvar = posterior(model.encoder(frames[:, i])[0])
        z = mu + noise[:, i - 1] * (logvar / 2).exp()
        row = conditions[:, i - (settings.condition == "previous")]
        row = row * (settings.condition != "none")
        preds.append(model.decoder(*predictor(torch.cat([row, h, z], 1)), *skips))
        seen.append(frames[:, i] if i < known else preds[-1])
        q, p = (Normal(m, (v / 2).exp()) for m, v in ((mu, logvar), (mu_p, logvar_p)))
        kls.append(kl_divergence(q, p).sum() / len(frames))
    return torch.stack(preds, 1), sum(kls) / len(kls)


CASES = [  # settings, and the frames that the skip connections of each predicted frame come from
    ({}, [0, 1, 1, 1]),
    ({"skip_from": "second_last", "learned_prior": True}, [0, 0, 0, 0]),
    ({"n_past": 1, "learned_prior": True, "condition": "none"}, [0, 0, 0]),
    (
        {"n_past": 3, "last_frame_skip": True, "learned_prior": True, "condition": "previous"},
        [0, 1, 2, 3, 4],
    ),
    (
        {"n_past": 3, "skip_from": "second_last", "posterior_rnn_layers": 2}
        | {"predictor_rnn_layers": 1},
        [0, 1, 1, 1, 1],
    ),
    ({"nets": "dcgan", "n_past": 3}, [0, 1, 2, 2, 2]),
]


def gradients(model, pred, kl, frames):
    loss = F.mse_loss(pred, frames[:, 1:]) + 0.01 * kl
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros(1) if g is None else g for g in grads]


@pytest.mark.parametrize(("changes", "skip_frames"), CASES)
@pytest.mark.parametrize("teacher_forcing", BOTH)
@pytest.mark.parametrize("prior", BOTH)
def test_training_equals_the_plain_loop(changes, skip_frames, teacher_forcing, prior):
    model = make(**changes)
    frames, conditions = clips(model.settings)
    noise, length = torch.randn(B, frames.shape[1] - 1, Z), frames.shape[1]
    pred, mu, logvar = model(frames, conditions, teacher_forcing, prior, noise)
    known, posterior_until = (length if teacher_forcing else 1), (0 if prior else length)
    expected, expected_kl = plain(
        model, frames, conditions, noise, known, skip_frames, posterior_until
    )
    if prior:
        assert mu is None and logvar is None
        kl = expected_kl = torch.zeros(())
    else:
        kl = kl_criterion(mu, logvar, mu.shape[0] * mu.shape[1])
    torch.testing.assert_close(pred, expected, **EXACT)
    torch.testing.assert_close(kl, expected_kl, **EXACT)
    grads = gradients(model, pred, kl, frames)
    for got, want in zip(grads, gradients(model, expected, expected_kl, frames)):
        torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize(("changes", "skip_frames"), CASES)
def test_rollout_equals_the_plain_loop(changes, skip_frames):
    model = make(**changes)
    frames, conditions = clips(model.settings)
    past, noise = model.settings.n_past, torch.randn(B, frames.shape[1] - 1, Z)
    left = iter(noise.unbind(1))
    out = torch.stack([*model.rollout(frames[:, :past], conditions, lambda shape: next(left))], 1)
    expected, _ = plain(model, frames, conditions, noise, past, skip_frames, past)
    assert next(left, None) is None and not out.requires_grad
    assert torch.equal(out[:, :past], frames[:, :past])
    torch.testing.assert_close(out[:, past:], expected[:, past - 1 :], **EXACT)


# ---------------------------------------------------------------- numbers, precision, conditions


@pytest.mark.parametrize("learned_prior", BOTH)
@pytest.mark.parametrize(("posterior", "prior"), [(1e4, -1e4), (-1e4, 1e4)])
def test_finite_and_differentiable_at_any_log_variance(learned_prior, posterior, prior):
    model = make(learned_prior=learned_prior).train()
    nn.init.constant_(model.posterior.logvar_net.bias, posterior)
    if learned_prior:
        nn.init.constant_(model.prior.logvar_net.bias, prior)
    for teacher_forcing in BOTH:
        pred, mu, logvar = model(*clips(model.settings), teacher_forcing)
        (pred.mean() + kl_criterion(mu, logvar, B)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_standardised_conditions_have_zero_mean_and_unit_variance_in_training():
    models = make(), make()
    frames, conditions = clips(models[0].settings)
    rows = torch.randn(50, 7) * torch.arange(1.0, 8) + 3
    rows[:, 6] = 0.4  # one that is constant
    models[0].standardise_conditions(rows)
    by_hand = (conditions - rows.mean(0)) / rows.std(0).clamp_min(1e-6)
    noise = torch.randn(B, frames.shape[1] - 1, Z)
    found = models[0](frames, conditions, False, noise=noise)[0]
    expected = models[1](frames, by_hand, False, noise=noise)[0]
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, expected, **EXACT)
