"""report.html in a real browser: from disk, without a network, on a desk and on a phone."""

import io
import json
import shutil
import subprocess
import sys
import time

import browser as chromium
import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from modules.files import write_csv, write_json
from modules.labs.pose import PoseLab
from modules.report import clips, figures, pages, pictures
from modules.report.reading import read_csv, read_run
from modules.report.summary import command
from modules.runs.folder import VAL_CLIP, VAL_FUTURES

pytestmark = pytest.mark.skipif(not chromium.find(), reason="no Chromium or Chrome on this machine")
LENGTH, HEIGHT, WIDTH, FRAME = 320, 16, 24, 314
EVIL = "<script>alert(1)</script>"


class Lab:
    given, frame_ms, fps, baseline = 1, 20, 30.0, "copy-first-frame baseline"
    frame_psnr, tracks = staticmethod(PoseLab.frame_psnr), PoseLab.tracks


def write_run(folder, seed=0, epochs=40, **settings):
    """A run folder with its curves, a clip of noise and two futures -> frames of the prediction."""
    folder.mkdir(parents=True)
    values = {"DR": "data", "seed": seed, "lab": "pose", "num_epoch": 40} | settings
    write_json(folder / "args.json", values)
    rows = [
        {"epoch": e, "train/loss": 0.9 * 0.5**e + 0.01 + 1e-3 * seed, "train/lr": 1e-3 * (e + 1)}
        | {"val/psnr": 20 + e / 3 + seed, "val/psnr_given_frame_repeated": 15.0}
        for e in range(epochs)
    ]
    write_csv(folder / "metrics.csv", rows)
    random = torch.Generator().manual_seed(seed)
    pred = torch.rand(LENGTH, 3, HEIGHT, WIDTH, generator=random)
    random.manual_seed(99)  # the truth is the same for all runs
    pose, true = torch.rand(2, LENGTH, 3, HEIGHT, WIDTH, generator=random)
    clips.write_rollout(folder / VAL_CLIP, "validation", Lab(), pose, pred, true)
    futures = (torch.rand(2, 9, 3, HEIGHT, WIDTH, generator=random) * 255).byte()
    clips.write_futures(folder / VAL_FUTURES, Lab(), true, futures)
    return folder


@pytest.fixture(scope="session")
def chrome(tmp_path_factory):
    one = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("one") / "run")
    pages.write_run_page(folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A page of four runs, two of them seeds, one unfinished, with a hostile name."""
    base = tmp_path_factory.mktemp("four")
    for seed in (0, 1):
        write_run(base / "runs" / "none" / f"s{seed}", seed, kl_anneal_type="None", tfr=0.0)
    write_run(base / "runs" / "short", 2, epochs=10, kl_anneal_type="None", tfr=1.0)
    write_run(base / "runs" / EVIL.replace("/", ":"), 3, tfr=0.5, kl_anneal_type=EVIL)
    return write_comparison(base / "runs", base / "page")


def write_comparison(runs, out):
    command = [sys.executable, ROOT / "scripts/compare.py", runs, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "report.html"


PIXELS = """[...document.querySelectorAll('canvas[aria-label]')].map(c => [c.ariaLabel,
    [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 < 3)])
"""


def pixels(chrome):
    """{label of a screen: what it shows (H, W, 3)}."""
    return {k: np.array(v, np.uint8).reshape(HEIGHT, WIDTH, 3) for k, v in chrome.run(PIXELS)}


def frame(chrome):
    return chrome.run("player.frame")


def middle(chrome, selector):
    """The middle of an element that is scrolled into view, and its size."""
    x, y, width, height = chrome.run(
        f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
        f" return [b.x + b.width / 2, b.y + b.height / 2, b.width, b.height] }})"
        f"(document.querySelector({json.dumps(selector)}))"
    )
    return x, y, width, height


# ---------------------------------------------------------------- the page


def test_the_page_opens_from_disk_without_errors_or_a_network(chrome, run_page, compared):
    for page in (run_page, compared):
        chrome.open(page)
        assert chrome.errors == []
        outside = [url for url in chrome.asked if not url.startswith(("data:", "about:"))]
        assert outside == [page.resolve().as_uri()]


@pytest.mark.parametrize("width", [390, 1280])
def test_no_width_scrolls_sideways(chrome, run_page, compared, width):
    for page in (run_page, compared):
        chrome.open(page, width=width, height=800)
        assert chrome.run("document.documentElement.scrollWidth") == width
        assert chrome.run("document.querySelectorAll('canvas[aria-label]').length") > 3


def test_dark_mode_is_dark_and_can_be_changed(chrome, run_page, tmp_path):
    def brightness():
        data = chrome.send("Page.captureScreenshot")["data"]
        return np.asarray(Image.open(io.BytesIO(chromium.base64.b64decode(data)))).mean()

    chrome.open(run_page)
    assert brightness() > 170
    chrome.open(run_page, dark=True)
    assert brightness() < 110
    chrome.run("document.getElementById('theme').click()")
    chrome.settle()
    assert brightness() > 170


def test_the_choice_of_light_or_dark_is_kept(chrome, run_page, compared):
    chrome.open(run_page)
    chrome.run("document.getElementById('theme').click()")
    for page in (run_page, compared):
        chrome.open(page)
        assert chrome.run("document.documentElement.dataset.theme") == "dark"
    chrome.run("localStorage.clear()")
    chrome.open(run_page)
    assert chrome.run("document.documentElement.dataset.theme") == "light"


def test_figures_are_dark_in_dark_mode(chrome, run_page, tmp_path):
    folder = shutil.copytree(run_page.parent, tmp_path / "run")
    (folder / "plots").mkdir()
    figures.draw_kl(folder / "plots/kl_per_dimension.png", [1.0, 2.0, 0.5])
    strip = np.full((2, 9, 9, 3), 40, np.uint8)
    pictures.draw_strip(folder / "val_strip.png", {"truth": strip}, range(2))
    pages.write_run_page(folder)
    for dark, ground in ((False, [255] * 3), (True, [20, 23, 27])):
        chrome.open(folder / "report.html", dark=dark)
        for selector in ("figure.plot img", "figure:not(.plot) img[alt^=film]"):
            x, y, width, height = middle(chrome, selector)
            area = {"x": x - width / 2, "y": y - height / 2, "width": width, "height": height}
            area["y"] += chrome.run("scrollY")
            shot = chrome.send("Page.captureScreenshot", clip=area | {"scale": 1})["data"]
            image = np.asarray(Image.open(io.BytesIO(chromium.base64.b64decode(shot))))[..., :3]
            assert (np.abs(image.reshape(-1, 3).astype(int) - ground) < 4).all(-1).mean() > 0.3


def test_a_page_of_a_run_that_trains_reloads_itself(chrome, run_page, tmp_path):
    folder = shutil.copytree(run_page.parent, tmp_path / "run")
    pages.write_run_page(folder, "training: 1 of 40 epochs done", live=True)
    page = folder / "report.html"
    page.write_text(page.read_text().replace('"reload_s":60', '"reload_s":0.5'))
    chrome.open(page)
    assert "done; written 2" in chrome.run("document.querySelector('.status').innerText")
    chrome.press("ArrowRight")
    chrome.run("old = true; 0")
    page.write_text(page.read_text().replace("training: 1 of", "training: 2 of"))
    end = time.monotonic() + 20
    while chrome.run("typeof old") == "boolean":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "training: 2 of" in chrome.run("document.querySelector('.status').innerText")
    assert chrome.run("location.hash") == f"#frame={LENGTH // 2 + 1}"


# ---------------------------------------------------------------- the player


def test_frame_314_has_the_pixels_of_the_run(chrome, run_page):
    chrome.open(run_page, after=f"#frame={FRAME}")
    assert frame(chrome) == FRAME
    shown, known = pixels(chrome), clips.frames_of(run_page.parent / VAL_CLIP)
    for label in ("pose", "truth", "prediction"):
        np.testing.assert_array_equal(shown[f"{label}, frame {FRAME}"], known[label][FRAME])
    assert shown[f"error, frame {FRAME}"].any()
    random = torch.Generator().manual_seed(0)
    pred = torch.rand(LENGTH, 3, HEIGHT, WIDTH, generator=random)[FRAME]
    expected = (pred * 255).round().byte().movedim(0, -1).numpy()  # nothing is lost but the float
    np.testing.assert_array_equal(shown[f"prediction, frame {FRAME}"], expected)


def test_the_error_map_is_black_where_the_prediction_is_right(chrome, run_page, tmp_path):
    folder = shutil.copytree(run_page.parent, tmp_path / "right")
    true = torch.rand(4, 3, HEIGHT, WIDTH)
    pred = true.clone()
    pred[:, :, 0] = 1 - pred[:, :, 0]
    clips.write_rollout(folder / VAL_CLIP, "validation", Lab(), true, pred, true)
    pages.write_run_page(folder)
    chrome.open(folder / "report.html", after="#frame=2")
    error = pixels(chrome)["error, frame 2"].astype(int)
    assert (error[1:] == [0, 0, 4]).all()  # the darkest colour of its scale
    assert error[0].sum(-1).mean() > 100


def test_a_click_on_the_curve_goes_to_its_frame(chrome, run_page):
    chrome.open(run_page)
    x, y, width, _ = middle(chrome, "#player .chart svg")
    chrome.click(x, y)
    there = frame(chrome)
    left, right = 56, 12  # of the chart, outside of its axes
    share = (width / 2 - left) / (width - left - right)
    assert there == pytest.approx(1 + share * (LENGTH - 2), abs=2)
    mark = chrome.run("document.querySelector('#player .mark').getBoundingClientRect().x")
    assert mark == pytest.approx(x, abs=3)
    assert f"frame {there}" in next(iter(pixels(chrome)))


def test_play_pause_step_scrub_and_speed(chrome, run_page):
    chrome.open(run_page)
    assert chrome.run("document.activeElement === document.body")  # a fresh page
    assert frame(chrome) == LENGTH // 2  # where prediction and truth differ
    chrome.press("ArrowRight")
    chrome.press("ArrowRight")
    chrome.press("ArrowLeft")
    assert frame(chrome) == LENGTH // 2 + 1
    chrome.press("End")
    assert frame(chrome) == LENGTH - 1
    chrome.press("Home")
    chrome.press(" ", "Space", " ")
    chrome.run("new Promise(f => setTimeout(f, 500))")
    chrome.press(" ", "Space", " ")
    stopped = frame(chrome)
    assert 5 < stopped < 300 and not chrome.run("Boolean(player.playing)")
    chrome.run("new Promise(f => setTimeout(f, 100))")
    assert frame(chrome) == stopped
    chrome.run("player.scrub.value = 200; player.scrub.dispatchEvent(new Event('input'))")
    assert frame(chrome) == 200


def test_a_clip_plays_at_the_frame_rate_of_its_data(chrome, run_page):
    chrome.open(run_page, after="#frame=15")
    assert "frame 15 of 0..319, 0.50 s" in chrome.run("player.at.textContent")
    chrome.run(
        "start = performance.now(); player.play(); new Promise(f => setTimeout(f, 1000))"
        ".then(() => { player.pause(); gone = performance.now() - start })"
    )
    shown, seconds = chrome.run("[player.frame - 15, gone / 1000]")
    assert shown == pytest.approx(30 * seconds, abs=5)  # at 50 frames/s it is 20 more


def test_keys_scroll_the_page_where_the_player_is_out_of_sight(chrome, run_page):
    chrome.open(run_page, height=300)
    chrome.run("scrollTo(0, document.body.scrollHeight)")
    before = frame(chrome)
    chrome.press("ArrowRight")
    chrome.press("Home")
    assert frame(chrome) == before


def test_sampled_futures_play_side_by_side(chrome, run_page):
    chrome.open(run_page)
    chrome.run("player.open(1).then(() => player.seek(5))")
    shown, known = pixels(chrome), clips.frames_of(run_page.parent / VAL_FUTURES)
    for label in ("truth", "future 1", "future 2"):
        np.testing.assert_array_equal(shown[f"{label}, frame 5"], known[label][5])


def test_the_same_clip_of_several_runs_plays_in_step(chrome, compared):
    chrome.open(compared, after=f"#frame={FRAME}")
    shown, runs = pixels(chrome), compared.parents[1] / "runs"
    assert len(shown) == 2 + 2 * 4  # pose and truth are the same for all
    for name in ("none/s0", "none/s1", "short"):
        expected = clips.frames_of(runs / name / VAL_CLIP)["prediction"][FRAME]
        np.testing.assert_array_equal(shown[f"{name}, frame {FRAME}"], expected)
    assert compared.read_text().count('type="text/plain"') == 2 + 4


# ---------------------------------------------------------------- curves


def test_the_curves_are_those_of_metrics_csv(chrome, run_page):
    chrome.open(run_page)
    charts = {c["name"]: c for c in chrome.run("DATA.charts")}
    rows = read_csv(run_page.parent / "metrics.csv")
    for name, column in (("loss", "train/loss"), ("lr", "train/lr"), ("psnr", "val/psnr")):
        line = charts[name]["panels"][0]["series"][0]
        assert line["x"] == [row["epoch"] for row in rows]
        assert line["y"] == [row[column] for row in rows]
    assert charts["loss"]["log"] and not charts["lr"]["log"]  # the first epochs flatten the loss
    assert charts["psnr"]["panels"][0]["series"][-1]["baseline"]


def test_a_curve_tells_its_values(chrome, run_page):
    chrome.open(run_page)
    x, y, *_ = middle(chrome, "#charts .chart svg")
    chrome.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    chrome.settle()
    tip = chrome.run("document.querySelector('#charts .tip').innerText").splitlines()
    epoch = int(tip[0].removeprefix("epoch "))
    row = read_csv(run_page.parent / "metrics.csv")[epoch]
    assert tip[1] == "training" and float(tip[2]) == pytest.approx(row["train/loss"], rel=1e-4)


def test_a_line_is_switched_off_and_on(chrome, compared):
    chrome.open(compared)
    count = "document.querySelectorAll('#charts .line').length"
    button = "[...document.querySelectorAll('#charts .legend button')]"
    button += ".find(b => b.textContent.startsWith('none (2 runs)'))"
    before = chrome.run(count)
    chrome.run(f"{button}.click()")
    assert chrome.run(count) < before
    assert chrome.run(f"{button}.ariaPressed") == "false"
    chrome.run(f"{button}.click()")
    assert chrome.run(count) == before


# ---------------------------------------------------------------- tables and text


def column(chrome, heading):
    return chrome.run(
        "(t => { const i = [...t.tHead.rows[0].cells].findIndex(c => c.textContent ==="
        f" {json.dumps(heading)}); return [...t.tBodies[0].rows].map(r => r.cells[i].textContent)"
        " })(document.querySelector('table'))"
    )


def test_a_table_is_sorted_by_a_click_on_its_heading(chrome, compared):
    chrome.open(compared)
    for descending in (True, False):
        chrome.run(
            "[...document.querySelectorAll('th button')].find(b => b.textContent ==="
            " 'best val PSNR').click()"
        )
        values = [float(text.split()[0]) for text in column(chrome, "best val PSNR")]
        assert values == sorted(values, reverse=descending)
    assert chrome.run("document.querySelectorAll('th[aria-sort=ascending]').length") == 1


def test_the_command_is_copied(chrome, run_page):
    chrome.open(run_page)
    chrome.run(
        "copied = null; navigator.clipboard.writeText = async (text) => { copied = text };"
        "document.querySelector('#command button').click()"
    )
    assert chrome.run("copied") == command(read_run(run_page.parent))


def test_names_stay_text(chrome, compared):
    chrome.open(compared)
    assert chrome.errors == []
    text = chrome.run("document.body.innerText")
    assert EVIL.replace("/", ":") in text and EVIL in text
    assert chrome.run("document.querySelectorAll('script:not([id])').length") == 1
    assert "<script>alert" not in compared.read_text()
