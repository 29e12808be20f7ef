#!/usr/bin/env python
"""Draw a small synthetic data set in the course's layout: a dancer or a robot arm.

The pose lab is a dancer with matching poses, the robot lab an arm that pushes objects. Row t of
actions.csv is the command given at frame t, visible in frame t + 1; row t of
endeffector_positions.csv is the position of the fingertips in frame t.

In these two worlds the conditions determine the motion. In the others the future is open:

  lamps     the dancer's room with three lamps, each of which goes on and off at random
  slippery  a puck on ice: an arm pushes it off in a random direction, at a random speed
  disc      a disc that leaves every wall in a random direction; actions and positions are 0
  digits    two handwritten digits that leave every wall at a random velocity, as in stochastic
            moving MNIST; no actions and positions: for --condition none

An open world has two more folders. events/val.csv and events/test.csv list the frames that first
show a random outcome, in rows `clip,frame`; events/entropy.json says how many nats are random in
such a frame, and in any other. futures/I.npz holds more true futures of test clip I:
`frames`, bytes (N, T, H, W, 3). Each begins with the given frames of the clip (robot 2, digits 5,
pose 1) and has its conditions, but other outcomes. T is 30 (robot) or 31 (pose).
"""

import argparse
import itertools
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import active_children, parent_process
from pathlib import Path

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
    from modules.cli.start import start

    start()

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image
from toy import dance as toy_dance
from toy import digits as toy_digits
from toy import disc as toy_disc
from toy import lamps as toy_lamps
from toy import robot as toy_robot
from toy import slippery as toy_slippery
from toy.files import write_entropy, write_events, write_futures
from tqdm import tqdm
from video.joints import write_joints
from video.skeleton import skeleton_picture

from modules.cli.entry import run
from modules.cli.parser import argparse_type
from modules.config.fields import Number
from modules.errors import UserError
from modules.files import is_new, new_folder, write_json
from modules.process.signals import STOPPING, listener

CLIP = 630  # frames of the validation take and of every test take
CHUNK = 30  # frames a worker draws at a time
AHEAD = 2  # jobs per worker that are handed out
PAUSE, END = 0.2, 10  # seconds: a signal waits so long; so long a killed worker may take to end
RECORD = 256  # robot clips in a record folder, as in the real set
FUTURE = 31  # frames of a take's futures: the given one and one second
SCENE, TRAIN, VAL, TEST, FUTURES, LAMPS = range(6)  # random streams of one seed
PARTS = {TRAIN: "train", VAL: "val", TEST: "test"}

WORLDS = {
    "pose": ("dancer", "lamps"),
    "robot": ("arm", "slippery", "disc", "digits"),
}  # default first
OPEN = {
    "lamps": 40,
    "slippery": 50,
    "disc": 50,
    "digits": 50,
}  # worlds with an open future: default --futures
OPEN_ROBOT = {"slippery": toy_slippery, "disc": toy_disc, "digits": toy_digits}

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
    return argparse_type(Number(int, low, high))


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
    worlds = [world for names in WORLDS.values() for world in names]
    text = "; ".join(f"{lab} lab: {', '.join(names)}" for lab, names in WORLDS.items())
    add("--world", choices=worlds, help=f"{text}; the first is the default")
    text = ", ".join(f"{number} for {world}" for world, number in OPEN.items())
    text = f"more futures of each test clip of an open world, default {text}"
    add("--futures", type=whole_number(1, 1000), metavar="N", help=text)
    text = "of MNIST's images, idx or npz; default scikit-learn's 1,797 scans"
    add("--digits", type=Path, metavar="FILE", help=f"--world digits: a file {text}")
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
    """Fill in the defaults of the chosen lab's and world's flags; refuse those of the others."""
    args.world = args.world or WORLDS[args.lab][0]
    for lab, worlds in WORLDS.items():
        if lab != args.lab and args.world in worlds:
            parser.error(f"--world {args.world} belongs to --lab {lab}, not to --lab {args.lab}")
    if args.futures is not None and args.world not in OPEN:
        parser.error(f"--futures belongs to an open world, not to --world {args.world}")
    if args.digits and args.world != "digits":
        parser.error(f"--digits belongs to --world digits, not to --world {args.world}")
    args.futures = args.futures or OPEN.get(args.world, 0)
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
    keypoints = {}
    for stream, length, *names in takes(args):
        folders = [root / name for name in names]
        for folder in folders:
            folder.mkdir(parents=True)
        joints, stature = toy_dance.dance(np.random.default_rng([args.seed, *stream]), length)
        part = "".join(map(str, (PARTS[stream[0]], *stream[1:])))  # train, val, test0, test1, ...
        keypoints[part] = np.array([toy_dance.keypoints(body, args.height) for body in joints])
        lit = switch(args, stream, length)[0] if args.world == "lamps" else [None] * length
        for start in range(0, length, CHUNK):
            part = slice(start, start + CHUNK)
            yield args.seed, args.height, folders, start, joints[part], stature[part], lit[part]
    write_joints(root, keypoints, (args.height, 2 * args.height), toy_dance.FPS)


def switch(args, stream, length):
    """The lamps (T, 3) of a take that are on, and the frames (T,) in which one has toggled."""
    rng = np.random.default_rng([args.seed, LAMPS, *stream])
    return toy_lamps.play(rng, toy_lamps.begin(rng), length)


@cache
def scene(seed, height, lit=None):
    """Background, its lamps if it has any, and clothes: drawn once per process."""
    if lit is None:
        return toy_dance.make_scene(np.random.default_rng([seed, SCENE]), height)
    room, clothes = scene(seed, height)
    return toy_lamps.light(room, lit), clothes


def draw_dancer(seed, height, body, size, lit):
    """The bytes (H, 2H, 3) of a frame."""
    room = scene(seed, height, lit if lit is None else tuple(lit))
    return (toy_dance.draw_frame(body, size, room) * 255 + 0.5).astype(np.uint8)


def draw_chunk(chunk):
    """Draw and write a chunk of frames with their poses; return the number of frames."""
    seed, height, (frames, poses), start, *rows = chunk
    for i, (body, size, lit) in enumerate(zip(*rows, strict=True), start):
        name = f"frame{i:06d}.png"
        save(draw_dancer(seed, height, body, size, lit), frames / name)
        keypoints = toy_dance.keypoints(body, height)
        save(skeleton_picture(keypoints, (height, 2 * height)), poses / name)
    return len(rows[0])


def save(image, path):
    """Values 0..255 -> an 8-bit PNG, truncated to integers."""
    Image.fromarray(image.astype(np.uint8)).save(path, compress_level=3)


def plan_lamps(args, root):
    """Write the events; yield the futures of each test clip to draw."""
    takes = [(TEST, i) for i in range(args.test_clips)]
    for split, streams in (("val", [(VAL,)]), ("test", takes)):
        events = [switch(args, stream, CLIP)[1] for stream in streams]
        write_events(root / f"events/{split}.csv", events)
    write_entropy(root, toy_lamps.ENTROPY)
    for i, stream in enumerate(takes):
        motion = toy_dance.dance(np.random.default_rng([args.seed, *stream]), CLIP)
        joints, stature = (rows[:FUTURE] for rows in motion)
        start = switch(args, stream, CLIP)[0][0]
        rngs = [np.random.default_rng([args.seed, FUTURES, i, k]) for k in range(args.futures)]
        lit = np.array([toy_lamps.play(rng, start, len(joints))[0] for rng in rngs])  # (N, T, 3)
        path = root / f"futures/{i}.npz"
        yield args.seed, args.height, path, joints, stature, lit.swapaxes(0, 1)


def draw_lamps(job):
    """Draw and write the futures of a test clip; return the number of frames."""
    seed, height, path, *rows = job
    frames = []
    for body, size, lit in zip(*rows, strict=True):
        kinds, which = np.unique(lit, axis=0, return_inverse=True)  # at most 8: draw each once
        drawn = [draw_dancer(seed, height, body, size, kind) for kind in kinds]
        frames.append(np.array(drawn)[which.ravel()])
    write_futures(path, np.stack(frames, 1))
    return rows[2].shape[0] * rows[2].shape[1]


def draw_dance(args, root):
    """Fill root with the pose lab's data set; return a one-line summary."""
    total = sum(length for _, length, *_ in takes(args))
    draw_all(draw_chunk, plan(args, root), total, args.workers)
    for i in range(args.test_clips):  # of a test clip only the first frame is given
        given = root / f"test/test_img/{i}"
        given.mkdir(parents=True)
        shutil.copyfile(root / f"test/test_truth/{i}/frame000000.png", given / "frame000000.png")
    if args.world == "lamps":
        number = args.test_clips * args.futures * min(FUTURE, CLIP)
        draw_all(draw_lamps, plan_lamps(args, root), number, args.workers)
    return (
        f"{total} frames and poses of {2 * args.height}x{args.height} (seed {args.seed}: "
        f"train {args.train_frames}, val {CLIP}, test {args.test_clips} x {CLIP})"
    )


# ---------------------------------------------------------------- the robot lab
def plan_clips(args, root):
    """Make the folders of all clips; yield (world, seed, digits, random stream, folder)."""
    splits = ("train", TRAIN, args.train_clips), ("validate", VAL, args.eval_clips)
    for split, stream, clips in (*splits, ("test", TEST, args.eval_clips)):
        for clip in range(clips):
            first = clip - clip % RECORD
            record = f"traj_{first}_to_{min(first + RECORD, clips) - 1}.tfrecords"
            folder = root / split / record / str(clip - first)
            folder.mkdir(parents=True)
            yield args.world, args.seed, args.digits, (stream, clip), folder


@cache
def table(world, seed, digits, train):
    """What all clips share, made once per process: table and arm, background, or the scans."""
    if world == "digits":
        return toy_digits.read_scans(digits, train)
    rng = np.random.default_rng([seed, SCENE])
    return OPEN_ROBOT.get(world, toy_robot).make_scene(rng)


def film(world, seed, digits, stream):
    """One clip: frames (T, H, W, 3); actions (T, 4) and positions (T, 3), if the world has any."""
    rng = np.random.default_rng([seed, *stream])
    scene = table(world, seed, digits, stream[0] == TRAIN)
    if world == "arm":
        actions, positions, openings, *rest = toy_robot.simulate(rng)
        arms = toy_robot.draw_arms(scene, positions, openings)
        return toy_robot.draw_clip(scene, arms, *rest), (actions, positions)
    world = OPEN_ROBOT[world]
    start = world.begin(rng)
    course, _ = world.play(rng, start)
    return world.draw(world.set_up(scene, start), course), world.tables(start)


def draw_robot_clip(job):
    """Simulate, draw and write one clip; return the number of frames."""
    *where, folder = job
    frames, tables = film(*where)
    for t, frame in enumerate(frames):
        save(frame, folder / f"{t}.png")
    for name, rows in zip(("actions", "endeffector_positions"), tables):
        np.savetxt(folder / f"{name}.csv", rows, fmt="%.4f", delimiter=",")
    return len(frames)


def plan_futures(args, root):
    """Write the events; yield the futures of each test clip to draw."""
    world, clips = OPEN_ROBOT[args.world], range(args.eval_clips)
    for split, stream in (("val", VAL), ("test", TEST)):
        rngs = [np.random.default_rng([args.seed, stream, clip]) for clip in clips]
        events = [world.play(rng, world.begin(rng))[1] for rng in rngs]
        write_events(root / f"events/{split}.csv", events)
    write_entropy(root, world.ENTROPY)
    for clip in clips:
        yield args.world, args.seed, args.digits, clip, args.futures, root / f"futures/{clip}.npz"


def draw_futures(job):
    """Simulate, draw and write the futures of a test clip; return the number of frames."""
    name, seed, digits, clip, number, path = job
    world = OPEN_ROBOT[name]
    start = world.begin(np.random.default_rng([seed, TEST, clip]))
    stage, frames = world.set_up(table(name, seed, digits, False), start), []
    for k in range(number):
        course, _ = world.play(np.random.default_rng([seed, FUTURES, clip, k]), start)
        frames.append(world.draw(stage, course))
    write_futures(path, np.array(frames))
    return number * toy_robot.LENGTH


def draw_robot(args, root):
    """Fill root with the robot lab's data set; return a one-line summary."""
    total = (args.train_clips + 2 * args.eval_clips) * toy_robot.LENGTH
    draw_all(draw_robot_clip, plan_clips(args, root), total, args.workers)
    if args.world in OPEN:
        number = args.eval_clips * args.futures * toy_robot.LENGTH
        draw_all(draw_futures, plan_futures(args, root), number, args.workers)
    return (
        f"{total} frames of {toy_robot.SIZE}x{toy_robot.SIZE} (seed {args.seed}: clips train "
        f"{args.train_clips}, validate {args.eval_clips}, test {args.eval_clips})"
    )


# ---------------------------------------------------------------- both
def begin_worker():
    """Only the main process handles signals; a worker ends when the main process has.

    Its errors are told by the main process, or by its end.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    sys.stderr = open(os.devnull, "w")
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    parent_process().join()
    os._exit(1)


def draw_all(draw, jobs, total, workers):
    """Run draw(job) in parallel; it returns its number of frames, `total` altogether."""
    jobs, pool = iter(jobs), ProcessPoolExecutor(workers, initializer=begin_worker)
    try:
        with tqdm(total=total, unit="frame", disable=None) as bar:
            waiting = hand_out(pool, draw, jobs, AHEAD * workers)
            while waiting:
                listener.check()
                done, waiting = wait(waiting, PAUSE, FIRST_COMPLETED)
                for result in done:
                    bar.update(result.result())
                waiting |= hand_out(pool, draw, jobs, len(done))
    except BrokenProcessPool:
        time.sleep(PAUSE)  # a signal to all of the processes has killed the worker first
        listener.check()
        raise UserError(
            "a worker process was killed, nothing was written; is memory short? Try fewer --workers"
        ) from None
    finally:
        end_workers()
        pool.shutdown(cancel_futures=True)


def hand_out(pool, draw, jobs, number):
    return {pool.submit(draw, job) for job in itertools.islice(jobs, number)}


def end_workers():
    """At once: one that waits for a killed one's lock would wait for ever."""
    workers = active_children()
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(END)


def write_safely(args):
    """Draw into a folder beside OUT and rename it at the end: OUT is complete or absent."""
    with new_folder(args.out) as partial:
        contents = (draw_robot if args.lab == "robot" else draw_dance)(args, partial)
        write_json(partial / "about.json", {"world": args.world})
        listener.check()
    listener.asked = None  # too late: all is written
    return contents


def main():
    args, start = parse_arguments(), time.perf_counter()
    if not is_new(args.out):
        print(f"error: {args.out} exists and is not an empty folder", file=sys.stderr)
        sys.exit(2)
    try:
        with listener.patiently(all_wait=True):  # no signal interrupts the pool, or its end
            contents = write_safely(args)
    except OSError as error:
        raise UserError(f"cannot write {args.out}: {error}") from None
    more = f" and {args.futures} futures of each test clip" if args.futures else ""
    print(f"{contents}{more} written to {args.out} in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    run(main, "reduce --workers or --height")
