"""Speech over HTTP as OpenAI's API has it, and live from standard input."""

import io
import json
import os
import re
import subprocess
import sys
import time

import hostile_requests
import httpx
import numpy as np
import openai
import pytest
import voices

pytest.importorskip("faster_whisper", reason="installed by make test")

from onecard.tasks.asr import audio

TEXT = "Tomorrow we will meet at the station. The train leaves at half past seven."


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    return voices.write(tmp_path_factory.mktemp("talk") / "talk.wav", voices.spoken(TEXT) * 0.7)


@pytest.fixture(scope="module")
def address(serving):
    return serving("asr", "serve", "--language", "en")


@pytest.fixture
def send(address, talk):
    def post(**fields):
        return httpx.post(
            f"{address}/v1/audio/transcriptions",
            files={"file": ("talk.wav", talk.read_bytes())},
            data={"model": "whisper-1", **fields},
            timeout=120,
        )

    return post


def test_the_server_transcribes(send):
    assert set(re.findall(r"[a-z]+", send().json()["text"].lower())) >= {
        "tomorrow",
        "station",
        "train",
    }


def test_the_server_tells_who_speaks(send):
    reply = send(response_format="verbose_json", diarize="true").json()
    assert reply["segments"][0]["speaker"] == "speaker 1"
    assert reply["words"][0]["word"]
    assert [turn["speaker"] for turn in reply["diarization"]] == ["speaker 1"]
    assert reply["duration"] > 3


def test_the_server_writes_captions(send):
    assert send(response_format="srt").text.startswith("1\n00:00:0")


@pytest.mark.parametrize("fields", [{"response_format": "loud"}, {"language": "xx"}])
def test_the_server_refuses(send, fields):
    assert send(**fields).status_code == 400


def test_the_server_refuses_what_is_no_sound_and_names_no_path(address):
    reply = httpx.post(
        f"{address}/v1/audio/transcriptions",
        files={"file": ("x.wav", b"no sound at all")},
        data={"model": "whisper-1"},
        timeout=60,
    )
    assert reply.status_code == 400
    assert "/tmp" not in reply.text


def test_the_server_refuses_a_request_without_a_file(address):
    url = f"{address}/v1/audio/transcriptions"
    assert httpx.post(url, data={"model": "x"}, timeout=60).status_code == 400


def test_the_server_refuses_another_host(address):
    reply = httpx.get(f"{address}/v1/models", headers={"Host": "evil.example"})
    assert reply.status_code == 403


def test_openais_client_works(address, talk):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
    reply = client.audio.transcriptions.create(
        model="whisper-1", file=io.BytesIO(talk.read_bytes())
    )
    assert "station" in reply.text.lower()


def test_live_speech_is_transcribed_after_each_pause(home, talk):
    sound = np.concatenate([audio.load(talk), np.zeros(32_000, np.float32)] * 2)
    words = ["asr", "transcribe", "--live", "stdin", "--language", "en"]
    process = subprocess.run(
        [sys.executable, "-m", "onecard", *words],
        input=(sound * 32767).astype("<i2").tobytes(),
        capture_output=True,
        env=dict(os.environ),
    )
    assert process.returncode == 0, process.stderr
    output = process.stdout.decode()
    assert output.lower().count("station") >= 2
    assert len(re.findall(r"^\[00:00:\d\d\]", output, re.MULTILINE)) >= 2


# OpenAI's fields


def events_of(text):
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.strip()]


def test_a_stream_gives_events(send):
    reply = send(stream="true")
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = events_of(reply.text)
    deltas = [event["delta"] for event in events if event["type"] == "transcript.text.delta"]
    assert len(deltas) >= 2
    assert events[-1]["type"] == "transcript.text.done"
    assert "".join(deltas).strip() == events[-1]["text"]
    assert "station" in events[-1]["text"].lower()


def test_openais_client_streams(address, talk):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
    with talk.open("rb") as file:
        stream = client.audio.transcriptions.create(model="whisper-1", file=file, stream=True)
        kinds = [event.type for event in stream]
    assert kinds[-1] == "transcript.text.done"
    assert "transcript.text.delta" in kinds


def test_a_stream_of_what_is_no_sound_ends_with_an_error(address):
    reply = httpx.post(
        f"{address}/v1/audio/transcriptions",
        files={"file": ("x.wav", b"no sound at all")},
        data={"stream": "true"},
        timeout=60,
    )
    assert events_of(reply.text)[-1]["type"] == "error"


def test_verbose_json_has_openais_fields(address, talk):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
    with talk.open("rb") as file:
        reply = client.audio.transcriptions.create(
            model="whisper-1",
            file=file,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    assert reply.language == "english"
    needed = set(type(reply.segments[0]).model_fields)
    assert needed <= reply.segments[0].model_dump().keys()
    assert reply.segments[0].tokens == []
    assert all(word.end >= word.start for word in reply.words)


@pytest.mark.parametrize("language", ["English", "en", "en-GB", "eng", "ENGLISH "])
def test_a_language_may_be_named(send, language):
    assert send(language=language, response_format="verbose_json").json()["language"] == "english"


@pytest.mark.parametrize("stream", ["false", "true"])
def test_clients_that_left_keep_nobody_waiting(address, send, stream, tmp_path):
    speech = np.concatenate([voices.spoken(TEXT) * 0.7] * 30)
    sound = voices.write(tmp_path / "long.wav", speech).read_bytes()
    start = time.monotonic()
    send()
    alone = time.monotonic() - start
    for _ in range(5):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(
                f"{address}/v1/audio/transcriptions",
                files={"file": ("long.wav", sound)},
                data={"stream": stream},
                timeout=httpx.Timeout(0.5, connect=5),
            )
    start = time.monotonic()
    assert send().status_code == 200
    # one batch of windows cannot be interrupted
    assert time.monotonic() - start < 10 * alone


def test_no_shape_of_request_is_answered_with_5xx(address, send, talk):
    path, port = "/v1/audio/transcriptions", int(address.rpartition(":")[2])
    uploads = hostile_requests.sound_shapes(path, talk.read_bytes())
    for shape in [*hostile_requests.shapes(path), *uploads]:
        assert hostile_requests.send(port, shape) < 500, shape.name
    assert send().status_code == 200
