"""Roll a checkpoint out over every test clip: gifs, film strips and scores.

python Tester.py --DR DATASET --save_root RUN_FOLDER --ckpt_path RUN_FOLDER/best_score.ckpt
"""

from collections.abc import Iterator, Sequence
from typing import Any

if __name__ == "__main__":  # before slow imports, so that mistakes are reported at once
    from modules.cli.start import start_with_command

    start_with_command("Tester")

import torch
from tqdm import tqdm

from modules.checkpoints import checkpoint as ckpt
from modules.cli.entry import run
from modules.cli.parser import parse, peek
from modules.config import Test
from modules.evaluation.distribution import Distribution, stacked, validation_clips
from modules.evaluation.metrics import score_clips
from modules.labs import LABS
from modules.models.loading import (
    adopt_settings,
    load_twin,
    load_weights,
    report_fit,
    trained_posterior,
)
from modules.models.rollout import noise_source, roll_out
from modules.process.ranks import ranks
from modules.process.signals import listener
from modules.report import pictures
from modules.report.distribution import pack_futures
from modules.report.pages import write_run_page
from modules.report.reading import write_test
from modules.report.rollouts import RolloutFiles, draw_distribution
from modules.runs.console import Console
from modules.runs.folder import TEST_FUTURES, folder_for_test, run_folder, trained
from modules.training.device import choose_device


class Tester:
    """A model from a checkpoint, the test clips, and what is written of their rollouts."""

    def __init__(self, settings: Test, typed: set[str], device: torch.device, checkpoint: dict):
        self.settings = settings = adopt_settings(settings, typed, checkpoint, device)
        if settings.mp4:
            pictures.find_mp4_writer()
        self.folder = run_folder(settings.save_root)
        self.lab = LABS[settings.lab](settings)
        self.model = self.lab.make_model().to(device)
        load_weights(self.model, checkpoint["state_dict"], settings.ckpt_path)
        self.posterior = trained_posterior(checkpoint)
        self.free_bits = checkpoint.get("args", {}).get("free_bits", 0)
        self.twins = [load_twin(path, self.model) for path in settings.twin or ()]
        details = self.lab.prepare_test(self.model, checkpoint)
        print(f"checkpoint: {settings.ckpt_path} ({ckpt.source_of(checkpoint)}{details})")
        self.given, self.conditions, self.truth = self.lab.open_test(typed)
        report_fit(self.model, checkpoint, self.given, self.conditions)
        self.diverged: dict[int, int] = {}  # clip -> its first predicted frame that is not finite

    # ------------------------------------------------------------ rollouts

    def rollout(
        self, sample: int = 0, z_source: str | None = None, twin: int | None = None
    ) -> list[torch.Tensor]:
        """-> one (T, 3, H, W) per test clip, in the first rank; the others serve() it."""
        request = sample, z_source or self.settings.z_source, twin
        return self.roll_out_clips(*ranks.from_first(lambda: request))

    def serve(self) -> None:
        """Compute this rank's clips of every rollout that the first rank asks for."""
        while request := ranks.from_first(lambda: None):
            self.roll_out_clips(*request)

    def roll_out_clips(
        self, sample: int, z_source: str, twin: int | None
    ) -> list[torch.Tensor] | None:
        """All clips, in the first rank; each rank computes its own."""
        model = self.model if twin is None else self.twins[twin]

        def roll_out_batch(numbers):
            return self.roll_out_batch(model, numbers, sample, z_source)

        clips = ranks.divide(len(self.given), self.settings.batch_size, roll_out_batch)
        for i, pred in enumerate(clips or ()):
            finite = pred.flatten(1).isfinite().all(1)
            if not finite.all():
                self.diverged.setdefault(i, int(finite.int().argmin()))
        return clips

    def roll_out_batch(
        self, model: torch.nn.Module, numbers: Sequence[int], sample: int, z_source: str
    ) -> list[torch.Tensor]:
        """The clips of these numbers at once; short ones are padded."""
        lengths = [len(self.conditions[i]) for i in numbers]
        conditions = torch.stack([pad(self.conditions[i], max(lengths)) for i in numbers])
        given = torch.stack([self.given[i] for i in numbers])
        noise = noise_source(z_source, self.settings.seed, numbers, sample)
        label = f"clips {numbers[0]}-{numbers[-1]}" + (f", future {sample}" if sample else "")

        def progress(frames):
            return tqdm(frames, label, max(lengths), disable=None, leave=False)

        pred = roll_out(model, given, conditions, noise, progress)
        return [clip[:length] for clip, length in zip(pred, lengths)]

    def futures(self, predictions: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
        """--n_samples rollouts with z from the prior."""
        for sample in range(self.settings.n_samples):
            first = not sample and self.settings.z_source == "sample"  # it is made already
            yield predictions if first else self.rollout(sample, "sample")

    # ------------------------------------------------------------ what is written

    def test(self) -> None:
        """Write the files of the test, then replace those of the test before by them."""
        before = trained(self.folder)
        with folder_for_test(self.folder) as place:
            self.files = RolloutFiles(place, self.lab, self.settings)
            written = self.write_files(self.rollout())
            about = {"checkpoint": self.settings.ckpt_path, "trained": before}
            with listener.patiently():
                write_test(self.folder, place, about)
        write_run_page(self.folder)
        print(f"{len(self.given)} clips rolled out; written to {self.folder}:")
        print(f"  {', '.join([*written, 'report.html'])}")

    def write_files(self, predictions: list[torch.Tensor]) -> list[str]:
        """-> what was written, as it is printed."""
        for i, pred in enumerate(tqdm(predictions, "gifs, strips", disable=None, leave=False)):
            self.files.write_clip(i, self.conditions[i], pred, self.truth and self.truth[i])
        if self.lab.submits:
            self.files.write_submission(predictions)
        if self.truth:
            self.write_scores(predictions)
        else:
            print("no true frames (--truth), so there are no scores")
        if self.diverged:
            i, first = min(self.diverged.items())
            print(
                f"warning: the predictions of {len(self.diverged)} of {len(predictions)} clips are "
                f"not finite, in clip {i} from frame {first} on: the rollout diverges; it is drawn "
                "black or white, and its scores are null"
            )
        return self.files.written(bool(self.truth))

    def write_scores(self, predictions: list[torch.Tensor]) -> None:
        """scores.json, psnr_per_frame.png and printed tables."""
        rollouts = zip(predictions, self.truth, self.conditions)
        clips = [self.lab.score_test(*rollout, self.model) for rollout in rollouts]
        scores = {"clips": clips, "mean": score_clips(clips)}
        scores |= self.lab.summarise(clips, scores["mean"])
        scores |= self.score_distribution(predictions)
        self.files.write_scores(scores, predictions, self.truth)

    def score_distribution(self, predictions: list[torch.Tensor]) -> dict[str, Any]:
        """Scores and figures of z, and of --n_samples futures of every clip."""
        settings, clips = self.settings, stacked(zip(self.truth, self.conditions))
        several = settings.n_samples > 1
        about = {
            "val": validation_clips(self.lab),
            "outcomes": self.lab.true_futures(self.truth) if several else {},
            "samples": settings.n_samples,
            "events": self.lab.test_events(),
        }
        futures = self.futures(predictions) if several else ()
        more = about | {"posterior": self.posterior, "free_bits": self.free_bits}
        more["traversed"] = settings.plots
        predicted = Distribution(self.lab, self.model, clips, self.truth, futures, **more)
        twin = None
        if self.twins:
            futures = (self.rollout(twin=i) for i in range(len(self.twins)))
            twin = Distribution(self.lab, self.twins, clips, self.truth, futures, **about)
        predicted.compare(twin)
        if several:
            pack_futures(self.files.folder / TEST_FUTURES, self.lab, predicted.futures)
        if settings.plots:
            draw_distribution(self.files.folder, predicted)
        return predicted.scores


def pad(conditions: torch.Tensor, length: int) -> torch.Tensor:
    """Repeat the last condition until there are `length`."""
    rest = length - len(conditions)
    return torch.cat([conditions, conditions[-1:].expand(rest, *conditions.shape[1:])])


# ---------------------------------------------------------------- entry points


def main() -> None:
    with ranks.joined():
        test_checkpoint()


def test_checkpoint() -> None:
    settings, typed, checkpoint = ranks.from_first(read_flags)
    with Console() as console, torch.inference_mode():
        device = ranks.together(lambda: choose_device(settings))
        tester = ranks.together(lambda: Tester(settings, typed, device, checkpoint))
        if not ranks.first:
            tester.serve()
            return
        console.keep(tester.folder)
        tester.test()
        ranks.from_first(lambda: None)  # no further rollout


def read_flags() -> tuple[Test, set[str], dict]:
    """-> settings, the flags that were typed, the checkpoint."""
    path = peek("ckpt_path")
    checkpoint = ckpt.load_if_readable(path)  # its lab decides which flags there are
    settings, typed = parse("Tester", lab=checkpoint and ckpt.lab_of(checkpoint))
    if not checkpoint or path != settings.ckpt_path:
        checkpoint = ckpt.load(settings.ckpt_path)
    return settings, typed, checkpoint


if __name__ == "__main__":
    run(main, "reduce --batch_size or --n_samples")
