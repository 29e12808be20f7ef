"""Roll a checkpoint out over every test clip: gifs, film strips and scores.

python Tester.py --DR DATASET --save_root RUN_FOLDER --ckpt_path RUN_FOLDER/best_score.ckpt
"""

import json

import numpy as np
import torch
from tqdm import tqdm

from modules import checkpoint as ckpt
from modules import report
from modules.device import choose_device
from modules.files import run_folder, write_atomically
from modules.graphs import check_graphs, record_rollouts
from modules.labs import LABS
from modules.metrics import AVERAGES, competition_groups, score_clips
from modules.models import noise_source, roll_out
from modules.options import MODEL_FLAGS, UserError, parse, peek, run
from modules.pages import write_run_page

# Flags of training are accepted for old command lines; beside the model's these count here.
USED = MODEL_FLAGS | set(
    """lab DR save_root ckpt_path batch_size device gpu precision num_workers test make_gif
    no_sanity truth pose_norm val_vi_len cache_dir n_samples cuda_graphs deterministic""".split()
)
MANY = 8  # of more clips than this, plot and table show only the mean


class Tester:
    """A model from a checkpoint, the test clips, and what is written of their rollouts."""

    def __init__(self, args, typed, device, checkpoint):
        self.args, self.device, self.folder = args, device, run_folder(args.save_root)
        ckpt.adopt_settings(args, typed, checkpoint)
        if args.n_samples > 1 and args.z_source == "mean":
            raise UserError(
                f"--n_samples {args.n_samples} would be the same future every time: z is the "
                "prior's mean here; add --z_source sample"
            )
        self.lab = LABS[args.lab](args)
        self.model = self.lab.make_model().to(device)
        ckpt.load_weights(self.model, checkpoint["state_dict"], args.ckpt_path)
        if args.cuda_graphs:
            check_graphs(args, device, training=False)
            record_rollouts(self.model)
        self.describe(checkpoint)
        self.given, self.conditions, self.truth = self.lab.open_test(typed)
        if args.n_samples > 1 and self.truth is None:
            raise UserError(f"--n_samples {args.n_samples} scores futures: it needs --truth")

    def describe(self, checkpoint):
        source, details = "ours" if ckpt.is_ours(checkpoint) else "from the course", ""
        if self.args.lab == "pose":
            per_image = ckpt.choose_pose_norm(self.model, checkpoint, self.args.pose_norm)
            details = f"; pose statistics {'per image' if per_image else 'as learned'}"
            details += f"; sigmoid {'on' if self.args.sigmoid else 'off'}"
        print(f"checkpoint: {self.args.ckpt_path} ({source}{details})")

    def rollout(self, sample=0):
        """-> one (T, 3, H, W) per test clip. Clips run together, short ones are padded."""
        predictions = []
        together = self.args.batch_size
        for first in range(0, len(self.given), together):
            numbers = range(first, min(first + together, len(self.given)))
            longest = max(len(self.conditions[i]) for i in numbers)
            conditions = torch.stack([pad(self.conditions[i], longest) for i in numbers])
            given = torch.stack([self.given[i] for i in numbers]).to(self.device)
            label = f"clips {numbers[0]}-{numbers[-1]}" + (f", future {sample}" if sample else "")

            def progress(frames, total=longest, label=label):
                return tqdm(frames, label, total, disable=None, leave=False)

            noise = noise_source(self.args.z_source, self.args.seed, numbers, sample)
            out = roll_out(self.model, given, conditions, noise, progress)
            predictions += [x[: len(self.conditions[i])] for i, x in zip(numbers, out)]
        return predictions

    # ------------------------------------------------------------ what is written

    def write_clip(self, i, pred):
        """pred_seq{i}.gif, strip{i}.png and, where asked for, the three gifs of seq{i}/."""
        rows = self.lab.rows(self.conditions[i], pred, self.truth and self.truth[i])
        clip = self.lab.gif(rows)
        self.write_gif(self.folder / f"pred_seq{i}.gif", clip)
        times = self.lab.strip_times(len(clip))
        report.draw_strip(self.folder / f"strip{i}.png", rows, times)
        if self.args.lab == "pose" and self.args.make_gif:
            folder = run_folder(self.folder / f"seq{i}")
            for name, clip in zip(("pose", "pred_seq", "ground_truth"), rows.values()):
                self.write_gif(folder / f"{name}.gif", clip)

    def write_gif(self, path, clip):
        report.write_gif(path, clip, self.lab.frame_ms)

    def write_submission(self, clips):
        """uint8 clips (T, H, W, 3) -> a row a frame: its id and its C*H*W values."""
        rows = np.concatenate([clip.transpose(0, 3, 1, 2).reshape(len(clip), -1) for clip in clips])
        digits = [str(value) for value in range(256)]

        def write(file):
            file.write(",".join(["id", *map(str, range(rows.shape[1]))]).encode() + b"\n")
            for i, row in enumerate(tqdm(rows, "submission.csv", disable=None, leave=False)):
                file.write(f"{i},{','.join([digits[v] for v in row])}\n".encode())

        write_atomically(self.folder / "submission.csv", write)

    def write_scores(self, predictions):
        """scores.json, psnr_per_frame.png and a printed table, where the truth is known."""
        if self.truth is None:
            print("no true frames given (--truth), so nothing is scored")
            return
        rollouts = zip(predictions, self.truth, self.conditions)
        clips = [self.lab.score_test(*rollout, self.model) for rollout in rollouts]
        scores = {"clips": clips, "mean": score_clips(clips)}
        if self.args.lab == "pose":
            groups = competition_groups(clips)
            scores["mean"]["psnr_competition_groups"] = groups
            scores["averages"] = AVERAGES
        if self.args.n_samples > 1:
            scores["futures"] = self.score_futures(predictions)
        text = json.dumps(scores, indent=1)
        write_atomically(self.folder / "scores.json", lambda file: file.write(text.encode()))
        self.draw_psnr(predictions)
        print_scores(scores)

    def score_futures(self, predictions):
        """PSNR of --n_samples futures of every clip, and how far apart they are."""
        given, n = self.lab.given, self.args.n_samples
        psnr, total, squares = [], 0, 0
        for sample in range(n):
            futures = self.rollout(sample) if sample else predictions
            psnr.append([self.lab.score(p, t)["psnr"] for p, t in zip(futures, self.truth)])
            pixels = torch.cat([p[given:].clamp(0, 1).flatten() for p in futures]).double()
            total, squares = total + pixels, squares + pixels**2
        psnr, variance = np.array(psnr), (squares / n - (total / n) ** 2).clamp_min(0)
        return {
            "n_samples": n,
            "psnr_mean": psnr.mean(),
            "psnr_best": psnr.max(axis=0).mean(),
            "psnr_worst": psnr.min(axis=0).mean(),
            "diversity": 255 * variance.sqrt().mean().item(),
        }

    def draw_psnr(self, predictions):
        """PSNR of every frame: a curve a clip, or their mean where they are many."""
        given, psnr = self.lab.given, self.lab.frame_psnr
        curves = {"clip": [psnr(p, t) for p, t in zip(predictions, self.truth)]}
        curves[report.COPIED] = [psnr(t[given - 1 : given], t) for t in self.truth]
        if len(predictions) > MANY:
            curves[f"mean of {len(predictions)} clips"] = curves.pop("clip")
            plot = {name: torch.stack(many).mean(0) for name, many in curves.items()}
        else:
            plot = {f"{name} {i}": x for name, many in curves.items() for i, x in enumerate(many)}
        plot = {name: values[given:].tolist() for name, values in plot.items()}
        report.draw_psnr_per_frame(self.folder / "psnr_per_frame.png", plot, given)

    def check_submission(self, clips):
        """Read submission.csv back: it must hold the frames."""
        with open(self.folder / "submission.csv", "rb") as file:
            next(file)
            for frame in np.concatenate(clips):
                values = np.array(next(file).split(b",")[1:], dtype=np.uint8)
                if not np.array_equal(values, frame.transpose(2, 0, 1).ravel()):
                    raise UserError(f"{file.name} is not what was written; is the disk sound?")

    def check_gif(self, i, length):
        """Read a gif back: it must play its full time."""
        path = self.folder / f"pred_seq{i}.gif"
        frames = report.gif_time(path) // self.lab.frame_ms
        if frames != length:
            raise UserError(f"{path} plays {frames} frame times instead of {length}")

    def test(self):
        predictions = self.rollout()
        for i, pred in enumerate(tqdm(predictions, "gifs, strips", disable=None, leave=False)):
            self.write_clip(i, pred)
            if not self.args.no_sanity:
                self.check_gif(i, len(pred))
        if self.args.lab == "pose":
            clips = [report.to_uint8(p) for p in predictions]
            self.write_submission(clips)
            if not self.args.no_sanity:
                self.check_submission(clips)
        self.write_scores(predictions)
        written = ["pred_seq*.gif", "strip*.png"]
        if self.args.lab == "pose":
            written += ["submission.csv"] + ["seq*/*.gif"] * self.args.make_gif
        written += ["scores.json", "psnr_per_frame.png"] if self.truth else []
        written += ["report.html"]
        write_run_page(self.folder)
        print(f"{len(predictions)} clips rolled out; written to {self.folder}:")
        print(f"  {', '.join(written)}")


def pad(conditions, length):
    """Repeat the last condition until there are `length`."""
    rest = length - len(conditions)
    return torch.cat([conditions, conditions[-1:].expand(rest, *conditions.shape[1:])])


COLUMNS = {  # printed heading -> key of a score
    "mean": "psnr",
    "2023 tester": "psnr_2023_tester",
    "competition": "psnr_competition",
    "lowest": "psnr_min",
    "pose box": "psnr_pose_box",
    "repeated": "psnr_given_frame_repeated",
    "SSIM": "ssim",
}


def print_scores(scores):
    columns = {heading: key for heading, key in COLUMNS.items() if key in scores["mean"]}
    print(f"{'PSNR (dB)':<10}" + "".join(f"{heading:>13}" for heading in columns))
    clips = {f"clip {i}": clip for i, clip in enumerate(scores["clips"])}
    lines = clips if len(clips) <= MANY else {}
    for name, values in (lines | {"mean": scores["mean"]}).items():
        print(f"{name:<10}" + "".join(f"{values[key]:>13.3f}" for key in columns.values()))
    gain = scores["mean"]["psnr"] - scores["mean"]["psnr_given_frame_repeated"]
    print(f"{gain:+.2f} dB over repeating the given frame")
    if "drift" in scores["mean"]:
        print_drift(lines | {"mean": scores["mean"]})
    for name, value in scores["mean"].get("psnr_competition_groups", {}).items():
        print(f"competition, {name}: {value:.3f}")
    for key in columns.values():
        if key in scores.get("averages", {}):
            print(f"  {AVERAGES[key]}")
    if "futures" in scores:
        print_futures(scores["futures"])


def print_drift(clips):
    print("drift (dB): the last 100 frames minus the first 100, and the last frame minus frame 30;")
    print("one step: the same of frames that are each predicted from the true one before")
    print(f"{'':<10}{'drift':>13}{'one step':>13}{'since 30':>13}{'PSNR one step':>15}")
    for name, values in clips.items():
        row = [values[key] for key in ("drift", "drift_one_step", "drift_since_frame_30")]
        row = "".join(f"{value:>+13.3f}" for value in row)
        print(f"{name:<10}{row}{values['psnr_one_step']:>15.3f}")


def print_futures(futures):
    print(
        "{n_samples} futures of every clip: PSNR mean {psnr_mean:.2f} dB, worst {psnr_worst:.2f}, "
        "best {psnr_best:.2f} (a diagnostic: picking the best looks at the truth)\n"
        "diversity: a pixel's deviation over the futures is {diversity:.2f} of 255".format(
            **futures
        )
    )


def main():
    args, typed = parse("Tester", lab=ckpt.lab_of_file(peek("ckpt_path")))
    checkpoint = ckpt.load(args.ckpt_path)
    unused = sorted(typed - USED)
    if unused:
        print(
            "note: these flags of training change nothing at test:",
            *(f"--{flag}" for flag in unused),
        )
    device = choose_device(args)
    with torch.inference_mode():
        Tester(args, typed, device, checkpoint).test()


if __name__ == "__main__":
    run(main)
