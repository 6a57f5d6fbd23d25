"""Which position code is best here: the same training with each of them and several seeds, equal
weights and equal compute, one table. Knows no way to train but the kind's own."""

import json
from pathlib import Path
from typing import Any

import torch

from onecard import fsio
from onecard.errors import SettingsError, not_found
from onecard.evaluation import stats
from onecard.reporting import Progress, Result, table
from onecard.runs import plots
from onecard.runs.record import Run
from onecard.tasks.tinylm import corpus as texts
from onecard.tasks.tinylm import evaluate, model_config, trainer
from onecard.tasks.tinylm.configs import POSITIONS, Settings
from onecard.tasks.tinylm.corpus import Corpus
from onecard.tasks.tinylm.model import TinyLM
from onecard.tasks.tinylm.model_config import Made
from onecard.training.output_dir import Stop


def ablate(settings: Settings, run: Run) -> Result:
    """Train every code with every seed and score each over the whole held-out text, at 1, 2 and 4
    training lengths. What is done is kept: a stopped ablation goes on with --resume. Raises
    SettingsError, DataError, NotFound."""
    if wrong := [name for name in settings.positions if name not in POSITIONS]:
        raise not_found("position code", wrong[0], POSITIONS)
    corpus = texts.prepare(settings, run.reporter)
    made = {code: equal(settings, code, corpus) for code in settings.positions}
    texts.need_blocks(corpus, next(iter(made.values())).shape.block_size)
    run.data("questions", rows=len(corpus.val), sha256=corpus.facts["sha256"])
    run.reporter.line(
        "\n".join(
            f"{code:10} {m.shape.n_params:,} weights (d_ff {m.shape.d_ff}), {m.steps} steps of "
            f"{m.tokens_a_step:,} tokens"
            for code, m in made.items()
        )
    )
    out = (
        Path(settings.output_dir).expanduser()
        if settings.output_dir
        else (run.folder or Path.cwd()) / "artifacts"
    )
    marks = {
        "text": corpus.facts["sha256"],
        "tokenizer": corpus.facts["tokenizer_sha256"],
        "shapes": {code: m.shape.as_dict() for code, m in made.items()},
        "steps": next(iter(made.values())).steps,
        "optim": settings.optim,
        "bf16": settings.bf16,
    }
    rows = kept(out / "ablation.json", marks, settings)
    with run.reporter.progress(
        "ablation", len(made) * settings.seeds * next(iter(made.values())).steps
    ) as bar:
        for seed in range(
            settings.seed, settings.seed + settings.seeds
        ):  # seed by seed, so that a slow hour hits all codes alike
            for code, m in made.items():
                if any(row["seed"] == seed and row["position"] == code for row in rows):
                    bar.step(m.steps)
                    continue
                rows.append(
                    one(
                        settings.model_copy(update={"seed": seed, "position": code}),
                        m,
                        corpus,
                        run,
                        bar,
                    )
                )
                fsio.write_text(out / "ablation.json", json.dumps({"marks": marks, "rows": rows}))
    found = summary(rows, list(made))
    metrics = {f"{code}_{key}": found[code][key].as_dict() for code in found for key in found[code]}
    said = verdicts(rows, list(made))
    run.scores(metrics, verdicts=said)
    lengths = [times * next(iter(made.values())).shape.block_size for times in (1, 2, 4)]
    series: dict[str, Any] = {
        code: [
            (length, found[code][f"loss_{times}x"].value)
            for length, times in zip(lengths, (1, 2, 4), strict=True)
            if f"loss_{times}x" in found[code]
        ]
        for code in found
    }
    run.artifact(
        "ablation.svg", plots.lines(series, "tokens of a window", "loss (nats a token)", zoom=True)
    )
    run.artifact(
        "curves.svg",
        plots.lines(
            {code: next(row["curve"] for row in rows if row["position"] == code) for code in made},
            "step",
            "held-out loss (nats a token)",
            zoom=True,
        ),
    )
    words = shown(found, made, rows, said)
    run.artifact("ablation.md", words)
    return Result({"rows": rows, "metrics": metrics, "verdicts": said}, words)


def kept(path: Path, marks: dict[str, Any], settings: Settings) -> list[dict[str, Any]]:
    """Trainings of an ablation that was stopped.

    Raises SettingsError where another's lie there, or none.
    """
    if not settings.resume:
        return []
    if not path.exists():
        raise SettingsError(
            "there is nothing to go on with",
            why=f"{path} is not there",
            fix="--output_dir with the folder of the stopped ablation",
        )
    held = json.loads(path.read_text(encoding="utf-8"))
    if json.loads(json.dumps(marks)) != held["marks"]:
        raise SettingsError(
            f"{path.parent} holds another ablation",
            why="its text, shapes or steps differ",
            fix="the same settings as before, or --output_dir elsewhere",
        )
    return [row for row in held["rows"] if row["position"] in settings.positions]


def equal(settings: Settings, code: str, corpus: Corpus) -> Made:
    """The shape with this code: where learned positions add weights, the MLP of all is made so wide
    that the counts meet as nearly as they can (within one column)."""
    vocab = corpus.tokenizer.get_vocab_size()
    plain = model_config.of(
        settings.model_copy(update={"position": "rope"}), vocab, len(corpus.train)
    )
    made = model_config.of(settings.model_copy(update={"position": code}), vocab, len(corpus.train))
    matrices = 3 if settings.mlp == "swiglu" else 2
    less = round(
        (made.shape.n_params - plain.shape.n_params)
        / (made.shape.n_layer * matrices * made.shape.n_embd)
    )
    return (
        model_config.of(
            settings.model_copy(update={"position": code, "d_ff": made.shape.d_ff - less}),
            vocab,
            len(corpus.train),
        )
        if less
        else made
    )


def one(settings: Settings, made: Made, corpus: Corpus, run: Run, bar: Progress) -> dict[str, Any]:
    """One training and its scores.

    The last weights are scored: choosing the best ones on the held-out text would favour noisy
    curves.
    """
    torch.manual_seed(settings.seed)
    net = TinyLM(made.shape).to(trainer.device())
    t = trainer.Trainer(
        net,
        corpus,
        settings,
        made,
        trainer.Choice(
            bf16=settings.bf16 == "on"
            or (settings.bf16 == "auto" and trainer.device().type == "cuda"),
            steps=made.steps,
            threads=settings.threads if trainer.device().type == "cpu" else 0,
        ),
    )
    curve, looks = [], max(1, made.steps // 10)
    stop = Stop()
    with stop.heard():
        while t.state.step < made.steps:
            loss, _ = t.step()
            bar.step(1, f"{settings.position}, seed {settings.seed}, loss {loss:.3f}")
            if t.state.step % looks == 0:
                with t.averaged() as held:
                    curve.append(
                        (
                            t.state.step,
                            trainer.quick_val_loss(
                                held, corpus, made.shape.block_size, t.choice.bf16
                            ),
                        )
                    )
            if stop.asked:
                raise KeyboardInterrupt
    with t.averaged() as held:
        far = evaluate.extrapolation(held, corpus, run.reporter)
    return {
        "position": settings.position,
        "seed": settings.seed,
        "n_params": made.shape.n_params,
        "curve": curve,
        "losses": {f"{row['times']}x": row["loss"]["value"] for row in far if row["loss"]},
        "last_quarter": {
            f"{row['times']}x": row["last_quarter"]["value"] for row in far if row["loss"]
        },
    }


def summary(rows: list[dict[str, Any]], codes: list[str]) -> dict[str, dict[str, stats.Interval]]:
    """Mean over seeds with its 95 % t interval, at each length."""
    out: dict[str, dict[str, stats.Interval]] = {}
    for code in codes:
        mine = [row for row in rows if row["position"] == code]
        out[code] = {
            f"loss_{times}": stats.t_interval([row["losses"][times] for row in mine])
            for times in ("1x", "2x", "4x")
            if all(times in row["losses"] for row in mine)
        }
    return out


def verdicts(rows: list[dict[str, Any]], codes: list[str]) -> list[str]:
    """Each code against the first one, paired by seed, at the training length."""
    by = {(row["position"], row["seed"]): row["losses"]["1x"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    out = []
    for code in codes[1:]:
        delta = stats.t_interval([by[code, seed] - by[codes[0], seed] for seed in seeds])
        said = (
            "not shown"
            if not (delta.low > 0 or delta.high < 0)
            else "better"
            if delta.value < 0
            else "worse"
        )
        out.append(
            f"{code} against {codes[0]}: {said}, {delta.value:+.4f} [{delta.low:+.4f}, "
            f"{delta.high:+.4f}] nats a token over {len(seeds)} seeds"
        )
    return out


def shown(
    found: dict[str, dict[str, stats.Interval]],
    made: dict[str, Made],
    rows: list[dict[str, Any]],
    said: list[str],
) -> str:
    cells = [
        [
            code,
            f"{made[code].shape.n_params:,}",
            *(
                found[code][f"loss_{times}"].render(4)
                if f"loss_{times}" in found[code]
                else "ends at 1x"
                for times in ("1x", "2x", "4x")
            ),
        ]
        for code in found
    ]
    first = next(iter(made.values()))
    head = (
        f"{len({row['seed'] for row in rows})} seeds each, {first.steps} steps of "
        f"{first.tokens_a_step:,} tokens, trained on windows of {first.shape.block_size}; loss in "
        "nats a token over the whole held-out text, 95 % t interval over seeds"
    )
    return "\n".join([head, table(cells, ["positions", "weights", "1x", "2x", "4x"]), *said])
