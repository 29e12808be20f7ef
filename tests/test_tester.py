"""Tester.py writes rollouts of the checkpoint and scores them."""

import json
import shutil
import sys

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from helpers import SHORT, make_dataset, read_csv, read_submission, to_rows
from PIL import Image, ImageSequence

import dataloader
from modules.config import PoseModel
from modules.config.fields import settings_from
from modules.data.cache import decode
from modules.models.pose import VAE_Model
from modules.models.rollout import noise_source
from modules.report import pictures
from modules.report import rollouts as report_rollouts

SIZE = (12, 16)
VALUES = 3 * 12 * 16

pytestmark = pytest.mark.usefixtures("no_plots")


def scores_of(folder):
    return json.loads((folder / "scores.json").read_text())


def model_of(path, **changes):
    """The model of a checkpoint of ours."""
    checkpoint = torch.load(path, weights_only=True)
    values = checkpoint["args"] | {"precision": "float32"} | changes
    model = VAE_Model(settings_from(PoseModel, values))
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def rollouts(path, data, seed=0, kind="sample"):
    """The expected predictions of this checkpoint, clip by clip."""
    model, clips = model_of(path), []
    for i, (given, poses) in enumerate(dataloader.load_test_clips(data, SIZE)):
        frames = model.rollout(given[None, None], poses[None], noise_source(kind, seed, [i]))
        clips.append(torch.cat([*frames]).numpy())
    return clips


# ---------------------------------------------------------------- the score of validation


def as_test_clip(root):
    """Make the validation clip the one test clip."""
    shutil.rmtree(root / "test")
    shutil.copytree(root / "val/val_label", root / "test/test_label/0")
    (root / "test/test_img/0").mkdir(parents=True)
    shutil.copy(root / "val/val_img/frame000000.png", root / "test/test_img/0")


@pytest.mark.parametrize("flags", ["--z_source sample", "--z_source mean", "--ema 0.5 --sigmoid"])
def test_the_tester_gives_the_best_validation_psnr(call, dataset, tmp_path, flags):
    as_test_clip(dataset)
    places = ["--DR", dataset, "--save_root", tmp_path / "run"]
    done = call("Trainer", *places, *SHORT, *flags.split(), "--num_epoch", 2, "--seed", 5)
    assert done.code == 0, done.err
    best = max(row["val/psnr"] for row in read_csv(tmp_path / "run/metrics.csv"))
    ckpt = tmp_path / "run/best_score.ckpt"
    assert torch.load(ckpt, weights_only=True)["best_score"] == best
    tested = call("Tester", *places, "--ckpt", ckpt, "--truth", dataset / "val/val_img")
    assert scores_of(tmp_path / "run")["mean"]["psnr"] == best
    assert f"{best:.3f}" in tested.out
    validated = call("Trainer", *places, "--test", "--ckpt", ckpt, *SHORT)
    for printed in (done.out, validated.out):
        assert f"PSNR {best:.2f} dB" in printed


# ---------------------------------------------------------------- submission.csv


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("flags", "seed", "kind"),
    [("", 0, "sample"), ("--seed 7", 7, "sample"), ("--z_source mean", 0, "mean")],
)
def test_rows_are_the_rounded_and_clipped_rollout_as_c_h_w(run_test, trained, flags, seed, kind):
    folder, _ = run_test(*flags.split())
    header, rows = read_submission(folder)
    assert header == ["id", *map(str, range(VALUES))]
    assert rows[:, 0].tolist() == list(range(6 + 5))
    expected = to_rows(rollouts(trained.best, trained.data, seed, kind))
    assert np.array_equal(rows[:, 1:], expected)
    for row, clip in ((0, 0), (6, 1)):  # the given frames, exactly
        picture = decode(trained.data / f"test/test_img/{clip}/frame{100 * clip:06d}.png", SIZE)
        assert np.array_equal(rows[row, 1:], picture.transpose(2, 0, 1).ravel())


def test_values_outside_0_to_1_are_clipped(run_test, trained, tmp_path):
    bright = torch.load(trained.best, weights_only=True)
    bias = bright["state_dict"]["Generator.7.bias"]
    bias += torch.tensor([5.0, -5.0, 0.0])
    torch.save(bright, tmp_path / "bright.ckpt")
    folder, _ = run_test(ckpt=tmp_path / "bright.ckpt")
    predicted = read_submission(folder)[1][1:6, 1:].reshape(5, 3, -1)
    assert (predicted[:, 0] == 255).all()
    assert (predicted[:, 1] == 0).all()
    with Image.open(folder / "pred_seq0.gif") as gif:
        gif.seek(1)
        red, green, _ = gif.convert("RGB").getpixel((3, 3))
    assert red > 240 > 15 > green


@pytest.mark.usefixtures("float64")
def test_val_vi_len_shortens_every_clip(run_test, tmp_path):
    data = make_dataset(tmp_path / "data")
    shutil.rmtree(data / "test/test_truth")
    whole = read_submission(run_test(data=data, name="a")[0])[1]
    short = read_submission(run_test("--val_vi_len", 4, data=data, name="b")[0])[1]
    assert len(short) == 8
    assert np.array_equal(short[:4, 1:], whole[:4, 1:])


# ---------------------------------------------------------------- gifs


def played(path, ms=20):
    """The frame shown at every frame time, read by PIL only."""
    with Image.open(path) as gif:
        frames = [(f.info["duration"], f.convert("RGB")) for f in ImageSequence.Iterator(gif)]
    assert all(duration % ms == 0 for duration, _ in frames)
    return [np.asarray(frame) for duration, frame in frames for _ in range(duration // ms)]


def clip_of(values):
    """A clip whose frame t is plain grey, but for a bar, of brightness values[t]."""
    clip = np.repeat(np.array(values, np.uint8), 8 * 12 * 3).reshape(-1, 8, 12, 3).copy()
    clip[:, :4, :3] = (200, 30, 60)
    return clip


PAUSES = [0] * 200 + [50] * 229 + [100] * 200 + [150]
CLIPS = {
    "all differ": [t % 250 for t in range(630)],
    "all the same": [77] * 630,
    "pairs": [t // 2 % 250 for t in range(630)],
    "pauses": PAUSES,
    "a static end": [*range(100), *[99] * 530],
    "two frames": [1, 1],
    "one frame": [1],
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_gif_has_its_full_duration_with_merged_identical_frames(tmp_path, name):
    clip, path = clip_of(CLIPS[name]), tmp_path / "clip.gif"
    pictures.write_gif(path, clip, 20)
    shown = played(path)
    assert pictures.gif_time(path) / 20 == len(shown) == len(clip)
    assert np.abs(np.stack(shown).astype(int) - clip).max() <= 4  # colours of a palette
    with Image.open(path) as gif:
        assert gif.info.get("loop") == 0


def test_mp4_writes_a_video_beside_each_gif(run_test):
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed")
    folder, text = run_test("--mp4")
    assert "pred_seq*.mp4" in text
    for i, length in enumerate((6, 5)):
        video = iio.imread(folder / f"pred_seq{i}.mp4", plugin="FFMPEG")
        assert video.shape == (length, 384, 512, 3)  # 32 pixels for each of 12 x 16
        small = video[:, 16::32, 16::32].astype(float)
        clip = np.stack(played(folder / f"pred_seq{i}.gif"))
        assert np.abs(small - clip).mean() < 8  # the codec's loss


def test_mp4_without_its_writer_is_an_error_before_the_rollout(
    call, trained, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    places = ["--DR", trained.data, "--save_root", tmp_path, "--ckpt_path", trained.best]
    done = call("Tester", *places, "--mp4")
    assert done.code == 1 and not list(tmp_path.glob("pred_seq*"))
    assert "--mp4 needs a package: pip install imageio-ffmpeg" in done.err


def test_make_gif_writes_the_three_gifs_of_2023(run_test, trained):
    folder, _ = run_test("--make_gif")
    for i, length in ((0, 6), (1, 5)):
        names = {p.name for p in (folder / f"seq{i}").iterdir()}
        assert names == {"pred_seq.gif", "pose.gif", "ground_truth.gif"}
        assert {len(played(folder / f"seq{i}" / name)) for name in names} == {length}
        for name, kind in (("pose", "label"), ("ground_truth", "truth")):
            files = sorted((trained.data / f"test/test_{kind}/{i}").iterdir())
            shown = played(folder / f"seq{i}" / f"{name}.gif")
            expected = [decode(p, SIZE).astype(int) for p in files]
            assert np.abs(np.stack(shown) - expected).mean() < 4
    assert played(folder / "seq0/pred_seq.gif")[2].tobytes() == (
        played(folder / "pred_seq0.gif")[2].tobytes()
    )


# ---------------------------------------------------------------- scores


def psnr(pred, true):
    """(T,) in double precision, frame by frame."""
    return published_psnr(np.clip(pred, 0, 1), true)


@np.errstate(divide="ignore")  # of the given frame, which is exact
def published_psnr(pred, true):
    """The same of predictions that may leave 0..1."""
    mse = ((pred - true).astype(float) ** 2).reshape(len(pred), -1).mean(1)
    return -10 * np.log10(mse)


def true_clip(data, i):
    files = sorted((data / f"test/test_truth/{i}").iterdir())
    return np.stack([decode(p, SIZE) for p in files]).transpose(0, 3, 1, 2) / 255


@pytest.mark.usefixtures("float64")
def test_scores_have_three_averages_of_which_two_are_also_as_published(run_test, trained):
    folder, printed = run_test()
    scores = scores_of(folder)
    names = {"psnr", "psnr_2023_tester", "psnr_competition"}
    assert names | {f"{name}_unclamped" for name in names - {"psnr"}} < set(scores["averages"])
    for i, pred in enumerate(rollouts(trained.best, trained.data)):
        true, found = true_clip(trained.data, i), scores["clips"][i]
        assert found["psnr"] == pytest.approx(psnr(pred, true)[1:].mean())
        rounded = psnr(np.rint(np.clip(pred, 0, 1) * 255) / 255, true)[1:601]
        assert found["psnr_competition"] == pytest.approx(rounded.mean())
        rounded = published_psnr(np.rint(pred * 255) / 255, true)[1:601]
        assert found["psnr_competition_unclamped"] == pytest.approx(rounded.mean())
    for name in scores["averages"]:
        mean = np.mean([clip[name] for clip in scores["clips"]])
        assert scores["mean"][name] == pytest.approx(mean)
        as_published = np.array([clip.get(f"{name}_unclamped", np.nan) for clip in scores["clips"]])
        clamped = np.array([clip[name] for clip in scores["clips"]])
        if not (abs(as_published - clamped) < 5e-4).all():  # else one of them is enough
            assert scores["averages"][name] in printed
            assert f"{mean:.3f}" in printed


@pytest.mark.usefixtures("float64")
def test_drift_is_compared_with_that_of_one_step_predictions(run_test, trained):
    folder, printed = run_test("--z_source", "mean")
    found = scores_of(folder)["clips"]
    model, clips = model_of(trained.best), dataloader.load_test_clips(trained.data, SIZE)
    for i, clip in enumerate(found):
        true, poses = torch.tensor(true_clip(trained.data, i)).float(), clips[i][1]
        values = []
        for t in range(1, len(true)):
            given = true[None, t - 1 : t]
            now = poses[None, [t, t]]  # a rollout of one step
            *_, step = model.rollout(given, now, noise_source("mean", 0, [0]))
            values.append(psnr(step.numpy(), true[t : t + 1].numpy()).item())
        half = max(len(values) // 2, 1)
        drift = np.mean(values[-half:]) - np.mean(values[:half])
        assert clip["psnr_one_step"] == pytest.approx(np.mean(values))
        assert clip["drift_one_step"] == pytest.approx(drift)
        assert f"{clip['drift']:+.3f}" in printed and f"{clip['drift_one_step']:+.3f}" in printed


def write_truth_csv(path, data):
    rows = to_rows([true_clip(data, i) for i in (0, 1)])
    lines = [",".join(["id", *map(str, range(VALUES))])]
    lines += [",".join(map(str, [i, *row])) for i, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")


def test_truth_gives_the_same_scores_as_folders_and_as_csv(run_test, trained, tmp_path):
    write_truth_csv(tmp_path / "truth.csv", trained.data)
    default = scores_of(run_test(name="a")[0])
    folders = scores_of(run_test("--truth", trained.data / "test/test_truth", name="b")[0])
    table = scores_of(run_test("--truth", tmp_path / "truth.csv", name="c")[0])
    assert default == folders == table


def test_public_and_private_scores_are_printed(run_test, tmp_path):
    data = make_dataset(tmp_path / "data", clips=[2] * 5)
    folder, printed = run_test(data=data)
    scores = scores_of(folder)["clips"]
    leaves_0_to_1 = "2024 clamped" in printed
    for key, word in (("psnr_competition_unclamped", ""), ("psnr_competition", "clamped, ")):
        found = [clip[key] for clip in scores]
        groups = {"public (clips 0-2)": found[:3], "private (clips 3-4)": found[3:]}
        for name, values in groups.items():
            line = f"competition, {word}{name}: {np.mean(values):.3f}"
            assert (line in printed) == (not word or leaves_0_to_1)


def test_futures_without_truth_are_refused(call, trained, tmp_path):
    data = make_dataset(tmp_path / "data")
    shutil.rmtree(data / "test/test_truth")
    places = ["--DR", data, "--save_root", tmp_path / "run", "--ckpt", trained.best]
    done = call("Tester", *places, "--n_samples", 2)
    assert done.code == 1 and "--truth" in done.err
    assert list((tmp_path / "run").iterdir()) == []


def test_without_truth_everything_but_scores_is_written(run_test, tmp_path):
    data = make_dataset(tmp_path / "data")
    shutil.rmtree(data / "test/test_truth")
    folder, printed = run_test("--make_gif", data=data)
    assert "there are no scores" in printed
    assert not (folder / "scores.json").exists()
    assert (folder / "submission.csv").exists()
    assert {p.name for p in (folder / "seq0").iterdir()} == {"pred_seq.gif", "pose.gif"}


# ---------------------------------------------------------------- flags at test


def test_flags_of_training_are_named_in_a_note(run_test):
    printed = run_test("--lr", 0.1, "--shuffle", "--kl_anneal_type", "None")[1]
    (note,) = [line for line in printed.splitlines() if line.startswith("note:")]
    for flag in ("--lr", "--shuffle", "--kl_anneal_type"):
        assert flag in note
    assert "--DR" not in note
    assert "note:" not in run_test("--make_gif", name="other")[1]


def test_a_file_damaged_after_writing_is_noticed_without_no_sanity(
    call, trained, tmp_path, monkeypatch
):
    write = report_rollouts.write_frames

    def damage(path, rows):
        write(path, rows)
        path.write_bytes(path.read_bytes()[:-3] + b"9\n")

    monkeypatch.setattr(report_rollouts, "write_frames", damage)
    places = ["--DR", trained.data, "--save_root", tmp_path / "run", "--ckpt", trained.best]
    done = call("Tester", *places)
    assert done.code == 1
    assert "submission.csv" in done.err
    assert call("Tester", *places, "--no_sanity").code == 0
