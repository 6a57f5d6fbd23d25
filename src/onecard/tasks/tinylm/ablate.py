"""onecard tinylm ablate: position codes against each other. The same training with each code and
several seeds, at equal weights and equal compute."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from onecard import fsio
from onecard.errors import SettingsError, not_found
from onecard.evaluation import stats
from onecard.reporting import Progress, Result, table
from onecard.runs import plots
from onecard.runs.record import Run
from onecard.tasks.tinylm import corpus as corpora
from onecard.tasks.tinylm import metrics, trainer
from onecard.tasks.tinylm.configs import POSITIONS, AblateConfig
from onecard.tasks.tinylm.corpus import Corpus
from onecard.tasks.tinylm.model import TinyLM
from onecard.tasks.tinylm.sizing import TrainingSetup, derive
from onecard.training import output_dir
from onecard.training.interrupt import graceful_interrupt

LENGTHS = (1, 2, 4)
"""Windows that are scored, in training lengths."""

Setups = Mapping[str, TrainingSetup]
"""position code -> its training."""
Summary = dict[str, dict[str, stats.Interval]]
"""position code -> loss_1x, loss_2x, loss_4x, where they could be measured."""


def ablate(config: AblateConfig, run: Run) -> Result:
    """Score every code with every seed over the whole held-out text. Finished trainings are kept:
    a stopped ablation continues with --resume.

    Raises SettingsError, DataError, NotFound.
    """
    if unknown := [name for name in config.positions if name not in POSITIONS]:
        raise not_found("position code", unknown[0], POSITIONS)
    corpus = corpora.prepare(config, run.reporter)
    setups = {code: equal_setup(config, code, corpus) for code in config.positions}
    first = next(iter(setups.values()))
    corpora.require_blocks(corpus, first.model_config.block_size)
    run.data(
        "questions",
        rows=len(corpus.val),
        sha256=corpus.facts["sha256"],
        repeated_share=corpus.facts["repeated_share"],
    )
    run.reporter.line("\n".join(_describe(code, setup) for code, setup in setups.items()))
    rows = _train_all(config, setups, corpus, run)
    summary = summarize(rows, list(setups))
    values = {
        f"{code}_{key}": interval.as_dict()
        for code, intervals in summary.items()
        for key, interval in intervals.items()
    }
    verdicts = compare(rows, list(setups))
    run.scores(values, verdicts=verdicts)
    _draw(rows, summary, first.model_config.block_size, run)
    text = render(summary, setups, rows, verdicts)
    text = "\n\n".join([*metrics.render_split(corpus, config.split), text])
    run.artifact("ablation.md", text)
    return Result({"rows": rows, "metrics": values, "verdicts": verdicts}, text)


def equal_setup(config: AblateConfig, code: str, corpus: Corpus) -> TrainingSetup:
    """The training with this code. Where learned positions add weights, its MLP is narrower, so
    that the counts are equal within one column."""

    def with_code(position: str, d_ff: int = config.d_ff) -> TrainingSetup:
        update = {"position": position, "d_ff": d_ff}
        vocab_size = corpus.tokenizer.get_vocab_size()
        return derive(config.model_copy(update=update), vocab_size, len(corpus.train))

    setup = with_code(code)
    shape = setup.model_config
    surplus = shape.n_params - with_code("rope").model_config.n_params
    matrices = 3 if config.mlp == "swiglu" else 2
    columns = round(surplus / (shape.n_layer * matrices * shape.n_embd))
    return with_code(code, shape.d_ff - columns) if columns else setup


def _describe(code: str, setup: TrainingSetup) -> str:
    shape = setup.model_config
    return (
        f"{code:10} {shape.n_params:,} weights (d_ff {shape.d_ff}), {setup.steps} steps of "
        f"{setup.tokens_per_step:,} tokens"
    )


# Trainings


def _train_all(
    config: AblateConfig, setups: Setups, corpus: Corpus, run: Run
) -> list[dict[str, Any]]:
    """One row a training. Seed by seed, so that a slow hour affects all codes alike."""
    steps = next(iter(setups.values())).steps
    identity = {
        "text": corpus.facts["sha256"],
        "tokenizer": corpus.facts["tokenizer_sha256"],
        "shapes": {code: setup.model_config.as_dict() for code, setup in setups.items()},
        "steps": steps,
        "optim": config.optim,
        "bf16": config.bf16,
    }
    path = output_dir.resolve(config.output_dir, run) / "ablation.json"
    rows = finished_rows(path, identity, config)
    finished = {(row["position"], row["seed"]) for row in rows}
    seeds = range(config.seed, config.seed + config.seeds)
    with run.reporter.progress("ablation", len(setups) * len(seeds) * steps) as bar:
        for seed in seeds:
            for code, setup in setups.items():
                if (code, seed) in finished:
                    bar.step(setup.steps)
                    continue
                trial = config.model_copy(update={"seed": seed, "position": code})
                rows.append(train_once(trial, setup, corpus, run, bar))
                fsio.write_text(path, json.dumps({"marks": identity, "rows": rows}))
    return rows


def finished_rows(
    path: Path, identity: dict[str, Any], config: AblateConfig
) -> list[dict[str, Any]]:
    """Trainings of the ablation that is resumed; none without --resume.

    Raises SettingsError where there is nothing to resume, or another ablation's rows.
    """
    if not config.resume:
        return []
    if not path.exists():
        raise SettingsError(
            "there is nothing to resume",
            why=f"{path} does not exist",
            fix="--output_dir with the folder of the stopped ablation",
        )
    previous = json.loads(path.read_text(encoding="utf-8"))
    if json.loads(json.dumps(identity)) != previous["marks"]:
        raise SettingsError(
            f"{path.parent} holds another ablation",
            why="its text, models or steps differ",
            fix="the same settings as before, or --output_dir elsewhere",
        )
    return [row for row in previous["rows"] if row["position"] in config.positions]


def train_once(
    config: AblateConfig, setup: TrainingSetup, corpus: Corpus, run: Run, bar: Progress
) -> dict[str, Any]:
    """One training and its scores. The last weights are scored: choosing the best ones on the
    held-out text would favour noisy curves."""
    device = trainer.default_device()
    torch.manual_seed(config.seed)
    net = TinyLM(setup.model_config).to(device)
    on_card = device.type == "cuda"
    runtime = trainer.RuntimeOptions(
        bf16=config.bf16 == "on" or (config.bf16 == "auto" and on_card),
        steps=setup.steps,
        threads=0 if on_card else config.n_threads,
    )
    training = trainer.Trainer(net, corpus, config, setup, runtime)
    eval_steps = max(1, setup.steps // 10)
    block_size = setup.model_config.block_size
    curve = []
    with graceful_interrupt() as interrupt:
        while training.state.step < setup.steps:
            loss, _ = training.step()
            step = training.state.step
            bar.step(1, f"{config.position}, seed {config.seed}, loss {loss:.3f}")
            if step % eval_steps == 0:
                with training.averaged() as average:
                    val_loss = trainer.quick_val_loss(average, corpus, block_size, runtime.bf16)
                curve.append((step, val_loss))
            if interrupt.requested:
                raise KeyboardInterrupt
    with training.averaged() as average:
        lengths = metrics.length_extrapolation(average, corpus, run.reporter)
    measured = [row for row in lengths if row["loss"]]
    return {
        "position": config.position,
        "seed": config.seed,
        "n_params": setup.model_config.n_params,
        "curve": curve,
        "losses": {f"{row['times']}x": row["loss"]["value"] for row in measured},
        "last_quarter": {f"{row['times']}x": row["last_quarter"]["value"] for row in measured},
    }


# Comparison


def summarize(rows: list[dict[str, Any]], codes: list[str]) -> Summary:
    """Mean over seeds with its 95 % t interval, at each length."""
    summary: Summary = {}
    for code in codes:
        losses = [row["losses"] for row in rows if row["position"] == code]
        summary[code] = {
            f"loss_{times}x": stats.t_interval([by_length[f"{times}x"] for by_length in losses])
            for times in LENGTHS
            if all(f"{times}x" in by_length for by_length in losses)
        }
    return summary


def compare(rows: list[dict[str, Any]], codes: list[str]) -> list[str]:
    """Verdicts: each code against the first one, paired by seed, at the training length; all codes
    are judged together."""
    losses = {(row["position"], row["seed"]): row["losses"]["1x"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    comparisons = stats.holm(
        {
            code: stats.compare_seeds(
                [losses[code, seed] - losses[codes[0], seed] for seed in seeds],
                higher_is_better=False,
            )
            for code in codes[1:]
        }
    )
    return [
        f"{code} against {codes[0]}: {result.verdict}, {result.delta.render(4)} nats a token over "
        f"{len(seeds)} seeds, p={result.p_value:.3f} ({result.test})"
        for code, result in comparisons.items()
    ]


def _draw(rows: list[dict[str, Any]], summary: Summary, block_size: int, run: Run) -> None:
    """Loss over the length of a window, and the first seed's learning curves."""
    by_length: dict[str, Any] = {
        code: [
            (times * block_size, intervals[f"loss_{times}x"].value)
            for times in LENGTHS
            if f"loss_{times}x" in intervals
        ]
        for code, intervals in summary.items()
    }
    label = "loss (nats a token)"
    run.artifact("ablation.svg", plots.lines(by_length, "tokens of a window", label, zoom=True))
    curves: dict[str, Any] = {
        code: next(row["curve"] for row in rows if row["position"] == code) for code in summary
    }
    run.artifact("curves.svg", plots.lines(curves, "step", f"held-out {label}", zoom=True))


def render(
    summary: Summary, setups: Setups, rows: list[dict[str, Any]], verdicts: list[str]
) -> str:
    cells = []
    for code, intervals in summary.items():
        losses = [
            intervals[f"loss_{times}x"].render(4) if f"loss_{times}x" in intervals else "ends at 1x"
            for times in LENGTHS
        ]
        cells.append([code, f"{setups[code].model_config.n_params:,}", *losses])
    first = next(iter(setups.values()))
    header = (
        f"{len({row['seed'] for row in rows})} seeds each, {first.steps} steps of "
        f"{first.tokens_per_step:,} tokens, trained on windows of {first.model_config.block_size}; "
        "loss in nats a token over the whole held-out text, 95 % t interval over seeds"
    )
    columns = ["positions", "weights", *(f"{times}x" for times in LENGTHS)]
    return "\n".join([header, table(cells, columns), *verdicts])
