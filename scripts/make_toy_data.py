#!/usr/bin/env python
"""Draw a small pose lab: a dancer made of numbers, in the folders and names of the course."""

import argparse
import os
import shutil
import signal
import sys
import time
from functools import cache
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

# Straight from its folder: the package's own __init__ would load torch, which drawing never needs.
sys.path.append(str(Path(__file__).resolve().parent.parent / "modules"))
import toy_dance  # noqa: E402

CLIP = 630  # frames of the validation take and of every test take
CHUNK = 30  # frames a worker draws at a time
SCENE, TRAIN, VAL, TEST = range(4)  # streams of random numbers that one seed feeds


def whole_number(low, high):
    """An argparse type: a whole number in low..high."""

    def parse(text):
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number {low}..{high}, got {text!r}")
        return int(text)

    return parse


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", metavar="OUT", type=Path, help="new or empty folder to fill")
    add = parser.add_argument
    add("--seed", type=whole_number(0, 2**32 - 1), default=0, help="dance, clothes and room")
    add("--train_frames", type=whole_number(2, 100_000), default=1260)
    add("--test_clips", type=whole_number(1, 1000), default=2)
    add("--height", type=whole_number(32, 2048), default=128, help="width is twice the height")
    cores = min(os.cpu_count() or 1, 64)
    add("--workers", type=whole_number(1, 64), default=cores, help="processes, default all cores")
    return parser.parse_args(argv)


def takes(args):
    """Every take of the data set: (random stream, length, frame folder, pose folder)."""
    yield (TRAIN,), args.train_frames, "train/train_img", "train/train_label"
    yield (VAL,), CLIP, "val/val_img", "val/val_label"
    for i in range(args.test_clips):
        yield (TEST, i), CLIP, f"test/test_truth/{i}", f"test/test_label/{i}"


def plan(args, root):
    """Choreograph all takes, make their folders; yield chunks of pictures to draw."""
    for stream, length, *names in takes(args):
        folders = [root / name for name in names]
        for folder in folders:
            folder.mkdir(parents=True)
        joints, stature = toy_dance.dance(np.random.default_rng([args.seed, *stream]), length)
        for start in range(0, length, CHUNK):
            part = slice(start, start + CHUNK)
            yield args.seed, args.height, folders, start, joints[part], stature[part]


@cache
def scene(seed, height):
    """Room and clothes, drawn once per process."""
    return toy_dance.make_scene(np.random.default_rng([seed, SCENE]), height)


def draw_chunk(chunk):
    """Draw and write some consecutive frames with their poses; return how many."""
    seed, height, (frames, poses), start, joints, stature = chunk
    for i, (body, size) in enumerate(zip(joints, stature, strict=True), start):
        save(toy_dance.draw_frame(body, size, scene(seed, height)), frames, i)
        save(toy_dance.draw_skeleton(body, height), poses, i)
    return len(joints)


def save(picture, folder, number):
    """Floats 0..1 -> an 8-bit PNG, numbered as in the course."""
    pixels = (picture * 255 + 0.5).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"frame{number:06d}.png", compress_level=3)


def ignore_interrupt():
    """Ctrl-C is for the main process, which then stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def draw_all(args, root):
    """Fill root with the whole data set; return its number of frames."""
    total = sum(length for _, length, *_ in takes(args))
    with (
        Pool(args.workers, ignore_interrupt) as pool,
        tqdm(total=total, unit="frame", disable=None) as bar,
    ):
        for drawn in pool.imap_unordered(draw_chunk, plan(args, root)):
            bar.update(drawn)
    for i in range(args.test_clips):  # a test clip gives away its first frame only
        given = root / f"test/test_img/{i}"
        given.mkdir(parents=True)
        shutil.copyfile(root / f"test/test_truth/{i}/frame000000.png", given / "frame000000.png")
    return total


def write_safely(args):
    """Draw into a folder beside OUT and rename it at the end, so OUT is whole or absent."""
    out = args.out.absolute()
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        total = draw_all(args, partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return total


def main():
    args, start = parse_arguments(), time.perf_counter()
    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        sys.exit(fail(2, f"{args.out} exists and is not an empty folder"))
    try:
        total = write_safely(args)
    except OSError as error:
        sys.exit(fail(1, f"cannot write {args.out}: {error}"))
    except KeyboardInterrupt:
        sys.exit(fail(130, "interrupted, nothing was written"))
    print(
        f"{total} frames and poses of {2 * args.height}x{args.height} (seed {args.seed}: "
        f"train {args.train_frames}, val {CLIP}, test {args.test_clips} x {CLIP}) "
        f"written to {args.out} in {time.perf_counter() - start:.0f} s"
    )


def fail(code, message):
    """Say in one line what went wrong; return the exit code."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
