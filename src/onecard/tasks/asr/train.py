"""onecard asr train: Whisper fine-tuned on clips with texts, with its proof. Validation, score of
the base, training, merge, CTranslate2, the same scores again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from onecard.errors import SettingsError
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run
from onecard.tasks.asr import convert, corpora, dataset, features, scoring, trainer
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import DecodeConfig, TrainConfig
from onecard.tasks.asr.corpora import Clip
from onecard.tasks.asr.dataset import ValidationReport
from onecard.tasks.asr.transcriber import Transcriber, open_transcriber
from onecard.training import output_dir

MIN_CHECKED_WORDS = 5
"""Of a text, from which the base model can tell that it belongs to another recording: a single word
may be just what it has to learn."""
MAX_MISMATCH_CER = 0.7
"""Character errors a character, above which text and sound do not belong together."""
NO_FIRST_PASS = 10
"""max_first_pass_wer from which no clip is checked."""
LANGUAGE_CLIPS = 12
LANGUAGE_S = 60
"""From which the language is detected."""


def train(config: TrainConfig, run: Run) -> Result:
    """Tune, and say whether it recognises better.

    Raises OneCardErrors. An out-of-memory error is left to api.run, which calls again with settings
    that need less.
    """
    if not config.dataset:
        raise SettingsError(
            "there is no dataset",
            why="--dataset names no file",
            fix="onecard asr train clips.csv, with columns audio and text",
        )
    reporter = run.reporter
    identity = _identity(config)
    with output_dir.training_folder(config.output_dir, run, identity, resume=config.resume) as out:
        # 1. data
        data = prepare(config, reporter)
        # 2. the base, scored before anything changes
        decoding = DecodeConfig(
            model=config.model, language=config.language, n_threads=config.n_threads
        )
        transcriber = open_transcriber(decoding, run)
        language = config.language
        if language == "auto":
            language = _detect_language(transcriber, data.train, reporter)
        reject_mismatches(transcriber, data, language, config, reporter)
        _record_data(data, out, run)
        base = scoring.score(transcriber, data.evaluation, language, reporter, "base")
        base_general = scoring.score(
            transcriber, data.general, language, reporter, "base, everyday"
        )
        del transcriber
        # 3. training
        folder = convert.transformers_folder(config.model, reporter)
        net, processor = trainer.load_model(folder, config)
        net = trainer.fit(net, processor, data.train, language, config, out, run)
        # 4. merge, and the same scores in transformers
        net = _merge(net, processor, out / "merged")
        merged = scoring.score_in_torch(net, processor, data.evaluation, language, reporter)
        tokens = scoring.reference_tokens(processor, data.evaluation)
        merged_losses = scoring.reference_losses_in_torch(
            net, processor, data.evaluation, tokens, language
        )
        del net
        # 5. the form that transcribes, and the same scores once more
        ct2 = convert.to_ct2(out / "merged", out / "ct2")
        transcriber = open_transcriber(decoding.model_copy(update={"model": str(ct2)}), run)
        tuned = scoring.score(transcriber, data.evaluation, language, reporter, "tuned")
        proof = scoring.Proof(
            base=base,
            merged=merged,
            tuned=tuned,
            base_general=base_general,
            tuned_general=scoring.score(
                transcriber, data.general, language, reporter, "tuned, everyday"
            ),
            merged_losses=merged_losses,
            tuned_losses=scoring.reference_losses(transcriber, data.evaluation, tokens, language),
            groups=data.evaluation_groups(),
        )
        metrics, verdicts = proof.metrics(), proof.verdicts()
        run.items([_item_row(clip, base, tuned) for clip in data.evaluation])
        run.scores(metrics, verdicts=verdicts)
        run.artifact("result.json", json.dumps({"model": str(ct2.resolve())}))
        for file in features.encoder_files(out):  # large, and of no more use
            file.unlink(missing_ok=True)
    return Result(
        {"metrics": metrics, "verdicts": verdicts, "output_dir": str(out)},
        "\n".join([*verdicts, *_written(config, out, run)]),
    )


def _identity(config: TrainConfig) -> dict[str, Any]:
    """What a resumed training must share with the one before."""
    return {
        "model": config.model,
        "dataset": str(Path(config.dataset).expanduser().resolve()),
        "method": config.method,
        "seed": config.seed,
        "freeze_encoder": config.freeze_encoder,
        "lora_r": config.lora_r,
        "eval_dataset": config.eval_dataset,
        "eval_share": config.eval_share,
        "eval_items": config.eval_items,
        "augment": config.augment,
    }


# Data


@dataclass
class TrainingData:
    train: list[Clip]
    evaluation: list[Clip]
    general: list[Clip]

    def evaluation_groups(self) -> dict[str, str]:
        """Clip id -> its speaker where whole speakers were held out, else its text: what is held
        out together proves as much as one clip."""
        trained_on = {clip.speaker for clip in self.train}
        speakers = {clip.speaker for clip in self.evaluation}
        by_speaker = "" not in speakers and not speakers & trained_on
        return {
            clip.id: clip.speaker if by_speaker else clip.text.casefold()
            for clip in self.evaluation
        }

    """Everyday speech."""
    report: ValidationReport


def prepare(config: TrainConfig, reporter: Reporter) -> TrainingData:
    """Read, validate and split. Raises NotFound, DataError."""

    def valid_clips(name: str) -> list[Clip]:
        return dataset.validate(corpora.read(name), reporter).clips[: config.eval_items]

    report = dataset.validate(corpora.read(config.dataset), reporter)
    if config.eval_dataset:
        train, evaluation = report.clips, valid_clips(config.eval_dataset)
    else:
        train, evaluation = dataset.split(
            report.clips, config.eval_share, config.eval_items, config.seed
        )
    dataset.check_leakage(train, evaluation)
    general = valid_clips(config.general_dataset) if config.general_dataset else []
    return TrainingData(train, evaluation, general, report)


def _detect_language(transcriber: Transcriber, clips: Sequence[Clip], reporter: Reporter) -> str:
    """Of some clips, joined."""
    some = clips[:: max(1, len(clips) // LANGUAGE_CLIPS)][:LANGUAGE_CLIPS]
    sound = np.concatenate([dataset.load_sound(clip) for clip in some])
    language, probability = transcriber.detect_language(sound[: LANGUAGE_S * RATE_HZ])
    reporter.line(
        f"the language of the clips is {language} ({probability:.0%} sure); --language overrides it"
    )
    return language


def reject_mismatches(
    transcriber: Transcriber,
    data: TrainingData,
    language: str,
    config: TrainConfig,
    reporter: Reporter,
) -> None:
    """Reject training clips whose text has little to do with what the untrained model
    recognises."""
    if config.max_first_pass_wer >= NO_FIRST_PASS:
        return
    checked = [clip for clip in data.train if len(clip.text.split()) >= MIN_CHECKED_WORDS]
    scores = scoring.score(transcriber, checked, language, reporter, "first pass")
    limit = config.max_first_pass_wer * 0.999  # at 1.0, all words wrong is a mismatch
    mismatched = {
        clip_id: row.text
        for clip_id, row in scores.items()
        if row.errors.counts[0] > limit * row.errors.counts[1]
        and row.errors.char_errors > MAX_MISMATCH_CER * row.errors.chars
    }
    data.report.rejected += [
        (clip, f"text and sound do not match: recognised was {mismatched[clip.id][:60]!r}")
        for clip in data.train
        if clip.id in mismatched
    ]
    data.train = [clip for clip in data.train if clip.id not in mismatched]


def _record_data(data: TrainingData, out: Path, run: Run) -> None:
    dataset.write_rejected(out / "put_aside.jsonl", data.report)
    run.data(
        "train",
        rows=len(data.train),
        sha256=features.fingerprint(data.train),
        put_aside=len(data.report.rejected),
    )
    run.data("questions", rows=len(data.evaluation), sha256=features.fingerprint(data.evaluation))
    run.reporter.line(
        f"{data.report.render()}\n{len(data.train)} clips to train on, {len(data.evaluation)} held "
        f"out, {len(data.general)} of everyday speech"
    )


# After the training


def _merge(net: Any, processor: Any, folder: Path) -> Any:
    """Adapters added to the weights, saved with all that CTranslate2 wants."""
    if isinstance(net, PeftModel):
        with torch.no_grad():
            net = net.merge_and_unload(safe_merge=True)
    net = net.eval().float()
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    # CTranslate2 wants preprocessor_config.json, which a processor no longer writes
    processor.feature_extractor.save_pretrained(folder)
    return net


def _item_row(clip: Clip, base: scoring.Scores, tuned: scoring.Scores) -> dict[str, Any]:
    measure = "wer" if tuned[clip.id].errors.words else "cer"
    return {
        "id": clip.id,
        "scores": {
            measure: tuned[clip.id].errors.rate,
            f"base_{measure}": base[clip.id].errors.rate,
        },
        "audio": str(clip.path),
        "reference": clip.text,
        "base": base[clip.id].text,
        "tuned": tuned[clip.id].text,
    }


def _written(config: TrainConfig, out: Path, run: Run) -> list[str]:
    folders = [out / "merged", out / "ct2"]
    if config.method == "lora":
        folders.insert(0, out / "adapter")
    name = str(out / "ct2")
    if run.id and not config.output_dir:
        name = f"run:{run.id}"
    return [
        *(f"wrote {folder}" for folder in folders),
        f"use it: onecard asr transcribe talk.wav --model {name}",
    ]
