"""The training loop of vision models: epochs, accumulation, averaged weights, validation, early
stopping, checkpoints. Knows no task: a `Learner` brings network, loss and metric.

A checkpoint is written after every epoch. What an epoch does depends on seed and epoch alone: a
killed training goes on from the last whole epoch and ends with the weights of an unbroken one (on a
CPU; a GPU adds in no fixed order).
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from onecard import fsio
from onecard.errors import DataError
from onecard.reporting import Progress
from onecard.runs.record import Run
from onecard.training import checkpoints, optimizers, output_dir
from onecard.training.config import VisionTrainConfig
from onecard.training.interrupt import graceful_interrupt
from onecard.training.picture_data import Batches, PictureSamples, Sample, worker_count
from onecard.training.schedules import lr_at
from onecard.training.seeds import seed_step

BEST = "best.safetensors"
EMA_DECAY, EMA_TAU = 0.9999, 2000.0
"""As ultralytics' ModelEMA: the average forgets fast at first and slowly after some 2000 steps."""
MAX_GRAD_NORM = 10.0
ZERO_SHARE, ZERO_LEAST = 0.2, 5
"""Of the epochs, and at least so many: after these with a metric of 0 its cause is looked for."""
ABOUT_ZERO = 0.05
"""A detector gives every box a small score for every class: with shifted classes mAP is not 0."""
FAR_BELOW = 0.25
"""Of a detector's mAP50 without classes: below it the classes may not be what they are called."""


class Learner(Protocol):
    """What a task adds to the loop."""

    @property
    def net(self) -> nn.Module: ...

    warm: bool
    """Whether the network is worth something before its first step, as with a fitted head: it is
    validated first, and its batch norms keep their statistics, which its features rest on."""
    metric: str
    """Name of the figure that `validate` gives first and training is to raise."""

    def loss(self, batch: Sequence[Sample], device: torch.device) -> Tensor:
        """Mean loss of a micro-batch."""
        ...

    def validate(self, net: nn.Module) -> dict[str, float]:
        """Figures on the validation pictures, `metric` among them."""
        ...

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups with their peak learning rates."""
        ...

    def diagnose(self, history: Sequence[Mapping[str, float]]) -> str:
        """Why the metric stays at 0; empty where no cause is known."""
        ...


@dataclass
class TrainingState:
    """Where a training stands."""

    epoch: int = 0
    step: int = 0
    ema_updates: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: str = ""
    """Why it ended before its last epoch."""


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Trainer:
    """Network, optimizer and averaged weights."""

    def __init__(
        self, learner: Learner, batches: Batches, config: VisionTrainConfig, lr: float
    ) -> None:
        self.learner, self.batches, self.config = learner, batches, config
        self.device = default_device()
        self.net = learner.net.to(self.device)
        self.state = TrainingState()
        groups = learner.groups(lr, config.weight_decay)
        self.optimizer = optimizers.create(config_optimizer(config), groups, self.device)
        for group in self.optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        self.average: dict[str, Tensor] = {}
        if config.ema:
            self.average = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        self.dtype = autocast_type(self.device) if config.amp else None
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.dtype == torch.float16)
        self.steps_an_epoch = math.ceil(len(batches) / config.accumulate)
        self.steps = self.steps_an_epoch * config.epochs

    def epoch(self, bar: Progress, interrupt: Any) -> float:
        """One pass over the training pictures; the mean loss.

        Raises KeyboardInterrupt after a step, DataError for a loss that is not finite.
        """
        config, total, count = self.config, 0.0, 0
        set_training(self.net, norms=not self.learner.warm)
        group: list[list[Sample]] = []
        for number, batch in enumerate(self.batches.epoch(self.state.epoch), 1):
            group.append(batch)
            if len(group) < config.accumulate and number < len(self.batches):
                continue
            total += self._step(group) * sum(map(len, group))
            count += sum(map(len, group))
            bar.step(1, self._note(total / count))
            group = []
            if interrupt.requested:
                raise KeyboardInterrupt
        return total / max(count, 1)

    def _note(self, loss: float) -> str:
        known = math.isfinite(self.state.best)
        best = f", {self.learner.metric} {self.state.best:.3f}" if known else ""
        return f"epoch {self.state.epoch + 1}/{self.config.epochs}, loss {loss:.3f}{best}"

    def _step(self, group: Sequence[Sequence[Sample]]) -> float:
        state, config = self.state, self.config
        seed_step(config.seed, state.step)
        self._set_lr()
        n, total = sum(map(len, group)), 0.0
        for batch in group:
            with self._autocast():
                loss = self.learner.loss(batch, self.device) * (len(batch) / n)
            self.scaler.scale(loss).backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise DataError(
                f"the loss is {total} in epoch {state.epoch + 1}",
                why="an earlier step was probably too large"
                + ("" if self.dtype is None else ", or 16 bits were too few"),
                fix="a smaller --lr0 or a longer --warmup_epochs"
                + ("" if self.dtype is None else ", or --no_amp")
                + "; --resume continues from the last whole epoch",
            )
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.net.parameters(), MAX_GRAD_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        state.step += 1
        return total

    def _autocast(self) -> Any:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _set_lr(self) -> None:
        warmup = self.config.warmup_epochs / self.config.epochs
        share = lr_at(self.state.step, self.steps, min(warmup, 0.5), floor=0.01)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share

    @torch.no_grad()
    def _average(self) -> None:
        if not self.average:
            return
        self.state.ema_updates += 1
        decay = EMA_DECAY * (1 - math.exp(-self.state.ema_updates / EMA_TAU))
        for name, value in self.net.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network in evaluation mode, with its averaged weights where there are some."""
        current = {}
        if self.average:
            current = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
            self.net.load_state_dict(self.average)
        self.net.eval()
        try:
            yield self.net
        finally:
            if current:
                self.net.load_state_dict(current)

    def save(self, folder: Path) -> None:
        """A checkpoint of the state after the last epoch. Raises DataError for a full disk."""
        tensors = {
            **checkpoints.with_prefix("net.", self.net.state_dict()),
            **checkpoints.with_prefix("optim.", checkpoints.optimizer_state(self.optimizer)),
            **checkpoints.with_prefix("average.", self.average),
        }
        metadata = {
            "state": json.dumps(asdict(self.state)),
            "scaler": json.dumps(self.scaler.state_dict()),
            **checkpoints.optimizer_metadata(self.optimizer),
        }
        checkpoints.save(folder, self.state.epoch, own_tensors(tensors), metadata)

    def load(self, path: Path) -> None:
        """Raises DataError for a truncated checkpoint or another model's."""
        tensors, metadata = checkpoints.load(path), checkpoints.read_metadata(path)
        self.state = TrainingState(**json.loads(metadata["state"]))
        with checkpoints.restoring(path):
            self.net.load_state_dict(checkpoints.select("net.", tensors))
            moments = checkpoints.select("optim.", tensors)
            checkpoints.restore_optimizer(self.optimizer, moments, metadata)
            for name, value in checkpoints.select("average.", tensors).items():
                if name in self.average:
                    self.average[name].copy_(value)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(json.loads(metadata["scaler"]))
        # the batch may be smaller now, after memory ran out: steps follow from the epoch
        self.state.step = self.state.epoch * self.steps_an_epoch


def own_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own: safetensors refuses weights that two names share."""
    pointers: set[int] = set()
    out = {}
    for name, value in tensors.items():
        pointer = value.untyped_storage().data_ptr()
        shared = pointer in pointers and value.numel() > 0
        out[name] = value.clone() if shared else value
        pointers.add(pointer)
    return out


def set_training(net: nn.Module, norms: bool = True) -> None:
    """Training mode, but layers whose weights are frozen keep their batch norm's statistics; all do
    without `norms`."""
    net.train()
    for module in net.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and own:
            module.train(norms and any(weight.requires_grad for weight in own))


def autocast_type(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the card computes in it, float16 on older ones; None (fp32) on a CPU, where 16
    bits are slower without AMX."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def config_optimizer(config: VisionTrainConfig) -> str:
    name = str(getattr(config, "optimizer", "adamw"))
    return "adamw" if name == "auto" else name


def weight_groups(
    net: nn.Module, lr: float, weight_decay: float, body: str = "", body_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Matrices with weight decay, norms and biases without; weights under the prefix `body` at
    `body_lr` of the rate, as a backbone that was trained before."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in net.named_parameters():
        if weight.requires_grad:
            key = (bool(body) and name.startswith(body), weight.ndim > 1)
            groups.setdefault(key, []).append(weight)
    return [
        {
            "params": weights,
            "lr": lr * (body_lr if in_body else 1.0),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (in_body, decayed), weights in groups.items()
    ]


SPACE_BYTES = 64 * 2**20
CHECKPOINT_COPIES = 2 * 4 * 4
"""Bytes a weight of two checkpoints: weights, their average, the optimizer's two moments, fp32."""


def train(
    learner: Learner,
    samples: PictureSamples,
    batch: int,
    config: VisionTrainConfig,
    lr: float,
    out: Path,
    run: Run,
) -> TrainingState:
    """Batches, trainer and `fit`. Raises what `fit` raises, and DataError for a disk without room
    for a checkpoint."""
    n_bytes = CHECKPOINT_COPIES * sum(weight.numel() for weight in learner.net.parameters())
    out.mkdir(parents=True, exist_ok=True)
    output_dir.require_space(out, SPACE_BYTES + n_bytes)
    workers = worker_count(config.workers, default_device(), cpu_count())
    batches = Batches(samples, batch, workers)
    return fit(Trainer(learner, batches, config, lr), out, run)


def fit(trainer: Trainer, out: Path, run: Run) -> TrainingState:
    """Train to the end, or go on from the last checkpoint in out/checkpoints. The best weights lie
    in out/best.safetensors and are in the network when this returns.

    Raises KeyboardInterrupt when it was stopped, DataError where the metric stays at 0 for a reason
    that was found.
    """
    config, folder = trainer.config, out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    if path := checkpoints.last(folder):
        trainer.load(path)
        run.reporter.line(f"going on after epoch {trainer.state.epoch}")
    started = time.monotonic()
    total = trainer.steps
    with graceful_interrupt() as interrupt, run.reporter.progress("training", total) as bar:
        bar.step(trainer.state.step)
        if trainer.state.epoch == 0 and trainer.learner.warm:
            with trainer.averaged() as net:
                figures = trainer.learner.validate(net)
                _keep_best(trainer, net, figures, out, 0)
            run.log(0, **figures)
        while trainer.state.epoch < config.epochs and not trainer.state.stopped:
            loss = trainer.epoch(bar, interrupt)
            with trainer.averaged() as net:
                figures = trainer.learner.validate(net)
                _keep_best(trainer, net, figures, out, trainer.state.epoch + 1)
            state = trainer.state
            state.epoch += 1
            state.history.append({"epoch": state.epoch, "loss": loss, **figures})
            lr = trainer.optimizer.param_groups[0]["lr"]
            run.log(state.epoch, loss=loss, learning_rate=lr, **figures)
            state.stopped = _stopped(trainer)
            trainer.save(folder)
            if interrupt.requested:
                raise KeyboardInterrupt
    run.log(trainer.state.epoch, training_s=time.monotonic() - started)
    trainer.net.load_state_dict(load_file(out / BEST))
    trainer.net.eval()
    return trainer.state


def _keep_best(
    trainer: Trainer, net: nn.Module, figures: Mapping[str, float], out: Path, epoch: int
) -> None:
    """The first of equal epochs is kept, but while the metric is 0 the last one."""
    state, value = trainer.state, figures[trainer.learner.metric]
    if value > state.best or value == state.best == 0:
        state.best, state.best_epoch = value, epoch
        with fsio.atomic_write(out / BEST) as draft:
            weights = {k: v.detach().contiguous().cpu() for k, v in net.state_dict().items()}
            save_file(own_tensors(weights), draft)


def _stopped(trainer: Trainer) -> str:
    """Why to stop now; empty to go on. Raises DataError for a metric that stays at 0."""
    state, config, metric = trainer.state, trainer.config, trainer.learner.metric
    stop_at_zero(state, config.epochs, metric, trainer.learner.diagnose)
    if config.patience and state.epoch - state.best_epoch >= config.patience and state.best > 0:
        return f"no better {metric} in {config.patience} epochs (best in {state.best_epoch})"
    return ""


def stop_at_zero(
    state: TrainingState,
    epochs: int,
    metric: str,
    diagnose: Callable[[Sequence[Mapping[str, float]]], str],
) -> None:
    """Raises DataError where the metric is still about 0 after a fifth of the epochs, or far below
    what it is without classes, and `diagnose` finds the cause. Where it finds none the training
    goes on: from random weights the first mAP comes late."""
    limit = max(ZERO_LEAST, round(epochs * ZERO_SHARE))
    if state.epoch < limit or (state.epoch - limit) % ZERO_LEAST:
        return
    last = state.history[-1] if state.history else {}
    own, without = last.get("map50", 0.0), last.get("map50_agnostic", 0.0)
    if state.best > ABOUT_ZERO and own >= FAR_BELOW * without:
        return
    if reason := diagnose(state.history):
        raise DataError(
            f"{metric} is still {state.best:.3f} after {state.epoch} epochs",
            why=reason,
            fix="mend that, then train anew; `check` shows the labels as they were read",
        )


def cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
