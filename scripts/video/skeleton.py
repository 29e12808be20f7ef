"""The 18 keypoints of a person as OpenPose orders, joins and colours them, drawn as a picture."""

from collections.abc import Sequence
from colorsys import hsv_to_rgb

import numpy as np

KEYPOINTS = (  # r: right of the person
    "nose neck shoulder_r elbow_r wrist_r shoulder_l elbow_l wrist_l hip_r knee_r ankle_r "
    "hip_l knee_l ankle_l eye_r eye_l ear_r ear_l"
).split()
# Pairs of keypoints; limb i and keypoint i have colour i.
PAIRS = "1-2 1-5 2-3 3-4 5-6 6-7 1-8 8-9 9-10 1-11 11-12 12-13 1-0 0-14 14-16 0-15 15-17"
LIMBS = [tuple(map(int, pair.split("-"))) for pair in PAIRS.split()]
KEYPOINT_COLOURS = [np.array(hsv_to_rgb(k / 18, 1, 1)) for k in range(18)]
STICK, DOT = 0.012, 0.016  # radii of limbs and keypoints, in heights of the picture
SEEN = 0.3  # the lowest confidence of a keypoint that is drawn
LAMP = -0.62 - 0.42j  # the lamp is to the left, above and (0.66) in front of what is painted


def draw_skeleton(joints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Keypoints (18, 3), x and y in pixels and confidence, on white -> (H, W, 3) in 0..1."""
    picture = np.ones((*size, 3))
    points, seen = joints[:, 0] + 1j * joints[:, 1], joints[:, 2] >= SEEN
    sticks = [(a, b, STICK, 0.85 * KEYPOINT_COLOURS[i]) for i, (a, b) in enumerate(LIMBS)]
    dots = [(k, k, DOT, KEYPOINT_COLOURS[k]) for k in range(18)]
    for a, b, radius, colour in sticks + dots:
        if seen[a] and seen[b]:
            radii = [radius * size[0]] * 2
            paint(picture, points[[a, a]], points[[b, b]], radii, colour, lit=False)
    return picture


def skeleton_picture(joints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same as uint8: a pose picture of a data set."""
    return (draw_skeleton(joints, size) * 255 + 0.5).astype(np.uint8)


def along(point: np.ndarray, start: complex, end: complex) -> np.ndarray:
    """How far from start to end, 0..1, the nearest point of that segment lies (all x + iy)."""
    span = end - start + 1e-6
    return np.clip(((point - start) * span.conjugate()).real / abs(span) ** 2, 0, 1)


def paint(
    picture: np.ndarray,
    start: Sequence[complex],
    end: Sequence[complex],
    radii: Sequence[float],
    colour: np.ndarray,
    lit: bool = True,
) -> None:
    """Blend in a rounded sheet with two corners x + iy (pixels) at each end: a capsule if equal."""
    corners, margin = np.array([*start, *end]), max(radii) + 1
    spans = (corners.imag, picture.shape[0]), (corners.real, picture.shape[1])
    ends = (np.clip((v.min() - margin, v.max() + margin + 1), 0, n) for v, n in spans)
    box = tuple(slice(*end.astype(int)) for end in ends)
    y, x = np.ogrid[box]
    pixel = x + 0.5 + 1j * (y + 0.5)
    t = along(pixel, sum(start) / 2, sum(end) / 2)  # down the sheet
    right, left = start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])
    s = along(pixel, right, left)  # across the sheet
    radius = radii[0] + t * (radii[1] - radii[0])
    offset = pixel - right - s * (left - right)  # from the nearest point of the sheet
    coverage = np.clip(0.5 + radius - abs(offset), 0, 1)[..., None]
    if lit:
        lean = offset / radius + (s - 0.5) * (left - right) / (abs(left - right) + radius)
        lean /= np.maximum(abs(lean), 1)  # of the surface's normal, sideways
        upright = np.sqrt(1 - np.minimum(abs(lean) ** 2, 1))
        light = np.maximum((lean * LAMP.conjugate()).real + 0.66 * upright, 0)
        colour = colour * (0.5 + 0.75 * light[..., None])
    picture[box] += coverage * (colour - picture[box])
