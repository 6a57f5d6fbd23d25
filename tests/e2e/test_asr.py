"""Real speech models on synthetic voices: what is recognised, who speaks, how it is scored."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import voices

pytest.importorskip("faster_whisper", reason="installed by make test")
import av
from processes import kill_when

from onecard.errors import DataError
from onecard.evaluation.metrics.speech import normalize_transcript
from onecard.inference.backends import language_model
from onecard.inference.config import LlmConfig
from onecard.memory.devices import find
from onecard.memory.plan import Plan
from onecard.reporting import Reporter
from onecard.tasks.asr import audio, diarization, metrics, punctuation_restorer, recording
from onecard.tasks.asr.configs import DecodeConfig
from onecard.tasks.asr.diarization_error import diarization_error, read_rttm
from onecard.tasks.asr.transcriber import Transcriber, shift

TEXT = "Tomorrow we will meet at the station. The train leaves at half past seven."
WORDS = {
    "tomorrow",
    "we",
    "will",
    "meet",
    "at",
    "the",
    "station",
    "train",
    "leaves",
    "half",
    "past",
}
FP32 = ("--compute_type", "float32")
"""For tests that compare words: int8 rounds differently with AVX2 and with VNNI."""


def words_of(text):
    return set(re.findall(r"[a-z]+", text.lower()))


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    return voices.write(tmp_path_factory.mktemp("talk") / "talk.wav", voices.spoken(TEXT) * 0.7)


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber(
        DecodeConfig(language="en", batch_size=4, compute_type="float32"), Reporter()
    )


# Files


@pytest.fixture(scope="module")
def transcribed(home, talk, tmp_path_factory):
    """(result row, folder) of one file in every format, with the language detected."""
    out = tmp_path_factory.mktemp("formats")
    formats = [
        w for form in ("txt", "srt", "vtt", "tsv", "json", "rttm") for w in ("--formats", form)
    ]
    words = ["transcribe", str(talk), "--output_dir", str(out), *formats, *FP32, "--json"]
    process = subprocess.run(
        [sys.executable, "-m", "onecard", "asr", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "ONECARD_RUNS": str(home)},
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)["files"][0], out


def test_a_file_is_transcribed(transcribed):
    row, _ = transcribed
    assert words_of(row["text"]) >= WORDS
    assert row["language"] == "en"
    assert row["language_probability"] > 0.5


def test_every_format_is_written(transcribed):
    _, out = transcribed
    suffixes = {path.suffix for path in out.glob("talk.*") if path.stat().st_size}
    assert suffixes == {".txt", ".srt", ".vtt", ".tsv", ".json"}
    assert (out / "talk.rttm").read_text() == "", "nobody asked who speaks"


def test_words_have_times_in_order(transcribed):
    _, out = transcribed
    transcript = json.loads((out / "talk.json").read_text())
    words = [word for segment in transcript["segments"] for word in segment["words"]]
    assert len(words) >= 12
    times = [time for word in words for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= transcript["seconds"] + 0.5


def test_a_folder_is_transcribed_and_resumed(onecard, talk, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    for name in ("talk.wav", "sub/talk.wav", "ünï 日本.wav"):
        shutil.copy(talk, folder / name)
    (folder / "text.wav").write_text("this is no sound")
    words = ["asr", "transcribe", folder, "--output_dir", out, "--language", "en", "--json"]
    first = onecard(*words)
    assert first.code == 0, first.err
    assert sum("text" in row for row in first.data["files"]) == 3
    refused = [Path(row["file"]).name for row in first.data["files"] if "error" in row]
    assert refused == ["text.wav"]
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.txt")}
    assert set(times) == {"talk.wav.txt", "in-talk.wav.txt", "ünï 日本.txt"}
    again = onecard(*words, "--resume")
    assert sum(bool(row.get("skipped")) for row in again.data["files"]) == 3
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.txt")} == times


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The samples of a recording at 16 kHz."""
    path = tmp_path_factory.mktemp("plain") / "plain.wav"
    return audio.load(voices.write(path, voices.spoken(TEXT) * 0.6))


def encode(path, samples, codec, rate_hz, layout="mono"):
    """Write (channels, n) samples of 16 kHz with one of ffmpeg's codecs."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        resampler = av.AudioResampler(
            format=stream.format.name,
            layout=layout,
            rate=rate_hz,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        rows = np.ascontiguousarray(np.atleast_2d(samples), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(rows, "fltp", layout=layout)
        frame.sample_rate = 16_000
        for converted in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [
        ("plain.wav", "pcm_s16le", 16_000),
        ("telephone.wav", "pcm_s16le", 8000),
        ("24bit.wav", "pcm_s24le", 44_100),
        ("float.wav", "pcm_f32le", 48_000),
        ("talk.mp3", "libmp3lame", 44_100),
        ("talk.flac", "flac", 22_050),
    ],
)
def test_any_codec_and_rate_is_read_and_recognised(
    tmp_path, plain, transcriber, name, codec, rate_hz
):
    info = audio.AudioInfo()
    sound = audio.load(encode(tmp_path / name, plain, codec, rate_hz), info)
    assert sound.dtype == np.float32
    assert np.abs(sound).max() <= 1
    assert len(sound) == pytest.approx(len(plain), rel=0.02)
    assert info.warnings() == []
    assert correlation(sound, plain) > 0.95
    assert_recognised(transcriber, sound, plain)


def correlation(sound, reference):
    """At the delay where it is highest: encoders shift a sound by some milliseconds."""
    n = len(sound) + len(reference)
    products = np.fft.irfft(np.fft.rfft(sound, n) * np.conj(np.fft.rfft(reference, n)), n)
    return products.max() / (np.linalg.norm(sound) * np.linalg.norm(reference))


def assert_recognised(transcriber, sound, reference):
    """At least 60 % of the words of the undamaged recording; punctuation may differ."""
    text, reference_text = transcriber.transcribe_clips([sound, reference], "en")
    expected = words_of(reference_text)
    assert len(words_of(text) & expected) >= 0.6 * len(expected), text


def test_a_silent_channel_does_not_halve_the_level(tmp_path, plain):
    info = audio.AudioInfo()
    rows = np.stack([plain, np.zeros_like(plain)])
    sound = audio.load(encode(tmp_path / "a.wav", rows, "pcm_s16le", 16_000, "stereo"), info)
    assert info.silent_channel
    assert np.sqrt((sound**2).mean() / (plain**2).mean()) == pytest.approx(1, abs=0.05)


def test_clipping_is_reported_and_recognised(tmp_path, plain, transcriber):
    info = audio.AudioInfo()
    clipped = voices.write(tmp_path / "clipped.wav", np.clip(plain * 12, -1, 1))
    sound = audio.load(clipped, info)
    assert info.clipped > audio.CLIPPED_SHARE
    assert "too loud" in info.warnings()[0]
    assert_recognised(transcriber, sound, plain)


def test_a_truncated_file_is_used_to_its_end(tmp_path, plain):
    whole = encode(tmp_path / "talk.mp3", plain, "libmp3lame", 44_100)
    whole.write_bytes(whole.read_bytes()[: 2 * whole.stat().st_size // 3])
    assert 0.4 * len(plain) < len(audio.load(whole)) < 0.8 * len(plain)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", "is empty"),
        ("text.wav", b"hello, this is text\n" * 50, "no sound that can be read|no audio stream"),
        (
            "noise.mp3",
            bytes(np.random.default_rng(0).integers(0, 255, 4000, dtype=np.uint8)),
            "no sound|cannot be decoded|no audio",
        ),
    ],
)
def test_what_is_no_sound_is_refused(onecard, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    result = onecard("asr", "transcribe", tmp_path / name)
    assert result.code == 5
    assert re.search(message, result.err), result.err


def test_0_seconds_are_refused(tmp_path):
    voices.write(tmp_path / "nothing.wav", np.zeros(0, np.float32))
    with pytest.raises(DataError, match=r"0 seconds|cannot be decoded|is empty"):
        audio.load(tmp_path / "nothing.wav")


def test_a_film_without_sound_is_refused(tmp_path):
    picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    with pytest.raises(DataError, match=r"no audio stream"):
        audio.load(tmp_path / "film.mp4")


# Hallucinations


def no_speech(name):
    """30 s at 16 kHz."""
    random = np.random.default_rng(0)
    time_s = np.arange(30 * 16_000) / 16_000
    chord = sum(np.sin(2 * np.pi * f * time_s) for f in (220, 277, 330, 440)) * 0.08
    beat = 0.2 * random.normal(0, 1, len(time_s)) * (np.mod(time_s, 0.5) < 0.05)
    sounds = {
        "silence": np.zeros_like(time_s),
        "hiss": random.normal(0, 0.002, len(time_s)),
        "noise": random.normal(0, 0.2, len(time_s)),
        "music": chord * (1 + np.sin(2 * np.pi * 2 * time_s)) + beat,
        "hum": 0.3 * np.sin(2 * np.pi * 50 * time_s),
    }
    return sounds[name].astype(np.float32)


def n_words(segments):
    return sum(len(segment.text.split()) for segment in segments)


@pytest.mark.parametrize("name", ["silence", "hiss", "noise", "music", "hum"])
def test_nothing_is_transcribed_without_speech(transcriber, name):
    segments = transcriber.transcribe(no_speech(name), "en").segments
    assert n_words(segments) <= 1, segments


@pytest.mark.parametrize("name", ["silence", "noise", "music"])
def test_little_is_transcribed_where_voice_activity_is_wrong(transcriber, name):
    """As if somebody spoke all the time."""
    everything = [{"start": 0, "end": 28 * 16_000}]
    segments = transcriber.transcribe(no_speech(name), "en", everything).segments
    assert n_words(segments) <= 14, segments


# Long recordings


@pytest.fixture(scope="module")
def lecture(tmp_path_factory):
    """(file, text) of fifty seconds. The sentences differ: Whisper leaves out repetitions."""
    pause = np.zeros(9000, np.float32)
    pieces = [part for line in voices.LINES for part in (voices.spoken(line) * 0.7, pause)]
    path = tmp_path_factory.mktemp("lecture") / "long.wav"
    return voices.write(path, np.concatenate(pieces)), " ".join(voices.LINES)


def assert_close(text, reference):
    """Few errors, and no more words lost or doubled than at a seam."""
    errors = metrics.count_errors(text, reference)
    assert errors.wer < 0.3, text
    assert len(normalize_transcript(text).split()) == pytest.approx(errors.words, rel=0.12), text


def test_a_long_recording_is_transcribed_in_chunks(lecture, monkeypatch, transcriber):
    """Chunks of 20 s here: no word is lost or doubled at the seams, and times go on."""
    path, reference = lecture
    monkeypatch.setattr(recording, "CHUNK_S", 20)
    monkeypatch.setattr(audio, "BLOCK_S", 7)
    info, starts, segments = audio.AudioInfo(), [], []
    for start, sound, regions in recording.chunks(transcriber, path, info):
        assert len(sound) <= 30 * 16_000
        starts.append(start)
        chunk = transcriber.transcribe(sound, "en", regions)
        segments += [shift(segment, start) for segment in chunk.segments]
    assert len(starts) >= 3
    assert_close(" ".join(segment.text for segment in segments), reference)
    assert all(a.end <= b.start + 0.6 for a, b in itertools.pairwise(segments))
    assert segments[-1].end <= info.seconds + 0.5


def test_a_killed_transcription_resumes_where_it_was(home, lecture, tmp_path):
    path, reference = lecture
    code = (
        "import sys; from onecard.tasks.asr import audio, recording; "
        "recording.CHUNK_S, audio.BLOCK_S = 15, 5; "
        "from onecard.cli.app import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["asr", "transcribe", str(path), "--output_dir", str(tmp_path), "--language", "en"]
    command = [sys.executable, "-c", code, *words, "--no-word_timestamps", *FP32]
    partial = tmp_path / ".long.part.jsonl"
    kill_when(partial.exists, subprocess.Popen(command, stderr=subprocess.DEVNULL))
    assert not (tmp_path / "long.txt").exists()
    n_finished = len(partial.read_text().splitlines()) - 1
    # a mark in a finished chunk shows that it is taken and not transcribed again
    partial.write_text(partial.read_text().replace("Good morning", "Bad morning"))
    resumed = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    text = json.loads(resumed.stdout)["files"][0]["text"]
    assert n_finished >= 1
    assert text.startswith("Bad morning")
    assert_close(text, reference)
    assert not partial.exists()


# Speakers


@pytest.fixture(scope="module")
def conversation(tmp_path_factory):
    """(sound, RTTM) of two voices."""
    return voices.conversation(voices.ANYWHERE, tmp_path_factory.mktemp("conversation"))


def test_two_voices_are_told_apart(onecard, conversation, tmp_path):
    sound, rttm = conversation
    formats = [word for form in ("rttm", "txt") for word in ("--formats", form)]
    words = ["--diarize", "--language", "en", "--output_dir", tmp_path, *formats, "--json"]
    result = onecard("asr", "transcribe", sound, *words)
    assert result.code == 0, result.err
    row = result.data["files"][0]
    assert row["speakers"] == ["speaker 1", "speaker 2"]
    turns = read_rttm(tmp_path / f"{sound.stem}.rttm")
    error = diarization_error(turns, read_rttm(rttm), row["seconds"])
    assert error["der"] < 0.08, error
    assert (tmp_path / f"{sound.stem}.txt").read_text().count("speaker 1:") >= 4


def test_an_enrolled_voice_has_its_name(onecard, conversation, tmp_path):
    sound, _ = conversation
    text = " ".join(voices.LINES[3:6])
    clip = voices.write(tmp_path / "clip.wav", voices.spoken(text, voices.ANYWHERE[0]) * 0.5)
    name = f"Test Person {os.getpid()}"
    assert onecard("asr", "enroll", name, clip).code == 0
    try:
        words = ["--diarize", "--num_speakers", 2, "--language", "en", "--output_dir", tmp_path]
        result = onecard("asr", "transcribe", sound, *words, "--json")
        assert result.data["files"][0]["speakers"] == [name, "speaker 1"]
    finally:
        (diarization.voices_folder() / f"{name}.json").unlink()


def test_a_name_cannot_lead_out_of_the_folder(onecard, talk):
    assert onecard("asr", "enroll", "../evil", talk).code == 2


# Scores


def test_a_folder_with_references_is_scored(onecard, talk, tmp_path):
    """Word, speaker and name errors, before and after the punctuation restorer."""
    shutil.copy(talk, tmp_path / "talk.wav")
    (tmp_path / "talk.txt").write_text(TEXT.replace("station", "Station"))
    sound, _ = voices.conversation(voices.ANYWHERE, tmp_path)
    sound.with_suffix(".txt").write_text(" ".join(voices.LINES))
    words = [
        "--language",
        "en",
        "--restore_punctuation",
        "--names",
        "Station",
        "--names",
        "Peter",
        "--json",
    ]
    result = onecard("asr", "evaluate", tmp_path, *words)
    assert result.code == 0, result.err
    values = {name: row["value"] for name, row in result.data["metrics"].items()}
    assert values["wer"] < 0.25
    assert values["cer"] < 0.2
    assert values["der"] < 0.1
    assert values["real_time_factor"] > 0
    assert values["editor_unlisted_changes"] == 0
    assert values["edited_name_error"] <= values["name_error"]
    assert values["edited_wer"] <= values["wer"] + 0.01


def test_a_missing_recording_is_left_out_of_the_score(onecard, talk, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(f"audio,text\n{talk},{TEXT}\nmissing.wav,gone\n")
    result = onecard("asr", "evaluate", table, "--language", "en", "--json")
    assert result.code == 0, result.err
    assert result.data["left_out"] == ["table.csv:3"]
    assert list(result.data["items"]) == ["table.csv:2"]


# Punctuation

MEETING = (
    "good morning i wanted to ask you about the meeting on thursday afternoon we have moved it to "
    "the large room"
)


def test_the_punctuation_restorer_works_with_a_real_model(home):
    """SmolLM2 within the grammar: punctuation comes, no word changes."""
    words = MEETING.split()
    plan = Plan((), find("cpu"))
    with language_model(LlmConfig(model="smollm2-135m", n_ctx=2048), plan, Reporter()) as client:
        ask = punctuation_restorer.ask_client(client)
        restored = punctuation_restorer.restore(words, ("Schmidt",), ask)
    text = restored.text
    assert punctuation_restorer.unlisted_changes(words, text.split(), ("Schmidt",)) == 0
    assert restored.n_discarded == 0
    assert any(mark in text for mark in ".,?")
    assert text[0] == "G"
