"""What keys by content cost, in seconds of wall clock and CPU; pairs with and without the hash.

python tests/cache_cost.py --files 1000
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from unittest import mock

import helpers  # noqa: F401  (the package is found through it)
import numpy as np
from PIL import Image

from modules.data import cache

PAIRS, SIDE = 3, 260  # noise of 260 x 260 pixels is a file of 203 kB


def pictures(folder, count):
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    for i in range(count):
        image[0, 0] = i % 256, i // 256, 0
        Image.fromarray(image).save(folder / f"frame{i:06d}.png", compress_level=1)
    return sorted(folder.glob("*.png"))


def timed(what, files, place):
    wall, cpu = time.perf_counter(), time.process_time()
    cache.cached_images(files, (32, 64), place, "train-frames", 4)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:42} {wall:8.2f} s {cpu:8.2f} s CPU", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1000)
    count = parser.parse_args().files
    with tempfile.TemporaryDirectory() as folder:
        files, place = pictures(Path(folder), count), Path(folder) / "cache"
        print(f"{count} files of {files[0].stat().st_size} bytes")
        time.sleep(cache.CLOCK / 1e9 + 0.1)
        for _ in range(PAIRS):
            with mock.patch.object(cache, "hash_files", lambda *_: "none"):
                timed("first start, files not hashed", files, place)
            shutil.rmtree(place)
            timed("first start, hashed and decoded", files, place)
            timed("later start, no file changed", files, place)
            for path in files:
                path.touch()
            timed("later start, all touched: hashed again", files, place)
            time.sleep(cache.CLOCK / 1e9 + 0.1)
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
