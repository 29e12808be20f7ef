"""beta, tfr and lr of every epoch: pure functions of (epoch, args), right for any legal setting.

Epochs count from 0 to num_epoch - 1.
"""

import math


class kl_annealing:
    """The weight beta of the KL term, epoch by epoch."""

    def __init__(self, args, current_epoch=0):
        self.args = args
        self.current_epoch = current_epoch

    def update(self):
        self.current_epoch += 1

    def get_beta(self):
        return beta_at(self.current_epoch, self.args)

    @staticmethod
    def frange_cycle_linear(n_iter, start=0.0, stop=1.0, n_cycle=1, ratio=1):
        """The whole table of n_iter values: n_cycle ramps from start to stop."""
        return [cycle_linear(i, n_iter, start, stop, n_cycle, ratio) for i in range(n_iter)]


def cycle_linear(i, n_iter, start, stop, n_cycle, ratio):
    """Value i of n_cycle ramps: each rises for `ratio` of its cycle, then stays at stop."""
    cycle = (
        (i + 1) * n_cycle - 1
    ) // n_iter  # the last cycle that has begun: c * n_iter // n_cycle <= i
    age = i - cycle * n_iter // n_cycle
    rise = ratio * n_iter / n_cycle
    return stop if age >= rise else start + (stop - start) * age / rise


def beta_at(epoch, args):
    if epoch < args.pretrain_epochs:
        return 0.0
    if args.kl_anneal_type == "None":
        return args.kl_anneal_stop
    cycles = 1 if args.kl_anneal_type == "Monotonic" else min(args.kl_anneal_cycle, args.num_epoch)
    beta = cycle_linear(
        min(epoch, args.num_epoch - 1),
        args.num_epoch,
        args.kl_anneal_start,
        args.kl_anneal_stop,
        cycles,
        args.kl_anneal_ratio,
    )
    return max(beta, args.kl_anneal_floor)


def tfr_at(epoch, args):
    """Probability of teacher forcing: --tfr before --tfr_sde, then decaying to its lower bound."""
    if epoch < args.tfr_sde:
        return args.tfr
    if args.tfr_mode == "step":
        return max(args.tfr_lower_bound, args.tfr - args.tfr_d_step * (epoch - args.tfr_sde + 1))
    return line(epoch, args.tfr_sde, args.num_epoch - 1, args.tfr, args.tfr_lower_bound)


def lr_at(epoch, args):
    """Linear warm-up, then --lr_schedule; cosine is at --lr_min in the last epoch."""
    if epoch < args.warmup_epochs:
        return args.lr * (epoch + 1) / (args.warmup_epochs + 1)
    if args.lr_schedule == "multistep":
        return args.lr * args.lr_gamma ** sum(epoch >= m for m in args.lr_milestones)
    if args.lr_schedule == "cosine":
        turn = line(epoch, args.warmup_epochs, args.num_epoch - 1, 0.0, math.pi)
        return args.lr_min + (args.lr - args.lr_min) * (1 + math.cos(turn)) / 2
    return args.lr


def line(x, x0, x1, y0, y1):
    """The straight line from (x0, y0) to (x1, y1), level outside; y0 if they are one point."""
    if x1 <= x0:
        return y0
    share = min(max((x - x0) / (x1 - x0), 0.0), 1.0)
    return y0 * (1 - share) + y1 * share


def table(args):
    """One dict an epoch: what a run with these flags will do."""
    return [
        {"epoch": e, "beta": beta_at(e, args), "tfr": tfr_at(e, args), "lr": lr_at(e, args)}
        for e in range(args.num_epoch)
    ]


def warn(args):
    """Say what is legal but surprises."""
    cyclical = args.kl_anneal_type == "Cyclical" and args.pretrain_epochs < args.num_epoch
    if cyclical and args.kl_anneal_cycle >= args.num_epoch:
        cycles, beta = args.kl_anneal_cycle, beta_at(args.num_epoch - 1, args)
        print(f"note: {cycles} KL cycles in {args.num_epoch} epochs: beta stays {beta:g}")
    lr = lr_at(args.num_epoch - 1, args)
    if args.lr_schedule == "multistep" and lr < args.lr:
        print(f"note: lr falls to {lr:.3g} (--lr_milestones); --lr_schedule constant keeps it")
