"""Scores of a model on held-out samples: loss of the reference answers, generated answers against
them, and what it forgot. Knows no trainer."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from onecard.errors import DataError, EngineError, NotFound
from onecard.evaluation import stats
from onecard.evaluation.metrics import text as metrics
from onecard.inference.client import Client
from onecard.inference.config import LlmConfig
from onecard.inference.llamacpp import LlamaCpp
from onecard.reporting import Reporter
from onecard.runs import store
from onecard.tasks.finetune import dataset, model, tokenization, training_data
from onecard.tasks.finetune.configs import TrainConfig
from onecard.tasks.finetune.sample import Sample
from onecard.tasks.finetune.tokenization import IGNORED, TokenizedExample
from onecard.tasks.finetune.training_data import ModelLimits

GENERAL = Path(__file__).with_name("general.jsonl")
"""Questions and text of everyday knowledge, written for onecard: what a tuned model should not
forget."""
ENGINE_CONTEXT = 4096
"""Longest question with its answer that an export is asked (tokens)."""
TEXT_SCORES = ("f1", "rougeL", "exact_match")
"""Metrics of a generated answer against its reference."""

Losses = dict[str, dict[str, float]]
"""{"held": {source: loss}, "general": {name: loss}, "rejected": {source: loss}}, in nats a token of
the answers; "rejected" only for preference pairs."""
Answers = Mapping[str, str]
"""The source of a sample -> the generated answer."""


@dataclass(frozen=True)
class GenerationSet:
    """Samples whose questions a model answers, in at most `max_new_tokens` tokens each."""

    samples: Sequence[Sample]
    max_new_tokens: int


def generation_set(
    samples: Sequence[Sample], tokenizer: Any, folder: Path, n: int, max_new_tokens: int
) -> GenerationSet:
    """The first `n` samples whose question and answer fit the context; those with tools are left
    out, which a question alone does not offer."""
    context = ModelLimits.of_folder(folder).context or ENGINE_CONTEXT
    room = min(context, ENGINE_CONTEXT) - max_new_tokens
    fitting: list[Sample] = []
    for sample in samples:
        if len(fitting) == n:
            break
        prompt = tokenization.render(tokenizer, sample.messages[:-1], add_generation_prompt=True)
        if not sample.tools and len(tokenizer(prompt)["input_ids"]) <= room:
            fitting.append(sample)
    return GenerationSet(fitting, max_new_tokens)


# Loss of reference answers


def general_examples(tokenizer: Any) -> list[TokenizedExample]:
    samples = dataset.read(GENERAL).samples
    return training_data.tokenize(samples, tokenizer, ModelLimits())[1]


def answer_losses(
    net: Any,
    held_out: Sequence[TokenizedExample],
    general: Sequence[TokenizedExample],
    config: TrainConfig,
    reporter: Reporter,
    name: str,
    rejected: Sequence[TokenizedExample] = (),
) -> Losses:
    """Mean loss of each reference answer under the model `name`, and of the rejected ones; samples
    without one are left out.

    Raises DataError where none is finite: the model is destroyed.
    """
    examples = [*held_out, *general, *rejected]
    with reporter.progress(f"scoring {name}", len(examples)) as bar:
        losses = model.losses(
            net,
            examples,
            bf16=config.bf16,
            tokens=config.max_seq_length * config.per_device_train_batch_size,
            step=bar.step,
        )
    pairs = list(zip([e.source for e in examples], losses, strict=True))
    n, n_general = len(held_out), len(held_out) + len(general)
    parts = {
        "held": _finite(pairs[:n]),
        "general": {
            source.rpartition("/")[2]: loss for source, loss in _finite(pairs[n:n_general]).items()
        },
    }
    if rejected:
        parts["rejected"] = _finite(pairs[n_general:])
    if held_out and not parts["held"]:
        raise DataError(
            f"the {name} model is destroyed",
            why="its loss on every held-out answer is infinite or not a number",
            fix="a smaller --learning_rate or --max_grad_norm; then train again",
        )
    return parts


def _finite(pairs: Sequence[tuple[str, float]]) -> dict[str, float]:
    return {source: loss for source, loss in pairs if math.isfinite(loss)}


def rejected_examples(tokenizer: Any, samples: Sequence[Sample]) -> list[TokenizedExample]:
    """The same questions with the rejected answers; empty for samples without any."""
    worse = [
        replace(s, messages=(*s.messages[:-1], {"role": "assistant", "content": s.rejected}))
        for s in samples
        if s.rejected
    ]
    return training_data.tokenize(worse, tokenizer, ModelLimits())[1]


def loss_metrics(losses: Losses, name: str) -> dict[str, dict[str, Any]]:
    """`<name>_loss`, `<name>_general_loss` and, for preference pairs, `<name>_preference_accuracy`
    and `<name>_preference_margin`, with their intervals."""
    scores = {"loss": losses["held"], "general_loss": losses["general"], **_preferences(losses)}
    return {
        f"{name}_{metric}": stats.metric_interval(metric, list(values.values())).as_dict()
        for metric, values in scores.items()
        if values
    }


def _preferences(losses: Losses) -> dict[str, dict[str, float]]:
    """How often the chosen answer is likelier than the rejected one (a token, on average), and by
    how many nats."""
    chosen, rejected = losses["held"], losses.get("rejected", {})
    margins = {source: rejected[source] - chosen[source] for source in chosen if source in rejected}
    if not margins:
        return {}
    return {
        "preference_accuracy": {source: float(margin > 0) for source, margin in margins.items()},
        "preference_margin": margins,
    }


def independent_groups(samples: Sequence[Sample]) -> dict[str, str]:
    """Source -> what a row shares with others: its document, else its own words. Copies of one row
    prove as much as one."""
    return {sample.source: sample.group or sample.key for sample in samples}


def compare_losses(base: Losses, tuned: Losses, groups: Mapping[str, str]) -> list[str]:
    """Verdicts: is the tuned model better on held-out answers, and did it forget? `groups` as
    `independent_groups` gives them."""
    held_out = stats.compare_metric("loss", base["held"], tuned["held"], groups=groups)
    general = stats.compare_metric("loss", base["general"], tuned["general"])
    forgetting = {
        stats.WORSE: "the loss on general text rose",
        stats.BETTER: "none, the loss on general text fell",
        stats.EQUAL: "none, the loss on general text is the same",
        stats.INCONCLUSIVE: "inconclusive on general text",
    }[general.verdict]
    before, after = _preferences(base), _preferences(tuned)
    preferences = [
        f"held-out pairs, {metric.replace('_', ' ')}: "
        + stats.compare_metric(metric, before[metric], after[metric], groups=groups).render()
        for metric in after
        if metric in before
    ]
    return [
        *preferences,
        f"held-out answers, loss: {held_out.render()}",
        f"forgetting: {forgetting}: {general.delta.value:+.3f} [{general.delta.low:+.3f}, "
        f"{general.delta.high:+.3f}] on {general.delta.n} items",
    ]


def first_answer_tokens(examples: Sequence[TokenizedExample], n: int) -> list[TokenizedExample]:
    """Each example up to the `n`-th token of its answer; only those tokens are labels."""
    shortened = []
    for example in examples:
        positions = [i for i, label in enumerate(example.labels) if i and label != IGNORED][:n]
        if positions:
            stop = positions[-1] + 1
            shortened.append(
                TokenizedExample(
                    example.ids[:stop], example.labels[:stop], example.source, len(positions)
                )
            )
    return shortened


# Answers and losses of a running engine


def generate_answers(
    engine: LlamaCpp, questions: GenerationSet, reporter: Reporter, name: str
) -> dict[str, str]:
    """Greedy answers by the sample's source."""
    client = Client(
        engine.base_url,
        engine.api_key,
        engine.name,
        LlmConfig(max_tokens=questions.max_new_tokens),
        engine,
    )
    answers = {}
    with reporter.progress(f"answers of {name}", len(questions.samples)) as bar:
        for sample in questions.samples:
            answers[sample.source] = client.chat(list(sample.messages[:-1])).text
            bar.step()
    return answers


def engine_losses(
    engine: LlamaCpp, examples: Sequence[TokenizedExample], reporter: Reporter, name: str
) -> dict[str, float]:
    """Loss of each reference answer (nats a token) as the engine computes it, one request a token.

    Raises EngineError.
    """
    losses: dict[str, float] = {}
    with (
        reporter.progress(f"loss of {name}", len(examples)) as bar,
        httpx.Client(
            base_url=engine.base_url.removesuffix("/v1"),
            headers={"Authorization": f"Bearer {engine.api_key}"},
            timeout=600,
        ) as client,
    ):
        for example in examples:
            positions = [i for i, label in enumerate(example.labels) if i and label != IGNORED]
            nats = [_token_loss(engine, client, example.ids, i) for i in positions]
            losses[example.source] = sum(nats) / len(nats)
            bar.step()
    return losses


def _token_loss(engine: LlamaCpp, client: httpx.Client, ids: list[int], i: int) -> float:
    """-log p of token `i`: a logit bias makes the engine choose it, and the log-probability it
    reports is the one without the bias."""
    request = {
        "prompt": ids[:i],
        "n_predict": 1,
        "n_probs": 1,
        "temperature": 0,
        "cache_prompt": True,
        "samplers": ["temperature"],
        "logit_bias": [[ids[i], 1e4]],
    }
    fix = "--generate_items 0 leaves the score of the exports out"
    try:
        reply = client.post("/completion", json=request).raise_for_status().json()
        token = reply["completion_probabilities"][0]
    except (httpx.HTTPError, ValueError, LookupError) as fault:
        raise engine.failure() or EngineError(
            f"{engine.path.name} returned no log-probability",
            why=f"{type(fault).__name__}: {fault}",
            fix=fix,
        ) from fault
    if token["id"] != ids[i]:
        raise EngineError(
            f"{engine.path.name} ignored the logit bias",
            why=f"token {ids[i]} was forced, {token['id']} came",
            fix=fix,
        )
    return -float(token["logprob"])


# Generated answers against references


def text_scores(answers: Answers, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """metric -> source -> score of the answer against the reference."""
    return {
        name: {
            sample.source: metrics.TEXT_METRICS[name](answers[sample.source], sample.answer)
            for sample in samples
            if sample.source in answers
        }
        for name in TEXT_SCORES
    }


def item_rows(
    samples: Sequence[Sample], base: Losses, tuned: Losses, answers: Mapping[str, Answers]
) -> list[dict[str, Any]]:
    """One row an item for the run: the answer of each model (name -> answers), and its losses."""
    rows = []
    groups = independent_groups(samples)
    for sample in samples:
        scores: dict[str, float] = {}
        if sample.source in base["held"] and sample.source in tuned["held"]:
            scores["base_loss"] = base["held"][sample.source]
            scores["loss"] = tuned["held"][sample.source]
        for metric, values in _preferences(tuned).items():
            if sample.source in values:
                scores[metric] = values[sample.source]
        texts = {name: by[sample.source] for name, by in answers.items() if sample.source in by}
        for name, text in texts.items():
            scores |= {
                f"{name}_{metric}": metrics.TEXT_METRICS[metric](text, sample.answer)
                for metric in TEXT_SCORES
            }
        rows.append(
            {
                "id": sample.source,
                "group": groups[sample.source],
                "question": sample.question,
                "reference": sample.answer,
                "answers": texts,
                "scores": scores,
            }
        )
    return rows


# What a training leaves


def find_adapter(run_id: str) -> Path:
    """The adapter's folder of a finished training. Raises NotFound."""
    record = store.find(run_id)
    out = Path(str(record.settings().get("output_dir") or record.folder / "artifacts"))
    adapter = out.expanduser() / "adapter"
    if not (adapter / "adapter_model.safetensors").is_file():
        raise NotFound(
            f"run {record.id} left no adapter",
            why=f"{adapter} has no adapter_model.safetensors",
            fix="name a training that reached its end: onecard runs list",
        )
    return adapter


def base_folder(adapter: Path) -> Path:
    """The folder of the base model that the adapter was trained on."""
    record = json.loads((adapter / "base.json").read_text(encoding="utf-8"))
    return Path(record["folder"])
