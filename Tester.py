"""Roll a checkpoint out over every test clip: gifs, film strips and scores.

python Tester.py --DR DATASET --save_root RUN_FOLDER --ckpt_path RUN_FOLDER/best_score.ckpt
"""

from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before slow imports, so that mistakes are reported at once
    from modules.cli.start import start_with_command

    start_with_command("Tester")

import numpy as np
import torch
from tqdm import tqdm

from modules.checkpoints import checkpoint as ckpt
from modules.cli.entry import run
from modules.cli.parser import parse, peek
from modules.config import TESTS
from modules.config.fields import TRAIN_ONLY
from modules.data.open_world import read_events, read_futures
from modules.errors import UserError
from modules.evaluation.futures import Futures
from modules.evaluation.latents import Latents, traverse
from modules.evaluation.metrics import score_clips
from modules.files import write_atomically, write_json
from modules.labs import LABS
from modules.models.loading import (
    adopt_settings,
    has_posterior,
    load_model,
    load_weights,
    report_fit,
)
from modules.models.rollout import noise_source, roll_out
from modules.process.ranks import ranks
from modules.process.signals import listener
from modules.report import clips, distribution, figures, pictures, tables
from modules.report.pages import CLIPS, FUTURES, LATENTS, write_run_page
from modules.report.reading import write_test
from modules.report.tables import MANY
from modules.runs.console import Console
from modules.runs.folder import (
    MOVING,
    TEST_FUTURES,
    clip_file,
    folder_for_test,
    run_folder,
    trained,
)
from modules.training.device import choose_device, with_precision

FRAMES = 64  # of a clip, for what is measured of z


class Tester:
    """A model from a checkpoint, the test clips, and what is written of their rollouts."""

    def __init__(self, settings: Any, typed: set[str], device: torch.device, checkpoint: dict):
        settings = with_precision(settings, device)
        self.settings = settings = adopt_settings(settings, typed, checkpoint)
        if settings.mp4:
            pictures.find_mp4_writer()
        self.device, self.folder = device, run_folder(settings.save_root)
        if settings.n_samples > 1 and not settings.latent:
            raise UserError(
                f"--n_samples {settings.n_samples}: {settings.ckpt_path} is a deterministic twin "
                "(--no-latent), its futures are all equal"
            )
        self.lab = LABS[settings.lab](settings)
        self.model = self.lab.make_model().to(device)
        load_weights(self.model, checkpoint["state_dict"], settings.ckpt_path)
        self.posterior = has_posterior(checkpoint)
        self.twin = settings.twin and self.load_twin(settings.twin)
        details = self.lab.prepare_test(self.model, checkpoint)
        print(f"checkpoint: {settings.ckpt_path} ({ckpt.source_of(checkpoint)}{details})")
        self.given, self.conditions, self.truth = self.lab.open_test(typed)
        report_fit(self.model, checkpoint, self.given, self.conditions)
        self.diverged: dict[int, int] = {}  # clip -> its first predicted frame that is not finite
        if settings.n_samples > 1 and self.truth is None:
            raise UserError(f"--n_samples {settings.n_samples} scores futures: it needs --truth")

    def load_twin(self, path: str) -> torch.nn.Module:
        """The deterministic twin that is scored beside the model."""
        twin = load_model(path, self.device, self.settings.precision)
        if twin.settings.latent or type(twin) is not type(self.model):
            raise UserError(f"--twin {path} is not a deterministic twin (--no-latent) of this lab")
        for name in sorted({"frame_H", "frame_W", "n_past"} & self.settings.names()):
            of_twin, of_model = (getattr(x, name) for x in (twin.settings, self.settings))
            if of_twin != of_model:
                raise UserError(f"--twin {path} has --{name} {of_twin}, the model {of_model}")
        return twin

    def rollout(
        self, sample: int = 0, z_source: str | None = None, twin: bool = False
    ) -> list[torch.Tensor]:
        """-> one (T, 3, H, W) per test clip, in the first rank; the others serve() it."""
        return self.roll_out_mine(*ranks.from_first(lambda: (sample, z_source, twin)))

    def serve(self) -> None:
        """Compute this rank's clips of every rollout that the first rank asks for."""
        while request := ranks.from_first(lambda: None):
            self.roll_out_mine(*request)

    def roll_out_mine(self, sample: int, z_source: str | None, twin: bool) -> list[torch.Tensor]:
        """The test clips of this rank, batched; short clips are padded."""
        predictions = []
        model, together = self.twin if twin else self.model, self.settings.batch_size
        mine = range(ranks.number, len(self.given), ranks.count)
        for first in range(0, len(mine), together):
            numbers = mine[first : first + together]
            longest = max(len(self.conditions[i]) for i in numbers)
            conditions = torch.stack([pad(self.conditions[i], longest) for i in numbers])
            given = torch.stack([self.given[i] for i in numbers])
            label = f"clips {numbers[0]}-{numbers[-1]}" + (f", future {sample}" if sample else "")

            def progress(frames, total=longest, label=label):
                return tqdm(frames, label, total, disable=None, leave=False)

            source = z_source or self.settings.z_source
            noise = noise_source(source, self.settings.seed, numbers, sample)
            out = roll_out(model, given, conditions, noise, progress)
            predictions += [x[: len(self.conditions[i])] for i, x in zip(numbers, out)]
        predictions = ranks.in_order(predictions)
        for i, pred in enumerate(predictions):
            finite = pred.flatten(1).isfinite().all(1)
            if not finite.all():
                self.diverged.setdefault(i, int(finite.int().argmin()))
        return predictions

    # ------------------------------------------------------------ what is written

    def write_clip(self, i: int, pred: torch.Tensor) -> None:
        """pred_seq{i}.gif and strip{i}.png; --mp4: a video; --make_gif: the gifs of seq{i}/."""
        rows = self.lab.rows(self.conditions[i], pred, self.truth and self.truth[i])
        if i < CLIPS:
            path, truth = self.place / clip_file(i), self.truth and self.truth[i]
            args = self.conditions[i], pred, truth
            clips.write_rollout(path, f"test clip {i}", self.lab, *args)
        clip = self.lab.gif(rows)
        self.write_gif(self.place / f"pred_seq{i}.gif", clip)
        if self.settings.mp4:
            pictures.write_mp4(self.place / f"pred_seq{i}.mp4", clip, self.lab.frame_ms)
        if self.settings.plots:
            times = self.lab.strip_times(len(clip))
            pictures.draw_strip(self.place / f"strip{i}.png", rows, times)
        for name, clip in self.lab.more_gifs(i, rows).items():
            run_folder((self.place / name).parent)
            self.write_gif(self.place / name, clip)

    def write_gif(self, path: Path, clip: np.ndarray) -> None:
        pictures.write_gif(path, clip, self.lab.frame_ms)

    def write_submission(self, clips: list[np.ndarray]) -> None:
        """uint8 clips (T, H, W, 3) -> one row per frame: its id and its C*H*W values."""
        rows = np.concatenate([clip.transpose(0, 3, 1, 2).reshape(len(clip), -1) for clip in clips])
        digits = [str(value) for value in range(256)]

        def write(file):
            file.write(",".join(["id", *map(str, range(rows.shape[1]))]).encode() + b"\n")
            for i, row in enumerate(tqdm(rows, "submission.csv", disable=None, leave=False)):
                file.write(f"{i},{','.join([digits[v] for v in row])}\n".encode())

        write_atomically(self.place / "submission.csv", write)

    def write_scores(self, predictions: list[torch.Tensor]) -> None:
        """scores.json, psnr_per_frame.png and a printed table, if there are true frames."""
        if self.truth is None:
            print("no true frames (--truth), so there are no scores")
            return
        rollouts = zip(predictions, self.truth, self.conditions)
        clips = [self.lab.score_test(*rollout, self.model) for rollout in rollouts]
        scores = {"clips": clips, "mean": score_clips(clips)}
        scores |= self.lab.summarise(clips, scores["mean"])
        scores |= self.score_distribution(predictions)
        write_json(self.place / "scores.json", scores)
        if self.settings.plots:
            self.draw_psnr(predictions)
        tables.print_scores(scores, self.lab.baseline)
        print(distribution.scores_text(scores))

    # ------------------------------------------------------------ the predicted distribution

    def score_distribution(self, predictions: list[torch.Tensor]) -> dict[str, Any]:
        """Scores and figures of z, and of --n_samples futures of every clip."""
        settings, length = self.settings, min(FRAMES, *map(len, self.truth))
        clips = [torch.stack([x[:length] for x in part]) for part in (self.truth, self.conditions)]
        events = read_events(settings.DR, "test") or {}
        latents = Latents(self.model, *clips, self.lab.given, posterior=self.posterior)
        scores = {"z": latents.scores(events)}
        futures, many = None, {}
        if settings.n_samples > 1:
            many = self.read_true_futures()
            futures = self.sample_futures(predictions, many)
            scores["futures"] = futures.scores(latents.sigma)
            if ideal := futures.ideal(latents.sigma):
                scores["futures"]["ideal"] = ideal
            distribution.pack_futures(self.place / TEST_FUTURES, self.lab, futures)
        twin = None
        if self.twin:
            twin = Futures(self.lab, self.truth, many)
            twin.add(self.rollout(twin=True))
            of_twin = Latents(self.twin, *clips, self.lab.given)
            scores["twin"] = {"z": of_twin.scores({}), "futures": twin.scores(of_twin.sigma)}
        if settings.plots:
            distribution.draw_latents(self.place, scores, latents, events)
            rows = traverse(self.model, clips, scores["z"], events)
            distribution.draw_traversal(self.place, rows)
            if futures:
                distribution.draw_futures(self.place, self.lab, scores, futures, twin)
        return scores

    def sample_futures(
        self, predictions: list[torch.Tensor], many: dict[int, torch.Tensor]
    ) -> Futures:
        futures, sampled = Futures(self.lab, self.truth, many), self.settings.z_source == "sample"
        for sample in range(self.settings.n_samples):
            same = sampled and not sample  # the scored rollout is the first future
            futures.add(predictions if same else self.rollout(sample, "sample"))
        return futures

    def read_true_futures(self) -> dict[int, torch.Tensor]:
        """{clip: true futures (M, T, 3, H, W)} of the clips whose futures are known."""
        size = self.truth[0].shape[-2:]
        found = ((i, read_futures(self.settings.DR, i, size)) for i in range(len(self.truth)))
        return {i: x[:, : len(self.truth[i])] for i, x in found if x is not None}

    def draw_psnr(self, predictions: list[torch.Tensor]) -> None:
        """PSNR per frame: one curve per clip, or their mean if there are many."""
        given, psnr = self.lab.given, self.lab.frame_psnr
        curves = {"clip": [psnr(p, t) for p, t in zip(predictions, self.truth)]}
        curves[self.lab.baseline] = [psnr(t[given - 1 : given], t) for t in self.truth]
        if len(predictions) > MANY:
            curves[f"mean of {len(predictions)} clips"] = curves.pop("clip")
            plot = {name: torch.stack(many).mean(0) for name, many in curves.items()}
        else:
            plot = {f"{name} {i}": x for name, many in curves.items() for i, x in enumerate(many)}
        plot = {name: values[given:].tolist() for name, values in plot.items()}
        figures.draw_psnr_per_frame(self.place / "psnr_per_frame.png", plot, given)

    def check_submission(self, clips: list[np.ndarray]) -> None:
        """Read submission.csv back and compare it with the frames."""
        with open(self.place / "submission.csv", "rb") as file:
            next(file)
            for frame in np.concatenate(clips):
                values = np.array(next(file).split(b",")[1:], dtype=np.uint8)
                if not np.array_equal(values, frame.transpose(2, 0, 1).ravel()):
                    raise UserError(f"{file.name} differs from what was written to it")

    def check_gif(self, i: int, length: int) -> None:
        """Read a gif back, and its video: they must play their full time."""
        path = self.place / f"pred_seq{i}.gif"
        frames = {path: pictures.gif_time(path) // self.lab.frame_ms}
        if self.settings.mp4:
            frames[path.with_suffix(".mp4")] = pictures.mp4_length(path.with_suffix(".mp4"))
        for path, found in frames.items():
            if found != length:
                raise UserError(f"{path} plays {found} frame times instead of {length}")

    def test(self) -> None:
        """Write the files of the test, then replace those of the test before by them."""
        before = trained(self.folder)
        with folder_for_test(self.folder) as self.place:
            written = self.write_files(self.rollout())
            about = {"checkpoint": self.settings.ckpt_path, "trained": before}
            with listener.patiently():
                write_test(self.folder, self.place, about)
        write_run_page(self.folder)
        print(f"{len(self.given)} clips rolled out; written to {self.folder}:")
        print(f"  {', '.join([*written, 'report.html'])}")

    def write_files(self, predictions: list[torch.Tensor]) -> list[str]:
        """-> what was written, as it is printed."""
        for i, pred in enumerate(tqdm(predictions, "gifs, strips", disable=None, leave=False)):
            self.write_clip(i, pred)
            if not self.settings.no_sanity:
                self.check_gif(i, len(pred))
        if self.lab.submits:
            clips = [pictures.to_uint8(p) for p in predictions]
            self.write_submission(clips)
            if not self.settings.no_sanity:
                self.check_submission(clips)
        self.write_scores(predictions)
        if self.diverged:
            i, first = min(self.diverged.items())
            print(
                f"warning: the predictions of {len(self.diverged)} of {len(predictions)} clips are "
                f"not finite, in clip {i} from frame {first} on: the rollout diverges; it is drawn "
                "black or white, and its scores are null"
            )
        plots = self.settings.plots
        written = ["pred_seq*.gif"] + ["pred_seq*.mp4"] * self.settings.mp4
        written += ["strip*.png"] * plots
        written += ["submission.csv"] * self.lab.submits
        written += ["seq*/*.gif"] * getattr(self.settings, "make_gif", False)
        written += ["scores.json"] + ["psnr_per_frame.png"] * plots if self.truth else []
        figures = (*FUTURES, MOVING, *LATENTS)
        return written + [name for name in figures if (self.place / name).exists()] * plots


def pad(conditions: torch.Tensor, length: int) -> torch.Tensor:
    """Repeat the last condition until there are `length`."""
    rest = length - len(conditions)
    return torch.cat([conditions, conditions[-1:].expand(rest, *conditions.shape[1:])])


def unused(settings: Any, typed: set[str]) -> list[str]:
    """The typed flags that only training uses: accepted for old command lines."""
    own = TESTS[settings.lab]
    return sorted(typed - own.names() | typed & own.names(TRAIN_ONLY))


def main() -> None:
    with ranks.joined():
        carry_out()


def read_flags() -> tuple[Any, set[str], dict]:
    """-> settings, the flags that were typed, the checkpoint."""
    path = peek("ckpt_path")
    checkpoint = ckpt.load_if_readable(path)  # its lab decides which flags there are
    settings, typed = parse("Tester", lab=checkpoint and ckpt.lab_of(checkpoint))
    if not checkpoint or path != settings.ckpt_path:
        checkpoint = ckpt.load(settings.ckpt_path)
    return settings, typed, checkpoint


def carry_out() -> None:
    settings, typed, checkpoint = ranks.from_first(read_flags)
    if names := unused(settings, typed):
        print("note: these training flags have no effect at test:", *(f"--{n}" for n in names))
    with Console() as console, torch.inference_mode():
        device = ranks.together(lambda: choose_device(settings))
        tester = ranks.together(lambda: Tester(settings, typed, device, checkpoint))
        if not ranks.first:
            tester.serve()
            return
        console.keep(tester.folder)
        tester.test()
        ranks.from_first(lambda: None)  # no further rollout


if __name__ == "__main__":
    run(main, "reduce --batch_size or --n_samples")
