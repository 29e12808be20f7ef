"""Where a pose image shows a pose."""


def pose_boxes(poses, margin):
    """Rows and columns (slices) of every pose (T, 3, H, W); None where nothing is drawn."""
    drawn = ((poses - ground_of(poses)).abs() > 0.1).any(dim=1)  # (T, H, W)
    return [
        (span(mask.any(1), margin), span(mask.any(0), margin)) if mask.any() else None
        for mask in drawn
    ]


def ground_of(poses):
    """The colour (T, 3, 1, 1) that pose pictures are drawn on: most of their pixels show it."""
    return poses.flatten(2).median(dim=2).values[..., None, None]


def span(marked, margin):
    """The slice from the first marked place to the last, and `margin` beyond."""
    places = marked.nonzero()
    return slice(max(int(places[0]) - margin, 0), int(places[-1]) + margin + 1)
