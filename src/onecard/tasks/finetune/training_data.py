"""The dataset as the trainer takes it: read, validated, split and tokenized. Knows no model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.datasets.findings import Finding
from onecard.errors import DataError, SettingsError
from onecard.tasks.finetune import dataset, tokenization, validation
from onecard.tasks.finetune.configs import CheckConfig
from onecard.tasks.finetune.sample import RejectedRow, Sample
from onecard.tasks.finetune.tokenization import TokenizedExample
from onecard.tasks.finetune.validation import ValidationReport

MIN_EVAL_LENGTH = 2048
"""Held-out samples are cut to max_seq_length, but never below this many tokens: a score of short
training sequences should still read whole answers."""

TRAINED_ROWS = "trained_rows.txt"
"""Hashes of the samples and of their questions: an evaluation on them is refused."""
Encode = Callable[[Any, Sample], Sequence[TokenizedExample]]


@dataclass(frozen=True)
class ModelLimits:
    """What a model's config.json allows; 0 where it does not say."""

    n_embeddings: int = 0
    """Tokens that have a row in the embedding."""
    context: int = 0
    """Longest sequence (tokens)."""

    @classmethod
    def of_folder(cls, folder: Path) -> "ModelLimits":
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        values |= values.get("text_config") or {}
        return cls(
            int(values.get("vocab_size") or 0), int(values.get("max_position_embeddings") or 0)
        )


@dataclass
class TrainingData:
    train: list[Sample]
    evaluation: list[Sample]
    train_examples: list[TokenizedExample]
    """More than samples where a template trains each answer of a conversation apart."""
    eval_examples: list[TokenizedExample]
    """One for each of `evaluation`."""
    report: ValidationReport
    histogram: str

    def render(self) -> str:
        n_answers = sum(e.n_answers for e in self.train_examples)
        return (
            f"{self.report.render()}\n\n{self.histogram}\n\n{len(self.train)} samples to train on "
            f"with {n_answers} answers, {len(self.evaluation)} held out"
        )


def read(config: CheckConfig) -> dataset.ParsedDataset:
    """The rows, before a model is fetched or converted for them.

    Raises DataError, NotFound, SettingsError.
    """
    if not config.dataset:
        raise SettingsError(
            "there is no dataset",
            why="--dataset names no file",
            fix="onecard finetune train your_instructions.jsonl",
        )
    return dataset.read(Path(config.dataset), config.columns)


def prepare(
    config: CheckConfig, parsed: dataset.ParsedDataset, tokenizer: Any, limits: ModelLimits
) -> TrainingData:
    """Validate, split and tokenize. Raises DataError, NotFound, SettingsError."""
    report = validation.validate(parsed, preferences=config.method != "sft")
    report.findings += _template_findings(tokenizer, report.samples, config)
    train, evaluation = _split(config, report)
    train, examples, rejected = tokenize(train, tokenizer, limits, tokenization.encode_turns)
    evaluation, eval_examples, eval_rejected = tokenize(evaluation, tokenizer, limits)
    for issue, rows in (
        ("rows that the model cannot take", rejected),
        ("held-out rows that the model cannot take", eval_rejected),
    ):
        if rows:
            report.findings.append(validation.rejection_finding(issue, rows))
            report.rejected += rows
    histogram = validation.histogram(examples, config.max_seq_length)
    train, examples, n_long = _limit_length(train, examples, report, config)
    if not train or not evaluation:
        raise DataError(
            "no sample is left to " + ("train on" if not train else "score with"),
            why=f"{len(report.rejected)} rows were rejected; most are "
            f"{'too long' if n_long else 'broken'}"
            + (f"; the first, {report.rejected[0].reason}" if report.rejected else ""),
            fix="onecard finetune check shows them; --max_seq_length larger, or --overlong cut",
        )
    eval_length = max(config.max_seq_length, MIN_EVAL_LENGTH)
    if limits.context:
        eval_length = min(eval_length, limits.context)
    eval_examples = [tokenization.truncate(e, eval_length) for e in eval_examples]
    readable = [e.answer_tokens > 0 for e in eval_examples]
    evaluation = [s for s, ok in zip(evaluation, readable, strict=True) if ok]
    eval_examples = [e for e, ok in zip(eval_examples, readable, strict=True) if ok]
    if not evaluation:
        raise DataError(
            "no sample is left to score with",
            why=f"the questions of all held-out rows are longer than {eval_length} tokens",
            fix="--eval_dataset with shorter rows",
        )
    return TrainingData(train, evaluation, examples, eval_examples, report, histogram)


def read_evaluation(path: Path, columns: Sequence[str], n: int) -> tuple[list[Sample], list[str]]:
    """(at most `n` valid, different samples of a held-out set, what was left out of it)."""
    report = validation.validate(dataset.read(path, columns))
    left_out = [
        f"{finding.count} x {finding.issue}"
        for finding in report.findings
        if finding.action == "rejected"
    ]
    return report.samples[:n], left_out


def tokenize(
    samples: Sequence[Sample],
    tokenizer: Any,
    limits: ModelLimits,
    encode: Encode = lambda tokenizer, sample: [tokenization.encode(tokenizer, sample)],
) -> tuple[list[Sample], list[TokenizedExample], list[RejectedRow]]:
    """(samples as the template takes them, their examples, rejected rows).

    A sample that the template cannot render, without a token of an answer, or with a token that the
    model has no embedding for, is rejected.
    """
    valid: list[Sample] = []
    examples: list[TokenizedExample] = []
    rejected: list[RejectedRow] = []
    for sample in samples:
        sample = tokenization.fit_template(tokenizer, sample)
        try:
            own = [e for e in encode(tokenizer, sample) if e.answer_tokens]
            if not own:
                raise ValueError("no token of an answer")
            largest = max(max(e.ids) for e in own)
            if limits.n_embeddings and largest >= limits.n_embeddings:
                raise ValueError(
                    f"the token {tokenizer.convert_ids_to_tokens(largest)!r} has the number "
                    f"{largest}, and the model's embedding {limits.n_embeddings} rows"
                )
        except ValueError as fault:
            rejected.append(RejectedRow(sample.source, str(fault), sample.question))
        else:
            valid.append(sample)
            examples += own
    return valid, examples, rejected


def _template_findings(
    tokenizer: Any, samples: Sequence[Sample], config: CheckConfig
) -> list[Finding]:
    """What the chat template leaves out or does not write."""
    findings = []
    if not tokenization.end_mark(tokenizer):
        findings.append(
            Finding(
                "the template writes no end mark after an answer",
                len(samples),
                [],
                f"{tokenizer.eos_token} is added",
            )
        )
    with_system = [s for s in samples if s.messages[0]["role"] == "system"]
    if with_system and not tokenization.takes_system_turns(tokenizer):
        examples = [s.source for s in with_system[:3]]
        action = "put before the first question"
        findings.append(
            Finding("the template takes no system turn", len(with_system), examples, action)
        )
    for what, rows in (
        ("reasoning that the template leaves out", _unrendered(tokenizer, samples, _reasoning)),
        ("tools that the template leaves out", _unrendered(tokenizer, samples, _tool_name)),
    ):
        if rows:
            findings.append(Finding(what, len(rows), [s.source for s in rows[:3]], "ignored"))
    if config.method == "sft" and (pairs := [s for s in samples if s.rejected]):
        findings.append(
            Finding(
                "rejected answers not used",
                len(pairs),
                [pairs[0].source],
                "--method dpo learns from them",
            )
        )
    return findings


def _reasoning(sample: Sample) -> str:
    return str(sample.messages[-1].get("reasoning_content", ""))


def _tool_name(sample: Sample) -> str:
    tools = json.loads(sample.tools) if sample.tools else []
    return str(tools[0].get("function", tools[0]).get("name", "")) if tools else ""


def _unrendered(
    tokenizer: Any, samples: Sequence[Sample], part: Callable[[Sample], str]
) -> list[Sample]:
    """Samples with a text that does not stand in what the template writes."""
    missing = []
    for sample in samples:
        text = part(sample).strip()
        if text:
            tools = json.loads(sample.tools) if sample.tools else None
            fitted = tokenization.fit_template(tokenizer, sample)
            try:
                rendered = tokenization.render(tokenizer, fitted.messages, tools=tools)
            except Exception:  # the row is rejected where it is tokenized
                continue
            if text not in rendered:
                missing.append(sample)
    return missing


def _split(config: CheckConfig, report: ValidationReport) -> tuple[list[Sample], list[Sample]]:
    if not config.eval_dataset:
        return validation.split(report, config.eval_share, config.eval_items, config.seed)
    path = Path(config.eval_dataset)
    evaluation, left_out = read_evaluation(path, config.columns, config.eval_items)
    if left_out:
        report.findings.append(Finding("in the eval_dataset", len(left_out), left_out, "rejected"))
    validation.check_leakage(report.samples, evaluation)
    return report.samples, evaluation


def _limit_length(
    samples: list[Sample],
    examples: list[TokenizedExample],
    report: ValidationReport,
    config: CheckConfig,
) -> tuple[list[Sample], list[TokenizedExample], int]:
    """Examples longer than max_seq_length are rejected or truncated, as `overlong` says, and
    samples without any example left; how many examples there were."""
    limit = config.max_seq_length
    long_examples = [e for e in examples if len(e.ids) > limit]
    if not long_examples:
        return samples, examples, 0
    if config.overlong == "drop":
        examples = [e for e in examples if len(e.ids) <= limit]
        action = "rejected: --max_seq_length larger, or --overlong cut"
    else:
        examples = [tokenization.truncate(e, limit) for e in examples]
        examples = [e for e in examples if e.answer_tokens > 0]
        action = "truncated"
    left = {e.source for e in examples}
    if config.overlong == "drop":
        report.rejected += [
            RejectedRow(s.source, f"longer than max_seq_length {limit}", s.question)
            for s in samples
            if s.source not in left
        ]
    report.findings.append(
        Finding(f"longer than max_seq_length {limit}", len(long_examples), [], action)
    )
    return [s for s in samples if s.source in left], examples, len(long_examples)
