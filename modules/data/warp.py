"""Foreground affine augmentation (--warp): the dancer is translated, scaled and sheared over a
static background, and the pose image with it: poses outside the training set.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .cache import to_float
from .poses import background_of, pose_boxes

FOREGROUND_DIFFERENCE = 0.1  # a pixel that differs from the background by this is foreground
BOX_MARGIN = 3  # pixels around a pose's box that the dancer may cover
MAX_TRANSLATION = 0.5, 0.15  # x and y, in units of half the width and half the height
MAX_LOG_SCALE = 0.2
MAX_SHEAR = 0.1  # pixels in x per pixel in y, and the reverse
BACKGROUND_FRAMES = 500  # used to estimate the background


def spread_out(images: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> at most BACKGROUND_FRAMES of them, (n, 3, H, W) in 0..1."""
    return to_float(torch.tensor(images[:: -(-len(images) // BACKGROUND_FRAMES)]))


def static_background(dataset: torch.utils.data.Dataset, partial: float = 1.0) -> torch.Tensor:
    """The background (3, H, W) in 0..1 of the given share of the training frames.

    A pixel is its median over the frames in which it is outside the pose's box, or over all
    frames if there are none.
    """
    used = slice(max(int(len(dataset.frames) * partial), 1))
    frames, poses = spread_out(dataset.frames[used]), spread_out(dataset.conditions[used])
    visible = frames.clone()
    for image, box in zip(visible, pose_boxes(poses, BOX_MARGIN)):
        if box:
            image[(..., *box)] = torch.nan
    visible = visible.nanmedian(dim=0).values
    return torch.where(visible.isnan(), frames.median(dim=0).values, visible)


class Affine(NamedTuple):
    """One affine map per clip; every row is (x, y)."""

    log_scale: torch.Tensor  # (B, 2)
    shear: torch.Tensor  # (B, 2), pixels per pixel
    translation: torch.Tensor  # (B, 2), in units of half the width and half the height


def random_affine(batch: int) -> Affine:
    """Uniform in all its ranges, on the CPU."""
    log_scale, shear, translation = (torch.rand(batch, 2) * 2 - 1 for _ in range(3))
    return Affine(
        MAX_LOG_SCALE * log_scale, MAX_SHEAR * shear, torch.tensor(MAX_TRANSLATION) * translation
    )


class Warp:
    """Frames and poses (B, T, 3, H, W) -> the same, the foreground of a share of clips warped."""

    def __init__(
        self,
        share: float,
        dataset: torch.utils.data.Dataset,
        device: torch.device | str,
        partial: float = 1.0,
    ):
        pose_background = background_of(spread_out(dataset.conditions)).median(dim=0).values
        backgrounds = static_background(dataset, partial), pose_background
        self.share, self.backgrounds = share, [x.to(device) for x in backgrounds]

    def __call__(
        self, *clips: torch.Tensor, first: int = 0, size: int | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Draws are those of a batch of `size`, of which these clips are rows from `first` on."""
        chosen = (torch.rand(size or len(clips[0])) < self.share).nonzero()[:, 0]
        if not len(chosen):
            return clips
        affine = random_affine(len(chosen))
        own = (chosen >= first) & (chosen < first + len(clips[0]))
        chosen = (chosen[own] - first).to(clips[0].device, non_blocking=True)
        warped = [x[chosen] for x in clips]
        if own.any():
            warped = self.transform(warped, Affine(*(x[own] for x in affine)))
        return tuple(x.index_copy(0, chosen, new) for x, new in zip(clips, warped))

    def transform(self, clips: list[torch.Tensor], affine: Affine) -> list[torch.Tensor]:
        """Frames and poses (B, T, 3, H, W) with their foregrounds transformed."""
        grid = sampling_grid(foreground_mask(clips[0], self.backgrounds[0]), affine)
        return [warp(x, background, grid) for x, background in zip(clips, self.backgrounds)]


def foreground_mask(clips: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """(B, T, 1, H, W) in 0..1: where clips (B, T, 3, H, W) differ from their background."""
    difference = (clips - background).abs().amax(dim=2, keepdim=True)
    return (difference / FOREGROUND_DIFFERENCE).clamp(max=1)


def warp(clips: torch.Tensor, background: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Resample the foreground at the grid (B, H, W, 2) and composite it over the background."""
    moved = resample(clips, grid, "bicubic", "border").clamp(0, 1)
    mask = resample(foreground_mask(clips, background), grid, "bilinear", "zeros")
    return torch.lerp(background.expand_as(clips), moved, mask)


def resample(clips: torch.Tensor, grid: torch.Tensor, mode: str, padding: str) -> torch.Tensor:
    out = F.grid_sample(clips.flatten(1, 2), grid, mode, padding, align_corners=False)
    return out.unflatten(1, clips.shape[1:3])


def sampling_grid(masks: torch.Tensor, affine: Affine) -> torch.Tensor:
    """Foreground masks (B, T, 1, H, W) -> the grid (B, H, W, 2) of grid_sample for every clip.

    Each clip is transformed around the centre of its foreground.
    """
    batch, (h, w) = len(masks), masks.shape[-2:]
    shear = affine.shear * torch.tensor([h / w, w / h])
    linear = torch.diag_embed(1 / torch.exp(affine.log_scale)) + torch.diag_embed(shear).flip(-1)
    numbers = torch.cat([linear, affine.translation[..., None]], dim=-1)  # one copy to the device
    matrix, move = numbers.to(masks.device, non_blocking=True).split([2, 1], dim=-1)
    centre = centres(masks)[..., None]
    theta = torch.cat([matrix, centre - matrix @ (centre + move)], dim=-1)
    return F.affine_grid(theta, (batch, 1, h, w), align_corners=False)


def centres(masks: torch.Tensor) -> torch.Tensor:
    """x and y (B, 2) of each clip's centre of mass, in -1..1."""
    weight = masks.mean(dim=(1, 2))
    weight = weight / weight.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    y, x = (torch.arange(1, 2 * n, 2, device=weight.device) / n - 1 for n in weight.shape[1:])
    return torch.stack([weight.sum(dim=1) @ x, weight.sum(dim=2) @ y], dim=-1)
