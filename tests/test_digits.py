"""make_toy_data.py --world digits: its dynamics, its digits, and a run without csv files."""

import io
import struct
import sys

import numpy as np
import pytest
from helpers import ROBOT_SIZES, ROOT
from PIL import Image
from test_worlds import draw_one_by_one, hashes

from dataloader import Dataset_Robot
from modules.data.open_world import read_events, read_futures
from modules.errors import UserError

sys.path.insert(0, str(ROOT / "scripts"))
import make_toy_data
from toy import digits, robot

TRAIN, OTHERS = 10, 7  # grey levels of the scans below: where two overlap, twice as many
LAST = digits.ROOM - 1


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def scans(level, count):
    return np.full((count, 28, 28), level, np.uint8)


MNIST = npz(x_train=scans(TRAIN, 12), x_test=scans(OTHERS, 2))


def draw(folder, *flags):
    """Call the script in this process -> the data set."""
    (folder.parent / "mnist.npz").write_bytes(MNIST)
    words = "--lab robot --world digits --train_clips 2 --eval_clips 2 --futures 3 --workers 1"
    words = [str(folder), *words.split(), "--digits", str(folder.parent / "mnist.npz"), *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_toy_data, "draw_all", draw_one_by_one)
        patch.setattr(sys, "argv", ["make_toy_data.py", *words])
        make_toy_data.main()
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("digits") / "data")


class Redrawn:
    """The random numbers of one seed, and from draw `kept` on those of another."""

    def __init__(self, seed, kept, other):
        self.first, self.then = np.random.default_rng(seed), np.random.default_rng(other)
        self.kept, self.draws = kept, 0

    def integers(self, *bounds):
        self.draws += 1
        return (self.first if self.draws <= self.kept else self.then).integers(*bounds)


# ---------------------------------------------------------------- dynamics


def test_a_digit_flies_straight_and_leaves_walls_at_all_velocities():
    away, along = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        path, events = digits.play(rng, digits.begin(rng))
        assert path.shape == (robot.LENGTH, 2, 2) and path.min() >= 0 and path.max() <= LAST
        shown = np.zeros(robot.LENGTH, bool)
        for course in path.swapaxes(0, 1):
            inside = ((course > 0) & (course < LAST)).all(1)
            for t in np.flatnonzero(inside[1:-1]) + 1:
                straight = course[t] + course[t] - course[t - 1]
                assert np.array_equal(course[t + 1], straight.clip(0, LAST))
            for t in range(1, robot.LENGTH - 1):
                before, step = course[t] - course[t - 1], course[t + 1] - course[t]
                on_wall = (course[t] == 0) | (course[t] == LAST)
                if on_wall.sum() == 1 and inside[t + 1] and (step != before).any():
                    axis = int(on_wall[1])
                    away.append(step[axis] if course[t, axis] == 0 else -step[axis])
                    along.append(step[1 - axis])
                    shown[t + 1] = True
        assert events[digits.GIVEN :][shown[digits.GIVEN :]].all()
    for found, values in ((away, range(1, 5)), (along, range(-4, 5))):
        shares = [found.count(value) / len(found) for value in values]
        assert sum(shares) == pytest.approx(1) and min(shares) > 0.6 / len(shares)


def test_events_are_the_frames_where_an_outcome_first_shows():
    for seed in range(20):
        start = digits.begin(np.random.default_rng(seed))
        whole = Redrawn(seed, 10**6, 0)
        path, events = digits.play(whole, start)
        parted = set()
        for kept, other in ((k, o) for k in range(whole.draws) for o in range(100, 106)):
            course, _ = digits.play(Redrawn(seed, kept, other), start)
            parted |= set(np.flatnonzero((course != path).any((1, 2)))[:1])
        events = set(np.flatnonzero(events))
        assert events <= parted and min(events, default=digits.GIVEN) >= digits.GIVEN
        # at a second wall one outcome can be cut to look like another, for a frame
        assert {t - 1 for t in parted - events} <= events


# ---------------------------------------------------------------- the data set


def test_a_seed_gives_the_same_bytes_and_another_seed_others(data, tmp_path):
    names = hashes(data)
    assert hashes(draw(tmp_path / "again")) == names
    other = hashes(draw(tmp_path / "other", "--seed", "1"))
    assert other.keys() == names.keys()
    assert {name for name in names if other[name] == names[name]} <= {
        "about.json",
        "events/entropy.json",
    }


def test_futures_share_the_given_frames_and_no_digit_is_in_two_splits(data):
    for split, level in (("train", TRAIN), ("validate", OTHERS), ("test", OTHERS)):
        frames = [np.asarray(Image.open(path)) for path in (data / split).rglob("*.png")]
        assert set(np.unique(frames)) <= {0, level, 2 * level}
    for clip in range(2):
        frames = Dataset_Robot(data, "test", 30, "--n_eval", conditioned=False)[clip][0]
        futures = read_futures(data, clip, (64, 64)) / 255
        assert (futures[:, : digits.GIVEN] == frames[: digits.GIVEN]).all()
        assert all((future != frames).any() for future in futures)
        first = min(read_events(data, "test")[clip])
        assert first >= digits.GIVEN


def test_a_run_needs_no_csv_file_without_conditions(call, data, tmp_path, no_plots):
    assert not list(data.rglob("actions.csv"))
    line = f"--lab robot {ROBOT_SIZES} --n_past 5 --n_future 4 --n_eval 10 --epoch_size 1 --niter 1"
    words = *line.split(), "--nets", "dcgan", "--batch_size", 2, "--device", "cpu"
    refused = call("Trainer", "--DR", data, "--save_root", tmp_path / "no", *words)
    assert refused.code == 1 and "actions.csv is missing" in refused.err
    assert "--condition none" in refused.err
    run = tmp_path / "run"
    places = "--DR", data, "--save_root", run
    trained = call("Trainer", *places, *words, "--condition", "none")
    assert trained.code == 0, trained.err
    tested = call("Tester", *places, "--ckpt_path", run / "last.ckpt", "--n_future", 5)
    assert tested.code == 0, tested.err


# ---------------------------------------------------------------- digits from elsewhere


def idx(*shape, magic=digits.IDX, count=None):
    size = int(np.prod(shape)) if count is None else count
    return magic + struct.pack(f">{len(shape)}I", *shape) + bytes(i % 251 for i in range(size))


def test_mnists_files_are_read(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(8, 3, 2))
    train, others = (digits.read_scans(path, part) for part in (True, False))
    values = np.arange(8 * 3 * 2).reshape(8, 3, 2)
    assert np.array_equal(train, values[:7]) and np.array_equal(others, values[7:])


HOSTILE = {
    "empty": b"",
    "text": b"no digits",
    "packed": b"\x1f\x8b\x08\x00",
    "labels": idx(8, magic=b"\0\0\x08\x01"),
    "cut header": digits.IDX + b"\0\0",
    "too short": idx(8, 3, 2, count=47),
    "too large": idx(2**32 - 1, 2**32 - 1, 2**32 - 1, count=1),
    "no digit": idx(0, 28, 28),
    "few": idx(3, 28, 28),
    "no rows": idx(8, 0, 28),
    "other names": npz(images=scans(1, 8)),
    "floats": npz(x_train=np.zeros((8, 2, 2)), x_test=np.zeros((2, 2, 2))),
    "flat": npz(x_train=np.zeros((8, 4), np.uint8), x_test=np.zeros((2, 4), np.uint8)),
    "objects": npz(x_train=np.array([{}, None], object), x_test=np.array([None], object)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_file_of_digits_is_named(name, tmp_path):
    path = tmp_path / "digits"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(UserError, match=f"--digits {path}") as error:
        digits.read_scans(path, True)
    assert "\n" not in str(error.value)


def test_without_scikit_learn_the_message_names_it_and_the_flag(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn.*--digits FILE") as error:
        digits.read_scans(None, True)
    assert "\n" not in str(error.value)


def test_scikit_learns_scans():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    train, others = (digits.read_scans(None, part) for part in (True, False))
    assert (len(train), len(others)) == (1541, 256) and train.max() == 255


def test_the_flag_belongs_to_this_world(capsys):
    with pytest.raises(SystemExit):
        make_toy_data.parse_arguments("data --lab robot --digits mnist.npz".split())
    assert "--digits belongs to --world digits, not to --world arm" in capsys.readouterr().err
