"""Plots of metrics."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

DPI = 110
BASELINE = "val/psnr_given_frame_repeated"  # its column in metrics.csv
CURVES = {  # file name -> title, unit, columns of metrics.csv
    "loss": ("Loss", "MSE + beta KL", ["train/loss", "val/loss"]),
    "mse": ("Training MSE", "MSE", ["train/mse"]),
    "kl": ("KL divergence", "nats per frame", ["train/kl", "val/kl"]),
    "beta": ("KL weight", "beta", ["train/beta"]),
    "tfr": ("Teacher forcing ratio", "tfr", ["train/tfr"]),
    "lr": ("Learning rate", "lr", ["train/lr"]),
    "psnr": ("Validation PSNR", "dB", ["val/psnr", "val/psnr_min", BASELINE]),
    "ssim": ("Validation SSIM", "SSIM", ["val/ssim"]),
    "elbo": ("Validation ELBO", "nats per frame", ["val/elbo"]),
}
SCHEDULES = "beta", "tfr", "lr"


LABELS = {
    "val/psnr": "mean",
    "val/psnr_min": "lowest frame",
    "train/loss": "training",
    "train/kl": "training",
    "val/loss": "validation",
    "val/kl": "validation",
}


def save_figure(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
    plt.close(figure)


def draw_curve(
    axes: Axes,
    rows: list[dict],
    title: str,
    unit: str,
    columns: list[str],
    baseline: str = "",
) -> None:
    for column in columns:
        points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
        if points:
            x, y = zip(*points)
            is_baseline = column == BASELINE
            style = (
                {"color": "0.6", "ls": "--"}
                if is_baseline
                else {"marker": "." if len(x) < 50 else None}
            )
            axes.plot(x, y, label=baseline if is_baseline else LABELS.get(column, column), **style)
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.grid(alpha=0.3)
    if len(columns) > 1:
        axes.legend(fontsize=8, framealpha=0.6)


def draw_curves(folder: Path, rows: list[dict], loss: str, baseline: str) -> None:
    """One plot per quantity, and curves.png with all. `loss` and `baseline` are labels."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    curves = CURVES | {"loss": (CURVES["loss"][0], loss, CURVES["loss"][2])}
    drawn = {
        name: c for name, c in curves.items() if any(row.get(c[2][0]) is not None for row in rows)
    }
    for name, curve in drawn.items():
        single, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        draw_curve(axes, rows, *curve, baseline)
        save_figure(single, folder / f"{name}.png")
    draw_overview(folder / "curves.png", rows, drawn, baseline)


def draw_overview(path: Path, rows: list[dict], curves: dict[str, tuple], baseline: str) -> None:
    """All curves on one page; schedules that are constant are named in its title."""
    level = {name: {row.get(f"train/{name}") for row in rows} for name in SCHEDULES}
    level = {name: values.pop() for name, values in level.items() if len(values) == 1}
    level = {name: value for name, value in level.items() if value is not None}
    shown = [curve for name, curve in curves.items() if name not in level or len(rows) == 1]
    height = -(-len(shown) // 4)
    page, grid = plt.subplots(
        height, 4, figsize=(18, 3.5 * height), layout="constrained", squeeze=False
    )
    for cell, curve in zip(grid.flat, shown):
        draw_curve(cell, rows, *curve, baseline)
    for cell in list(grid.flat)[len(shown) :]:
        cell.axis("off")
    if level and len(rows) > 1:
        constant = ", ".join(f"{name} {value:g}" for name, value in level.items())
        page.suptitle(f"constant: {constant}", fontsize=10)
    save_figure(page, path)


def draw_psnr_per_frame(path: Path, curves: dict[str, list[float]], first: int = 1) -> None:
    """{label: PSNR of frames first, first + 1, ...} -> one plot; the baseline is dashed."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for label, psnr in curves.items():
        style = {"color": "0.6", "ls": "--"} if label.startswith("copy-") else {}
        label = f"{label}: mean {np.mean(psnr):.2f} dB"
        axes.plot(range(first, first + len(psnr)), psnr, lw=1, label=label, **style)
    axes.set(title="PSNR per frame of the rollout", xlabel="frame", ylabel="PSNR (dB)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def draw_schedules(path: Path, rows: list[dict]) -> None:
    """beta, tfr and lr of every epoch, as training/schedules.py computes them."""
    figure, grid = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for axes, name, title in zip(
        grid, ("beta", "tfr", "lr"), ("KL weight", "Teacher forcing", "Learning rate")
    ):
        draw_curve(axes, rows, title, name, [name])
    save_figure(figure, path)


def draw_kl(path: Path, values: list[float]) -> None:
    """The KL of each dimension of z, in nats per frame."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.bar(range(len(values)), values)
    axes.set(title="KL per dimension of z", xlabel="dimension of z", ylabel="KL (nats per frame)")
    save_figure(figure, path)
