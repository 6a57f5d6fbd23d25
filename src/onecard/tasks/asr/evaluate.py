"""onecard asr evaluate: word and speaker errors, speed and latency, against references."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onecard.errors import DataError, SettingsError
from onecard.evaluation import stats
from onecard.evaluation.metrics.kinds import kind_of
from onecard.reporting import Reporter, Result, table
from onecard.runs.record import Run, fingerprint
from onecard.tasks.asr import audio, corpora, metrics, punctuation_restorer, speaker_embedding
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import EvaluateConfig, RecordingConfig
from onecard.tasks.asr.corpora import Clip
from onecard.tasks.asr.diarization_error import diarization_error, read_rttm
from onecard.tasks.asr.metrics import Errors
from onecard.tasks.asr.names import with_names_file
from onecard.tasks.asr.recording import transcribe_recording
from onecard.tasks.asr.transcriber import Transcriber, open_transcriber
from onecard.tasks.asr.transcript import Transcript
from onecard.units import duration


@dataclass(frozen=True)
class Transcribed:
    """A recording with its reference and what was recognised."""

    clip: Clip
    transcript: Transcript
    seconds_taken: float

    def errors(self) -> Errors:
        text, language = self.transcript.text, self.transcript.language
        return metrics.count_errors(text, self.clip.text, language)


def evaluate(config: EvaluateConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError."""
    config = with_names_file(config)
    if not config.references:
        raise SettingsError(
            "there is nothing to score on",
            why="no folder with references was named",
            fix="onecard asr evaluate FOLDER, with talk.txt (or talk.rttm) beside talk.wav",
        )
    # 1. recordings and references
    clips = corpora.read(config.references)
    audio.require_sound([clip.path for clip in clips if clip.path.is_file()])
    digests = sorted(fingerprint(clip.path)[:8] for clip in clips if clip.path.exists())
    run.data("questions", rows=len(clips), sha256="".join(digests)[:64])
    diarize = config.diarize or any(clip.rttm for clip in clips)
    config = config.model_copy(update={"diarize": diarize})
    # 2. transcripts
    transcriber = open_transcriber(config, run)
    _warm_up(transcriber, config)
    items = transcribe_all(transcriber, clips, config, run.reporter)
    if not items:
        raise DataError(
            "nothing could be transcribed",
            why="each recording is missing or no sound",
            fix="see the warnings above",
        )
    left_out = [clip.id for clip in clips if clip.id not in {item.clip.id for item in items}]
    # 3. scores
    with_text = [item for item in items if item.clip.text]
    errors = {item.clip.id: item.errors() for item in with_text}
    values = metrics.error_rates(list(errors.values())) if errors else {}
    if config.restore_punctuation and errors:
        values |= _restoration_metrics(with_text, config, run)
    speakers = {
        item.clip.id: diarization_error(
            item.transcript.turns, read_rttm(item.clip.rttm), item.transcript.seconds
        )
        for item in items
        if item.clip.rttm
    }
    if speakers:
        values["der"] = stats.ratio_interval(
            [row["der"] * row["total_s"] for row in speakers.values()],
            np.array([row["total_s"] for row in speakers.values()]),
            bounds=kind_of("der").bounds,
        )
    taken_s = [item.seconds_taken for item in items]
    length_s = [item.transcript.seconds for item in items]
    values["real_time_factor"] = stats.ratio_interval(
        taken_s, np.array(length_s), bounds=kind_of("real_time_factor").bounds
    )
    values["latency_s"] = stats.metric_interval("latency_s", taken_s)
    # 4. the record
    run.items([_item_row(item, errors[item.clip.id]) for item in with_text])
    rows = {name: interval.as_dict() for name, interval in values.items()}
    run.scores(rows)
    lines = [f"{len(items)} recordings, {duration(sum(length_s))}"]
    lines += [f"{name:17} {interval.render(4)}" for name, interval in values.items()]
    lines += _worst(with_text, errors)
    data = {
        "metrics": rows,
        "speakers": speakers,
        "left_out": left_out,
        "items": {item.clip.id: _item_data(item, errors[item.clip.id]) for item in with_text},
    }
    return Result(data, "\n".join(lines))


def _warm_up(transcriber: Transcriber, config: RecordingConfig) -> None:
    """Load what is loaded on first use, before anything is timed."""
    transcriber.regions(np.zeros(RATE_HZ, dtype=np.float32))
    if config.diarize and config.diarizer == "embedded":
        speaker_embedding.load_encoder()


def transcribe_all(
    transcriber: Transcriber,
    clips: Sequence[Clip],
    config: RecordingConfig,
    reporter: Reporter,
    label: str = "transcribing",
) -> list[Transcribed]:
    """Recordings that are missing or no sound are reported and left out."""
    items: list[Transcribed] = []
    with reporter.progress(label, len(clips)) as bar:
        for clip in clips:
            started = time.perf_counter()
            note = ""
            try:
                if not clip.path.is_file():
                    raise DataError(
                        f"there is no {clip.path}",
                        why="nothing lies at that path",
                        fix="check the table of references",
                    )
                result = transcribe_recording(transcriber, clip.path, config)
                items.append(Transcribed(clip, result, time.perf_counter() - started))
                note = result.text[-40:]
            except DataError as fault:
                reporter.warn(f"{fault.what}: {fault.why}")
            bar.step(1, note)
    return items


def _restoration_metrics(
    items: Sequence[Transcribed], config: EvaluateConfig, run: Run
) -> dict[str, stats.Interval]:
    """Errors after the punctuation restorer, names of the list missed before and after, and words
    changed that are on no list (must be 0)."""
    errors: list[Errors] = []
    missed: list[tuple[int, int, int]] = []
    n_unlisted = 0
    with punctuation_restorer.open_restorer(config, run) as restore:
        for item in items:
            before, reference = item.transcript.text, item.clip.text
            after = " ".join(s.text.strip() for s in restore(item.transcript.segments))
            errors.append(metrics.count_errors(after, reference, item.transcript.language))
            missed_before, n_names = metrics.missed_names(before, reference, config.names)
            missed_after, _ = metrics.missed_names(after, reference, config.names)
            missed.append((missed_before, missed_after, n_names))
            n_unlisted += punctuation_restorer.unlisted_changes(
                before.split(), after.split(), config.names
            )
    values = {
        **{f"edited_{name}": rate for name, rate in metrics.error_rates(errors).items()},
        "editor_unlisted_changes": stats.Interval(n_unlisted, n_unlisted, n_unlisted, len(items)),
    }
    n_names_all = np.array([n for _, _, n in missed])
    if n_names_all.sum():
        bounds = kind_of("name_error").bounds
        for name, counts in (
            ("name_error", [n for n, _, _ in missed]),
            ("edited_name_error", [n for _, n, _ in missed]),
        ):
            values[name] = stats.ratio_interval(counts, n_names_all, bounds=bounds)
    return values


def _item_row(item: Transcribed, errors: Errors) -> dict[str, Any]:
    return {
        "id": item.clip.id,
        "scores": {"wer" if errors.words else "cer": errors.rate},
        "heard": item.transcript.text,
        "reference": item.clip.text,
    }


def _item_data(item: Transcribed, errors: Errors) -> dict[str, Any]:
    return {
        "heard": item.transcript.text,
        "language": item.transcript.language,
        "errors": errors.counts[0],
        "words" if errors.words else "characters": errors.counts[1],
    }


def _worst(items: Sequence[Transcribed], errors: dict[str, Errors]) -> list[str]:
    """A table of the five items with the most errors; nothing where there are none."""
    order = sorted(items, key=lambda item: -errors[item.clip.id].counts[0])[:5]
    cells = [
        [
            Path(item.clip.id).name,
            "{}/{}".format(*errors[item.clip.id].counts),
            item.transcript.text[:60],
            item.clip.text[:60],
        ]
        for item in order
        if errors[item.clip.id].counts[0]
    ]
    return [table(cells, ["worst", "errors", "recognised", "reference"])] if cells else []
