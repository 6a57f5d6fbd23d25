"""onecard tinylm train: from a text to a model that continues it. Corpus, model, training, score
over the whole held-out text, files for chat."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onecard import fsio
from onecard.errors import DataError, SettingsError
from onecard.reporting import Progress, Result
from onecard.runs.record import Run
from onecard.tasks.tinylm import (
    compression,
    export,
    leakage,
    metrics,
    sampling,
    saved_model,
    sizing,
)
from onecard.tasks.tinylm import corpus as corpora
from onecard.tasks.tinylm.autotune import Autotuner
from onecard.tasks.tinylm.configs import GenerateConfig, TrainConfig
from onecard.tasks.tinylm.corpus import Corpus
from onecard.tasks.tinylm.model import TinyLM
from onecard.tasks.tinylm.sizing import TrainingSetup
from onecard.tasks.tinylm.trainer import Trainer, default_device, fit, runtime_of
from onecard.training import checkpoints, output_dir

CHECKPOINT_BYTES = 20
"""A weight in two checkpoints: fp32 weights, Muon's momentum or AdamW's moments."""
MARGIN_BYTES = 64 * 2**20
MADE_HERE = ("char", "bpe", "code")
"""Tokenizers made from the text; any other is a file."""
PROFILE_WAIT, PROFILE_STEPS = 10, 5
"""Steps before a profile, and in it."""


def train(config: TrainConfig, run: Run) -> Result:
    """Raises OneCardErrors. An out-of-memory error is left to api.run, which calls again with
    settings that need less."""
    # 1. the text, and what model it can train
    corpus = corpora.prepare(config, run.reporter)
    setup = sizing.derive(config, corpus.tokenizer.get_vocab_size(), len(corpus.train))
    corpora.require_blocks(corpus, setup.model_config.block_size)
    export.require_quants(config.quants)
    identity = _identity(config, setup, corpus)
    with output_dir.training_folder(config.output_dir, run, identity, resume=config.resume) as out:
        _record_data(config, setup, corpus, run)
        n_params = setup.model_config.n_params
        output_dir.require_space(out, MARGIN_BYTES + CHECKPOINT_BYTES * n_params)
        # 2. the training
        training = _fit(config, setup, corpus, out, run)
        # 3. the score: the saved weights on the whole held-out text
        best = saved_model.load(str(out / "model")).net
        held_out, losses = metrics.held_out(best, corpus, run.reporter)
        run.items(metrics.item_rows(losses))
        values = {name: interval.as_dict() for name, interval in held_out.items()}
        compressors = compression.compress(corpus.val, corpus.tokenizer)
        run.scores(values, compressors=compressors)
        pointer = {"model": str((out / "model").resolve())}
        run.artifact(saved_model.POINTER, json.dumps(pointer))
        # 4. files that others open
        files = _export(best, corpus, config, out, run)
    state, runtime = training.trainer.state, training.trainer.runtime
    return Result(
        {
            "metrics": values,
            "compressors": compressors,
            "repeated_share": corpus.facts["repeated_share"],
            "n_params": n_params,
            "steps": state.step,
            "best_step": state.best_step,
            "tokens_per_s": training.tokens_per_s,
            "wall_s": training.seconds,
            "choice": runtime.why,
            "reasons": setup.reasons,
            "files": [str(path) for path in files],
            "output_dir": str(out),
        },
        "\n".join(
            [
                *metrics.render_split(corpus, config.split),
                metrics.render_held_out(held_out, len(corpus.val)),
                compression.render(compressors),
                *_summary(training, files, run, out),
            ]
        ),
    )


def _identity(config: TrainConfig, setup: TrainingSetup, corpus: Corpus) -> dict[str, Any]:
    """What a resumed training must share with the one before: the text and the tokenizer by what is
    in them, so that both may lie elsewhere now. The micro-batch is not in it, so that a smaller one
    can continue."""
    return {
        "tokenizer": config.tokenizer if config.tokenizer in MADE_HERE else "a file",
        "shape": setup.model_config.as_dict(),
        "optim": config.optim,
        "seed": config.seed,
        "split": config.split,
        "val_share": config.val_share,
        "text": corpus.facts["sha256"][:16],
        "tokenizer_sha256": corpus.facts["tokenizer_sha256"],
        "train_tokens": len(corpus.train),
        "tokens_a_step": setup.tokens_per_step,
    }


def _record_data(config: TrainConfig, setup: TrainingSetup, corpus: Corpus, run: Run) -> None:
    facts = corpus.facts
    run.data(
        "train",
        rows=len(corpus.train),
        sha256=facts["sha256"],
        tokenizer=facts["tokenizer_sha256"],
    )
    run.data(
        "questions",
        rows=len(corpus.val),
        sha256=facts["sha256"],
        repeated_share=facts["repeated_share"],
    )
    run.reporter.line(
        f"{facts['chars']:,} characters: {len(corpus.train):,} tokens to train on, "
        f"{len(corpus.val):,} held out ({config.split}), a vocabulary of "
        f"{setup.model_config.vocab_size:,}; {leakage.render(facts['repeated_share'])}\n"
        f"{setup.render()}"
    )


# The training


@dataclass
class Training:
    """A finished one."""

    trainer: Trainer
    seconds: float
    tokens_per_s: float
    samples: list[str]


def _fit(
    config: TrainConfig, setup: TrainingSetup, corpus: Corpus, out: Path, run: Run
) -> Training:
    """Train from the start or from the last checkpoint; the best weights lie in out/model."""
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "data": {
            "dataset": str(Path(config.dataset).expanduser().resolve()),
            "split": config.split,
            "val_share": config.val_share,
            "seed": config.seed,
        },
        "tokenizer_sha256": corpus.facts["tokenizer_sha256"],
    }
    samples: list[str] = []
    with run.reporter.progress("training", 0) as bar:
        trainer = _open_trainer(config, setup, corpus, folder, run, bar)
        first_step, started = trainer.state.step, time.monotonic()
        bar.grow(trainer.runtime.steps)
        bar.step(first_step)
        with _Profiler(config, run) as profile:
            try:
                fit(
                    trainer,
                    folder,
                    run,
                    bar,
                    on_eval=lambda net, step: _sample(net, corpus, config, step, samples, run),
                    on_best=lambda net: saved_model.save(
                        net, out / "model", corpus.tokenizer, facts
                    ),
                    profile=profile,
                )
            except KeyboardInterrupt:
                run.reporter.line(
                    f"stopped; to continue: onecard tinylm train ... --output_dir {out} --resume"
                )
                raise
        seconds = time.monotonic() - started
    n_tokens = (trainer.state.step - first_step) * setup.tokens_per_step
    return Training(trainer, seconds, n_tokens / max(seconds, 1e-6), samples)


def _open_trainer(
    config: TrainConfig,
    setup: TrainingSetup,
    corpus: Corpus,
    folder: Path,
    run: Run,
    bar: Progress,
) -> Trainer:
    """With fresh weights, or those of the last checkpoint in `folder`."""
    torch.manual_seed(config.seed)
    net = TinyLM(setup.model_config).to(default_device())
    checkpoint = checkpoints.last(folder)
    if checkpoint is None:
        runtime = Autotuner(net, corpus, config, setup, bar).run()
    else:
        runtime = runtime_of(checkpoint)
        if config.max_steps and config.max_steps != runtime.steps:
            runtime.steps = config.max_steps
            runtime.why.append(
                f"max_steps is {config.max_steps} now: the learning rate follows the new end"
            )
    trainer = Trainer(net, corpus, config, setup, runtime)
    run.reporter.line("\n".join(runtime.why))
    if checkpoint is not None:
        trainer.load(checkpoint)
        run.reporter.line(f"resuming from step {trainer.state.step}")
    return trainer


def _sample(
    net: TinyLM, corpus: Corpus, config: TrainConfig, step: int, samples: list[str], run: Run
) -> None:
    """A few words of the model as it is now, into samples.txt."""
    if not config.sample_tokens:
        return

    options = GenerateConfig(seed=config.seed)

    def generate(prompt: str) -> str:
        return "".join(
            sampling.generate_text(net, corpus.tokenizer, prompt, config.sample_tokens, options)
        )

    try:
        text = generate(config.sample)
    except DataError:  # the text has no line break: begin with its own first character
        text = generate(corpus.tokenizer.decode([int(corpus.val[0])]))
    samples.append(f"--- step {step}\n{text}")
    run.artifact("samples.txt", "\n\n".join(samples))


class _Profiler:
    """With --profile, records PROFILE_STEPS with torch.profiler: trace.json and profile.txt in the
    run's artifacts."""

    def __init__(self, config: TrainConfig, run: Run) -> None:
        self.run = run
        self.profile: Any = None
        self.cuda = torch.cuda.is_available()
        if config.profile:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self.cuda:
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self.profile = torch.profiler.profile(
                activities=activities,
                schedule=torch.profiler.schedule(
                    wait=PROFILE_WAIT - 2, warmup=2, active=PROFILE_STEPS, repeat=1
                ),
                on_trace_ready=self._write,
                record_shapes=True,
            )

    def __enter__(self) -> Any:
        return self.profile.__enter__() if self.profile else None

    def __exit__(self, *fault: Any) -> None:
        if self.profile:
            self.profile.__exit__(*fault)

    def _write(self, profile: Any) -> None:
        sort_by = "self_cuda_time_total" if self.cuda else "self_cpu_time_total"
        operations = profile.key_averages().table(
            sort_by=sort_by, row_limit=15, max_name_column_width=50
        )
        self.run.artifact("profile.txt", operations)
        where = "not recorded"
        if self.run.folder:
            trace = self.run.folder / "artifacts" / "trace.json"
            with fsio.atomic_write(trace) as draft:
                profile.export_chrome_trace(str(draft))
            where = f"{trace} (chrome://tracing)"
        self.run.reporter.line(
            f"top operations of {PROFILE_STEPS} steps; the whole trace: {where}\n{operations}"
        )


# After the training


def _export(net: TinyLM, corpus: Corpus, config: TrainConfig, out: Path, run: Run) -> list[Path]:
    """The folder in our own layout and, where one exists, the layouts of transformers and
    llama.cpp."""
    try:
        files = export.export_all(net.cpu(), corpus.tokenizer, out, config.quants)
    except SettingsError as fault:
        run.reporter.line(f"no file for chat: {fault.why}")
        return [out / "model"]
    export.record_for_chat(files, run)
    return [out / "model", *files]


def _summary(training: Training, files: list[Path], run: Run, out: Path) -> list[str]:
    trainer = training.trainer
    state, n_params = trainer.state, trainer.setup.model_config.n_params
    line = (
        f"{n_params / 1e6:.2f} M weights, {state.step} steps in {training.seconds / 60:.1f} min, "
        f"{training.tokens_per_s:,.0f} tokens/s"
    )
    if state.best_step != state.step:
        line += (
            f"; the weights of step {state.best_step} are saved, which had the lowest loss on a "
            "part of the held-out text"
        )
    lines = [line]
    if training.samples:
        sample = training.samples[-1].partition("\n")[2].strip()
        lines.append(f"it generates: {sample[:300]!r}")
    lines += [f"wrote {path}" for path in files]
    lines.append(f"try it: onecard tinylm generate {run.id or out / 'model'}")
    if run.id and any(path.suffix == ".gguf" for path in files):
        lines[-1] += f", onecard chat --system '' --model run:{run.id}"
    return lines
