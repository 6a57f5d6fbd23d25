"""Whisper fine-tuned on your sounds and texts, with the proof: gates, base score, training, score,
merge, CTranslate2, score again. Reads from top to bottom; knows no other kind."""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.utils import logging

from onecard import fsio
from onecard.errors import DataError, SettingsError
from onecard.evaluation import stats
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.asr import convert, dataset, evaluate
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.dataset import Gate, Pair
from onecard.tasks.asr.model import Transcriber, open_ear
from onecard.training import output_dir
from onecard.units import size

IGNORED = -100
WORTH_CHECKING = 5
"""Words from which on a text can be told to be another recording's: a single word may be just what
the model has to learn."""
MOST_TOKENS = 440
PARITY_NATS = 0.05
PARITY_SHARE = 0.03
"""What CTranslate2 in int8 may lose against transformers in fp32 before the export is refused,
where the paired test shows the loss too: nats a token of the wanted texts, or a share of them where
the model is still much surprised
(int8 moved the base model's 1.24 nats of everyday speech by 3 %). Words are told only: in a few
short clips a beam that tips over is a large share of all words."""
LEAST_CLIPS = 6
"""Fewer cannot show a loss: a sign test of five has no p below 0.06, whatever a bootstrap of them
says."""
GENERAL_POINTS = 0.01


@dataclass
class Batch:
    """heard (B, 1500, D) or mel features (B, mels, 3000); ids and labels (B, T)."""

    sound: Tensor
    ids: Tensor
    labels: Tensor


def train(settings: Settings, run: Run) -> Result:
    """Tune, and say whether it hears better.

    Raises OneCardErrors; an out-of-memory goes up to api.run.
    """
    if not settings.dataset:
        raise SettingsError(
            "there is no dataset",
            why="--dataset names no file",
            fix="onecard asr train clips.csv, with columns audio and text",
        )
    out = (
        Path(settings.output_dir).expanduser()
        if settings.output_dir
        else (run.folder or Path.cwd()) / "artifacts"
    )
    with output_dir.alone(out):
        output_dir.write_manifest(
            out,
            {
                "model_name": settings.model_name,
                "dataset": str(Path(settings.dataset).expanduser().resolve()),
                "method": settings.method,
                "seed": settings.seed,
                "freeze_encoder": settings.freeze_encoder,
                "lora_r": settings.lora_r,
                "eval_dataset": settings.eval_dataset,
                "eval_share": settings.eval_share,
                "eval_items": settings.eval_items,
                "augment": settings.augment,
            },
            run.id,
            resume=settings.resume,
            named=bool(settings.output_dir),
        )
        # 1. data
        gate = dataset.gates(dataset.read(settings.dataset), run.reporter)
        if settings.eval_dataset:
            learn, held = (
                gate.pairs,
                dataset.gates(dataset.read(settings.eval_dataset), run.reporter).pairs[
                    : settings.eval_items
                ],
            )
        else:
            learn, held = dataset.split(
                gate.pairs, settings.eval_share, settings.eval_items, settings.seed
            )
        dataset.leaks(learn, held)
        general = (
            dataset.gates(dataset.read(settings.general_dataset), run.reporter).pairs[
                : settings.eval_items
            ]
            if settings.general_dataset
            else []
        )
        # 2. the base, scored before anything changes
        ear = open_ear(settings, run)
        language = settings.language if settings.language != "auto" else _spoken(ear, learn, run)
        learn = _first_pass(ear, learn, gate, language, settings, run)
        dataset.keep(out / "put_aside.jsonl", gate)
        run.data("train", rows=len(learn), sha256=_sha(learn), put_aside=len(gate.rejected))
        run.data("questions", rows=len(held), sha256=_sha(held))
        run.reporter.line(
            f"{gate.render()}\n{len(learn)} clips train, {len(held)} are held out, {len(general)} "
            "of everyday speech"
        )
        before = _scores(ear, held, language, run, "base")
        before_general = _scores(ear, general, language, run, "base, everyday")
        del ear
        # 3. training
        folder = convert.dense_folder(settings.model_name, run.reporter)
        net, processor = _opened(folder, settings)
        tuned = _train(net, processor, learn, language, settings, out, run)
        # 4. merge, and the same scores again
        with torch.no_grad():
            merged: Any = (
                tuned.merge_and_unload(safe_merge=True) if isinstance(tuned, PeftModel) else tuned
            )
        merged.eval().float().save_pretrained(out / "merged")
        processor.save_pretrained(out / "merged")
        processor.feature_extractor.save_pretrained(
            out / "merged"
        )  # CTranslate2 wants preprocessor_config.json, which a processor no longer writes
        in_torch = _torch_scores(merged, processor, held, language, run)
        wanted = {pair.id: text for pair in held if (text := _text(processor, pair.text))}
        losses = {"merged": _torch_losses(merged, processor, held, wanted, language)}
        # 5. the form that is heard with, and the same scores once more
        ct2 = convert.to_ct2(out / "merged", out / "ct2")
        ear = open_ear(settings.model_copy(update={"model_name": str(ct2)}), run)
        after, after_general = (
            _scores(ear, held, language, run, "tuned"),
            _scores(ear, general, language, run, "tuned, everyday"),
        )
        losses["tuned"] = _losses(ear, held, wanted, language)
        metrics, verdicts = _judge(before, after, in_torch, losses, before_general, after_general)
        run.items(
            [
                {
                    "id": pair.id,
                    "scores": {
                        "wer": _wer(after[pair.id][1]),
                        "base_wer": _wer(before[pair.id][1]),
                    },
                    "reference": pair.text,
                    "base": before[pair.id][0],
                    "tuned": after[pair.id][0],
                }
                for pair in held
            ]
        )
        run.scores(metrics, verdicts=verdicts)
        run.artifact("result.json", json.dumps({"model": str(ct2.resolve())}))
        for name in ("encoded.npy", "encoded.json"):  # 1.5 MB a clip: nobody needs it now
            (out / name).unlink(missing_ok=True)
    lines = [
        *verdicts,
        f"made {out / 'adapter'}" if settings.method == "lora" else "",
        f"made {out / 'merged'}",
        f"made {ct2}",
        "hear with it: onecard asr transcribe talk.wav --model_name "
        f"{'run:' + run.id if run.id and not settings.output_dir else ct2}",
    ]
    return Result(
        {"metrics": metrics, "verdicts": verdicts, "output_dir": str(out)},
        "\n".join(line for line in lines if line),
    )


def _sha(pairs: Sequence[Pair]) -> str:
    return hashlib.sha256(
        "\n".join(f"{pair.id}\t{pair.text}" for pair in pairs).encode()
    ).hexdigest()


def _spoken(ear: Transcriber, pairs: Sequence[Pair], run: Run) -> str:
    """The language of a few clips, laid end to end and heard."""
    sound = np.concatenate(
        [dataset.sound_of(pair) for pair in pairs[:: max(1, len(pairs) // 12)][:12]]
    )[: 60 * RATE_HZ]
    found, sure = ear.language(sound)
    run.reporter.line(f"the clips are in {found} ({sure:.0%} sure): --language says it else")
    return found


def _first_pass(
    ear: Transcriber, pairs: list[Pair], gate: Gate, language: str, settings: Settings, run: Run
) -> list[Pair]:
    """Clips whose text the untrained model finds to be something else altogether are put aside."""
    longer = (
        [pair for pair in pairs if len(pair.text.split()) >= WORTH_CHECKING]
        if settings.max_first_pass_wer < 10
        else []
    )
    found = _scores(ear, longer, language, run, "first pass")
    wrong = {
        pair.id
        for pair in longer
        if (row := found[pair.id][1]).word_errors > settings.max_first_pass_wer * row.words * 0.999
        and row.char_errors > 0.7 * row.chars
    }
    gate.rejected += [
        (pair, f"text and sound do not match: the first pass heard {found[pair.id][0][:60]!r}")
        for pair in pairs
        if pair.id in wrong
    ]
    return [pair for pair in pairs if pair.id not in wrong]


def _scores(
    ear: Transcriber, pairs: Sequence[Pair], language: str, run: Run, who: str
) -> dict[str, tuple[str, evaluate.Errors]]:
    """id -> (heard, errors): each clip as one window, the same way for every model."""
    out: dict[str, tuple[str, evaluate.Errors]] = {}
    with run.reporter.progress(f"scoring {who}", len(pairs)) as bar:
        for start in range(0, len(pairs), ear.s.batch_size):
            part = pairs[start : start + ear.s.batch_size]
            for pair, heard in zip(
                part, ear.clips([dataset.sound_of(pair) for pair in part], language), strict=True
            ):
                out[pair.id] = heard, evaluate.errors(heard, pair.text, language)
            bar.step(len(part))
    return out


def _opened(folder: Path, settings: Settings) -> tuple[Any, Any]:
    logging.disable_progress_bar()
    net: Any = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    net.to("cuda" if torch.cuda.is_available() else "cpu")
    net.config.use_cache = False
    if settings.gradient_checkpointing:
        net.gradient_checkpointing_enable({"use_reentrant": False})
    return net, WhisperProcessor.from_pretrained(folder)


def _train(
    net: Any,
    processor: Any,
    pairs: Sequence[Pair],
    language: str,
    settings: Settings,
    out: Path,
    run: Run,
) -> Any:
    """Steps of AdamW; the model that came of them.

    Raises KeyboardInterrupt after the checkpoint that a Ctrl-C asked for, DataError for a loss that
    is no number.
    """
    torch.manual_seed(settings.seed)
    heads, end = _heads(processor, language), processor.tokenizer.eos_token_id
    texts = [[*heads, *_text(processor, pair.text), end] for pair in pairs]
    heard = _encoded(net, processor, pairs, settings, out, run) if settings.freeze_encoder else None
    if settings.method == "lora":
        where = (
            r".*decoder.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
            if settings.freeze_encoder
            else r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
        )
        net = get_peft_model(
            net,
            LoraConfig(
                r=settings.lora_r,
                lora_alpha=settings.lora_alpha,
                lora_dropout=settings.lora_dropout,
                target_modules=where,
            ),
        )
    elif settings.freeze_encoder:
        net.model.encoder.requires_grad_(False)
    weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(
        weights.values(),
        lr=settings.learning_rate,
        weight_decay=0.0 if settings.method == "lora" else 0.01,
    )
    n = len(pairs) * (1 + (settings.augment if heard is not None else 0))
    a_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    steps = settings.max_steps or max(1, math.ceil(settings.num_train_epochs * n / a_step))
    checkpoints = out / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    if (
        shutil.disk_usage(out).free
        < 16 * sum(weight.numel() for weight in weights.values()) + 2**26
    ):
        raise DataError(
            f"{out} has no room for a checkpoint",
            why=f"{size(shutil.disk_usage(out).free)} are free",
            fix="free some disk space, or --output_dir elsewhere",
        )
    done = _restore(checkpoints, weights, optimizer)
    stop = output_dir.Stop()
    with run.reporter.progress("training", steps) as bar, stop.heard():
        bar.step(done)
        while done < steps:
            loss = _step(net, processor, pairs, texts, heard, settings, done, steps, optimizer)
            if not math.isfinite(loss):
                raise DataError(
                    f"the loss is {loss} in step {done + 1}",
                    why="a step was too long, or a clip is broken",
                    fix="a smaller --learning_rate; then --resume goes on from the last checkpoint",
                )
            done += 1
            run.log(done, loss=loss, learning_rate=optimizer.param_groups[0]["lr"])
            bar.step(1, f"loss {loss:.3f}")
            if done % settings.save_steps == 0 or done == steps or stop.asked:
                _save(checkpoints, weights, optimizer, done)
            if stop.asked:
                run.reporter.line(
                    f"stopped; go on with: onecard asr train ... --output_dir {out} --resume"
                )
                raise KeyboardInterrupt
    if isinstance(net, PeftModel):
        net.save_pretrained(out / "adapter")
    return net


def _step(
    net: Any,
    processor: Any,
    pairs: Sequence[Pair],
    texts: Sequence[list[int]],
    heard: np.ndarray | None,
    settings: Settings,
    done: int,
    steps: int,
    optimizer: Any,
) -> float:
    """One step; which clips it takes and what is dropped follow from the seed and its number alone."""
    torch.manual_seed(settings.seed * 1_000_003 + done)
    net.train()
    warmup = max(1, round(steps * settings.warmup_ratio))
    rate = (
        (done + 1) / warmup
        if done < warmup
        else 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, steps - warmup)))
    )
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * rate
    total = 0.0
    for part in _picked(len(pairs) if heard is None else len(heard), done, settings):
        batch = (
            _heard(heard, texts, part, len(pairs))
            if heard is not None
            else _features(processor, pairs, texts, part, settings, done)
        )
        where = next(net.parameters()).device
        sound = (
            {"encoder_outputs": (batch.sound.to(where),)}
            if heard is not None
            else {"input_features": batch.sound.to(where)}
        )
        with (
            torch.autocast(where.type, torch.bfloat16)
            if settings.bf16
            else contextlib.nullcontext()
        ):
            logits = net(**sound, decoder_input_ids=batch.ids.to(where)).logits
        loss = (
            torch.nn.functional.cross_entropy(
                logits.float().transpose(1, 2), batch.labels.to(where), ignore_index=IGNORED
            )
            / settings.gradient_accumulation_steps
        )
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(
        [weight for group in optimizer.param_groups for weight in group["params"]], 1.0
    )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _picked(n: int, step: int, settings: Settings) -> Iterator[np.ndarray]:
    """Micro-batches of the step: rounds over all clips, each in an order of its own."""
    whole = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    rows = [
        int(np.random.default_rng([settings.seed, at // n]).permutation(n)[at % n])
        for at in range(step * whole, (step + 1) * whole)
    ]
    yield from np.array(rows).reshape(-1, settings.per_device_train_batch_size)


def _heads(processor: Any, language: str) -> list[int]:
    """<|sot|> <|en|> <|transcribe|> <|notimestamps|>"""
    tokenizer = processor.tokenizer
    known = (
        f"<|{language}|>" in tokenizer.get_vocab() and "<|transcribe|>" in tokenizer.get_vocab()
    )  # models of English alone have no heads for language and task
    heads: list[int] = tokenizer.convert_tokens_to_ids(
        [
            "<|startoftranscript|>",
            *([f"<|{language}|>", "<|transcribe|>"] if known else []),
            "<|notimestamps|>",
        ]
    )
    return heads


def _text(processor: Any, text: str) -> list[int]:
    ids: list[int] = processor.tokenizer(" " + text.strip(), add_special_tokens=False)["input_ids"][
        :MOST_TOKENS
    ]
    return ids


def _mels(processor: Any, sounds: Sequence[np.ndarray], where: Any) -> Tensor:
    """(B, mels, 3000): clips filled up with silence."""
    mels: Tensor = processor.feature_extractor(
        sounds, sampling_rate=RATE_HZ, return_tensors="pt"
    ).input_features.to(where)
    return mels


def _padded(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """(ids, labels): the heads, up to the highest special token at the beginning, are given and not
    learned."""
    heads = next(i for i, token in enumerate(rows[0]) if token < rows[0][-1])
    longest = max(map(len, rows)) - 1
    ids, labels = (
        torch.full((len(rows), longest), rows[0][-1]),
        torch.full((len(rows), longest), IGNORED),
    )
    for i, row in enumerate(rows):
        ids[i, : len(row) - 1] = torch.tensor(row[:-1])
        labels[i, heads - 1 : len(row) - 1] = torch.tensor(row[heads:])
    return ids, labels


def _heard(heard: np.ndarray, texts: Sequence[list[int]], part: np.ndarray, n: int) -> Batch:
    ids, labels = _padded([texts[i % n] for i in part])
    return Batch(
        torch.from_numpy(
            np.asarray(heard[np.sort(part)], dtype=np.float32)[np.argsort(np.argsort(part))]
        ),
        ids,
        labels,
    )


def _features(
    processor: Any,
    pairs: Sequence[Pair],
    texts: Sequence[list[int]],
    part: np.ndarray,
    settings: Settings,
    step: int,
) -> Batch:
    """Mel features with noise, speed and SpecAugment (Park et al.

    2019): two bands of up to 13 mels and two stretches of up to 5 % of the sound are blanked.
    """
    random = np.random.default_rng([settings.seed, step, int(part[0])])
    rows = []
    for i in part:
        sound = varied(dataset.sound_of(pairs[i]), random)
        mel = processor.feature_extractor(
            sound, sampling_rate=RATE_HZ, return_tensors="np"
        ).input_features[0]
        long = max(20, min(mel.shape[1], len(sound) // 160))
        for _ in range(2):
            band, at = int(random.integers(0, 14)), int(random.integers(0, mel.shape[0] - 14))
            mel[at : at + band] = mel.mean()
            gap = int(random.integers(0, max(1, long // 20)))
            at = int(random.integers(0, max(1, long - gap)))
            mel[:, at : at + gap] = mel.mean()
        rows.append(mel)
    ids, labels = _padded([texts[i] for i in part])
    return Batch(torch.from_numpy(np.stack(rows)), ids, labels)


def varied(sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """0.9 to 1.1 times as fast (Ko et al.

    2015), with white noise 15 to 40 dB below it, somewhat louder or softer.
    """
    speed = float(random.uniform(0.9, 1.1))
    made = np.interp(np.arange(0, len(sound) - 1, speed), np.arange(len(sound)), sound).astype(
        np.float32
    )
    level = float(np.sqrt(np.mean(made**2))) * 10 ** (-float(random.uniform(15, 40)) / 20)
    made = (made + random.normal(0, level, len(made)).astype(np.float32)) * float(
        random.uniform(0.7, 1.3)
    )
    return np.clip(made, -1, 1)[: 30 * RATE_HZ]


def _encoded(
    net: Any, processor: Any, pairs: Sequence[Pair], settings: Settings, out: Path, run: Run
) -> np.ndarray:
    """(n, 1500, D) in fp16 on the disk: what the frozen encoder makes of each clip (and of its
    varied copies), made once."""
    n, width = len(pairs) * (1 + settings.augment), net.config.d_model
    path, mark = out / "encoded.npy", out / "encoded.json"
    key = json.dumps([_sha(pairs), settings.augment, settings.seed, width])
    need = n * 1500 * width * 2
    if not (path.exists() and mark.exists() and mark.read_text() == key):
        if shutil.disk_usage(out).free < need + 2**28:
            raise DataError(
                f"{out} has no room for what the encoder makes",
                why=f"{n} clips take {size(need)}",
                fix="--output_dir elsewhere, fewer clips, or --no-freeze_encoder",
            )
        held = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n, 1500, width))
        where = next(net.parameters()).device
        with run.reporter.progress("encoding", n) as bar, torch.inference_mode():
            for start in range(0, n, 8):
                part = range(start, min(n, start + 8))
                sounds = [dataset.sound_of(pairs[i % len(pairs)]) for i in part]
                sounds = [
                    sound
                    if i < len(pairs)
                    else varied(sound, np.random.default_rng([settings.seed, i]))
                    for i, sound in zip(part, sounds, strict=True)
                ]
                held[start : start + len(part)] = (
                    net.model.encoder(_mels(processor, sounds, where))
                    .last_hidden_state.half()
                    .cpu()
                    .numpy()
                )
                bar.step(len(part))
        held.flush()
        del held
        fsio.write_text(mark, key)
    return np.load(path, mmap_mode="r")


def _save(folder: Path, weights: dict[str, Tensor], optimizer: Any, done: int) -> None:
    tensors = {f"net.{name}": weight.detach() for name, weight in weights.items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optim.{i}.{key}": torch.as_tensor(value) for key, value in state.items()}
    with fsio.atomic_write(folder / f"step-{done:06d}.safetensors") as draft:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, draft)
    for old in sorted(folder.glob("step-*.safetensors"))[:-2]:
        old.unlink()


def _restore(folder: Path, weights: dict[str, Tensor], optimizer: Any) -> int:
    """Steps done; weights and optimizer as they were after them.

    Raises DataError for a checkpoint that is cut short or another's.
    """
    last = max(folder.glob("step-*.safetensors"), default=None)
    if last is None:
        return 0
    try:
        held = load_file(last)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(held[f"net.{name}"])
    # safetensors has an error of its own; names that lack are KeyErrors, shapes RuntimeErrors
    except Exception as fault:
        raise DataError(
            f"{last} cannot be gone on from",
            why=str(fault).splitlines()[0][:200],
            fix=f"remove it: the one before in {folder} is taken then",
        ) from None
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in held.items():
        if key.startswith("optim."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return int(last.stem[5:])


def _torch_scores(
    net: Any, processor: Any, pairs: Sequence[Pair], language: str, run: Run
) -> dict[str, tuple[str, evaluate.Errors]]:
    """The merged model in transformers, with the beams of CTranslate2: what the export is held
    against."""
    out = {}
    where = next(net.parameters()).device
    with run.reporter.progress("scoring merged", len(pairs)) as bar, torch.inference_mode():
        for start in range(0, len(pairs), 8):
            part = pairs[start : start + 8]
            mel = _mels(processor, [dataset.sound_of(pair) for pair in part], where)
            spoken = (
                {"language": language, "task": "transcribe"}
                if getattr(net.generation_config, "is_multilingual", True)
                else {}
            )
            made = net.generate(mel, **spoken, num_beams=5, max_new_tokens=200, use_cache=True)
            for pair, text in zip(
                part, processor.batch_decode(made, skip_special_tokens=True), strict=True
            ):
                out[pair.id] = text.strip(), evaluate.errors(text, pair.text, language)
            bar.step(len(part))
    return out


def _losses(
    ear: Transcriber, pairs: Sequence[Pair], wanted: dict[str, list[int]], language: str
) -> dict[str, float]:
    """Nats a token of the wanted texts, in CTranslate2."""
    out: dict[str, float] = {}
    asked = [pair for pair in pairs if pair.id in wanted]
    for start in range(0, len(asked), ear.s.batch_size):
        part = asked[start : start + ear.s.batch_size]
        out |= dict(
            zip(
                [pair.id for pair in part],
                ear.losses(
                    [dataset.sound_of(pair) for pair in part],
                    [wanted[pair.id] for pair in part],
                    language,
                ),
                strict=True,
            )
        )
    return out


@torch.inference_mode()
def _torch_losses(
    net: Any, processor: Any, pairs: Sequence[Pair], wanted: dict[str, list[int]], language: str
) -> dict[str, float]:
    """The same in transformers: among the tokens of text alone, all of which stand before the end
    mark."""
    out: dict[str, float] = {}
    where, heads = next(net.parameters()).device, _heads(processor, language)
    for pair in (pair for pair in pairs if pair.id in wanted):
        logits = net(
            _mels(processor, [dataset.sound_of(pair)], where),
            decoder_input_ids=torch.tensor([[*heads, *wanted[pair.id]]], device=where),
        ).logits[0, len(heads) - 1 : -1, : processor.tokenizer.eos_token_id]
        out[pair.id] = float(
            torch.nn.functional.cross_entropy(
                logits.float(), torch.tensor(wanted[pair.id], device=where)
            )
        )
    return out


def _wer(row: evaluate.Errors) -> float:
    return row.word_errors / max(row.words, 1)


def _judge(
    before: Any,
    after: Any,
    in_torch: Any,
    losses: dict[str, dict[str, float]],
    before_general: Any,
    after_general: Any,
) -> tuple[dict[str, Any], list[str]]:
    """Base against tuned, export against transformers, everyday speech.

    Raises DataError where the export changed what is heard.
    """
    metrics: dict[str, Any] = {}
    for name, rows in (
        ("base_", before),
        ("tuned_", after),
        ("merged_", in_torch),
        ("base_general_", before_general),
        ("tuned_general_", after_general),
    ):
        if rows:
            metrics |= {
                key: value.as_dict()
                for key, value in evaluate.rates([row for _, row in rows.values()], name).items()
            }
    held = stats.compare(
        {key: _wer(row) for key, (_, row) in before.items()},
        {key: _wer(row) for key, (_, row) in after.items()},
        higher_is_better=False,
    )
    verdicts = [
        f"held-out clips, word error rate {metrics['base_wer']['value']:.1%} to "
        f"{metrics['tuned_wer']['value']:.1%}: {held.render()}"
    ]
    export = stats.compare(
        {key: _wer(row) for key, (_, row) in in_torch.items()},
        {key: _wer(row) for key, (_, row) in after.items()},
        higher_is_better=False,
    )
    verdicts.append(f"CTranslate2 against transformers, word error rate: {export.render()}")
    metrics |= {
        f"{who}_loss": stats.mean_interval(list(rows.values())).as_dict()
        for who, rows in losses.items()
    }
    export = stats.compare(losses["merged"], losses["tuned"], higher_is_better=False)
    verdicts.append(f"CTranslate2 against transformers, loss (nats a token): {export.render()}")
    if (
        export.verdict == "worse"
        and export.delta.n >= LEAST_CLIPS
        and export.delta.value > max(PARITY_NATS, PARITY_SHARE * metrics["merged_loss"]["value"])
    ):
        raise DataError(
            "the export changed what is heard",
            why=export.render(),
            fix="keep the adapter and the merged folder, which are whole; try --compute_type "
            "float32",
        )
    if before_general:
        rise = metrics["tuned_general_wer"]["value"] - metrics["base_general_wer"]["value"]
        verdicts.append(
            f"everyday speech, word error rate {metrics['base_general_wer']['value']:.1%} to "
            f"{metrics['tuned_general_wer']['value']:.1%}: "
            + (
                "the gain is paid for there; fewer epochs, a smaller --learning_rate or everyday "
                "clips in the dataset may cost less"
                if rise > GENERAL_POINTS
                else "not worse by more than a point"
            )
        )
    else:
        verdicts.append(
            "everyday speech was not scored: --general_dataset tells whether the gain is paid for "
            "elsewhere"
        )
    return metrics, verdicts
