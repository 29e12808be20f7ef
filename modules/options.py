"""Every flag of Trainer.py and Tester.py, once: its type, range, default and reason.

Both labs share one set of options. A flag that only one lab has is refused in the other; where
the robot lab's users know a shared flag by another name, that name works there too.
"""

import argparse
import functools
import re
import signal
import sys

from .signals import Stopped, listener

LABS = ("pose", "robot")

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
SIZES = set(
    """F_dim L_dim N_dim D_out_dim g_dim z_dim rnn_size vgg_width posterior_rnn_layers
    predictor_rnn_layers learned_prior nets scene first_frame posterior""".split()
)
MODEL_FLAGS = SIZES | set(
    """frame_H frame_W sigmoid position_map feedback_clamp z_source seed
    n_past n_future n_eval last_frame_skip condition""".split()
)

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
        with listener:
            main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror or error}")
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        sys.exit(
            "error: there is not enough memory: smaller batches, clips, frames or nets need less, "
            f"and so does training with --recompute. {str(error).partition(chr(10))[0][:200]}"
        )
    except (Stopped, KeyboardInterrupt) as stop:
        number = getattr(stop, "number", signal.SIGINT)
        print(f"stopped by {signal.Signals(number).name}", file=sys.stderr)
        sys.exit(128 + number)


def ran_out_of_memory(error):
    """A GPU, a CPU and numpy say so each in its own way."""
    return "MemoryError" in type(error).__name__ or "DefaultCPUAllocator" in str(error)


class LabParser(argparse.ArgumentParser):
    """Accepts unique prefixes, but takes no flag of the other lab for a prefix of this one's."""

    def __init__(self, script, lab, **more):
        super().__init__(prog=f"{script}.py", **more)
        self.script, self.lab = script, lab

    def _get_option_tuples(self, option_string):
        if option_string.split("=")[0] in foreign_flags(self.script, self.lab):
            return []
        found = [m for m in super()._get_option_tuples(option_string) if m[0].dest != "lab"]
        matches = list({m[0]: m for m in found}.values())  # two names of one flag are one match
        template = [m for m in matches if m[0].dest in TEMPLATE]
        return template if len(matches) > 1 and len(template) == 1 else matches

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")

    def refuse(self, unknown):
        """Say what is wrong with arguments that no flag of this lab takes."""
        for text in unknown:
            name = text.split("=")[0]
            if name in foreign_flags(self.script, self.lab):
                self.error(f"{name} belongs to --lab {other(self.lab)}, this is --lab {self.lab}")
        self.error(f"unrecognized arguments: {' '.join(unknown)}")


def other(lab):
    return LABS[1 - LABS.index(lab)]


@functools.cache
def foreign_flags(script, lab):
    """The other lab's own flags."""
    mine, theirs = (build_parser(script, x)._option_string_actions for x in (lab, other(lab)))
    return set(theirs) - set(mine)


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


def group(parser, title, of_training=False):
    """-> flag(name, kind, default, help): kind is bool, a tuple of choices, or parses the text.

    `robot` is its default, and `known_as` another name of it, in the robot lab.
    """
    if of_training and parser.script == "Tester":
        title += " (of training: accepted, but they change nothing here)"
    add = parser.add_argument_group(title).add_argument

    def flag(name, kind, default, text, robot=None, known_as=None, **more):
        names = [name]
        if parser.lab == "robot":
            default = default if robot is None else robot
            names += [known_as] if known_as else []
        if kind is bool:
            more["action"] = "store_true"
        else:
            more |= {"choices": kind} if isinstance(kind, tuple) else {"type": kind}
            more["default"] = default
            text += "" if default is None else " (%(default)s)"
        add(*(f"--{name}" for name in names), help=text, **more)

    return flag


def add_run_flags(parser, training):
    flag = group(parser, "run")
    flag("lab", LABS, parser.lab, "a dancer by poses, or a robot arm by actions; shows its flags")
    text = "dataset root: the folder that holds train/, the validation folder and test/"
    flag("DR", str, None, text, metavar="DIR")
    flag("save_root", str, None, "the run folder: all that is written goes here", metavar="DIR")
    use = "checkpoint whose weights to start from" if training else "checkpoint to test"
    flag("ckpt_path", str, None, use, metavar="FILE")
    flag("num_epoch", count, 70, "epochs to train", robot=300, known_as="niter")
    if training:
        flag("batch_size", count, 2, "clips in a batch", robot=12)
    else:
        flag("batch_size", count, 64, "clips that are rolled out together")
    text = "same seed, same machine: same bits (on a GPU with --deterministic)"
    flag("seed", number(int, 0, 2**32 - 1), 0, text, robot=1)
    flag("device", device_name, None, "cpu, cuda, cuda:N or mps; default: a GPU where there is one")
    flag("gpu", natural, 1, "GPUs to use: 1, or 0 for the CPU")
    text = "auto: bf16 where the device computes with it"
    flag("precision", ("auto", "float32", "bf16"), "auto", text)
    text = "record a step's small operations once and launch them as one; on a CUDA GPU"
    flag("cuda_graphs", bool, False, text)
    text = "only operations that give the same bits twice on one machine; slower on a GPU"
    flag("deterministic", bool, False, text)
    flag("num_workers", natural, 4, "threads that decode pictures when the cache is built")
    text = "where decoded pictures are kept; default: DR/.cache"
    flag("cache_dir", str, None, text, metavar="DIR")
    flag("per_save", count, 3, "keep epoch=N.ckpt every so many epochs")
    use = "no training: validate --ckpt_path once" if training else "what Tester.py does anyway"
    flag("test", bool, False, use)


def add_trainer_flags(parser):
    flag = group(parser, "run, Trainer only")
    text = (
        "auto: carry on with the run that --save_root holds; never: move it aside, start afresh; "
        "or a checkpoint, or a run folder, to carry on from"
    )
    flag("resume", str, "auto", text, metavar="auto|never|PATH")
    text = "also save last.ckpt every so many steps; 0: after every epoch"
    flag("save_every_steps", natural, 0, text, metavar="N")
    flag("keep", natural, 0, "epoch=N.ckpt files to keep, the newest; 0: all", metavar="N")
    text = "stop after so many steps in a row whose loss or gradient is not finite"
    flag("max_skipped", count, 50, text, metavar="N")
    text = "leave out clips that hold a picture which cannot be read, and say how many"
    flag("skip_bad_frames", bool, False, text)
    flag("val_every", count, 1, "validate every so many epochs, and after the last")
    flag("store_visualization", bool, False, "keep a gif of every validation in visualization/")
    text = "where the training set is; auto: on the device if it fits in half of its free memory"
    flag("data_on", ("auto", "device", "disk"), "auto", text)
    flag("compile", ("off", "default"), "off", "default: torch.compile the nets")
    flag("preview", bool, False, "print and plot beta, tfr and lr of every epoch, then exit")
    flag("tensorboard", bool, False, "also log to TensorBoard (pip install tensorboard)")
    flag("wandb", bool, False, "also log to Weights & Biases (pip install wandb)")


def add_tester_flags(parser):
    flag = group(parser, "test")
    text = "futures drawn of every clip: their mean, best, worst and how far apart they are"
    flag("n_samples", count, 1, text, metavar="N")
    flag("no_sanity", bool, False, "do not read the written files back to check them")
    if parser.lab == "robot":
        return
    flag("make_gif", bool, False, "also write seq{i}/{pred_seq,pose,ground_truth}.gif")
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
    flag("random_offset", bool, False, "shift where the training clips begin, every epoch")
    if parser.lab == "robot":
        flag("n_past", count, 2, "frames that are given")
        flag("n_future", count, 10, "frames to predict, in training and in the scores")
        flag("n_eval", number(int, 2), 30, "frames of a clip to roll out at validation and test")
        flag("epoch_size", count, 600, "batches of an epoch")
        return
    flag("train_vi_len", number(int, 2), 16, "frames in a training clip")
    flag("val_vi_len", number(int, 2), 630, "frames in a validation clip; test: all, unless given")
    flag("frame_H", number(int, 11), 32, "height that pictures are resized to")
    flag("frame_W", number(int, 11), 64, "width that pictures are resized to")
    text = "first epochs, in which training clips grow from 2 frames to --train_vi_len"
    flag("curriculum", natural, 0, text, metavar="E")
    flag("partial", part, 1.0, "share of the training frames to use")
    flag("fast_train", bool, False, "use only --fast_partial of them in the first epochs")
    flag("fast_partial", part, 0.4, "share of the training frames in the fast start")
    flag("fast_train_epoch", natural, 5, "epochs of the fast start")
    flag("shuffle", bool, False, "draw the training clips in a new order every epoch")
    text = "share of clips whose given frame is any frame of the same take, not the one before"
    flag("jump_start", share, 0.0, text, metavar="P")
    text = (
        "share of clips whose dancer is moved, stretched and leaned, the pose with him; for one "
        "camera that does not move"
    )
    flag("warp", share, 0.0, text, metavar="P")


def add_model_flags(parser):
    flag = group(parser, "model")
    text = "z of a rollout: drawn from the prior, or its mean"
    flag("z_source", ("sample", "mean"), "sample", text)
    (add_recurrent_flags if parser.lab == "robot" else add_convolutional_flags)(flag)


def add_convolutional_flags(flag):
    text = "course: the course's, at full resolution; unet: a U-Net at half of it"
    flag("nets", ("course", "unet"), "course", text)
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
    text = "draw before a learned still scene, for one camera that does not move"
    flag("scene", bool, False, text)
    text = "show the nets the clip's given frame at every step, beside the previous one"
    flag("first_frame", bool, False, text)
    flag("learned_prior", bool, False, "learn p(z | previous frame, pose) instead of N(0, I)")
    text = (
        "gradient through previous frames, without teacher forcing: full, cut at the frame, or cut "
        "at its features"
    )
    flag("feedback", ("full", "frame", "features"), "full", text)
    text = (
        "without teacher forcing: first predictions of a training clip that get no gradient; the "
        "rest goes on from them"
    )
    flag("push_forward", natural, 0, text, metavar="N")
    text = "clamp previous frames to 0..1 before they are encoded; off for the course's checkpoints"
    flag("feedback_clamp", str, True, text, action=argparse.BooleanOptionalAction)
    text = "keep no activations, compute them again for the gradient: less memory, a third slower"
    flag("recompute", bool, False, text)
    text = "deviation of noise on the previous frame in training"
    flag("feedback_noise", non_negative, 0.0, text, metavar="S")


def add_recurrent_flags(flag):
    flag("g_dim", count, 128, "size of a frame's vector")
    flag("z_dim", count, 64, "size of z")
    flag("rnn_size", count, 256, "hidden size of the recurrent nets")
    flag("predictor_rnn_layers", count, 2, "recurrent layers of the frame predictor")
    flag("posterior_rnn_layers", count, 1, "recurrent layers of the posterior, and of the prior")
    flag("vgg_width", count, 64, "channels of the first stage of encoder and decoder", metavar="C")
    text = "skips from the frame before, not from the last given one"
    flag("last_frame_skip", bool, False, text)
    text = "the row of action and position that predicts a frame: its own, the one before, or zeros"
    flag("condition", ("current", "previous", "none"), "current", text)
    text = "count actions and positions in deviations from their mean over the training set"
    flag("standardise", bool, False, text)
    flag("learned_prior", bool, False, "learn p(z | frames before) instead of N(0, I)")


def add_optimizer_flags(parser):
    flag = group(parser, "loss, optimizer and learning rate", of_training=True)
    flag("optim", OPTIMIZERS, "Adam", ", ".join(OPTIMIZERS), metavar="NAME")
    flag("lr", positive, 0.001, "learning rate", robot=0.002)
    text = "mse, or calibrated: a Gaussian's likelihood with the best variance for every frame"
    flag("loss", ("mse", "calibrated"), "mse", text)
    text = "momentum: the first beta of Adam and its kin"
    flag("beta1", number(float, 0, 0.9999), 0.9, text)
    courses = ("multistep", "cosine", "constant")
    flag("lr_schedule", courses, "multistep", "the learning rate's course", robot="constant")
    text = "multistep: epochs from which it is multiplied by --lr_gamma"
    flag("lr_milestones", natural, [2, 5], text, nargs="*", metavar="E")
    flag("lr_gamma", part, 0.1, "multistep: the factor")
    flag("lr_min", non_negative, 0.0, "cosine: learning rate of the last epoch")
    flag("warmup_epochs", natural, 0, "epochs of linear warm-up to --lr")
    flag("grad_clip", non_negative, 1.0, "largest norm of the gradient; 0: any", robot=0.0)
    text = "decay of averaged weights, used to predict; 0: none"
    flag("ema", number(float, 0, 0.99999), 0.0, text)


def add_forcing_flags(parser):
    flag = group(parser, "teacher forcing", of_training=True)
    flag("tfr", share, 1.0, "probability that the previous frame is the true one")
    text = "epoch where its decay starts"
    flag("tfr_sde", natural, 10, text, robot=0, known_as="tfr_start_decay_epoch")
    text = "step mode: decay per epoch"
    flag("tfr_d_step", share, 0.1, text, robot=0.0, known_as="tfr_decay_step")
    flag("tfr_mode", ("step", "linear"), "step", "steps, or a straight line to the last epoch")
    flag("tfr_lower_bound", share, 0.0, "where the decay ends")
    text = "one coin decides on an epoch, or on a batch"
    flag("tfr_coin", ("epoch", "batch"), "epoch", text, robot="batch")


def add_kl_flags(parser):
    flag = group(parser, "KL annealing", of_training=True)
    text = (
        "Cyclical, Monotonic, or None (also No, Without, W/O, Constant): beta is --kl_anneal_stop "
        "from the start"
    )
    flag("kl_anneal_type", kl_type, "Cyclical", text, robot="Monotonic", metavar="TYPE")
    if parser.lab == "robot":
        text = "the same as --kl_anneal_type Cyclical"
        more = {"action": "store_const", "const": "Cyclical", "dest": "kl_anneal_type"}
        parser.add_argument("--kl_anneal_cyclical", default=argparse.SUPPRESS, help=text, **more)
    flag("kl_anneal_cycle", count, 10, "cycles over --num_epoch", robot=3)
    flag("kl_anneal_ratio", share, 1.0, "share of a cycle spent ramping", robot=0.5)
    flag("kl_anneal_start", non_negative, 0.0, "beta where a ramp starts")
    flag("kl_anneal_stop", non_negative, 1.0, "beta where a ramp ends")
    flag("kl_anneal_floor", non_negative, 0.0, "beta is never below")
    text = "nats below which the KL of a dimension of z, a frame, costs nothing"
    flag("free_bits", non_negative, 0.0, text)
    text = "first epochs with z from N(0, I) and no KL: they train the decoder alone"
    flag("pretrain_epochs", natural, 0, text)


def build_parser(script, lab="pose"):
    training = script == "Trainer"
    text = "Train a conditional VAE that predicts video."
    if not training:
        text = "Roll a checkpoint out over every test clip: gifs, strips, scores."
    parser = LabParser(script, lab, description=text)
    add_run_flags(parser, training)
    own = add_trainer_flags if training else add_tester_flags
    shared = add_data_flags, add_model_flags, add_optimizer_flags, add_forcing_flags, add_kl_flags
    for add_flags in (own, *shared):
        add_flags(parser)
    return parser


def peek(flag, argv=None):
    """What was typed for this flag, or None: the lab decides which flags there are to parse."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=flag != "lab")  # --l is --lr
    parser.add_argument(f"--{flag}", nargs="?", dest="value")
    return parser.parse_known_args(argv)[0].value


def default_of(flag, lab):
    return build_parser("Trainer", lab).get_default(flag)


def parse(script, argv=None, lab=None):
    """-> (args, the set of flags that were typed). Wrong usage ends with exit code 2.

    `lab` is for command lines that do not name one.
    """
    typed_lab = peek("lab", argv)
    lab = typed_lab if typed_lab in LABS else lab or "pose"
    parser = build_parser(script, lab)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.refuse(unknown)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    typed = set(vars(parser.parse_args(argv)))
    check(parser, args, typed)
    return args, typed


def check(parser, args, typed):
    """Refuse what is missing and what contradicts itself."""
    required = ("save_root",) if getattr(args, "preview", False) else ("DR", "save_root")
    if missing := [f"--{flag}" for flag in required if not getattr(args, flag)]:
        parser.error(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} required")
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
    training = parser.script == "Trainer" and not args.test
    if args.lab == "pose":
        check_pose(parser, args)
    elif training:  # at test the checkpoint has its say first
        check_robot(parser, args)
    if training:
        check_needs(parser, args, typed)


def check_needs(parser, args, typed):
    """Refuse flags that would do nothing; what the template let pass is only said."""
    for flag, (needed, value) in NEEDS.items():
        if flag in typed and getattr(args, needed) != value:
            problem = f"--{flag} needs --{needed}" + ("" if value is True else f" {value}")
            if flag not in TEMPLATE:
                parser.error(f"{problem}, not {getattr(args, needed)}")
            print(f"note: {problem}; as it is, it does nothing")


def check_pose(parser, args):
    if args.feedback == "features" and args.posterior == "previous":
        parser.error("--feedback features with --posterior previous would never train the encoder")
    if args.learned_prior and args.posterior == "previous":
        parser.error("--posterior previous is its own prior at test: leave out --learned_prior")
    if args.learned_prior and args.pretrain_epochs >= args.num_epoch:
        parser.error(f"--pretrain_epochs {args.pretrain_epochs} leaves no epoch to --learned_prior")
    if args.scene and args.sigmoid:
        parser.error("--scene draws frames as they are: leave out --sigmoid")
    if args.nets == "unet" and (args.frame_H % 2 or args.frame_W % 2):
        size = f"--frame_H {args.frame_H} --frame_W {args.frame_W}"
        parser.error(f"{size}: --nets unet halves them, so both must be even")


def check_robot(parser, args):
    if args.batch_size < 2:
        parser.error("--batch_size must be at least 2: BatchNorm sees one frame of each clip")
    if problem := wrong_lengths(args):
        parser.error(problem)


def wrong_lengths(args):
    """What is wrong with the robot lab's numbers of frames, if anything is."""
    clip = args.n_past + args.n_future
    if args.n_eval < clip:
        return f"--n_eval {args.n_eval} is below --n_past + --n_future, {clip}"
    return None
