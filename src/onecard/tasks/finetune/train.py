"""From pairs to a tuned model with its proof: gates, base score, training, score, export, score
again. Reads from top to bottom; knows no other kind."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard import fsio
from onecard.errors import DataError, SettingsError
from onecard.evaluation import stats
from onecard.hub import checkpoints
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run, fingerprint
from onecard.tasks.finetune import dataset, model_card, tokenize_rows, validation
from onecard.tasks.finetune.configs import Settings
from onecard.tasks.finetune.dataset import RejectedRow, Sample
from onecard.training import output_dir


@dataclass
class Data:
    """What the gates let through."""

    train: list[Sample]
    held: list[Sample]
    encoded: list[tokenize_rows.TokenizedExample]
    held_encoded: list[tokenize_rows.TokenizedExample]
    gate: validation.Gate
    histogram: str
    too_long: int


def check(settings: Settings, run: Run) -> Result:
    """The gates alone. Raises what train would raise."""
    checkpoints.quiet()
    folder = checkpoints.folder(settings.model_name, run.reporter)
    data = prepare(settings, _tokenizer(folder, settings), run.reporter)
    facts = {"train": len(data.train), "eval": len(data.held), **data.gate.as_dict()}
    return Result(
        facts,
        f"{data.gate.render()}\n\n{data.histogram}\n\n{len(data.train)} samples would train, "
        f"{len(data.held)} are held out",
    )


def _tokenizer(folder: Path, settings: Settings) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenize_rows.need_template(tokenizer, settings.model_name)
    return tokenizer


def prepare(settings: Settings, tokenizer: Any, reporter: Reporter) -> Data:
    """Read, gate, split and cut into tokens. Raises DataError, NotFound, SettingsError."""
    if not settings.dataset:
        raise SettingsError(
            "there is no dataset",
            why="--dataset names no file",
            fix="onecard finetune train your_instructions.jsonl",
        )
    preferences = settings.method != "sft"
    found = dataset.read(Path(settings.dataset), settings.columns)
    gate = validation.inspect(found.samples, found.broken, preferences)
    if settings.eval_dataset:
        train, held = (
            gate.samples,
            dataset.read(Path(settings.eval_dataset), settings.columns).samples[
                : settings.eval_items
            ],
        )
        validation.leaks(train, held)
    else:
        train, held = validation.split(
            gate, settings.eval_share, settings.eval_items, settings.seed
        )
    train, encoded, rejected = validation.encode_all(
        train, lambda s: tokenize_rows.encode(tokenizer, s)
    )
    held, held_encoded, lost = validation.encode_all(
        held, lambda s: tokenize_rows.encode(tokenizer, s)
    )
    gate.rejected += [*rejected, *lost]
    histogram = validation.histogram(encoded, settings.max_seq_length)
    long = [i for i, e in enumerate(encoded) if len(e.ids) > settings.max_seq_length]
    if long and settings.overlong == "drop":
        gate.rejected += [
            RejectedRow(
                train[i].where,
                f"{len(encoded[i].ids)} tokens, longer than max_seq_length",
                train[i].question,
            )
            for i in long
        ]
        train, encoded = (
            [s for i, s in enumerate(train) if i not in set(long)],
            [e for i, e in enumerate(encoded) if i not in set(long)],
        )
    elif long:
        encoded = [tokenize_rows.cut_to(e, settings.max_seq_length) for e in encoded]
        train, encoded = (
            [s for s, e in zip(train, encoded, strict=True) if e.answer_tokens],
            [e for e in encoded if e.answer_tokens],
        )
    if long:
        gate.findings.append(
            validation.Finding(
                f"longer than max_seq_length {settings.max_seq_length}",
                len(long),
                [],
                "put aside: --max_seq_length larger, or --overlong cut"
                if settings.overlong == "drop"
                else "their ends are cut off",
            )
        )
    if not train or not held:
        raise DataError(
            "no sample is left to " + ("train on" if not train else "score with"),
            why=f"{len(gate.rejected)} rows were put aside; most are "
            f"{'too long' if long else 'broken'}",
            fix="onecard finetune check shows them; --max_seq_length larger, or --overlong cut",
        )
    held_encoded = [
        tokenize_rows.cut_to(e, max(settings.max_seq_length, 2048)) for e in held_encoded
    ]
    return Data(train, held, encoded, held_encoded, gate, histogram, len(long))


def train(settings: Settings, run: Run) -> Result:
    """Tune, and say whether it is better.

    Raises OneCardErrors; an out-of-memory goes up to api.run, which comes back with smaller
    settings.
    """
    checkpoints.quiet()
    run.reporter.line("loading torch and the model")
    from onecard.tasks.finetune import (
        evaluate,
        export,
        model,
        trainer,
    )  # the heavy rooms: after the gates of the settings

    folder = checkpoints.folder(settings.model_name, run.reporter)
    tokenizer = model.tokenizer_of(folder)
    tokenize_rows.need_template(tokenizer, settings.model_name)
    out = (
        Path(settings.output_dir).expanduser()
        if settings.output_dir
        else (run.folder or Path.cwd()) / "artifacts"
    )
    with output_dir.alone(out):
        output_dir.write_manifest(
            out, _marks(settings), run.id, resume=settings.resume, named=bool(settings.output_dir)
        )
        # 1. data
        data = prepare(settings, tokenizer, run.reporter)
        _keep_data(settings, data, out, run)
        run.reporter.line(
            f"{data.gate.render()}\n\n{data.histogram}\n\n{len(data.train)} samples train, "
            f"{len(data.held)} are held out"
        )
        # 2. the base, scored before anything changes
        general = validation.encode_all(
            dataset.read(evaluate.GENERAL).samples, lambda s: tokenize_rows.encode(tokenizer, s)
        )[1]
        base = model.base(folder, settings)
        scored = _once(
            out / "base_scores.json",
            lambda: evaluate.by_loss(
                base, data.held_encoded, general, settings, run.reporter, "base"
            ),
        )
        # 3. training
        checkpoint_dir = out / "checkpoints"
        checkpoint_dir.mkdir(parents=True, exist_ok=True)
        resume = trainer.last_checkpoint(checkpoint_dir)
        trainer.drop_broken(checkpoint_dir)
        stop = output_dir.Stop()
        with run.reporter.progress("training", 0) as bar:
            if settings.method == "sft":
                made = trainer.answers(
                    base,
                    tokenizer,
                    model.lora(settings, base),
                    data.encoded,
                    settings,
                    checkpoint_dir,
                    run,
                    bar,
                    stop,
                )
            else:
                made = trainer.preferences(
                    base,
                    tokenizer,
                    model.lora(settings, base),
                    data.train,
                    settings,
                    checkpoint_dir,
                    run,
                    bar,
                    stop,
                )
            if resume:
                run.reporter.line(f"going on from {resume.name}")
            try:
                loss = trainer.go(made, checkpoint_dir, stop, trainer.fitting(resume, settings))
            except KeyboardInterrupt:
                run.reporter.line(
                    f"stopped; go on with: onecard finetune train ... --output_dir {out} --resume"
                )
                raise
        tuned = made.model
        tuned.save_pretrained(out / "adapter")
        tokenizer.save_pretrained(out / "adapter")
        fsio.write_text(
            out / "adapter" / "base.json",
            json.dumps({"model_name": settings.model_name, "folder": str(folder)}),
        )
        # 4. the same scores again
        after = evaluate.by_loss(tuned, data.held_encoded, general, settings, run.reporter, "tuned")
        verdicts = evaluate.judge_losses(scored, after)
        rubbed: dict[str, Any] = {
            "train_loss": stats.Interval(loss, loss, loss, 1).as_dict(),
            **evaluate.metrics_of(scored, "base"),
            **evaluate.metrics_of(after, "tuned"),
        }
        run.scores(rubbed, verdicts=verdicts)
        run.reporter.line("\n".join(verdicts))
        # 5. a file that chat opens, and the same answers from it
        answers = evaluate.Answers(data.held[: settings.generate_items], settings.max_new_tokens)
        exported = export.everything(tuned, tokenizer, folder, out, answers, settings, run)
        items = evaluate.items(data.held, scored, after, exported.answers)
        run.items(items)
        verdicts += exported.verdicts
        run.scores(rubbed | exported.metrics, verdicts=verdicts)
        fsio.write_text(
            out / "MODEL_CARD.md",
            model_card.write(
                settings, data, rubbed | exported.metrics, verdicts, exported.files, run
            ),
        )
    words = "\n".join(
        [
            *verdicts,
            *(f"made {path}" for path in exported.files),
            f"talk to it: onecard chat --model run:{run.id}"
            if run.id and any(path.suffix == ".gguf" for path in exported.files)
            else "",
        ]
    ).strip()
    return Result(
        {
            "metrics": rubbed | exported.metrics,
            "verdicts": verdicts,
            "output_dir": str(out),
            "files": [str(path) for path in exported.files],
        },
        words,
    )


def _keep_data(settings: Settings, data: Data, out: Path, run: Run) -> None:
    path = Path(settings.dataset)
    run.data(
        "train",
        rows=len(data.train),
        sha256=fingerprint(path) if path.is_file() else validation.fingerprint(data.train),
        put_aside=len(data.gate.rejected),
    )
    run.data("questions", rows=len(data.held), sha256=validation.fingerprint(data.held))
    if data.gate.rejected:
        fsio.write_text(
            out / "put_aside.jsonl",
            "".join(
                json.dumps({"where": b.where, "why": b.why, "raw": b.raw}, ensure_ascii=False)
                + "\n"
                for b in data.gate.rejected
            ),
        )
    fsio.write_text(
        out / "held_out.jsonl",
        "".join(
            json.dumps({"id": s.where, "messages": list(s.messages)}, ensure_ascii=False) + "\n"
            for s in data.held
        ),
    )


def _once(path: Path, score: Any) -> dict[str, Any]:
    """A score that a stopped or smaller-made run need not make again."""
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    made: dict[str, Any] = score()
    fsio.write_text(path, json.dumps(made))
    return made


def _marks(settings: Settings) -> dict[str, Any]:
    """What a folder's training is known by."""
    return {
        "model_name": settings.model_name,
        "dataset": str(Path(settings.dataset).expanduser().resolve()),
        "lora_r": settings.lora_r,
        "method": settings.method,
        "seed": settings.seed,
    }
