"""When no step is finite any more: the run stops, and says from which checkpoint to go on."""

import math
import shlex
from pathlib import Path

import torch

from ..errors import UserError
from ..models.loading import load_weights
from ..training.optimizer import finite_step
from . import checkpoint as ckpt
from .folder import CHECKPOINTS, files_of_run

MOST_SKIPPED = 50  # non-finite steps in a row; checked only every MOST_SKIPPED steps
JUDGED = 16  # frames that tell whether a checkpoint can be trained on


class StopsWhenStuck:
    """Stops the Trainer that it is part of."""

    def stop_if_stuck(self) -> None:
        """Stop after MOST_SKIPPED non-finite steps in a row."""
        if self.step % MOST_SKIPPED:
            return
        if self.most_in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"{MOST_SKIPPED} consecutive steps were not finite (loss, gradient or BatchNorm "
                f"statistics); none of them changed the weights. {self.advice()}"
            )
        self.most_in_a_row.zero_()

    def advice(self) -> str:
        """What to type instead; only what is not typed already."""
        settings, again = self.settings, ""
        lr = f"--lr {min(settings.lr / 10, settings.default('lr')):g}"
        more = ["--grad_clip 1"] * (not 0 < settings.grad_clip <= 1)
        if settings.latent and settings.kl_anneal_type and not settings.kl_anneal_start:
            more.append("a --kl_anneal_start above 0")
        if more:
            again = f"; if steps are skipped again, add {' or '.join(more)}"
        if good := self.newest_that_trains():
            start = f"--ckpt_path {shlex.quote(str(good))} {lr} and another --save_root{again}"
            return f"{good} gives a finite step. Continue in another run: {start}"
        start = f"Start a new run: --resume never {lr}{again}"
        return f"No checkpoint here gives a finite step. {start}"

    def newest_that_trains(self) -> Path | None:
        """The newest checkpoint here that trains()."""
        for path, state in ckpt.readable(files_of_run(self.folder, CHECKPOINTS)):
            load_weights(self.model, state.get("trained_weights", state["state_dict"]), path)
            if self.trains():
                return path
        return None

    def trains(self) -> bool:
        """Whether a step is finite on a validation clip, with true and own frames."""
        self.model.train()
        self.model.zero_grad()
        clip = (x[:1, :JUDGED] for x in self.some_of_validation())
        clips = [torch.cat([x, x]) for x in clip]  # BatchNorm needs two
        loss = sum(
            self.losses(self.model, *clips, forced, prior=False)[0] for forced in (True, False)
        )
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), math.inf)
        return bool(finite_step(loss + norm, self.model))
