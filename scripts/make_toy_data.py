#!/usr/bin/env python
"""Draw a small synthetic data set in the course's layout: a dancer or a robot arm.

The pose lab is a dancer with matching poses, the robot lab an arm that pushes objects. Row t of
actions.csv is the command given at frame t, visible in frame t + 1; row t of
endeffector_positions.csv is the position of the fingertips in frame t.
"""

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
from toy import dance as toy_dance
from toy import robot as toy_robot
from tqdm import tqdm

CLIP = 630  # frames of the validation take and of every test take
CHUNK = 30  # frames a worker draws at a time
RECORD = 256  # robot clips in a record folder, as in the real set
SCENE, TRAIN, VAL, TEST = range(4)  # random streams of one seed

# Flags of one lab only: lowest, highest and default value, help.
FLAGS = {
    "pose": {
        "train_frames": (2, 100_000, 1260, "length of the training take"),
        "test_clips": (1, 1000, 2, f"test takes of {CLIP} frames"),
        "height": (32, 2048, 128, "width is twice the height"),
    },
    "robot": {
        "train_clips": (1, 100_000, 512, f"training clips of {toy_robot.LENGTH} frames"),
        "eval_clips": (1, 10_000, 32, "clips to validate with and as many to test with"),
    },
}


def whole_number(low, high):
    """An argparse type: a whole number in low..high."""

    def parse(text):
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number {low}..{high}, got {text!r}")
        return int(text)

    return parse


def parse_arguments(argv=None):
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=about)
    parser.add_argument("out", metavar="OUT", type=Path, help="new or empty folder to fill")
    add = parser.add_argument
    add(
        "--lab",
        choices=FLAGS,
        default="pose",
        help="a dancer (pose, the default) or an arm (robot)",
    )
    add("--seed", type=whole_number(0, 2**32 - 1), default=0, help="motion, colours and place")
    cores = min(os.cpu_count() or 1, 64)
    add("--workers", type=whole_number(1, 64), default=cores, help="processes, default all cores")
    for lab, flags in FLAGS.items():
        group = parser.add_argument_group(f"{lab} lab")
        for name, (low, high, default, text) in flags.items():
            text = f"{text}, default {default}"
            group.add_argument(f"--{name}", type=whole_number(low, high), help=text)
    return settle_flags(parser, parser.parse_args(argv))


def settle_flags(parser, args):
    """Fill in the defaults of the chosen lab's flags; refuse flags of the other lab."""
    for lab, flags in FLAGS.items():
        for name, (_, _, default, _) in flags.items():
            if lab != args.lab and getattr(args, name) is not None:
                parser.error(f"--{name} belongs to --lab {lab}, not to --lab {args.lab}")
            if lab == args.lab and getattr(args, name) is None:
                setattr(args, name, default)
    return args


# ---------------------------------------------------------------- the pose lab
def takes(args):
    """Yield (random stream, length, frame folder, pose folder) of every take."""
    yield (TRAIN,), args.train_frames, "train/train_img", "train/train_label"
    yield (VAL,), CLIP, "val/val_img", "val/val_label"
    for i in range(args.test_clips):
        yield (TEST, i), CLIP, f"test/test_truth/{i}", f"test/test_label/{i}"


def plan(args, root):
    """Generate the motion of all takes, make their folders; yield chunks of frames to draw."""
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
    """Background and clothes, drawn once per process."""
    return toy_dance.make_scene(np.random.default_rng([seed, SCENE]), height)


def draw_chunk(chunk):
    """Draw and write a chunk of frames with their poses; return the number of frames."""
    seed, height, (frames, poses), start, joints, stature = chunk
    for i, (body, size) in enumerate(zip(joints, stature, strict=True), start):
        name = f"frame{i:06d}.png"
        save(toy_dance.draw_frame(body, size, scene(seed, height)) * 255 + 0.5, frames / name)
        save(toy_dance.draw_skeleton(body, height) * 255 + 0.5, poses / name)
    return len(joints)


def save(image, path):
    """Values 0..255 -> an 8-bit PNG, truncated to integers."""
    Image.fromarray(image.astype(np.uint8)).save(path, compress_level=3)


def draw_dance(args, root):
    """Fill root with the pose lab's data set; return a one-line summary."""
    total = sum(length for _, length, *_ in takes(args))
    draw_all(draw_chunk, plan(args, root), total, args.workers)
    for i in range(args.test_clips):  # of a test clip only the first frame is given
        given = root / f"test/test_img/{i}"
        given.mkdir(parents=True)
        shutil.copyfile(root / f"test/test_truth/{i}/frame000000.png", given / "frame000000.png")
    return (
        f"{total} frames and poses of {2 * args.height}x{args.height} (seed {args.seed}: "
        f"train {args.train_frames}, val {CLIP}, test {args.test_clips} x {CLIP})"
    )


# ---------------------------------------------------------------- the robot lab
def plan_clips(args, root):
    """Make the folders of all clips; yield (seed, random stream, folder)."""
    splits = ("train", TRAIN, args.train_clips), ("validate", VAL, args.eval_clips)
    for split, stream, clips in (*splits, ("test", TEST, args.eval_clips)):
        for clip in range(clips):
            first = clip - clip % RECORD
            record = f"traj_{first}_to_{min(first + RECORD, clips) - 1}.tfrecords"
            folder = root / split / record / str(clip - first)
            folder.mkdir(parents=True)
            yield args.seed, (stream, clip), folder


@cache
def table(seed):
    """Table and arm, drawn once per process."""
    return toy_robot.make_scene(np.random.default_rng([seed, SCENE]))


def draw_robot_clip(job):
    """Simulate, draw and write one clip; return the number of frames."""
    seed, stream, folder = job
    actions, positions, *rest = toy_robot.simulate(np.random.default_rng([seed, *stream]))
    for t, frame in enumerate(toy_robot.draw_clip(table(seed), positions, *rest)):
        save(frame, folder / f"{t}.png")
    for name, rows in (("actions", actions), ("endeffector_positions", positions)):
        np.savetxt(folder / f"{name}.csv", rows, fmt="%.4f", delimiter=",")
    return len(positions)


def draw_robot(args, root):
    """Fill root with the robot lab's data set; return a one-line summary."""
    total = (args.train_clips + 2 * args.eval_clips) * toy_robot.LENGTH
    draw_all(draw_robot_clip, plan_clips(args, root), total, args.workers)
    return (
        f"{total} frames of {toy_robot.SIZE}x{toy_robot.SIZE} (seed {args.seed}: clips train "
        f"{args.train_clips}, validate {args.eval_clips}, test {args.eval_clips})"
    )


# ---------------------------------------------------------------- both
def ignore_interrupt():
    """Only the main process handles Ctrl-C; it then stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def draw_all(draw, jobs, total, workers):
    """Run draw(job) in parallel; it returns its number of frames, `total` altogether."""
    with (
        Pool(workers, ignore_interrupt) as pool,
        tqdm(total=total, unit="frame", disable=None) as bar,
    ):
        for drawn in pool.imap_unordered(draw, jobs):
            bar.update(drawn)


def write_safely(args):
    """Draw into a folder beside OUT and rename it at the end: OUT is complete or absent."""
    out = args.out.absolute()
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        contents = (draw_robot if args.lab == "robot" else draw_dance)(args, partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return contents


def main():
    args, start = parse_arguments(), time.perf_counter()
    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        sys.exit(fail(2, f"{args.out} exists and is not an empty folder"))
    try:
        contents = write_safely(args)
    except OSError as error:
        sys.exit(fail(1, f"cannot write {args.out}: {error}"))
    except KeyboardInterrupt:
        sys.exit(fail(130, "interrupted, nothing was written"))
    print(f"{contents} written to {args.out} in {time.perf_counter() - start:.0f} s")


def fail(code, message):
    """Print the error in one line; return the exit code."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
