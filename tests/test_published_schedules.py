"""beta, tfr and lr of the five reports and of public forks, worked out here as their programs do.

A program's own loop is written out: it uses nothing of the package.
"""

import math
import sys

import pytest
from helpers import ROOT, settings_of

from modules.cli.parser import parse
from modules.training import schedules

sys.path.insert(0, str(ROOT / "scripts"))
import sweep


def near(values):
    return pytest.approx(values, rel=1e-9, abs=1e-9)


def column(settings, name):
    return [row[name] for row in schedules.table(settings)]


# ---------------------------------------------------------------- the loops of published programs


def tfrs(epochs, update, tfr=1.0, first=0):
    """The ratio of every epoch: update(ratio, epoch) is called with the number of the next one."""
    found = []
    for epoch in range(first, first + epochs):
        found.append(tfr)
        tfr = update(tfr, epoch + 1)
    return found


def template_tfr(epochs, tfr=1.0, sde=10, step=0.1):
    return tfrs(epochs, lambda r, e: max(0.0, r - step) if e >= sde else r, tfr)


def multistep(lr, epochs):
    """Milestones 2 and 5, gamma 0.1."""
    return [lr * (1 if e < 2 else 0.1 if e < 5 else 0.01) for e in range(epochs)]


def cycles(epochs, count, ratio):
    """Fu et al.: beta rises from 0 in `ratio` of a cycle. The cycles have equal, whole lengths."""
    length = epochs // count
    assert length * count == epochs
    return [min((e % length) / (ratio * length), 1.0) for e in range(epochs)]


def linspace(start, stop, count):
    return [start + (stop - start) * i / (count - 1) for i in range(count)]


# ---------------------------------------------------------------- the five reports


def tfr_of_a():
    """tfr is set after an epoch: 1 - (epoch - 25) / (niter - 25)."""
    return tfrs(100, lambda r, e: 1 - (e - 1 - 25) / (100 - 25) if e - 1 >= 25 else r)


def report_a():
    betas = {"monotonic": [min(e / 25, 1.0) for e in range(100)]}
    betas["cyclical"] = cycles(100, 2, 0.5)
    return {name: (beta, tfr_of_a(), [0.002] * 100) for name, beta in betas.items()}


def report_b():
    lr = [3e-4 / 2 * (1 + math.cos(math.pi * e / 400)) for e in range(400)]
    betas = {
        "Cyclical": (linspace(0.1, 1, 5) + [1.0] * 5) * 40,
        "Monotonic": linspace(0.1, 1, 200) + [1.0] * 200,
        "None": [1.0] * 400,
    }
    runs = {
        f"{kl}/tfr{tfr}": (beta, template_tfr(400, tfr), lr)
        for kl, beta in betas.items()
        for tfr in (0, 1)
    }
    return runs | {"no_sigmoid": (betas["Cyclical"], [0.0] * 400, lr)}


def report_c():
    """Its loss of one clip is mse + max(1e-6, beta) * kl / 2: our beta of a batch of 1 is half."""

    def betas(epochs):
        found = {
            "None": [1.0] * epochs,
            "Cyclical": cycles(epochs, 10, 0.5),
            "Monotonic": cycles(epochs, 1, 0.5),
        }
        return {kl: [max(1e-6, b) / 2 for b in beta] for kl, beta in found.items()}

    runs = {}
    for kl, beta in betas(100).items():
        for name, tfr, step in (("tfr1", 1, 0.1), ("tfr0.5", 0.5, 0.05), ("tfr0", 0, 0.1)):
            ratio = template_tfr(100, tfr, step=step)
            runs[f"{kl}/{name}"] = beta, ratio, multistep(1e-4, 100)
    for kl, beta in betas(200).items():
        runs[f"{kl}/200"] = beta, [0.0] * 200, multistep(1e-4, 200)
    return runs


def report_d():
    """Five epochs of teacher-forced pre-training, unless it is 0; then epochs that count from 1."""

    def cycles_of(length):
        rise = [min(1.0, 0.1 * (j + 1)) for j in range(length)]
        return (rise * 300)[:300]

    runs = {}
    for kl, length in (("Cyclical", 20), ("Monotonic", 300), ("None", 1)):
        for name, tfr, before in (
            (f"{kl}/tfr0", 0, 5), (f"{kl}/tfr1", 1, 5), (f"no_pretraining/{kl}", 0, 0)
        ):  # fmt: skip
            ratio = tfrs(300, lambda r, e: max(0, r - 0.1) if e >= 10 else r, tfr, first=1)
            lr = [1e-3] * before + multistep(1e-3, 300)
            runs[name] = [0.0] * before + cycles_of(length), [1.0] * before + ratio, lr
    return runs


def report_e():
    tfr = [1.0] * 10 + [1 - (e - 10) / (70 - 10) for e in range(10, 70)]
    betas = {
        "Cyclical": cycles(70, 10, 0.5),
        "Monotonic": [min(e / (70 / 4), 1.0) for e in range(70)],
        "None": [1.0] * 70,
    }
    return {kl: (beta, tfr, multistep(1e-3, 70)) for kl, beta in betas.items()}


@pytest.fixture
def jobs(shell, tmp_path):
    """jobs(script) -> {name: settings} of the runs that it lists."""

    def listed(script):
        ((_, *words),) = shell(script, tmp_path / "runs", DR="data")
        return {job.name: job.settings for job in sweep.jobs_of(sweep.parse_arguments(words))}

    return listed


@pytest.mark.parametrize("report", [report_a, report_b, report_c, report_d, report_e])
def test_a_reports_script_has_the_schedules_of_its_program(jobs, report):
    found, wanted = jobs(report.__name__), report()
    assert found.keys() == wanted.keys()
    for name, (beta, tfr, lr) in wanted.items():
        assert column(found[name], "beta") == near(beta), name
        assert column(found[name], "tfr") == near(tfr), name
        assert column(found[name], "lr") == near(lr), name


STEPS = {  # of each program
    "report_a": {
        "batch_size": 24, "epoch_size": 500, "condition": "previous", "skip_from": "second_last"
    },
    "report_b": {"batch_size": 2, "feedback": "features", "grad_clip": 1, "optim": "AdamW"},
    "report_c": {"batch_size": 1, "feedback": "full", "grad_clip": 1, "lr": 1e-4},
    "report_d": {
        "batch_size": 5, "feedback": "frame", "grad_clip": 0.1, "posterior": "previous_image"
    },
    "report_e": {"batch_size": 2, "feedback": "full", "grad_clip": 1, "lr": 1e-3},
}  # fmt: skip


@pytest.mark.parametrize("report", STEPS)
def test_a_reports_script_has_the_steps_of_its_program(jobs, report):
    for name, settings in jobs(report).items():
        assert STEPS[report].items() <= settings.as_dict().items(), name
        assert settings.precision == "float32"
        reduction = "batch" if report == "report_b" else "sum"
        assert (settings.published_step, settings.loss_reduction) == (True, reduction), name


def test_the_best_public_recipe_has_the_cosine_of_its_program(shell, tmp_path):
    """CosineAnnealingLR(T_max=300, eta_min=1e-6)."""
    ((_, *words),) = shell("train_public_best", tmp_path / "run", DR="data")
    settings, _ = parse("Trainer", words)
    lr = [1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi * e / 300)) / 2 for e in range(300)]
    assert column(settings, "lr") == near(lr)


# ---------------------------------------------------------------- public forks


FORKS = {  # flags -> column, its table
    "": ("tfr", template_tfr(70)),
    "--tfr_d_step 0.016666666666666666": (
        "tfr", tfrs(70, lambda r, e: max(0, r - 1 / (70 - 10)) if e >= 10 else r)),
    "--kl_anneal_type None --kl_anneal_stop 0": ("beta", [0.0] * 70),
    "--lab robot --tfr_decay_step 0.01 --tfr_start_decay_epoch 151": (
        "tfr", tfrs(300, lambda r, e: max(0, r - 0.01) if e - 1 >= 150 else r)),
    "--lab robot --kl_anneal_cyclical": ("beta", cycles(300, 3, 0.5)),
    "--lab robot": ("lr", [0.002] * 300),
    "--lr 1e-4": ("lr", multistep(1e-4, 70)),
}  # fmt: skip


@pytest.mark.parametrize("flags", FORKS)
def test_a_forks_schedule_is_a_line_of_flags(flags):
    name, wanted = FORKS[flags]
    settings = settings_of(flags, lab="robot" if "robot" in flags else "pose")
    assert column(settings, name) == near(wanted)


PUBLISHED = {  # command lines of the reports -> beta, tfr and lr of the template's program
    "--lr 0.0001 --num_epoch 100 --tfr 0.5 --tfr_d_step 0.05 --kl_anneal_type None "
    "--kl_anneal_ratio 0.5": (
        [1.0] * 100, template_tfr(100, 0.5, step=0.05), multistep(1e-4, 100)),
    "--lr 0.0001 --num_epoch 200 --tfr 0 --kl_anneal_type Cyclical --kl_anneal_ratio 0.5": (
        cycles(200, 10, 0.5), [0.0] * 200, multistep(1e-4, 200)),
    "": (cycles(70, 10, 1), template_tfr(70), multistep(1e-3, 70)),
}  # fmt: skip


@pytest.mark.parametrize("line", PUBLISHED)
def test_a_published_line_has_the_schedules_that_it_had(line):
    beta, tfr, lr = PUBLISHED[line]
    settings = settings_of(line)
    assert column(settings, "beta") == near(beta)
    assert column(settings, "tfr") == near(tfr)
    assert column(settings, "lr") == near(lr)
