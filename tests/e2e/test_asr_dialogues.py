"""Made dialogues with pauses, repetitions, echoes and two languages, under the real models."""

import difflib
import json
import re

import numpy as np
import pytest
import voices

pytest.importorskip("faster_whisper", reason="installed by make test")

from onecard.reporting import Reporter
from onecard.tasks.asr import formats, recording, speech
from onecard.tasks.asr.configs import DecodeConfig, RecordingConfig
from onecard.tasks.asr.transcriber import Transcriber

RATE = 16_000
DIALOGUES = {
    "capitals": "What is the capital of France?|Paris.|What is the capital of Norway?|Oslo.|"
    "What is the capital of Spain?|Madrid.|What is the capital of Japan?|Tokyo.",
    "drinks": "What would you like to drink?|Coffee.|With milk?|Please.|Anything else?|A sandwich.|"
    "Cash or card?|Card.",
    "vet": "What is the name of your dog?|Bailey.|How old is he?|Seven.|What does he eat?|Chicken.|"
    "And since when is he ill?|Thursday.",
    "doctor": "Where does it hurt?|My left knee, mostly at night.|Since when?|Two weeks.|"
    "Do you take any medicine?|Only aspirin.|I will have a look at it now.|Thanks.",
}
PAUSES_S = (1.5, 3.0)
ALLOWED = 0.02
"""Share of words on the wrong side of a pause."""


def dialogue(text, pause_s):
    """(sound, [(start, end, words)])."""
    pieces, turns, at = [np.zeros(4800, np.float32)], [], 0.3
    for i, line in enumerate(text.split("|")):
        sound = voices.spoken(line, voices.ANYWHERE[i % 2])
        loud = np.flatnonzero(np.abs(sound) > 0.01)
        sound = sound[loud[0] : loud[-1]] * 0.7
        pieces += [sound, np.zeros(int(pause_s * RATE), np.float32)]
        turns.append((at, at + len(sound) / RATE, line.split()))
        at += (len(sound) + int(pause_s * RATE)) / RATE
    whole = np.concatenate(pieces)
    return whole + np.random.default_rng(0).normal(0, 2e-4, len(whole)).astype(np.float32), turns


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber(DecodeConfig(language="en", compute_type="float32"), Reporter())


@pytest.fixture(scope="module")
def heard(transcriber, tmp_path_factory):
    """[(turns, transcript)] of eight dialogues."""
    folder, rows = tmp_path_factory.mktemp("dialogues"), []
    for name, text in DIALOGUES.items():
        for pause in PAUSES_S:
            sound, turns = dialogue(text, pause)
            path = voices.write(folder / f"{name}{pause}.wav", sound)
            config = RecordingConfig(language="en", compute_type="float32")
            rows.append((turns, recording.transcribe_recording(transcriber, path, config)))
    return rows


def plain(word):
    return re.sub(r"\W", "", word.lower())


def test_words_stand_on_their_side_of_a_pause(heard):
    n = n_wrong = 0
    for turns, transcript in heard:
        expected = [(plain(word), i) for i, (_, _, words) in enumerate(turns) for word in words]
        words = [word for segment in transcript.segments for word in segment.words]
        matcher = difflib.SequenceMatcher(
            None, [word for word, _ in expected], [plain(word.text) for word in words], False
        )
        for a, b, size in matcher.get_matching_blocks():
            for i in range(size):
                turn, word = expected[a + i][1], words[b + i]
                middle = (word.start + word.end) / 2
                away = [max(start - middle, middle - end, 0) for start, end, _ in turns]
                n += 1
                n_wrong += away[turn] > min(away)
    assert n > 100
    assert n_wrong <= ALLOWED * n, (n_wrong, n)


def test_no_segment_and_no_caption_spans_a_pause(heard):
    for turns, transcript in heard:
        for segment in transcript.segments:
            within = [
                min(end, segment.end) - max(start, segment.start) > 0.1 for start, end, _ in turns
            ]
            assert sum(within) == 1, segment
        cues = formats.render(transcript, "srt").count("-->")
        assert cues >= len(transcript.segments)


def hear(transcriber, sound, regions=None, **settings):
    transcriber.config = DecodeConfig(**{"compute_type": "float32", **settings})
    language = "" if settings.get("multilingual") else "en"
    return transcriber.transcribe(sound.astype(np.float32), language, regions)


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01, 0.001])
def test_speech_is_found_at_any_level(gain):
    sound, _ = dialogue(DIALOGUES["vet"], 1.5)
    expected = sum(row["end"] - row["start"] for row in speech.regions(sound, 0.5))
    found = sum(row["end"] - row["start"] for row in speech.regions(sound * np.float32(gain), 0.5))
    assert found > 0.9 * expected


@pytest.mark.parametrize("gain", [1.0, 0.01, 0.0001])
def test_noise_at_any_level_is_no_speech(gain):
    noise = np.random.default_rng(0).normal(0, 0.1 * gain, 20 * RATE).astype(np.float32)
    assert sum(row["end"] - row["start"] for row in speech.regions(noise, 0.5)) < RATE


# Loops and echoes

REPEATED = "No no no no no no no no no no, I will not go there tomorrow."


def test_what_somebody_repeats_stays(transcriber):
    hypothesis = hear(transcriber, voices.spoken(REPEATED, "en-us+m3"))
    text = " ".join(segment.text for segment in hypothesis.segments).lower()
    assert text.count("no") >= 7
    assert "tomorrow" in text
    assert not hypothesis.dropped


def everything(sound):
    """As if voice activity detection took all for speech."""
    return [{"start": 0, "end": len(sound)}]


PROMPT = "This is a podcast about gardening and the weather in spring."


def test_an_echo_of_the_prompt_is_removed_and_told(transcriber):
    noise = np.random.default_rng(0).normal(0, 0.1, 10 * RATE)
    unguarded = hear(
        transcriber, noise, everything(noise), initial_prompt=PROMPT, hallucination_filter=False
    )
    assert "gardening" in " ".join(s.text for s in unguarded.segments), "the model echoes"
    guarded = hear(transcriber, noise, everything(noise), initial_prompt=PROMPT)
    assert "gardening" not in " ".join(s.text for s in guarded.segments)
    assert any("echo" in row["why"] for row in guarded.dropped)


def test_a_prompt_leaves_other_speech(transcriber):
    sound = voices.spoken("We begin with the tomatoes of my neighbour.")
    hypothesis = hear(transcriber, sound, initial_prompt=PROMPT)
    assert "tomatoes" in " ".join(segment.text for segment in hypothesis.segments)
    assert not hypothesis.dropped


# Languages

GERMAN = "Guten Morgen, wir treffen uns morgen am Bahnhof und fahren dann mit dem Zug."
ENGLISH = "Good morning, I wanted to ask you about the meeting on Thursday afternoon."


@pytest.fixture(scope="module")
def two_languages():
    pause = np.zeros(RATE, np.float32)
    german = voices.spoken(GERMAN, "de")
    return np.concatenate([voices.spoken(ENGLISH), pause, german, pause])


def test_each_language_is_written_as_itself(transcriber, two_languages):
    segments = hear(transcriber, two_languages, multilingual=True).segments
    texts = {}
    for segment in segments:
        texts[segment.language] = texts.get(segment.language, "") + segment.text
    assert "meeting" in texts["en"]
    assert re.search(r"Bahnhof|Zug|morgen", texts["de"]), texts


def test_another_language_is_reported_where_one_is_set(onecard, two_languages, tmp_path):
    german = two_languages[len(voices.spoken(ENGLISH)) :]
    path = voices.write(tmp_path / "two.wav", np.concatenate([german] * 2))
    words = ["--language", "English", "--output_dir", tmp_path, "--formats", "json", "--json"]
    result = onecard("asr", "transcribe", path, *words)
    assert result.code == 0, result.err
    warnings = " ".join(json.loads((tmp_path / "two.json").read_text())["warnings"])
    assert "sounds like 'de'" in warnings


def test_multilingual_and_a_language_are_refused(onecard, tmp_path):
    path = voices.write(tmp_path / "x.wav", voices.spoken("Hello."))
    result = onecard("asr", "transcribe", path, "--multilingual", "--language", "de")
    assert result.code == 2
    assert "contradict" in result.err
