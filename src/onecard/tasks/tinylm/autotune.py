"""Measures a few training steps of each way to compute them, and takes the fastest: threads, bf16
or fp32, torch.compile or not; and how many steps fit into `minutes`."""

import time
from dataclasses import replace

import numpy as np
import torch

from onecard.errors import SettingsError
from onecard.memory import number_types
from onecard.memory.devices import Device
from onecard.reporting import Progress
from onecard.tasks.tinylm import budget
from onecard.tasks.tinylm.configs import TrainConfig
from onecard.tasks.tinylm.corpus import Corpus
from onecard.tasks.tinylm.model import TinyLM
from onecard.tasks.tinylm.sampling import generate_tokens
from onecard.tasks.tinylm.sizing import TrainingSetup
from onecard.tasks.tinylm.trainer import (
    RuntimeOptions,
    Trainer,
    copy_of_weights,
    quick_val_loss,
)

CONTENTION = 1.5
"""A step with all threads that takes this many times the time with one shows that other programs
use the cores."""
BF16_GAIN, COMPILE_GAIN = 0.95, 0.9
"""Share of the time of a step below which the change is taken: nearer ties are noise."""
COMPILE_S = 90.0
"""Of torch.compile on two cores before it gains anything; measured 40 to 80 s."""
TIMED_VAL_TOKENS = 8_192
TIMED_SAMPLE_TOKENS = 8


class Autotuner:
    """Trial steps on a model, whose weights are left as they were."""

    def __init__(
        self,
        net: TinyLM,
        corpus: Corpus,
        config: TrainConfig,
        setup: TrainingSetup,
        bar: Progress,
    ) -> None:
        self.net, self.corpus, self.config, self.setup = net, corpus, config, setup
        self.bar = bar
        self.weights = copy_of_weights(net)
        on_cpu = next(net.parameters()).device.type == "cpu"
        threads = config.n_threads or torch.get_num_threads()
        self.best = RuntimeOptions(
            bf16=config.bf16 == "on",
            compile=config.compile == "on",
            steps=setup.steps,
            threads=threads if on_cpu else 0,
        )
        self.started = time.perf_counter()
        self.step_s = 0.0
        """Of `best`."""

    def run(self) -> RuntimeOptions:
        """Raises SettingsError where torch.compile was asked for and does not work."""
        self.step_s = self._first_measurement()
        if self.best.threads > 1 and not self.config.n_threads:
            self._tune_threads()
        device = number_types.here(next(self.net.parameters()).device.type)
        if self.config.bf16 == "auto" and number_types.bf16_unit(device):
            self._tune_bf16(device)
        else:
            self.best.why.append(number_types.describe(self.best.bf16, device))
        if self.config.compile == "auto":
            self._tune_compile()
        if self.config.minutes:
            self._fit_minutes(self.config.minutes)
        return self.best

    def _fit_minutes(self, minutes: float) -> None:
        val_token_s, sample_s = self._measure_validation()
        spent_s = time.perf_counter() - self.started
        costs = budget.Costs(self.step_s, val_token_s, sample_s, spent_s)
        n_val_tokens, eval_steps = len(self.corpus.val), self.config.eval_steps
        plan = budget.fit_minutes(minutes * 60, costs, n_val_tokens, eval_steps)
        self.best.steps, self.best.eval_steps = plan.steps, plan.eval_steps
        self.best.val_tokens = plan.val_tokens
        self.best.why.append(plan.render(minutes, costs))
        if (seconds := plan.seconds(costs)) > 1.1 * minutes * 60:
            self.best.why.append(
                f"it will take {seconds / 60:.1f} min: {plan.steps} steps and the final score over "
                f"{n_val_tokens:,} held-out tokens need them"
            )

    def _measure_validation(self) -> tuple[float, float]:
        """Seconds of a token of a validation, and of a sample."""
        if self.best.threads:
            torch.set_num_threads(self.best.threads)
        block_size = self.setup.model_config.block_size
        self.net.eval()
        times = []
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            quick_val_loss(self.net, self.corpus, block_size, self.best.bf16, TIMED_VAL_TOKENS)
            times.append(time.perf_counter() - started)
        n_scored = max(1, min(TIMED_VAL_TOKENS, len(self.corpus.val) - 1) // block_size)
        started = time.perf_counter()
        prompt = torch.zeros((1, 1), dtype=torch.long, device=next(self.net.parameters()).device)
        list(generate_tokens(self.net, prompt, TIMED_SAMPLE_TOKENS))
        sample_token_s = (time.perf_counter() - started) / TIMED_SAMPLE_TOKENS
        sample_s = sample_token_s * self.config.sample_tokens
        return times[-1] / (n_scored * block_size), sample_s

    def measure(self, options: RuntimeOptions) -> float:
        """Seconds of a step: the median of the last three."""
        trial = Trainer(self.net, self.corpus, self.config, self.setup, options)
        times = []
        for _ in range(6 if options.compile else 4):
            started = time.perf_counter()
            trial.step()
            if trial.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
            self.bar.step(0)
        trial.set_weights(self.weights)
        return float(np.median(times[-3:]))

    def _first_measurement(self) -> float:
        try:
            return self.measure(self.best)
        except (torch._dynamo.exc.BackendCompilerFailed, RuntimeError) as fault:
            if not self.best.compile or isinstance(fault, torch.OutOfMemoryError):
                raise
            raise SettingsError(
                "torch.compile does not work here",
                why=str(fault).splitlines()[0][:200],
                fix="install a C++ compiler, or leave --compile out",
            ) from None

    def _tune_threads(self) -> None:
        """Where another program uses the same cores, threads that wait for each other can be a
        hundred times slower than one. A near tie keeps them all, so that a rerun chooses the
        same."""
        threads, step_s = self.best.threads, self.step_s
        single_s = self.measure(replace(self.best, threads=1))
        contended = single_s < step_s / CONTENTION
        if contended:
            self.best.threads, self.step_s = 1, single_s
        self.best.why.append(
            f"{self.best.threads} threads: a step takes {step_s:.3f} s with {threads} and "
            f"{single_s:.3f} s with one" + (": other programs use the cores" if contended else "")
        )

    def _tune_bf16(self, device: Device) -> None:
        fp32_s, bf16_s = self.step_s, self.measure(replace(self.best, bf16=True))
        if bf16_s < BF16_GAIN * fp32_s:
            self.best.bf16, self.step_s = True, bf16_s
        self.best.why.append(
            f"computing in {'bf16' if self.best.bf16 else 'fp32'}: a step takes {bf16_s:.3f} s in "
            f"bf16 ({number_types.bf16_unit(device)}) and {fp32_s:.3f} s in fp32"
        )

    def _tune_compile(self) -> None:
        total_s = self.config.minutes * 60 or self.step_s * self.setup.steps
        if total_s < 4 * COMPILE_S:
            self.best.why.append(
                f"not compiled: all steps take {total_s / 60:.1f} min, compiling alone "
                f"{COMPILE_S / 60:.1f}"
            )
            return
        eager_s = self.step_s
        try:
            compiled_s = self.measure(replace(self.best, compile=True))
        # without a compiler on this machine, or for an operator it does not know, torch raises many
        # kinds of errors; eager steps still work
        except Exception as fault:
            self.best.why.append(
                f"not compiled: torch.compile failed here ({type(fault).__name__})"
            )
            return
        if compiled_s < COMPILE_GAIN * eager_s:
            self.best.compile, self.step_s = True, compiled_s
        self.best.why.append(
            f"{'compiled' if self.best.compile else 'not compiled'}: a step takes "
            f"{compiled_s:.3f} s compiled and {eager_s:.3f} s eager"
        )
