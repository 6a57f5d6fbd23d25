"""The training loop of a tiny language model: micro-batches, steps, evaluation, checkpoints.

`fit` reads from top to bottom. Knows no files but its checkpoints.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onecard.errors import DataError
from onecard.reporting import Progress
from onecard.runs.record import Run
from onecard.tasks.tinylm.budget import QUICK_VAL_TOKENS, VALIDATIONS
from onecard.tasks.tinylm.configs import TrainConfig
from onecard.tasks.tinylm.corpus import Corpus
from onecard.tasks.tinylm.model import TinyLM, loss_of
from onecard.tasks.tinylm.optim import Optimizer
from onecard.tasks.tinylm.sizing import TrainingSetup
from onecard.training import checkpoints
from onecard.training.interrupt import graceful_interrupt
from onecard.training.schedules import lr_at
from onecard.training.seeds import seed_step


@dataclass
class RuntimeOptions:
    """How steps are computed on this machine. Measured at the start (autotune) and stored in each
    checkpoint: a resumed training computes as before."""

    bf16: bool = False
    compile: bool = False
    steps: int = 0
    threads: int = 0
    """Of a CPU; 0 leaves them as they are."""
    eval_steps: int = 0
    """Steps between two validations; 0 takes a twentieth of the training."""
    val_tokens: int = QUICK_VAL_TOKENS
    """Of a validation."""
    why: list[str] = field(default_factory=list)


@dataclass
class TrainingState:
    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(bf16: bool, device: torch.device) -> Any:
    """Matrix products in bfloat16, weights and sums in fp32 (Micikevicius et al. 2018)."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def micro_batches(
    corpus: Corpus, seed: int, setup: TrainingSetup, step: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids_BT, targets_BT) of a step: the same tokens into however many micro-batches it is cut."""
    n = setup.batch_size * setup.accumulation_steps
    rows = torch.from_numpy(corpus.batch(seed, step, n, setup.model_config.block_size))
    for part in rows.split(setup.batch_size):
        part = part.to(device, non_blocking=True)
        yield part[:, :-1], part[:, 1:]


class Trainer:
    """Model, optimizer and averaged weights, and one step of them."""

    def __init__(
        self,
        net: TinyLM,
        corpus: Corpus,
        config: TrainConfig,
        setup: TrainingSetup,
        runtime: RuntimeOptions,
    ) -> None:
        self.net, self.corpus, self.config = net, corpus, config
        self.setup, self.runtime = setup, runtime
        self.device = next(net.parameters()).device
        self.optimizer = Optimizer(
            net,
            muon=config.optim == "muon",
            learning_rate=setup.learning_rate,
            muon_lr=config.muon_lr,
            weight_decay=config.weight_decay,
        )
        self.ema = copy_of_weights(net) if config.ema_decay else {}
        self.loss_of: Callable[..., Tensor] = loss_of
        if runtime.compile:
            self.loss_of = torch.compile(loss_of)
        self.state = TrainingState()
        if runtime.threads:
            torch.set_num_threads(runtime.threads)

    def step(self) -> tuple[float, float]:
        """(loss, gradient norm). Raises DataError when one of them is not finite."""
        step, config = self.state.step, self.config
        seed_step(config.seed, step)
        self.net.train()
        total = torch.zeros((), device=self.device)
        for ids, targets in micro_batches(self.corpus, config.seed, self.setup, step, self.device):
            with autocast(self.runtime.bf16, self.device):
                loss = self.loss_of(self.net, ids, targets) / self.setup.accumulation_steps
            loss.backward()
            total += loss.detach()
        value = float(total)
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.max_grad_norm)
        if not math.isfinite(value) or not math.isfinite(float(norm)):
            self.optimizer.zero_grad()
            raise DataError(
                f"the loss is {value} in step {step + 1}",
                why=f"the gradient norm is {float(norm)}; an earlier step was probably too large",
                fix="a smaller --muon_lr and --learning_rate, or a longer --warmup_ratio; --resume "
                "then continues from the last checkpoint",
            )
        self.optimizer.step(self.lr_share(step))
        self.optimizer.zero_grad()
        self._update_ema(step)
        self.state.step += 1
        return value, float(norm)

    def lr_share(self, step: int) -> float:
        """Of the highest learning rate."""
        config = self.config
        return lr_at(step, self.runtime.steps, config.warmup_ratio, config.min_lr_ratio)

    def _update_ema(self, step: int) -> None:
        """Exponential moving average of the weights. It forgets faster in the first steps, so that
        it does not hold on to the initial weights."""
        if not self.ema:
            return
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        weights = [weight.detach() for weight in self.net.parameters()]
        torch._foreach_lerp_(list(self.ema.values()), weights, 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[TinyLM]:
        """The model in evaluation mode, with its averaged weights where there are some."""
        current = copy_of_weights(self.net) if self.ema else {}
        self.set_weights(self.ema)
        self.net.eval()
        try:
            yield self.net
        finally:
            self.set_weights(current)

    def set_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy `weights` into the model; an empty dictionary changes nothing."""
        if weights:
            checkpoints.copy_into(dict(self.net.named_parameters()), weights)

    def save(self, folder: Path) -> None:
        """A checkpoint of the state after the last step. Raises DataError for a full disk."""
        tensors = {
            **checkpoints.with_prefix("net.", dict(self.net.named_parameters())),
            **checkpoints.with_prefix("optim.", self.optimizer.state()),
            **checkpoints.with_prefix("average.", self.ema),
        }
        metadata = {
            "state": json.dumps(asdict(self.state)),
            "choice": json.dumps(asdict(self.runtime)),
        }
        checkpoints.save(folder, self.state.step, tensors, metadata)

    def load(self, path: Path) -> None:
        """Raises DataError for a truncated checkpoint or another model's."""
        tensors = checkpoints.load(path)
        self.state = TrainingState(**json.loads(checkpoints.read_metadata(path)["state"]))
        with checkpoints.restoring(path):
            self.set_weights(checkpoints.select("net.", tensors))
            self.optimizer.load(checkpoints.select("optim.", tensors))
            checkpoints.copy_into(self.ema, checkpoints.select("average.", tensors))


def copy_of_weights(net: TinyLM) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in net.named_parameters()}


def runtime_of(checkpoint: Path) -> RuntimeOptions:
    """The options a checkpoint's training was computed with."""
    return RuntimeOptions(**json.loads(checkpoints.read_metadata(checkpoint)["choice"]))


def quick_val_loss(
    net: TinyLM, corpus: Corpus, block: int, bf16: bool, n_tokens: int = QUICK_VAL_TOKENS
) -> float:
    """Mean loss (nats a token) over up to `n_tokens` of the validation text, in blocks spread
    evenly over it."""
    device = next(net.parameters()).device
    n_blocks = (len(corpus.val) - 1) // block
    n_scored = min(n_blocks, max(1, n_tokens // block))
    scored = np.unique(np.linspace(0, n_blocks - 1, n_scored).astype(np.int64))
    n_passes = math.ceil(len(scored) / net.model_config.blocks_at_once(block))
    total = 0.0
    with torch.inference_mode(), autocast(bf16, device):
        for part in np.array_split(scored, n_passes):
            windows = [corpus.val[i * block : (i + 1) * block + 1] for i in part]
            rows = torch.from_numpy(np.stack(windows).astype(np.int64)).to(device)
            total += float(loss_of(net, rows[:, :-1], rows[:, 1:])) * len(part)
    return total / len(scored)


def fit(
    trainer: Trainer,
    folder: Path,
    run: Run,
    bar: Progress,
    *,
    on_eval: Callable[[TinyLM, int], None],
    on_best: Callable[[TinyLM], None],
    profile: Any = None,
) -> None:
    """Step to the end, with an evaluation now and then: `on_best(net)` when its loss is the lowest
    so far, then `on_eval(net, step)`.

    Raises KeyboardInterrupt after the checkpoint that an interrupt asked for, DataError for a loss
    that is not finite.
    """
    config, state, runtime = trainer.config, trainer.state, trainer.runtime
    eval_steps = config.eval_steps or runtime.eval_steps or max(1, runtime.steps // VALIDATIONS)
    save_steps = config.save_steps or eval_steps
    started, first_step = time.monotonic(), state.step
    with graceful_interrupt() as interrupt:
        while state.step < runtime.steps:
            loss, grad_norm = trainer.step()
            step = state.step
            is_last = step == runtime.steps
            if profile is not None:
                profile.step()
            elapsed_s = max(time.monotonic() - started, 1e-6)
            tokens_per_s = (step - first_step) * trainer.setup.tokens_per_step / elapsed_s
            best = f", best {state.best_loss:.4f}" if state.best_step else ""
            bar.step(1, f"loss {loss:.3f}, {tokens_per_s:,.0f} tokens/s{best}")
            if step % config.logging_steps == 0 or is_last:
                run.log(
                    step,
                    loss=loss,
                    grad_norm=grad_norm,
                    learning_rate=trainer.setup.learning_rate * trainer.lr_share(step - 1),
                    tokens_per_s=round(tokens_per_s),
                )
            if step % eval_steps == 0 or is_last:
                evaluate(trainer, run, on_eval, on_best)
            if step % save_steps == 0 or is_last or interrupt.requested:
                trainer.save(folder)
            if interrupt.requested:
                raise KeyboardInterrupt


def evaluate(
    trainer: Trainer,
    run: Run,
    on_eval: Callable[[TinyLM, int], None],
    on_best: Callable[[TinyLM], None],
) -> None:
    state, runtime = trainer.state, trainer.runtime
    block_size = trainer.setup.model_config.block_size
    with trainer.averaged() as net:
        val_loss = quick_val_loss(net, trainer.corpus, block_size, runtime.bf16, runtime.val_tokens)
        run.log(state.step, val_loss=val_loss)
        if val_loss < state.best_loss or not trainer.config.keep_best:
            state.best_loss, state.best_step = val_loss, state.step
            on_best(net)
        on_eval(net, state.step)
