"""What a world with an open future adds to its data set: events/SPLIT.csv, events/entropy.json and
futures/CLIP.npz."""

import numpy as np

from modules.files import write_json, write_npz


def write_entropy(root, nats):
    """{event, other}: what is random in the frame of an event, and in any other."""
    write_json(root / "events/entropy.json", {name: float(x) for name, x in nats.items()})


def write_events(path, clips):
    """A row `clip,frame` for each frame that first shows a random outcome; clips: (T,) of bool."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{clip},{t}\n" for clip, shown in enumerate(clips) for t in np.flatnonzero(shown)]
    path.write_text("clip,frame\n" + "".join(rows))


def write_futures(path, frames):
    """An npz with the array `frames`, for np.load."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, {"frames": frames})
