"""Every flag of Trainer.py and Tester.py, once: its type, range, default and reason."""

import argparse
import re
import sys
from pathlib import Path

KL_TYPES = {"cyclical": "Cyclical", "monotonic": "Monotonic"} | dict.fromkeys(
    ("none", "no", "without", "w/o", "nokl_annealing", "constant"), "None"
)
OPTIMIZERS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")
# What the course's template had: a prefix that was unique among these stays unique.
TEMPLATE = set(
    "batch_size lr device optim gpu test store_visualization DR save_root num_workers num_epoch "
    "per_save partial ckpt_path train_vi_len val_vi_len frame_H frame_W F_dim L_dim N_dim D_out_dim "
    "tfr tfr_sde tfr_d_step fast_train fast_partial fast_train_epoch kl_anneal_type "
    "kl_anneal_cycle kl_anneal_ratio no_sanity make_gif".split()
)
# What the nets and the rollout need: kept in every checkpoint, so Tester.py needs none repeated.
MODEL_FLAGS = (
    "frame_H", "frame_W", "F_dim", "L_dim", "N_dim", "D_out_dim", "sigmoid", "posterior", "z_source", "seed",
)  # fmt: skip


class UserError(Exception):
    """Something its user can mend: shown as one message, without a traceback."""


def run(main):
    """Call main() and turn what its user can mend into one line and an exit code."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror or error}")
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)


class LabParser(argparse.ArgumentParser):
    def _get_option_tuples(self, option_string):
        matches = super()._get_option_tuples(option_string)
        template = [m for m in matches if m[0].dest in TEMPLATE]
        return template if len(matches) > 1 and len(template) == 1 else matches


INF = float("inf")


def number(kind, low, high=INF, above=False):
    """An argparse type: a finite `kind` in low..high; `above` leaves low itself out."""

    def parse(text):
        value = kind(text)
        if not ((value > low if above else value >= low) and value <= high and value < INF):
            limit = f" and at most {high}" if high < INF else ""
            word = "above" if above else "at least"
            raise argparse.ArgumentTypeError(f"must be {word} {low}{limit}, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


count, natural = number(int, 1), number(int, 0)
positive, non_negative = number(float, 0, above=True), number(float, 0)
share, part = number(float, 0, 1), number(float, 0, 1, above=True)


def kl_type(text):
    if text.lower() not in KL_TYPES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of Cyclical, Monotonic, None")
    return KL_TYPES[text.lower()]


def device_name(text):
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of cpu, cuda, cuda:N, mps")
    return text


def add_run_flags(parser, training):
    add = parser.add_argument_group("run").add_argument
    add("--DR", metavar="DIR", help="dataset root: the folder that holds train/, val/ and test/")
    add("--save_root", metavar="DIR", help="the run folder: all that a run writes is in it")
    add("--ckpt_path", metavar="FILE", help="checkpoint whose weights to start from" if training
        else "checkpoint to test")  # fmt: skip
    add("--num_epoch", type=count, default=70, help="epochs to train (%(default)s)")
    add("--batch_size", type=count, default=2, help="clips in a batch (%(default)s)")
    add("--seed", type=natural, default=0, help="same seed, same machine: same bits (%(default)s)")
    add(
        "--device",
        type=device_name,
        help="cpu, cuda, cuda:N or mps; default: a GPU where there is one",
    )
    add("--gpu", type=natural, default=1, help="GPUs to use: 1, or 0 for the CPU (%(default)s)")
    add("--precision", choices=("auto", "float32", "bf16"), default="auto",
        help="of the convolutions; auto: bf16 where the device computes with it (%(default)s)")  # fmt: skip
    add("--num_workers", type=natural, default=4,
        help="threads that decode pictures when the cache is built (%(default)s)")  # fmt: skip
    add(
        "--per_save",
        type=count,
        default=3,
        help="keep epoch=N.ckpt every so many epochs (%(default)s)",
    )
    add("--test", action="store_true", help="no training: validate --ckpt_path once" if training
        else "the default here; kept for old command lines")  # fmt: skip


def add_trainer_flags(parser):
    add = parser.add_argument_group("run, Trainer only").add_argument
    add("--resume", choices=("auto", "never"), default="auto",
        help="auto: carry on with the run in --save_root, if it holds one (%(default)s)")  # fmt: skip
    add("--val_every", type=count, default=1, help="validate every so many epochs (%(default)s)")
    add("--store_visualization", action="store_true", help="keep a gif of every validation")
    add(
        "--preview",
        action="store_true",
        help="print and plot beta, tfr and lr of every epoch; no training",
    )
    add(
        "--tensorboard",
        action="store_true",
        help="also log to tensorboard (pip install tensorboard)",
    )
    add("--wandb", action="store_true", help="also log to Weights & Biases (pip install wandb)")


def add_data_flags(parser):
    add = parser.add_argument_group("data").add_argument
    add(
        "--train_vi_len",
        type=number(int, 2),
        default=16,
        help="frames in a training clip (%(default)s)",
    )
    add("--val_vi_len", type=number(int, 2), default=630,
        help="frames in a validation clip (%(default)s); Tester: as many as there are poses")  # fmt: skip
    add(
        "--frame_H",
        type=number(int, 11),
        default=32,
        help="height the pictures are resized to (%(default)s)",
    )
    add(
        "--frame_W",
        type=number(int, 11),
        default=64,
        help="width the pictures are resized to (%(default)s)",
    )
    add(
        "--partial",
        type=part,
        default=1.0,
        help="share of the training frames to use (%(default)s)",
    )
    add("--fast_train", action="store_true", help="use --fast_partial of them in the first epochs")
    add("--fast_partial", type=part, default=0.4, help="share used in the fast start (%(default)s)")
    add(
        "--fast_train_epoch", type=natural, default=5, help="epochs of the fast start (%(default)s)"
    )
    add("--shuffle", action="store_true", help="draw the training clips in a new order every epoch")
    add("--random_offset", action="store_true", help="shift where clips begin in every epoch")
    add("--jump_start", type=share, default=0.0, metavar="P",
        help="share of training clips whose given frame is any frame of the same take (%(default)s)")  # fmt: skip
    add("--cache_dir", metavar="DIR", help="where decoded pictures are kept (beside the data)")


def add_model_flags(parser):
    add = parser.add_argument_group("model").add_argument
    add("--F_dim", type=number(int, 8), default=128, help="frame features (%(default)s)")
    add("--L_dim", type=number(int, 2), default=32, help="pose features (%(default)s)")
    add("--N_dim", type=number(int, 4), default=12, help="latent channels (%(default)s)")
    add("--D_out_dim", type=number(int, 8), default=192, help="fused features (%(default)s)")
    add("--sigmoid", action=argparse.BooleanOptionalAction, default=False,
        help="a sigmoid after the Generator; Tester: as in the checkpoint")  # fmt: skip
    add("--posterior", choices=("current", "previous"), default="current",
        help="which frame q(z | frame, pose) looks at; with 'previous' it also serves at test (%(default)s)")  # fmt: skip
    add("--feedback", choices=("full", "frame", "features"), default="full",
        help="gradient through the fed-back frame: full, cut at the frame, or cut at the features "
        "of every previous frame (%(default)s)")  # fmt: skip
    add("--z_source", choices=("sample", "mean"), default="sample",
        help="z of a rollout: drawn from the prior, or its mean (%(default)s)")  # fmt: skip


def add_optimizer_flags(parser):
    add = parser.add_argument_group("optimizer and learning rate").add_argument
    add(
        "--optim",
        choices=OPTIMIZERS,
        default="Adam",
        help="%(choices)s (%(default)s)",
        metavar="NAME",
    )
    add("--lr", type=positive, default=0.001, help="learning rate (%(default)s)")
    add("--lr_schedule", choices=("multistep", "cosine", "constant"), default="multistep",
        help="%(choices)s (%(default)s)")  # fmt: skip
    add("--lr_milestones", type=natural, nargs="*", default=[2, 5], metavar="E",
        help="multistep: epochs from which lr is multiplied by --lr_gamma once more (2 5)")  # fmt: skip
    add("--lr_gamma", type=part, default=0.1, help="multistep: the factor (%(default)s)")
    add(
        "--lr_min",
        type=non_negative,
        default=0.0,
        help="cosine: lr of the last epoch (%(default)s)",
    )
    add(
        "--warmup_epochs",
        type=natural,
        default=0,
        help="epochs of linear warm-up to --lr (%(default)s)",
    )
    add(
        "--grad_clip",
        type=non_negative,
        default=1.0,
        help="largest gradient norm, 0: any (%(default)s)",
    )
    add("--ema", type=number(float, 0, 0.99999), default=0.0,
        help="decay of averaged weights that validate and test; 0: none (%(default)s)")  # fmt: skip


def add_forcing_flags(parser):
    add = parser.add_argument_group("teacher forcing").add_argument
    add("--tfr", type=share, default=1.0, help="probability of teacher forcing (%(default)s)")
    add("--tfr_sde", type=natural, default=10, help="epoch where its decay starts (%(default)s)")
    add("--tfr_d_step", type=share, default=0.1, help="step: decay per epoch (%(default)s)")
    add("--tfr_mode", choices=("step", "linear"), default="step",
        help="step down by --tfr_d_step, or a straight line to the last epoch (%(default)s)")  # fmt: skip
    add("--tfr_lower_bound", type=share, default=0.0, help="where the decay ends (%(default)s)")
    add("--tfr_coin", choices=("epoch", "batch"), default="epoch",
        help="one coin decides on a whole epoch, or on a batch (%(default)s)")  # fmt: skip
    add("--feedback_noise", type=non_negative, default=0.0, metavar="S",
        help="deviation of noise on the previous frame in training (%(default)s)")  # fmt: skip


def add_kl_flags(parser):
    add = parser.add_argument_group("KL annealing").add_argument
    add("--kl_anneal_type", type=kl_type, default="Cyclical", metavar="TYPE",
        help="Cyclical, Monotonic or None (also No, Without, W/O, Constant): beta = stop (%(default)s)")  # fmt: skip
    add("--kl_anneal_cycle", type=count, default=10, help="cycles over --num_epoch (%(default)s)")
    add(
        "--kl_anneal_ratio",
        type=share,
        default=1.0,
        help="share of a cycle spent ramping (%(default)s)",
    )
    add(
        "--kl_anneal_start",
        type=non_negative,
        default=0.0,
        help="beta where a ramp starts (%(default)s)",
    )
    add(
        "--kl_anneal_stop",
        type=non_negative,
        default=1.0,
        help="beta where a ramp ends (%(default)s)",
    )
    add(
        "--kl_anneal_floor",
        type=non_negative,
        default=0.0,
        help="beta is never below (%(default)s)",
    )
    add("--pretrain_epochs", type=natural, default=0,
        help="first epochs with z from N(0, I) and no KL: trains the decoder alone (%(default)s)")  # fmt: skip


def add_tester_flags(parser):
    add = parser.add_argument_group("test").add_argument
    add("--make_gif", action="store_true",
        help="also write seq{i}/{pred_seq,pose,ground_truth}.gif")  # fmt: skip
    add("--no_sanity", action="store_true", help="do not read the written files back to check them")
    add("--truth", metavar="PATH",
        help="true frames to score against: a folder or a csv; default: DR/test/test_truth")  # fmt: skip
    add("--pose_norm", choices=("auto", "batch", "image"), default="auto",
        help="statistics of the pose encoder; auto: of each image for the course's checkpoints, "
        "the learned ones for ours (%(default)s)")  # fmt: skip


def build_parser(script):
    training = script == "Trainer"
    parser = LabParser(
        prog=f"{script}.py",
        description="Train a conditional VAE that predicts video." if training
        else "Roll a checkpoint out over every test clip: gifs, submission.csv and scores.",
    )  # fmt: skip
    add_run_flags(parser, training)
    if training:
        add_trainer_flags(parser)
    else:
        add_tester_flags(parser)
    for add_group in (
        add_data_flags,
        add_model_flags,
        add_optimizer_flags,
        add_forcing_flags,
        add_kl_flags,
    ):
        add_group(parser)
    return parser


def parse(script, argv=None):
    """-> (args, the set of flags that were typed). Wrong usage ends with exit code 2."""
    parser = build_parser(script)
    args = parser.parse_args(argv)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    typed = set(vars(parser.parse_args(argv)))
    check(parser, args, typed)
    return args, typed


def check(parser, args, typed):
    """Refuse what is missing and what contradicts itself."""
    preview = getattr(args, "preview", False)
    for flag in ("save_root",) if preview else ("DR", "save_root"):
        if not getattr(args, flag):
            parser.error(f"--{flag} is required")
    if parser.prog == "Tester.py" and not args.ckpt_path:
        parser.error("--ckpt_path is required: the checkpoint to test")
    if args.test and not args.ckpt_path:
        parser.error("--test validates a checkpoint: give it with --ckpt_path")
    if args.gpu > 1:
        parser.error(
            f"--gpu {args.gpu}: a run uses one GPU; start several runs with --device cuda:N"
        )
    if args.gpu == 0 and args.device not in (None, "cpu"):
        parser.error(f"--gpu 0 means the CPU, but --device is {args.device}")
    if args.kl_anneal_start > args.kl_anneal_stop:
        parser.error(
            f"--kl_anneal_start {args.kl_anneal_start} is above --kl_anneal_stop {args.kl_anneal_stop}"
        )
    if args.tfr_lower_bound > args.tfr:
        parser.error(f"--tfr_lower_bound {args.tfr_lower_bound} is above --tfr {args.tfr}")
    if args.lr_min > args.lr:
        parser.error(f"--lr_min {args.lr_min} is above --lr {args.lr}")
    for flags, needs, value in (
        (("lr_milestones", "lr_gamma"), "lr_schedule", "multistep"),
        (("lr_min",), "lr_schedule", "cosine"),
        (("tfr_d_step",), "tfr_mode", "step"),
    ):
        for flag in typed.intersection(flags):
            if getattr(args, needs) != value:
                parser.error(f"--{flag} needs --{needs} {value}, not {getattr(args, needs)}")


def run_folder(path):
    """Make the run folder, or say why it cannot be written to."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--save_root {folder} cannot be written to: {error.strerror}") from None
    return folder
