"""scripts/make_toy_data.py: its worlds, the open futures of three of them, and their readers."""

import hashlib
import sys
from functools import cache

import numpy as np
import pytest
import torch
from helpers import ROOT, settings_of
from PIL import Image

from modules.data.open_world import read_entropy, read_events, read_futures
from modules.errors import UserError
from modules.labs.robot import RobotLab

sys.path.insert(0, str(ROOT / "scripts"))
import make_toy_data
from toy import disc, lamps, robot, slippery

CLIP = 40  # frames of a take, here
SMALL = {
    "pose": "--height 32 --train_frames 4 --test_clips 2 --workers 1".split(),
    "robot": "--lab robot --train_clips 1 --eval_clips 3 --workers 1".split(),
}
LAB = {"lamps": "pose", "slippery": "robot", "disc": "robot"}
GIVEN = {"pose": 1, "robot": 2}
FUTURES = 4
ROBOT_WORLDS = {"disc": disc, "slippery": slippery}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """make(world, seed) -> the folder of a small data set; no test changes it."""

    @cache
    def run(world, seed=0):
        root = tmp_path_factory.mktemp("worlds") / "data"
        draw_world(root, world, "--seed", str(seed))
        return root

    return run


def draw_world(root, world, *flags):
    """Call the script in this process, on takes of CLIP frames."""
    lab = LAB.get(world, "pose")
    futures = ("--futures", str(FUTURES)) if world in LAB else ()
    flags = str(root), *SMALL[lab], "--world", world, *futures, *flags
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_toy_data, "CLIP", CLIP)
        patch.setattr(make_toy_data, "draw_all", draw_one_by_one)
        patch.setattr(sys, "argv", ["make_toy_data.py", *flags])
        make_toy_data.main()


def draw_one_by_one(draw, jobs, total, workers):
    assert sum(draw(job) for job in jobs) == total


def hashes(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def image(path):
    return np.asarray(Image.open(path))


def frames_of_test_clip(root, lab, clip):
    """The frames of a test clip, decoded without any code of the package."""
    if lab == "pose":
        return np.array([image(p) for p in sorted((root / f"test/test_truth/{clip}").glob("*"))])
    folder = next((root / "test").glob("*")) / str(clip)
    return np.array([image(folder / f"{t}.png") for t in range(robot.LENGTH)])


@pytest.fixture(params=LAB)
def world(request):
    return request.param


# ---------------------------------------------------------------- all worlds


def test_a_seed_gives_the_same_bytes_and_another_seed_others(world, make, monkeypatch, tmp_path):
    root = make(world)
    names = hashes(root)
    assert "events/val.csv" in names and "futures/0.npz" in names
    monkeypatch.setattr("time.time", lambda: 2e9)  # no file may store the time of day
    draw_world(tmp_path / "again", world)
    assert hashes(tmp_path / "again") == names
    other = hashes(make(world, 1))
    assert other.keys() == names.keys()
    same = "about.json", "entropy.json", "actions.csv", "endeffector_positions.csv"  # or zeros
    names = {n: digest for n, digest in names.items() if not n.endswith(same)}
    if world == "slippery":  # frames before the first push, and with them motions, may be equal
        names = {n: digest for n, digest in names.items() if n.startswith(("futures/", "events/"))}
    assert len(names) > 2 and all(other[name] != digest for name, digest in names.items())


def test_worker_processes_draw_the_same(make, monkeypatch, tmp_path):
    flags = [*SMALL["robot"], "--world", "disc", "--futures", str(FUTURES), "--workers", "2"]
    monkeypatch.setattr(sys, "argv", ["make_toy_data.py", str(tmp_path / "again"), *flags])
    make_toy_data.main()
    assert hashes(tmp_path / "again") == hashes(make("disc"))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--world disc", "--world disc belongs to --lab robot"),
        ("--lab robot --world lamps", "--world lamps belongs to --lab pose"),
        ("--futures 3", "not to --world dancer"),
        ("--lab robot --futures 3", "not to --world arm"),
        ("--world lamps --futures 0", "must be at least 1 and at most 1000"),
        (f"--seed {'9' * 5000}", "must be an integer"),
        ("--world moon", "invalid choice"),
    ],
)
def test_flags_without_effect_are_refused(flags, named, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        make_toy_data.parse_arguments([str(tmp_path / "data"), *flags.split()])
    assert stop.value.code == 2 and named in capsys.readouterr().err


# ---------------------------------------------------------------- futures and events


def test_futures_have_the_clips_past_and_differ_later(world, make):
    root, lab = make(world), LAB[world]
    events = read_events(root, "test")
    for clip in range(2):
        truth = frames_of_test_clip(root, lab, clip)
        futures = np.load(root / f"futures/{clip}.npz")["frames"]
        assert futures.dtype == np.uint8
        assert futures.shape == (FUTURES, 31 if lab == "pose" else 30, *truth.shape[1:])
        assert (futures[:, : GIVEN[lab]] == truth[: GIVEN[lab]]).all()
        courses = [truth[: futures.shape[1]], *futures]
        pairs = [(a, b) for i, a in enumerate(courses) for b in courses[:i]]
        assert all((a != b).any() for a, b in pairs)
        if lab == "robot":  # the first event is where all futures part
            first = events[clip][0]
            assert first >= GIVEN[lab]
            assert (futures[:, :first] == truth[:first]).all()
            assert all((a[first] != b[first]).any() for a, b in pairs)


def test_the_events_of_a_split_are_those_of_its_clips(make):
    for name, world in ROBOT_WORLDS.items():
        for split, stream in (("val", make_toy_data.VAL), ("test", make_toy_data.TEST)):
            listed = read_events(make(name), split)
            for clip in range(3):
                rng = np.random.default_rng([0, stream, clip])
                _, events = world.play(rng, world.begin(rng))
                assert listed.get(clip, []) == list(np.flatnonzero(events))


# ---------------------------------------------------------------- disc


def test_a_disc_flies_from_wall_to_wall_and_leaves_in_all_directions():
    angles, middle = [], (disc.LOW + disc.HIGH) / 2
    for seed in range(60):
        rng = np.random.default_rng(seed)
        path, events = disc.play(rng, disc.begin(rng))
        assert len(path) == robot.LENGTH and not events[: GIVEN["robot"]].any()
        assert disc.LOW <= path.min() and path.max() <= disc.HIGH
        steps, touches = np.diff(path, axis=0), np.flatnonzero(events) - 1
        at_wall = np.isclose(abs(path - middle), disc.HIGH - middle).any(1)
        assert np.array_equal(np.flatnonzero(at_wall[:-1]), touches)  # whole steps: never clipped
        assert np.allclose(steps[1:][~events[2:]], steps[:-1][~events[2:]])  # straight lines
        length = np.hypot(*steps.T)
        assert (abs(length - disc.SPEED) <= disc.SPEED / 5).all()
        assert (np.diff(touches) >= 3).all()
        for t in touches:
            wall = np.isclose(path[t], disc.LOW) * 1.0 - np.isclose(path[t], disc.HIGH)
            if abs(wall).sum() == 1:
                side = wall[0] * steps[t, 1] - wall[1] * steps[t, 0]
                angles.append(np.degrees(np.arctan2(side, (wall * steps[t]).sum())))
    assert len(angles) > 150
    assert np.degrees(disc.STEEP) - 5 < max(angles) <= np.degrees(disc.STEEP) + 1e-6
    quarters, _ = np.histogram(angles, 4, (-70, 70))
    assert quarters.min() > 0.15 * len(angles)


# ---------------------------------------------------------------- slippery


def contact(path, hand):
    """The gap (T,) between hand and puck, in pixels."""
    return np.hypot(path[:, 0] - hand, path[:, 1] - 32) - slippery.PUCK - slippery.HAND


def test_commands_move_the_hand_and_do_not_depend_on_outcomes():
    for seed in range(10):
        start = slippery.begin(np.random.default_rng(seed))
        before = [part.copy() for part in start]
        paths = [slippery.play(np.random.default_rng([seed, k]), start)[0] for k in range(3)]
        assert all((paths[0] != path).any() for path in paths[1:])
        assert all(np.array_equal(a, b) for a, b in zip(before, start))
        actions, positions = slippery.tables(start)
        assert actions.shape == (robot.LENGTH, 4) and positions.shape == (robot.LENGTH, 3)
        assert np.allclose(positions[1:, :2], positions[:-1, :2] + actions[:-1, :2])
        assert np.allclose(positions[:, 0], 0.01 * start[0][: robot.LENGTH])


def test_a_push_is_a_touch_and_sends_the_puck_off_at_random():
    angles, speeds, pauses, firsts = [], [], [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        start = slippery.begin(rng)
        path, events = slippery.play(rng, start)
        gap = contact(path, start[0][: robot.LENGTH])
        assert gap.min() > -1e-9  # they never overlap
        pushes = np.flatnonzero(events)
        assert len(path) == robot.LENGTH and pushes[0] >= GIVEN["robot"]
        assert np.array_equal(pushes - 1, np.flatnonzero(gap[:-1] < 1e-9))
        assert (path[pushes - 1] == slippery.HOME).all()  # it came back before the next push
        way = path[pushes] - slippery.HOME
        angles += list(np.degrees(np.arctan2(way[:, 1], way[:, 0])))
        speeds += list(np.hypot(*way.T))
        pauses += list(np.diff(pushes) - 2 * slippery.STEPS)
        firsts.append(pushes[0])
        assert path.min() > slippery.PUCK and path.max() < 64 - slippery.PUCK  # in the picture
    assert -75 <= min(angles) < -70 and 70 < max(angles) <= 75
    assert 4 <= min(speeds) < 4.1 and 5.9 < max(speeds) <= 6
    assert set(pauses) == {0, 1, 2, 3} and set(firsts) == {5, 6, 7, 8}


# ---------------------------------------------------------------- true entropy


def test_the_entropy_of_lamps_is_that_of_their_toggles():
    """Of all eight outcomes of a frame, with their probabilities."""
    p = np.array([[1 - lamps.RATE, lamps.RATE]] * 3)
    outcomes = np.einsum("i,j,k->ijk", *p).ravel()
    nats = -np.log(outcomes)
    assert outcomes @ nats == pytest.approx(0.404, abs=5e-4)
    event = (outcomes[1:] @ nats[1:]) / outcomes[1:].sum()
    assert lamps.ENTROPY == pytest.approx({"event": event, "other": nats[0]})
    assert (event, nats[0], nats[1]) == pytest.approx((3.67, 0.09, 3.57), abs=0.005)


def test_the_entropy_of_a_slide_is_that_of_its_first_place():
    """A uniform direction and speed, in cells of a twentieth of a pixel: 400 a square pixel."""
    rng, count = np.random.default_rng(0), 2_000_000
    angle, speed = rng.uniform(-slippery.TURN, slippery.TURN, count), rng.uniform(4, 6, count)
    cells = np.floor(20 * np.stack((speed * np.cos(angle), speed * np.sin(angle)), 1)).astype(int)
    _, counts = np.unique(cells[:, 0] * 1000 + cells[:, 1], return_counts=True)
    share = counts / count
    nats = -(share * np.log(share)).sum() - np.log(20**2)
    assert slippery.ENTROPY["event"] == pytest.approx(nats, abs=0.02)  # cells cross the border
    assert slippery.ENTROPY["other"] == disc.ENTROPY["other"] == 0


def test_the_entropy_of_a_bounce_is_that_of_the_directions_that_are_long_enough():
    rng, nats = np.random.default_rng(0), []
    angles = np.linspace(-disc.STEEP, disc.STEEP, 100)
    for _ in range(150):
        path, events = disc.play(rng, disc.begin(rng))
        for place in path[np.flatnonzero(events) - 1]:
            wall = (place < disc.LOW + 1e-6) * 1.0 - (place > disc.HIGH - 1e-6)
            normal = np.arctan2(wall[1], wall[0])
            ways, steps = zip(*(disc.flight(place, normal + angle) for angle in angles))
            free = np.array(ways) >= disc.FREE
            arc = 2 * disc.STEEP * free.mean() * np.linalg.norm(steps, axis=1)[free].mean()
            nats.append(np.log(arc))
    error = np.std(nats) / len(nats) ** 0.5
    assert disc.ENTROPY["event"] == pytest.approx(np.mean(nats), abs=4 * error + 0.005)


def test_a_data_set_states_its_entropy(world, make, tmp_path):
    stated = {"lamps": lamps, **ROBOT_WORLDS}[world].ENTROPY
    assert read_entropy(make(world)) == pytest.approx(stated)
    assert read_entropy(make("dancer")) is None
    (tmp_path / "events").mkdir()
    for text in ("{", "[1, 2]", '{"event": 1}', '{"event": "x", "other": 0}'):
        (tmp_path / "events/entropy.json").write_text(text)
        with pytest.raises(UserError, match="must hold the numbers event and other"):
            read_entropy(tmp_path)


# ---------------------------------------------------------------- lamps


def test_lamps_toggle_as_often_as_stated():
    rng = np.random.default_rng(0)
    starts = np.array([lamps.begin(rng) for _ in range(400)])
    lit, events = lamps.play(rng, starts[0], 20_000)
    assert (abs(starts.mean(0) - 0.5) < 0.1).all() and (lit[0] == starts[0]).all()
    toggles = lit[1:] != lit[:-1]
    assert (abs(toggles.mean(0) - lamps.RATE) < 0.005).all()
    assert abs(toggles.all(1).mean() - lamps.RATE**3) < 1e-3  # independent
    assert np.array_equal(events, [False, *toggles.any(1)])


def test_every_toggle_is_an_event_and_visible_at_the_training_size(make):
    root = make("lamps")
    assert set(read_events(root, "val")) == {0}
    for clip, shown in read_events(root, "test").items():
        frames = frames_of_test_clip(root, "pose", clip).astype(int)
        lit, events = make_lit(clip)
        assert shown == list(np.flatnonzero(events))
        for t in shown:
            for lamp in np.flatnonzero(lit[t] != lit[t - 1]):
                x, y = lamps.PLACES[lamp]
                at = np.s_[round(32 * y) - 1 : round(32 * y) + 1, round(32 * (x + 1))]
                assert abs(frames[t][at] - frames[t - 1][at]).max() > 80


def make_lit(clip):
    rng = np.random.default_rng([0, make_toy_data.LAMPS, make_toy_data.TEST, clip])
    return lamps.play(rng, lamps.begin(rng), CLIP)


# ---------------------------------------------------------------- readers


def test_futures_are_resized_as_frames_are(make):
    for name, size in (("disc", (64, 64)), ("disc", (20, 30)), ("lamps", (12, 16))):
        stored = np.load(make(name) / "futures/1.npz")["frames"]
        futures = read_futures(make(name), 1, size)
        assert futures.dtype == torch.uint8 and futures.is_contiguous()
        assert futures.shape == (*stored.shape[:2], 3, *size)
        picture = Image.fromarray(stored[3, 7]).resize((size[1], size[0]), Image.BILINEAR)
        assert np.array_equal(futures[3, 7].permute(1, 2, 0), picture)


def test_the_files_are_found_in_nested_folders_or_not_at_all(make, tmp_path):
    inner = tmp_path / "outer" / "inner"
    inner.parent.mkdir()
    inner.symlink_to(make("disc"))
    assert read_events(tmp_path, "val") == read_events(make("disc"), "val")
    assert read_futures(tmp_path, 0, (64, 64)) is not None
    assert read_futures(tmp_path, 99, (64, 64)) is None
    assert read_events(make("dancer"), "test") is None
    with pytest.raises(UserError, match="is not a folder"):
        read_events(tmp_path / "nowhere", "val")


@pytest.mark.parametrize(
    "text",
    [
        b"clip\n0\n", b"clip,frame\n0\n", b"clip,frame\n0,1.5\n", b"clip,frame\n0,x\n",
    ],
)  # fmt: skip
def test_a_bad_list_of_events_is_named(text, tmp_path):
    (tmp_path / "events").mkdir()
    (tmp_path / "events/val.csv").write_bytes(text)
    with pytest.raises(UserError, match=r"events/val\.csv"):
        read_events(tmp_path, "val")


@pytest.mark.parametrize("length", [1, 2])
def test_futures_without_a_predicted_frame_are_refused(length, tmp_path):
    (tmp_path / "futures").mkdir()
    frames = np.zeros((3, length, 64, 64, 3), np.uint8)
    make_toy_data.write_futures(tmp_path / "futures/0.npz", frames)
    lab = RobotLab(settings_of(["--DR", tmp_path], "Tester", "robot"))
    with pytest.raises(UserError, match=r"futures/0\.npz has no frame after the given 2"):
        lab.true_futures([torch.zeros(30, 3, 64, 64)])
