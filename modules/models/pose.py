"""The pose lab's model, and the protocol that all models offer.

Sequences are (B, T, C, H, W) floats in 0..1.
    forward(frames, poses, teacher_forcing) -> predictions, mu, logvar       training
    predict_frame(state, condition, noise)  -> frame, state                  one step
    rollout(given, poses, draw_noise)       -> yields every frame            validation and test
    draws_of_z(frames, poses, prior)        -> mu, logvar, predict(noise)    measures of z
A rollout is handed no true future frame, so it cannot leak one.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ..config import PoseModel
from ..nets import course, unet
from ..nets.gaussian import relative_to_prior, sample
from ..nets.sequence import join, one_by_one, over_time, repeated, step_by_step
from .rollout import STEPS_AT_ONCE

NET_MODULES = {"course": course, "unet": unet}
MASK_BIAS = -1.0  # an untrained net shows mostly the background
MASK_FLOOR = 0.05  # a mask that saturates at 0 in the first steps would get no gradient
STEPS_PER_CAST = 8  # of a rollout: weights are cast to bf16 once for 8 steps
# In training a CPU computes this many frames at a time, to stay in its caches (measured: bench.py).
CPU_FRAMES = {"float32": 4, "bf16": 16}
CPU_VALUES = 32 * 64 * 192  # of a frame's largest map, where that was measured


class VAE_Model(nn.Module):
    """The pose lab's conditional VAE: p(frame | previous frame, pose, z), q(z | frame, pose)."""

    MARKOV = True  # a frame depends on the past through the previous frame alone
    LARGE_NETS = ("frame_transformation", "Gaussian_Predictor", "Decoder_Fusion", "Generator")

    def __init__(self, settings: PoseModel):
        super().__init__()
        self.settings = settings
        nets = NET_MODULES[settings.nets]
        self.frame_transformation = nets.RGB_Encoder(3, settings.F_dim)
        self.label_transformation = nets.Label_Encoder(3, settings.L_dim)
        self.label_transformation.per_image = settings.pose_norm == "image"
        known = settings.F_dim + settings.L_dim + settings.F_dim * settings.first_frame
        seen = known - settings.F_dim + 3 if self.sees_image else known
        self.Gaussian_Predictor = nets.Gaussian_Predictor(seen, settings.N_dim)
        self.prior = None  # N(0, I)
        if settings.learned_prior:
            self.prior = nets.Gaussian_Predictor(known, settings.N_dim)
        self.Decoder_Fusion = nets.Decoder_Fusion(known + settings.N_dim, settings.D_out_dim)
        self.Generator = nets.Generator(settings.D_out_dim, 3 + settings.scene)
        self.feature_size = settings.frame_H // nets.SCALE, settings.frame_W // nets.SCALE
        cells = {"full": None, "coarse": (4, 4), "vector": self.feature_size}
        self.cell = cells[settings.z_grid]  # height and width of the features that share one z
        pairs = zip(self.feature_size, self.cell or (1, 1))
        self.z_shape = (settings.N_dim, *(math.ceil(size / side) for size, side in pairs))
        if settings.scene:
            self.scene = nn.Parameter(torch.full((3, settings.frame_H, settings.frame_W), 0.5))
        self.to(memory_format=torch.channels_last)  # same numbers, about twice as fast on a CPU

    # ------------------------------------------------------------ training

    def forward(self, frames, poses, teacher_forcing, prior=False, noise=None, input_noise=None):
        """frames, poses (B, T, 3, H, W) -> predictions of frames 1..T-1, and mu, logvar of their z.

        With `prior`, z comes from the prior instead of the posterior, and mu and logvar are None.
        `noise` (B, T-1, *z_shape) and `input_noise` are those of draw_noise, if not given.
        """
        prior = prior or not self.settings.latent
        with self.autocast():
            conditions = self.encode_conditions(poses[:, 1:], frames[:, 0])  # (B, T-1, C, h, w)
            inputs = frames, conditions, *self.draw_noise(frames, noise, input_noise)
            if not teacher_forcing:
                return self.free_running(prior, *inputs)
            if frames.device.type != "cpu":
                return self.teacher_forced(prior, *inputs)
            # clip by clip on a CPU: a whole batch is no faster, and would be copied
            clips = [self.teacher_forced(prior, *clip) for clip in one_by_one(0, *inputs)]
            return join(clips, dim=0)

    def autocast(self) -> torch.autocast:
        """Convolutions in bf16 where --precision says so; z, frames and losses stay float32."""
        return torch.autocast(
            next(self.parameters()).device.type,
            torch.bfloat16,
            enabled=self.settings.precision == "bf16",
        )

    def encode_conditions(self, poses: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Features of what conditions every frame: its pose, with --first_frame the first frame."""
        by_step = self.training and self.settings.published_step
        features = (step_by_step if by_step else over_time)(self.label_transformation, poses)
        if self.settings.first_frame:
            seen = self.frame_transformation(given)[:, None].expand(-1, poses.shape[1], -1, -1, -1)
            features = over_time(lambda *maps: torch.cat(maps, dim=1), features, seen)
        return features

    def draw_noise(
        self,
        frames: torch.Tensor,
        z: torch.Tensor | None = None,
        previous: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Standard normal noise for every z, and with --feedback_noise for every previous frame.

        Only the shape and layout of frames (B, T, ...) matter; they may be on the meta device.
        """
        (b, t, *_), device = frames.shape, next(self.parameters()).device
        if z is None:
            z = torch.randn(b, t - 1, *self.z_shape, device=device)
        if previous is None and self.training and self.settings.feedback_noise:
            previous = torch.randn_like(frames[:, 1:], device=device)
        return self.masked(z), previous

    def masked(self, noise: torch.Tensor) -> torch.Tensor:
        """The noise of z; zeros in the deterministic twin (--no-latent)."""
        return noise if self.settings.latent else torch.zeros_like(noise)

    def teacher_forced(
        self,
        prior: bool,
        frames: torch.Tensor,
        conditions: torch.Tensor,
        noise: torch.Tensor,
        input_noise: torch.Tensor | None,
    ) -> tuple:
        """Predict every frame from the true previous one: no step waits for a prediction."""
        previous, seen = self.features_of_truth(prior, frames, input_noise)
        z, *posterior = self.draw_z(self.net_of_draws(prior), seen, conditions, noise)
        pred = self.per_frame(self.decode, previous, conditions, z)
        if prior:
            return pred, None, None
        return pred, *self.relative_to_prior(posterior, previous, conditions, noise)

    @torch.no_grad()
    def draws_of_z(
        self, frames: torch.Tensor, poses: torch.Tensor, prior: bool = False
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, Callable]:
        """-> mu and logvar as of a teacher-forced forward pass, and what predicts its frames:
        predict(noise (K, B, T-1, *z_shape)) -> (K, B, T-1, 3, H, W).

        What K draws of z have in common is computed once.
        """
        prior = prior or not self.settings.latent
        with self.autocast():
            conditions = self.encode_conditions(poses[:, 1:], frames[:, 0])
            previous, seen = self.features_of_truth(prior, frames, None)
            zeros = frames.new_zeros(*conditions.shape[:2], *self.z_shape)
            _, *gaussian = self.draw_z(self.net_of_draws(prior), seen, conditions, zeros)
            posterior = None, None
            if not prior:
                posterior = self.relative_to_prior(gaussian, previous, conditions, zeros)

        largest = math.prod(self.feature_size) * self.settings.D_out_dim
        longer = max(1, CPU_VALUES // largest)  # frames in the memory of one

        @torch.no_grad()
        def predict(noise):
            z = noise = self.masked(noise)
            if gaussian[0] is not None:
                z = sample(*gaussian, noise)
            inputs = (repeated(x, len(noise)) for x in (previous, conditions))
            with self.autocast():
                frames = self.per_frame(self.decode, *inputs, z.flatten(0, 1), longer=longer)
            return frames.unflatten(0, noise.shape[:2])

        return *posterior, predict

    def features_of_truth(
        self, prior: bool, frames: torch.Tensor, input_noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the previous frames, and of those that the net of z sees."""
        truth, images = self.encode_truth(frames, prior), self.noisy(frames[:, :-1], input_noise)
        if truth is None or input_noise is not None:
            previous = self.per_frame(self.encode_previous, images)
        else:  # the same features serve twice
            previous = self.cut(truth[:, :-1])
        return previous, self.seen_of(images, previous) if truth is None else truth[:, 1:]

    def net_of_draws(self, prior: bool) -> nn.Module | None:
        """The net that draws z in training; None: z is drawn from N(0, I)."""
        return self.prior if prior else self.Gaussian_Predictor

    def free_running(
        self,
        prior: bool,
        frames: torch.Tensor,
        conditions: torch.Tensor,
        noise: torch.Tensor,
        input_noise: torch.Tensor | None,
    ) -> tuple:
        """Predict step by step, each frame from the last prediction."""
        truth = self.encode_truth(frames[:, 1:], prior)
        draws = self.net_of_draws(prior)
        waits = truth is None and draws is not None  # z depends on the previous prediction
        latents = (None,) * 3 if waits else self.draw_z(draws, truth, conditions, noise)
        frame, results = frames[:, :1], []
        inputs = one_by_one(1, conditions, noise, input_noise, *latents)
        for condition, draw, draw_in, z, *posterior in inputs:
            frame = self.noisy(frame, draw_in)
            previous = self.per_frame(self.encode_previous, frame)
            if waits:
                seen = self.seen_of(frame, previous)
                z, *posterior = self.draw_z(draws, seen, condition, draw)
            frame = self.per_frame(self.decode, previous, condition, z)
            if not prior:
                posterior = self.relative_to_prior(posterior, previous, condition, draw)
            results.append((frame, *((None, None) if prior else posterior)))
            if self.settings.feedback == "frame":
                frame = frame.detach()
        return join(results, dim=1)

    def encode_truth(self, frames: torch.Tensor, prior: bool) -> torch.Tensor | None:
        """Features of true frames, if the posterior sees them."""
        if prior or self.settings.posterior != "current":
            return None
        return self.per_frame(self.frame_transformation, frames)

    def draw_z(
        self,
        net: nn.Module | None,
        features: torch.Tensor | None,
        conditions: torch.Tensor,
        noise: torch.Tensor,
    ) -> tuple:
        """z, mu and logvar of a net's Gaussian; without a net z of N(0, I), and Nones."""
        if net is None:
            return noise, None, None
        net = functools.partial(net, cell=self.cell)
        return self.per_frame(net, features, conditions, noise)

    def relative_to_prior(self, posterior: tuple, *known: torch.Tensor) -> tuple:
        """mu and logvar of the posterior, relative to the --learned_prior if there is one."""
        if not self.settings.learned_prior:
            return posterior
        _, *prior = self.draw_z(self.prior, *known)
        return relative_to_prior(*posterior, *prior)

    def per_frame(
        self, net: Callable, *inputs: torch.Tensor, longer: int = 1
    ) -> torch.Tensor | tuple:
        """net on (B, T, ...); on a CPU in pieces that fit its caches, `longer` times as long."""
        if self.settings.recompute and torch.is_grad_enabled():
            net = functools.partial(checkpoint, net, use_reentrant=False, preserve_rng_state=False)
        on_cpu = inputs[0].device.type == "cpu"
        at_once = longer * CPU_FRAMES.get(self.settings.precision, 0)
        return over_time(net, *inputs, at_once=on_cpu and at_once)

    # ------------------------------------------------------------ one step

    def noisy(self, frame: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        return frame if noise is None else frame + self.settings.feedback_noise * noise

    def encode_previous(self, frame: torch.Tensor) -> torch.Tensor:
        """Features of the previous frame."""
        return self.cut(self.frame_transformation(self.clamped(frame)))

    def clamped(self, frame: torch.Tensor) -> torch.Tensor:
        """Gated blocks are quadratic: without this they diverge."""
        return frame if self.settings.published_step else frame.clamp(0, 1)

    def cut(self, features: torch.Tensor) -> torch.Tensor:
        return features.detach() if self.settings.feedback == "features" else features

    def decode(
        self, features: torch.Tensor, condition: torch.Tensor, z: torch.Tensor
    ) -> torch.Tensor:
        if self.cell:  # the last row and column of cells may reach beyond the features
            h, w = self.feature_size
            z = F.interpolate(z, scale_factor=self.cell)[..., :h, :w]
        inputs = [features, condition, z]
        # torch.cat would take over the dtype and the layout of a single different map
        inputs = [x.to(features.dtype, memory_format=torch.channels_last) for x in inputs]
        frame = self.Generator(self.Decoder_Fusion(*inputs)).float()
        if self.settings.scene:
            foreground, mask = frame.split([3, 1], dim=1)
            mask = MASK_FLOOR + (1 - MASK_FLOOR) * torch.sigmoid(mask + MASK_BIAS)
            return torch.lerp(self.scene, foreground, mask)
        return torch.sigmoid(frame) if self.settings.output_activation == "sigmoid" else frame

    @property
    def net_of_z(self) -> nn.Module | None:
        """The net that predicts z at test; None: z is drawn from N(0, I)."""
        return self.Gaussian_Predictor if self.samples_posterior else self.prior

    @property
    def samples_posterior(self) -> bool:
        """Whether z at test comes from the posterior, which then sees no future frame."""
        return self.settings.latent and self.settings.posterior != "current"

    @property
    def sees_image(self) -> bool:
        """Whether the posterior sees the previous image itself."""
        return self.settings.posterior == "previous_image"

    def seen_of(self, frame: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """What the net of z sees of the previous frame."""
        return self.clamped(frame) if self.sees_image else features

    def predict_frame(
        self, state: torch.Tensor, condition: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Previous frame, pose features, normal noise (or zeros) -> next frame and state."""
        with self.autocast():
            features, z = self.encode_previous(state), self.masked(noise)
            if net := self.net_of_z:
                z, *_ = net(self.seen_of(state, features), condition, z, cell=self.cell)
            frame = self.decode(features, condition, z)
        return frame, frame

    # ------------------------------------------------------------ many steps

    @torch.no_grad()
    def rollout(
        self, given: torch.Tensor, poses: torch.Tensor, draw_noise: Callable[[tuple], torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """given (B, P, 3, H, W), poses (B, T, 3, H, W) -> yields T frames (B, 3, H, W)."""
        yield from given.unbind(1)
        state = given[:, -1]
        for chunk in poses[:, given.shape[1] :].split(STEPS_AT_ONCE, dim=1):
            with self.autocast():
                conditions = self.encode_conditions(chunk.to(given.device), given[:, -1])
            noise = draw_noise((chunk.shape[1], *self.z_shape))
            steps = zip(conditions.unbind(1), noise.to(given.device).unbind(1))
            while chunk_of_steps := list(itertools.islice(steps, STEPS_PER_CAST)):
                frames = []
                with self.autocast():  # weights are cast once for all of them
                    for condition, z in chunk_of_steps:
                        frame, state = self.predict_frame(state, condition, z)
                        frames.append(frame)
                yield from frames
