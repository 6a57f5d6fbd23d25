"""Captions, file formats, speakers and the hallucination filter: no model."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import voices as synthetic

pytest.importorskip("faster_whisper", reason="installed by make test")

from onecard.tasks.asr import (
    audio,
    diarization,
    formats,
    hallucination_filter,
    model_files,
    names,
    recording,
    speech,
    transcribe,
)
from onecard.tasks.asr import transcript as transcripts
from onecard.tasks.asr.configs import DecodeConfig, TranscribeConfig
from onecard.tasks.asr.transcript import Segment, Transcript, Turn, Word


def segment(text, start=0.0, end=2.0, **options):
    parts = text.split()
    step = (end - start) / max(len(parts), 1)
    words = tuple(
        Word(start + i * step, start + (i + 1) * step, f" {part}", 0.9)
        for i, part in enumerate(parts)
    )
    return Segment(start, end, text, words, **options)


# Hallucinations


@pytest.mark.parametrize(
    ("text", "speech_s", "probability", "options"),
    [
        ("Thanks for watching!", 0.2, 0.8, {}),
        ("Thank you.", 2.0, 0.3, {}),
        ("Untertitel der Amara.org-Community", 0.1, 0.9, {}),
        ("♪♪♪", 2.0, 0.9, {}),
        ("you", 0.0, 0.9, {}),
        ("Words that nobody said", 2.0, 0.3, {"no_speech_prob": 0.9, "avg_logprob": -1.4}),
        (
            "one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
            "fifteen",
            0.3,
            0.9,
            {},
        ),
        ("...", 1.0, 0.9, {}),
    ],
)
def test_a_hallucination_is_dropped(text, speech_s, probability, options):
    assert hallucination_filter.reason_to_drop(segment(text, **options), speech_s, probability)


@pytest.mark.parametrize(
    ("text", "speech_s", "probability"),
    [
        ("Thank you.", 1.8, 0.95),
        ("Ask not what your country can do for you.", 2.0, 0.8),
        ("No, no, no, I said no.", 1.9, 0.9),
        ("Bye.", 1.5, 0.9),
        ("yes", 0.6, 0.7),
    ],
)
def test_speech_stays(text, speech_s, probability):
    assert not hallucination_filter.reason_to_drop(segment(text), speech_s, probability)


# Formats


@pytest.fixture
def conversation():
    segments = [
        segment("Is <i>1 < 2</i> & true?", 0, 3, speaker="Anna"),
        segment("Yes.", 3.5, 4.5, speaker="Bo b"),
    ]
    return Transcript("en", 0.9, 9.0, segments, [Turn(0, 3, "Anna"), Turn(3.5, 4.5, "Bo b")])


@pytest.mark.parametrize(
    ("format", "line", "expected"),
    [
        ("srt", 0, "1"),
        ("srt", 1, "00:00:00,000 --> 00:00:03,000"),
        ("srt", 2, "Anna: Is <i>1 < 2</i> & true?"),
        ("vtt", 0, "WEBVTT"),
        ("vtt", 2, "00:00:00.000 --> 00:00:03.000"),
        ("vtt", 3, "<v Anna>Is &lt;i&gt;1 &lt; 2&lt;/i&gt; &amp; true?"),
        ("tsv", 2, "3500\t4500\tBo b\tYes."),
        ("rttm", 1, "SPEAKER my_talk 1 3.500 1.000 <NA> <NA> Bo_b <NA> <NA>"),
        ("txt", 2, "[00:00:03] Bo b: Yes."),
    ],
)
def test_formats(conversation, format, line, expected):
    assert formats.render(conversation, format, "my talk").splitlines()[line] == expected


def test_json_gives_the_segments_back(conversation):
    rows = json.loads(formats.render(conversation, "json"))["segments"]
    assert [transcripts.segment_from_dict(row) for row in rows] == conversation.segments


# Speakers


def test_words_are_assigned_to_who_speaks():
    parts = transcripts.assign_speakers(
        [segment("a b c d e f g h", 0, 8)], [Turn(0, 4, "x"), Turn(4, 8, "y")]
    )
    assert [(s.speaker, s.text) for s in parts] == [("x", "a b c d"), ("y", "e f g h")]


def test_words_in_silence_are_assigned_to_the_nearest_speaker():
    parts = transcripts.assign_speakers(
        [segment("a b", 20, 21)], [Turn(0, 4, "x"), Turn(30, 31, "y")]
    )
    assert [s.speaker for s in parts] == ["y"]


def test_a_single_short_word_of_another_speaker_is_no_turn():
    words = [Word(i * 0.3, (i + 1) * 0.3, f" {letter}") for i, letter in enumerate("abcde")]
    parts = transcripts.assign_speakers(
        [Segment(0, 1.5, "a b c d e", tuple(words))],
        [Turn(0, 0.6, "x"), Turn(0.6, 0.9, "y"), Turn(0.9, 1.5, "x")],
    )
    assert [(s.speaker, s.text) for s in parts] == [("x", "a b c d e")]


UNIT = np.eye(8)[:3] + 0.05
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)


@pytest.fixture
def voices():
    """Embeddings of eight spans by three speakers: 1 0 1 2 0 0 1 2."""
    noise = np.random.default_rng(0).normal(0, 0.02, (8, 8))
    embeddings = UNIT[[1, 0, 1, 2, 0, 0, 1, 2]] + noise
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


@pytest.mark.parametrize("length", [3.0, 0.2], ids=["long", "a short span follows the nearest"])
def test_speakers_are_numbered_by_their_first_span(voices, length):
    lengths = np.array([3, 3, 3, 3, 3, length, 3, 3])
    assert diarization.cluster(voices, lengths, 0, 0.27).tolist() == [0, 1, 0, 2, 1, 1, 0, 2]


def test_the_number_of_speakers_can_be_set(voices):
    assert set(diarization.cluster(voices, np.full(8, 3.0), 2, 0.27).tolist()) == {0, 1}


def test_a_single_span_is_one_speaker(voices):
    assert diarization.cluster(voices[:1], np.array([3.0]), 0, 0.27).tolist() == [0]


@pytest.mark.parametrize("n_speakers", [1, 2, 3, 5])
def test_the_number_of_speakers_is_the_one_that_separates_best(n_speakers):
    """Voices that are nearer to each other than 0.27, as those of one family, with replies of a
    second."""
    random = np.random.default_rng(n_speakers)
    common = np.ones(64) / 8
    people = [common + 0.5 * axis for axis in np.eye(64)[:n_speakers]]
    spans = np.array([people[i % n_speakers] + random.normal(0, 0.01, 64) for i in range(20)])
    spans = (spans / np.linalg.norm(spans, axis=1, keepdims=True)).astype(np.float32)
    labels = diarization.cluster(spans, np.full(20, 1.0), 0, 0.0)
    assert labels.tolist() == [i % n_speakers for i in range(20)]


def test_an_enrolled_voice_has_its_name():
    assert diarization.name_speakers(UNIT[[1, 0]], {"Anna": UNIT[0]}) == ["speaker 1", "Anna"]


# Files and chunks


def test_files_of_one_name_have_two_outputs():
    files = [Path(name) for name in ("a/talk.wav", "b/talk.wav", "b/talk.mp3", "ü/日本.wav")]
    assert list(transcribe.output_names(files).values()) == [
        "talk.wav",
        "b-talk.wav",
        "talk.mp3",
        "日本",
    ]


RATE = recording.RATE_HZ


@pytest.mark.parametrize(
    ("regions_s", "cut_s"),
    [
        ([(0, 5), (470, 480)], 470),
        ([(0, 5)], 480),
        ([], 480),
        ([(100, 480)], 480),
    ],
    ids=["speech reaches the end", "a pause", "silence", "speech without a pause"],
)
def test_a_chunk_is_cut_before_speech_that_reaches_its_end(regions_s, cut_s):
    regions = [{"start": start * RATE, "end": end * RATE} for start, end in regions_s]
    assert recording.cut_position(regions, 480 * RATE) == cut_s * RATE


def test_names_of_a_file_are_added(tmp_path):
    (tmp_path / "names.txt").write_text("Anna\nZürich\n\n")
    config = DecodeConfig(names=("Anna", "Bo"), names_file=str(tmp_path / "names.txt"))
    assert names.with_names_file(config).names == ("Anna", "Bo", "Zürich")


# Languages


def test_the_language_of_a_recording_is_the_one_with_most_speech(tmp_path, monkeypatch):
    """A German greeting in the first chunk, then English: the chunks were transcribed before."""
    monkeypatch.setattr(recording, "CHUNK_S", audio.BLOCK_S)

    class Silent:
        def regions(self, sound):
            return speech.regions(sound, 0.5)

    path = synthetic.write(tmp_path / "a.wav", np.zeros(3 * audio.BLOCK_S * 16_000, np.float32))

    def row(language, sure, start, end):
        heard = asdict(segment("a b", start, end, language=language))
        return {"segments": [heard], "dropped": [], "language": language, "sure": sure}

    rows = [row("de", 0.9, 0, 1), row("en", 0.7, 2, 3.5), row("en", 0.8, 4, 5)]
    for multilingual, language in ((True, "en"), (False, "de")):
        config = TranscribeConfig(multilingual=multilingual)
        result = recording.transcribe_recording(Silent(), path, config, rows)
        assert result.language == language
        assert result.languages == [
            {"language": "en", "seconds": 2.5},
            {"language": "de", "seconds": 1.0},
        ]
        assert result.language_probability == {"en": 0.8, "de": 0.9}[language]


# Names of models


@pytest.mark.parametrize("name", ["base", "whisper-base", "small"])
def test_a_folder_in_the_working_directory_takes_no_models_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert model_files.local_folder(name) is None
    assert model_files.local_folder(f"./{name}") == Path(name)
    (tmp_path / "mine").mkdir()
    assert model_files.local_folder("mine") == Path("mine")
