"""Writes events/test.csv into a data set of the arm: the frames in which a push begins.

python tests/push_events.py data/toy_robot [SEED]     the seed of make_toy_data.py, default 0

With it Tester.py prints the KL of z at these frames. The actions determine them, so
make_toy_data.py does not list them.
"""

import sys
from pathlib import Path

sys.path[:0] = map(str, (Path(__file__).parents[1], Path(__file__).parents[1] / "scripts"))

import numpy as np
from make_toy_data import TEST
from toy import robot
from toy.files import write_events


def main(root, seed=0):
    root, out = Path(root), Path(root) / "events/test.csv"
    if out.exists():
        sys.exit(f"error: {out} exists")
    folders = list(root.glob("test/*/*"))
    clips = [
        robot.simulate(np.random.default_rng([int(seed), TEST, i])) for i in range(len(folders))
    ]
    for folder in folders:
        first = int(folder.parent.name.split("_")[1])  # traj_0_to_255.tfrecords
        actions = np.loadtxt(folder / "actions.csv", delimiter=",")
        if not np.allclose(actions, clips[first + int(folder.name)][0]):
            sys.exit(f"error: {folder} is no clip of the arm with seed {seed}")
    write_events(out, [pushes(poses) for *_, poses in clips])


def pushes(poses):
    """(T,): whether a thing moves in this frame that did not move in the one before."""
    moved = np.diff(poses, axis=0, prepend=poses[:1]).any(-1)
    return (moved & ~np.roll(moved, 1, axis=0)).any(-1)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
