"""The dataset as the trainer takes it: read, validated, split and tokenized. Knows no model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.errors import DataError, SettingsError
from onecard.tasks.finetune import dataset, tokenization, validation
from onecard.tasks.finetune.configs import CheckConfig
from onecard.tasks.finetune.dataset import RejectedRow, Sample
from onecard.tasks.finetune.tokenization import TokenizedExample
from onecard.tasks.finetune.validation import Finding, ValidationReport

MIN_EVAL_LENGTH = 2048
"""Held-out samples are cut to max_seq_length, but never below this many tokens: a score of short
training sequences should still read whole answers."""


@dataclass
class TrainingData:
    train: list[Sample]
    evaluation: list[Sample]
    train_examples: list[TokenizedExample]
    eval_examples: list[TokenizedExample]
    report: ValidationReport
    histogram: str

    def render(self) -> str:
        return (
            f"{self.report.render()}\n\n{self.histogram}\n\n{len(self.train)} samples to train on, "
            f"{len(self.evaluation)} held out"
        )


def prepare(config: CheckConfig, tokenizer: Any) -> TrainingData:
    """Read, validate, split and tokenize. Raises DataError, NotFound, SettingsError."""
    if not config.dataset:
        raise SettingsError(
            "there is no dataset",
            why="--dataset names no file",
            fix="onecard finetune train your_instructions.jsonl",
        )
    parsed = dataset.read(Path(config.dataset), config.columns)
    report = validation.validate(
        parsed.samples, parsed.rejected, preferences=config.method != "sft"
    )
    train, evaluation = _split(config, report)

    def encode(sample: Sample) -> TokenizedExample:
        return tokenization.encode(tokenizer, sample)

    train, examples, rejected = validation.tokenize(train, encode)
    evaluation, eval_examples, eval_rejected = validation.tokenize(evaluation, encode)
    report.rejected += [*rejected, *eval_rejected]
    histogram = validation.histogram(examples, config.max_seq_length)
    train, examples, n_long = _limit_length(train, examples, report, config)
    if not train or not evaluation:
        raise DataError(
            "no sample is left to " + ("train on" if not train else "score with"),
            why=f"{len(report.rejected)} rows were rejected; most are "
            f"{'too long' if n_long else 'broken'}",
            fix="onecard finetune check shows them; --max_seq_length larger, or --overlong cut",
        )
    eval_length = max(config.max_seq_length, MIN_EVAL_LENGTH)
    eval_examples = [tokenization.truncate(e, eval_length) for e in eval_examples]
    return TrainingData(train, evaluation, examples, eval_examples, report, histogram)


def _split(config: CheckConfig, report: ValidationReport) -> tuple[list[Sample], list[Sample]]:
    if not config.eval_dataset:
        return validation.split(report, config.eval_share, config.eval_items, config.seed)
    parsed = dataset.read(Path(config.eval_dataset), config.columns)
    evaluation = parsed.samples[: config.eval_items]
    validation.check_leakage(report.samples, evaluation)
    return report.samples, evaluation


def _limit_length(
    samples: list[Sample],
    examples: list[TokenizedExample],
    report: ValidationReport,
    config: CheckConfig,
) -> tuple[list[Sample], list[TokenizedExample], int]:
    """Samples longer than max_seq_length are rejected or truncated, as `overlong` says; how many
    there were."""
    limit = config.max_seq_length
    n_long = sum(len(e.ids) > limit for e in examples)
    if not n_long:
        return samples, examples, 0
    if config.overlong == "drop":
        report.rejected += [
            RejectedRow(
                sample.source,
                f"{len(example.ids)} tokens, longer than max_seq_length",
                sample.question,
            )
            for sample, example in zip(samples, examples, strict=True)
            if len(example.ids) > limit
        ]
        fits = [len(e.ids) <= limit for e in examples]
        action = "rejected: --max_seq_length larger, or --overlong cut"
    else:
        examples = [tokenization.truncate(e, limit) for e in examples]
        fits = [e.answer_tokens > 0 for e in examples]
        action = "truncated"
    report.findings.append(Finding(f"longer than max_seq_length {limit}", n_long, [], action))
    return (
        [s for s, ok in zip(samples, fits, strict=True) if ok],
        [e for e, ok in zip(examples, fits, strict=True) if ok],
        n_long,
    )
