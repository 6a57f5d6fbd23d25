"""The training of a tiny language model: schedule, steps, checkpoints, samples.

Reads from top to bottom in `fit`; knows no files but its checkpoints.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onecard import fsio
from onecard.errors import DataError, SettingsError
from onecard.reporting import Progress
from onecard.runs.record import Run
from onecard.tasks.tinylm.configs import Settings
from onecard.tasks.tinylm.corpus import Corpus
from onecard.tasks.tinylm.model import TinyLM, loss_of
from onecard.tasks.tinylm.model_config import Made
from onecard.tasks.tinylm.optim import Optimizer
from onecard.training.output_dir import Stop

MAX_CHECKPOINTS = 2
"""Checkpoints on the disk at once."""
GUIDE_TOKENS = 65_536
"""Of the validation text, what is looked at while training; the last word has the whole of it."""
CROWDED = 1.5
"""From this many times the time of one thread on, several are hindered by other programs."""
COMPILE_S = 90.0
"""What torch.compile takes on two cores before it gains anything, measured 40 to 80 s."""


@dataclass
class Choice:
    """What was measured at the start, and must stay so when a training goes on."""

    bf16: bool = False
    compile: bool = False
    steps: int = 0
    threads: int = 0
    """Of a CPU; 0 leaves them as they are."""
    why: list[str] = field(default_factory=list)


@dataclass
class State:
    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def lr_at(step: int, steps: int, warmup_ratio: float, floor: float) -> float:
    """Share of the highest learning rate: a straight rise, then a cosine down to `floor`
    (Loshchilov & Hutter 2017).

    >>> [round(lr_at(step, 100, 0.1, 0.0), 2) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = max(1, round(steps * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def narrow(on: bool, where: torch.device) -> Any:
    """bfloat16 for matrix products, fp32 weights and sums (Micikevicius et al. 2018)."""
    return torch.autocast(where.type, torch.bfloat16) if on else contextlib.nullcontext()


def batches(
    corpus: Corpus, s: Settings, made: Made, step: int, where: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The micro-batches of a step as (ids, targets): the same tokens however a step is cut."""
    rows = corpus.batch(s.seed, step, made.batch * made.accumulation, made.shape.block_size)
    for part in torch.from_numpy(rows).split(made.batch):
        part = part.to(where, non_blocking=True)
        yield part[:, :-1], part[:, 1:]


class Trainer:
    """Model, optimizer and averages, and one step of them."""

    def __init__(
        self, net: TinyLM, corpus: Corpus, s: Settings, made: Made, choice: Choice
    ) -> None:
        self.net, self.corpus, self.s, self.made, self.choice = net, corpus, s, made, choice
        self.where = next(net.parameters()).device
        self.optimizer = Optimizer(
            net,
            muon=s.optim == "muon",
            learning_rate=made.learning_rate,
            muon_lr=s.muon_lr,
            weight_decay=s.weight_decay,
        )
        self.average = (
            {name: weight.detach().clone() for name, weight in net.named_parameters()}
            if s.ema_decay
            else {}
        )
        self.loss_of: Callable[..., Tensor] = torch.compile(loss_of) if choice.compile else loss_of
        self.state = State()
        if choice.threads:
            torch.set_num_threads(choice.threads)

    def step(self) -> tuple[float, float]:
        """Loss and length of the gradient. Raises DataError when the loss is no number."""
        step = self.state.step
        torch.manual_seed(self.s.seed * 1_000_003 + step)  # dropout: as if nothing had come before
        self.net.train()
        total = torch.zeros((), device=self.where)
        for ids, targets in batches(self.corpus, self.s, self.made, step, self.where):
            with narrow(self.choice.bf16, self.where):
                loss = self.loss_of(self.net, ids, targets) / self.made.accumulation
            loss.backward()
            total += loss.detach()
        value = float(total)
        length = float(torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.s.max_grad_norm))
        if not math.isfinite(value) or not math.isfinite(length):
            self.optimizer.zero_grad()
            raise DataError(
                f"the loss is {value} in step {step + 1}",
                why="a step was too long, or the text has something that no model bears",
                fix="a smaller --muon_lr and --learning_rate, or a longer --warmup_ratio; then "
                "--resume goes on from the last checkpoint",
            )
        self.optimizer.step(
            lr_at(step, self.choice.steps, self.s.warmup_ratio, self.s.min_lr_ratio)
        )
        self.optimizer.zero_grad()
        # an average of few steps must not hold on to the fresh weights: it forgets faster at first
        if self.average:
            decay = min(self.s.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(
                list(self.average.values()),
                [weight.detach() for weight in self.net.parameters()],
                1 - decay,
            )
        self.state.step += 1
        return value, length

    @contextlib.contextmanager
    def averaged(self) -> Iterator[TinyLM]:
        """The model with its average weights, where some are kept."""
        held = (
            {name: weight.detach().clone() for name, weight in self.net.named_parameters()}
            if self.average
            else {}
        )
        if self.average:
            self._take(self.average)
        self.net.eval()
        try:
            yield self.net
        finally:
            if held:
                self._take(held)

    def _take(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.net.named_parameters():
                weight.copy_(weights[name])

    # checkpoints: one file each, whole or not at all

    def save(self, folder: Path) -> None:
        tensors = (
            {f"net.{name}": weight.detach() for name, weight in self.net.named_parameters()}
            | {f"optim.{name}": value for name, value in self.optimizer.state().items()}
            | {f"average.{name}": value for name, value in self.average.items()}
        )
        path = folder / f"step-{self.state.step:07d}.safetensors"
        with fsio.atomic_write(path) as draft:
            try:
                save_file(
                    {name: value.contiguous().cpu() for name, value in tensors.items()},
                    draft,
                    metadata={
                        "state": json.dumps(asdict(self.state)),
                        "choice": json.dumps(asdict(self.choice)),
                    },
                )
            except SafetensorError as fault:
                raise DataError(
                    f"a checkpoint could not be written to {folder}",
                    why=str(fault)[:200],
                    fix="free some disk space, then go on with --resume: the checkpoint before is "
                    "whole",
                ) from None
        for old in sorted(folder.glob("step-*.safetensors"))[:-MAX_CHECKPOINTS]:
            old.unlink()

    def load(self, path: Path) -> None:
        """Raises DataError for another model's checkpoint."""
        with _opened(path) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
            self.state = State(**json.loads(file.metadata()["state"]))
        try:
            self._take(
                {
                    name.removeprefix("net."): value
                    for name, value in tensors.items()
                    if name.startswith("net.")
                }
            )
            self.optimizer.load(
                {
                    name.removeprefix("optim."): value
                    for name, value in tensors.items()
                    if name.startswith("optim.")
                }
            )
            for name, value in self.average.items():
                value.copy_(tensors[f"average.{name}"])
        except (KeyError, RuntimeError) as fault:
            raise DataError(
                f"{path.name} holds another model",
                why=str(fault).splitlines()[0][:200],
                fix="the same shape and optimizer as before, or --output_dir elsewhere",
            ) from None


def choice_of(path: Path) -> Choice:
    """What the training of a checkpoint had measured."""
    with _opened(path) as file:
        return Choice(**json.loads(file.metadata()["choice"]))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Raises DataError for a file that is cut short."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as fault:
        raise DataError(
            f"{path} is no whole checkpoint",
            why=str(fault)[:200],
            fix="remove it; with --resume the training goes on from the one before in "
            f"{path.parent}",
        ) from None


def last_checkpoint(folder: Path) -> Path | None:
    return max(folder.glob("step-*.safetensors"), default=None)


def choose(net: TinyLM, corpus: Corpus, s: Settings, made: Made, bar: Progress) -> Choice:
    """Measure a few steps of each way on the first batch: threads, bf16 or fp32, compiled or not,
    and how many fit into `minutes`. The model is left as it was."""
    held = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    where = next(net.parameters()).device

    def step_s(choice: Choice) -> float:
        trial = Trainer(net, corpus, s, made, choice)
        times = []
        for _ in range(6 if choice.compile else 4):
            started = time.perf_counter()
            trial.step()
            if where.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
            bar.step(0)
        trial._take(held)
        return float(np.median(times[-3:]))

    best = Choice(
        s.bf16 == "on",
        s.compile == "on",
        made.steps,
        (s.threads or torch.get_num_threads()) if where.type == "cpu" else 0,
    )
    try:
        each = step_s(best)
    except (torch._dynamo.exc.BackendCompilerFailed, RuntimeError) as fault:
        if not best.compile or isinstance(fault, torch.OutOfMemoryError):
            raise
        raise SettingsError(
            "torch.compile does not work here",
            why=str(fault).splitlines()[0][:200],
            fix="install a C++ compiler, or leave --compile out",
        ) from None
    if (
        best.threads > 1 and not s.threads
        # where another program wants the same cores, threads that wait for each other lose a
        # hundredfold; a near tie keeps them all, so that a rerun chooses the same
    ):
        alone = step_s(replace(best, threads=1))
        busy = alone < each / CROWDED
        best.why.append(
            f"{1 if busy else best.threads} threads: a step takes {each:.3f} s with {best.threads} "
            f"and {alone:.3f} s with one" + (": others use the cores" if busy else "")
        )
        best.threads, each = (1, alone) if busy else (best.threads, each)
    if s.bf16 == "auto":
        narrow_s = step_s(replace(best, bf16=True))
        best.why.append(
            f"{'bf16' if narrow_s < 0.95 * each else 'fp32'}: a step takes {narrow_s:.3f} s in "
            f"bf16 and {each:.3f} s in fp32"
        )
        best.bf16, each = (True, narrow_s) if narrow_s < 0.95 * each else (False, each)
    if s.compile == "auto":
        whole = s.minutes * 60 or each * made.steps
        if whole < 4 * COMPILE_S:
            best.why.append(
                f"not compiled: all steps take {whole / 60:.1f} min, compiling alone "
                f"{COMPILE_S / 60:.1f}"
            )
        else:
            try:
                compiled = step_s(replace(best, compile=True))
                best.why.append(
                    f"{'compiled' if compiled < 0.9 * each else 'not compiled'}: a step takes "
                    f"{compiled:.3f} s compiled and {each:.3f} s as it is"
                )
                best.compile, each = (True, compiled) if compiled < 0.9 * each else (False, each)
            # no compiler on this machine, or an operator it does not know: the plain way stays
            except Exception as fault:
                best.why.append(f"not compiled: torch.compile failed here ({type(fault).__name__})")
    if s.minutes:
        best.steps = max(
            20, int(s.minutes * 60 / (each * 1.08))
        )  # evaluation, samples and checkpoints take some 8 %
        best.why.append(f"max_steps {best.steps}: {s.minutes:g} min at {each:.3f} s a step")
    return best


def quick_val_loss(net: TinyLM, corpus: Corpus, block: int, bf16: bool) -> float:
    """Mean loss (nats a token) over up to GUIDE_TOKENS of the validation text, blocks taken evenly
    from all of it."""
    where = next(net.parameters()).device
    n_blocks = (len(corpus.val) - 1) // block
    picked = np.unique(
        np.linspace(0, n_blocks - 1, min(n_blocks, max(1, GUIDE_TOKENS // block))).astype(np.int64)
    )
    total = 0.0
    with torch.inference_mode(), narrow(bf16, where):
        for part in np.array_split(
            picked, math.ceil(len(picked) / net.shape.blocks_at_once(block))
        ):
            rows = torch.from_numpy(
                np.stack([corpus.val[i * block : (i + 1) * block + 1] for i in part]).astype(
                    np.int64
                )
            ).to(where)
            total += float(loss_of(net, rows[:, :-1], rows[:, 1:])) * len(part)
    return total / len(picked)


def fit(
    trainer: Trainer,
    folder: Path,
    run: Run,
    bar: Progress,
    stop: Stop,
    look: Callable[[TinyLM, int], None],
    keep: Callable[[TinyLM], None],
    profile: Any = None,
) -> None:
    """Step until the end, looking at the validation text on the way.

    Raises KeyboardInterrupt after the checkpoint that a Ctrl-C asked for, DataError for a loss that
    is no number.
    """
    s, state, choice = trainer.s, trainer.state, trainer.choice
    eval_steps = s.eval_steps or max(1, choice.steps // 20)
    save_steps = s.save_steps or eval_steps
    started, first = time.monotonic(), state.step
    with stop.heard():
        while state.step < choice.steps:
            loss, length = trainer.step()
            done = state.step
            if profile is not None:
                profile.step()
            rate = (
                (done - first) * trainer.made.tokens_a_step / max(time.monotonic() - started, 1e-6)
            )
            bar.step(
                1,
                f"loss {loss:.3f}, {rate:,.0f} tokens/s"
                + (f", best {state.best_loss:.4f}" if state.best_step else ""),
            )
            if done % s.logging_steps == 0 or done == choice.steps:
                run.log(
                    done,
                    loss=loss,
                    grad_norm=length,
                    learning_rate=trainer.made.learning_rate
                    * lr_at(done - 1, choice.steps, s.warmup_ratio, s.min_lr_ratio),
                    tokens_per_s=round(rate),
                )
            if done % eval_steps == 0 or done == choice.steps:
                with trainer.averaged() as net:
                    val = quick_val_loss(
                        net, trainer.corpus, trainer.made.shape.block_size, choice.bf16
                    )
                    run.log(done, val_loss=val)
                    if val < state.best_loss or not s.keep_best:
                        state.best_loss, state.best_step = val, done
                        keep(net)
                    look(net, done)
            if done % save_steps == 0 or done == choice.steps or stop.asked:
                trainer.save(folder)
            if stop.asked:
                raise KeyboardInterrupt
