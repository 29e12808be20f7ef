"""The robot lab's model, with the protocol of modules/models/pose.py.

Sequences are (B, T, ...). `given` are a clip's first frames; row t of the conditions belongs to
frame t. Frame i is predicted from h(i-1), the vector of the previous frame, a condition and z.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn as nn

from ..config import CONDITION, RobotModel
from ..nets.dcgan import dcgan_decoder, dcgan_encoder
from ..nets.gaussian import relative_to_prior, sample
from ..nets.sequence import over_time, repeated, step_by_step
from ..nets.vgg_lstm import gaussian_lstm, init_weights, lstm, vgg_decoder, vgg_encoder

FRAME_NETS = {"vgg": (vgg_encoder, vgg_decoder), "dcgan": (dcgan_encoder, dcgan_decoder)}


class State(NamedTuple):
    """The state of a rollout. Hidden states are kept here, never on the model."""

    features: torch.Tensor  # (B, t, g): vectors of the frames before them
    skips: list  # four maps (B, t, C, H, W)
    predictor: tuple | None = None  # the LSTM's (h, c), (layers, B, rnn_size) each; None: zeros
    prior: tuple | None = None  # the same of the learned prior


class RecurrentVAE(nn.Module):
    """p(frame | frames before, condition, z), q(z | frames up to it), p(z) fixed or learned."""

    MARKOV = samples_posterior = False
    LARGE_NETS = ("encoder", "decoder")

    def __init__(self, settings: RobotModel):
        super().__init__()
        self.settings = settings
        g, z, rnn = settings.g_dim, settings.z_dim, settings.rnn_size
        frame_encoder, frame_decoder = FRAME_NETS[settings.nets]
        self.encoder = frame_encoder(g, settings.vgg_width)
        self.decoder = frame_decoder(g, settings.vgg_width)
        self.frame_predictor = lstm(g + z + CONDITION, g, rnn, settings.predictor_rnn_layers)
        self.posterior = gaussian_lstm(g, z, rnn, settings.posterior_rnn_layers)
        if settings.learned_prior:
            self.prior = gaussian_lstm(g, z, rnn, settings.posterior_rnn_layers)
        self.z_shape = (z,)
        self.apply(init_weights)
        self.register_buffer("condition_mean", torch.zeros(CONDITION))
        self.register_buffer("condition_std", torch.ones(CONDITION))
        self.to(memory_format=torch.channels_last)  # the same numbers, faster

    # ------------------------------------------------------------ training

    def forward(self, frames, conditions, teacher_forcing, prior=False, noise=None):
        """frames (B, T, 3, 64, 64), conditions (B, T, 7) -> predictions of frames 1..T-1, and mu,
        logvar (B, T-1, z): the posterior's, measured in the prior's own mean and spread, so that
        their KL to N(0, I) is the KL from posterior to prior, be it fixed or learned.

        Without teacher forcing every prediction is fed back, those of the given frames, too.
        With `prior`, z comes from the prior instead of the posterior, and mu and logvar are None.
        `noise` (B, T-1, z) is drawn by draw_noise where it is not given.
        """
        rows, (noise,) = self.rows(conditions), self.draw_noise(frames, noise)
        prior = prior or not self.settings.latent
        features, *skips = self.encode(frames)
        known = rows.shape[1] if teacher_forcing else 1
        state = State(features[:, :known], self.skips_of_truth(skips, known))
        if prior:
            pred, *_ = self.predict_all(state, rows, noise, known, draw=True)
            return pred, None, None
        mu, logvar, _ = self.posterior(features[:, 1:])
        z = sample(mu, logvar, noise)
        pred, mu_p, logvar_p = self.predict_all(state, rows, z, known)
        if not self.settings.learned_prior:
            return pred, mu, logvar
        return pred, *relative_to_prior(mu, logvar, mu_p, logvar_p)

    @torch.no_grad()
    def draws_of_z(
        self, frames: torch.Tensor, conditions: torch.Tensor, prior: bool = False
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, Callable]:
        """-> mu and logvar as of a teacher-forced forward pass, and what predicts its frames:
        predict(noise (K, B, T-1, z)) -> (K, B, T-1, 3, 64, 64).

        What K draws of z have in common is computed once.
        """
        rows, (features, *skips) = self.rows(conditions), self.encode(frames)
        steps = rows.shape[1]
        maps = self.skips_of_truth(skips, steps)
        gaussian = of_prior = self.prior_of_next(State(features[:, :steps], maps))[:2]
        posterior = None, None
        if self.settings.latent and not prior:
            gaussian = self.posterior(features[:, 1:])[:2]
            posterior = relative_to_prior(*gaussian, *of_prior)

        @torch.no_grad()
        def predict(noise):
            z = sample(*gaussian, self.masked(noise)).flatten(0, 1)
            known, *shown = (repeated(x, len(noise)) for x in (features[:, :steps], *maps))
            pred, _ = self.predict(State(known, shown), repeated(rows, len(noise)), z)
            return pred.unflatten(0, noise.shape[:2])

        return *posterior, predict

    def draw_noise(
        self, frames: torch.Tensor, z: torch.Tensor | None = None
    ) -> tuple[torch.Tensor]:
        """Standard normal noise for every z; frames (B, T, ...) may be on the meta device."""
        if z is None:
            (b, t, *_), device = frames.shape, self.condition_mean.device
            z = torch.empty(b, t - 1, *self.z_shape, device=device).normal_()
        return (self.masked(z),)

    def masked(self, noise: torch.Tensor) -> torch.Tensor:
        """The noise of z; zeros in the deterministic twin (--no-latent)."""
        return noise if self.settings.latent else torch.zeros_like(noise)

    def standardise_conditions(self, rows: torch.Tensor) -> None:
        """Standardise all conditions by the mean and standard deviation of these rows (N, 7)."""
        self.condition_mean.copy_(rows.mean(0))
        self.condition_std.copy_(rows.std(0).clamp_min(1e-6))

    def rows(self, conditions: torch.Tensor) -> torch.Tensor:
        """The rows that condition frames 1..T-1: the frame's own, the previous one, or zeros."""
        conditions = (conditions - self.condition_mean) / self.condition_std
        if self.settings.condition == "none":
            conditions = torch.zeros_like(conditions)
        return conditions[:, :-1] if self.settings.condition == "previous" else conditions[:, 1:]

    def skips_of_truth(self, skips: list[torch.Tensor], steps: int) -> list[torch.Tensor]:
        """Maps for frames 1..steps: of the previous frame, but of no later one than --skip_from."""
        past = min(self.skip_frame(self.settings.n_past) + 1, steps)
        if self.settings.last_frame_skip:
            past = steps
        last = (s[:, past - 1 : past].expand(-1, steps - past, -1, -1, -1) for s in skips)
        return [torch.cat([s[:, :past], held], dim=1) for s, held in zip(skips, last)]

    def skip_frame(self, given: int) -> int:
        """The number of the given frame that all later frames take the skip connections of."""
        return given - (2 if self.settings.skip_from == "second_last" else 1)

    def predict_all(
        self, state: State, rows: torch.Tensor, z: torch.Tensor, known: int, draw: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """The first `known` frames in one call, the others one by one, each from the prediction.

        With `draw`, z is standard normal noise, from which the prior's z is drawn.
        """
        ends = [0, *range(known, rows.shape[1] + 1)]
        results, truth, skip_frame = [], state, self.skip_frame(self.settings.n_past)
        if self.norms_by_step:
            ends = [*range(rows.shape[1] + 1)]
        for a, b in zip(ends, ends[1:]):
            if b <= known:
                skips = [s[:, a:b] for s in truth.skips]
                state = state._replace(features=truth.features[:, a:b], skips=skips)
            else:
                state = self.observe(state, results[-1][0][:, -1:], new_skips=a <= skip_frame)
            mu_p, logvar_p, state = self.prior_of_next(state)
            now = sample(mu_p, logvar_p, z[:, a:b]) if draw else z[:, a:b]
            pred, state = self.predict(state, rows[:, a:b], now)
            results.append((pred, mu_p, logvar_p))
        if self.norms_by_step and known < rows.shape[1]:
            with torch.no_grad():  # as published, which only BatchNorm's averages show
                self.encode(pred[:, -1:])
        return tuple(torch.cat(parts, dim=1) for parts in zip(*results))

    # ------------------------------------------------------------ steps, of (B, t, ...) each

    @property
    def norms_by_step(self) -> bool:
        """Whether BatchNorm sees one time step at a time now; else all that one call can hold."""
        return self.training and self.settings.published_step

    def autocast(self) -> torch.autocast:
        """Convolutions in bf16 where --precision says so; LSTMs, z and losses stay float32."""
        device = self.posterior.embed.weight.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.settings.precision == "bf16")

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """-> vectors (B, t, g), and four maps."""
        with self.autocast():
            apply = step_by_step if self.norms_by_step else over_time
            features, *skips = apply(self.encoder, frames)
        return features.float(), *skips

    def observe(self, state: State, frame: torch.Tensor, new_skips: bool = False) -> State:
        """The state after this frame (B, 1, 3, 64, 64)."""
        features, *skips = self.encode(frame)
        if not (new_skips or self.settings.last_frame_skip):
            skips = state.skips
        return state._replace(features=features, skips=skips)

    def prior_of_next(self, state: State) -> tuple[torch.Tensor, torch.Tensor, State]:
        """-> mu and logvar of the next z, before its frame is seen."""
        if not self.settings.learned_prior:
            zeros = state.features.new_zeros(*state.features.shape[:2], *self.z_shape)
            return zeros, zeros, state
        mu, logvar, hidden = self.prior(state.features, state.prior)
        return mu, logvar, state._replace(prior=hidden)

    def advance(
        self, state: State, rows: torch.Tensor, z: torch.Tensor
    ) -> tuple[torch.Tensor, State]:
        """-> vectors of the next frames (B, t, g)."""
        x = torch.cat([rows, state.features, z], dim=-1)
        vectors, hidden = self.frame_predictor(x, state.predictor)
        return vectors, state._replace(predictor=hidden)

    def predict(
        self, state: State, rows: torch.Tensor, z: torch.Tensor
    ) -> tuple[torch.Tensor, State]:
        vectors, state = self.advance(state, rows, z)
        with self.autocast():
            return over_time(self.decoder, vectors, *state.skips), state

    # ------------------------------------------------------------ a rollout

    def start(self, given: torch.Tensor, rows: torch.Tensor, noise: torch.Tensor) -> State:
        """given (B, P, 3, 64, 64), rows and noise of frames 1..P-1 -> the state after them.

        Each given frame passes through the nets with z of its own posterior.
        """
        features, *skips = self.encode(given)
        state = State(features[:, :-1], skips)
        if given.shape[1] > 1:
            z = self.masked(noise)
            if self.settings.latent:
                mu, logvar, _ = self.posterior(features[:, 1:])
                z = sample(mu, logvar, noise)
            _, _, state = self.prior_of_next(state)
            _, state = self.advance(state, rows, z)
        last = self.skip_frame(given.shape[1])
        return state._replace(
            features=features[:, -1:], skips=[s[:, last : last + 1] for s in skips]
        )

    def predict_frame(
        self, state: State, condition: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, State]:
        """condition (B, 7), standard normal noise or zeros (B, z) -> the next frame and state."""
        mu, logvar, state = self.prior_of_next(state)
        z = sample(mu, logvar, self.masked(noise)[:, None])
        frame, state = self.predict(state, condition[:, None], z)
        return frame[:, 0], self.observe(state, frame)

    @torch.no_grad()
    def rollout(
        self,
        given: torch.Tensor,
        conditions: torch.Tensor,
        draw_noise: Callable[[tuple], torch.Tensor],
    ) -> Iterator[torch.Tensor]:
        """given (B, P, 3, 64, 64), conditions (B, T, 7) -> yields T frames (B, 3, 64, 64)."""
        yield from given.unbind(1)
        rows, steps = self.rows(conditions.to(given.device)), given.shape[1] - 1
        noise = torch.empty(len(given), steps, *self.z_shape, device=given.device)
        for i in range(steps):
            noise[:, i] = draw_noise(self.z_shape)
        state = self.start(given, rows[:, :steps], noise)
        for row in rows[:, steps:].unbind(1):
            now = draw_noise(self.z_shape).to(given.device)
            frame, state = self.predict_frame(state, row, now)
            yield frame
