"""From pairs to a tuned model with its proof: gates, base score, training, score, export, score again. Reads from top to bottom; knows no other kind."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard import places
from onecard.errors import DataError, SettingsError
from onecard.evals import stats
from onecard.kinds.finetune import card, encode, gates, samples
from onecard.kinds.finetune.config import Settings
from onecard.kinds.finetune.samples import Broken, Sample
from onecard.models import dense
from onecard.runs import output
from onecard.runs.record import Run, fingerprint
from onecard.screen import Answer, Screen


@dataclass
class Data:
    """What the gates let through."""

    train: list[Sample]
    held: list[Sample]
    encoded: list[encode.Encoded]
    held_encoded: list[encode.Encoded]
    gate: gates.Gate
    histogram: str
    too_long: int


def check(settings: Settings, run: Run) -> Answer:
    """The gates alone. Raises what train would raise."""
    dense.quiet()
    folder = dense.folder(settings.model_name, run.screen)
    data = prepare(settings, _tokenizer(folder, settings), run.screen)
    facts = {"train": len(data.train), "eval": len(data.held), **data.gate.as_dict()}
    return Answer(facts, f"{data.gate.words()}\n\n{data.histogram}\n\n{len(data.train)} samples would train, {len(data.held)} are held out")


def _tokenizer(folder: Path, settings: Settings) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    encode.need_template(tokenizer, settings.model_name)
    return tokenizer


def prepare(settings: Settings, tokenizer: Any, screen: Screen) -> Data:
    """Read, gate, split and cut into tokens. Raises DataError, NotFound, SettingsError."""
    if not settings.dataset:
        raise SettingsError("there is no dataset", why="--dataset names no file", fix="onecard finetune train your_instructions.jsonl")
    preferences = settings.method != "sft"
    found = samples.read(Path(settings.dataset), settings.columns)
    gate = gates.inspect(found.samples, found.broken, preferences)
    if settings.eval_dataset:
        train, held = gate.samples, samples.read(Path(settings.eval_dataset), settings.columns).samples[: settings.eval_items]
        gates.leaks(train, held)
    else:
        train, held = gates.split(gate, settings.eval_share, settings.eval_items, settings.seed)
    train, encoded, aside = gates.encode_all(train, lambda s: encode.encode(tokenizer, s))
    held, held_encoded, lost = gates.encode_all(held, lambda s: encode.encode(tokenizer, s))
    gate.aside += [*aside, *lost]
    histogram = gates.histogram(encoded, settings.max_seq_length)
    long = [i for i, e in enumerate(encoded) if len(e.ids) > settings.max_seq_length]
    if long and settings.overlong == "drop":
        gate.aside += [Broken(train[i].where, f"{len(encoded[i].ids)} tokens, longer than max_seq_length", train[i].question) for i in long]
        train, encoded = [s for i, s in enumerate(train) if i not in set(long)], [e for i, e in enumerate(encoded) if i not in set(long)]
    elif long:
        encoded = [encode.cut_to(e, settings.max_seq_length) for e in encoded]
        train, encoded = [s for s, e in zip(train, encoded, strict=True) if e.answer_tokens], [e for e in encoded if e.answer_tokens]
    if long:
        gate.findings.append(gates.Finding(f"longer than max_seq_length {settings.max_seq_length}", len(long), [], "put aside: --max_seq_length larger, or --overlong cut" if settings.overlong == "drop" else "their ends are cut off"))
    if not train or not held:
        raise DataError("no sample is left to " + ("train on" if not train else "score with"), why=f"{len(gate.aside)} rows were put aside; most are {'too long' if long else 'broken'}", fix="onecard finetune check shows them; --max_seq_length larger, or --overlong cut")
    held_encoded = [encode.cut_to(e, max(settings.max_seq_length, 2048)) for e in held_encoded]
    return Data(train, held, encoded, held_encoded, gate, histogram, len(long))


def train(settings: Settings, run: Run) -> Answer:
    """Tune, and say whether it is better. Raises OneCardErrors; an out-of-memory goes up to api.run, which comes back with smaller settings."""
    dense.quiet()
    run.screen.line("loading torch and the model")
    from onecard.kinds.finetune import evals, export, model, trainer  # the heavy rooms: after the gates of the settings

    folder = dense.folder(settings.model_name, run.screen)
    tokenizer = model.tokenizer_of(folder)
    encode.need_template(tokenizer, settings.model_name)
    out = Path(settings.output_dir).expanduser() if settings.output_dir else (run.folder or Path.cwd()) / "artifacts"
    with output.alone(out):
        output.claim(out, _marks(settings), run.id, resume=settings.resume, named=bool(settings.output_dir))
        # 1. data
        data = prepare(settings, tokenizer, run.screen)
        _keep_data(settings, data, out, run)
        run.screen.line(f"{data.gate.words()}\n\n{data.histogram}\n\n{len(data.train)} samples train, {len(data.held)} are held out")
        # 2. the base, scored before anything changes
        general = gates.encode_all(samples.read(evals.GENERAL).samples, lambda s: encode.encode(tokenizer, s))[1]
        base = model.base(folder, settings)
        scored = _once(out / "base_scores.json", lambda: evals.by_loss(base, data.held_encoded, general, settings, run.screen, "base"))
        # 3. training
        checkpoints = out / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        resume = trainer.last_checkpoint(checkpoints)
        trainer.drop_broken(checkpoints)
        stop = output.Stop()
        with run.screen.progress("training", 0) as bar:
            if settings.method == "sft":
                made = trainer.answers(base, tokenizer, model.lora(settings, base), data.encoded, settings, checkpoints, run, bar, stop)
            else:
                made = trainer.preferences(base, tokenizer, model.lora(settings, base), data.train, settings, checkpoints, run, bar, stop)
            if resume:
                run.screen.line(f"going on from {resume.name}")
            try:
                loss = trainer.go(made, checkpoints, stop, trainer.fitting(resume, settings))
            except KeyboardInterrupt:
                run.screen.line(f"stopped; go on with: onecard finetune train ... --output_dir {out} --resume")
                raise
        tuned = made.model
        tuned.save_pretrained(out / "adapter")
        tokenizer.save_pretrained(out / "adapter")
        places.write_text(out / "adapter" / "base.json", json.dumps({"model_name": settings.model_name, "folder": str(folder)}))
        # 4. the same scores again
        after = evals.by_loss(tuned, data.held_encoded, general, settings, run.screen, "tuned")
        verdicts = evals.judge_losses(scored, after)
        rubbed: dict[str, Any] = {"train_loss": stats.Interval(loss, loss, loss, 1).as_dict(), **evals.metrics_of(scored, "base"), **evals.metrics_of(after, "tuned")}
        run.scores(rubbed, verdicts=verdicts)
        run.screen.line("\n".join(verdicts))
        # 5. a file that chat opens, and the same answers from it
        answers = evals.Answers(data.held[: settings.generate_items], settings.max_new_tokens)
        exported = export.everything(tuned, tokenizer, folder, out, answers, settings, run)
        items = evals.items(data.held, scored, after, exported.answers)
        run.items(items)
        verdicts += exported.verdicts
        run.scores(rubbed | exported.metrics, verdicts=verdicts)
        places.write_text(out / "MODEL_CARD.md", card.write(settings, data, rubbed | exported.metrics, verdicts, exported.files, run))
    words = "\n".join([*verdicts, *(f"made {path}" for path in exported.files), f"talk to it: onecard chat --model run:{run.id}" if run.id and any(path.suffix == ".gguf" for path in exported.files) else ""]).strip()
    return Answer({"metrics": rubbed | exported.metrics, "verdicts": verdicts, "output_dir": str(out), "files": [str(path) for path in exported.files]}, words)


def _keep_data(settings: Settings, data: Data, out: Path, run: Run) -> None:
    path = Path(settings.dataset)
    run.data("train", rows=len(data.train), sha256=fingerprint(path) if path.is_file() else gates.fingerprint(data.train), put_aside=len(data.gate.aside))
    run.data("questions", rows=len(data.held), sha256=gates.fingerprint(data.held))
    if data.gate.aside:
        places.write_text(out / "put_aside.jsonl", "".join(json.dumps({"where": b.where, "why": b.why, "raw": b.raw}, ensure_ascii=False) + "\n" for b in data.gate.aside))
    places.write_text(out / "held_out.jsonl", "".join(json.dumps({"id": s.where, "messages": list(s.messages)}, ensure_ascii=False) + "\n" for s in data.held))


def _once(path: Path, score: Any) -> dict[str, Any]:
    """A score that a stopped or smaller-made run need not make again."""
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    made: dict[str, Any] = score()
    places.write_text(path, json.dumps(made))
    return made


def _marks(settings: Settings) -> dict[str, Any]:
    """What a folder's training is known by."""
    return {"model_name": settings.model_name, "dataset": str(Path(settings.dataset).expanduser().resolve()), "lora_r": settings.lora_r, "method": settings.method, "seed": settings.seed}
