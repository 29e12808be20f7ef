"""Do KL annealing and teacher forcing prevent posterior collapse? Schedules, ratios, two losses.

python scripts/ablate_kl.py --DR data/toy            the synthetic dancer (pose lab)
python scripts/ablate_kl.py --DR data/disc           make_toy_data.py --lab robot --world disc

The published reports compare these schedules under the squared error. Arms are named loss,
schedule, teacher forcing ratio. Data, nets and steps are the same in all of them.

The calibrated loss of a frame of D values is log MSE + beta 2 KL / D. With beta 1, and where all
frames have the MSE M, its gradient is that of the squared error with beta 2 M / D, times 1 / M. So
in the arms "mse matched" beta ends at 2 M / D; M is the MSE of the last training epoch of
"calibrated, None" with the same ratio and seed, whose beta is 1 throughout.
"""

import sys
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
    from modules.cli.start import start

    start()

from study import Study, carry_out, epochs_on, parse_arguments, value_of
from tqdm import tqdm

from modules.cli.entry import run
from modules.errors import UserError
from modules.report.reading import read_csv

LOSSES = {"mse": "--loss mse", "mse matched": "--loss mse", "calibrated": "--loss calibrated"}
KL = {
    "Cyclical": "--kl_anneal_type Cyclical --kl_anneal_cycle 4 --kl_anneal_ratio 0.5",
    "Monotonic": "--kl_anneal_type Monotonic --kl_anneal_ratio 0.5",
    "None": "--kl_anneal_type None",
    "small beta": "--kl_anneal_type None --kl_anneal_stop 0.0001",
}
FORCING = {
    "1": "--tfr 1 --tfr_d_step 0",
    "0.5": "--tfr 0.5 --tfr_d_step 0 --tfr_coin batch",
    "0": "--tfr 0",
}
SETTINGS = {  # nets and clips of the short demo; nets of disc_demo.sh, without actions
    "pose": "--nets unet --F_dim 16 --L_dim 32 --N_dim 4 --D_out_dim 32 --scene --first_frame "
    "--loss_reduction mean --batch_size 4 --train_vi_len 3 --shuffle "
    "--jump_start 0.5 --warp 0.5 --feedback_noise 0.05 --optim AdamW --lr 0.005 "
    "--lr_schedule cosine --lr_min 0.0002 --warmup_epochs 1 --ema 0.98",
    "robot": "--nets dcgan --vgg_width 16 --z_dim 8 --learned_prior --condition none "
    "--epoch_size 50 --random_offset --lr_schedule cosine --ema 0.99 --n_eval 26",
}
ARMS = {
    f"{loss}, {kl}, {forcing}": f"{LOSSES[loss]} {KL[kl]} {FORCING[forcing]}"
    for loss in LOSSES
    for kl in KL
    for forcing in FORCING
    if (loss, kl) != ("mse matched", "small beta")
}
MATCHED = {name: ", ".join(("calibrated", "None", name.split(", ")[2])) for name in ARMS}
MATCHED = {name: other for name, other in MATCHED.items() if name.startswith("mse matched")}
VALUES = {"pose": 3 * 32 * 64, "robot": 3 * 64 * 64}  # D
# the gradient of a mean squared error is tiny after the first steps: docs/training.md
CLIP = {"pose": " --grad_clip 0.001", "robot": ""}
COLUMNS = {
    "ELBO": "z/elbo",
    "importance bound": "z/importance_bound",
    "KL": "z/kl",
    "active units": "z/active_units",
    "PSNR": "mean/psnr",
    "mean of 20": "futures/psnr_mean",
    "best of 20": "futures/psnr_best",
}
DRAWN = {"ELBO": "nats per frame", "KL": "nats per frame", "PSNR": "dB", "best of 20": "dB"}
STEPS = {"pose": 840, "robot": 1000}


def robot_epochs(steps, flags, root):
    """The number of epochs that take about this many steps."""
    return max(round(steps / value_of(flags, "--epoch_size", 600)), 1)


EPOCHS = {"pose": epochs_on, "robot": robot_epochs}


def lab_of(root):
    """The lab whose layout the data set has."""
    for lab, pattern in (("pose", "**/train_img"), ("robot", "train/*/0/0.png")):
        if next(Path(root).glob(pattern), None):
            return lab
    raise UserError(f"--DR {root} has neither train/train_img nor train/*/0/0.png")


def matched_beta(lab, run):
    """The last beta of an arm whose calibrated counterpart is in the folder `run`."""
    if not (rows := read_csv(run / "metrics.csv")):
        raise UserError(f"{run} has no metrics.csv: its arm must be trained first")
    mse = rows[-1]["train/mse"]
    beta = 2 * mse / VALUES[lab]
    tqdm.write(f"{run}: beta = 2 MSE / D = 2 * {mse:.4g} / {VALUES[lab]} = {beta:.4g}", sys.stderr)
    return f" --kl_anneal_stop {beta:.6g}"


def study_of(lab):
    arms = {name: f"{SETTINGS[lab]} {flags}" for name, flags in ARMS.items()}
    return Study(
        lab=lab,
        arms={n: x + CLIP[lab] * n.startswith("mse") for n, x in arms.items()},
        after=MATCHED,
        flags_after=partial(matched_beta, lab),
        columns=COLUMNS,
        drawn=DRAWN,
        epochs=EPOCHS[lab],
        runs=f"runs/ablate_kl_{lab}",
        steps=STEPS[lab],
        test="--n_samples 20",
    )


def main():
    args = parse_arguments(__doc__.splitlines()[0], *map(study_of, SETTINGS))
    carry_out(study_of(lab_of(args.DR)), args)


if __name__ == "__main__":
    run(main)
