"""Base against tuned on the same held-out items: loss, words, what was forgotten, what an export
changed. Knows no trainer."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from onecard.errors import DataError, EngineError, NotFound, SettingsError
from onecard.evaluation import judge, stats
from onecard.evaluation.metrics import text as metrics
from onecard.hub import checkpoints
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.inference.config import EngineSettings
from onecard.inference.llamacpp import LlamaCpp
from onecard.reporting import Reporter, Result, table
from onecard.runs import store
from onecard.runs.record import Run
from onecard.tasks.finetune import dataset, model, tokenize_rows, validation
from onecard.tasks.finetune.configs import Settings
from onecard.tasks.finetune.dataset import Sample
from onecard.tasks.finetune.tokenize_rows import TokenizedExample

WORDS = ("f1", "rougeL", "exact_match")
"""What an answer in words is scored by, against its reference."""


@dataclass(frozen=True)
class Answers:
    """What a model is asked in words, and how long it may answer."""

    items: Sequence[Sample]
    max_new_tokens: int


def by_loss(
    net: Any,
    held: Sequence[TokenizedExample],
    general: Sequence[TokenizedExample],
    settings: Settings,
    reporter: Reporter,
    who: str,
) -> dict[str, Any]:
    """Loss of each item's answer (nats a token): {"held": {where: loss}, "general": {where: loss}}."""
    with reporter.progress(f"scoring {who}", len(held) + len(general)) as bar:
        found = model.losses(
            net,
            [*held, *general],
            bf16=settings.bf16,
            tokens=settings.max_seq_length * settings.per_device_train_batch_size,
            step=bar.step,
        )
    pairs = list(zip([item.where for item in [*held, *general]], found, strict=True))
    return {
        "held": {where: loss for where, loss in pairs[: len(held)] if math.isfinite(loss)},
        "general": {
            where.rpartition("/")[2]: loss
            for where, loss in pairs[len(held) :]
            if math.isfinite(loss)
        },
    }


def metrics_of(scored: Mapping[str, Mapping[str, float]], who: str) -> dict[str, dict[str, Any]]:
    return {
        f"{who}_{name}": stats.mean_interval(list(scored[part].values())).as_dict()
        for part, name in (("held", "loss"), ("general", "general_loss"))
        if scored.get(part)
    }


def judge_losses(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> list[str]:
    """Whether the tuned model is better on held-out answers, and whether it forgot."""
    held = stats.compare(base["held"], tuned["held"], higher_is_better=False)
    general = stats.compare(base["general"], tuned["general"], higher_is_better=False)
    forgot = (
        "forgetting: the loss on general text rose"
        if general.verdict == "worse"
        else "forgetting: not shown on general text"
    )
    return [
        f"held-out answers, loss: {held.render()}",
        f"{forgot}: {general.delta.value:+.3f} [{general.delta.low:+.3f}, "
        f"{general.delta.high:+.3f}] on {general.delta.n} items",
    ]


def ask_all(engine: LlamaCpp, answers: Answers, reporter: Reporter, who: str) -> dict[str, str]:
    """Each question's greedy answer from a running engine, by the sample's place."""
    client = Client(
        engine.base_url,
        engine.api_key,
        engine.name,
        EngineSettings(max_tokens=answers.max_new_tokens),
        engine,
    )
    out = {}
    with reporter.progress(f"answers of {who}", len(answers.items)) as bar:
        for item in answers.items:
            out[item.where] = client.chat(list(item.messages[:-1])).text
            bar.step()
    return out


def engine_losses(
    engine: LlamaCpp, held: Sequence[TokenizedExample], reporter: Reporter, who: str
) -> dict[str, float]:
    """Loss of each reference answer (nats a token) as the engine itself sees it, token by token:
    the wanted token is forced by a bias, its log-probability is told without it. Raises
    EngineError."""
    out: dict[str, float] = {}
    with (
        reporter.progress(f"loss of {who}", len(held)) as bar,
        httpx.Client(
            base_url=engine.base_url.removesuffix("/v1"),
            headers={"Authorization": f"Bearer {engine.api_key}"},
            timeout=600,
        ) as client,
    ):
        for item in held:
            found = []
            for i in (
                i for i, label in enumerate(item.labels) if i and label != tokenize_rows.IGNORED
            ):
                asked = {
                    "prompt": item.ids[:i],
                    "n_predict": 1,
                    "n_probs": 1,
                    "temperature": 0,
                    "cache_prompt": True,
                    "samplers": ["temperature"],
                    "logit_bias": [[item.ids[i], 1e4]],
                }
                try:
                    told = (
                        client.post("/completion", json=asked)
                        .raise_for_status()
                        .json()["completion_probabilities"][0]
                    )
                except (httpx.HTTPError, ValueError, LookupError) as fault:
                    raise engine.failure() or EngineError(
                        f"{engine.path.name} told no log-probability",
                        why=f"{type(fault).__name__}: {fault}",
                        fix="--generate_items 0 leaves the score of the exports out",
                    ) from fault
                if told["id"] != item.ids[i]:
                    raise EngineError(
                        f"{engine.path.name} could not be asked for a token",
                        why=f"token {item.ids[i]} was forced, {told['id']} came",
                        fix="--generate_items 0 leaves the score of the exports out",
                    )
                found.append(-float(told["logprob"]))
            out[item.where] = sum(found) / len(found)
            bar.step()
    return out


def first_tokens(held: Sequence[TokenizedExample], most: int) -> list[TokenizedExample]:
    """Each with its first `most` answer tokens alone as labels, and nothing behind them."""
    out = []
    for item in held:
        places = [i for i, label in enumerate(item.labels) if i and label != tokenize_rows.IGNORED][
            :most
        ]
        if places:
            out.append(
                TokenizedExample(
                    item.ids[: places[-1] + 1],
                    item.labels[: places[-1] + 1],
                    item.where,
                    len(places),
                )
            )
    return out


def in_words(said: Mapping[str, str], items: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """metric -> item -> score against the reference."""
    return {
        name: {
            item.where: metrics.TEXT_METRICS[name](said[item.where], item.answer)
            for item in items
            if item.where in said
        }
        for name in WORDS
    }


def items(
    held: Sequence[Sample],
    base: Mapping[str, Any],
    tuned: Mapping[str, Any],
    said: Mapping[str, Mapping[str, str]],
) -> list[dict[str, Any]]:
    """One line an item for the record: what each answered, how surprised each was by the reference."""
    out = []
    for item in held:
        scores: dict[str, float] = {}
        if item.where in base["held"] and item.where in tuned["held"]:
            scores |= {"base_loss": base["held"][item.where], "loss": tuned["held"][item.where]}
        words = {who: text[item.where] for who, text in said.items() if item.where in text}
        for who, text in words.items():
            scores |= {
                f"{who}_{name}": metrics.TEXT_METRICS[name](text, item.answer) for name in WORDS
            }
        out.append(
            {
                "id": item.where,
                "question": item.question,
                "reference": item.answer,
                "answers": words,
                "scores": scores,
            }
        )
    return out


def evaluate(settings: Settings, run: Run) -> Result:
    """A training's adapter against its base on pairs that it has not seen.

    Raises NotFound, DataError, SettingsError.
    """
    if not settings.run_id:
        raise SettingsError(
            "there is no run to evaluate",
            why="no RUN was named",
            fix="onecard finetune evaluate RUN --eval_dataset FILE",
        )
    checkpoints.quiet()
    adapter = adapter_of(settings.run_id)
    told = json.loads((adapter / "base.json").read_text(encoding="utf-8"))
    trained = Settings(
        **{**store.find(settings.run_id).settings(), "eval_dataset": settings.eval_dataset}
    )
    tokenizer = model.tokenizer_of(adapter)
    path = (
        Path(settings.eval_dataset) if settings.eval_dataset else adapter.parent / "held_out.jsonl"
    )
    held = dataset.read(path, settings.columns).samples[: settings.eval_items]
    kept, encoded, lost = validation.encode_all(held, lambda s: tokenize_rows.encode(tokenizer, s))
    if not kept:
        raise DataError(
            f"{path} holds nothing to score",
            why=f"{len(lost)} rows have no answer",
            fix='rows like {"prompt": ..., "completion": ...}',
        )
    run.data("questions", rows=len(kept), sha256=validation.fingerprint(kept))
    net = model.with_adapter(model.base(Path(told["folder"]), trained), adapter)
    general = validation.encode_all(
        dataset.read(GENERAL).samples, lambda s: tokenize_rows.encode(tokenizer, s)
    )[1]
    tuned = by_loss(net, encoded, general, trained, run.reporter, "tuned")
    with net.disable_adapter():
        base = by_loss(net, encoded, general, trained, run.reporter, "base")
    verdicts = judge_losses(base, tuned)
    found = {**metrics_of(base, "base"), **metrics_of(tuned, "tuned")}
    said: dict[str, dict[str, str]] = {}
    ggufs = sorted(
        (adapter.parent / "gguf").glob("*.gguf"), key=lambda p: ("f16" not in p.name, p.name)
    )
    if settings.generate_items and ggufs:
        asked = Answers(kept[: settings.generate_items], settings.max_new_tokens)
        with LlamaCpp(ggufs[0], reporter=run.reporter) as engine:
            said["tuned"] = ask_all(engine, asked, run.reporter, "tuned")
        found |= {
            f"tuned_{name}": stats.mean_interval(list(scores.values())).as_dict()
            for name, scores in in_words(said["tuned"], asked.items).items()
        }
        if settings.rubric and settings.judge_model:
            found["tuned_mark"] = _marked(settings, run, asked.items, said["tuned"])
    run.items(items(kept, base, tuned, said))
    run.scores(found, verdicts=verdicts)
    cells = [
        [name, f"{row['value']:.3f}", f"{row['low']:.3f} – {row['high']:.3f}", str(row["n"])]
        for name, row in found.items()
    ]
    return Result(
        {"metrics": found, "verdicts": verdicts},
        "\n".join([table(cells, ["metric", "value", "95 % interval", "items"]), *verdicts]),
    )


def _marked(
    settings: Settings, run: Run, held: Sequence[Sample], said: Mapping[str, str]
) -> dict[str, Any]:
    """A judge's marks 1 to 5 by the rubric."""
    with language_model(
        EngineSettings(model=settings.judge_model), run.plan, run.reporter
    ) as client:

        def ask(messages: list[dict[str, str]], schema: dict[str, Any]) -> str:
            return client.chat(messages, schema=schema, max_tokens=200).text

        marks = [
            judge.mark(
                ask, settings.rubric, judge.JudgedItem(item.where, item.question, said[item.where])
            )
            for item in held
        ]
    return stats.mean_interval([float(mark) for mark in marks]).as_dict()


GENERAL = Path(__file__).with_name("general.jsonl")
"""Questions and text of everyday knowledge, written for onecard: what a tuned model should not
forget."""


def adapter_of(run_id: str) -> Path:
    """The adapter that a training left. Raises NotFound."""
    past = store.find(run_id)
    out = Path(str(past.settings().get("output_dir") or past.folder / "artifacts")).expanduser()
    if not (out / "adapter" / "adapter_model.safetensors").is_file():
        raise NotFound(
            f"run {past.id} left no adapter",
            why=f"{out / 'adapter'} has no adapter_model.safetensors",
            fix="a training that reached its end; onecard runs list",
        )
    return out / "adapter"
