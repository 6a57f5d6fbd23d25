"""From a text to a model that writes like it: corpus, shape, training, the measure over the whole
held-out text, files for chat. Reads from top to bottom; knows no other kind."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from onecard import fsio
from onecard.errors import DataError, SettingsError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.tinylm import corpus as texts
from onecard.tasks.tinylm import evaluate, export, generate, model_config, trainer
from onecard.tasks.tinylm.configs import Settings
from onecard.tasks.tinylm.corpus import Corpus
from onecard.tasks.tinylm.model import TinyLM
from onecard.tasks.tinylm.model_config import Made
from onecard.training import output_dir
from onecard.units import size

SAFE_BYTES = 64 * 2**20
PROFILED = (10, 5)
"""Steps that a profile waits for, and that it records."""


def train(settings: Settings, run: Run) -> Result:
    """Raises OneCardErrors; an out-of-memory goes up to api.run, which comes back with smaller
    settings."""
    out = (
        Path(settings.output_dir).expanduser()
        if settings.output_dir
        else (run.folder or Path.cwd()) / "artifacts"
    )
    # 1. the text, and what model it bears
    corpus = texts.prepare(settings, run.reporter)
    made = model_config.of(settings, corpus.tokenizer.get_vocab_size(), len(corpus.train))
    texts.need_blocks(corpus, made.shape.block_size)
    export.need_quants(settings.quants)
    with output_dir.alone(out):
        output_dir.write_manifest(
            out,
            _marks(settings, made, corpus),
            run.id,
            resume=settings.resume,
            named=bool(settings.output_dir),
        )
        run.data(
            "train",
            rows=len(corpus.train),
            sha256=corpus.facts["sha256"],
            tokenizer=corpus.facts["tokenizer_sha256"],
        )
        run.data("questions", rows=len(corpus.val), sha256=corpus.facts["sha256"])
        run.reporter.line(
            f"{corpus.facts['chars']:,} characters: {len(corpus.train):,} tokens to learn from, "
            f"{len(corpus.val):,} held out ({settings.split}), {made.shape.vocab_size:,} in the "
            f"vocabulary\n{made.render()}"
        )
        # 2. the model, fresh or from its last checkpoint
        checkpoints = out / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(out).free < SAFE_BYTES + 20 * made.shape.n_params:
            raise DataError(
                f"{out} has no room for a checkpoint",
                why=f"{size(shutil.disk_usage(out).free)} are free, two checkpoints take "
                f"{size(24 * made.shape.n_params)}",
                fix="free some disk space, or --output_dir elsewhere",
            )
        torch.manual_seed(settings.seed)
        net = TinyLM(made.shape).to(trainer.device())
        last = trainer.last_checkpoint(checkpoints)
        with run.reporter.progress("training", 0) as bar:
            choice = (
                trainer.choice_of(last)
                if last
                else trainer.choose(net, corpus, settings, made, bar)
            )
            if last and settings.max_steps and settings.max_steps != choice.steps:
                choice.steps = settings.max_steps
                choice.why.append(
                    f"max_steps is {settings.max_steps} now: the learning rate follows the new end"
                )
            made_trainer = trainer.Trainer(net, corpus, settings, made, choice)
            run.reporter.line("\n".join(choice.why))
            if last:
                made_trainer.load(last)
                run.reporter.line(f"going on from step {made_trainer.state.step}")
            bar.grow(choice.steps)
            bar.step(made_trainer.state.step)
            # 3. the training
            started, before = time.monotonic(), made_trainer.state.step
            facts = {
                "data": {
                    "dataset": str(Path(settings.dataset).expanduser().resolve()),
                    "split": settings.split,
                    "val_share": settings.val_share,
                    "seed": settings.seed,
                },
                "tokenizer_sha256": corpus.facts["tokenizer_sha256"],
            }
            samples: list[str] = []
            with _profiled(settings, run) as profile:
                try:
                    trainer.fit(
                        made_trainer,
                        checkpoints,
                        run,
                        bar,
                        output_dir.Stop(),
                        look=lambda net, step: _sample(net, corpus, settings, step, samples, run),
                        keep=lambda net: export.save(net, out / "model", corpus.tokenizer, facts),
                        profile=profile,
                    )
                except KeyboardInterrupt:
                    run.reporter.line(
                        f"stopped; go on with: onecard tinylm train ... --output_dir {out} --resume"
                    )
                    raise
            spent = time.monotonic() - started
        # 4. the measure: the whole held-out text, and the kept weights
        best, _, _, _ = export.opened(str(out / "model"))
        found, losses = evaluate.held_out(best, corpus, run.reporter)
        run.items(
            [
                {"id": f"block {i}", "scores": {"loss": float(value)}}
                for i, value in enumerate(losses.mean(1))
            ]
        )
        metrics = {name: interval.as_dict() for name, interval in found.items()}
        run.scores(metrics)
        run.artifact("tinylm.json", json.dumps({"model": str((out / "model").resolve())}))
        # 5. files that others open
        files = _files(best, corpus, settings, out, run)
    state = made_trainer.state
    rate = (state.step - before) * made.tokens_a_step / max(spent, 1e-6)
    words = [
        evaluate.words(found, len(corpus.val)),
        f"{made.shape.n_params / 1e6:.2f} M weights, {state.step} steps in {spent / 60:.1f} min, "
        f"{rate:,.0f} tokens/s"
        + (
            f"; kept are the weights of step {state.best_step}, with the lowest loss on a part of "
            "the held-out text"
            if state.best_step != state.step
            else ""
        ),
        f"it writes: {samples[-1].partition(chr(10))[2].strip()[:300]!r}" if samples else "",
        *(f"made {path}" for path in files),
        f"try it: onecard tinylm generate {run.id or out / 'model'}"
        + (
            f", onecard chat --system '' --model run:{run.id}"
            if run.id and any(path.suffix == ".gguf" for path in files)
            else ""
        ),
    ]
    return Result(
        {
            "metrics": metrics,
            "n_params": made.shape.n_params,
            "steps": state.step,
            "best_step": state.best_step,
            "tokens_per_s": rate,
            "wall_s": spent,
            "choice": choice.why,
            "reasons": made.reasons,
            "files": [str(path) for path in files],
            "output_dir": str(out),
        },
        "\n".join(line for line in words if line),
    )


def _marks(settings: Settings, made: Made, corpus: Corpus) -> dict[str, Any]:
    """What a folder's training is known by; micro-batches are left out, so that a smaller one can
    go on."""
    return {
        "dataset": str(Path(settings.dataset).expanduser().resolve()),
        "tokenizer": settings.tokenizer,
        "shape": made.shape.as_dict(),
        "optim": settings.optim,
        "seed": settings.seed,
        "split": settings.split,
        "val_share": settings.val_share,
        "text": corpus.facts["sha256"][:16],
        "tokenizer_sha256": corpus.facts["tokenizer_sha256"],
        "tokens_a_step": made.tokens_a_step,
    }


def _sample(
    net: TinyLM, corpus: Corpus, settings: Settings, step: int, samples: list[str], run: Run
) -> None:
    """A few words of the model as it is now, into samples.txt."""
    if not settings.sample_tokens:
        return
    try:
        written = "".join(
            generate.text(net, corpus.tokenizer, settings.sample, settings.sample_tokens, settings)
        )
    except DataError:  # a text without line breaks: begin with its own first letter
        written = "".join(
            generate.text(
                net,
                corpus.tokenizer,
                corpus.tokenizer.decode([int(corpus.val[0])]),
                settings.sample_tokens,
                settings,
            )
        )
    samples.append(f"--- step {step}\n{written}")
    run.artifact("samples.txt", "\n\n".join(samples))


def _files(net: TinyLM, corpus: Corpus, settings: Settings, out: Path, run: Run) -> list[Path]:
    """The folder with our own names, and where a layout exists what transformers and llama.cpp
    open."""
    try:
        made = export.everything(net.cpu(), corpus.tokenizer, out, settings.quants)
    except SettingsError as fault:
        run.reporter.line(f"no file for chat: {fault.why}")
        return [out / "model"]
    best = next((path for path in made if path.suffix == ".gguf"), made[0])
    run.artifact("result.json", json.dumps({"model": str(best.resolve())}))
    return [out / "model", *made]


class _profiled:
    """Records PROFILED steps with torch.profiler where asked for: trace.json and profile.txt in the
    run's artifacts."""

    def __init__(self, settings: Settings, run: Run) -> None:
        self.run, self.profile = run, None
        if settings.profile:
            wait, active = PROFILED
            kinds = [torch.profiler.ProfilerActivity.CPU] + (
                [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            )
            self.profile = torch.profiler.profile(
                activities=kinds,
                schedule=torch.profiler.schedule(wait=wait - 2, warmup=2, active=active, repeat=1),
                on_trace_ready=self._keep,
                record_shapes=True,
            )

    def __enter__(self) -> Any:
        return self.profile.__enter__() if self.profile else None

    def __exit__(self, *fault: Any) -> None:
        if self.profile:
            self.profile.__exit__(*fault)

    def _keep(self, profile: Any) -> None:
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        told = profile.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=50)
        self.run.artifact("profile.txt", told)
        if self.run.folder:
            with fsio.atomic_write(self.run.folder / "artifacts" / "trace.json") as draft:
                profile.export_chrome_trace(str(draft))
        self.run.reporter.line(
            f"top operations of {PROFILED[1]} steps; the whole trace lies in "
            f"{self.run.folder or 'no'}/artifacts/trace.json (chrome://tracing)\n{told}"
        )


def write(settings: Settings, run: Run) -> Result:
    """Text from a trained model, shown as it comes. Raises NotFound, DataError."""
    net, tokenizer, _, _ = export.opened(settings.run_id)
    made = []
    for number in range(settings.num_samples):
        parts = []
        for part in generate.text(
            net,
            tokenizer,
            settings.prompt,
            settings.max_new_tokens,
            settings.model_copy(update={"seed": settings.seed + number}),
        ):
            run.reporter.stream(part)
            parts.append(part)
        run.reporter.stream("\n" if number + 1 == settings.num_samples else "\n---\n")
        made.append("".join(parts))
    return Result({"texts": made})
