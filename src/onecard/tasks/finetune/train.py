"""onecard finetune train: from pairs to a tuned model with its proof. Validation, score of the
base, training, score of the tuned model, export, score of each export."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from onecard import fsio
from onecard.datasets import jsonl
from onecard.evaluation import stats
from onecard.hub import checkpoints
from onecard.memory import number_types
from onecard.reporting import Result
from onecard.runs.record import Run, fingerprint
from onecard.tasks.finetune import (
    export,
    model,
    model_card,
    scoring,
    tokenization,
    trainer,
    training_data,
    validation,
)
from onecard.tasks.finetune.configs import TrainConfig
from onecard.tasks.finetune.training_data import ModelLimits, TrainingData
from onecard.training import number_type, output_dir, trainer_checkpoints


def train(config: TrainConfig, run: Run) -> Result:
    """Tune, and say whether it is better.

    Raises OneCardErrors. An out-of-memory error is left to api.run, which calls again with settings
    that need less.
    """
    parsed = training_data.read(config)
    folder = checkpoints.folder(config.model, run.reporter)
    tokenizer = model.load_tokenizer(folder)
    tokenization.require_chat_template(tokenizer, config.model)
    export.require_quants(config.quants)
    identity = _identity(config)
    machine = number_types.here("cuda" if torch.cuda.is_available() else "cpu")
    config = config.model_copy(update={"bf16": number_types.in_bf16(config, machine)})
    in_bf16 = number_types.products_in_bf16(config, machine)
    number_type.announce(in_bf16, machine, run.reporter)
    with output_dir.training_folder(
        config.output_dir, run, identity, resume=config.resume, may_change=MAY_CHANGE
    ) as out:
        # 1. data
        data = training_data.prepare(config, parsed, tokenizer, ModelLimits.of_folder(folder))
        _record_data(config, data, out, run)
        run.reporter.line(data.render())
        # 2. the base, scored before anything changes
        general = scoring.general_examples(tokenizer)
        rejected = scoring.rejected_examples(tokenizer, data.evaluation)
        base = model.load_base(folder, config)

        def score(net: Any, name: str) -> scoring.Losses:
            return scoring.answer_losses(
                net, data.eval_examples, general, config, run.reporter, name, rejected
            )

        base_losses = _cached(out / "base_scores.json", partial(score, base, "base"))
        # 3. training
        tuned, train_loss = _fit(base, tokenizer, data, config, out, run)
        _save_adapter(tuned, tokenizer, config, folder, out)
        # 4. the same scores again
        tuned_losses = score(tuned, "tuned")
        verdicts = scoring.compare_losses(
            base_losses, tuned_losses, scoring.independent_groups(data.evaluation)
        )
        metrics: dict[str, Any] = {
            "train_loss": stats.Interval(train_loss, train_loss, train_loss, 1).as_dict(),
            **scoring.loss_metrics(base_losses, "base"),
            **scoring.loss_metrics(tuned_losses, "tuned"),
        }
        run.scores(metrics, verdicts=verdicts)
        run.reporter.line("\n".join(verdicts))
        # 5. files that chat opens, and the answers of each
        questions = scoring.generation_set(
            data.evaluation, tokenizer, folder, config.generate_items, config.max_new_tokens
        )
        del tuned, base  # the merged model is loaded next: two at once need not fit
        exports = export.export_all(tokenizer, folder, out, questions, config, run)
        run.items(scoring.item_rows(data.evaluation, base_losses, tuned_losses, exports.answers))
        verdicts += exports.verdicts
        metrics |= exports.metrics
        run.scores(metrics, verdicts=verdicts)
        card = model_card.write(config, data, metrics, verdicts, exports.files, run)
        fsio.write_text(out / "MODEL_CARD.md", card)
    lines = [*verdicts, *(f"wrote {path}" for path in exports.files)]
    if run.id and any(path.suffix == ".gguf" for path in exports.files):
        lines.append(f"chat with it: onecard chat --model run:{run.id}")
    return Result(
        {
            "metrics": metrics,
            "verdicts": verdicts,
            "output_dir": str(out),
            "files": [str(path) for path in exports.files],
        },
        "\n".join(lines),
    )


MAY_CHANGE = (
    "num_train_epochs",
    "max_steps",
    "save_steps",
    "logging_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "generate_items",
    "max_new_tokens",
    "quants",
    "adapter_gguf",
    "report_to",
    "output_dir",
    "resume",
)
"""Settings that a resumed training may have otherwise: they change neither the adapters' shape nor
what is learned from, or an out-of-memory fallback changes them."""


def _identity(config: TrainConfig) -> dict[str, Any]:
    """What a resumed training must share with the one before: every setting but `MAY_CHANGE`, and
    the content of the data, wherever it lies."""
    settings = config.model_dump(mode="json", exclude={*MAY_CHANGE, "dataset", "eval_dataset"})
    for name in ("dataset", "eval_dataset"):
        path = Path(getattr(config, name)).expanduser()
        if getattr(config, name) and path.exists():
            settings[f"{name}_sha256"] = fingerprint(path)
    return settings


def _record_data(config: TrainConfig, data: TrainingData, out: Path, run: Run) -> None:
    """Fingerprints into the run; rejected and held-out rows as files that can be read."""
    path = Path(config.dataset)
    rejected = data.report.rejected
    run.data(
        "train",
        rows=len(data.train),
        sha256=fingerprint(path) if path.is_file() else validation.fingerprint(data.train),
        put_aside=len(rejected),
    )
    run.data("questions", rows=len(data.evaluation), sha256=validation.fingerprint(data.evaluation))
    if rejected:
        rows = [{"where": row.source, "why": row.reason, "raw": row.raw} for row in rejected]
        fsio.write_text(out / "put_aside.jsonl", jsonl.to_jsonl(rows))
    hashes = sorted({key for s in data.train for key in (s.key, s.question_key)})
    fsio.write_text(out / training_data.TRAINED_ROWS, "\n".join(hashes) + "\n")
    fsio.write_text(
        out / "held_out.jsonl",
        jsonl.to_jsonl(s.as_row() for s in data.evaluation),
    )


def _cached(path: Path, score: Callable[[], scoring.Losses]) -> scoring.Losses:
    """A score that a resumed training need not compute again."""
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    losses = score()
    fsio.write_text(path, json.dumps(losses))
    return losses


def _fit(
    base: Any, tokenizer: Any, data: TrainingData, config: TrainConfig, out: Path, run: Run
) -> tuple[Any, float]:
    """(the model with its trained adapter, mean loss of the training)."""
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    trainer_checkpoints.remove_incomplete(folder)
    checkpoint = trainer_checkpoints.last(folder)
    if checkpoint:
        trainer_checkpoints.drop_foreign_optimizer(checkpoint, config.optim)
        run.reporter.line(f"resuming from {checkpoint.name}")
    lora = model.lora_config(config, base)
    with run.reporter.progress("training", 0) as bar:
        progress = trainer.ProgressCallback(run, bar, config.optim)
        if config.method == "sft":
            hf_trainer = trainer.sft_trainer(
                base, tokenizer, lora, data.train_examples, config, folder, progress
            )
        else:
            hf_trainer = trainer.preference_trainer(
                base, tokenizer, lora, data.train, config, folder, progress
            )
        try:
            loss = trainer.fit(hf_trainer, folder, progress, checkpoint)
        except KeyboardInterrupt:
            run.reporter.line(
                f"stopped; to continue: onecard finetune train ... --output_dir {out} --resume"
            )
            raise
    return hf_trainer.model, loss


def _save_adapter(
    tuned: Any, tokenizer: Any, config: TrainConfig, base_folder: Path, out: Path
) -> None:
    tuned.save_pretrained(out / "adapter")
    tokenizer.save_pretrained(out / "adapter")
    fsio.write_text(
        out / "adapter" / "base.json",
        json.dumps({"model": config.model, "folder": str(base_folder)}),
    )
