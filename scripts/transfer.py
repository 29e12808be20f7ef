#!/usr/bin/env python
"""Let the person of a trained run move as another one: pose transfer.

    python scripts/transfer.py --ckpt_path runs/me/best_score.ckpt --poses data/friend

The poses of another data set (of scripts/make_dataset.py, or drawn by scripts/make_toy_data.py) are
brought to the size and place of the person that the run was trained on, and drawn. The rollout
starts from the training frame whose pose is nearest to the first of them; all frames of the result
are predicted. Written: transfer.html, on which both persons play in step; transfer.gif and
transfer.mp4 (pose, result); transfer_strip.png.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
    from modules.cli.start import start

    start()

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from video.joints import has_pose, place_like, read_joints
from video.skeleton import SEEN, skeleton_picture

from modules.checkpoints import checkpoint as ckpt
from modules.cli.entry import run
from modules.cli.parser import argparse_type
from modules.config import Compute
from modules.config.fields import Number, device_name
from modules.data.cache import decode, resize, to_float
from modules.data.folders import find_root, list_images
from modules.errors import UserError
from modules.models.loading import load_model
from modules.models.pose import VAE_Model
from modules.models.rollout import roll_out
from modules.report import clips, page, pictures
from modules.report.boundary import drawing
from modules.runs.folder import run_folder
from modules.training.device import choose_device

STRIP_FRAMES = 8
ZOOM = 4  # pixels of the gif for one of the rollout


def parse_arguments(argv=None):
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=about)
    add, number = parser.add_argument, argparse_type(Number(int, 0, 1_000_000))
    add("--ckpt_path", required=True, metavar="FILE", help="the run's best_score.ckpt")
    add("--poses", required=True, metavar="DIR", help="data set whose poses are danced")
    add("--DR", metavar="DIR", help="data set of the run (the one it was trained on)")
    add("--part", default="test0", help="of --poses: train, val, test0, test1, ... (test0)")
    add("--start", type=number, default=0, metavar="N", help="its first frame to use (0)")
    frames = argparse_type(Number(int, 2, 1_000_000))
    add(
        "--frames",
        type=frames,
        metavar="N",
        help="length of the rollout, any: forth and back (all)",
    )
    add("--save_root", type=Path, metavar="DIR", help="where to write (folder of the checkpoint)")
    device = argparse_type(device_name)
    add("--device", type=device, help="cpu, cuda, cuda:1, ... (a GPU where there is one)")
    return parser.parse_args(argv)


def data_set_of(args):
    """The person's data set: as typed, or as the run was trained on."""
    root = args.DR or ckpt.load(args.ckpt_path).get("args", {}).get("DR")
    if not root:
        raise UserError(f"{args.ckpt_path} does not say what it was trained on: name it with --DR")
    return root


def poses_to_dance(args, person):
    """The keypoints (T, 18, 3) of the source, placed like the person; the numbers of its frames."""
    source = read_joints(args.poses, "--poses")
    if args.part not in source.parts:
        raise UserError(f"--part {args.part}: {args.poses} has {', '.join(source.parts)}")
    scale = (person.size[0] / source.size[0],) * 2
    joints = source.parts[args.part] * (*scale, 1)
    placed = place_like(joints, person.parts["train"], (source.fps, person.fps))
    placed = placed[args.start :]
    if len(placed) < 2:
        raise UserError(
            f"--start {args.start}: {args.poses} has {len(joints)} poses in {args.part}, and a "
            "rollout needs two"
        )
    numbers = forth_and_back(len(placed), args.frames or len(placed))
    return placed[numbers], args.start + numbers, source.fps


def forth_and_back(length, frames):
    """The numbers (frames,) of `length` poses, played forwards, then backwards, and so on."""
    t = np.arange(frames) % (2 * length - 2)
    return np.minimum(t, 2 * length - 2 - t)


def frames_of_source(args, numbers, size):
    """The frames (T, H, W, 3) of --poses with these numbers; None if the data set lacks them."""
    split = args.part.rstrip("0123456789")
    places = {"test": f"test/test_truth/{args.part.removeprefix('test')}"}
    folder = find_root(args.poses, split) / places.get(split, f"{split}/{split}_img")
    files = list_images(folder) if folder.is_dir() else []
    return (
        np.stack([decode(files[n], size) for n in numbers]) if len(files) > max(numbers) else None
    )


def nearest_frame(joints, pose):
    """The number of the pose of (N, 18, 3) that is nearest to (18, 3)."""
    seen = (joints[..., 2] >= SEEN) & (pose[:, 2] >= SEEN)
    away = np.linalg.norm(joints[..., :2] - pose[:, :2], axis=-1)
    mean = np.where(seen, away, 0).sum(1) / np.maximum(seen.sum(1), 1)
    return int(np.where(has_pose(joints) & (seen.sum(1) > 0), mean, np.inf).argmin())


def draw_poses(joints, drawn, size):
    """Keypoints (T, 18, 3) -> pose images (T, 3, H, W), drawn and resized as the data set's are."""
    poses = np.empty((len(joints), *size, 3), np.uint8)
    for t, pose in enumerate(tqdm(joints, "poses", disable=None, leave=False)):
        poses[t] = resize(Image.fromarray(skeleton_picture(pose, drawn)), size)
    return to_float(torch.from_numpy(poses))


@torch.inference_mode()
def transfer(args):
    """-> uint8 (T, H, W, 3) of the other person (or None), pose and result; frames per second."""
    device = choose_device(Compute(device=args.device))
    model, root = load_model(args.ckpt_path, device), data_set_of(args)
    if not isinstance(model, VAE_Model):
        raise UserError(f"{args.ckpt_path} is of the robot lab: there is no pose to transfer")
    person = read_joints(root, "--DR")
    if "train" not in person.parts:
        raise UserError(f"--DR {root}: joints.npz has no part train")
    joints, numbers, fps = poses_to_dance(args, person)
    frames = list_images(find_root(root, "train") / "train" / "train_img")
    if len(frames) != len(person.parts["train"]):
        raise UserError(f"{root}: {len(frames)} training frames, but joints.npz has others")
    size = model.settings.frame_H, model.settings.frame_W
    first = decode(frames[nearest_frame(person.parts["train"], joints[0])], size)
    poses = draw_poses(joints, person.size, size)
    given = to_float(torch.tensor(first))[None, None]

    conditions = torch.cat([poses[:1], poses])[None]  # of the given frame, then of all predicted

    def progress(frames):
        return tqdm(frames, "rollout", conditions.shape[1], disable=None, leave=False)

    result = roll_out(model, given, conditions, progress=progress)[0, 1:]
    source = frames_of_source(args, numbers, size)
    return source, pictures.to_uint8(poses), pictures.to_uint8(result), fps


@drawing
def write_page(path, title, frames, fps):
    """{label: uint8 (T, H, W, 3)}, played in step."""
    size = next(iter(frames.values())).shape[:3]
    clip = {"title": title, "size": size, "length": size[0], "given": 0, "psnr": {}}
    clip |= {"fps": fps, "frame_ms": 1000 / fps}
    shown, tracks = page.Page("Pose transfer"), {k: clips.pack(x) for k, x in frames.items()}
    page.add_clip(shown, {"": clip | {"tracks": tracks}})
    shown.add("Both persons in step", page.player, shown, "")
    shown.write(path)


def write_files(folder, source, pose, result, fps, title):
    """-> the names of what was written."""
    both, duration = pictures.side_by_side(pose, result, scale=ZOOM), round(1000 / fps)
    persons = {"the other person": source, "pose": pose, "your person": result}
    persons = {label: frames for label, frames in persons.items() if frames is not None}
    write_page(folder / "transfer.html", title, persons, fps)
    pictures.write_gif(folder / "transfer.gif", both, duration)
    rows, times = {"pose": pose, "result": result}, pictures.spread(len(pose), STRIP_FRAMES)
    pictures.draw_strip(folder / "transfer_strip.png", rows, times)
    names = ["transfer.html", "transfer.gif", "transfer_strip.png"]
    try:
        pictures.find_mp4_writer()
    except UserError:
        print("no transfer.mp4: pip install imageio-ffmpeg")
        return names
    pictures.write_mp4(folder / "transfer.mp4", both, 1000 / fps)
    return [*names, "transfer.mp4"]


def main():
    args = parse_arguments()
    source, pose, result, fps = transfer(args)
    folder = run_folder(args.save_root or Path(args.ckpt_path).parent)
    title = f"{args.part} of {Path(args.poses).name}"
    names = write_files(folder, source, pose, result, fps, title)
    print(f"{len(result)} frames written to {folder}: {', '.join(names)}")
    print(f"look at  {folder / 'transfer.html'}")


if __name__ == "__main__":
    run(main, "reduce --frames")
