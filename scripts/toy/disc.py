"""A disc in a box. It leaves every wall in a random direction, as in stochastic moving MNIST.

At a wall it stops for a frame. Its new direction is drawn when it leaves: the
frame after the touch is the first that shows it, and no frame before tells it. In between, the
motion is a straight line that two frames determine. Pixels, pure functions of seeds.
"""

import numpy as np

from .dance import hsv
from .robot import LENGTH, SIZE

RADIUS, SPEED = 9.0, 5.0  # pixels, pixels per frame
LOW, HIGH = RADIUS + 1, SIZE - RADIUS - 1  # of a disc's centre, in x and y
STEEP, CORNER = np.radians((65, 20))  # largest angle to the normal of a wall, of a corner
COLOURS = (hsv(0.07, 0.85, 0.95),)  # one disc each


def begin(rng):
    """Places and velocities (N, 2) of the first frame."""
    angles = rng.uniform(0, 2 * np.pi, len(COLOURS))
    places = rng.uniform(LOW, HIGH, (len(COLOURS), 2))
    return places, SPEED * np.stack((np.cos(angles), np.sin(angles)), -1)


def play(rng, start):
    """One course of the clip: places (T, N, 2), and (T,) whether a frame shows a new direction."""
    place, velocity = start
    path, events = [place], [False]
    wall = np.zeros_like(place)  # of each disc: away from the walls it touches, or 0
    for _ in range(LENGTH - 1):
        events.append(wall.any())
        velocity = leave(rng, wall, velocity)
        goal = place + velocity
        place = np.clip(goal, LOW, HIGH)
        wall = np.sign(place - goal)
        path.append(place)
    return np.array(path), np.array(events)


def leave(rng, wall, velocity):
    """The velocities with new directions for the discs at a wall."""
    velocity = velocity.copy()
    for i in np.flatnonzero(wall.any(1)):
        widest = CORNER if wall[i].all() else STEEP
        angle = np.arctan2(wall[i, 1], wall[i, 0]) + rng.uniform(-widest, widest)
        velocity[i] = SPEED * np.array((np.cos(angle), np.sin(angle)))
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
    """All bytes (T, H, W, 3) of a course: places (T, N, 2)."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    frames = np.tile(scene, (len(path), 1, 1, 1))
    for i, colour in enumerate(COLOURS):
        away = np.hypot(x - path[:, i, 0, None, None], y - path[:, i, 1, None, None])
        coverage = np.clip(0.5 + RADIUS - away, 0, 1)[..., None]  # antialiased
        frames += coverage * (colour - frames)
    return (255 * frames + 0.5).astype(np.uint8)
