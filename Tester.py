"""Roll a checkpoint out over every test clip: gifs, film strips, submission.csv and scores.

python Tester.py --DR DATASET --save_root RUN_FOLDER --ckpt_path RUN_FOLDER/best_score.ckpt
"""

import json

import numpy as np
import torch
from tqdm import tqdm

from dataloader import find_root, load_test_clips, load_truth
from modules import checkpoint as ckpt
from modules import report
from modules.device import choose_device
from modules.metrics import AVERAGES, frame_psnr, score_clip, score_clips
from modules.models import VAE_Model, roll_out
from modules.options import UserError, parse, run, run_folder

# Flags of training are accepted for old command lines; these are the ones that count here.
USED = set(
    """DR save_root ckpt_path batch_size seed device gpu precision num_workers test make_gif
    no_sanity truth pose_norm val_vi_len frame_H frame_W F_dim L_dim N_dim D_out_dim sigmoid
    posterior z_source cache_dir""".split()
)


class Tester:
    """A model from a checkpoint, the test clips, and what is written of their rollouts."""

    def __init__(self, args, typed, device):
        self.args, self.device, self.folder = args, device, run_folder(args.save_root)
        checkpoint = ckpt.load(args.ckpt_path)
        ckpt.adopt_settings(args, typed, checkpoint)
        self.model = VAE_Model(args).to(device)
        ckpt.load_weights(self.model, checkpoint["state_dict"], args.ckpt_path)
        self.describe(checkpoint)
        size = (args.frame_H, args.frame_W)
        clips = load_test_clips(args.DR, size, args.cache_dir, args.num_workers)
        self.length = args.val_vi_len if "val_vi_len" in typed else None
        self.given, self.poses = [g for g, _ in clips], [p[: self.length] for _, p in clips]
        self.batch_size = args.batch_size if "batch_size" in typed else len(clips)
        self.truth = self.find_truth(size)

    def describe(self, checkpoint):
        ours = ckpt.is_ours(checkpoint)
        per_image = ckpt.choose_pose_norm(self.model, checkpoint, self.args.pose_norm)
        print(
            f"checkpoint: {self.args.ckpt_path} ({'ours' if ours else 'from the course'}; "
            f"pose statistics {'per image' if per_image else 'as learned'}; "
            f"sigmoid {'on' if self.args.sigmoid else 'off'})"
        )

    def find_truth(self, size):
        path = self.args.truth or find_root(self.args.DR, "test") / "test" / "test_truth"
        if not self.args.truth and not path.is_dir():
            return None
        return load_truth(path, size, [len(p) for p in self.poses], cut=self.length)

    def rollout(self):
        """-> one (T, 3, H, W) per test clip. Clips run together, short ones are padded."""
        predictions = []
        for first in range(0, len(self.given), self.batch_size):
            numbers = range(first, min(first + self.batch_size, len(self.given)))
            longest = max(len(self.poses[i]) for i in numbers)
            poses = torch.stack([pad(self.poses[i], longest) for i in numbers])
            given = torch.stack([self.given[i] for i in numbers])[:, None].to(self.device)

            def progress(frames, total=longest, label=f"clips {numbers[0]}-{numbers[-1]}"):
                return tqdm(frames, label, total, disable=None, leave=False)

            out = roll_out(self.model, given, poses, self.args, numbers, progress)
            predictions += [frames[: len(self.poses[i])] for i, frames in zip(numbers, out)]
        return predictions

    # ------------------------------------------------------------ what is written

    def write_clip(self, i, pred):
        """pred_seq{i}.gif, strip{i}.png and, where asked for, the three gifs of seq{i}/."""
        clips = {"pose": report.to_uint8(self.poses[i]), "prediction": pred}
        if self.truth is not None:
            clips["truth"] = report.to_uint8(self.truth[i])
        report.write_gif(self.folder / f"pred_seq{i}.gif", pred)
        report.draw_strip(self.folder / f"strip{i}.png", clips)
        if self.args.make_gif:
            folder = run_folder(self.folder / f"seq{i}")
            for name, clip in zip(("pose", "pred_seq", "ground_truth"), clips.values()):
                report.write_gif(folder / f"{name}.gif", clip)

    def write_submission(self, clips):
        """uint8 clips (T, H, W, 3) -> a row a frame: its id and its C*H*W values."""
        rows = np.concatenate([clip.transpose(0, 3, 1, 2).reshape(len(clip), -1) for clip in clips])
        digits = [str(value) for value in range(256)]

        def write(file):
            file.write(",".join(["id", *map(str, range(rows.shape[1]))]).encode() + b"\n")
            for i, row in enumerate(tqdm(rows, "submission.csv", disable=None, leave=False)):
                file.write(f"{i},{','.join([digits[v] for v in row])}\n".encode())

        ckpt.write_atomically(self.folder / "submission.csv", write)

    def write_scores(self, predictions):
        """scores.json, psnr_per_frame.png and a printed table, where the truth is known."""
        if self.truth is None:
            print("no true frames given (--truth), so nothing is scored")
            return
        clips = [score_clip(p, t) for p, t in zip(predictions, self.truth)]
        scores = {"clips": clips, "mean": score_clips(clips), "averages": AVERAGES}
        text = json.dumps(scores, indent=1)
        ckpt.write_atomically(self.folder / "scores.json", lambda file: file.write(text.encode()))
        self.draw_psnr(predictions)
        print_scores(scores)

    def draw_psnr(self, predictions):
        curves = {}
        for i, (pred, true) in enumerate(zip(predictions, self.truth)):
            curves[f"clip {i}"] = frame_psnr(pred, true)[1:].tolist()
            curves[f"{report.COPIED}, clip {i}"] = frame_psnr(true[:1], true)[1:].tolist()
        report.draw_psnr_per_frame(self.folder / "psnr_per_frame.png", curves)

    def check(self, clips):
        """Read the files back: they must hold the frames, and play their full time."""
        with open(self.folder / "submission.csv", "rb") as file:
            next(file)
            for frame in np.concatenate(clips):
                values = np.array(next(file).split(b",")[1:], dtype=np.uint8)
                if not np.array_equal(values, frame.transpose(2, 0, 1).ravel()):
                    raise UserError(f"{file.name} is not what was written; is the disk sound?")
        for i, clip in enumerate(clips):
            path = self.folder / f"pred_seq{i}.gif"
            times = report.gif_frame_times(path)
            if times != len(clip):
                raise UserError(f"{path} plays {times} frame times instead of {len(clip)}")

    def test(self):
        predictions = self.rollout()
        clips = [report.to_uint8(p) for p in predictions]
        for i, clip in enumerate(clips):
            self.write_clip(i, clip)
        self.write_submission(clips)
        self.write_scores(predictions)
        if not self.args.no_sanity:
            self.check(clips)
        scored = "" if self.truth is None else ", scores.json, psnr_per_frame.png"
        print(f"{len(clips)} clips rolled out; written to {self.folder}:")
        print(f"  pred_seq*.gif, strip*.png, submission.csv{scored}")


def pad(poses, length):
    """Repeat the last pose until there are `length`."""
    return torch.cat([poses, poses[-1:].expand(length - len(poses), -1, -1, -1)])


COLUMNS = {  # printed heading -> key of a score
    "mean 1..T-1": "psnr",
    "2023 tester": "psnr_2023_tester",
    "competition": "psnr_competition",
    "lowest": "psnr_min",
    "1st repeated": "psnr_first_frame_repeated",
    "SSIM": "ssim",
}


def print_scores(scores):
    clips = {f"clip {i}": clip for i, clip in enumerate(scores["clips"])}
    print(f"{'PSNR (dB)':<10}" + "".join(f"{heading:>14}" for heading in COLUMNS))
    for name, values in (clips | {"mean": scores["mean"]}).items():
        print(f"{name:<10}" + "".join(f"{values[key]:>14.3f}" for key in COLUMNS.values()))
    gain = scores["mean"]["psnr"] - scores["mean"]["psnr_first_frame_repeated"]
    print(f"{gain:+.2f} dB over repeating the first frame")
    for name, value in scores["mean"]["psnr_competition_groups"].items():
        print(f"competition, {name}: {value:.3f}")
    for heading, key in COLUMNS.items():
        if key in AVERAGES:
            print(f"  {heading}: {AVERAGES[key]}")


def main():
    args, typed = parse("Tester")
    unused = sorted(typed - USED)
    if unused:
        print(
            "note: these flags of training change nothing at test:",
            *(f"--{flag}" for flag in unused),
        )
    device = choose_device(args)
    with torch.inference_mode():
        Tester(args, typed, device).test()


if __name__ == "__main__":
    run(main)
