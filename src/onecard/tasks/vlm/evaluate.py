"""onecard vlm evaluate: a model's answers with their controls, a tuned model against its base, the
same model at several picture sizes, or objects that are not in the picture."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onecard.datasets import leakage
from onecard.datasets.images import reader
from onecard.errors import NotFound, SettingsError
from onecard.evaluation import stats
from onecard.evaluation.metric_table import metric_table
from onecard.evaluation.metrics.vqa import YesNoScores
from onecard.reporting import Result, table
from onecard.runs import store
from onecard.runs.record import Run, peak_bytes
from onecard.tasks.vlm import (
    engines,
    held_out_rows,
    memory,
    picture_facts,
    picture_rows,
    scoring,
)
from onecard.tasks.vlm.configs import EvaluateConfig, TrainConfig
from onecard.tasks.vlm.items import VlmItem
from onecard.tasks.vlm.picture_facts import PictureFacts
from onecard.tasks.vlm.presence_questions import presence_questions
from onecard.tasks.vlm.scoring import Answers
from onecard.units import size


def evaluate(config: EvaluateConfig, run: Run) -> Result:
    """Raises NotFound, SettingsError, DataError, EngineError."""
    if config.presence:
        return _presence(config, run)
    items, facts = _rows(config, run)
    if config.run_id and config.model == EvaluateConfig.model_fields["model"].default:
        config = config.model_copy(update={"model": f"run:{config.run_id}"})
    if config.sizes:
        return _sizes(config, items, facts, run)
    return _score(config, items, facts, run)


def _rows(config: EvaluateConfig, run: Run) -> tuple[list[VlmItem], PictureFacts]:
    """Raises SettingsError without data, DataError for rows that the run was trained on."""
    out = _training_folder(config.run_id) if config.run_id else None
    if config.data:
        rows = picture_rows.read(
            config.data,
            config.images,
            columns=config.columns,
            question=config.question,
            reporter=run.reporter,
        )
        for note in rows.notes():
            run.reporter.line(note)
        items = [item for item in rows.items if item.has_answer]
    elif out:
        items = held_out_rows.read_held_out(out / held_out_rows.HELD_OUT)
    else:
        raise SettingsError(
            "there is nothing to score",
            why="neither rows nor a training were named",
            fix="onecard vlm evaluate ROWS --model NAME, or --run_id RUN",
        )
    items = scoring.sample(items, config.eval_items, config.seed)
    facts = picture_facts.look(items, run.reporter)
    usable = [item for item in items if not facts.fault_of(item)]
    for item in items:
        if fault := facts.fault_of(item):
            run.reporter.warn(f"{item.place} is left out: {fault}")
    if out and config.data:
        trained = held_out_rows.trained_pictures(out)
        shared = [
            (name, path.name)
            for path, digest in facts.digests.items()
            if (name := trained.get(digest.hex()))
        ]
        leakage.refuse_leakage(shared, "pictures", fix="score pictures that it was not trained on")
    run.data("questions", rows=len(usable), sha256=held_out_rows.fingerprint(usable, facts))
    return usable, facts


def _training_folder(run_id: str) -> Path:
    """Raises NotFound for a run without held-out rows."""
    record = store.find(run_id)
    for out in store.output_folders(record):
        if (out / held_out_rows.HELD_OUT).is_file():
            return out
    raise NotFound(
        f"run {run_id} held no rows with pictures out",
        why=f"{held_out_rows.HELD_OUT} is not in its folder",
        fix="name a run of vlm train: onecard runs list",
    )


def _answers(
    config: EvaluateConfig,
    items: Sequence[VlmItem],
    facts: PictureFacts | None,
    run: Run,
    name: str,
) -> Answers:
    with engines.open_engine(config, run.plan, run.reporter) as engine:
        return scoring.ask(
            engine,
            items,
            config.max_new_tokens,
            run.reporter,
            name,
            with_controls=config.controls,
            seed=config.seed,
            facts=facts,
        )


def _score(
    config: EvaluateConfig, items: Sequence[VlmItem], facts: PictureFacts, run: Run
) -> Result:
    name = "tuned" if config.run_id else "model"
    answers = _answers(config, items, facts, run, name)
    base = None
    if config.run_id:
        trained = store.find(config.run_id).config(TrainConfig)
        before = config.model_copy(update={"model": trained.model})
        base = _answers(before, items, facts, run, "base")
    judged = scoring.judge(items, answers, base, metric=config.metric, facts=facts, name=name)
    metrics = {**judged.metrics, f"{name}_answer_s": _seconds(answers)}
    metric = scoring.metric_of(items) if config.metric == "auto" else config.metric
    parts = {name: answers, **({"base": base} if base else {})}
    run.items(scoring.item_rows(items, metric, parts))
    run.scores(metrics, verdicts=judged.sentences, controls=judged.verdict.as_dict())
    return Result(
        {"metrics": metrics, "verdicts": judged.sentences, **judged.verdict.as_dict()},
        "\n".join([metric_table(metrics), *judged.sentences]),
    )


def _seconds(answers: Answers) -> dict[str, Any]:
    value = answers.seconds / max(1, answers.n)
    return {"value": value, "low": None, "high": None, "n": answers.n}


# Sizes


def _sizes(
    config: EvaluateConfig, items: Sequence[VlmItem], facts: PictureFacts, run: Run
) -> Result:
    """A table of picture size, tokens, planned memory, score and seconds."""
    seeing = [item for item in items if item.images]
    metric = scoring.metric_of(seeing) if config.metric == "auto" else config.metric
    units = picture_facts.unit_names(seeing, facts)
    rows: list[dict[str, Any]] = []
    scores: dict[int, dict[str, float]] = {}
    metrics: dict[str, dict[str, Any]] = {}
    for side in sides_of(config):
        sized = config.model_copy(
            update={"max_pixels": side * side, "imgsz": side, "controls": False}
        )
        plan = memory.plan(sized, run.plan.device)
        began = time.monotonic()
        with engines.open_engine(sized, plan, run.reporter) as engine:
            answers = scoring.ask(
                engine,
                seeing,
                config.max_new_tokens,
                run.reporter,
                f"{side} px",
                with_controls=False,
            )
        seconds = (time.monotonic() - began) / max(1, len(seeing))
        scores[side] = scoring.score(metric, answers.texts[scoring.SEEING], seeing)
        groups = [units.get(each, each) for each in scores[side]]
        values = [*scores[side].values()]
        interval = stats.mean_interval(values, bounds=(0.0, 1.0), groups=groups)
        n_pictures = sum(len(item.images) for item in seeing)
        tokens = answers.picture_tokens / max(1, n_pictures)
        metrics[f"{side}_px_{metric}"] = interval.as_dict()
        rows.append(
            {
                "px": side,
                "tokens": round(tokens, 1),
                "planned_bytes": plan.total_bytes,
                "peak_bytes": peak_bytes(),
                metric: interval.as_dict(),
                "answer_s": answers.seconds / max(1, answers.n),
                "with_loading_s": seconds,
            }
        )
    verdicts = _size_verdicts(metric, scores, units)
    run.scores(metrics, verdicts=verdicts, sizes=rows)
    return Result(
        {"metrics": metrics, "sizes": rows, "verdicts": verdicts},
        "\n".join([_size_table(rows, metric), *verdicts]),
    )


def sides_of(config: EvaluateConfig) -> list[int]:
    """Ascending. Raises SettingsError for what is no length."""
    sides = set()
    for text in config.sizes:
        try:
            side = int(str(text).removesuffix("px"))
        except ValueError:
            side = 0
        if not 8 <= side <= 16_384:
            raise SettingsError(
                f"size '{text}' is no side of a picture",
                why="a size is a whole number of pixels from 8 to 16384",
                fix="--sizes 224 448 896",
            )
        sides.add(side)
    return sorted(sides)


def _size_table(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    cells = []
    for row in rows:
        score = row[metric]
        cells.append(
            [
                f"{row['px']} px",
                f"{row['tokens']:g}",
                size(row["planned_bytes"]),
                f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]",
                f"{row['answer_s']:.2f}",
            ]
        )
    return table(cells, ["size", "tokens a picture", "planned", metric, "s an answer"])


def _size_verdicts(
    metric: str, scores: Mapping[int, Mapping[str, float]], units: Mapping[str, str]
) -> list[str]:
    """Each size against the largest, and the smallest that is not shown to be worse."""
    sides = sorted(scores)
    if len(sides) < 2:
        return []
    largest = sides[-1]
    compared = stats.holm(
        {
            str(side): stats.compare(scores[largest], scores[side], bounds=(0.0, 1.0), groups=units)
            for side in sides[:-1]
        }
    )
    lines = [
        f"{side} px against {largest} px, {metric}: {compared[str(side)].render()}"
        for side in sides[:-1]
    ]
    enough = next((s for s in sides[:-1] if compared[str(s)].verdict != stats.WORSE), largest)
    lines.append(f"the smallest size that is not shown to be worse than the largest: {enough} px")
    return lines


# Presence


def _presence(config: EvaluateConfig, run: Run) -> Result:
    """POPE's questions over a set of pictures with labelled boxes."""
    if not config.data:
        raise SettingsError(
            "there are no pictures to ask about",
            why="--presence makes its questions from labelled boxes",
            fix="onecard vlm evaluate DATA --presence, with a COCO, YOLO or Pascal VOC set",
        )
    dataset = reader.read(config.data, "detect", run.reporter)
    sets = presence_questions(
        dataset, seed=config.seed, max_pictures=max(1, config.eval_items // 2)
    )
    questions = {
        strategy: scoring.sample(items, config.eval_items, config.seed)
        for strategy, items in sets.items()
    }
    # a question that stands in several sets is asked once
    unique = {item.id: item for items in questions.values() for item in items}
    run.data(
        "questions",
        rows=len(unique),
        sha256=held_out_rows.fingerprint([*unique.values()], PictureFacts()),
    )
    config = config.model_copy(update={"controls": False})
    texts = _answers(config, [*unique.values()], None, run, "model").texts[scoring.SEEING]
    metrics: dict[str, dict[str, Any]] = {}
    verdicts = []
    for strategy, items in questions.items():
        own = {item.id: texts[item.id] for item in items}
        scored = YesNoScores.of(own, {item.id: item.answers for item in items})
        units = picture_facts.unit_names(items)
        rows = scored.metrics(units)
        metrics |= {f"{strategy}_{name}": each.as_dict() for name, each in rows.items()}
        verdicts.append(
            f"{strategy}: accuracy {rows['yes_no_accuracy'].render()}, F1 "
            f"{rows['yes_f1'].render()}, says yes to {rows['yes_ratio'].render()} where "
            f"{rows['yes_ratio_of_truth'].value:.2f} are; {scored.n_unclear} say neither"
        )
    run.items(scoring.item_rows([*unique.values()], "exact_match", {"model": _as_answers(texts)}))
    run.scores(metrics, verdicts=verdicts)
    return Result({"metrics": metrics, "verdicts": verdicts}, "\n".join(verdicts))


def _as_answers(texts: dict[str, str]) -> Answers:
    return Answers({scoring.SEEING: texts})
