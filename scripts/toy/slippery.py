"""The arm's table as ice: a push sends a thing off in a random direction, at a random speed.

A push begins where the gripper touches a thing that it did not touch in the step before. The frame
after that step is the first that shows the outcome. The commands aim at the places where the
things are at first, so they tell nothing of the outcomes. Metres, pure functions of seeds.
"""

import numpy as np

from . import robot
from .dance import hsv
from .robot import HAND, HIGH, LEVELS, LOW, SUBSTEPS, make_scene

__all__ = ["begin", "draw", "make_scene", "play", "set_up", "tables"]

RADII, HEIGHTS = (0.07, 0.085), (0.06, 0.09)  # lowest and highest, of the things
PACE = 0.07  # of the hand in a step: it needs two or more for the way to a thing
WAY, TURN = (0.06, 0.2), np.radians(60)  # lengths of a slide; its largest angle to the push
SLOWING = np.array((0.4, 0.3, 0.2, 0.1))[:, None]  # the parts of a slide, frame by frame


def begin(rng):
    """What the given frames and the commands determine: things, their poses, and the commands."""
    things, hue = [], rng.random()
    for other in (0, 0.4):
        kind, height = ("box", "tube")[rng.integers(2)], rng.uniform(*HEIGHTS)
        colours = hsv(hue + other, 0.85, rng.uniform(0.7, 0.9)), hsv(hue + other + 0.15, 0.3, 0.95)
        radius = rng.uniform(*RADII)
        things.append({"kind": kind, "radius": radius, "height": height, "colours": colours})
    hand, pose = places(rng, robot.sizes(things)[0])
    return things, pose, *command(rng, hand, pose[:, :2])


def places(rng, radii):
    """Where the hand (3,) and the things (2, 3) are at first, well apart from each other."""
    while True:
        hand, pose = rng.uniform(LOW, HIGH), rng.uniform((*LOW[:2], 0), (*HIGH[:2], 6.3), (2, 3))
        way = np.hypot(*(pose[:, :2] - hand[:2]).T) - radii - HAND
        gap = np.hypot(*(pose[1] - pose[0])[:2]) - radii.sum()
        if way.min() > 2 * PACE and gap > 2 * HAND:
            return np.round(hand, 4), pose


def command(rng, hand, spots):
    """Goals around the spots (2, 2) -> actions (T, 4), positions (T, 3), openings 0..1 (T,)."""
    opening, rows, patience = rng.random(), [], 0
    goals = choose_goals(rng, spots[np.argsort(np.hypot(*(spots - hand[:2]).T))])
    for _ in range(robot.LENGTH):
        if patience == 0:
            goal, grip = next(goals)
            patience = max(1, int(np.ceil(np.hypot(*(goal - hand[:2])) / PACE)))
        patience -= 1
        way = goal - hand[:2]
        move = np.round(way * min(1, PACE / (np.hypot(*way) + 1e-6)), 4)
        rows.append(((*move, *grip), hand, opening))
        hand, opening = robot.move_hand(hand, rows[-1][0])
    return tuple(map(np.array, zip(*rows)))


def choose_goals(rng, spots):
    """Places (2,) with close and lift commands: each spot in turn, then a spot or anywhere."""
    for spot in spots:
        yield spot + rng.uniform(-0.03, 0.03, 2), (rng.integers(LEVELS + 1), 0)
    while True:
        goal, lift = rng.uniform(LOW[:2], HIGH[:2]), rng.integers(LEVELS + 1)
        if rng.random() < 0.6:
            goal, lift = spots[rng.integers(2)] + rng.uniform(-0.06, 0.06, 2), rng.integers(2)
        yield np.clip(goal, LOW[:2], HIGH[:2]), (rng.integers(LEVELS + 1), lift)


def play(rng, start):
    """One course of the clip: poses (T, N, 3), and (T,) whether a frame shows a new outcome."""
    things, pose, _, positions, _ = start
    slides, touched = np.zeros((len(SLOWING), len(things), 2)), np.zeros(len(things), bool)
    radii_and_tops = robot.sizes(things)
    path, events = [pose], [False]
    for hand, target in zip(positions, positions[1:]):
        way = np.linspace(hand, target, SUBSTEPS + 1)
        pose, slides, touched, new = step(rng, way, radii_and_tops, pose, slides, touched)
        path.append(pose)
        events.append(new.any())
    return np.array(path), np.array(events)


def step(rng, way, sizes, pose, slides, before):
    """One step of the gripper along its way (SUBSTEPS + 1, 3).

    slides (4, N, 2) are the things' ways in this frame and the next. -> poses, slides from the
    next frame on, what the gripper touched, what it pushed anew.
    """
    pose, part = pose.copy(), slides[0] / SUBSTEPS
    slides = np.concatenate((slides[1:], np.zeros_like(slides[:1])))
    touched, new = np.zeros_like(before), np.zeros_like(before)
    for i, (start, end) in enumerate(zip(way, way[1:])):
        overlap, away = robot.overlaps(pose, sizes, end)
        touched |= overlap > 0
        for k in np.flatnonzero(touched & ~before & ~new):
            parts = SLOWING * outcome(rng, away[k])
            part[k], slides[:-1, k], slides[-1, k] = parts[0] / (SUBSTEPS - i), parts[1:], 0
            new[k] = True
        pose[:, :2] += part
        robot.push(pose, sizes, end, end[:2] - start[:2])
    return pose, slides, touched, new


def outcome(rng, away):
    """A random slide (2,) of a thing that is pushed in the direction away (2,)."""
    angle, length = rng.uniform(-TURN, TURN), rng.uniform(*WAY)
    (x, y), cos, sin = away, np.cos(angle), np.sin(angle)
    return length * np.array((cos * x - sin * y, sin * x + cos * y))


def tables(start):
    """Actions (T, 4) and positions (T, 3)."""
    return start[2:4]


def set_up(scene, start):
    """What the pictures of all courses of a clip share."""
    things, _, _, positions, openings = start
    return scene, robot.draw_arms(scene, positions, openings), things


def draw(stage, path):
    """All bytes (T, H, W, 3) of a course: poses (T, N, 3)."""
    return robot.draw_clip(*stage, path)
