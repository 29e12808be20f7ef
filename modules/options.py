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
    """batch_size lr device optim gpu test store_visualization DR save_root num_workers num_epoch
    per_save partial ckpt_path train_vi_len val_vi_len frame_H frame_W F_dim L_dim N_dim D_out_dim
    tfr tfr_sde tfr_d_step fast_train fast_partial fast_train_epoch kl_anneal_type
    kl_anneal_cycle kl_anneal_ratio no_sanity make_gif""".split()
)
# What nets and rollouts need: kept in every checkpoint, so that Tester.py needs none repeated.
SIZES = ("F_dim", "L_dim", "N_dim", "D_out_dim")
MODEL_FLAGS = (
    *SIZES, "frame_H", "frame_W", "sigmoid", "posterior", "position_map", "feedback_clamp",
    "z_source", "seed",
)  # fmt: skip


LIMITS = (  # (flag, the flag that it may not exceed)
    ("kl_anneal_start", "kl_anneal_stop"),
    ("kl_anneal_floor", "kl_anneal_stop"),
    ("tfr_lower_bound", "tfr"),
    ("lr_min", "lr"),
)
NEEDS = {  # flag: (flag, value) without which it would do nothing
    "lr_milestones": ("lr_schedule", "multistep"),
    "lr_gamma": ("lr_schedule", "multistep"),
    "lr_min": ("lr_schedule", "cosine"),
    "tfr_d_step": ("tfr_mode", "step"),
    "fast_partial": ("fast_train", True),
    "fast_train_epoch": ("fast_train", True),
}


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


def group(parser, title):
    """-> flag(name, kind, default, help): kind is bool, a tuple of choices, or parses the text."""
    add = parser.add_argument_group(title).add_argument

    def flag(name, kind, default, text, **more):
        if kind is bool:
            more["action"] = "store_true"
        else:
            more |= {"choices": kind} if isinstance(kind, tuple) else {"type": kind}
            more["default"] = default
            text += "" if default is None else " (%(default)s)"
        add(f"--{name}", help=text, **more)

    return flag


def add_run_flags(parser, training):
    flag = group(parser, "run")
    flag(
        "DR", str, None, "dataset root: the folder that holds train/, val/ and test/", metavar="DIR"
    )
    flag("save_root", str, None, "the run folder: all that is written goes here", metavar="DIR")
    use = "checkpoint whose weights to start from" if training else "checkpoint to test"
    flag("ckpt_path", str, None, use, metavar="FILE")
    flag("num_epoch", count, 70, "epochs to train")
    flag(
        "batch_size",
        count,
        2,
        "clips in a batch" + ("" if training else "; test: all, unless given"),
    )
    flag("seed", number(int, 0, 2**32 - 1), 0, "same seed, same machine: same bits")
    flag("device", device_name, None, "cpu, cuda, cuda:N or mps; default: a GPU where there is one")
    flag("gpu", natural, 1, "GPUs to use: 1, or 0 for the CPU")
    flag(
        "precision",
        ("auto", "float32", "bf16"),
        "auto",
        "auto: bf16 where the device computes with it",
    )
    flag("num_workers", natural, 4, "threads that decode pictures when the cache is built")
    flag("per_save", count, 3, "keep epoch=N.ckpt every so many epochs")
    use = "no training: validate --ckpt_path once" if training else "the default here"
    flag("test", bool, False, use)


def add_trainer_flags(parser):
    flag = group(parser, "run, Trainer only")
    flag("resume", ("auto", "never"), "auto", "auto: carry on with the run that --save_root holds")
    flag("val_every", count, 1, "validate every so many epochs, and after the last")
    flag("store_visualization", bool, False, "keep a gif of every validation in visualization/")
    flag("preview", bool, False, "print and plot beta, tfr and lr of every epoch, then exit")
    flag("tensorboard", bool, False, "also log to TensorBoard (pip install tensorboard)")
    flag("wandb", bool, False, "also log to Weights & Biases (pip install wandb)")


def add_tester_flags(parser):
    flag = group(parser, "test")
    flag("make_gif", bool, False, "also write seq{i}/{pred_seq,pose,ground_truth}.gif")
    flag("no_sanity", bool, False, "do not read the written files back to check them")
    text = (
        "true frames to score with: a folder or a csv; default: DR/test/test_truth, if it is there"
    )
    flag("truth", str, None, text, metavar="PATH")
    text = (
        "statistics of the pose encoder; auto: per image for the course's files, learned for ours"
    )
    flag("pose_norm", ("auto", "batch", "image"), "auto", text)


def add_data_flags(parser):
    flag = group(parser, "data")
    flag("train_vi_len", number(int, 2), 16, "frames in a training clip")
    flag("val_vi_len", number(int, 2), 630, "frames in a validation clip; test: all, unless given")
    flag("frame_H", number(int, 11), 32, "height that pictures are resized to")
    flag("frame_W", number(int, 11), 64, "width that pictures are resized to")
    flag("partial", part, 1.0, "share of the training frames to use")
    flag("fast_train", bool, False, "use only --fast_partial of them in the first epochs")
    flag("fast_partial", part, 0.4, "share of the training frames in the fast start")
    flag("fast_train_epoch", natural, 5, "epochs of the fast start")
    flag("shuffle", bool, False, "draw the training clips in a new order every epoch")
    flag("random_offset", bool, False, "shift where the training clips begin, every epoch")
    text = "share of clips whose given frame is any frame of the same take, not the one before"
    flag("jump_start", share, 0.0, text, metavar="P")
    flag(
        "cache_dir", str, None, "where decoded pictures are kept; default: DR/.cache", metavar="DIR"
    )


def add_model_flags(parser):
    flag = group(parser, "model")
    flag("F_dim", number(int, 8), 128, "channels of frame features")
    flag("L_dim", number(int, 2), 32, "channels of pose features")
    flag("N_dim", number(int, 4), 12, "channels of z")
    flag("D_out_dim", number(int, 8), 192, "channels of fused features")
    text = "a sigmoid after the Generator; test: as in the checkpoint"
    flag("sigmoid", str, False, text, action=argparse.BooleanOptionalAction)
    text = "the frame that q(z | frame, pose) looks at; 'previous' also serves at test"
    flag("posterior", ("current", "previous"), "current", text)
    text = "channels of a learned map of the scene for the decoder; 0: the course's nets"
    flag("position_map", natural, 0, text, metavar="C")
    text = "gradient through previous frames: full, cut at the frame, or cut at its features"
    flag("feedback", ("full", "frame", "features"), "full", text)
    text = "clamp previous frames to 0..1 before they are encoded; off for the course's checkpoints"
    flag("feedback_clamp", str, True, text, action=argparse.BooleanOptionalAction)
    text = "z of a rollout: drawn from the prior, or its mean"
    flag("z_source", ("sample", "mean"), "sample", text)


def add_optimizer_flags(parser):
    flag = group(parser, "optimizer and learning rate")
    flag("optim", OPTIMIZERS, "Adam", ", ".join(OPTIMIZERS), metavar="NAME")
    flag("lr", positive, 0.001, "learning rate")
    flag(
        "lr_schedule",
        ("multistep", "cosine", "constant"),
        "multistep",
        "its course over the epochs",
    )
    text = "multistep: epochs from which it is multiplied by --lr_gamma"
    flag("lr_milestones", natural, [2, 5], text, nargs="*", metavar="E")
    flag("lr_gamma", part, 0.1, "multistep: the factor")
    flag("lr_min", non_negative, 0.0, "cosine: learning rate of the last epoch")
    flag("warmup_epochs", natural, 0, "epochs of linear warm-up to --lr")
    flag("grad_clip", non_negative, 1.0, "largest norm of the gradient; 0: any")
    flag(
        "ema", number(float, 0, 0.99999), 0.0, "decay of averaged weights, used to predict; 0: none"
    )


def add_forcing_flags(parser):
    flag = group(parser, "teacher forcing")
    flag("tfr", share, 1.0, "probability that the previous frame is the true one")
    flag("tfr_sde", natural, 10, "epoch where its decay starts")
    flag("tfr_d_step", share, 0.1, "step mode: decay per epoch")
    flag("tfr_mode", ("step", "linear"), "step", "steps, or a straight line to the last epoch")
    flag("tfr_lower_bound", share, 0.0, "where the decay ends")
    flag("tfr_coin", ("epoch", "batch"), "epoch", "one coin decides on an epoch, or on a batch")
    text = "deviation of noise on the previous frame in training"
    flag("feedback_noise", non_negative, 0.0, text, metavar="S")


def add_kl_flags(parser):
    flag = group(parser, "KL annealing")
    text = "Cyclical, Monotonic or None (also No, Without, W/O, Constant: beta = stop)"
    flag("kl_anneal_type", kl_type, "Cyclical", text, metavar="TYPE")
    flag("kl_anneal_cycle", count, 10, "cycles over --num_epoch")
    flag("kl_anneal_ratio", share, 1.0, "share of a cycle spent ramping")
    flag("kl_anneal_start", non_negative, 0.0, "beta where a ramp starts")
    flag("kl_anneal_stop", non_negative, 1.0, "beta where a ramp ends")
    flag("kl_anneal_floor", non_negative, 0.0, "beta is never below")
    text = "first epochs with z from N(0, I) and no KL: they train the decoder alone"
    flag("pretrain_epochs", natural, 0, text)


def build_parser(script):
    training = script == "Trainer"
    text = "Train a conditional VAE that predicts video."
    if not training:
        text = "Roll a checkpoint out over every test clip: gifs, submission.csv, scores."
    parser = LabParser(prog=f"{script}.py", description=text)
    add_run_flags(parser, training)
    own = add_trainer_flags if training else add_tester_flags
    shared = add_data_flags, add_model_flags, add_optimizer_flags, add_forcing_flags, add_kl_flags
    for add_flags in (own, *shared):
        add_flags(parser)
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
    for flag in ("save_root",) if getattr(args, "preview", False) else ("DR", "save_root"):
        if not getattr(args, flag):
            parser.error(f"--{flag} is required")
    if parser.prog == "Tester.py" and not args.ckpt_path:
        parser.error("--ckpt_path is required: the checkpoint to test")
    if args.test and not args.ckpt_path:
        parser.error("--test validates a checkpoint: name it with --ckpt_path")
    if args.gpu > 1:
        parser.error(f"--gpu {args.gpu}: a run uses one GPU; start more runs, with --device cuda:N")
    if args.gpu == 0 and args.device not in (None, "cpu"):
        parser.error(f"--gpu 0 means the CPU, but --device is {args.device}")
    for low, high in LIMITS:
        if getattr(args, low) > getattr(args, high):
            parser.error(f"--{low} {getattr(args, low)} is above --{high} {getattr(args, high)}")
    if args.feedback == "features" and args.posterior == "previous":
        parser.error("--feedback features with --posterior previous would never train the encoder")
    for flag, (needed, value) in NEEDS.items():
        if flag in typed and getattr(args, needed) != value:
            parser.error(f"--{flag} needs --{needed} {value}, not {getattr(args, needed)}")


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
