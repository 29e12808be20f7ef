"""How long the rest of a run will take, judged by what its parts took so far."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from ..config import Training


class Clock:
    """Measures parts of a run, such as its steps and its validations."""

    def __init__(self):
        self.seconds, self.amount = Counter(), Counter()

    def add(self, part: str, amount: float, seconds: float) -> None:
        self.amount[part] += amount
        self.seconds[part] += seconds

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(part, 1, time.perf_counter() - start)

    def left(self, **amounts: float) -> str:
        """The time for so much more of each part, as text; parts never measured count as 0."""
        known = {part: n for part, n in amounts.items() if self.amount[part]}
        seconds = sum(n * self.seconds[part] / self.amount[part] for part, n in known.items())
        return tqdm.format_interval(seconds) if known else ""


def validations_left(epoch: int, settings: Training) -> int:
    """How many validations are due from this epoch on."""
    every, epochs = settings.val_every, settings.num_epoch
    return epochs // every - epoch // every + (epochs % every > 0)


def progress_text(done: int, planned: int, steps: int, left: str) -> str:
    """How far a run is: its complete epochs, the steps of the next, and the time left."""
    text = f"{done} of {planned} epochs done"
    text += f", {steps} steps of the next" if steps else ""
    return f"{text}, about {left} left" if done < planned and left else text


def epoch_line(row: dict[str, float | None], epochs: int, speed: float, left: str) -> str:
    """What is printed after an epoch: its row of metrics.csv, frames per second, the time left."""
    digits = {"loss": 4, "mse": 3, "kl": 3, "beta": 2, "tfr": 2, "lr": 2}
    values = ", ".join(f"{name} {row[f'train/{name}']:.{n}g}" for name, n in digits.items())
    line = f"epoch {row['epoch']:>3}/{epochs - 1}: {values}, {speed:.0f} frames/s"
    line += f", {left} left" if left else ""
    if row["val/psnr"] is not None:
        line += (
            f"\n  val psnr {row['val/psnr']:.2f} dB, lowest {row['val/psnr_min']:.2f}, "
            f"baseline {row['val/psnr_given_frame_repeated']:.2f}, ssim {row['val/ssim']:.3f}"
        )
    return line
