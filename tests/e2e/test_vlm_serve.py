"""vlm ask, chat and serve over a real llama.cpp with a vision half of random weights: its answers
mean nothing, and its tokens, pictures and errors are real."""

import base64
import concurrent.futures
import io
import json
import re
import signal
import subprocess
import time

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from onecard.errors import DataError, EngineError, NotFound, SettingsError
from onecard.inference.llamacpp import LlamaCpp
from onecard.memory import devices
from onecard.memory.plan import Plan
from onecard.reporting import Reporter
from onecard.tasks.vlm import chat, engine_http, gguf_pairs
from onecard.tasks.vlm.configs import AskConfig, ServeConfig
from onecard.tasks.vlm.engine import Picture, Question, with_pictures
from onecard.tasks.vlm.items import Turn
from tests import made_llava, made_qwen2vl

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


def scene(seed=0, width=200, height=120):
    y, x = np.mgrid[0:height, 0:width]
    dice = np.random.default_rng(seed)
    waves = [128 + 110 * np.sin(x / dice.uniform(5, 30) + y / dice.uniform(5, 30)) for _ in "rgb"]
    return np.stack(waves, -1).astype(np.uint8)


def uri(rgb):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def part(rgb):
    return {"type": "image_url", "image_url": {"url": uri(rgb)}}


def words(text):
    return {"type": "text", "text": text}


def user(*parts):
    return {"role": "user", "content": list(parts)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, session_home):
    return made_llava.write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def server(pair):
    """The address of a vlm server without a path."""
    child = subprocess.Popen(
        made_llava.words_of(
            "serve", model=str(pair), port=0, n_ctx=2048, max_tokens=24, max_images=4
        ),
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    while line := child.stderr.readline():
        lines.append(line)
        if address := re.search(r"http://127\S+?:\d+", line):
            yield address[0]
            break
    else:
        raise AssertionError("".join(lines))
    child.send_signal(signal.SIGINT)
    child.wait(timeout=60)


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=120)


def asked(client, *messages, **more):
    return client.chat.completions.create(model="any", messages=list(messages), **more)


@pytest.fixture(scope="module")
def engine(pair):
    config = AskConfig(model=str(pair), n_ctx=2048, max_tokens=24)
    with engine_http.opened(config, plan(), Reporter()) as opened:
        yield opened


def plan():
    return Plan((), devices.find("cpu"))


# The server


def test_whole_and_streamed_answers_are_the_same(client):
    question = user(part(scene()), words("What is this?"))
    whole = asked(client, question)
    stream = list(asked(client, question, stream=True, stream_options={"include_usage": True}))
    text = "".join(event.choices[0].delta.content or "" for event in stream if event.choices)
    assert text == whole.choices[0].message.content and text
    assert stream[-1].usage == whole.usage
    assert [e.choices[0].finish_reason for e in stream if e.choices][-1] == "length"
    assert whole.usage.completion_tokens == 24


def test_a_picture_is_its_tokens_and_reaches_the_model(client):
    blind = asked(client, user(words("What is this?"))).usage
    one = asked(client, user(part(scene()), words("What is this?"))).usage
    assert one.prompt_tokens - blind.prompt_tokens == made_llava.TOKENS
    assert one.prompt_tokens_details.image_tokens == made_llava.TOKENS  # type: ignore[union-attr]
    two = asked(
        client,
        user(part(scene(1)), words("And this?")),
        {"role": "assistant", "content": "Waves."},
        user(words("And"), part(scene(2)), words("this?")),
    ).usage
    assert two.prompt_tokens_details.image_tokens == 2 * made_llava.TOKENS


def test_two_pictures_give_two_distributions(engine):
    """What the model says next depends on the pixels, not on there being a picture."""
    turns = with_pictures("What is this?", [1])
    rows = [engine.first_token(Question(turns, (Picture(scene(i)),)), 20) for i in range(2)]
    assert len(rows[0]) == 20 and rows[0] != rows[1]


def test_a_schema_is_kept(client):
    reply = asked(
        client,
        user(part(scene()), words("The colour?")),
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    )
    assert json.loads(reply.choices[0].message.content)["colour"] in ("red", "blue")


def test_an_answer_ends_at_a_stop(client):
    question = user(part(scene()), words("Count from one to ten."))
    whole = asked(client, question).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    expected = whole[: whole.index(stop)]
    reply = asked(client, question, stop=[stop])
    assert reply.choices[0].message.content == expected
    assert reply.choices[0].finish_reason == "stop"
    stream = asked(client, question, stop=stop, stream=True)
    assert "".join(e.choices[0].delta.content or "" for e in stream if e.choices) == expected


def test_a_request_chooses_its_sampling(client):
    question = user(part(scene()), words("Tell a story."))

    def told(**more):
        return asked(client, question, **more).choices[0].message.content

    assert told() == told(temperature=0)  # the server's own
    drawn = [told(temperature=1.5, seed=seed) for seed in (1, 2)]
    assert told() not in drawn and drawn[0] != drawn[1]
    assert told(temperature=1.5, top_p=1e-6, seed=1) == told()


def test_settings_that_are_the_servers_are_named(server):
    body = {"messages": [user(words("hi"))], "presence_penalty": 0.9, "max_tokens": 2}
    reply = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=60)
    assert "presence_penalty" in reply.headers["X-Schema-Not-Enforced"]


BAD = {
    "a file": [user({"type": "image_url", "image_url": {"url": "/etc/hostname"}})],
    "a file address": [user({"type": "image_url", "image_url": {"url": "file:///etc/hostname"}})],
    "an address": [user({"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}})],
    "no base64": [user({"type": "image_url", "image_url": {"url": "data:image/png;base64,@@"}})],
    "no picture": [user({"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}})],
    "a tracking pixel": [user(part(np.zeros((1, 1, 3), np.uint8)))],
    "five pictures": [user(*[part(scene())] * 5, words("?"))],
    "no role": [{"content": "hi"}],
    "too long": [user(words("word " * 9000))],
    "far too long": [user(words("word " * 90_000))],
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_with_a_reason(server, name, stream):
    body = {"messages": BAD[name], "stream": stream}
    reply = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 400, reply.text
    message = reply.json()["error"]["message"]
    assert "why:" in message and "fix:" in message


def test_bad_requests_do_not_disturb_the_others(server, client):
    question = user(part(scene()), words("What is this?"))
    expected = asked(client, question).choices[0].message.content

    def bad(name):
        body = {"messages": BAD[name]}
        return httpx.post(f"{server}/v1/chat/completions", json=body, timeout=60).status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        good = [pool.submit(asked, client, question) for _ in range(3)]
        codes = list(pool.map(bad, BAD))
        assert {each.result().choices[0].message.content for each in good} == {expected}
    assert set(codes) == {400}


def test_a_data_uri_of_50_mb_is_refused_at_the_door(server):
    body = '{"messages": [{"role": "user", "content": "' + "A" * (50 << 20) + '"}]}'
    reply = httpx.post(f"{server}/v1/chat/completions", content=body, timeout=60)
    assert reply.status_code == 413


def test_the_guard_stands_before_it(server):
    body = {"messages": [user(words("hi"))], "max_tokens": 2}
    url = f"{server}/v1/chat/completions"
    assert httpx.post(url, json=body, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.post(url, json=body, headers={"Origin": "http://evil.example"}).status_code == 403
    assert httpx.get(f"{server}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server}/v1/models").json()["data"][0]["id"]
    assert httpx.get(f"{server}/v1/models/none").status_code == 404
    assert httpx.get(url).status_code == 405


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_the_engine(server, client, stream):
    long = {"messages": [user(part(scene()), words("Tell a long story."))], "max_tokens": 1500}
    if stream:
        with httpx.stream(
            "POST", f"{server}/v1/chat/completions", json={**long, "stream": True}, timeout=60
        ) as reply:
            next(reply.iter_text())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server}/v1/chat/completions", json=long, timeout=0.5)
    began = time.monotonic()
    assert asked(client, user(words("hi")), max_tokens=2).choices[0].message.content
    assert time.monotonic() - began < 8  # 1,500 tokens take half a minute


# Engines


def test_pictures_are_prepared_as_the_model_was_trained(engine):
    """A wide picture and its own middle square are one and the same."""
    wide = scene(width=240, height=120)
    assert engine.picture_tokens(Picture(wide)) == made_llava.TOKENS
    square = engine._pixels(Picture(wide))
    assert square.shape == (64, 64, 3)
    alone = engine._pixels(Picture(wide[:, 60:180]))
    assert np.abs(square.astype(int) - alone)[:, 4:-4].max() <= 1  # the filter reaches over an edge
    texts = {
        engine.answer(Question(with_pictures("What is this?", [1]), (Picture(rgb),))).text
        for rgb in (wide, wide[:, 60:180])
    }
    assert len(texts) == 1


def test_markers_that_do_not_match_are_refused(engine):
    question = Question((Turn("user", "<image><image> same?"),), (Picture(scene()),))
    with pytest.raises(DataError, match="2 markers"):
        engine.answer(question)


def test_many_questions_are_answered_in_their_order(engine):
    questions = [
        Question(with_pictures(text, [1]), (Picture(scene(i)),))
        for i, text in enumerate(("What is this?", "Name a colour.", "Count to three."))
    ]
    rows = [answer.text for answer in engine.answers(questions, max_tokens=8)]
    assert rows == [engine.answer(question, max_tokens=8).text for question in questions]


def test_a_server_is_asked_as_the_file_is(engine, server):
    """onecard vlm ask --base_url, with the model's name from the server's list."""
    config = AskConfig(base_url=f"{server}/v1", max_tokens=24)
    question = Question(with_pictures("What is this?", [1]), (Picture(scene()),))
    with engine_http.opened(config, plan(), Reporter()) as remote:
        assert remote.name
        answer = remote.answer(question)
        stream = "".join(remote.stream(question))
    assert answer.text == stream == engine.answer(question).text
    assert answer.prompt_tokens and answer.finish_reason == "length"


def test_a_model_without_vision_is_refused(pair, tmp_path):
    lonely = tmp_path / "alone" / "model.gguf"
    lonely.parent.mkdir()
    lonely.symlink_to(pair.resolve())
    question = Question(with_pictures("What is this?", [1]), (Picture(scene()),))
    config = AskConfig(model=str(lonely), n_ctx=512, max_tokens=4)
    with engine_http.opened(config, plan(), Reporter()) as blind:
        assert blind.answer(Question((Turn("user", "hi"),))).text
        with pytest.raises(DataError, match="without vision"):
            blind.answer(question)
        with pytest.raises(DataError, match="without vision"):
            blind.picture_tokens(question.pictures[0])
        address = AskConfig(base_url=blind.client.base_url, api_key_env="BLIND_KEY", max_tokens=4)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BLIND_KEY", blind.client.api_key)
            with engine_http.opened(address, plan(), Reporter()) as remote:
                with pytest.raises(DataError, match="without vision"):
                    remote.picture_tokens(question.pictures[0])
                for _ in range(2):
                    with pytest.raises(DataError, match="without vision"):
                        list(remote.stream(question))


def test_a_server_that_is_not_there():
    config = AskConfig(base_url="http://127.0.0.1:9/v1", model="x")
    question = Question(with_pictures("?", [1]), (Picture(scene()),))
    with (
        engine_http.opened(config, plan(), Reporter()) as nobody,
        pytest.raises(EngineError, match="no answer"),
    ):
        nobody.answer(question)


def test_limits_without_effect_are_refused(pair):
    for limit in ({"max_pixels": 1000}, {"min_pixels": 100_000}):
        config = AskConfig(model=str(pair), n_ctx=512, **limit)
        with (
            pytest.raises(SettingsError, match="no effect"),
            engine_http.opened(config, plan(), Reporter()),
        ):
            pass


def tokens_with(path, sizes, answers=True, **limits):
    """Of pictures of these sizes (width, height), without the marks around them."""
    config = AskConfig(model=str(path), n_ctx=8192, max_tokens=4, **limits)
    with engine_http.opened(config, plan(), Reporter()) as model:
        counts = []
        for width, height in sizes:
            picture = Picture(np.zeros((height, width, 3), np.uint8))
            counts.append(model.picture_tokens(picture))
            if not answers:
                continue
            # what is told before is what the prompt then has
            answer = model.answer(Question(with_pictures("?", [1]), (picture,)))
            blind = model.answer(Question((Turn("user", "?"),)))
            assert answer.prompt_tokens - blind.prompt_tokens == counts[-1]
    return counts


def test_limits_are_kept_by_a_model_of_any_size(tmp_path):
    """llama.cpp #17345: there they were without effect."""
    path = made_qwen2vl.write(tmp_path)
    area = made_qwen2vl.SIDE**2
    sizes = [(280, 280), (1120, 560)]
    free = tokens_with(path, sizes)
    marks = free[0] - 100
    assert free == [100 + marks, 800 + marks]
    assert tokens_with(path, sizes[:1], max_pixels=25 * area) == [25 + marks]
    assert tokens_with(path, sizes[:1], min_pixels=400 * area) == [400 + marks]
    large = (3000, 2000)  # 7,700 tokens: llama.cpp's own limit is 4,096
    raised = tokens_with(path, [large], answers=False, max_pixels=6000 * area)
    assert 5500 < raised[0] <= 6000 + marks
    with pytest.raises(SettingsError, match="more than max_pixels"):
        tokens_with(path, [], min_pixels=2000, max_pixels=1000)


# Files


def test_a_vision_half_of_another_model_is_refused(pair, tmp_path):
    other = made_llava.write_vision(tmp_path / "mmproj-other.gguf", out=512)
    with pytest.raises(DataError, match="another model") as fault:
        LlamaCpp(pair, mmproj=other)
    assert "512" in fault.value.why and "576" in fault.value.why


def test_a_broken_vision_half_is_refused(pair, tmp_path):
    whole = (pair.parent / "mmproj-f16.gguf").read_bytes()
    for name, data in (
        ("cut", whole[: len(whole) // 2]),
        ("empty", b""),
        ("text", b"no GGUF at all, but long enough for a header"),
    ):
        path = tmp_path / f"mmproj-{name}.gguf"
        path.write_bytes(data)
        with pytest.raises(DataError):
            LlamaCpp(pair, mmproj=path)
    with pytest.raises(DataError, match="no mmproj"):
        LlamaCpp(pair, mmproj=pair)
    with pytest.raises(DataError, match="vision half"):
        LlamaCpp(pair.parent / "mmproj-f16.gguf", mmproj=pair)


def test_what_llamacpp_says_of_a_file_is_told(pair, tmp_path):
    """Its header is whole, and a tensor that the graph needs is missing."""
    data = (pair.parent / "mmproj-f16.gguf").read_bytes()
    path = tmp_path / "mmproj-lacking.gguf"
    path.write_bytes(data.replace(b"v.blk.1.ffn_up.weight", b"v.blk.1.ffn_uX.weight"))
    with pytest.raises(EngineError) as fault:
        LlamaCpp(pair, mmproj=path)
    assert "v.blk.1.ffn_up.weight" in fault.value.why


def test_the_vision_half_beside_the_model_is_taken(pair, tmp_path):
    folder = tmp_path / "pair"
    language = made_llava.write_pair(folder)
    config = AskConfig(model=str(language))
    assert gguf_pairs.find(config, Reporter()).vision == folder / "mmproj-f16.gguf"
    made_llava.write_vision(folder / "mmproj-f32.gguf", outtype="f32")
    made_llava.write_vision(folder / "other-mmproj.gguf", out=512)
    assert gguf_pairs.find(config, Reporter()).vision == folder / "mmproj-f16.gguf"
    assert gguf_pairs.find(AskConfig(model=str(folder)), Reporter()).language == language
    made_llava.write_vision(folder / "mmproj-second.gguf")
    with pytest.raises(DataError, match="not clear"):
        gguf_pairs.find(config, Reporter())
    with pytest.raises(NotFound):
        gguf_pairs.find(AskConfig(model=str(language), mmproj="none.gguf"), Reporter())


# Commands


def test_ask_tells_sizes_and_keeps_a_schema(pair, tmp_path):
    Image.fromarray(scene()).save(tmp_path / "waves.png")
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    code, result, answer, err = made_llava.run(
        "ask",
        images=["waves.png", "waves.png", "What colour?"],
        model=str(pair),
        schema_file=str(tmp_path / "schema.json"),
        n_ctx=1024,
        stdin="It may be red.",
        cwd=tmp_path,
    )
    assert code == 0, err
    assert "waves.png: 200x120 px -> 16 tokens" in err
    assert result["fields"]["colour"] in ("red", "blue") and result["schema_faults"] == []
    assert result["answer"] == answer.strip()
    assert result["question"].startswith("Context:\nIt may be red.")
    assert result["picture_tokens"] == 32 and result["prompt_tokens"] > 32
    assert result["completion_tokens"] and result["seconds"] > 0


def test_ask_without_a_picture_tells_it(pair):
    code, result, _, err = made_llava.run(
        "ask", images=["Say hello."], model=str(pair), n_ctx=512, max_tokens=4
    )
    assert code == 0 and "no picture" in err and result["picture_tokens"] == 0


def test_a_mistake_is_told_before_the_model_is_loaded(tmp_path):
    code, _, _, err = made_llava.run("ask", images=["cat.png", "Why?"], model="none.gguf")
    assert code == NotFound.code and "there is no picture cat.png" in err


def test_the_repl_keeps_pictures_and_saves_them(pair, tmp_path):
    for i in range(2):
        Image.fromarray(scene(i)).save(tmp_path / f"{i}.png")
    code, result, _, err = made_llava.run(
        "chat",
        images=[str(tmp_path / "0.png")],
        model=str(pair),
        n_ctx=1024,
        max_tokens=8,
        system="Be brief.",
        stdin="What is this?\n/image none.png\n/image 1.png\nAnd <image> this?\n/again\n/nonsense\n"
        "/save talk.json\n/save talk.md\n/save talk.json\n/clear\nhi\n/load talk.json\nAnd now?\n"
        "/load none.json\n/exit\n",
        cwd=tmp_path,
    )
    assert code == 0, err
    assert "goes with the next question" in err and "there is no picture none.png" in err
    assert "(16 of pictures)" in err and "(32 of pictures)" in err
    assert "talk.json exists" in err and "none.json is not a saved conversation" in err
    assert result["turns"] == 5
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [row["role"] for row in saved] == ["system", "user", "assistant", "user", "assistant"]
    assert saved[3]["content"][0]["image_url"]["url"] == str(tmp_path / "1.png")
    assert "![](" in (tmp_path / "talk.md").read_text()
    assert len(result["messages"]) == 7


def test_old_turns_are_left_out_with_their_pictures(engine):
    turns = [(Turn("system", "Be brief."), ())]
    for i in range(6):
        shown = (chat.Shown(Picture(scene(i))),)
        turns.append((Turn("user", f"<image>\nQuestion {i}?"), shown))
        turns.append((Turn("assistant", "Waves."), ()))
    turns.append((Turn("user", "Last?"), ()))
    fitting = chat.fit_turns(turns, engine, 110)
    assert fitting[0][0].role == "system" and fitting[1][0].role == "user"
    assert fitting[-1][0].text == "Last?"
    # 20 tokens of system and last question, 24 of words and 16 of the picture for each pair
    assert len(fitting) == 2 + 2 * 2
    assert len(chat.fit_turns(turns, engine, 10_000)) == len(turns)
    assert [turn.text for turn, _ in chat.fit_turns(turns, engine, 1)] == ["Be brief.", "Last?"]


def test_the_servers_settings_are_bounded():
    with pytest.raises(ValueError):
        ServeConfig(n_parallel=0)
