"""What a run draws of itself: curves, film strips and gifs. Knows files and arrays only."""

import itertools
from pathlib import Path

import imageio.v3 as iio
import matplotlib
import numpy as np
from PIL import Image, ImageSequence

from .files import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

GREEN, RED, GREY = (40, 170, 70), (215, 50, 45), (150, 150, 150)
LINE, GAP = 12, 2  # a film strip: columns of a line, pixels between pictures
COPIED = "given frame repeated"  # the label of the baseline beside every score
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
        ["val/psnr", "val/psnr_min", "val/psnr_given_frame_repeated"],
    ),
    "ssim": ("Validation SSIM", "SSIM", ["val/ssim"]),
}


def write_csv(path, rows):
    """Rows of dicts; floats so that reading them back gives the same number."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = [",".join(columns)] if rows else []
    text += [",".join("" if row.get(c) is None else repr(row[c]) for c in columns) for row in rows]
    write_atomically(path, lambda file: file.write(("\n".join(text) + "\n").encode()))


# ---------------------------------------------------------------- curves


def save_figure(figure, path):
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
    plt.close(figure)


def draw_curve(axes, rows, title, unit, columns):
    for column in columns:
        points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
        if points:
            x, y = zip(*points)
            baseline = column.endswith("given_frame_repeated")
            style = (
                {"color": "0.6", "ls": "--"}
                if baseline
                else {"marker": "." if len(x) < 50 else None}
            )
            axes.plot(x, y, label=column.split("/")[-1].replace("_", " "), **style)
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.grid(alpha=0.3)
    if len(columns) > 1:
        axes.legend(fontsize=8, framealpha=0.6)


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


def draw_psnr_per_frame(path, curves, first=1):
    """{label: PSNR of frames first, first + 1, ...} -> one plot; the baseline is dashed."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for label, psnr in curves.items():
        style = {"color": "0.6", "ls": "--"} if label.startswith(COPIED) else {}
        label = f"{label}: mean {np.mean(psnr):.2f} dB"
        axes.plot(range(first, first + len(psnr)), psnr, lw=1, label=label, **style)
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


def draw_kl(path, values):
    """The nats a frame that each dimension of z carries."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.bar(range(len(values)), values)
    axes.set(title="What z carries", xlabel="dimension of z", ylabel="KL (nats a frame)")
    save_figure(figure, path)


# ---------------------------------------------------------------- pictures


def to_uint8(frames):
    """Float (..., 3, H, W) -> uint8 (..., H, W, 3), rounded and clipped to 0..255."""
    frames = np.nan_to_num(np.moveaxis(np.asarray(frames), -3, -1))
    return np.rint(frames.clip(0, 1) * 255).astype(np.uint8)


def framed(clip, given, colour=RED, width=2):
    """uint8 (T, H, W, 3) with a border: green around the given frames, `colour` on the others."""
    out = np.empty((len(clip), clip.shape[1] + 2 * width, clip.shape[2] + 2 * width, 3), np.uint8)
    out[:given], out[given:] = GREEN, colour
    out[:, width:-width, width:-width] = clip
    return out


def write_gif(path, frames, frame_ms):
    """uint8 (T, H, W, 3) -> a gif that loops; merged neighbours keep their time."""
    data = iio.imwrite("<bytes>", frames, extension=".gif", duration=frame_ms, loop=0)
    write_atomically(path, lambda file: file.write(data))


def gif_time(path):
    """How many milliseconds a gif plays."""
    with Image.open(path) as gif:
        return sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif))


def side_by_side(*clips, scale=3):
    """uint8 clips (T, H, W, 3) -> one clip with all of them in a row, enlarged for the eye."""
    gap = np.full((*clips[0].shape[:2], 2, 3), 255, np.uint8)
    row = [part for clip in clips for part in (clip, gap)][:-1]
    return np.concatenate(row, axis=2).repeat(scale, 1).repeat(scale, 2)


def spread(length, columns):
    """Times spread evenly over a clip, its first and last frame among them."""
    return np.unique(np.linspace(0, length - 1, columns).round().astype(int))


def draw_strip(path, rows, times):
    """{label: uint8 clip} -> a film strip: a row a clip, a column a time, lines of up to LINE."""
    lines = [times[i : i + LINE] for i in range(0, len(times), LINE)]
    height, width = (size + GAP for size in next(iter(rows.values())).shape[1:3])
    columns = len(lines[0])
    inches = min(1.9, 15 / columns) / width
    size = (columns * width * inches + 0.9, len(lines) * (len(rows) * height * inches + 0.4))
    figure, axes = plt.subplots(len(lines), figsize=size, layout="constrained", squeeze=False)
    for line, cell in zip(lines, axes.flat):
        picture = np.full((len(rows) * height, columns * width, 3), 255, np.uint8)
        for i, clip in enumerate(rows.values()):
            for j, t in enumerate(line):
                y, x = i * height, j * width
                picture[y : y + height - GAP, x : x + width - GAP] = clip[t]
        cell.imshow(picture, interpolation="nearest")
        middles = (np.arange(columns) + 0.5) * width
        cell.set_xticks(middles[: len(line)], [f"frame {t}" for t in line], fontsize=9)
        cell.set_yticks((np.arange(len(rows)) + 0.5) * height, rows, fontsize=9)
        cell.xaxis.tick_top()
        cell.tick_params(length=0)
        cell.spines[:].set_visible(False)
    save_figure(figure, path)


def draw_rollout(folder, clips, times, frame_ms):
    """All that shows one validation rollout: a gif and a film strip."""
    write_gif(folder / "val.gif", side_by_side(*clips.values()), frame_ms)
    draw_strip(folder / "val_strip.png", clips, times)


def draw_psnr_of_frames(folder, psnr, first):
    """PSNR of the frames from `first` on, as a plot and as val_frames.csv."""
    (folder / "plots").mkdir(exist_ok=True)
    draw_psnr_per_frame(folder / "plots" / "psnr_per_frame.png", psnr, first)
    values = zip(itertools.count(first), *psnr.values())
    write_csv(folder / "val_frames.csv", [dict(zip(("frame", *psnr), row)) for row in values])
