"""Where a pose image shows a pose."""

import torch

Box = tuple[slice, slice]


def pose_boxes(poses: torch.Tensor, margin: int) -> list[Box | None]:
    """Rows and columns of every pose (T, 3, H, W); None for an empty image."""
    drawn = ((poses - background_of(poses)).abs() > 0.1).any(dim=1)  # (T, H, W)
    return [
        (span(mask.any(1), margin), span(mask.any(0), margin)) if mask.any() else None
        for mask in drawn
    ]


def background_of(poses: torch.Tensor) -> torch.Tensor:
    """The background colour (T, 3, 1, 1) of pose images: most of their pixels have it."""
    return poses.flatten(2).median(dim=2).values[..., None, None]


def span(marked: torch.Tensor, margin: int) -> slice:
    """From the first True to the last, extended by the margin on both sides."""
    places = marked.nonzero()
    return slice(max(int(places[0]) - margin, 0), int(places[-1]) + margin + 1)
