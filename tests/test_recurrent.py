"""The robot lab's nets and model, against the architecture of docs/robot.md written as a loop."""

import inspect

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from modules.config import RobotModel
from modules.models.robot import RecurrentVAE
from modules.models.rollout import noise_source
from modules.nets.gaussian import relative_to_prior
from modules.nets.vgg_lstm import vgg_decoder, vgg_encoder
from modules.training.losses import kl_criterion

G, Z, RNN, B, FUTURE = 8, 4, 16, 2, 3
BOTH = [False, True]


def options(**changes):
    sizes = {"g_dim": G, "z_dim": Z, "rnn_size": RNN, "precision": "float32"}
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


def make(real_nets=False, **changes):
    """A model in eval mode with weights large enough that every input shows in the output."""
    torch.manual_seed(0)
    model = RecurrentVAE(options(**changes))
    if not real_nets:
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


# ---------------------------------------------------------------- the nets, by hand


def norm(chans):
    return 2 * chans


def conv(a, b, size=3):
    return a * b * size**2 + b


def linear(a, b):
    return a * b + b


def cell(inputs, hidden):
    return 4 * hidden * (inputs + hidden + 2)  # four gates, two biases each


DOWN = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *2 * [(256, 256)], (256, 512)]
DOWN += 2 * [(512, 512)]
UP = [(1024, 512), (512, 512), (512, 256), (512, 256), (256, 256), (256, 128), (256, 128)]
UP += [(128, 64), (128, 64)]


def expected_sizes(g, z, rnn):
    """The number of parameters of each net, from its description."""
    blocks = {name: sum(conv(a, b) + norm(b) for a, b in v) for name, v in (("d", DOWN), ("u", UP))}
    gaussian = linear(g, rnn) + cell(rnn, rnn) + 2 * linear(rnn, z)
    predictor = linear(g + z + 7, rnn) + 2 * cell(rnn, rnn) + linear(rnn, g) + norm(g)
    return {
        "encoder": blocks["d"] + conv(512, g, 4) + norm(g),
        "decoder": conv(g, 512, 4) + norm(512) + blocks["u"] + conv(64, 3),
        "frame_predictor": predictor,
        "posterior": gaussian,
        "prior": gaussian,
    }


def sizes(model):
    return {name: sum(p.numel() for p in net.parameters()) for name, net in model.named_children()}


@pytest.mark.parametrize("g, z, rnn", [(128, 64, 256), (G, Z, RNN)])
def test_number_of_parameters_of_each_net(g, z, rnn):
    model = RecurrentVAE(options(g_dim=g, z_dim=z, rnn_size=rnn, learned_prior=True))
    assert sizes(model) == expected_sizes(g, z, rnn)


def test_default_size_and_initial_weights():
    torch.manual_seed(0)
    model = RecurrentVAE(options(g_dim=128, z_dim=64, rnn_size=256))
    assert sum(sizes(model).values()) == 22_241_539
    kinds = [type(layer).__name__ for layer in model.modules()]
    counts = {"Conv2d": 20, "ConvTranspose2d": 2, "Linear": 5, "BatchNorm2d": 21, "BatchNorm1d": 1}
    assert {kind: kinds.count(kind) for kind in counts} == counts
    for layer in (layer for layer in model.modules() if type(layer).__name__ in counts):
        mean, few = float(layer.weight.dim() == 1), layer.weight.numel() ** -0.5
        assert layer.weight.mean().item() == pytest.approx(mean, abs=0.1 * few)
        assert layer.weight.std().item() == pytest.approx(0.02, rel=4 * few)
        assert not layer.bias.any()
    hidden = model.frame_predictor.lstm.weight_hh_l1  # as PyTorch draws it
    assert hidden.abs().max().item() == pytest.approx(256**-0.5, rel=0.01)


def vgg(x, layers, blocks):
    """VGG blocks by hand, with the weights of the next layers."""
    for _ in range(blocks):
        conv, bn = next(layers), next(layers)
        x = F.conv2d(x, conv.weight, conv.bias, padding=1)
        x = (x - bn.running_mean[:, None, None]) / (bn.running_var + bn.eps).sqrt()[:, None, None]
        x = F.leaky_relu(x * bn.weight[:, None, None] + bn.bias[:, None, None], 0.2)
    return x


def layers_of(net):
    return iter([m for m in net.modules() if list(m.parameters(recurse=False))])


def test_encoder_and_decoder_equal_their_description():
    model = make(real_nets=True).double()
    assert isinstance(model.encoder, vgg_encoder) and isinstance(model.decoder, vgg_decoder)
    x = frames = torch.rand(B, 3, 64, 64).double()
    vector, *skips = model.encoder(frames)
    layers = layers_of(nn.ModuleList([model.encoder.stages, model.encoder.head]))
    for blocks, skip in zip((2, 2, 3, 3), skips):
        x = vgg(x, layers, blocks)
        torch.testing.assert_close(skip, x)
        x = F.max_pool2d(x, 2, 2)
    top, bn = next(layers), next(layers)
    torch.testing.assert_close(vector, torch.tanh(bn(top(x)))[:, :, 0, 0])

    top, bn, *rest = layers_of(nn.ModuleList([model.decoder.head, model.decoder.stages]))
    x, layers = F.leaky_relu(bn(top(vector[..., None, None])), 0.2), iter(rest)
    for blocks, skip in zip((3, 3, 2, 1), skips[::-1]):
        twice = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = vgg(torch.cat([twice, skip], 1), layers, blocks)
    frame = torch.sigmoid(next(layers)(x))
    torch.testing.assert_close(model.decoder(vector, *skips), frame.float())


# ---------------------------------------------------------------- the loop, step by step


class PlainLSTM:
    """nn.LSTM by its equations, one step at a time, from a zero state."""

    def __init__(self, net):
        self.net, self.layers, self.state = net, net.lstm.num_layers, {}

    def __call__(self, x):
        x = self.net.embed(x)
        for k in range(self.layers):
            w, u, p, q = (getattr(self.net.lstm, f"{n}_l{k}") for n in NAMES)
            h, c = self.state.get(k, (torch.zeros(len(x), RNN), torch.zeros(len(x), RNN)))
            i, f, g, o = (x @ w.T + p + h @ u.T + q).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            x = o.sigmoid() * c.tanh()
            self.state[k] = x, c
        return x


NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def gaussian(cells, x):
    x = cells(x)
    return cells.net.mu_net(x), cells.net.logvar_net(x)


def plain(model, frames, conditions, noise, teacher_forcing, test=False, prior=False):
    """The model frame by frame -> predictions, KL, and the frames that the skips come from."""
    settings, h, skips, preds, kls, skip_frames = model.settings, {}, {}, {}, [], []
    last_skip = settings.n_past - {"last": 1, "second_last": 2}[settings.skip_from]
    predictor, posterior = PlainLSTM(model.frame_predictor), PlainLSTM(model.posterior)
    learned = PlainLSTM(model.prior) if settings.learned_prior else None
    for i in range(1, frames.shape[1]):
        known = i - 1 < settings.n_past or teacher_forcing
        h[i - 1], *skips[i - 1] = model.encoder(frames[:, i - 1] if known else preds[i - 1])
        mu_p, logvar_p = torch.zeros(B, Z), torch.zeros(B, Z)
        if learned:
            mu_p, logvar_p = gaussian(learned, h[i - 1])
        mu, logvar = mu_p, logvar_p
        if not prior and not (test and i >= settings.n_past):
            mu, logvar = gaussian(posterior, model.encoder(frames[:, i])[0])
        z = mu + noise[:, i - 1] * (logvar / 2).exp()
        row = conditions[:, i if settings.condition == "current" else i - 1]
        out = model.frame_predictor.output(predictor(torch.cat([row, h[i - 1], z], 1)))
        skip_frames.append(i - 1 if settings.last_frame_skip else min(i - 1, last_skip))
        preds[i] = model.decoder(out, *skips[skip_frames[-1]])
        q, p = (Normal(m, (v / 2).exp()) for m, v in ((mu, logvar), (mu_p, logvar_p)))
        kls.append(kl_divergence(q, p).sum() / B)
    return torch.stack(list(preds.values()), 1), sum(kls) / len(kls), skip_frames


def forward(model, *inputs, **flags):
    """The model's forward pass -> predictions, KL and the noise that it drew."""
    frames = inputs[0]
    torch.manual_seed(3)
    noise = torch.randn(len(frames), frames.shape[1] - 1, Z)
    torch.manual_seed(3)
    pred, mu, logvar = model(*inputs, **flags)
    return pred, mu if mu is None else kl_criterion(mu, logvar, mu.shape[0] * mu.shape[1]), noise


def gradients(model, pred, kl, frames):
    loss = F.mse_loss(pred, frames[:, 1:]) + (0 if kl is None else 0.01 * kl)
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros(1) if g is None else g for g in grads]


CASES = [
    {},
    {"n_past": 3, "last_frame_skip": True, "learned_prior": True},
    {"n_past": 1, "learned_prior": True},
    {"n_past": 3, "condition": "previous", "posterior_rnn_layers": 2, "predictor_rnn_layers": 1},
    {"n_past": 3, "skip_from": "second_last"},
    {"skip_from": "second_last", "learned_prior": True},
    {"real_nets": True, "learned_prior": True},
    {"real_nets": True, "nets": "dcgan", "vgg_width": 4},
]


@pytest.mark.parametrize("changes", CASES)
@pytest.mark.parametrize("teacher_forcing", BOTH)
def test_training_equals_the_plain_loop(changes, teacher_forcing):
    model = make(**changes)
    frames, conditions = clips(model.settings, future=FUTURE - ("real_nets" in changes))
    pred, kl, noise = forward(model, frames, conditions, teacher_forcing)
    expected, expected_kl, _ = plain(model, frames, conditions, noise, teacher_forcing)
    torch.testing.assert_close(pred, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl, expected_kl, rtol=1e-5, atol=1e-5)
    grads = gradients(model, pred, kl, frames)
    for got, want in zip(grads, gradients(model, expected, expected_kl, frames)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5 * max(1, want.abs().max()))


@pytest.mark.parametrize("learned_prior", BOTH)
@pytest.mark.parametrize("teacher_forcing", BOTH)
def test_a_step_on_prior_samples_equals_the_plain_loop(teacher_forcing, learned_prior):
    model = make(learned_prior=learned_prior)
    frames, conditions = clips(model.settings)
    pred, kl, noise = forward(model, frames, conditions, teacher_forcing, prior=True)
    expected, _, _ = plain(model, frames, conditions, noise, teacher_forcing, prior=True)
    assert kl is None
    torch.testing.assert_close(pred, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changes", CASES)
def test_rollout_equals_the_plain_loop(changes):
    model = make(**changes)
    frames, conditions = clips(model.settings, future=FUTURE - ("real_nets" in changes))
    past, draws = model.settings.n_past, [torch.randn(B, Z) for _ in range(frames.shape[1] - 1)]
    left = iter(draws)
    out = torch.stack([*model.rollout(frames[:, :past], conditions, lambda shape: next(left))], 1)
    expected, _, _ = plain(model, frames, conditions, torch.stack(draws, 1), False, test=True)
    assert next(left, None) is None and not out.requires_grad
    assert torch.equal(out[:, :past], frames[:, :past])
    torch.testing.assert_close(out[:, past:], expected[:, past - 1 :], rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- inputs of every net


def record(net):
    """The inputs of every call of a net."""
    calls = []
    net.register_forward_hook(lambda _, inputs, __: calls.append(inputs))
    return calls


@pytest.mark.parametrize("past", [1, 2, 4])
def test_given_frames_are_never_replaced(past):
    model = make(n_past=past)
    frames, conditions = clips(model.settings)
    encoded = [call[0] for call in record_run(model.encoder, model, frames, conditions, False)]
    pred, _, _ = forward(model, frames, conditions, False)
    assert torch.equal(encoded[0], frames.flatten(0, 1))  # the true frames, in one batch
    fed_back = torch.stack(encoded[1:], 1)  # predictions of frames past..T-2
    torch.testing.assert_close(fed_back, pred[:, past - 1 : -1])
    torch.testing.assert_close(
        pred[:, :past], forward(model, frames, conditions, True)[0][:, :past]
    )


def record_run(net, model, *inputs):
    calls = record(net)
    forward(model, *inputs)
    return calls


SKIPS = [  # flags -> the frame that the skips of each predicted frame come from
    ({}, [0, 1, 1, 1]),
    ({"last_frame_skip": True}, [0, 1, 2, 3]),
    ({"skip_from": "second_last"}, [0, 0, 0, 0]),
    ({"skip_from": "second_last", "n_past": 3}, [0, 1, 1, 1, 1]),
]


@pytest.mark.parametrize("changes, numbers", SKIPS)
@pytest.mark.parametrize("teacher_forcing", BOTH)
def test_skips_come_from_the_right_frame(changes, numbers, teacher_forcing):
    model = make(**changes)
    past = model.settings.n_past
    frames, conditions = clips(model.settings)
    calls = record_run(model.decoder, model, frames, conditions, teacher_forcing)
    skip = torch.cat([call[1].unflatten(0, (B, -1)) for call in calls], 1)  # full size: the frame
    pred, _, noise = forward(model, frames, conditions, teacher_forcing)
    shown = frames if teacher_forcing else torch.cat([frames[:, :past], pred[:, past - 1 :]], 1)
    assert plain(model, frames, conditions, noise, teacher_forcing)[2] == numbers
    torch.testing.assert_close(skip, shown[:, numbers])


@pytest.mark.parametrize("skip_from, frame", [("last", 2), ("second_last", 1)])
def test_all_skips_of_a_rollout_are_of_one_given_frame(skip_from, frame):
    model = make(n_past=3, skip_from=skip_from)
    frames, conditions = clips(model.settings)
    calls = record(model.decoder)
    [*model.rollout(frames[:, :3], conditions, noise_source("mean", 0, range(B)))]
    assert len(calls) == FUTURE
    for call in calls:
        torch.testing.assert_close(call[1].flatten(0, -4), frames[:, frame])


def test_skips_of_the_second_last_frame_need_two_given_frames():
    assert "--n_past 2 or more" in options(n_past=1, skip_from="second_last").contradiction()
    both = options(skip_from="second_last", last_frame_skip=True).contradiction()
    assert "leave one of them out" in both
    assert options(skip_from="second_last").contradiction() is None


def test_teacher_forcing_calls_every_net_once():
    model = make(learned_prior=True).train()
    frames, conditions = clips(model.settings)
    nets = (model.encoder, model.decoder, model.frame_predictor, model.posterior, model.prior)
    calls = [record(net) for net in nets]
    forward(model, frames, conditions, True)
    assert [len(c) for c in calls] == [1] * 5 and len(calls[0][0][0]) == B * 5


@pytest.mark.parametrize("condition, row", [("current", 0), ("previous", 4)])
def test_one_row_of_the_conditions_is_unused(condition, row):
    """The first with `current`, the last with `previous`; all others have an effect."""
    model = make(condition=condition)
    frames, conditions = clips(model.settings)
    before = forward(model, frames, conditions, False)[0]
    for t in range(5):
        other = conditions.clone()
        other[:, t] += 1
        changed = (forward(model, frames, other, False)[0] != before).flatten(2).any(2).any(0)
        first = t - 1 if condition == "current" else t  # prediction number: of frame 1, 2, ...
        assert changed.any().item() == (t != row)
        if t != row:
            assert changed.tolist() == [i >= first for i in range(4)]


@pytest.mark.parametrize("learned_prior", BOTH)
def test_calls_and_clips_are_independent(learned_prior):
    model = make(learned_prior=learned_prior)
    frames, conditions = clips(model.settings, 3)
    first = forward(model, frames, conditions, False)[0]
    forward(model, 1 - frames[:2], -conditions[:2], True)
    assert torch.equal(first, forward(model, frames, conditions, False)[0])

    def roll(numbers, kind="prior"):
        draw = noise_source(kind, 1, numbers)
        return torch.stack([*model.rollout(frames[numbers, :2], conditions[numbers], draw)], 1)

    together = roll([0, 1, 2])
    assert together.shape == (3, 2 + FUTURE, 3, 64, 64)
    for clip in range(3):
        torch.testing.assert_close(roll([clip]), together[clip : clip + 1], rtol=1e-5, atol=1e-5)
    assert not torch.equal(roll([0], "mean"), roll([0]))
    assert torch.equal(roll([0], "mean"), roll([0], "mean"))


def test_a_rollout_depends_on_every_given_frame_and_on_no_other():
    model = make()
    frames, conditions = clips(model.settings)
    assert list(inspect.signature(model.rollout).parameters) == [
        "given",
        "conditions",
        "draw_noise",
    ]

    def roll(given):
        return torch.stack(
            [*model.rollout(given, conditions, noise_source("mean", 0, range(B)))], 1
        )

    before = roll(frames[:, :2])
    for t in range(2):  # frame 0: by the hidden state alone
        other = frames[:, :2].clone()
        other[:, t] = 1 - other[:, t]
        assert (roll(other)[:, 2:] != before[:, 2:]).flatten(2).any(2).all()


# ---------------------------------------------------------------- KL, numbers, precision


def test_kl_relative_to_the_prior_is_the_kl_between_the_two():
    mu, logvar, mu_p, logvar_p = torch.randn(4, B, 3, Z, dtype=torch.float64)
    got = kl_criterion(*relative_to_prior(mu, logvar, mu_p, logvar_p), batch_size=B)
    q, p = Normal(mu, (logvar / 2).exp()), Normal(mu_p, (logvar_p / 2).exp())
    torch.testing.assert_close(got, (kl_divergence(q, p).sum() / B).to(got.dtype))


@pytest.mark.parametrize("learned_prior", BOTH)
@pytest.mark.parametrize("posterior, prior", [(1e4, -1e4), (-1e4, 1e4), (0.0, 0.0)])
def test_finite_and_differentiable_at_any_log_variance(learned_prior, posterior, prior):
    model = make(learned_prior=learned_prior).train()
    nets = [(model.posterior, posterior)] + ([(model.prior, prior)] if learned_prior else [])
    for net, bias in nets:
        nn.init.constant_(net.logvar_net.bias, bias)
    frames, conditions = clips(model.settings)
    for teacher_forcing in BOTH:
        pred, kl, _ = forward(model, frames, conditions, teacher_forcing)
        (pred.mean() + kl).backward()
        assert torch.isfinite(pred).all() and torch.isfinite(kl)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_bf16_applies_to_convolutions_only():
    model = make(real_nets=True, precision="bf16")
    frames, conditions = clips(model.settings, future=1)
    maps, vectors = record(model.decoder), record(model.frame_predictor)
    torch.manual_seed(3)
    outputs = model(frames, conditions, False)
    assert maps[0][1].dtype == torch.bfloat16
    assert {x.dtype for x in (*outputs, vectors[0][0])} == {torch.float32}
    model.settings = model.settings.replace(precision="float32")
    assert (outputs[0] - forward(model, frames, conditions, False)[0]).abs().mean() < 0.02


def test_a_model_without_conditions_ignores_them():
    model = make(condition="none")
    frames, conditions = clips(model.settings)
    before = forward(model, frames, conditions, False)[0]
    assert torch.equal(before, forward(model, frames, conditions + 1, False)[0])


def test_standardised_conditions_have_zero_mean_and_unit_variance_in_training():
    model, plain_model = make(), make()
    frames, conditions = clips(model.settings)
    rows = torch.randn(50, 7) * torch.arange(1.0, 8) + 3
    model.standardise_conditions(rows)
    plain_model.load_state_dict(model.state_dict())
    plain_model.condition_mean.zero_()
    plain_model.condition_std.fill_(1)
    by_hand = (conditions - rows.mean(0)) / rows.std(0)
    found = forward(model, frames, conditions, False)[0]
    torch.testing.assert_close(found, forward(plain_model, frames, by_hand, False)[0])


def test_a_constant_condition_gives_finite_predictions():
    model = make()
    frames, conditions = clips(model.settings)
    model.standardise_conditions(torch.full((20, 7), 0.4))
    assert torch.isfinite(forward(model, frames, torch.full_like(conditions, 0.4), False)[0]).all()
