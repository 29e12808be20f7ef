"""A disc in a box. It leaves every wall in a random direction, as in stochastic moving MNIST.

The disc flies from wall to wall in equal steps and touches the wall in the last of them. Its new
direction is drawn there: the frame after the touch is the first that shows it, and no frame before
tells it. All else is a straight line that two frames determine. Pixels, pure functions of seeds.
"""

import numpy as np

from .dance import hsv
from .robot import LENGTH, SIZE

RADIUS, SPEED = 9.0, 5.0  # pixels, pixels per frame (about: a flight has a whole number of steps)
EDGE = 3.0  # width of the disc's soft edge, in pixels: small nets can draw it
LOW, HIGH = RADIUS + 1, SIZE - RADIUS - 1  # of the disc's centre, in x and y
STEEP = np.radians(70)  # the largest angle between a new direction and the wall's normal
FREE = 3 * SPEED  # the shortest flight
COLOUR = hsv(0.07, 0.85, 0.95)
# Nats of a new direction, to one pixel in the first frame: the logarithm of the arc's length. Near
# corners many directions are too short a flight: minus 0.17, measured.
ENTROPY = {"event": np.log(2 * STEEP * SPEED) - 0.17, "other": 0.0}


def begin(rng):
    """Place and velocity (2,) of the first frame: a flight from anywhere in any direction."""
    while True:
        place, angle = rng.uniform(LOW, HIGH, 2), rng.uniform(-np.pi, np.pi)
        if flight(place, angle)[0] >= FREE:
            return place, flight(place, angle)[1]


def flight(place, angle):
    """The length of the straight way to the next wall, and the velocity (2,) on it."""
    direction = np.array((np.cos(angle), np.sin(angle)))
    with np.errstate(divide="ignore"):
        ways = np.where(direction > 0, HIGH - place, LOW - place) / direction
    length = max(ways.min(), 0.0)
    return length, direction * length / max(round(length / SPEED), 1)


def play(rng, start):
    """One course of the clip: places (T, 2), and (T,) whether a frame shows a new direction."""
    place, velocity = start
    path, events = [place], [False]
    for _ in range(LENGTH - 1):
        wall = (place < LOW + 1e-6) * 1.0 - (place > HIGH - 1e-6)  # away from it, or 0
        events.append(wall.any())
        if wall.any():
            velocity = leave(rng, place, np.arctan2(wall[1], wall[0]))
        place = np.clip(place + velocity, LOW, HIGH)
        path.append(place)
    return np.array(path), np.array(events)


def leave(rng, place, normal):
    """The velocity of a new flight from a wall with this normal."""
    while True:
        length, velocity = flight(place, normal + rng.uniform(-STEEP, STEEP))
        if length >= FREE:
            return velocity


def tables(start):
    """Actions (T, 4) and positions (T, 3): zeros, nobody acts here."""
    return np.zeros((LENGTH, 4)), np.zeros((LENGTH, 3))


def make_scene(rng):
    """What all clips share: grey, a little lighter towards the bottom (H, W, 3)."""
    return np.tile(np.linspace(0.4, 0.55, SIZE)[:, None, None], (1, SIZE, 3))


def set_up(scene, start):
    """What the pictures of all courses of a clip share."""
    return scene


def draw(scene, path):
    """All bytes (T, H, W, 3) of a course: places (T, 2)."""
    return as_bytes(add_disc(scene, path, RADIUS, COLOUR))


def add_disc(frames, path, radius, colour, reach=0):
    """Frames (T, H, W, 3), or one for all, with a disc at places (T, 2).

    reach (T,): the length of a rod that ends there and comes from the left, in pixels.
    """
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    right, down = x - path[:, 0, None, None], y - path[:, 1, None, None]
    along = right - np.clip(right, -np.reshape(reach, (-1, 1, 1)), 0)
    coverage = np.clip(0.5 + (radius - np.hypot(along, down)) / EDGE, 0, 1)[..., None]
    return frames + coverage * (colour - frames)


def as_bytes(frames):
    return (255 * frames + 0.5).astype(np.uint8)
