"""onecard vlm export: a training's model as files that others open. Merged weights, and GGUF with
mmproj, each asked the same questions with the same controls, and compared in the picture's own
numbers."""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from onecard.errors import DataError, SettingsError, not_found
from onecard.evaluation import stats
from onecard.export import quantize
from onecard.hub import checkpoints
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.vlm import (
    engine_http,
    export_files,
    held_out_rows,
    model,
    picture_parity,
    scoring,
    tuning,
)
from onecard.tasks.vlm.configs import AnswerModelConfig, ExportConfig
from onecard.tasks.vlm.engine_transformers import Transformers
from onecard.tasks.vlm.items import VlmItem
from onecard.tasks.vlm.model import Vlm
from onecard.tasks.vlm.scoring import SEEING, Answers
from onecard.training import output_dir
from onecard.training.config import PrecisionConfig

PARITY_ITEMS = 8
"""Rows whose first token's probabilities are compared."""
MAX_FEATURE_ERROR = 0.02
"""Of the mmproj file's picture embedding, relative to its length: f16 loses about 0.001."""
MARGIN = 0.02
"""Share of right answers that an f16 file may lose before it is refused, where a paired test shows
the loss."""
CONTEXT = 4096


@dataclass
class Exported:
    files: list[Path] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, Answers] = field(default_factory=dict)


def export(config: ExportConfig, run: Run) -> Result:
    """Raises NotFound, SettingsError, DataError where a file is not the model that was trained."""
    if not config.run_id:
        raise SettingsError(
            "there is no run to export",
            why="no RUN was named",
            fix="onecard vlm export RUN --quants f16 q4_k_m",
        )
    quants = _quants(config)
    folder = Path(config.run_id).expanduser()
    place = model.of_training(folder, run.reporter) if folder.is_dir() else None
    place = place or model.find(f"run:{config.run_id}", run.reporter)
    trained = (place.adapter or place.folder).parent
    out = output_dir.resolve(config.output_dir, run) if config.output_dir else trained
    out.mkdir(parents=True, exist_ok=True)
    items = _held_out(trained, config)
    exported = Exported()
    # 1. merged weights: what every other file is compared with
    merged = export_files.merge(place, out, run.reporter)
    exported.files.append(merged)
    vlm = model.load(
        str(merged),
        PrecisionConfig(),
        dtype=export_files.width_of(merged),
        reporter=run.reporter,
    )
    exported.answers["merged"] = _ask(Transformers(vlm, _settings(config)), items, config, run)
    # 2. llama.cpp's pair
    pairs: dict[str, Path] = {}
    if quants:
        pairs = export_files.gguf_pair(merged, out, quants, run.reporter)
        vision = out / "gguf" / "mmproj-f16.gguf"
        exported.files += [*pairs.values(), vision]
        _compare_features(vlm, vision, merged, items, exported)
    expected = picture_parity.of_transformers(vlm, items[:PARITY_ITEMS])
    del vlm
    gc.collect()
    for quant, path in pairs.items():
        _compare_file(quant, path, items, expected, config, exported, run)
    # 3. verdicts
    _judge(items, config, exported)
    _require_change(trained / tuning.BASE_ANSWERS, exported)
    metric = scoring.metric_of(items) if config.metric == "auto" else config.metric
    run.items(scoring.item_rows(items, metric, exported.answers))
    run.scores(exported.metrics, verdicts=exported.verdicts)
    lines = [*exported.verdicts, *(f"wrote {path}" for path in exported.files)]
    if pairs:
        first = next(iter(pairs.values()))
        lines.append(f'ask it: onecard vlm ask PICTURE "question" --model {first}')
    data = {
        "files": [str(path) for path in exported.files],
        "verdicts": exported.verdicts,
        "metrics": exported.metrics,
    }
    return Result(data, "\n".join(lines))


def _quants(config: ExportConfig) -> list[str]:
    """Raises NotFound for an unknown one."""
    names = [quant.lower() for quant in config.quants if quant.lower() != "none"]
    if unknown := [name for name in names if name not in quantize.MIXTURES]:
        raise not_found("quantization", unknown[0], [*quantize.MIXTURES, "none"])
    return list(dict.fromkeys(names))


def _held_out(trained: Path, config: ExportConfig) -> list[VlmItem]:
    path = trained / held_out_rows.HELD_OUT
    if not path.is_file():
        raise DataError(
            f"{trained} holds no held-out rows",
            why=f"{held_out_rows.HELD_OUT} is missing: an export is compared on them",
            fix="name a finished training: onecard runs list",
        )
    return scoring.sample(held_out_rows.read_held_out(path), config.eval_items, 0)


def _settings(config: ExportConfig) -> AnswerModelConfig:
    return AnswerModelConfig(max_tokens=config.max_new_tokens, n_ctx=CONTEXT)


def _ask(engine: Any, items: Sequence[VlmItem], config: ExportConfig, run: Run) -> Answers:
    return scoring.ask(
        engine,
        items,
        config.max_new_tokens,
        run.reporter,
        engine.name,
        with_controls=config.controls,
    )


def _compare_features(
    vlm: Vlm, vision: Path, merged: Path, items: Sequence[VlmItem], exported: Exported
) -> None:
    """The picture's embedding by the tensors of the mmproj file. Raises DataError."""
    if checkpoints.about(merged).get("model_type") not in export_files.OWN_WRITER:
        return
    pictured = [item for item in items if item.images][:PARITY_ITEMS]
    if not pictured:
        return
    error = max(picture_parity.feature_errors(vlm, vision, pictured))
    exported.metrics["mmproj_embedding_difference"] = _number(error, len(pictured))
    exported.verdicts.append(
        f"picture's embedding by the mmproj file: {100 * error:.3f} % from transformers' at most, "
        f"on {len(pictured)} pictures"
    )
    if error > MAX_FEATURE_ERROR:
        raise DataError(
            "the mmproj file is not the model's vision half",
            why=f"its embedding of a picture differs by {100 * error:.1f} %",
            fix="the merged folder is complete; report the model's family to onecard",
        )


def _require_change(path: Path, exported: Exported) -> None:
    """Each file's answers against those that the base gave before the training. Raises DataError
    for a file that answers like the base where the merged model does not."""
    try:
        base = json.loads(path.read_text(encoding="utf-8"))[SEEING]
    except (OSError, ValueError, KeyError):
        return  # a training of an older version keeps none
    changes = {
        name: sum(text != base.get(item) for item, text in answers.texts[SEEING].items())
        for name, answers in exported.answers.items()
    }
    for name, n in changes.items():
        total = len(exported.answers[name].texts[SEEING])
        exported.verdicts.append(f"{name}: {n} of {total} answers are other ones than the base's")
        if not n and changes["merged"]:
            raise DataError(
                f"{name} answers like the base",
                why="what was trained is not in the file",
                fix="the merged folder is complete; report the model's family to onecard",
            )


def _number(value: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None, "n": n}


def _compare_file(
    quant: str,
    path: Path,
    items: Sequence[VlmItem],
    expected: Sequence[torch.Tensor],
    config: ExportConfig,
    exported: Exported,
    run: Run,
) -> None:
    settings = _settings(config).model_copy(update={"model": str(path)})
    with engine_http.opened(settings, run.plan, run.reporter) as engine:
        exported.answers[quant] = _ask(engine, items, config, run)
        distances = picture_parity.distances(engine, items[: len(expected)], expected)
    if distances:
        value = max(distances)
        exported.metrics[f"{quant}_log_probability_difference"] = _number(value, len(distances))
        exported.verdicts.append(
            f"{quant} in llama.cpp, first token of {len(distances)} answers: log-probabilities "
            f"differ from transformers' by {value:.3f} at most"
        )


def _judge(items: Sequence[VlmItem], config: ExportConfig, exported: Exported) -> None:
    """Each file's own controls, and its answers against the merged model's. Raises DataError."""
    metric = scoring.metric_of(items) if config.metric == "auto" else config.metric
    merged = exported.answers["merged"]
    old = scoring.score(metric, merged.texts[SEEING], items)
    for name, answers in exported.answers.items():
        judged = scoring.judge(items, answers, metric=metric, name=name)
        exported.metrics |= judged.metrics
        exported.verdicts += [f"{name}: {sentence}" for sentence in judged.sentences]
        if name == "merged":
            continue
        texts = answers.texts[SEEING]
        same = sum(texts[item] == merged.texts[SEEING][item] for item in texts)
        new = scoring.score(metric, texts, items)
        compared = stats.compare(old, new, bounds=(0.0, 1.0), margin=MARGIN)
        exported.verdicts.append(
            f"{name} against merged: {same} of {len(texts)} answers are the same to the letter; "
            f"{metric} {compared.render()}"
        )
        if name == "f16" and compared.verdict == stats.WORSE:
            raise DataError(
                f"the export to {name} changed the model",
                why=compared.render(),
                fix="the merged folder is complete; report the model's family to onecard",
            )
