"""Scores before and after a fine-tune, in CTranslate2 and in transformers, and what they prove."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from onecard.errors import DataError
from onecard.evaluation import stats
from onecard.reporting import Reporter
from onecard.tasks.asr import dataset, features, metrics
from onecard.tasks.asr.corpora import Clip
from onecard.tasks.asr.metrics import Errors
from onecard.tasks.asr.transcriber import Transcriber

PARITY_NATS = 0.05
PARITY_SHARE = 0.03
"""What CTranslate2 in int8 may lose against transformers in fp32 before the export is refused,
where the paired test shows the loss too: nats a token of the reference texts, or a share of them
where the loss is still high (int8 moved the base model's 1.24 nats of everyday speech by 3 %).
Differences in words are reported only: in a few short clips a beam that changes is a large share of
all words."""
MAX_GENERAL_RISE = 0.01
"""Word error rate on everyday speech: a rise above one point is reported as the price of the
gain."""
TORCH_BATCH = 8
BEAMS = 5
MAX_NEW_TOKENS = 200


@dataclass(frozen=True)
class Scored:
    text: str
    errors: Errors


Scores = dict[str, Scored]
"""clip id -> what was recognised."""
Losses = dict[str, float]
"""clip id -> nats a token of the reference text."""


# Recognised texts


def score(
    transcriber: Transcriber, clips: Sequence[Clip], language: str, reporter: Reporter, name: str
) -> Scores:
    """Each clip as one window, the same way for every model."""
    scores: Scores = {}
    batch_size = transcriber.config.batch_size
    with reporter.progress(f"scoring {name}", len(clips)) as bar:
        for start in range(0, len(clips), batch_size):
            part = clips[start : start + batch_size]
            sounds = [dataset.load_sound(clip) for clip in part]
            texts = transcriber.transcribe_clips(sounds, language)
            scores |= _scored(part, texts, language)
            bar.step(len(part))
    return scores


@torch.inference_mode()
def score_in_torch(
    net: Any, processor: Any, clips: Sequence[Clip], language: str, reporter: Reporter
) -> Scores:
    """The merged model in transformers, with the beams of CTranslate2: the export is compared with
    it."""
    scores: Scores = {}
    device = next(net.parameters()).device
    options = {"language": language, "task": "transcribe"}
    if not getattr(net.generation_config, "is_multilingual", True):
        options = {}
    with reporter.progress("scoring merged", len(clips)) as bar:
        for start in range(0, len(clips), TORCH_BATCH):
            part = clips[start : start + TORCH_BATCH]
            sounds = [dataset.load_sound(clip) for clip in part]
            tokens = net.generate(
                features.mel_features(processor, sounds, device),
                **options,
                num_beams=BEAMS,
                max_new_tokens=MAX_NEW_TOKENS,
                use_cache=True,
            )
            texts = processor.batch_decode(tokens, skip_special_tokens=True)
            scores |= _scored(part, texts, language)
            bar.step(len(part))
    return scores


def _scored(clips: Sequence[Clip], texts: Sequence[str], language: str) -> Scores:
    return {
        clip.id: Scored(text.strip(), metrics.count_errors(text, clip.text, language))
        for clip, text in zip(clips, texts, strict=True)
    }


# Loss of the reference texts


def reference_tokens(processor: Any, clips: Sequence[Clip]) -> dict[str, list[int]]:
    """clip id -> tokens of its text; clips without any are left out."""
    tokens = {clip.id: features.text_tokens(processor, clip.text) for clip in clips}
    return {clip_id: ids for clip_id, ids in tokens.items() if ids}


def reference_losses(
    transcriber: Transcriber, clips: Sequence[Clip], tokens: Mapping[str, list[int]], language: str
) -> Losses:
    """In CTranslate2, of the clips that have tokens."""
    losses: Losses = {}
    clips = [clip for clip in clips if clip.id in tokens]
    batch_size = transcriber.config.batch_size
    for start in range(0, len(clips), batch_size):
        part = clips[start : start + batch_size]
        sounds = [dataset.load_sound(clip) for clip in part]
        nats = transcriber.losses(sounds, [tokens[clip.id] for clip in part], language)
        losses |= zip((clip.id for clip in part), nats, strict=True)
    return losses


@torch.inference_mode()
def reference_losses_in_torch(
    net: Any,
    processor: Any,
    clips: Sequence[Clip],
    tokens: Mapping[str, list[int]],
    language: str,
) -> Losses:
    """In transformers. Among the tokens of text alone, whose numbers are all below the end mark's,
    as CTranslate2's alignment has it."""
    losses: Losses = {}
    device = next(net.parameters()).device
    prompt = features.prompt_tokens(processor, language)
    n_text_tokens = processor.tokenizer.eos_token_id
    for clip in clips:
        if clip.id not in tokens:
            continue
        target = tokens[clip.id]
        mel = features.mel_features(processor, [dataset.load_sound(clip)], device)
        ids = torch.tensor([[*prompt, *target]], device=device)
        logits = net(mel, decoder_input_ids=ids).logits[0, len(prompt) - 1 : -1, :n_text_tokens]
        nats = torch.nn.functional.cross_entropy(
            logits.float(), torch.tensor(target, device=device)
        )
        losses[clip.id] = float(nats)
    return losses


# What it proves


@dataclass
class Proof:
    """Scores of the base model, the merged model in transformers and the export in CTranslate2."""

    base: Scores
    merged: Scores
    tuned: Scores
    base_general: Scores
    """On everyday speech; empty where there is none."""
    tuned_general: Scores
    merged_losses: Losses
    tuned_losses: Losses
    groups: Mapping[str, str]
    """Clip id -> the speaker or text that it shares with others."""

    def metrics(self) -> dict[str, dict[str, Any]]:
        intervals: dict[str, stats.Interval] = {}
        for prefix, scores in (
            ("base_", self.base),
            ("tuned_", self.tuned),
            ("merged_", self.merged),
            ("base_general_", self.base_general),
            ("tuned_general_", self.tuned_general),
        ):
            if scores:
                errors = [row.errors for row in scores.values()]
                groups = [self.groups.get(clip_id, clip_id) for clip_id in scores]
                intervals |= metrics.error_rates(errors, prefix, groups)
        for name, losses in (("merged", self.merged_losses), ("tuned", self.tuned_losses)):
            groups = [self.groups.get(clip_id, clip_id) for clip_id in losses]
            intervals[f"{name}_loss"] = stats.metric_interval("loss", list(losses.values()), groups)
        return {name: interval.as_dict() for name, interval in intervals.items()}

    def verdicts(self) -> list[str]:
        """Tuned against base, export against transformers, everyday speech.

        Raises DataError where the export changed the model.
        """
        values = {name: row["value"] for name, row in self.metrics().items()}
        measure = self.measure
        gain = self._compare_errors(self.base, self.tuned)
        export = self._compare_errors(self.merged, self.tuned)
        limit = max(PARITY_NATS, PARITY_SHARE * values["merged_loss"])
        # clips of one speaker count apart here: the same weights are compared, not people
        loss = stats.compare_metric("loss", self.merged_losses, self.tuned_losses, margin=limit)
        if loss.verdict == stats.WORSE:
            raise DataError(
                "the export changed the model",
                why=loss.render(),
                fix="keep the adapter and the merged folder, which are complete; try "
                "--compute_type float32",
            )
        return [
            f"held-out clips, {measure.upper()} {values[f'base_{measure}']:.1%} to "
            f"{values[f'tuned_{measure}']:.1%}: {gain.render()}",
            f"CTranslate2 against transformers, {measure.upper()}: {export.render()}",
            f"CTranslate2 against transformers, loss (nats a token): {loss.render()}",
            self._general_verdict(values),
        ]

    def _general_verdict(self, values: Mapping[str, float]) -> str:
        if not self.base_general:
            return "everyday speech was not scored: --general_dataset tells whether it got worse"
        measure = _measure(self.base_general)
        before, after = (values[f"{name}_general_{measure}"] for name in ("base", "tuned"))
        verdict = "not worse by more than a point"
        if after - before > MAX_GENERAL_RISE:
            verdict = (
                "the gain is paid for there; fewer epochs, a smaller --learning_rate or everyday "
                "clips in the dataset may cost less"
            )
        return f"everyday speech, {measure.upper()} {before:.1%} to {after:.1%}: {verdict}"

    @property
    def measure(self) -> str:
        """Of words, or of characters in languages that have none."""
        return _measure(self.base)

    def _compare_errors(self, before: Scores, after: Scores) -> stats.Comparison:
        old, new = (
            {key: row.errors.rate for key, row in scores.items()} for scores in (before, after)
        )
        return stats.compare_metric(self.measure, old, new, groups=self.groups)


def _measure(scores: Scores) -> str:
    return "wer" if any(row.errors.words for row in scores.values()) else "cer"
