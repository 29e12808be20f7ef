"""Three lamps on the dancer's wall, each on or off. At every frame each may toggle, whatever the
poses. The first frame shows their state; nothing tells when it changes. Lengths in frame heights.
"""

import numpy as np

from .dance import hsv

RATE = 0.03  # probability that a lamp toggles in a frame
RADIUS, GLOW = 0.1, 0.13  # of a lamp; how far its glow reaches on the wall
PLACES = (-0.84, 0.12), (-0.3, 0.12), (0.32, 0.12)  # x from the middle, y from the top
COLOURS = hsv(0.0, 0.9, 1), hsv(0.36, 0.9, 0.9), hsv(0.6, 0.9, 1)  # red, green, blue
RIM = np.array((0.2, 0.19, 0.18))
STILL = len(PLACES) * np.log(1 / (1 - RATE))  # nats: no lamp toggles
TOGGLES = len(PLACES) * -(RATE * np.log(RATE) + (1 - RATE) * np.log(1 - RATE))  # of any frame
QUIET = (1 - RATE) ** len(PLACES)  # probability of no toggle
# Nats at a frame with a toggle: which lamps, and that now; at any other: that none toggled.
ENTROPY = {"event": (TOGGLES - QUIET * STILL) / (1 - QUIET), "other": STILL}


def begin(rng):
    """Which lamps (3,) are on in the first frame."""
    return rng.random(len(PLACES)) < 0.5


def play(rng, start, length):
    """One course: which lamps (length, 3) are on, and (length,) whether one has just toggled."""
    toggles = rng.random((length, len(PLACES))) < RATE
    toggles[0] = False
    return start ^ (np.cumsum(toggles, 0) % 2 == 1), toggles.any(1)


def light(room, lit):
    """The room (H, 2H, 3) with its lamps, of which lit (3,) are on."""
    height, room = len(room), room.copy()
    y, x = np.mgrid[0:height, 0 : 2 * height] + 0.5
    for (across, down), colour, on in zip(PLACES, COLOURS, lit):
        away = np.hypot(x / height - 1 - across, y / height - down)
        glass = 0.22 * colour + 0.1  # of a lamp that is off
        if on:
            glass = colour + 0.55 * np.exp(-((away / 0.05) ** 2))[..., None]
            glow = 0.75 * np.exp(-((np.maximum(away - RADIUS, 0) / GLOW) ** 2))[..., None]
            room += glow * (0.45 * room + 0.75 * colour - room)
        for radius, paint in ((RADIUS, RIM), (RADIUS - 0.015, glass)):
            coverage = np.clip(0.5 + (radius - away) * height, 0, 1)[..., None]
            room += coverage * (paint - room)
    return room.clip(0, 1)
