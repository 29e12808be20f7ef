"""beta, tfr and lr of every epoch: against tables computed by hand, against the published
annealing algorithm, and against torch's schedulers."""

import random
from fractions import Fraction

import pytest
import torch
from helpers import settings_of

from modules.cli.parser import parse
from modules.config import PoseTraining
from modules.errors import UserError
from modules.files import write_csv
from modules.training import schedules
from modules.training.schedules import kl_annealing
from Trainer import Trainer

frange_cycle_linear = kl_annealing.frange_cycle_linear


def table(column, line):
    settings = settings_of(line, lab="robot" if "robot" in line else "pose")
    return [row[column] for row in schedules.table(settings)]


def near(values):
    return pytest.approx(values, rel=1e-9, abs=1e-12)


# ---------------------------------------------------------------- beta

BETAS = {  # flags -> beta of every epoch; {c} stands for --kl_anneal_cycle, {r} for its ratio
    "--num_epoch 8 {c} 2": [0, 0.25, 0.5, 0.75] * 2,
    "--num_epoch 10 {c} 2 {r} 0.5": [0, 0.4, 0.8, 1, 1] * 2,
    "--num_epoch 7 {c} 2": [0, 2 / 7, 4 / 7, 0, 2 / 7, 4 / 7, 6 / 7],
    "--num_epoch 10 {c} 3 {r} 0.5": [0, 0.6, 1, 0, 0.6, 1, 0, 0.6, 1, 1],
    "--num_epoch 6 {c} 1 {r} 0.5 --kl_anneal_stop 0.6": [0, 0.2, 0.4] + [0.6] * 3,
    "--num_epoch 4 {c} 2 {r} 0": [1, 1, 1, 1],
    "--num_epoch 1 {c} 1": [0],
    "--num_epoch 4 {c} 4": [0, 0, 0, 0],
    "--num_epoch 5 --kl_anneal_type Monotonic": [0, 0.2, 0.4, 0.6, 0.8],
    "--num_epoch 8 --kl_anneal_type Monotonic {r} 0.5": [0, 0.25, 0.5, 0.75, 1, 1, 1, 1],
    "--num_epoch 6 --kl_anneal_type Monotonic {r} 0.25 {c} 3": [0, 2 / 3, 1, 1, 1, 1],
    "--num_epoch 3 --kl_anneal_type None --kl_anneal_stop 0.5": [0.5] * 3,
    "--num_epoch 4 --kl_anneal_type None --pretrain_epochs 2": [0, 0, 1, 1],
    "--num_epoch 6 {c} 2 {r} 1.5": [0, 2 / 9, 4 / 9] * 2,
    "--num_epoch 4 --kl_anneal_type Monotonic {r} 2 --kl_anneal_stop 0.8": [0, 0.1, 0.2, 0.3],
    "--num_epoch 6 {c} 2 --pretrain_epochs 2": [0, 0, 0, 0.5, 0, 0.5],
    "--num_epoch 5 --kl_anneal_type Monotonic --pretrain_epochs 3": [0, 0, 0, 0, 0.5],
}


@pytest.mark.parametrize("flags", BETAS)
def test_beta_is_the_table_computed_by_hand(flags):
    line = flags.format(c="--kl_anneal_cycle", r="--kl_anneal_ratio")
    assert table("beta", line) == near(BETAS[flags])


def published_algorithm(n_iter, start, stop, n_cycle, ratio):
    """Fu et al.'s frange_cycle_linear, in fractions: `v <= stop` is exact."""
    start, stop, ratio = (Fraction(str(x)) for x in (start, stop, ratio))
    table, period = [stop] * n_iter, Fraction(n_iter, n_cycle)
    step = (stop - start) / (period * ratio)
    for c in range(n_cycle):
        v, i = start, 0
        while v <= stop and int(i + c * period) < n_iter:
            table[int(i + c * period)] = v
            v += step
            i += 1
    return [float(v) for v in table]


RATIOS = [1, 0.5, 0.25, 0.3, 0.7, 1 / 128, 1.5, 2, 7]


def combinations():
    rng = random.Random(0)
    for n_iter in (1, 2, 3, 5, 7, 10, 16, 23, 49, 70, 100, 187, 400):
        for n_cycle in {1, 2, 3, 4, 7, 10, 29, 40, n_iter, rng.randint(1, n_iter)}:
            for ratio in RATIOS + [round(rng.uniform(0.01, 1), 3), round(rng.uniform(1, 4), 3)]:
                if n_cycle <= n_iter:
                    yield n_iter, n_cycle, ratio


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0.2, 0.9)])
def test_cyclical_beta_is_the_published_algorithms(start, stop):
    for n_iter, n_cycle, ratio in combinations():
        found = frange_cycle_linear(n_iter, start, stop, n_cycle, ratio)
        wanted = published_algorithm(n_iter, start, stop, n_cycle, ratio)
        assert found == pytest.approx(wanted, rel=0, abs=1e-9), (n_iter, n_cycle, ratio)


def test_frange_cycle_linear_has_the_published_defaults():
    assert frange_cycle_linear(4) == near([0, 0.25, 0.5, 0.75])
    assert frange_cycle_linear(4, n_cycle=2, ratio=0.5) == near([0, 1, 0, 1])
    assert frange_cycle_linear(4, 0.5, 0.5) == near([0.5] * 4)


# ---------------------------------------------------------------- teacher forcing

TFRS = {  # flags -> tfr of every epoch
    "--num_epoch 14 --tfr_sde 3": [1, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0],
    "--num_epoch 5 --tfr_sde 0 --tfr_d_step 0.25": [0.75, 0.5, 0.25, 0, 0],
    "--num_epoch 6 --tfr 0.5 --tfr_sde 2 --tfr_d_step 0.2": [0.5, 0.5, 0.3, 0.1, 0, 0],
    "--lab robot --num_epoch 6 --tfr_sde 2 --tfr_d_step 0.4 --tfr_lower_bound 0.1": [1, 1, 0.6, 0.2]
    + [0.1] * 2,
    "--num_epoch 4 --tfr 0": [0] * 4,
    "--num_epoch 4 --tfr 0 --tfr_sde 0": [0] * 4,
    "--num_epoch 4 --tfr 0.7 --tfr_sde 1 --tfr_d_step 0": [0.7] * 4,
    "--num_epoch 3 --tfr_sde 9": [1] * 3,
}


@pytest.mark.parametrize("flags", TFRS)
def test_tfr_is_the_table_computed_by_hand(flags):
    assert table("tfr", flags) == near(TFRS[flags])


# ---------------------------------------------------------------- learning rate


def torchs_rates(make_scheduler, lr, epochs):
    optim = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, rates = make_scheduler(optim), []
    for _ in range(epochs):
        rates.append(optim.param_groups[0]["lr"])
        optim.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("flags", "milestones", "gamma"),
    [
        ("", [2, 5], 0.1),
        ("--lr_milestones 3 8 --lr_gamma 0.5", [3, 8], 0.5),
        ("--lr_milestones 8 3", [3, 8], 0.1),
        ("--lr_milestones 4 4", [4, 4], 0.1),
        ("--lr_milestones 0 99", [0, 99], 0.1),
        ("--lr_milestones", [], 0.1),
    ],
)
def test_multistep_is_torchs(flags, milestones, gamma):
    def make(optim):
        return torch.optim.lr_scheduler.MultiStepLR(optim, milestones, gamma)

    found = table("lr", f"--num_epoch 12 --lr 0.004 {flags}")
    assert found == near(torchs_rates(make, 0.004, 12))


def test_cosine_is_torchs_and_reaches_lr_min_in_the_last_epoch():
    def make(optim):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optim, 40, eta_min=1e-6)

    lr = table("lr", "--num_epoch 41 --lr 1e-4 --lr_schedule cosine --lr_min 1e-6")
    assert lr == pytest.approx(torchs_rates(make, 1e-4, 41), rel=1e-6)
    assert (lr[0], lr[20], lr[40]) == near((1e-4, (1e-4 + 1e-6) / 2, 1e-6))


def test_warm_up_is_linear():
    lr = table("lr", "--num_epoch 8 --lr 0.4 --lr_schedule constant --warmup_epochs 3")
    assert lr == near([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])


def test_cosine_starts_at_the_full_rate_after_the_warm_up():
    lr = table("lr", "--num_epoch 6 --lr 0.4 --lr_schedule cosine --warmup_epochs 3")
    assert lr == near([0.1, 0.2, 0.3, 0.4, 0.2, 0.0])


# ---------------------------------------------------------------- epochs advance, runs resume

RESUMED = [
    "--num_epoch 23 --kl_anneal_cycle 4 --kl_anneal_ratio 0.6",
    "--num_epoch 9 --kl_anneal_type Monotonic",
    "--num_epoch 9 --kl_anneal_type None --pretrain_epochs 3",
    "--num_epoch 9 --kl_anneal_cycle 2 --kl_anneal_ratio 1.5 --pretrain_epochs 3",
]


@pytest.mark.parametrize("flags", RESUMED)
def test_the_annealing_object_follows_the_table_from_any_epoch(flags):
    settings, betas = settings_of(flags), table("beta", flags)
    walked = kl_annealing(settings)
    for k in range(settings.num_epoch + 3):
        assert kl_annealing(settings, current_epoch=k).get_beta() == walked.get_beta()
        assert k >= len(betas) or walked.get_beta() == betas[k]
        walked.update()


def test_trainers_updater_follows_the_tfr_table():
    trainer = Trainer.__new__(Trainer)
    trainer.settings, found = settings_of("--num_epoch 6 --tfr_sde 2 --tfr_d_step 0.4"), []
    for trainer.current_epoch in range(6):
        trainer.teacher_forcing_ratio_update()
        found.append(trainer.tfr)
    assert found == near([1, 1, 0.6, 0.2, 0, 0])


# ---------------------------------------------------------------- --schedule FILE

RUN = "--num_epoch 6 --tfr_sde 2 --lr_milestones 1"


def with_file(path, text, line=RUN):
    path.write_text(text)
    return settings_of(f"{line} --schedule {path}")


def test_a_row_of_the_file_holds_until_the_next_and_other_columns_are_the_flags(tmp_path):
    settings = with_file(tmp_path / "s.csv", "tfr, epoch\n0.5,0\n1,2\n0,5\n")
    rows, flags = schedules.table(settings), schedules.table(settings_of(RUN))
    assert [row["tfr"] for row in rows] == [0.5, 0.5, 1, 1, 1, 0]
    assert [row | {"tfr": 0} for row in rows] == [row | {"tfr": 0} for row in flags]
    assert settings.scheduled == {"tfr"}


def test_a_file_of_the_whole_table_is_the_table(tmp_path):
    for flags in RESUMED:
        rows = schedules.table(
            settings_of(f"{flags} --lr_schedule cosine --lr_min 1e-5 --tfr_sde 3")
        )
        write_csv(tmp_path / "s.csv", rows)
        epochs = f"--num_epoch {len(rows)} --schedule {tmp_path / 's.csv'}"
        assert schedules.table(settings_of(epochs)) == rows, flags


def test_beta_of_the_file_waits_for_the_end_of_pretraining(tmp_path):
    settings = with_file(tmp_path / "s.csv", "epoch,beta\n0,1\n", f"{RUN} --pretrain_epochs 2")
    assert [row["beta"] for row in schedules.table(settings)] == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "the first line must name epoch"),
        ("epoch\n0\n", "the first line must name epoch and any of beta, tfr, lr"),
        ("epoch,beta,kl\n0,1,1\n", "column kl is none of"),
        ("epoch,beta\n", "has no epochs"),
        ("epoch,beta\n1,1\n", "line 2: epochs start at 0 and rise"),
        ("epoch,beta\n0,1\n3,1\n2,1\n", "line 4: epochs start at 0 and rise"),
        ("epoch,beta\n0,-1\n", "line 2: must be at least 0"),
        ("epoch,beta\n0\n", "line 2: must be a finite number"),
        ("epoch,tfr\n0,1.5\n", "line 2: must be at least 0 and at most 1"),
        ("epoch,lr\n0,nan\n", "line 2: must be at least 0"),
        ("epoch;beta\n0;1\n", "the first line must name epoch"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, named):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=named) as error:
        PoseTraining(schedule=path)
    assert f"--schedule: {path}: " in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match="--schedule: nowhere.csv: No such file"):
        PoseTraining(schedule="nowhere.csv")


def test_flags_that_the_file_replaces_are_noted(capsys, tmp_path):
    (tmp_path / "s.csv").write_text("epoch,beta\n0,1\n")
    line = f"--DR d --save_root s --schedule {tmp_path / 's.csv'} --kl_anneal_cycle 3 --tfr_sde 3"
    parse("Trainer", line.split())
    note = "note: --kl_anneal_cycle has no effect beside a --schedule file with beta\n"
    assert capsys.readouterr().out == note


# ---------------------------------------------------------------- notes on posterior collapse

COLLAPSING = {  # flags -> what the note advises; measured: docs/kl_annealing.md, docs/results.md
    "": "--loss calibrated",
    "--kl_anneal_type None --kl_anneal_stop 0.0001": "--loss calibrated",
    "--lab robot": "--loss calibrated",
    "--loss calibrated --posterior_share 0.25 --kl_anneal_stop 10": "--free_bits",
}
NOT_NOTED = (
    "--loss calibrated",
    "--loss calibrated --posterior_share 0.25 --free_bits 2",
    "--free_bits 2",
    "--kl_anneal_type None --kl_anneal_stop 1e-7",
    "--no-latent",
    "--posterior_share 0",
)


@pytest.mark.parametrize("line", COLLAPSING)
def test_settings_that_collapse_are_noted(line):
    (note,) = schedules.collapse(settings_of(line))
    assert "posterior collapse" in note and COLLAPSING[line] in note.split("likely.")[1]


@pytest.mark.parametrize("line", NOT_NOTED)
def test_nothing_is_noted_of_other_settings(line):
    assert not list(schedules.collapse(settings_of(line)))
