"""Plots of single clips; how figures are saved."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..files import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

DPI = 110


def save_figure(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
    plt.close(figure)


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


def draw_kl(path: Path, values: list[float]) -> None:
    """The KL of each dimension of z, in nats per frame."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.bar(range(len(values)), values)
    axes.set(title="KL per dimension of z", xlabel="dimension of z", ylabel="KL (nats per frame)")
    save_figure(figure, path)
