"""Whisper fine-tuned on words that it does not know, from sounds to a model that transcribes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import voices

pytest.importorskip("faster_whisper", reason="installed by make test")
pytest.importorskip("torch", reason="installed by make test")
from processes import kill_when
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from onecard import api
from onecard.errors import SettingsError
from onecard.reporting import Reporter
from onecard.tasks.asr import audio, convert, metrics, scoring
from onecard.tasks.asr.configs import DecodeConfig, TrainConfig
from onecard.tasks.asr.corpora import Clip
from onecard.tasks.asr.transcriber import Transcriber
from onecard.training import checkpoints

TEXT = "Tomorrow we will meet at the station. The train leaves at half past seven."
UNKNOWN = ("onecard grindle", "onecard fimble", "onecard sprocken")
VOICES = ("en-us", "en-us+m3", "en-us+f3", "en-us+m7")


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    return voices.write(tmp_path_factory.mktemp("talk") / "talk.wav", voices.spoken(TEXT) * 0.7)


# The embedded model in transformers


@pytest.fixture(scope="module")
def embedded():
    """(net, processor)."""
    folder = convert.transformers_folder("base", Reporter())
    net = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    return net, WhisperProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber(DecodeConfig(language="en", compute_type="float32"), Reporter())


def test_the_embedded_model_recognises_the_same_in_transformers(embedded, transcriber, talk):
    net, processor = embedded
    sound = audio.load(talk)
    extract = processor.feature_extractor
    mel = extract(sound, sampling_rate=16_000, return_tensors="pt").input_features
    tokens = net.generate(mel, language="en", num_beams=5, max_new_tokens=60)
    reference = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    text = transcriber.transcribe_clips([sound], "en")[0]
    assert metrics.count_errors(text, reference).word_errors <= 1


def test_both_engines_have_the_same_loss(embedded, transcriber, talk):
    """In fp32: the parity gate then measures the export and nothing else."""
    net, processor = embedded
    clips = [Clip(talk, TEXT)]
    tokens = scoring.reference_tokens(processor, clips)
    ours = scoring.reference_losses(transcriber, clips, tokens, "en")
    theirs = scoring.reference_losses_in_torch(net, processor, clips, tokens, "en")
    assert ours == pytest.approx(theirs, abs=1e-3)


# A fine-tune


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """clips.jsonl of UNKNOWN in four synthetic voices at two speeds, and four rows that validation
    rejects."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for i, voice in enumerate(VOICES):
        for j, text in enumerate(UNKNOWN):
            for words_a_minute in (120, 150):
                name = f"{i}-{j}-{words_a_minute}.wav"
                voices.write(folder / name, voices.spoken(text, voice, words_a_minute) * 0.6)
                rows.append({"audio": name, "text": text, "speaker": voice})
    voices.write(folder / "silence.wav", np.zeros(16_000, np.float32))
    for name, text in (
        ("silence.wav", "nothing"),
        ("0-0-120.wav", "onecard grindle"),
        ("missing.wav", "gone"),
        (
            "0-1-120.wav",
            "far too many words for a clip that lasts hardly longer than a single second of time "
            "and goes on and on",
        ),
    ):
        rows.append({"audio": name, "text": text, "speaker": "en-us"})
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def tuned(home, clips, talk, tmp_path_factory):
    """The result of a training by the command line."""
    general = tmp_path_factory.mktemp("general")
    shutil.copy(talk, general / "talk.wav")
    (general / "talk.txt").write_text(TEXT)
    flags = {
        "general_dataset": general,
        "language": "en",
        "num_train_epochs": 3,
        "learning_rate": 1e-3,
        "eval_share": 0.25,
    }
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "onecard", "asr", "train", str(clips / "clips.jsonl")]
    process = subprocess.run(
        [*command, *words, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "ONECARD_RUNS": str(home)},
        timeout=900,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_a_fine_tune_learns_unknown_words(tuned):
    values = {name: row["value"] for name, row in tuned["metrics"].items()}
    assert values["tuned_wer"] < 0.5 * values["base_wer"]
    # one voice was held out: what it gained says nothing about other people
    assert "1 group cannot show a difference" in tuned["verdicts"][0]


def test_the_export_has_the_loss_of_the_merged_model(tuned):
    values = {name: row["value"] for name, row in tuned["metrics"].items()}
    assert values["tuned_loss"] == pytest.approx(values["merged_loss"], abs=0.05)


def test_everyday_speech_is_scored(tuned):
    assert {"merged_wer", "base_general_wer", "tuned_general_wer"} <= tuned["metrics"].keys()
    assert tuned["verdicts"][-1].startswith("everyday speech, WER")


def test_bad_clips_are_rejected(tuned):
    path = Path(tuned["run"]) / "artifacts" / "put_aside.jsonl"
    rejected = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["where"]: row["why"].split(":")[0] for row in rejected} == {
        "clips.jsonl:25": "silence",
        "clips.jsonl:26": "the same as another",
        "clips.jsonl:27": "the file is missing",
        "clips.jsonl:28": "more text than can be said in its time",
    }


def test_the_run_transcribes(tuned, clips, onecard):
    words = ["--model", f"run:{Path(tuned['run']).name}", "--language", "en", "--json"]
    result = onecard("asr", "transcribe", clips / "2-0-150.wav", *words)
    assert result.code == 0, result.err
    assert "grindle" in result.data["files"][0]["text"].lower()


def test_a_killed_fine_tune_ends_as_an_unbroken_one(home, clips, tmp_path):
    few = clips / "few.jsonl"
    few.write_text("".join((clips / "clips.jsonl").read_text().splitlines(keepends=True)[:7]))
    options = {
        "dataset": str(few),
        "language": "en",
        "max_steps": 4,
        "save_steps": 1,
        "per_device_train_batch_size": 2,
        "eval_items": 2,
        "max_first_pass_wer": 99.0,
    }
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    api.run("asr", "train", TrainConfig(**options, output_dir=str(unbroken)))
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", "asr", "train", *words, "--output_dir", str(killed)],
        stderr=subprocess.DEVNULL,
    )
    kill_when(lambda: checkpoints.last(killed / "checkpoints"), child)
    api.run("asr", "train", TrainConfig(**options, output_dir=str(killed), resume=True))
    first, second = (checkpoints.last(out / "checkpoints") for out in (unbroken, killed))
    assert checkpoints.step_of(first) == checkpoints.step_of(second) == 4
    tensors, others = checkpoints.load(first), checkpoints.load(second)
    assert tensors.keys() == others.keys()
    assert max((tensors[name] - others[name]).abs().max() for name in tensors) < 1e-5
    with pytest.raises(SettingsError, match="holds another training"):
        api.run("asr", "train", TrainConfig(**options, output_dir=str(killed)))
