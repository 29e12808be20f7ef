"""Two handwritten digits that move in a box, with the dynamics of stochastic moving MNIST.

As published with SVG (Denton & Fergus, 2018): places and velocities are whole pixels. A digit that
has left the box is put back at the wall, with a new velocity: 1 to 4 pixels per frame away from the
wall, and -4 to 4 along it. The next frame is the first that shows it. Where digits overlap their
brightness adds up, to white at most. Training clips and the others have no digit in common.
"""

import struct

import numpy as np
from PIL import Image

from modules.errors import UserError, one_line

from .robot import LENGTH, SIZE

GIVEN = 5  # frames that all futures of a clip share
SIDE, DIGITS = 28, 2
ROOM = SIZE - SIDE  # x and y of a digit's upper left corner are in 0..ROOM-1
FAST = 4  # pixels per frame, in x and in y
HELD_OUT = 7  # one in 7 scans, the last ones: 10,000 of MNIST's 70,000
IDX = b"\0\0\x08\x03"  # how a file of MNIST's images begins
ENTROPY = {"event": np.log(FAST * (2 * FAST + 1)), "other": 0.0}  # nats of one new velocity


def read_scans(path, train):
    """The digits of training clips, or of the others: uint8 (N, h, w)."""
    scans = scikit_learns() if path is None else read_file(path)
    if scans.dtype != np.uint8 or scans.ndim != 3 or not scans.size or len(scans) < HELD_OUT:
        raise UserError(
            f"--digits {path}: {scans.dtype} {scans.shape}; expected is uint8 (N, height, width), "
            f"with N {HELD_OUT} or more"
        )
    return np.split(scans, [-(len(scans) // HELD_OUT)])[0 if train else 1]


def scikit_learns():
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "--world digits needs the package scikit-learn (pip install scikit-learn), or "
            "--digits FILE"
        ) from None
    return (load_digits().images * (255 / 16)).round().astype(np.uint8)


def read_file(path):
    """MNIST's images: an idx file, or an npz with x_train and x_test."""
    try:
        with open(path, "rb") as file:
            if file.read(4) == IDX:
                shape = struct.unpack(">3I", file.read(12))
                return np.frombuffer(file.read(), np.uint8).reshape(shape)
        with np.load(path, allow_pickle=False) as archive:
            return np.concatenate([archive["x_train"], archive["x_test"]])
    except Exception as error:  # a damaged file can make numpy raise anything
        raise UserError(
            f"--digits {path} cannot be read as an idx file (unpacked), nor as an npz with x_train "
            f"and x_test ({one_line(error)})"
        ) from None


def begin(rng):
    """Which digits, as shares of all; their places in the given frames, and how they go on."""
    which, place = rng.random(DIGITS), rng.integers(ROOM, size=(DIGITS, 2))
    velocity = rng.integers(-FAST, FAST + 1, size=(DIGITS, 2))
    path, _, place, velocity = move(rng, place, velocity, GIVEN - 1)
    return which, path, place, velocity


def play(rng, start):
    """One course of the clip: places (T, 2, 2) as x, y; (T,) whether a frame shows a velocity."""
    _, path, *now = start
    later, hits, *_ = move(rng, *now, LENGTH - len(path))
    return np.concatenate((path, later)), np.concatenate((np.zeros(GIVEN, bool), hits[:-1]))


def move(rng, place, velocity, frames):
    """-> places (frames, 2, 2), (frames,) whether one was at a wall; what comes next."""
    path, hits, place, velocity = [], [], place.copy(), velocity.copy()
    for _ in range(frames):
        outside = (place < 0) | (place >= ROOM)
        for digit, axis in zip(*np.nonzero(outside[:, ::-1])):  # y first
            leave(rng, place[digit], velocity[digit], 1 - axis)
        path.append(place.copy())
        hits.append(outside.any())
        place += velocity
    return np.array(path), np.array(hits), place, velocity


def leave(rng, place, velocity, axis):
    """Put a digit back at the wall; a new velocity away from it."""
    away = 1 if place[axis] < 0 else -1
    place[axis] = np.clip(place[axis], 0, ROOM - 1)
    velocity[axis] = away * rng.integers(1, FAST + 1)
    velocity[1 - axis] = rng.integers(-FAST, FAST + 1)


def tables(start):
    """No actions and positions."""
    return ()


def set_up(scans, start):
    """The clip's digits (2, SIDE, SIDE), from the scans (N, h, w) of its split."""
    chosen = (Image.fromarray(scans[int(share * len(scans))]) for share in start[0])
    return np.array([scan.resize((SIDE, SIDE), Image.BILINEAR) for scan in chosen])


def draw(digits, path):
    """All bytes (T, H, W, 3) of a course: places (T, 2, 2)."""
    frames = np.zeros((LENGTH, SIZE, SIZE), int)
    for frame, places in zip(frames, path):
        for digit, (x, y) in zip(digits, places):
            frame[y : y + SIDE, x : x + SIDE] += digit
    return np.repeat(frames.clip(0, 255).astype(np.uint8)[..., None], 3, -1)
