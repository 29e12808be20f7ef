"""Dancers moved, stretched and leaned before a still scene (--warp): poses never danced."""

import torch
import torch.nn.functional as F

from .cache import to_float
from .poses import ground_of, pose_boxes

SEEN = 0.1  # what differs so much from the still scene stands before it
HIDDEN = 3  # pixels around a pose's box in which its dancer may hide the scene
MOVE = 0.5, 0.15  # the most a dancer is moved, in halves of the picture's width and height
STRETCH = 0.2  # the most it is stretched or shrunk either way, as a logarithm
LEAN = 0.1  # the most it leans, in pixels sideways for a pixel up, and up for a pixel sideways
ENOUGH = 500  # frames tell what stands still


def some_of(pictures):
    """(N, H, W, 3) uint8 -> no more than ENOUGH of them (n, 3, H, W) in 0..1."""
    return to_float(torch.tensor(pictures[:: -(-len(pictures) // ENOUGH)]))


def static_background(dataset, partial=1.0):
    """What stands still in a share of the training frames: (3, H, W) in 0..1.

    A pixel is the median of the frames whose dancer is not near it; of all where there are none.
    """
    used = slice(max(int(len(dataset.frames) * partial), 1))
    frames, poses = some_of(dataset.frames[used]), some_of(dataset.conditions[used])
    bare = frames.clone()
    for picture, box in zip(bare, pose_boxes(poses, HIDDEN)):
        if box:
            picture[(..., *box)] = torch.nan
    bare = bare.nanmedian(dim=0).values
    return torch.where(bare.isnan(), frames.median(dim=0).values, bare)


class Warp:
    """Clips of frames and poses (B, T, 3, H, W) -> the same, the dancers of a share warped."""

    def __init__(self, share, dataset, device, partial=1.0):
        ground = ground_of(some_of(dataset.conditions)).median(dim=0).values
        still = static_background(dataset, partial), ground
        self.share, self.still = share, [x.to(device) for x in still]

    def __call__(self, *clips):
        chosen = (torch.rand(len(clips[0])) < self.share).nonzero()[:, 0]
        if not len(chosen):
            return clips
        chosen = chosen.to(clips[0].device, non_blocking=True)
        grid = draw_grids(in_front(clips[0][chosen], self.still[0]))
        return tuple(
            x.index_copy(0, chosen, warp(x[chosen], still, grid))
            for x, still in zip(clips, self.still)
        )


def in_front(clips, still):
    """(B, T, 1, H, W) in 0..1: where clips (B, T, 3, H, W) show something before what is still."""
    return ((clips - still).abs().amax(dim=2, keepdim=True) / SEEN).clamp(max=1)


def warp(clips, still, grid):
    """What is in front of the still picture, taken from where the grid (B, H, W, 2) says."""
    moved = sample(clips, grid, "bicubic", "border").clamp(0, 1)
    mask = sample(in_front(clips, still), grid, "bilinear", "zeros")
    return torch.lerp(still.expand_as(clips), moved, mask)


def sample(clips, grid, mode, padding):
    out = F.grid_sample(clips.flatten(1, 2), grid, mode, padding, align_corners=False)
    return out.unflatten(1, clips.shape[1:3])


def draw_grids(dancers):
    """Where dancers are (B, T, 1, H, W) -> where every pixel of each warped clip comes from.

    (B, H, W, 2), x and y in -1..1 as grid_sample has them. Dancers are warped around their centre.
    """
    batch, (h, w) = len(dancers), dancers.shape[-2:]
    size = torch.exp(STRETCH * around_zero(batch))  # x, y
    lean = LEAN * around_zero(batch) * torch.tensor([h / w, w / h])
    move = torch.tensor(MOVE) * around_zero(batch)
    numbers = torch.diag_embed(1 / size) + torch.diag_embed(lean).flip(-1), move[..., None]
    matrix, move = (
        torch.cat(numbers, dim=-1).to(dancers.device, non_blocking=True).split([2, 1], dim=-1)
    )
    centre = centres(dancers)[..., None]
    theta = torch.cat([matrix, centre - matrix @ (centre + move)], dim=-1)
    return F.affine_grid(theta, (batch, 1, h, w), align_corners=False)


def around_zero(batch):
    return torch.rand(batch, 2) * 2 - 1


def centres(dancers):
    """x and y (B, 2) of the middle of each clip's dancer."""
    where = dancers.mean(dim=(1, 2))
    where = where / where.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    y, x = (torch.arange(1, 2 * n, 2, device=where.device) / n - 1 for n in where.shape[1:])
    return torch.stack([where.sum(dim=1) @ x, where.sum(dim=2) @ y], dim=-1)
