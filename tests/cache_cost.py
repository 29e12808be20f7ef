"""What keys by content cost, in seconds of wall clock and CPU; pairs with and without the hash.

python tests/cache_cost.py --files 47000

A cold page cache needs root: without it only a warm one is measured.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from unittest import mock

import helpers  # noqa: F401  (the package is found through it)
import numpy as np
from PIL import Image

from modules.data import cache

SIDE = 260  # pixels; as noise a file of 203 kB
DROP = Path("/proc/sys/vm/drop_caches")


def pictures(folder, count, side):
    """Noise, another in every file."""
    rng = np.random.default_rng(0)
    for i in range(count):
        image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"frame{i:06d}.png", compress_level=0)
    return sorted(folder.glob("*.png"))


def forget():
    """Empty the page cache."""
    os.sync()
    DROP.write_text("3\n")


def timed(what, files, place, cold):
    if cold:
        forget()
    wall, cpu = time.perf_counter(), time.process_time()
    cache.cached_images(files, (32, 64), place, "train-frames", 4)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    what = f"{'cold' if cold else 'warm'}, {what}"
    print(f"{what:48} {wall:8.2f} s {cpu:8.2f} s CPU", flush=True)


def pair(files, place, cold):
    with mock.patch.object(cache, "hash_files", lambda *_: "none"):
        timed("first start, files not hashed", files, place, cold)
    shutil.rmtree(place)
    timed("first start, hashed and decoded", files, place, cold)
    timed("later start, no file changed", files, place, cold)
    for path in files:
        path.touch()
    timed("later start, all touched: hashed again", files, place, cold)
    time.sleep(cache.CLOCK / 1e9 + 0.1)
    shutil.rmtree(place)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--folder", help="where there is space for them; default: the system's")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        files, place = pictures(Path(folder), args.files, args.side), Path(folder) / "cache"
        print(f"{args.files} files of {files[0].stat().st_size} bytes", flush=True)
        time.sleep(cache.CLOCK / 1e9 + 0.1)
        for cold in [True] * os.access(DROP, os.W_OK) + [False]:
            for _ in range(args.pairs):
                pair(files, place, cold)


if __name__ == "__main__":
    main()
