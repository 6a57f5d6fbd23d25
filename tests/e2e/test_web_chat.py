"""The chat page in a real browser with the real embedded model."""

import contextlib
import io
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
import wave

import httpx
import made_llava
import numpy as np
import pytest
import workbench as benches
from PIL import Image
from playwright.sync_api import expect

LONG = "Write a long story about a fox, a crow and a river. Use many words."


@pytest.fixture
def chat(workbench):
    """A conversation whose answers are short and always the same."""
    settings = {"temperature": 0, "max_tokens": 24, "seed": 1}
    return workbench.api.post("/chats", json={"settings": settings}).json()["id"]


@pytest.fixture
def open_chat(workbench, page):
    def opened(chat="", **more):
        words = "&".join(f"{name}={value}" for name, value in {"id": chat, **more}.items() if value)
        page.goto(f"{workbench.url}/chat?{words}")
        page.wait_for_selector("body[data-ready=chat]")
        return page

    return opened


def longer(workbench, chat, max_tokens=700):
    settings = {"temperature": 0.8, "max_tokens": max_tokens, "seed": 7}
    workbench.api.patch(f"/chats/{chat}", json={"settings": settings})


def answers(page):
    return page.locator(".message.assistant")


def ask(page, text):
    before = answers(page).count()
    page.fill("#question", text)
    page.press("#question", "Enter")
    expect(answers(page)).to_have_count(before + 1)


def wait_for_words(page, n=30):
    page.wait_for_function(
        "n => document.querySelector('.message.assistant .prose').textContent.length > n",
        arg=n,
        timeout=60_000,
    )


def wait_for_end(page):
    expect(page.locator("#stop")).to_be_hidden(timeout=120_000)
    expect(page.locator(".message.live")).to_have_count(0)


def words_of(workbench, chat):
    rows = workbench.api.get(f"/chats/{chat}/messages").json()["messages"]
    return [row["content"] for row in rows]


def imported(workbench, *messages, **more):
    rows = [
        {"role": "assistant" if i % 2 else "user", "content": text}
        for i, text in enumerate(messages)
    ]
    reply = workbench.api.post("/chats/import", json={"messages": rows, **more})
    return reply.json()["chats"][0]["id"]


# One conversation


def test_a_question_is_answered_word_by_word(workbench, open_chat):
    page = open_chat()
    lengths = page.evaluate_handle(
        """() => { const seen = []; new MutationObserver(() => {
             const node = document.querySelector(".message.assistant .prose");
             if (node) seen.push(node.textContent.length);
           }).observe(document.querySelector("#messages"), {childList: true, subtree: true});
           return seen; }"""
    )
    ask(page, "Explain what a computer is.")
    expect(page.locator(".message.user .plain")).to_have_text("Explain what a computer is.")
    wait_for_end(page)
    expect(answers(page)).to_have_count(1)
    assert len(set(lengths.json_value())) > 3
    expect(answers(page).locator(".stats")).to_contain_text("tokens/s")
    expect(answers(page).locator(".stats")).to_contain_text("first token after")
    expect(answers(page).locator(".stats")).to_contain_text("of memory")
    expect(page.locator("#chat-list a[aria-current]")).to_contain_text("Explain what a computer")
    assert "id=" in page.url
    expect(page.locator("#question")).to_be_focused()


def test_an_answer_is_stopped_and_goes_on(workbench, open_chat, chat):
    longer(workbench, chat)
    page = open_chat(chat)
    ask(page, LONG)
    wait_for_words(page)
    page.click("#stop")
    wait_for_end(page)
    expect(answers(page)).to_contain_text("Stopped. What was written is kept.")
    kept = words_of(workbench, chat)[1]
    assert kept
    longer(workbench, chat, max_tokens=8)
    page.reload()
    page.click(".message.assistant [data-act=continue]")
    benches.until(lambda: words_of(workbench, chat)[1] != kept)
    wait_for_end(page)
    if (
        workbench.last_message(chat)["stats"]["finish"] == "length"
    ):  # else the model found its end before
        expect(answers(page)).to_contain_text("Cut at the longest answer")
    whole = words_of(workbench, chat)[1]
    assert whole.startswith(kept) and len(whole) > len(kept)
    assert kept not in whole[len(kept) :]


def test_a_reload_in_the_middle_loses_nothing(workbench, open_chat, chat):
    """And a second page sees the same answer grow."""
    longer(workbench, chat)
    page = open_chat(chat)
    ask(page, LONG)
    wait_for_words(page)
    before = answers(page).locator(".prose").inner_text()
    second = page.context.new_page()
    second.goto(page.url)
    page.reload()
    expect(page.locator("#stop")).to_be_visible()
    expect(answers(page).locator(".prose")).to_contain_text(before.split("\n")[0][:40])
    at_reload = len(answers(page).locator(".prose").inner_text())
    page.wait_for_function(
        "n => document.querySelector('.message.assistant .prose').innerText.length > n + 40",
        arg=at_reload,
    )
    expect(answers(second).locator(".prose")).to_contain_text(before.split("\n")[0][:40])
    page.click("#stop")
    wait_for_end(page)
    wait_for_end(second)
    assert (
        answers(page).locator(".prose").inner_text()
        == answers(second).locator(".prose").inner_text()
    )


def test_a_closed_browser_does_not_end_the_answer(workbench, open_chat, chat):
    longer(workbench, chat, max_tokens=60)
    page = open_chat(chat)
    ask(page, LONG)
    expect(page.locator("#stop")).to_be_visible()
    page.goto("about:blank")
    for _ in range(400):
        rows = workbench.api.get(f"/chats/{chat}/messages").json()["messages"]
        if rows[-1]["status"] != "streaming":
            break
        time.sleep(0.1)
    assert rows[-1]["status"] == "complete" and rows[-1]["stats"]["tokens"] > 20


def test_a_second_answer_and_an_edit_are_branches(workbench, open_chat, chat):
    page = open_chat(chat)
    ask(page, "Say a word.")
    wait_for_end(page)
    page.click(".message.assistant [data-act=regenerate]")
    expect(page.locator(".message.assistant .branch")).to_have_text("‹2/2›", timeout=30_000)
    wait_for_end(page)
    page.click(".message.assistant [data-act=previous]")
    expect(page.locator(".message.assistant .branch")).to_have_text("‹1/2›")

    page.locator(".message.user").hover()
    page.click(".message.user [data-act=edit]")
    page.fill(".message.user textarea", "Say another word.")
    page.press(".message.user textarea", "Enter")
    expect(page.locator(".message.user .plain")).to_have_text("Say another word.")
    wait_for_end(page)
    expect(page.locator(".message.user .branch")).to_have_text("‹2/2›")
    page.click(".message.user [data-act=previous]")
    expect(page.locator(".message.user .plain")).to_have_text("Say a word.")
    expect(page.locator(".message.assistant .branch")).to_have_text("‹2/2›")
    page.reload()
    expect(page.locator(".message.user .plain")).to_have_text("Say a word.")


def test_a_deleted_message_comes_back(workbench, open_chat):
    chat = imported(workbench, "one", "first", "two", "second")
    page = open_chat(chat)
    page.locator(".message.user").nth(1).hover()
    page.locator(".message.user [data-act=delete]").nth(1).click()
    expect(page.locator(".message")).to_have_count(2)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".message")).to_have_count(4)


def test_a_deleted_conversation_comes_back(workbench, open_chat):
    chat = imported(workbench, "the pelican", "yes")
    page = open_chat(chat)
    page.click("#chat-button")
    page.click("#delete")
    expect(page.locator(f"#chat-list a[data-id='{chat}']")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(f"#chat-list a[data-id='{chat}']")).to_have_count(1)
    expect(page.locator(".message")).to_have_count(2)


def test_a_model_that_is_none_fails_and_the_question_stays(workbench, open_chat, chat):
    workbench.api.patch(f"/chats/{chat}", json={"model": "smolm2-135m"})
    page = open_chat(chat)
    ask(page, "Hello?")
    fault = answers(page).locator(".fault")
    expect(fault).to_contain_text("smolm2-135m", timeout=60_000)
    expect(fault).to_contain_text("fix:")
    page.reload()
    expect(page.locator(".message.user .plain")).to_have_text("Hello?")
    page.click("#model-button")
    page.get_by_role("button", name="gemma3-270m-base").wait_for()
    page.fill("#model-search", "smollm2")
    page.press("#model-search", "Enter")
    expect(page.locator("#model-name")).to_have_text("smollm2-135m")
    page.click(".message.assistant [data-act=regenerate]")
    expect(answers(page).locator(".prose")).not_to_be_empty(timeout=60_000)
    wait_for_end(page)


def test_loading_is_told_and_cancelled(workbench, open_chat, chat):
    """With another context the model is loaded anew."""
    settings = {"n_ctx": 1792}
    workbench.api.patch(f"/chats/{chat}", json={"settings": settings})
    page = open_chat(chat)
    ask(page, "Hello?")
    expect(answers(page).locator(".state")).to_contain_text("loading")
    page.click("#stop")
    wait_for_end(page)
    for _ in range(200):
        rows = workbench.api.get("/services").json()
        if not any(row["settings"].get("n_ctx") == 1792 for row in rows):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the server that nobody waits for goes on loading")


def test_a_conversation_longer_than_the_context_is_cut_and_told(workbench, open_chat):
    texts = ["word " * 250, "yes"] * 6
    chat = imported(workbench, *texts)
    settings = {"n_ctx": 1024, "max_tokens": 4}
    workbench.api.patch(f"/chats/{chat}", json={"settings": settings})
    page = open_chat(chat)
    ask(page, "And now?")
    wait_for_end(page)
    expect(answers(page).last).to_contain_text("oldest messages were left out", timeout=60_000)
    row = workbench.api.get(f"/chats/{chat}/messages").json()["messages"][-1]
    assert row["status"] == "complete" and 0 < row["stats"]["left_out"] < 13


# Many conversations


def test_search_leads_to_the_message(workbench, open_chat):
    texts = [f"line {i}" for i in range(260)]
    texts[41] = "here the zebra 斑馬 stands"
    chat = imported(workbench, *texts, title="A long one")
    page = open_chat()
    for word in ("zebra", "斑馬"):
        page.fill("#search", word)
        expect(page.locator("#chat-list a")).to_have_count(1)
        expect(page.locator("#chat-list mark")).to_have_text(word)
    page.click("#chat-list a")
    expect(page.locator(".message", has_text="zebra")).to_be_in_viewport()
    assert chat in page.url


def test_long_conversations_load_as_one_scrolls(workbench, open_chat):
    chat = imported(workbench, *(f"line {i}" for i in range(250)))
    page = open_chat(chat)
    expect(page.locator(".message").last).to_be_in_viewport()
    assert page.locator(".message").count() < 250
    for _ in range(3):
        page.locator("#thread").evaluate("node => { node.scrollTop = 0; }")
        page.wait_for_timeout(300)
    expect(page.locator(".message")).to_have_count(250)
    expect(page.locator("#older")).to_be_hidden()


def test_back_and_forward(workbench, open_chat):
    one, two = imported(workbench, "first one"), imported(workbench, "second one")
    page = open_chat(one)
    page.click(f"#chat-list a[data-id='{two}']")
    expect(page.locator(".message .plain")).to_have_text("second one")
    page.go_back()
    expect(page.locator(".message .plain")).to_have_text("first one")
    page.go_forward()
    expect(page.locator(".message .plain")).to_have_text("second one")


def test_what_was_typed_outlives_a_reload(workbench, open_chat):
    page = open_chat(imported(workbench, "hello"))
    page.fill("#question", "half a thought")
    page.reload()
    expect(page.locator("#question")).to_have_value("half a thought")


def test_export_and_import(workbench, open_chat, tmp_path):
    page = open_chat(imported(workbench, "to be kept", "**kept**"))
    page.click("#chat-button")
    with page.expect_download() as download:
        page.click("#export-json")
    file = tmp_path / "kept.json"
    download.value.save_as(file)
    assert [row["content"] for row in json.loads(file.read_text())["messages"]] == [
        "to be kept",
        "**kept**",
    ]
    before = workbench.api.get("/chats").json()["total"]
    page.locator("#import-input").set_input_files(file)
    expect(page.get_by_text("1 conversations are imported.")).to_be_visible()
    assert workbench.api.get("/chats").json()["total"] == before + 1
    expect(answers(page).locator("strong")).to_have_text("kept")

    page.click("#chat-button")
    with page.expect_download() as download:
        page.click("#export-md")
    assert "## You\n\nto be kept" in download.value.path().read_text()


def test_settings_are_kept_and_sent(workbench, open_chat, chat):
    page = open_chat(chat)
    page.click("#settings-button")
    page.fill("#set-max_tokens", "3")
    page.fill("#system", "Answer in one word.")
    page.press("#system", "Tab")
    page.press("#settings", "Escape")
    ask(page, "Write about the sea.")
    wait_for_end(page)
    row = workbench.api.get(f"/chats/{chat}/messages").json()["messages"][-1]
    assert row["stats"]["tokens"] == 3 and row["settings"]["max_tokens"] == 3
    assert workbench.api.get(f"/chats/{chat}").json()["system"] == "Answer in one word."
    expect(answers(page)).to_contain_text("Cut at the longest answer")


# What a model may not do

HOSTILE = """<script>window.hit = 1</script><img src=x onerror="window.hit = 2">

![pixel](https://evil.example/pixel.png) [run](javascript:window.hit=3) [d](data:text/html,x)

<svg onload="window.hit = 4"></svg><math><a xlink:href="javascript:window.hit=5">x</a></math>

<style>body { display: none }</style><iframe src="https://evil.example"></iframe>

<form action="/api/jobs" method="post"><button>x</button></form><base href="https://evil.example">

```html
<script>window.hit = 6</script>
```

[a link](https://example.org/ "title") and `<b onclick=window.hit=7>`

```"><img src=x onerror=window.hit=8>
"""


def test_hostile_output_runs_nothing_and_fetches_nothing(workbench, open_chat, page):
    """The fixture `page` fails where a request leaves the machine or a script throws."""
    refused = []
    page.on("console", lambda line: refused.append(line.text) if line.type == "error" else None)
    chat = imported(workbench, HOSTILE, HOSTILE, title="<img src=x onerror=window.hit=9>")
    open_chat(chat)
    expect(answers(page)).to_have_count(1)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None
    assert not [line for line in refused if "Content Security Policy" in line], refused
    tags = page.locator(".message").evaluate_all(
        "nodes => nodes.flatMap(n => [...n.querySelectorAll('*')].map(e => e.localName))"
    )
    assert not {"script", "img", "svg", "math", "style", "iframe", "form", "base"} & set(tags)
    links = page.locator(".prose a")
    expect(links).to_have_count(1)
    assert links.get_attribute("rel") == "noopener noreferrer nofollow"
    assert page.locator(".message.user .plain").inner_text().startswith("<script>")


# By keyboard, and for everybody


def test_all_of_it_by_keyboard(workbench, open_chat, chat):
    page = open_chat(chat)
    page.keyboard.press("Tab")
    for _ in range(60):
        if page.evaluate("document.activeElement.id") == "question":
            break
        page.keyboard.press("Tab")
    page.keyboard.type("Say one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("word.")
    page.keyboard.press("Enter")
    expect(page.locator(".message.user .plain")).to_have_text("Say one\nword.")
    wait_for_end(page)
    page.locator("#question").focus()
    acts = []
    for _ in range(12):
        page.keyboard.press("Shift+Tab")
        acts.append(page.evaluate("document.activeElement.dataset.act || ''"))
        if acts[-1] == "regenerate":
            break
    assert acts[-1] == "regenerate", acts
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .branch")).to_have_text("‹2/2›", timeout=30_000)
    wait_for_end(page)


def test_an_input_method_may_use_enter(workbench, open_chat):
    page = open_chat()
    page.fill("#question", "ㄋㄧˇ")
    page.locator("#question").evaluate(
        """node => node.dispatchEvent(new KeyboardEvent("keydown",
             {key: "Enter", isComposing: true, bubbles: true, cancelable: true}))"""
    )
    page.wait_for_timeout(200)
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator("#question")).to_have_value("ㄋㄧˇ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(workbench, open_chat, page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.emulate_media(color_scheme=scheme)
    text = "<think>hm</think># Head\n\n|a|b|\n|-|-|\n|1|2|\n\n```python\nx\n```\n\n[l](https://a.b)"
    open_chat(imported(workbench, "look", text))

    def check():
        report = axe.Axe().run(page)
        serious = [
            (row["id"], [node["html"][:200] for node in row["nodes"][:3]])
            for row in report.response["violations"]
            if row["impact"] in ("serious", "critical")
        ]
        assert not serious, serious

    check()
    page.click("#settings-button")
    check()
    page.keyboard.press("Escape")
    page.click("#model-button")
    page.wait_for_selector("#model-list button")
    check()
    page.keyboard.press("Escape")
    page.click("#new-chat")
    check()


def test_a_phone_shows_all_without_scrolling_sideways(workbench, open_chat, page):
    page.set_viewport_size({"width": 360, "height": 740})
    text = "word " * 40 + "\n\n```\n" + "x" * 300 + "\n```\n\n" + "https://a.b/" + "y" * 200
    chat = imported(workbench, "a" * 300, text)
    open_chat(chat)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#thread").evaluate("n => n.scrollWidth <= n.clientWidth")
    expect(page.locator("#chat-side")).to_be_hidden()
    page.click("#side-button")
    expect(page.locator(f"#chat-list a[data-id='{chat}']")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#chat-side")).to_be_hidden()


# Pictures


@pytest.fixture(scope="module")
def sees(workbench):
    """The path of a model that takes pictures; its vision half is random."""
    path = made_llava.write_pair(workbench.files)
    if path.is_symlink():  # out of the folders that the page may use
        target = path.resolve()
        path.unlink()
        shutil.copyfile(target, path)
    return str(path)


def png(color="red"):
    file = io.BytesIO()
    Image.new("RGB", (120, 80), color).save(file, "PNG")
    return file.getvalue()


def test_a_picture_is_sent_and_shown(workbench, open_chat, sees):
    body = {
        "service": "vision",
        "model": sees,
        "settings": {"max_tokens": 6, "n_ctx": 2048},
    }
    reply = workbench.api.post("/chats", json=body)
    assert reply.status_code == 201, reply.text
    chat = reply.json()["id"]
    page = open_chat(chat)
    file = {"name": "red.png", "mimeType": "image/png", "buffer": png()}
    page.locator("#picture-input").set_input_files([file, {**file, "name": "two.png"}])
    expect(page.locator("#attached img")).to_have_count(2)
    page.get_by_role("button", name="Remove two.png").click()
    ask(page, "What colour is this?")
    wait_for_end(page)
    expect(page.locator("#attached img")).to_have_count(0)
    expect(page.locator(".message.user .pictures img")).to_have_js_property("naturalWidth", 120)
    row = workbench.api.get(f"/chats/{chat}/messages").json()["messages"][-1]
    assert row["status"] == "complete", row["error"]
    assert row["stats"]["prompt_tokens"] > made_llava.TOKENS
    texts = [seen(workbench, chat, row["id"], seed) for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


def seen(workbench, chat, message, seed):
    """Another answer to the same question, with a seed of its own."""
    settings = {"max_tokens": 6, "n_ctx": 2048, "temperature": 1.5, "seed": seed}
    reply = workbench.api.post(
        f"/chats/{chat}/messages/{message}/regenerate", json={"settings": settings}
    )
    address = f"/chats/{chat}/messages/{reply.json()['answer']['id']}"
    with workbench.api.stream("GET", f"{address}/events") as stream:
        list(stream.iter_lines())
    return workbench.api.get(address).json()["content"]


def test_a_text_model_is_offered_no_picture(workbench, open_chat, chat):
    page = open_chat(chat)
    expect(page.locator("#attach")).to_be_hidden()
    page.locator("#picture-input").set_input_files(
        {"name": "red.png", "mimeType": "image/png", "buffer": png()}
    )
    page.get_by_role("button", name="Take one that does").click()
    expect(page.locator("#attached img")).to_have_count(1)
    assert workbench.api.get(f"/chats/{chat}").json()["service"] == "vision"


# Speech


def test_what_is_spoken_becomes_text(workbench, tmp_path):
    pytest.importorskip("faster_whisper", reason="installed by make test")
    voices = pytest.importorskip("voices")
    from playwright.sync_api import sync_playwright

    sound = voices.spoken("The train leaves at half past seven.") * 0.7
    file = voices.write(tmp_path / "spoken.wav", np.concatenate([np.zeros(4000), sound]))
    with wave.open(str(file)) as reader:
        seconds = reader.getnframes() / reader.getframerate()

    def work(chromium, out):
        page = chromium.new_page()
        page.goto(f"{workbench.url}/chat")
        page.wait_for_selector("body[data-ready=chat]")
        page.click("#microphone")
        expect(page.locator("#microphone")).to_have_attribute("aria-pressed", "true")
        page.wait_for_timeout(seconds * 1000 + 500)
        page.click("#microphone")
        expect(page.locator("#question")).not_to_have_value("", timeout=120_000)
        out.append(page.input_value("#question"))

    def drive(out):  # a playwright of its own: the module's browser has another microphone
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=benches.CHROMIUM,
                args=[
                    "--no-sandbox",
                    "--use-fake-ui-for-media-stream",
                    "--use-fake-device-for-media-stream",
                    f"--use-file-for-fake-audio-capture={file}%noloop",
                ],
            )
            work(chromium, out)
            chromium.close()

    out = []
    thread = threading.Thread(target=drive, args=(out,))
    thread.start()
    thread.join(timeout=200)
    assert out and "train" in out[0].lower() and "seven" in out[0].lower().replace("7", "seven")


def test_a_recording_that_is_none_is_refused(workbench):
    pytest.importorskip("faster_whisper", reason="installed by make test")
    reply = workbench.api.post("/transcriptions", content=b"no sound at all")
    assert reply.status_code == 400 and reply.json()["error"]["fix"]
    assert workbench.api.post("/transcriptions", content=b"").status_code == 400
    large = workbench.api.post("/transcriptions", content=b"x" * ((25 << 20) + 1))
    assert large.status_code == 400


# The API


def browser_client(workbench):
    """A program with a session of its own, as a browser has one."""
    client = httpx.Client(base_url=f"{workbench.url}/api", timeout=120)
    client.get(f"{workbench.url}/chat")
    text = client.get(f"{workbench.url}/chat").text
    client.headers["X-CSRF-Token"] = text.split('name="csrf" content="')[1].split('"')[0]
    return client


def test_who_asks_much_does_not_keep_the_others_waiting(workbench):
    """Six questions of one browser, then one of another: it is not the last."""
    greedy, other = browser_client(workbench), browser_client(workbench)
    settings = {"max_tokens": 40, "temperature": 0}
    ends = []

    def ask_for(client, name):
        chat = client.post("/chats", json={"settings": settings}).json()["id"]
        reply = client.post(f"/chats/{chat}/messages", json={"content": "Tell about the sea."})
        address = f"/chats/{chat}/messages/{reply.json()['answer']['id']}/events"

        def watch():
            with client.stream("GET", address) as stream:
                rows = [line for line in stream.iter_lines() if line.startswith("data:")]
            ends.append((name, json.loads(rows[-1][5:])["state"]))

        thread = threading.Thread(target=watch)
        thread.start()
        return thread

    ask_for(other, "warm").join()
    threads = [ask_for(greedy, "greedy") for _ in range(6)]
    threads.append(ask_for(other, "other"))
    for thread in threads:
        thread.join()
    assert {state for _, state in ends} == {"complete"}
    assert [name for name, _ in ends].index("other") < 5, ends


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/chats/nothing", None),
        ("GET", "/chats/nothing/messages", None),
        ("GET", "/chats/nothing/export", None),
        ("GET", "/chats/nothing/messages/1", None),
        ("GET", "/chats/nothing/messages/1/events", None),
        ("POST", "/chats/nothing/messages", {"content": "x"}),
        ("POST", "/chats/nothing/messages/4611686018427387904/regenerate", {}),
        ("POST", "/chats/nothing/messages/1/continue", {}),
        ("POST", "/chats/nothing/messages/1/stop", {}),
        ("DELETE", "/chats/nothing", None),
        ("POST", "/chats/nothing/restore", None),
        ("GET", "/chats/nothing/pictures/../../ui-key", None),
        ("GET", "/chats/nothing/server", None),
    ],
)
def test_what_is_not_there_is_404(workbench, method, path, body):
    reply = workbench.api.request(method, path, json=body)
    assert reply.status_code == 404, reply.text
    assert reply.json()["error"]["fix"]


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("POST", "/chats", b'{"title": "\\ud800"}'),
        ("POST", "/chats", b'{"settings": {"n_ctx": 1e400}}'),
        ("POST", "/chats", b'{"settings": {"seed": 99999999999999999999}}'),
        ("POST", "/chats", b'{"model": "/etc/passwd"}'),
        ("POST", "/chats", b'{"model": ""}'),
        ("GET", "/chats?limit=0", None),
        ("GET", "/chats?offset=99999999999999999999", None),
        ("GET", "/chats/x/messages?before=99999999999999999999", None),
        ("GET", "/chats/x/messages/-1", None),
        ("GET", "/chats/x/messages/99999999999999999999", None),
        ("POST", "/chats/import", b"\xff\xfe"),
        ("POST", "/chats/import", b"[" * 100_000),
        ("POST", "/chats", b'{"service": "robot"}'),
    ],
)
def test_bad_requests_are_told(workbench, method, path, content):
    headers = {"Content-Type": "application/json"}
    reply = workbench.api.request(method, path, content=content, headers=headers)
    assert 400 <= reply.status_code < 500, reply.text
    assert reply.json()["error"]["what"]


def test_a_nul_in_a_search_is_no_fault(workbench):
    assert workbench.api.get("/chats?q=%00a%00").status_code == 200


def written(home, message):
    """The text of a message on the disk."""
    (path,) = home.rglob("chats.sqlite3")
    with contextlib.closing(sqlite3.connect(path)) as database:
        query = "SELECT content FROM messages WHERE id = ?"
        return database.execute(query, (message,)).fetchone()[0]


def test_a_restarted_server_shows_what_was_kept(session_home, tmp_path):
    bench = benches.start(session_home, "--root", tmp_path)
    chat = bench.api.post("/chats", json={"settings": {"max_tokens": 2000}}).json()["id"]
    row = bench.api.post(f"/chats/{chat}/messages", json={"content": LONG}).json()["answer"]
    address = f"{bench.url}/api/chats/{chat}/messages/{row['id']}/events"
    with httpx.stream("GET", address, timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and len(json.loads(line[5:])["text"]) > 20:
                break
        # the text is written once a second, on busy cores later
        benches.until(lambda: len(written(session_home, row["id"])) > 5)
    os.kill(bench.process.pid, signal.SIGKILL)
    bench.process.wait()
    again = benches.start(session_home, "--root", tmp_path)
    kept = again.last_message(chat)
    again.stop()
    assert kept["status"] == "stopped" and len(kept["content"]) > 5


def test_a_stopped_server_keeps_the_whole_text(session_home, tmp_path):
    bench = benches.start(session_home, "--root", tmp_path)
    chat = bench.api.post("/chats", json={"settings": {"max_tokens": 2000}}).json()["id"]
    row = bench.api.post(f"/chats/{chat}/messages", json={"content": LONG}).json()["answer"]
    address = f"{bench.url}/api/chats/{chat}/messages/{row['id']}/events"
    text = ""
    with httpx.stream("GET", address, timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                text += json.loads(line[5:])["text"]
                if len(text) > 60:
                    break
    bench.process.send_signal(signal.SIGINT)
    bench.process.wait(timeout=60)
    again = benches.start(session_home, "--root", tmp_path)
    kept = again.last_message(chat)
    again.stop()
    assert kept["status"] == "stopped" and kept["content"].startswith(text)
