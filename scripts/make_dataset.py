#!/usr/bin/env python
"""Make a data set in the lab's layout from a video of one person: film, convert, train.

    python scripts/make_dataset.py my_video.mp4 data/me
    DR=data/me bash scripts/train_best.sh runs/me

SOURCE is anything that ffmpeg reads, a gif, or a folder of pictures. The pose of the person is
estimated in every frame and drawn in OpenPose's colours. The first frames are for training, the
next for validation, the last are the test clip. quality.html shows what to look at before training.
Needs: pip install imageio-ffmpeg mediapipe==0.10.21 (Python 3.10 to 3.12). See docs/own_video.md.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
    from modules.cli.start import start

    start()

from tqdm import tqdm
from video import build
from video.estimator import BlazePose
from video.quality import train_command, verdict_of, warnings_of, write_quality_page
from video.source import Part, open_video

from modules.cli.entry import run
from modules.cli.parser import argparse_type
from modules.config.fields import Number
from modules.errors import UserError
from modules.files import is_new, new_folder, write_json

SECONDS = Number(float, 0)


def parse_arguments(argv=None):
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=about)
    add = parser.add_argument
    add("source", metavar="SOURCE", type=Path, help="video, gif or folder of pictures")
    add("out", metavar="OUT", type=Path, help="new or empty folder to fill")
    seconds = {"type": argparse_type(SECONDS), "metavar": "S"}
    add("--start", **seconds, default=0.0, help="begin at this second (0)")
    add("--end", **seconds, help="end at this second (the end)")
    rate = argparse_type(Number(float, 0, 1000, above=True))
    add("--fps", type=rate, metavar="N", help="frames per second (those of the video, at most 30)")
    pixels = argparse_type(Number(int, 0, 100_000))
    add(
        "--crop",
        type=pixels,
        nargs=4,
        metavar=("LEFT", "TOP", "WIDTH", "HEIGHT"),
        help="look only at this part of the video, in its pixels (all)",
    )
    add("--whole", action="store_true", help="keep the whole of it: no window around the poses")
    size = argparse_type(Number(int, 32, 1024))
    add("--height", type=size, default=128, metavar="N", help="of the pictures (128)")
    text = "of the pictures (twice the height, as in the lab)"
    add("--width", type=size, metavar="N", help=text)
    frames = {"type": argparse_type(Number(int, 2, 100_000)), "metavar": "N"}
    share = f"an eighth, at most {build.MAX_HELD_OUT}"
    add("--val_frames", **frames, help=f"frames to validate on ({share})")
    add("--test_frames", **frames, help=f"frames of the test clip ({share})")
    text = f"interpolate keypoints missing for so long ({build.MAX_GAP})"
    add("--gap", **seconds, default=build.MAX_GAP, help=text)
    deviation = argparse_type(Number(float, 0, 100))
    text = "smooth keypoints over time: standard deviation of a Gaussian, in frames (1; 0: none)"
    add("--smooth", type=deviation, default=1.0, metavar="FRAMES", help=text)
    args = parser.parse_args(argv)
    if args.end is not None and args.end <= args.start:
        parser.error(f"--end {args.end:g} is not after --start {args.start:g}")
    if args.crop and min(args.crop[2:]) < 16:
        parser.error("--crop: WIDTH and HEIGHT must be at least 16")
    return args


def bar(label, total):
    """What shows the progress of an iterator of frames."""
    return lambda frames: tqdm(frames, label, total or None, unit="frame", disable=None)


def make(args, root, estimator):
    """Fill the folder `root`; -> the facts of the data set."""
    reading = max(720, args.height)
    part = Part(args.start, args.end, args.fps, args.crop and tuple(args.crop), reading)
    video = open_video(args.source, part)
    track = build.follow(video, estimator, args.gap, args.smooth, bar("poses", video.expected))
    refuse_two(track, args.source)
    size = args.height, args.width or 2 * args.height
    plan = build.make_plan(track, video, size, args.whole, args.val_frames, args.test_frames)
    number = len(track.kept)
    written = build.write_data_set(video, plan, track, root, bar("pictures", number))
    facts = build.quality_facts(track, plan, written, video)
    samples = {n: (x, build.sample_joints(plan, n)) for n, x in written.samples.items()}
    curves = {
        ("Motion of the pose", "heights per frame"): build.motion(track).tolist(),
        ("Confidence", "mean of the keypoints"): track.found[..., 2].mean(1).tolist(),
    }
    write_json(root / "quality.json", facts)
    write_json(root / "about.json", {"video": args.source.name})
    write_quality_page(root / "quality.html", facts, samples, curves, args.out)
    return facts


def refuse_two(track, source):
    """An error where a second person is in most of the frames: poses would jump between them."""
    if track.others > track.looked / 2:
        raise UserError(
            f"{source} shows two persons in {track.others} of the {track.looked} frames looked at; "
            "leave one in the picture with --crop LEFT TOP WIDTH HEIGHT, or name a part with "
            "--start and --end"
        )


def main(open_estimator=BlazePose):
    args, start = parse_arguments(), time.perf_counter()
    if not is_new(args.out):
        raise UserError(f"{args.out} exists and is not an empty folder")
    try:
        with new_folder(args.out) as partial:
            facts = make(args, partial, open_estimator())
    except OSError as error:
        raise UserError(f"cannot write {args.out}: {error.strerror or error}") from None
    for text in warnings_of(facts):
        print(f"warning: {text}")
    height, width = facts["size"]
    parts = ", ".join(f"{part.removesuffix('0')} {n}" for part, n in facts["parts"].items())
    print(
        f"{sum(facts['parts'].values())} frames and poses of {width}x{height} ({parts}) written "
        f"to {args.out} in {time.perf_counter() - start:.0f} s"
    )
    print(f"{verdict_of(facts)}; look at  {args.out / 'quality.html'}")
    print("next:")
    print(f"  {train_command(facts, args.out)}")
    run_folder = shlex.quote(f"runs/{args.out.name}")
    poses = shlex.quote(str(args.out))
    print(f"  python scripts/transfer.py --ckpt_path {run_folder}/best_score.ckpt --poses {poses}")


if __name__ == "__main__":
    run(main, "reduce --height")
