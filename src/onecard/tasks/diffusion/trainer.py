"""The training loop of a LoRA: batches of one size, noise by seed and step, checkpoints.

What a step does depends on seed and step alone: a killed training goes on from its last checkpoint
and ends with the adapters of an unbroken one (on a CPU; a GPU adds in no fixed order).
"""

import contextlib
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from onecard.errors import DataError, OneCardError
from onecard.reporting import Progress
from onecard.runs.record import Run
from onecard.tasks.diffusion import adapters, conditioning
from onecard.tasks.diffusion.configs import TrainConfig
from onecard.tasks.diffusion.objective import Objective
from onecard.training import checkpoints, optimizers
from onecard.training.interrupt import graceful_interrupt
from onecard.training.ram import RamWatch
from onecard.training.schedules import lr_at
from onecard.training.seeds import STEP_STRIDE, seed_step

MAX_GRAD_NORM = 1.0
EMA_DECAY = 0.999
SMALL = 2**15
"""Values of the denoiser's first activation below which one CPU thread is faster than several: an
operation takes less than handing a part of it to another core (9.8 M weights at 64 px on two cores:
53 ms a step with one thread, 105 with two). Stable Diffusion at 512 px has 1.3 million."""
LATENT_AREA = 64
"""Pixels of a latent."""
VALIDATION_LEVELS = 8
"""Noise levels of the validation loss, evenly spaced: the same for each picture and step."""


class Example(Protocol):
    """A picture that is learned from."""

    @property
    def bucket(self) -> tuple[int, int]: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def caption(self) -> str: ...


class Inputs(Protocol):
    """Gives what the denoiser sees of a picture: from a cache, or computed anew."""

    def latents(self, example: Any, generator: torch.Generator) -> Tensor:
        """[1, C, H, W], drawn where the encoder gives a distribution."""
        ...

    def embeds(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Of a batch; see conditioning.encode."""
        ...


@dataclass
class TrainingState:
    """Where a training stands."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """Rows of validation losses."""


class Batches:
    """Batches of pictures of one bucket, in an order that follows from seed and number alone."""

    def __init__(self, examples: Sequence[Example], size: int, seed: int) -> None:
        self.examples, self.size, self.seed = examples, size, seed
        buckets: dict[tuple[int, int], list[int]] = {}
        for i, example in enumerate(examples):
            buckets.setdefault(example.bucket, []).append(i)
        self.buckets = [buckets[key] for key in sorted(buckets)]
        self.per_epoch = sum(math.ceil(len(rows) / size) for rows in self.buckets)
        self._epoch, self._order = -1, [[0]]

    def __getitem__(self, number: int) -> list[Example]:
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        return [self.examples[i] for i in self._order[place]]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        draw = random.Random(self.seed * STEP_STRIDE + epoch)
        batches = []
        for rows in self.buckets:
            order = draw.sample(rows, len(rows))
            batches += [order[i : i + self.size] for i in range(0, len(order), self.size)]
        draw.shuffle(batches)
        return batches


class Trainer:
    """Adapters, optimizer and averaged adapters."""

    def __init__(
        self,
        pipe: Any,
        family: str,
        nets: dict[str, nn.Module],
        objective: Objective,
        inputs: Inputs,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self.unet, self.family, self.nets = pipe.unet, family, nets
        self.objective, self.inputs, self.config, self.device = objective, inputs, config, device
        self.weights = adapters.trained(nets)
        self.optimizer = optimizers.create(config.optim, self._groups(), device)
        for group in self.optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        self.average: dict[str, Tensor] = {}
        if config.ema:
            self.average = {k: v.detach().clone() for k, v in self.weights.items()}
        self.dtype = _autocast_type(pipe.unet, device)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.dtype == torch.float16)
        self.state = TrainingState()

    def _groups(self) -> list[dict[str, Any]]:
        config = self.config
        unet = [weight for name, weight in self.weights.items() if name.startswith("unet.")]
        texts = [weight for name, weight in self.weights.items() if not name.startswith("unet.")]
        groups = [{"params": unet, "lr": config.learning_rate, "weight_decay": config.weight_decay}]
        if texts:
            rate = config.text_encoder_lr
            groups.append({"params": texts, "lr": rate, "weight_decay": config.weight_decay})
        return groups

    def step(self, batches: Batches, prior: Batches | None) -> float:
        """One step of the optimizer; its loss. Raises DataError for one that is not finite."""
        config, state = self.config, self.state
        self._set_lr()
        total = torch.zeros((), device=self.device)
        for part in range(config.gradient_accumulation_steps):
            number = state.step * config.gradient_accumulation_steps + part
            seed_step(config.seed, number)
            draw = torch.Generator().manual_seed(config.seed * STEP_STRIDE + number)
            total += self._backward(self._loss(batches[number], draw), 1.0)
            if prior:
                # in a pass of its own: half the memory of a joined batch, and other buckets
                total += self._backward(
                    self._prior_loss(prior[number], draw), config.prior_loss_weight
                )
        loss = float(total)
        if not math.isfinite(loss):
            raise self._refusal("loss", loss)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(list(self.weights.values()), MAX_GRAD_NORM))
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # a scaler skips such a step
            raise self._refusal("gradient's norm", norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        self._update_average()
        return loss

    def _refusal(self, what: str, value: float) -> DataError:
        if not self.state.step:
            return DataError(
                f"the {what} is {value} at the first step",
                why="the base gives no numbers in this precision, or a setting is extreme",
                fix="--quant fp32, and the usual --lora_alpha and --prediction_type; where nothing "
                "helps the base's file is damaged",
            )
        return DataError(
            f"the {what} is {value} at step {self.state.step + 1}",
            why="an earlier step was probably too large"
            + (", or float16 was too narrow" if self.dtype == torch.float16 else ""),
            fix="start anew with a smaller --learning_rate and another --output_dir; the "
            "checkpoints that were saved before can be used",
        )

    def _backward(self, loss: Tensor, weight: float) -> Tensor:
        loss = loss * (weight / self.config.gradient_accumulation_steps)
        scaled: Any = self.scaler.scale(loss)
        scaled.backward()
        return loss.detach()

    def _loss(self, batch: Sequence[Example], draw: torch.Generator) -> Tensor:
        latents, noise, steps = self._draw(batch, draw)
        return self.objective.loss(
            self._output(batch, latents, noise, steps), latents, noise, steps
        )

    def _draw(
        self, batch: Sequence[Example], draw: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(latents, noise, noise levels) of a batch."""
        rows = torch.cat([self.inputs.latents(example, draw) for example in batch])
        latents = rows.to(self.device)
        return latents, *self.objective.draw(latents, draw)

    def _prior_loss(self, batch: Sequence[Example], draw: torch.Generator) -> Tensor:
        """Class pictures: the noise in them is to be found, or what the base finds in them."""
        if self.config.prior_target == "noise":
            return self._loss(batch, draw)
        latents, noise, steps = self._draw(batch, draw)
        with torch.no_grad(), adapters.without(self.nets):
            target = self._output(batch, latents, noise, steps)
        output = self._output(batch, latents, noise, steps)
        return self.objective.distance(output, target, steps)

    def _output(
        self, batch: Sequence[Example], latents: Tensor, noise: Tensor, steps: Tensor
    ) -> Tensor:
        embeds = self.inputs.embeds([example.caption for example in batch])
        sizes = [(example.width, example.height) for example in batch]
        arguments = conditioning.unet_arguments(self.family, embeds, sizes, batch[0].bucket)
        noisy = self.objective.add_noise(latents, noise, steps)
        context: Any = contextlib.nullcontext()
        if self.dtype is not None:
            context = torch.autocast(self.device.type, self.dtype)
        with context:
            output: Tensor = self.unet(noisy, steps, **arguments, return_dict=False)[0]
        return output

    def _set_lr(self) -> None:
        config, step = self.config, self.state.step
        warmup = max(1, round(config.max_train_steps * config.lr_warmup_ratio))
        share = min(1.0, (step + 1) / warmup)
        if config.lr_scheduler == "cosine":
            share = lr_at(step, config.max_train_steps, config.lr_warmup_ratio, floor=0.05)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average:
            decay = min(EMA_DECAY, (1 + self.state.step) / (10 + self.state.step))
            for name, weight in self.weights.items():
                self.average[name].lerp_(weight, 1 - decay)

    @contextlib.contextmanager
    def evaluation(self) -> Any:
        """Averaged adapters in place where there are some, dropout off, no gradients."""
        current = {}
        if self.average:
            current = {name: weight.detach().clone() for name, weight in self.weights.items()}
            self._copy(self.average)
        for net in self.nets.values():
            net.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._copy(current)
            for net in self.nets.values():
                net.train()

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.weights[name].copy_(value)

    def validation_loss(self, examples: Sequence[Example]) -> float:
        """Mean squared error without weights on fixed noise and noise levels: the same for every
        step, seed and batch size."""
        total, levels = 0.0, self.objective.levels
        steps = [levels * (2 * i + 1) // (2 * VALIDATION_LEVELS) for i in range(VALIDATION_LEVELS)]
        for number, example in enumerate(examples):
            for step in steps:
                draw = torch.Generator().manual_seed(number * STEP_STRIDE + step)
                latents = self.inputs.latents(example, draw).to(self.device)
                noise = torch.randn(latents.shape, generator=draw).to(self.device)
                at = torch.tensor([step], device=self.device)
                output = self._output([example], latents, noise, at)
                target = self.objective.target(latents, noise, at)
                total += float((output.float() - target.float()).square().mean())
        return total / max(1, len(examples) * len(steps))

    def save(self, folder: Path) -> None:
        """A checkpoint of the state after the last step. Raises DataError for a full disk."""
        tensors = {
            **checkpoints.with_prefix("net.", self.weights),
            **checkpoints.with_prefix("optim.", checkpoints.optimizer_state(self.optimizer)),
            **checkpoints.with_prefix("average.", self.average),
        }
        metadata = {
            "state": json.dumps(asdict(self.state)),
            "scaler": json.dumps(self.scaler.state_dict()),
            **checkpoints.optimizer_metadata(self.optimizer),
        }
        checkpoints.save(folder, self.state.step, tensors, metadata)

    def load(self, path: Path) -> None:
        """Raises DataError for a truncated checkpoint or another base's."""
        tensors, metadata = checkpoints.load(path), checkpoints.read_metadata(path)
        with checkpoints.restoring(path):
            checkpoints.copy_into(self.weights, checkpoints.select("net.", tensors))
            moments = checkpoints.select("optim.", tensors)
            checkpoints.restore_optimizer(self.optimizer, moments, metadata)
            if self.average:
                checkpoints.copy_into(self.average, checkpoints.select("average.", tensors))
        self.state = TrainingState(**json.loads(metadata["state"]))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(json.loads(metadata["scaler"]))


def _autocast_type(unet: nn.Module, device: torch.device) -> torch.dtype | None:
    """On a card the type of the frozen weights; None (fp32) on a CPU and for fp32 weights."""
    dtype = getattr(unet, "dtype", torch.float32)
    if device.type != "cuda" or dtype == torch.float32:
        return None
    return torch.bfloat16 if dtype not in (torch.float16, torch.bfloat16) else dtype


@contextlib.contextmanager
def cpu_threads(trainer: Trainer, buckets: Iterable[tuple[int, int]]) -> Iterator[None]:
    """One thread for small networks on a CPU, by their size alone: a resumed training adds in the
    same order."""
    before = torch.get_num_threads()
    area = max(width * height for width, height in buckets) // LATENT_AREA
    values = trainer.unet.config.block_out_channels[0] * area * trainer.config.train_batch_size
    if trainer.device.type == "cpu" and values < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit(
    trainer: Trainer,
    batches: Batches,
    prior: Batches | None,
    out: Path,
    run: Run,
    *,
    on_validation: Callable[[int], dict[str, float]],
    on_save: Callable[[int], None],
) -> TrainingState:
    """Train to the end, or go on from the last checkpoint in out/checkpoints.

    `on_validation` gives the figures of a step, `on_save` writes a LoRA file of it. Raises
    KeyboardInterrupt when it was stopped, DoesNotFit when the computer's memory is about to run
    out; both after a checkpoint.
    """
    config, folder = trainer.config, out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    if path := checkpoints.last(folder):
        trainer.load(path)
        run.reporter.line(f"going on after step {trainer.state.step}")
    state, watch = trainer.state, RamWatch()
    for net in trainer.nets.values():
        net.train()
    title = "training"
    with (
        graceful_interrupt() as interrupt,
        run.reporter.progress(title, config.max_train_steps) as bar,
    ):
        bar.step(state.step)
        if state.step == 0:
            _validate(trainer, on_validation, run)
        began, first = time.monotonic(), state.step
        while state.step < config.max_train_steps:
            try:
                loss = trainer.step(batches, prior)
            except OneCardError:  # as of a picture that was removed: the work so far is kept
                trainer.save(folder)
                raise
            _log(trainer, loss, state.step - first, began, bar, run)
            last = state.step == config.max_train_steps
            if _due(state.step, config.validation_steps) or last:
                _validate(trainer, on_validation, run)
            if _due(state.step, config.save_steps) or last:
                with trainer.evaluation():
                    on_save(state.step)
                trainer.save(folder)
            if interrupt.requested:
                trainer.save(folder)
                raise KeyboardInterrupt
            if watch.short(state.step):
                trainer.save(folder)
                raise watch.refusal(state.step, "close other programs, then --resume")
    return state


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _validate(trainer: Trainer, on_validation: Callable[[int], dict[str, float]], run: Run) -> None:
    if not trainer.config.validation_steps:
        return
    step = trainer.state.step
    with trainer.evaluation():
        figures = on_validation(step)
    trainer.state.history.append({"step": step, **figures})
    run.log(step, **figures)


LOG_EVERY = 10


def _log(trainer: Trainer, loss: float, steps: int, began: float, bar: Progress, run: Run) -> None:
    pace = steps / max(1e-9, time.monotonic() - began)
    bar.step(1, f"loss {loss:.4f}, {pace:.2f} steps/s")
    if trainer.state.step % LOG_EVERY == 0 or steps == 1:
        rate = trainer.optimizer.param_groups[0]["lr"]
        run.log(trainer.state.step, loss=loss, learning_rate=rate, steps_per_s=pace)
