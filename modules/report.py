"""What a run draws of itself: curves, film strips and gifs. Knows files and arrays only."""

import csv
import itertools
from pathlib import Path

import imageio.v3 as iio
import matplotlib
import numpy as np
from PIL import Image, ImageSequence

from .checkpoint import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

FRAME_MS = 20
COPIED = "first frame repeated"  # the label of the baseline beside every score
CURVES = {  # file name -> title, unit, columns of metrics.csv
    "loss": ("Training loss", "MSE + beta KL", ["train/loss"]),
    "mse": ("Training error", "MSE", ["train/mse"]),
    "kl": ("KL divergence", "nats per frame", ["train/kl"]),
    "beta": ("KL weight", "beta", ["train/beta"]),
    "tfr": ("Teacher forcing ratio", "tfr", ["train/tfr"]),
    "lr": ("Learning rate", "lr", ["train/lr"]),
    "psnr": (
        "Validation PSNR",
        "dB",
        ["val/psnr", "val/psnr_min", "val/psnr_first_frame_repeated"],
    ),
    "ssim": ("Validation SSIM", "SSIM", ["val/ssim"]),
}


def write_csv(path, rows):
    """Rows of dicts with the same keys; floats so that reading them back gives the same number."""
    text = [",".join(rows[0])] if rows else []
    text += [",".join("" if v is None else repr(v) for v in row.values()) for row in rows]
    write_atomically(path, lambda file: file.write(("\n".join(text) + "\n").encode()))


def read_csv(path):
    with open(path, newline="") as file:
        return [
            {k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)
        ]


# ---------------------------------------------------------------- curves


def save_figure(figure, path):
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
    plt.close(figure)


def draw_curve(axes, rows, title, unit, columns):
    for column in columns:
        points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
        if points:
            x, y = zip(*points)
            baseline = column.endswith("first_frame_repeated")
            style = (
                {"color": "0.6", "ls": "--"}
                if baseline
                else {"marker": "." if len(x) < 50 else None}
            )
            axes.plot(x, y, label=column.split("/")[-1].replace("_", " "), **style)
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.grid(alpha=0.3)
    if len(columns) > 1:
        axes.legend(fontsize=8)


def draw_curves(folder, rows):
    """One picture per quantity, and curves.png with all of them."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    drawn = {
        name: c for name, c in CURVES.items() if any(row.get(c[2][0]) is not None for row in rows)
    }
    overview, grid = plt.subplots(
        -(-len(drawn) // 4), 4, figsize=(18, 7), layout="constrained", squeeze=False
    )
    for cell, (name, curve) in zip(grid.flat, drawn.items()):
        draw_curve(cell, rows, *curve)
        single, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        draw_curve(axes, rows, *curve)
        save_figure(single, folder / f"{name}.png")
    for cell in list(grid.flat)[len(drawn) :]:
        cell.axis("off")
    save_figure(overview, folder / "curves.png")


def draw_psnr_per_frame(path, curves):
    """{label: PSNR of frames 1, 2, ...} -> one plot; repeating the first frame is drawn dashed."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for label, psnr in curves.items():
        style = {"color": "0.6", "ls": "--"} if label.startswith(COPIED) else {}
        label = f"{label}: mean {np.mean(psnr):.2f} dB"
        axes.plot(range(1, len(psnr) + 1), psnr, lw=1, label=label, **style)
    axes.set(title="PSNR of every rolled-out frame", xlabel="frame", ylabel="PSNR (dB)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def draw_schedules(path, rows):
    """beta, tfr and lr of every epoch, as modules/schedules.py gives them."""
    figure, grid = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for axes, name, title in zip(
        grid, ("beta", "tfr", "lr"), ("KL weight", "Teacher forcing", "Learning rate")
    ):
        draw_curve(axes, rows, title, name, [name])
    save_figure(figure, path)


# ---------------------------------------------------------------- pictures


def to_uint8(frames):
    """Float (..., 3, H, W) -> uint8 (..., H, W, 3), rounded and clipped to 0..255."""
    frames = np.nan_to_num(np.moveaxis(np.asarray(frames), -3, -1))
    return np.rint(frames.clip(0, 1) * 255).astype(np.uint8)


def write_gif(path, frames):
    """uint8 (T, H, W, 3) -> a gif that loops; merged neighbours keep their time."""
    data = iio.imwrite("<bytes>", frames, extension=".gif", duration=FRAME_MS, loop=0)
    write_atomically(path, lambda file: file.write(data))


def gif_frame_times(path):
    """How many frame times a gif plays."""
    with Image.open(path) as gif:
        return sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif)) // FRAME_MS


def side_by_side(*clips, scale=3):
    """uint8 clips (T, H, W, 3) -> one clip with all of them in a row, enlarged for the eye."""
    gap = np.full((*clips[0].shape[:2], 2, 3), 255, np.uint8)
    row = [part for clip in clips for part in (clip, gap)][:-1]
    return np.concatenate(row, axis=2).repeat(scale, 1).repeat(scale, 2)


def draw_strip(path, rows, columns=8):
    """{label: uint8 clip} -> a film strip: a row a clip, at times spread over its length."""
    length = min(len(clip) for clip in rows.values())
    times = np.unique(np.linspace(0, length - 1, columns).round().astype(int))
    size = (1.9 * len(times), len(rows) + 0.35)
    figure, grid = plt.subplots(
        len(rows), len(times), figsize=size, layout="constrained", squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    for cells, (label, clip) in zip(grid, rows.items()):
        cells[0].set_ylabel(label, fontsize=9)
        for cell, t in zip(cells, times):
            cell.imshow(clip[t], interpolation="nearest")
            cell.set(xticks=[], yticks=[])
    for cell, t in zip(grid[0], times):
        cell.set_title("given frame" if t == 0 else f"frame {t}", fontsize=9)
    save_figure(figure, path)


def draw_rollout(folder, clips, psnr):
    """All that shows one validation rollout: a gif, a film strip, its PSNR per frame."""
    write_gif(folder / "val.gif", side_by_side(*clips.values()))
    draw_strip(folder / "val_strip.png", clips)
    (folder / "plots").mkdir(exist_ok=True)
    draw_psnr_per_frame(folder / "plots" / "psnr_per_frame.png", psnr)
    rows = [
        dict(zip(("frame", *psnr), values)) for values in zip(itertools.count(1), *psnr.values())
    ]
    write_csv(folder / "val_frames.csv", rows)
