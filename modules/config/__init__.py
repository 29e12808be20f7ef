"""Settings: frozen dataclasses that hold each setting's type, default, range and help text.

A training run of the pose lab is a `PoseTraining`: it inherits what a run, a data set, a model, an
optimizer and the schedules are. Functions take the part that they need, so `VAE_Model(PoseModel())`
works, and so does `VAE_Model(PoseTraining())`. The command line is made from these fields.
"""

from dataclasses import dataclass
from typing import ClassVar

from .fields import (
    FIXED,
    MAY_CHANGE,
    ONCE,
    SCHEDULED,
    STORED,
    TEMPLATE,
    TRAIN_ONLY,
    AnyCase,
    Choice,
    Need,
    Number,
    Settings,
    Several,
    above,
    clips,
    count,
    device_name,
    epochs,
    frames,
    kl_type,
    natural,
    needs,
    non_negative,
    portion,
    positive,
    redefault,
    samples,
    schedule,
    setting,
    share,
    switch,
    text,
    workers,
)

LAB_NAMES = ("pose", "robot")
FRAME = 64  # robot lab: height and width of a frame
CONDITION = 7  # robot lab: 4 values of the action, 3 of the arm's position
LARGEST_FRAME, WIDEST, MOST_LAYERS = 1024, 4096, 32  # pixels, channels, layers of an LSTM
OBJECTIVES = {  # of --loss
    "mse": "MSE + beta KL",
    "calibrated": "log MSE + beta KL",
    "calibrated_batch": "log MSE of the batch + beta KL",
}
BASELINES = {"pose": "copy-first-frame baseline", "robot": "copy-last-frame baseline"}
OPTIMIZERS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")

# ---------------------------------------------------------------- what a flag needs

CYCLES = needs("kl_anneal_type", "Cyclical")
RAMP = Need("without --kl_anneal_type Cyclical or Monotonic", lambda s: s.kl_anneal_type != "None")
LATENT = needs("latent", True)
POSTERIOR = Need(
    "without --pretrain_epochs below --num_epoch", lambda s: s.pretrain_epochs < s.num_epoch
)
SHARE = Need("without --posterior_share above 0", lambda s: s.posterior_share > 0)
KL = (POSTERIOR, SHARE, LATENT)
FORCED = Need("without --tfr above 0", lambda s: s.tfr > 0 or "tfr" in s.scheduled)
DECAY = Need("without --tfr_d_step above 0", lambda s: s.tfr_d_step > 0)
FREE_RUNNING = Need(
    "without --tfr below 1, or a decay",
    lambda s: s.tfr < 1 or s.tfr_sde < s.num_epoch or "tfr" in s.scheduled,
)
FAST = needs("fast_train", True)
BETA, TFR, LR = (  # of the flags
    Need(f"beside a --schedule file with {column}", lambda s, c=column: c not in s.scheduled)
    for column in SCHEDULED
)
MULTISTEP = (LR, needs("lr_schedule", "multistep"))
COSINE = (LR, needs("lr_schedule", "cosine"))


# ---------------------------------------------------------------- any run


@dataclass(frozen=True)
class Compute(Settings):
    title: ClassVar[str] = "device"

    device: str | None = setting(
        None, device_name, "cpu, cuda, cuda:N or mps; default: a GPU if available", TEMPLATE,
        MAY_CHANGE,
    )  # fmt: skip
    precision: str = setting(
        "auto", Choice(("auto", "float32", "bf16")), "auto: bf16 where the device supports it",
        MAY_CHANGE,
    )  # fmt: skip
    deterministic: bool = setting(
        False, switch, "deterministic operations only; slower", MAY_CHANGE
    )


@dataclass(frozen=True)
class AnyRun(Compute):
    title: ClassVar[str] = "run"

    lab: str = setting("pose", Choice(LAB_NAMES), "pose: a dancer; robot: a robot arm")
    DR: str | None = setting(
        None, text, "dataset root, with train/, the validation folder and test/", TEMPLATE,
        MAY_CHANGE, metavar="DIR",
    )  # fmt: skip
    save_root: str | None = setting(
        None, text, "run folder: all output goes here", TEMPLATE, MAY_CHANGE, metavar="DIR"
    )
    ckpt_path: str | None = setting(
        None, text, "checkpoint to start from (Trainer) or to test (Tester)", TEMPLATE, MAY_CHANGE,
        metavar="FILE",
    )  # fmt: skip
    num_epoch: int = setting(70, epochs, "epochs to train", TEMPLATE, MAY_CHANGE, TRAIN_ONLY)
    batch_size: int = setting(2, clips, "clips per batch, over all processes", TEMPLATE)
    seed: int = setting(0, Number(int, 0, 2**32 - 1), "seed of all random draws", STORED)
    num_workers: int = setting(4, workers, "threads that decode images", TEMPLATE, MAY_CHANGE)
    cache_dir: str | None = setting(
        None, text, "folder for decoded images; default: DR/.cache", MAY_CHANGE, metavar="DIR"
    )
    per_save: int = setting(
        3, count, "save epoch=N.ckpt every N epochs", TEMPLATE, MAY_CHANGE, TRAIN_ONLY
    )
    test: bool = setting(
        False, switch, "validate --ckpt_path once, without training", TEMPLATE, MAY_CHANGE,
        TRAIN_ONLY, ONCE,
    )  # fmt: skip
    plots: bool = setting(True, switch, "draw plots and film strips", MAY_CHANGE)


# ---------------------------------------------------------------- models


@dataclass(frozen=True)
class Model(Compute):
    title: ClassVar[str] = "model"

    z_source: str = setting(
        "sample", Choice(("sample", "mean")), "z in a rollout: a prior sample, or the prior mean",
        STORED, needs=(LATENT,),
    )  # fmt: skip
    latent: bool = setting(True, switch, "--no-latent: z is 0, a deterministic twin", FIXED)
    learned_prior: bool = setting(False, switch, "learn p(z | past) instead of N(0, I)", FIXED)
    published_step: bool = setting(
        False, switch,
        "train as published code: BatchNorm statistics of each time step, unclamped frames",
        STORED,
    )  # fmt: skip

    def contradiction(self):
        if self.learned_prior and not self.latent:
            return "--no-latent leaves no z to predict: leave out --learned_prior"
        return super().contradiction()


@dataclass(frozen=True)
class PoseModel(Model):
    title: ClassVar[str] = "model"

    frame_H: int = setting(
        32, Number(int, 11, LARGEST_FRAME), "height to which images are resized", TEMPLATE, STORED
    )
    frame_W: int = setting(
        64, Number(int, 11, LARGEST_FRAME), "width to which images are resized", TEMPLATE, STORED
    )
    nets: str = setting(
        "course", Choice(("course", "unet")),
        "course: the template's nets, at full resolution; unet: a U-Net at half resolution", FIXED,
    )  # fmt: skip
    F_dim: int = setting(128, Number(int, 8, WIDEST), "channels of frame features", TEMPLATE, FIXED)
    L_dim: int = setting(32, Number(int, 2, WIDEST), "channels of pose features", TEMPLATE, FIXED)
    N_dim: int = setting(12, Number(int, 4, WIDEST), "channels of z", TEMPLATE, FIXED)
    D_out_dim: int = setting(192, Number(int, 8, WIDEST), "channels after fusion", TEMPLATE, FIXED)
    output_activation: str = setting(
        "none", Choice(("none", "sigmoid")), "applied to the Generator's output", STORED,
        shortcuts={"sigmoid": "sigmoid", "no-sigmoid": "none"},
    )  # fmt: skip
    pose_norm: str = setting(
        "auto", Choice(("auto", "learned", "image")),
        "pose BatchNorm in a rollout: learned, or of each image; auto: image for template files",
        STORED,
    )  # fmt: skip
    posterior: str = setting(
        "current", Choice(("current", "previous", "previous_image")),
        "seen by the posterior: true frame, previous frame or image; the last two also at test",
        FIXED, needs=(LATENT,),
    )  # fmt: skip
    z_grid: str = setting(
        "full", Choice(("full", "coarse", "vector")),
        "a z for each position of the features, for 4 x 4 of them, or for all", FIXED,
        needs=(LATENT,),
    )  # fmt: skip
    scene: bool = setting(
        False, switch, "composite over a learned static background; for a fixed camera", FIXED
    )
    first_frame: bool = setting(False, switch, "condition every step on frame 0, too", FIXED)
    feedback: str = setting(
        "full", Choice(("full", "frame", "features")),
        "free-running gradient: full, or cut at the previous frame or its features", TRAIN_ONLY,
        needs=(FREE_RUNNING,),
    )  # fmt: skip
    recompute: bool = setting(
        False, switch, "activation checkpointing: less memory, a third slower", MAY_CHANGE,
        TRAIN_ONLY,
    )  # fmt: skip
    feedback_noise: float = setting(
        0.0, non_negative, "standard deviation of noise on previous frames in training", TRAIN_ONLY
    )

    @property
    def frame_values(self) -> int:
        """The values of a frame."""
        return 3 * self.frame_H * self.frame_W

    def contradiction(self):
        if self.feedback == "features" and self.posterior != "current":
            name = self.posterior
            return f"--feedback features with --posterior {name} would never train the encoder"
        if self.learned_prior and self.posterior != "current":
            return f"--posterior {self.posterior} cannot be combined with --learned_prior"
        if self.nets == "unet" and self.posterior == "previous_image":
            return "--posterior previous_image needs --nets course: features of an image's size"
        if self.scene and self.output_activation != "none":
            name = self.output_activation
            return f"--scene composites the output as it is: leave out --output_activation {name}"
        if self.nets == "unet" and (self.frame_H % 2 or self.frame_W % 2):
            size = f"--frame_H {self.frame_H} --frame_W {self.frame_W}"
            return f"{size}: --nets unet halves them, so both must be even"
        if self.nets == "unet" and self.published_step:
            return "--published_step: --nets unet has no BatchNorm"
        if self.nets == "unet" and self.pose_norm == "image":
            return "--pose_norm image: a U-Net's pose encoder has no normalisation"
        return super().contradiction()


@dataclass(frozen=True)
class RobotModel(Model):
    title: ClassVar[str] = "model"

    nets: str = setting(
        "vgg", Choice(("vgg", "dcgan")),
        "frame encoder and decoder; dcgan: strided convolutions, several times faster", FIXED,
    )  # fmt: skip
    n_past: int = setting(2, count, "given frames", TEMPLATE, STORED)
    g_dim: int = setting(128, Number(int, 1, WIDEST), "size of a frame's features", TEMPLATE, FIXED)
    z_dim: int = setting(64, Number(int, 1, WIDEST), "size of z", TEMPLATE, FIXED)
    rnn_size: int = setting(256, Number(int, 1, WIDEST), "size of the LSTMs", TEMPLATE, FIXED)
    predictor_rnn_layers: int = setting(
        2, Number(int, 1, MOST_LAYERS), "LSTM layers of the frame predictor", TEMPLATE, FIXED
    )
    posterior_rnn_layers: int = setting(
        1, Number(int, 1, MOST_LAYERS), "LSTM layers of the posterior and of the prior", TEMPLATE,
        FIXED,
    )  # fmt: skip
    vgg_width: int = setting(
        64, Number(int, 1, WIDEST), "channels of the first encoder stage", FIXED
    )
    last_frame_skip: bool = setting(
        False, switch, "skip connections from the previous frame, not a given one", TEMPLATE, STORED
    )
    skip_from: str = setting(
        "last", Choice(("last", "second_last")),
        "given frame of the skip connections; second_last: published weights", STORED,
    )  # fmt: skip
    condition: str = setting(
        "current", Choice(("current", "previous", "none")),
        "action and position that predict frame t: of t, of t-1, or zeros", STORED,
    )  # fmt: skip

    @property
    def frame_values(self) -> int:
        """The values of a frame."""
        return 3 * FRAME**2

    def contradiction(self):
        if self.skip_from == "second_last" and self.n_past < 2:
            return "--skip_from second_last needs --n_past 2 or more"
        if self.skip_from == "second_last" and self.last_frame_skip:
            return "--skip_from second_last with --last_frame_skip: leave one of them out"
        return super().contradiction()


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class PoseData(Settings):
    title: ClassVar[str] = "data"

    train_vi_len: int = setting(16, frames, "frames per training clip", TEMPLATE, TRAIN_ONLY)
    val_vi_len: int = setting(630, frames, "frames per validation clip; Tester: all", TEMPLATE)
    partial: float = setting(
        1.0, portion, "share of the training frames to use", TEMPLATE, TRAIN_ONLY
    )
    fast_train: bool = setting(
        False, switch, "use --fast_partial of them in the first epochs", TEMPLATE, TRAIN_ONLY
    )
    fast_partial: float = setting(
        0.4, portion, "share of the training frames in the fast start", TEMPLATE, TRAIN_ONLY,
        needs=(FAST,),
    )  # fmt: skip
    fast_train_epoch: int = setting(
        5, natural, "epochs of the fast start; published loops: two more", TEMPLATE, TRAIN_ONLY,
        needs=(FAST,),
    )  # fmt: skip
    shuffle: bool = setting(
        False, switch, "shuffle the training clips every epoch, and shift their start", TRAIN_ONLY
    )
    jump_start: float = setting(
        0.0, share, "share of clips whose first frame is another one of the take", TRAIN_ONLY
    )
    warp: float = setting(
        0.0, share, "share of clips with affine augmentation of dancer and pose; fixed camera",
        TRAIN_ONLY,
    )  # fmt: skip


@dataclass(frozen=True)
class RobotData(Settings):
    title: ClassVar[str] = "data"

    n_future: int = setting(10, count, "frames to predict and score", TEMPLATE, STORED)
    n_eval: int = setting(30, frames, "frames per clip at validation and test", TEMPLATE, STORED)
    epoch_size: int = setting(600, epochs, "batches per epoch", TEMPLATE, TRAIN_ONLY)
    random_offset: bool = setting(
        False, switch, "start training clips at a random frame", TRAIN_ONLY
    )
    standardise: bool = setting(False, switch, "standardise actions and positions", TRAIN_ONLY)

    def contradiction(self):
        clip = self.n_past + self.n_future
        if self.n_eval < clip:
            return f"--n_eval {self.n_eval} is below --n_past + --n_future, {clip}"
        return super().contradiction()


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Loop(Settings):
    title: ClassVar[str] = "training loop"

    resume: str = setting(
        "auto", text,
        "auto: the run in --save_root; never: move it aside; or a checkpoint or run folder",
        MAY_CHANGE, ONCE, metavar="auto|never|PATH",
    )  # fmt: skip
    save_every_steps: int = setting(
        0, natural, "also save last.ckpt every N steps; 0: after epochs only", MAY_CHANGE
    )
    keep: int = setting(2, natural, "newest epoch=N.ckpt files to keep; 0: all", MAY_CHANGE)
    val_every: int = setting(1, count, "validate every N epochs, and after the last", MAY_CHANGE)
    store_visualization: bool = setting(
        False, switch, "keep a gif of every validation", TEMPLATE, MAY_CHANGE
    )
    compile: str = setting(
        "off", text, "off, or a mode of torch.compile: default, reduce-overhead (CUDA graphs), ...",
        MAY_CHANGE, metavar="MODE",
    )  # fmt: skip
    schedule: tuple | None = setting(
        None, schedule,
        "csv with columns epoch and any of beta, tfr, lr; a row holds until the next one",
        metavar="FILE",
    )  # fmt: skip
    preview: bool = setting(
        False, switch, "print, plot and write beta, tfr and lr per epoch, then exit", MAY_CHANGE,
        ONCE,
    )  # fmt: skip
    tensorboard: bool = setting(False, switch, "log to TensorBoard", MAY_CHANGE)
    wandb: bool = setting(False, switch, "log to Weights & Biases", MAY_CHANGE)


@dataclass(frozen=True)
class Optimization(Settings):
    title: ClassVar[str] = "loss, optimizer and learning rate"

    loss: str = setting(
        "mse", Choice(tuple(OBJECTIVES)),
        "calibrated: optimal variance of each frame, a profile likelihood; "
        "calibrated_batch: one for the batch, with beta 1 an ELBO",
    )  # fmt: skip
    posterior_share: float = setting(
        1.0, share, "share of steps with z from the posterior; the others: from the prior",
        needs=(POSTERIOR, LATENT),
    )  # fmt: skip
    loss_reduction: str = setting(
        "sum", Choice(("sum", "batch", "mean")),
        "over a clip's frames; sum: template; batch: sum / batch size (report B)",
    )  # fmt: skip
    optim: str = setting(
        "Adam", AnyCase(OPTIMIZERS), ", ".join(OPTIMIZERS), TEMPLATE, metavar="NAME"
    )
    lr: float = setting(0.001, positive, "learning rate", TEMPLATE, needs=(LR,))
    beta1: float = setting(
        0.9, Number(float, 0, 0.9999), "momentum: beta1 of Adam, momentum of SGD and RMSprop"
    )
    lr_schedule: str = setting(
        "multistep", Choice(("multistep", "cosine", "constant")), "learning rate schedule",
        needs=(LR,),
    )  # fmt: skip
    lr_milestones: tuple = setting(
        (2, 5), Several(natural), "multistep: epochs at which lr is multiplied by --lr_gamma",
        needs=MULTISTEP,
    )  # fmt: skip
    lr_gamma: float = setting(0.1, portion, "multistep: factor at each milestone", needs=MULTISTEP)
    lr_min: float = setting(0.0, non_negative, "cosine: learning rate at its end", needs=COSINE)
    warmup_epochs: int = setting(0, natural, "epochs of linear warm-up to --lr", needs=(LR,))
    grad_clip: float = setting(1.0, non_negative, "maximum gradient norm; 0: no clipping")
    ema: float = setting(
        0.0, Number(float, 0, 0.99999), "decay of the moving average of weights, used to predict"
    )

    def contradiction(self):
        return above(self, "lr_min", "lr") or super().contradiction()


@dataclass(frozen=True)
class TeacherForcing(Settings):
    title: ClassVar[str] = "teacher forcing"

    tfr: float = setting(
        1.0, share, "probability that the previous frame is the true one", TEMPLATE, needs=(TFR,)
    )
    tfr_sde: int = setting(
        10, natural, "epoch at which the decay starts", TEMPLATE, needs=(TFR, FORCED, DECAY)
    )
    tfr_d_step: float = setting(0.1, share, "decay per epoch", TEMPLATE, needs=(TFR, FORCED))
    tfr_lower_bound: float = setting(
        0.0, share, "value at which the decay ends", TEMPLATE, needs=(TFR, FORCED, DECAY)
    )
    tfr_coin: str = setting(
        "epoch", Choice(("epoch", "batch")), "draw teacher forcing per epoch, or per batch",
        needs=(FORCED,),
    )  # fmt: skip

    def contradiction(self):
        return above(self, "tfr_lower_bound", "tfr") or super().contradiction()


@dataclass(frozen=True)
class KLAnnealing(Settings):
    title: ClassVar[str] = "KL annealing"

    kl_anneal_type: str = setting(
        "Cyclical", kl_type, "Cyclical, Monotonic, or None: beta is --kl_anneal_stop", TEMPLATE,
        metavar="TYPE", needs=(BETA, *KL),
    )  # fmt: skip
    kl_anneal_cycle: int = setting(
        10, epochs, "Cyclical: number of cycles", TEMPLATE, needs=(BETA, CYCLES, *KL)
    )
    kl_anneal_ratio: float = setting(
        1.0, non_negative, "ramp length in cycles; above 1 it does not reach its end", TEMPLATE,
        needs=(BETA, RAMP, *KL),
    )  # fmt: skip
    kl_anneal_stop: float = setting(1.0, non_negative, "beta at a ramp's end", needs=(BETA, *KL))
    free_bits: float = setting(
        0.0, non_negative, "free KL per dimension and frame, in nats", needs=KL
    )
    pretrain_epochs: int = setting(
        0, natural, "first epochs with z from the prior, no KL", needs=(LATENT,)
    )


@dataclass(frozen=True)
class Training(Loop, Optimization, TeacherForcing, KLAnnealing, AnyRun):
    """What every training run has; `PoseTraining` and `RobotTraining` add data and model."""

    title: ClassVar[str] = "training loop"

    @property
    def scheduled(self) -> set[str]:
        """The columns of the --schedule file."""
        values = (self.schedule or ((),))[0][1:]
        return {name for name, value in zip(SCHEDULED, values) if value is not None}


@dataclass(frozen=True)
class PoseTraining(PoseData, PoseModel, Training):
    """A training run of the pose lab."""

    # no settings of this lab
    beta1: ClassVar[float] = 0.9
    tfr_lower_bound: ClassVar[float] = 0.0


@dataclass(frozen=True)
class RobotTraining(RobotData, RobotModel, Training):
    """A training run of the robot lab, with the defaults of its own published code."""

    lab: str = redefault(Training, "lab", "robot")
    DR: str | None = redefault(Training, "DR", None, alias="data_root")
    device: str | None = redefault(Training, "device", None, shortcuts={"cuda": "cuda"})
    optim: str = redefault(Training, "optim", "Adam", alias="optimizer")
    batch_size: int = redefault(Training, "batch_size", 12)
    num_epoch: int = redefault(Training, "num_epoch", 300, alias="niter")
    seed: int = redefault(Training, "seed", 1, TEMPLATE)
    lr: float = redefault(Training, "lr", 0.002)
    lr_schedule: str = redefault(Training, "lr_schedule", "constant")
    loss_reduction: str = redefault(Training, "loss_reduction", "mean")
    grad_clip: float = redefault(Training, "grad_clip", 0.0)
    tfr_sde: int = redefault(Training, "tfr_sde", 0, alias="tfr_start_decay_epoch")
    tfr_d_step: float = redefault(Training, "tfr_d_step", 0.0, alias="tfr_decay_step")
    tfr_coin: str = redefault(Training, "tfr_coin", "batch")
    kl_anneal_type: str = redefault(
        Training, "kl_anneal_type", "Monotonic", shortcuts={"kl_anneal_cyclical": "Cyclical"}
    )
    kl_anneal_cycle: int = redefault(Training, "kl_anneal_cycle", 3)
    kl_anneal_ratio: float = redefault(Training, "kl_anneal_ratio", 0.5)

    # no settings of this lab
    lr_milestones: ClassVar[tuple] = (2, 5)
    lr_gamma: ClassVar[float] = 0.1
    lr_min: ClassVar[float] = 0.0
    warmup_epochs: ClassVar[int] = 0
    pretrain_epochs: ClassVar[int] = 0
    store_visualization: ClassVar[bool] = False

    def contradiction(self):
        if self.batch_size < 2 and not self.test:
            return "--batch_size must be at least 2: BatchNorm sees one frame of each clip"
        return super().contradiction()


# ---------------------------------------------------------------- test


@dataclass(frozen=True)
class Test(AnyRun):
    title: ClassVar[str] = "test"

    batch_size: int = redefault(AnyRun, "batch_size", 64)
    n_samples: int = setting(1, samples, "futures to sample per clip")
    twin: tuple | None = setting(
        None, Several(text), "checkpoints of --no-latent twins to score beside", metavar="FILE"
    )
    mp4: bool = setting(False, switch, "also write pred_seq{i}.mp4 (pip install imageio-ffmpeg)")
    no_sanity: bool = setting(False, switch, "do not read the written files back", TEMPLATE)

    def contradiction(self):
        if self.n_samples > 1 and not self.latent:
            twin = "the model is a deterministic twin (--no-latent), its futures are all equal"
            return f"--n_samples {self.n_samples}: {twin}"
        return super().contradiction()


@dataclass(frozen=True)
class PoseTest(PoseData, PoseModel, Test):
    """A test of the pose lab."""

    title: ClassVar[str] = "test"

    make_gif: bool = setting(
        False, switch, "also write seq{i}/{pred_seq,pose,ground_truth}.gif", TEMPLATE
    )
    truth: str | None = setting(
        None, text, "true frames, a folder or a csv; default: DR/test/test_truth", metavar="PATH"
    )


@dataclass(frozen=True)
class RobotTest(RobotData, RobotModel, Test):
    """A test of the robot lab."""

    lab: str = redefault(Test, "lab", "robot")
    DR: str | None = redefault(Test, "DR", None, alias="data_root")
    device: str | None = redefault(Test, "device", None, shortcuts={"cuda": "cuda"})
    seed: int = redefault(Test, "seed", 1, TEMPLATE)
    num_epoch: int = redefault(Test, "num_epoch", 300, alias="niter")


TRAINING = {"pose": PoseTraining, "robot": RobotTraining}
TESTS = {"pose": PoseTest, "robot": RobotTest}
MODELS = {"pose": PoseModel, "robot": RobotModel}
