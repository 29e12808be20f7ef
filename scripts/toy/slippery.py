"""A puck on ice, from above. The arm pushes it off in a random direction at a random speed.

The hand moves to the puck, touches it in the last step, and moves back. The frame after the touch
is the first that shows the outcome, and no frame or command before tells it. The puck slides out
for three frames and back for four. Pixels, pure functions of seeds.
"""

import numpy as np

from .dance import hsv
from .disc import add_disc, as_bytes, make_scene
from .robot import LENGTH

__all__ = ["begin", "draw", "make_scene", "play", "set_up", "tables"]

PUCK, HAND, ARM = 9.0, 6.0, 3.0  # radii in pixels; the arm is a rod from the left edge to the hand
HOME = np.array((34.0, 32.0))  # the puck's place
STEPS, STEP = 4, 3.0  # steps of the hand to the puck, and as many back; their length
PAUSE = 3  # the longest wait of the hand, in frames
SPEEDS, TURN = (4.0, 6.0), np.radians(75)  # pixels per frame; the largest angle to the push
SLIDE = np.array((1, 2, 3, 2.25, 1.5, 0.75, 0))[:, None]  # from home after a touch; times the speed
COLOURS = hsv(0.07, 0.85, 0.95), hsv(0.6, 0.5, 0.2)  # of the puck, of the arm
PIXEL = 0.01  # metres, in the tables
FAR = np.array(SPEEDS)  # pixels in the first frame
LOG_SPEED = np.diff(FAR * np.log(FAR) - FAR)[0] / np.diff(FAR)[0]  # its mean
# Nats of direction and speed, to a square pixel in the first frame.
ENTROPY = {"event": np.log(2 * TURN * np.diff(FAR)[0]) + LOG_SPEED, "other": 0.0}


def begin(rng):
    """The hand's x in T + 1 frames, and the frames of its touches, some of them after the end."""
    near = HOME[0] - PUCK - HAND
    stroke = near - STEP * abs(np.arange(-STEPS, STEPS))
    hand, touches = [], []
    while len(hand) < LENGTH + 1:
        hand += [near - STEP * STEPS] * int(rng.uniform(0, PAUSE + 1))
        touches.append(len(hand) + STEPS)
        hand += list(stroke)
    return np.array(hand[: LENGTH + 1]), np.array(touches)


def play(rng, start):
    """One course of the clip: places of the puck (T, 2), and (T,) whether a frame shows a push."""
    path, events = np.tile(HOME, (LENGTH, 1)), np.zeros(LENGTH, bool)
    for touch in start[1][start[1] < LENGTH - 1]:
        angle, speed = rng.uniform(-TURN, TURN), rng.uniform(*SPEEDS)
        part = path[touch + 1 : touch + 1 + len(SLIDE)]
        part += speed * SLIDE[: len(part)] * (np.cos(angle), np.sin(angle))
        events[touch + 1] = True
    return path, events


def hand_places(start):
    """Where the hand is in every frame (T, 2)."""
    return np.stack((start[0][:-1], np.full(LENGTH, HOME[1])), 1)


def tables(start):
    """Actions (T, 4): dx, and zeros; positions (T, 3): the hand's x and y, and 0. In metres."""
    actions, positions = np.zeros((LENGTH, 4)), np.zeros((LENGTH, 3))
    actions[:, 0] = PIXEL * np.diff(start[0])
    positions[:, :2] = PIXEL * hand_places(start)
    return actions, positions


def set_up(scene, start):
    """What the pictures of all courses of a clip share."""
    return scene, hand_places(start)


def draw(stage, path):
    """All bytes (T, H, W, 3) of a course: places of the puck (T, 2)."""
    scene, hand = stage
    frames = add_disc(scene, path, PUCK, COLOURS[0])
    frames = add_disc(frames, hand, ARM, COLOURS[1], reach=hand[:, 0])
    return as_bytes(add_disc(frames, hand, HAND, COLOURS[1]))
