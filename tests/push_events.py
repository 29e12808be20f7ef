"""Writes events/test.csv into a data set of the arm: the frames in which a push begins.

python tests/push_events.py data/toy_robot [SEED]     the seed of make_toy_data.py, default 0

Tester.py then prints the KL of these frames beside that of the others. They are no random
outcomes, the actions tell them: so make_toy_data.py does not write this file.
"""

import sys
from pathlib import Path

sys.path[:0] = map(str, (Path(__file__).parents[1], Path(__file__).parents[1] / "scripts"))

import numpy as np
from make_toy_data import TEST
from toy import robot
from toy.files import write_events


def pushes(seed, clip):
    """(T,): whether a thing moves in this frame that did not move in the one before."""
    poses = robot.simulate(np.random.default_rng([seed, TEST, clip]))[-1]
    moved = np.diff(poses, axis=0, prepend=poses[:1]).any(-1)
    return (moved & ~np.roll(moved, 1, axis=0)).any(-1)


if __name__ == "__main__":
    root, seed = Path(sys.argv[1]), int((sys.argv[2:] or [0])[0])
    clips = range(len(list(root.glob("test/*/*"))))
    write_events(root / "events/test.csv", [pushes(seed, clip) for clip in clips])
