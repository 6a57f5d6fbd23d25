"""From a loaded model and its rows to a trained one with its proof: answers before, training, files
that load again, answers after."""

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from onecard import fsio
from onecard.errors import DataError
from onecard.memory import number_types
from onecard.runs.record import Run
from onecard.tasks.vlm import adapters, scoring
from onecard.tasks.vlm.batches import Batches
from onecard.tasks.vlm.configs import AnswerModelConfig, VisionTrainConfig
from onecard.tasks.vlm.engine_transformers import BATCH, Transformers
from onecard.tasks.vlm.items import VlmItem
from onecard.tasks.vlm.model import WHOLE, Vlm
from onecard.tasks.vlm.scoring import Answers
from onecard.tasks.vlm.trainer import Trainer, fit, steps_of
from onecard.tasks.vlm.training_data import TrainingData
from onecard.training.seeds import seed_weights

BASE_ANSWERS = "base_answers.json"
CHECKED = 8
"""Held-out rows whose loss must be the same after the files are read again."""
MAX_RELOADED_BYTES = 4 * 10**9
"""A whole model up to this size is opened a second time to compare it."""
SAME_LOSS = 1e-6
"""Nats a token: what a training must change at least on some row."""
RELOADED_LOSS = 1e-3
"""Nats a token by which a row may differ after the files are read again: the same weights lie
elsewhere, and kernels add in another order."""


@dataclass
class Tuned:
    files: list[Path]
    metrics: dict[str, dict[str, Any]]
    verdicts: list[str]


def autocast_type(config: VisionTrainConfig, device: str) -> torch.dtype | None:
    """What products are computed in where the trained weights are fp32 and the others are not."""
    here = number_types.here(device)
    if device == "cuda" and number_types.bf16_unit(here):
        return torch.bfloat16
    return torch.bfloat16 if number_types.products_in_bf16(config, here) else None


def tune(
    vlm: Vlm,
    base_name: str,
    data: TrainingData,
    config: VisionTrainConfig,
    out: Path,
    run: Run,
) -> Tuned:
    """`vlm`: frozen but for what is to be trained, which `adapters.attach` marks when it is called
    with a TrainConfig. Raises OneCardErrors."""
    # 1. before
    base = _cached_answers(out / BASE_ANSWERS, vlm, data, config, run)
    checked = data.evaluation[:CHECKED]
    # 2. training
    prepare_weights(vlm, config)
    size = config.per_device_train_batch_size
    batches = Batches(vlm, data.train, size, config.seed, shuffle=config.shuffle)
    n_steps = steps_of(config, batches.per_epoch)
    trainer = Trainer(vlm, config, n_steps, autocast_type(config, vlm.device.type))
    n_trained = sum(weight.numel() for weight in trainer.weights.values())
    run.reporter.line(f"{n_trained:,} weights are trained in {n_steps:,} steps")
    validated = data.evaluation[: max(CHECKED, 64)]
    untrained = _losses(trainer, checked)

    def on_save(step: int) -> dict[str, float]:
        return {"validation_loss": trainer.validation_loss(validated, size)}

    state = fit(trainer, batches, out, run, on_save)
    # 3. files, read again
    path = adapters.save(vlm, base_name, out)
    trained = _losses(trainer, checked)
    _require_same(path, vlm, trainer, checked, trained)
    if max(abs(a - b) for a, b in zip(untrained, trained, strict=True)) < SAME_LOSS:
        raise DataError(
            "the training changed nothing",
            why="the loss of held-out rows is the same before and after",
            fix="a larger --learning_rate, or more steps",
        )
    # 4. after
    tuned = _answers(vlm, data, config, run, "tuned")
    return _judged(data, config, base, tuned, state.history, [path], run)


def prepare_weights(vlm: Vlm, config: VisionTrainConfig) -> None:
    """Adapters, or whole parts, as the config says; random ones are the same for the same seed."""
    seed_weights(config.seed)
    attach = getattr(config, "language_model", None)
    if attach is not None:
        adapters.attach(vlm, config)  # type: ignore[arg-type]
    else:
        adapters.train_projector(vlm)


def _engine(vlm: Vlm, config: VisionTrainConfig) -> Transformers:
    """Answers as many questions at once as a step reads rows, which the plan says fit."""
    answer_config = AnswerModelConfig(
        model=vlm.name, max_tokens=config.max_new_tokens, seed=config.seed
    )
    at_once = BATCH
    if vlm.device.type == "cuda":
        at_once = min(BATCH, config.per_device_train_batch_size)
    return Transformers(vlm, answer_config, at_once)


def _answers(
    vlm: Vlm, data: TrainingData, config: VisionTrainConfig, run: Run, name: str
) -> Answers:
    autocast = autocast_type(config, vlm.device.type)
    with torch.autocast(vlm.device.type, autocast, enabled=autocast is not None):
        return scoring.ask(
            _engine(vlm, config),
            data.evaluation,
            config.max_new_tokens,
            run.reporter,
            name,
            with_controls=config.controls,
            seed=config.seed,
            facts=data.facts,
        )


def _cached_answers(
    path: Path, vlm: Vlm, data: TrainingData, config: VisionTrainConfig, run: Run
) -> Answers:
    """The base's answers, which a resumed training need not ask for again."""
    if path.exists():
        return Answers(dict(json.loads(path.read_text(encoding="utf-8"))))
    answers = _answers(vlm, data, config, run, "base")
    fsio.write_text(path, json.dumps(answers.texts, ensure_ascii=False))
    return answers


def _losses(trainer: Trainer, items: Sequence[VlmItem]) -> list[float]:
    return [trainer.validation_loss([item], 1) for item in items]


def _require_same(
    path: Path, vlm: Vlm, trainer: Trainer, items: Sequence[VlmItem], expected: Sequence[float]
) -> None:
    """Reads what was written and compares the losses of some rows. Raises DataError."""
    if path.name == WHOLE:
        if fsio.disk_bytes(path) > MAX_RELOADED_BYTES:
            return
        opened = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        _require_equal(path, dict(opened.named_parameters()), trainer)
        if vlm.widened or _is_mixed(vlm):
            return  # its other weights have another width now, and the losses differ
        kept, vlm.net = vlm.net, opened.to(next(vlm.net.parameters()).dtype).to(vlm.device)
        try:
            losses = _losses(trainer, items)
        finally:
            vlm.net = kept
            gc.collect()
    else:
        tensors = load_file(path / "adapter_model.safetensors")
        with torch.no_grad():
            for weight in trainer.weights.values():
                weight.zero_()
        set_peft_model_state_dict(vlm.net, tensors)
        losses = _losses(trainer, items)
    difference = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
    if not difference <= RELOADED_LOSS:
        raise DataError(
            f"{path} is not the model that was trained",
            why=f"read again, the loss of held-out rows differs by {difference:.4f} nats a token",
            fix="the last checkpoint is complete; report the model's family to onecard",
        )


def _is_mixed(vlm: Vlm) -> bool:
    return len({p.dtype for p in vlm.net.parameters() if p.is_floating_point()}) > 1


def _require_equal(path: Path, stored: Mapping[str, torch.Tensor], trainer: Trainer) -> None:
    """Raises DataError where a trained weight is not in the files."""
    for name, weight in trainer.weights.items():
        if name not in stored or not torch.equal(stored[name], weight.detach().float().cpu()):
            raise DataError(
                f"{path} is not the model that was trained",
                why=f"{name} is not in its files as it was trained",
                fix="the last checkpoint is complete; report it to onecard",
            )


def _judged(
    data: TrainingData,
    config: VisionTrainConfig,
    base: Answers,
    tuned: Answers,
    history: Sequence[Mapping[str, float]],
    files: list[Path],
    run: Run,
) -> Tuned:
    judged = scoring.judge(
        data.evaluation,
        tuned,
        base,
        metric=config.metric,
        facts=data.facts,
        text_alone=data.text_alone(),
        name="tuned",
    )
    metrics = dict(judged.metrics)
    for when, row in (("first", history[:1]), ("last", history[-1:])):
        for each in row:
            loss = each["validation_loss"]
            metrics[f"{when}_validation_loss"] = {"value": loss, "low": loss, "high": loss, "n": 1}
    sentences = [*judged.sentences, *_changes(base, tuned), *_overfit(history)]
    metric = scoring.metric_of(data.evaluation) if config.metric == "auto" else config.metric
    run.items(scoring.item_rows(data.evaluation, metric, {"base": base, "tuned": tuned}))
    run.scores(metrics, verdicts=sentences, controls=judged.verdict.as_dict())
    return Tuned(files, metrics, sentences)


def _changes(base: Answers, tuned: Answers) -> list[str]:
    own, old = tuned.texts[scoring.SEEING], base.texts[scoring.SEEING]
    n = sum(own[name] != old.get(name) for name in own)
    if n == 0:
        return ["no answer is another one than before: it answers like the base"]
    return [f"{n:,} of {len(own):,} answers are other ones than before"]


def _overfit(history: Sequence[Mapping[str, float]]) -> list[str]:
    losses = [(row["validation_loss"], int(row["step"])) for row in history]
    if len(losses) < 2:
        return []
    best, step = min(losses)
    if losses[-1][0] > 1.02 * best:
        return [
            f"the validation loss was lowest after step {step} ({best:.3f}) and is "
            f"{losses[-1][0]:.3f} now: fewer epochs would do"
        ]
    return []
