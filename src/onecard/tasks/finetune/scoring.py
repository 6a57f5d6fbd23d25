"""Scores of a model on held-out samples: loss of the reference answers, generated answers against
them, and what it forgot. Knows no trainer."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from onecard.errors import EngineError, NotFound
from onecard.evaluation import stats
from onecard.evaluation.metrics import text as metrics
from onecard.inference.client import Client
from onecard.inference.config import LlmConfig
from onecard.inference.llamacpp import LlamaCpp
from onecard.reporting import Reporter
from onecard.runs import store
from onecard.tasks.finetune import dataset, model, tokenization, validation
from onecard.tasks.finetune.configs import TrainConfig
from onecard.tasks.finetune.dataset import Sample
from onecard.tasks.finetune.tokenization import IGNORED, TokenizedExample

GENERAL = Path(__file__).with_name("general.jsonl")
"""Questions and text of everyday knowledge, written for onecard: what a tuned model should not
forget."""
TEXT_SCORES = ("f1", "rougeL", "exact_match")
"""Metrics of a generated answer against its reference."""

Losses = dict[str, dict[str, float]]
"""{"held": {source: loss}, "general": {name: loss}}, in nats a token of the answers."""
Answers = Mapping[str, str]
"""The source of a sample -> the generated answer."""


@dataclass(frozen=True)
class GenerationSet:
    """Samples whose questions a model answers, in at most `max_new_tokens` tokens each."""

    samples: Sequence[Sample]
    max_new_tokens: int


# Loss of reference answers


def general_examples(tokenizer: Any) -> list[TokenizedExample]:
    samples = dataset.read(GENERAL).samples
    return validation.tokenize(samples, lambda s: tokenization.encode(tokenizer, s))[1]


def answer_losses(
    net: Any,
    held_out: Sequence[TokenizedExample],
    general: Sequence[TokenizedExample],
    config: TrainConfig,
    reporter: Reporter,
    name: str,
) -> Losses:
    """Mean loss of each reference answer under the model `name`; samples without one are left
    out."""
    examples = [*held_out, *general]
    with reporter.progress(f"scoring {name}", len(examples)) as bar:
        losses = model.losses(
            net,
            examples,
            bf16=config.bf16,
            tokens=config.max_seq_length * config.per_device_train_batch_size,
            step=bar.step,
        )
    pairs = list(zip([e.source for e in examples], losses, strict=True))
    n = len(held_out)
    return {
        "held": {source: loss for source, loss in pairs[:n] if math.isfinite(loss)},
        "general": {
            source.rpartition("/")[2]: loss for source, loss in pairs[n:] if math.isfinite(loss)
        },
    }


def loss_metrics(losses: Losses, name: str) -> dict[str, dict[str, Any]]:
    """`<name>_loss` and `<name>_general_loss` with their intervals."""
    return {
        f"{name}_{metric}": stats.metric_interval(metric, list(losses[part].values())).as_dict()
        for part, metric in (("held", "loss"), ("general", "general_loss"))
        if losses.get(part)
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
    return [
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
