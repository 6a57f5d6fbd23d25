"""The training loop of a vision-language model: answers' tokens alone make logits, a frozen tower
keeps nothing, checkpoints hold all that a step depends on.

What a step does depends on seed and step alone: a killed training goes on from its last checkpoint
and ends with the weights of an unbroken one (on a CPU; a GPU adds in no fixed order).

Letters at the end of a tensor's name: B rows, T tokens, N tokens with a label, D width.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from onecard.errors import DataError, OneCardError
from onecard.reporting import Progress
from onecard.runs.record import Run, peak_bytes
from onecard.tasks.vlm import adapters, parts
from onecard.tasks.vlm.batches import IGNORED, Batch, Batches, encode
from onecard.tasks.vlm.configs import VisionTrainConfig
from onecard.tasks.vlm.items import VlmItem
from onecard.tasks.vlm.model import Vlm, evaluating
from onecard.training import checkpoints, frozen_head, optimizers
from onecard.training.interrupt import graceful_interrupt
from onecard.training.ram import RamWatch
from onecard.training.schedules import lr_at
from onecard.training.seeds import seed_step
from onecard.units import size

CHUNK = frozen_head.CHUNK
TOWER_SHARE = 0.1
"""The vision tower's learning rate, as a share of the language model's: it knows pictures already
(LLaVA-NeXT and Qwen-VL train it 5 to 10 times slower)."""


@dataclass
class TrainingState:
    """Where a training stands."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """Validation losses."""


def steps_of(config: VisionTrainConfig, n_batches: int) -> int:
    """Steps of the optimizer in the whole training."""
    a_step = config.gradient_accumulation_steps
    return config.max_steps or max(1, math.ceil(config.num_train_epochs * n_batches / a_step))


class Trainer:
    """What is trained, its optimizer and where it stands."""

    def __init__(
        self, vlm: Vlm, config: VisionTrainConfig, n_steps: int, autocast: torch.dtype | None
    ) -> None:
        self.vlm, self.config, self.n_steps, self.autocast = vlm, config, n_steps, autocast
        self.weights = adapters.trained(vlm.net)
        self.optimizer = optimizers.create(config.optim, self._groups(), vlm.device)
        for group in self.optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        self.state = TrainingState()
        self.tokens = 0

    def _groups(self) -> list[dict[str, Any]]:
        config = self.config
        rates = {
            "language": config.learning_rate,
            "projector": getattr(config, "projector_lr", 0.0) or config.learning_rate,
            "tower": getattr(config, "vision_lr", 0.0) or TOWER_SHARE * config.learning_rate,
        }
        groups = []
        for part, rate in rates.items():
            weights = [
                weight
                for name, weight in self.weights.items()
                if adapters.part_of(name, self.vlm.net) == part
            ]
            if weights:
                groups.append({"params": weights, "lr": rate, "weight_decay": config.weight_decay})
        return groups

    def step(self, batches: Batches) -> float:
        """One step of the optimizer; its mean loss (nats a token). Raises DataError for one that
        is not finite, before it is written into a weight."""
        config, state = self.config, self.state
        share = lr_at(state.step, self.n_steps, config.warmup_ratio, floor=0.05)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        n_parts = config.gradient_accumulation_steps
        total, n_answer = 0.0, 0
        sources: list[str] = []
        for part in range(n_parts):
            number = state.step * n_parts + part
            seed_step(config.seed, number)
            batch = batches[number]
            loss = self.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            n_answer += batch.n_answer
            self.tokens += batch.n_tokens
            sources += batch.sources
        mean = total / max(1, n_answer)
        if not math.isfinite(mean):
            raise self._refusal("loss", mean, sources)
        for weight in self.weights.values():
            if weight.grad is not None:
                weight.grad /= n_answer
        norm = float(nn.utils.clip_grad_norm_(list(self.weights.values()), config.max_grad_norm))
        if not math.isfinite(norm):
            raise self._refusal("gradient's norm", norm, sources)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        return mean

    def _refusal(self, what: str, value: float, sources: Sequence[str]) -> DataError:
        rows = ", ".join(sources[:6]) + (" ..." if len(sources) > 6 else "")
        return DataError(
            f"the {what} is {value} in step {self.state.step + 1}",
            why=f"the batch was {rows}; the checkpoint before it is complete",
            fix="a smaller --learning_rate or --max_grad_norm, or correct those rows; then start "
            "anew with another --output_dir",
        )

    def loss(self, batch: Batch) -> Tensor:
        """Sum of -log p over the batch's answer tokens (nats)."""
        inputs = self.vlm.on_device(batch.inputs)
        labels_BT = inputs.pop("labels")
        base = self.vlm.base
        with torch.autocast(self.vlm.device.type, self.autocast, enabled=self.autocast is not None):
            hidden_BTD = base.model(**inputs, use_cache=False).last_hidden_state
            hidden_TD = hidden_BTD.flatten(0, 1)
            # the first token of each row has no label: no row answers for the one before it
            labels_T = labels_BT.flatten()
            if frozen_head.supports(base):
                return frozen_head.answer_loss(base, hidden_TD, labels_T)
            return _head_loss(base, hidden_TD, labels_T)

    def validation_loss(self, items: Sequence[VlmItem], size: int) -> float:
        """Mean over the answers' tokens of held-out rows (nats a token)."""
        total, n = 0.0, 0
        with evaluating(self.vlm.net):
            for start in range(0, len(items), size):
                batch = encode(self.vlm, items[start : start + size])
                total += float(self.loss(batch))
                n += batch.n_answer
        return total / max(1, n)

    def save(self, folder: Path) -> None:
        """A checkpoint of the state after the last step. Raises DataError for a full disk."""
        tensors = {
            **checkpoints.with_prefix("net.", self.weights),
            **checkpoints.with_prefix("optim.", checkpoints.optimizer_state(self.optimizer)),
        }
        metadata = {
            "state": json.dumps(asdict(self.state)),
            **checkpoints.optimizer_metadata(self.optimizer),
        }
        checkpoints.save(folder, self.state.step, tensors, metadata)

    def load(self, path: Path) -> None:
        """Raises DataError for a truncated checkpoint or another model's."""
        tensors, metadata = checkpoints.load(path), checkpoints.read_metadata(path)
        with checkpoints.restoring(path):
            checkpoints.copy_into(self.weights, checkpoints.select("net.", tensors))
            moments = checkpoints.select("optim.", tensors)
            checkpoints.restore_optimizer(self.optimizer, moments, metadata)
        self.state = TrainingState(**json.loads(metadata["state"]))


def _head_loss(base: Any, hidden_TD: Tensor, labels_T: Tensor) -> Tensor:
    """With a head that is trained, or is no plain matrix: its own logits, of answers alone."""
    positions = (labels_T[1:] != IGNORED).nonzero().flatten()
    softcap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)
    total = torch.zeros((), device=hidden_TD.device)
    for chunk in positions.split(CHUNK):  # type: ignore[no-untyped-call]
        logits = base.get_output_embeddings()(hidden_TD[chunk]).float()
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        labels_N = labels_T[chunk + 1]
        total = total + nn.functional.cross_entropy(logits, labels_N, reduction="sum")
    return total


def fit(
    trainer: Trainer,
    batches: Batches,
    out: Path,
    run: Run,
    on_save: Callable[[int], dict[str, float]],
) -> TrainingState:
    """Train to the end, or go on from the last checkpoint in out/checkpoints.

    `on_save` gives the figures of a step before its checkpoint. Raises KeyboardInterrupt when it
    was stopped, DoesNotFit when the computer's memory is about to run out; both after a checkpoint.
    """
    config, folder = trainer.config, out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    if path := checkpoints.last(folder):
        trainer.load(path)
        run.reporter.line(f"going on after step {trainer.state.step}")
    if config.gradient_checkpointing:
        set_checkpointing(trainer.vlm, True)
    state, watch = trainer.state, RamWatch()
    trainer.vlm.net.train()
    try:
        with (
            graceful_interrupt() as interrupt,
            run.reporter.progress("training", trainer.n_steps) as bar,
        ):
            bar.step(state.step)
            log = _Log(trainer, bar, run)
            while state.step < trainer.n_steps:
                try:
                    loss = trainer.step(batches)
                except OneCardError:  # as of a picture that was removed: the work so far is kept
                    trainer.optimizer.zero_grad(set_to_none=True)
                    trainer.save(folder)
                    raise
                log.write(loss)
                last = state.step == trainer.n_steps
                if last or (config.save_steps and state.step % config.save_steps == 0):
                    figures = on_save(state.step)
                    state.history.append({"step": state.step, **figures})
                    run.log(state.step, **figures)
                    trainer.save(folder)
                if interrupt.requested:
                    trainer.save(folder)
                    raise KeyboardInterrupt
                if watch.short(state.step):
                    trainer.save(folder)
                    raise watch.refusal(state.step, "close other programs, then --resume")
    finally:
        batches.close()
        if config.gradient_checkpointing:
            set_checkpointing(trainer.vlm, False)
    trainer.vlm.net.eval()
    return state


def set_checkpointing(vlm: Vlm, on: bool) -> None:
    """Of the halves that are trained, or that a gradient passes. A frozen tower has no gradient,
    and its checkpointed layers would hold every input until Python collects them: Qwen2.5-VL-7B at
    1280 px took 2.4 instead of 1.4 GiB beside its weights (fake tensors)."""
    net = vlm.base
    names = [parts.language(net)]
    tower = parts.tower(net)
    inner = tuple(f"{name}." for name in parts.projector(net))
    if any(
        weight.requires_grad and not name.startswith(inner)
        for name, weight in parts.parameters(net, [tower])
    ):
        names.append(tower)
    for name in names:
        for module in net.get_submodule(name).modules():
            if isinstance(module, PreTrainedModel):  # a trained tower stands in PEFT's wrapper
                if on:
                    module.activation_checkpointing_enable({"use_reentrant": False})
                else:
                    module.activation_checkpointing_disable()


class _Log:
    """Steps to the terminal and the run."""

    def __init__(self, trainer: Trainer, bar: Progress, run: Run) -> None:
        self.trainer, self.bar, self.run = trainer, bar, run
        self.began, self.first = time.monotonic(), trainer.state.step

    def write(self, loss: float) -> None:
        trainer = self.trainer
        seconds = max(time.monotonic() - self.began, 1e-6)
        step = trainer.state.step
        pace, rate = (step - self.first) / seconds, trainer.tokens / seconds
        left = (trainer.n_steps - step) / pace / 60
        planned = size(self.run.plan.total_bytes)
        self.bar.step(
            1,
            f"loss {loss:.3f}, {rate:.0f} tokens/s, {size(peak_bytes())} of {planned} planned, "
            f"{left:.0f} min left",
        )
        self.run.log(
            step,
            loss=loss,
            learning_rate=trainer.optimizer.param_groups[0]["lr"],
            tokens_per_s=round(rate, 1),
            peak_bytes=peak_bytes(),
        )
