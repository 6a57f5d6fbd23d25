"""onecard finetune evaluate: a trained adapter against its base, on pairs it has not seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onecard.datasets import leakage
from onecard.errors import DataError, SettingsError
from onecard.evaluation import judge, stats
from onecard.evaluation.metric_table import metric_table
from onecard.inference.backends import language_model
from onecard.inference.config import LlmConfig
from onecard.inference.llamacpp import LlamaCpp
from onecard.reporting import Result
from onecard.runs import store
from onecard.runs.record import Run
from onecard.tasks.finetune import model, scoring, training_data, validation
from onecard.tasks.finetune.configs import EvaluateConfig, TrainConfig
from onecard.tasks.finetune.sample import Sample
from onecard.tasks.finetune.training_data import ModelLimits


def evaluate(config: EvaluateConfig, run: Run) -> Result:
    """Loss and forgetting of base and tuned; the tuned model's answers, where it was exported.

    Raises NotFound, DataError, SettingsError.
    """
    if not config.run_id:
        raise SettingsError(
            "there is no run to evaluate",
            why="no RUN was named",
            fix="onecard finetune evaluate RUN --eval_dataset FILE",
        )
    # 1. the adapter, with the settings it was trained with, and the pairs
    adapter = scoring.find_adapter(config.run_id)
    trained_with = store.find(config.run_id).config(TrainConfig)
    tokenizer = model.load_tokenizer(adapter)
    path = adapter.parent / "held_out.jsonl"
    if config.eval_dataset:
        path = Path(config.eval_dataset)
    read, left_out = training_data.read_evaluation(path, config.columns, config.eval_items)
    if left_out:
        run.reporter.line(f"left out of {path.name}: {'; '.join(left_out)}")
    _refuse_trained_rows(read, adapter.parent)
    limits = ModelLimits.of_folder(scoring.base_folder(adapter))
    samples, examples, rejected = training_data.tokenize(read, tokenizer, limits)
    if not samples:
        raise DataError(
            f"{path} holds nothing to score",
            why=f"{len(rejected)} rows have no answer",
            fix='rows like {"prompt": ..., "completion": ...}',
        )
    run.data("questions", rows=len(samples), sha256=validation.fingerprint(samples))
    # 2. loss, with the adapter and without it
    net = model.load_adapter(model.load_base(scoring.base_folder(adapter), trained_with), adapter)
    general = scoring.general_examples(tokenizer)
    rejected_answers = scoring.rejected_examples(tokenizer, samples)

    def score(name: str) -> scoring.Losses:
        return scoring.answer_losses(
            net, examples, general, trained_with, run.reporter, name, rejected_answers
        )

    tuned = score("tuned")
    with net.disable_adapter():
        base = score("base")
    verdicts = scoring.compare_losses(base, tuned, scoring.independent_groups(samples))
    metrics = {**scoring.loss_metrics(base, "base"), **scoring.loss_metrics(tuned, "tuned")}
    # 3. answers of the widest export
    answers: dict[str, dict[str, str]] = {}
    ggufs = sorted(
        (adapter.parent / "gguf").glob("*.gguf"), key=lambda p: ("f16" not in p.name, p.name)
    )
    if config.generate_items and ggufs:
        questions = scoring.generation_set(
            samples,
            tokenizer,
            scoring.base_folder(adapter),
            config.generate_items,
            config.max_new_tokens,
        )
        with LlamaCpp(ggufs[0], reporter=run.reporter) as engine:
            answers["tuned"] = scoring.generate_answers(engine, questions, run.reporter, "tuned")
        for name, scores in scoring.text_scores(answers["tuned"], questions.samples).items():
            metrics[f"tuned_{name}"] = stats.metric_interval(name, list(scores.values())).as_dict()
        if config.rubric and config.judge_model:
            metrics["tuned_mark"] = _judge_marks(config, run, questions.samples, answers["tuned"])
    run.items(scoring.item_rows(samples, base, tuned, answers))
    run.scores(metrics, verdicts=verdicts)
    return Result(
        {"metrics": metrics, "verdicts": verdicts}, "\n".join([metric_table(metrics), *verdicts])
    )


def _refuse_trained_rows(samples: Sequence[Sample], out: Path) -> None:
    """Raises DataError where the run was trained on one of the samples, or on its question."""
    path = out / training_data.TRAINED_ROWS
    if not path.exists():  # a run of onecard 0.1
        return
    trained = set(path.read_text(encoding="utf-8").split())
    shared = [
        (path.name, sample.source)
        for sample in samples
        if {sample.key, sample.question_key} & trained
    ]
    leakage.refuse_leakage(shared, "rows", fix="score rows that it was not trained on")


def _judge_marks(
    config: EvaluateConfig, run: Run, samples: Sequence[Sample], answers: scoring.Answers
) -> dict[str, Any]:
    """Marks 1 to 5 that a judge model gives by the rubric."""
    with language_model(LlmConfig(model=config.judge_model), run.plan, run.reporter) as client:

        def ask(messages: list[dict[str, str]], schema: dict[str, Any]) -> str:
            return client.chat(messages, schema=schema, max_tokens=200).text

        marks = [
            judge.mark(
                ask, config.rubric, judge.JudgedItem(s.source, s.question, answers[s.source])
            )
            for s in samples
        ]
    return stats.metric_interval("mark", [float(mark) for mark in marks]).as_dict()
