"""What a world with an open future adds to its data set: events/SPLIT.csv and futures/CLIP.npz."""

import zipfile

import numpy as np


def write_events(path, clips):
    """A row `clip,frame` for each frame that first shows a random outcome; clips: (T,) of bool."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{clip},{t}\n" for clip, shown in enumerate(clips) for t in np.flatnonzero(shown)]
    path.write_text("clip,frame\n" + "".join(rows))


def write_futures(path, frames):
    """An npz with the array `frames`, for np.load; np.savez would store the time of day, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = zipfile.ZipInfo("frames.npy")  # of 1980
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive, archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array(file, frames)
