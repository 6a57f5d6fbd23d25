"""Every page in both languages, light and dark, on a desk and on a phone: no fault that axe-core
calls serious, nothing wider than the screen, the keyboard reaches everything, no error in the
console, and no request to another machine."""

import re

import pytest

pytest.importorskip("axe_playwright_python", reason="installed by make test")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from onecard import api, tasks
from onecard.memory import devices
from onecard.memory.plan import Plan, Term
from onecard.reporting import Reporter
from onecard.runs import record

ENGLISH, CHINESE = "en-US", "zh-TW"
WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
MODES = {
    "light": (ENGLISH, "light", WIDE),
    "dark-phone": (CHINESE, "dark", PHONE),
    "dark": (ENGLISH, "dark", WIDE),
    "light-phone": (CHINESE, "light", PHONE),
}
TASKS = [f"/tasks/{name}" for name in tasks.names()]
PAGES = [
    *("/", "/plan", "/chat", "/chat#CHAT", "/notes", *TASKS, "/jobs", "/jobs/JOB", "/runs"),
    *("/runs/RUN", "/runs/RUN/blind", "/runs/compare?ids=RUN,OTHER", "/glossary", "/login"),
    *("/runs/nothing", "/nothing"),
]
FULLEST = ("/", "/plan", "/chat#CHAT", TASKS[0], "/runs/RUN")
BOTH = [
    (mode, path)
    for mode in MODES
    for path in PAGES
    # all in two modes, which have both colours, widths and languages; in the others those that
    # have the most in them
    if mode in ("light", "dark-phone") or path in FULLEST
]


def new_run(home, loss):
    """A recorded run with curves, a score, items with two answers, files."""
    config = api.configure("tinylm", "train", values={"dataset": "text.txt", "max_steps": loss})
    plan = Plan((Term("weights", 1 << 20, "a few"),), devices.find("cpu"))
    run = record.start("tinylm", "train", config, plan, Reporter())
    with run:
        for step in range(5):
            run.log(step, loss=loss / (step + 1), val_loss=loss / (step + 2))
        run.scores({"val_loss": {"value": loss, "low": loss - 0.1, "high": loss + 0.1, "n": 9}})
        run.items(
            [
                {
                    "id": f"item {i}",
                    "question": f"Question {i}?",
                    "answers": {"base": f"plain {i}", "tuned": f"polished {i}"},
                    "scores": {"f1": i / 3, "base_f1": 0.1},
                }
                for i in range(3)
            ]
        )
    (run.folder / "artifacts").mkdir(exist_ok=True)
    (run.folder / "artifacts" / "sample.txt").write_text("A text.\n")
    api.report(run.folder.name)
    return run.folder.name


@pytest.fixture(scope="module")
def things(workbench):
    """RUN, OTHER, JOB, CHAT: names that the paths stand for."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ONECARD_HOME", str(workbench.home))
    run, other = new_run(workbench.home, 4), new_run(workbench.home, 2)
    patch.undo()
    job = workbench.api.post("/jobs", json={"task": "rag", "command": "indexes"}).json()["id"]
    workbench.wait(job)
    reply = workbench.api.post(
        "/chats/import",
        json={
            "title": "A conversation",
            "messages": [
                {"role": "user", "content": "Write a table and code."},
                {
                    "role": "assistant",
                    "content": "| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nprint(1)\n```\n",
                },
            ],
        },
    )
    chat = reply.json()["chats"][0]["id"]
    return {"RUN": run, "OTHER": other, "JOB": job, "CHAT": chat}


@pytest.fixture(scope="module")
def visit(workbench, browser, things):
    """visit(mode, path) -> the page, loaded and quiet; its faults are in `page.faults`."""
    pages = {}

    def new(mode):
        locale, scheme, size = MODES[mode]
        context = browser.new_context(locale=locale, color_scheme=scheme, viewport=size)
        page = context.new_page()
        page.faults = []
        page.on("pageerror", lambda fault: page.faults.append(str(fault)))
        page.on("console", lambda row: _note(page, row))
        page.on("request", lambda request: _note_request(page, workbench.url, request.url))
        return page

    def go(mode, path):
        page = pages.setdefault(mode, None) or new(mode)
        pages[mode] = page
        for word, name in things.items():
            path = path.replace(word, name)
        page.goto("about:blank")
        page.faults.clear()
        page.goto(workbench.url + path, wait_until="networkidle")
        return page

    yield go
    for page in pages.values():
        page.context.close()


def _note(page, row):
    # the browser tells of the page's own answer that it is an error: so it is
    is_answer = row.location.get("url", "").split("#")[0] == page.url.split("#")[0]
    if row.type in ("error", "warning") and not is_answer:
        page.faults.append(f"{row.type}: {row.text} {row.location}")


def _note_request(page, home, url):
    if not re.match(rf"({re.escape(home)}/|data:|blob:|about:)", url):
        page.faults.append(f"another machine: {url}")


@pytest.mark.parametrize(("mode", "path"), BOTH)
def test_a_page_has_no_serious_fault(visit, mode, path):
    page = visit(mode, path)
    assert page.locator("h1").count() == 1
    violations = [
        f"{row['id']} ({row['impact']}): {row['help']}\n  "
        + "\n  ".join(f"{node['target']} {node['html'][:150]}" for node in row["nodes"][:4])
        for row in Axe().run(page).response["violations"]
        if row["impact"] in ("serious", "critical")
    ]
    assert not violations, "\n".join(violations)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= MODES[mode][2]["width"], wide_parts(page)
    assert not page.faults


def wide_parts(page):
    """The elements that stand out of the screen on the right."""
    return page.evaluate(
        "[...document.querySelectorAll('body *')]"
        ".filter((n) => n.getBoundingClientRect().right > innerWidth + 1)"
        ".map((n) => n.tagName + '.' + n.className + '#' + n.id).slice(0, 10)"
    )


FOCUS = """(() => {
  const node = document.activeElement;
  // a field may show its focus on the box around it
  const rings = [node, node.parentElement, node.parentElement?.parentElement]
    .filter(Boolean).map((each) => getComputedStyle(each))
    .map((style) => style.outlineStyle !== "none" || style.boxShadow !== "none");
  return [node.tagName, node.closest("#main") !== null, rings.some(Boolean)];
})()"""


@pytest.mark.parametrize("path", [*PAGES[:5], TASKS[0], *PAGES[-9:]])
def test_the_keyboard_reaches_the_content(visit, path):
    page = visit("light", path)
    if page.evaluate("document.activeElement === document.body"):
        page.keyboard.press("Tab")
    else:  # a page that is for writing begins in its field
        page.locator(".skip").focus()
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if focus[1]:
            reached.add(focus[0])
            assert focus[2], f"no focus ring: {page.evaluate('document.activeElement.outerHTML')}"
        else:
            break
    controls = page.locator("#main").locator("a[href], button, input, select, textarea").count()
    assert reached or not controls


def test_the_menu_of_a_phone_is_used_by_keyboard(visit):
    page = visit("light-phone", "/")
    button = page.locator("#menu-button")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#navigation a").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#navigation")).to_be_hidden()
    expect(button).to_have_attribute("aria-expanded", "false")


def test_language_and_theme_are_kept(visit):
    page = visit("light", "/")
    page.locator("#theme").click()
    page.locator("#language").select_option("zh_TW")
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hant-TW")
    page.goto(page.url)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.locator("#theme").click()
    page.locator("#language").select_option("en")
    expect(page.locator("html")).to_have_attribute("lang", "en")
