"""A task's page and the plan's as a newcomer uses them: what is typed is what counts, what a start
takes along, what a job leaves and where it is seen."""

import json
import os
import re
import time

import httpx
import made_pictures
import pytest
from playwright.sync_api import expect

from onecard import api, tasks
from onecard.memory import devices
from onecard.memory.plan import Plan, Term
from onecard.reporting import Reporter
from onecard.runs import record
from onecard.web import forms, outputs
from onecard.web.jobs import Job
from onecard.web.roots import Roots

SLOW = 120_000
"""Milliseconds that a step of real work may take on a busy machine."""


def new_run(home, monkeypatch):
    """The folder of a recorded run that did nothing."""
    monkeypatch.setenv("ONECARD_HOME", str(home))
    config = api.configure("tinylm", "train", values={"dataset": "text.txt"})
    plan = Plan((Term("weights", 1 << 20, "a few"),), devices.find("cpu"))
    with record.start("tinylm", "train", config, plan, Reporter()) as run:
        pass
    return run.folder


def fill_field(page, name, value):
    """Look a setting up and write into it."""
    search = page.get_by_role("searchbox").first
    search.fill(name)
    field = page.locator(f'[data-field="{name}"] input:not([type=file])').first
    field.fill(str(value))
    field.blur()
    search.fill("")


def ended_job(home, name, *, settings=None, data=None, run=""):
    """A job's folder as its process leaves it."""
    folder = home / "jobs" / f"20261126-000000-{name}"
    folder.mkdir(parents=True)
    created = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - 5))
    about = {"task": "classify", "command": "predict", "card": "auto", "created": created}
    (folder / "job.json").write_text(json.dumps({**about, "settings": settings or {}}))
    (folder / "process.json").write_text("{}")
    (folder / "output.txt").write_text("")
    (folder / "progress.json").write_text(json.dumps({"run": str(run)} if run else {}))
    end = {"status": "done", "text": "two discs", "data": data or {}, "ended": created}
    (folder / "end.json").write_text(json.dumps(end))
    return Job(folder)


# What a job leaves


def test_files_outside_the_run_are_seen_and_downloaded(workbench, page):
    folder = workbench.files / "out put"
    made_pictures.save(folder / "deep" / "a b.png", made_pictures.scene(1).rgb)
    (folder / "results.csv").write_text("picture,class\n")
    job = ended_job(workbench.home, "predict-1", settings={"output_dir": str(folder)})
    page.goto(f"{workbench.url}/jobs/{job.id}")
    expect(page.locator("#job details[open] pre.result")).to_have_text("two discs")
    picture = page.get_by_role("img", name="a b.png")
    expect(picture).to_be_visible()
    assert picture.evaluate("node => node.complete && node.naturalWidth") == 64
    with page.expect_download() as download:
        page.get_by_role("link", name="download results.csv").click()
    assert download.value.suggested_filename == "results.csv"


def test_only_new_files_below_the_roots_are_listed(own_home, tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        (folder / ".hidden").mkdir(parents=True)
        for name in ("model.onnx", "old.txt", ".hidden/x.txt", "checkpoint-3.bin"):
            (folder / name).write_text("x")
    (inside / "link").symlink_to(outside)
    (inside / "old.txt").touch()
    os.utime(inside / "old.txt", (1, 1))
    data = {"forms": [{"path": str(outside / "model.onnx")}, {"path": str(inside / "model.onnx")}]}
    job = ended_job(own_home, "x", settings={"output_dir": str(inside)}, data=data)
    rows = outputs.of_job(Roots([str(inside)]), job)
    assert [row["path"] for row in rows] == [str(inside / "model.onnx")]


@pytest.mark.parametrize("name", ["/nowhere", "a\0b", "x" * 9000, "/" + "x" * 5000, "~nobody/x", 7])
def test_an_output_folder_that_is_none_lists_nothing(own_home, name):
    job = ended_job(own_home, "x", settings={"output_dir": name}, data={"path": name})
    assert outputs.of_job(Roots([str(own_home)]), job) == []


def test_a_run_that_left_no_folder_is_not_linked(own_home):
    assert ended_job(own_home, "x", run=own_home / "runs" / "gone").as_dict()["run"] == ""


def test_a_report_shows_the_pictures_of_its_run(workbench, page, monkeypatch):
    folder = new_run(workbench.home, monkeypatch)
    made_pictures.save(folder / "artifacts" / "a.png", made_pictures.scene(1).rgb)
    (folder / "report.html").write_text(
        '<img src="artifacts/a.png"><script>document.title="x"</script>'
    )
    page.goto(f"{workbench.url}/api/runs/{folder.name}/files/report.html")
    assert page.locator("img").evaluate("node => node.decode().then(() => node.naturalWidth)") == 64
    assert page.title() != "x"


def test_scores_of_base_and_tuned_stand_side_by_side(workbench, page, monkeypatch):
    folder = new_run(workbench.home, monkeypatch)
    row = {"value": 2.5, "low": 2, "high": 3, "n": 9}
    scores = {"metrics": {"base_loss": row, "tuned_loss": {**row, "value": 1.5}}, "verdicts": []}
    (folder / "scores.json").write_text(json.dumps(scores))
    page.goto(f"{workbench.url}/runs/{folder.name}")
    cells = page.get_by_role("region", name="before and after").locator("tbody td")
    expect(cells).to_have_text(["loss", "2.500 [2, 3]", "1.500 [2, 3]"])


# What is typed is what counts


def test_settings_that_are_refused_have_no_command_to_copy(workbench, page):
    page.goto(f"{workbench.url}/plan")
    expect(page.locator("#line")).to_have_text(re.compile("^onecard plan"))
    page.locator("#card").fill("nonsense")
    expect(page.locator("#bar .fault")).to_be_visible()
    expect(page.locator("#line")).to_have_text("")
    expect(page.locator("#copy")).to_be_disabled()
    page.goto(f"{workbench.url}/tasks/tinylm#ablate")
    copy = page.get_by_role("button", name="Copy as command")
    expect(copy).to_be_visible()
    fill_field(page, "max_steps", -5)
    expect(page.locator("#panel .fault")).to_contain_text("max_steps")
    expect(copy).to_have_count(0)


def test_what_is_typed_while_the_plan_is_loaded_stays(workbench, page):
    waiting = []
    page.route("**/api/plans/*", lambda route: waiting.append(route))
    page.goto(f"{workbench.url}/plan")
    expect(page.locator("#plan option").first).to_be_attached()
    for _ in range(100):
        if waiting:
            break
        page.wait_for_timeout(100)
    page.locator("#model").fill("qwen2.5-0.5b")
    page.locator("#card").fill("7gb")
    page.wait_for_timeout(200)
    waiting[0].continue_()
    expect(page.locator("#line")).to_have_text("onecard plan qlora qwen2.5-0.5b --card 7gb")


def test_half_a_number_is_refused_and_not_taken_as_the_default(workbench, page):
    page.goto(f"{workbench.url}/tasks/tinylm#ablate")
    page.get_by_role("searchbox").first.fill("max_steps")
    field = page.locator('[data-field="max_steps"] input').first
    field.click()
    field.press("Control+a")
    page.keyboard.type("1e")
    expect(page.locator("#panel .fault")).to_contain_text("max_steps is not valid")
    page.locator("#start").click()
    expect(page.locator("#toasts .fault")).to_contain_text("max_steps is not valid")


@pytest.mark.parametrize("address", ["plan", "tasks/tinylm#ablate"])
def test_an_untouched_form_changes_nothing(workbench, page, address):
    """A setting whose default is a line break stays one."""
    bodies = []
    page.on("request", lambda r: r.url.endswith("/api/plan") and bodies.append(r.post_data_json))
    page.goto(f"{workbench.url}/{address}")
    if address == "plan":
        page.locator("#plan").select_option("tinylm")
    expect(page.locator(".memory-bar")).to_be_visible()
    page.wait_for_timeout(300)
    assert "sample" not in bodies[-1]["values"], bodies[-1]


def test_a_preset_is_seen_in_the_form_and_taken_back(workbench, page):
    page.goto(f"{workbench.url}/tasks/classify#train")
    fill_field(page, "batch", 7)
    batch = page.locator('[data-field="batch"] input').first
    page.locator("#preset").select_option("8gb")
    expect(batch).to_have_value(str(api.preset_values("classify", "8gb")["batch"]))
    expect(page.locator("#panel .sticky code")).to_contain_text(f"--batch {batch.input_value()}")
    page.locator("#preset").select_option("")
    expect(batch).to_have_value("7")


@pytest.mark.parametrize(
    "name", ["nothing.txt", "\N{SLIGHTLY SMILING FACE}", "x" * 300, "x" * 100_000]
)
def test_a_path_that_is_not_there_is_told_before_the_queue(workbench, page, name):
    before = len(workbench.api.get("/jobs").json())
    page.goto(f"{workbench.url}/tasks/tinylm#ablate")
    fill_field(page, "dataset", workbench.files / name if len(name) < 1000 else name)
    page.locator("#start").click()
    expect(page.locator("#toasts .fault")).to_be_visible()
    assert len(workbench.api.get("/jobs").json()) == before


# From one page to the next


def test_every_plan_names_the_command_that_does_it():
    named = {
        f"{task.name} {plan}": forms.planned_command(task, plan)
        for task in tasks.all_tasks().values()
        for plan in task.plans
    }
    trained = {"asr asr-lora", "finetune full", "vlm vlm-qlora", "diffusion diffusion-lora"}
    assert {named[each] for each in trained} == {"train"}
    assert named["asr asr"] == "transcribe"
    assert named["diffusion diffusion"] == "generate"
    assert named["vlm vlm"] == named["rag rag"] == "ask"
    assert named["segment segment-predict"] == "predict"


def test_a_plan_is_started_with_its_own_settings(workbench, page):
    page.goto(f"{workbench.url}/plan")
    page.locator("#plan").select_option("full")
    expect(page.locator("#without")).to_contain_text("use_peft")
    page.locator("#begin").click()
    page.wait_for_url(re.compile("tasks/finetune#train"))
    length = page.locator('[data-field="max_seq_length"] input').first
    expect(length).to_have_value("2048")
    expect(page.locator('[data-field="model"] input')).to_have_value("qwen2.5-0.5b")


def test_checked_data_go_on_to_the_training(workbench, page):
    folder = workbench.files / "pictures of two"
    made_pictures.write_folders(folder, made_pictures.scenes(8, n_objects=1))
    page.goto(f"{workbench.url}/tasks/classify#check")
    fill_field(page, "data", folder)
    page.locator("#start").click()
    page.get_by_role("button", name="Train on these data").click(timeout=SLOW)
    expect(page.locator("#tab-train")).to_have_attribute("aria-selected", "true")
    expect(page.locator('[data-field="data"] input').first).to_have_value(str(folder))


# What is shown is true


def test_a_server_that_is_away_is_told_and_back_again(workbench, page):
    page.goto(f"{workbench.url}/jobs")
    expect(page.get_by_text("Nothing runs or waits.")).to_be_visible()
    page.route("**/api/**", lambda route: route.abort())
    expect(page.locator("#away")).to_be_visible()
    page.unroute("**/api/**")
    expect(page.locator("#away")).to_have_count(0)


def test_a_model_server_tells_its_address_ends_and_starts_again(workbench, page):
    page.goto(f"{workbench.url}/tasks/chat#serve")
    fill_field(page, "model", "smollm2-135m")
    page.get_by_role("button", name="Start the server").click()
    address = page.locator(".job code.url")
    expect(address).to_have_text(re.compile(r"^http://127"), timeout=SLOW)
    job = page.url.rsplit("/", 1)[1]
    token = workbench.api.get(f"/jobs/{job}").json()["token"]
    models = f"{address.inner_text().removesuffix('/v1')}/v1/models"
    assert httpx.get(models).status_code == 401
    assert httpx.get(models, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    # the token stands in no file
    for path in (workbench.home / "jobs" / job).iterdir():
        assert token not in path.read_text()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".job .badge.stopped")).to_be_visible(timeout=SLOW)
    expect(address).to_have_count(0)
    page.get_by_role("button", name="Run again").click()
    expect(page.locator(".job .badge.running")).to_be_visible(timeout=SLOW)
    page.wait_for_timeout(600)
    again = Job(workbench.home / "jobs" / page.url.rsplit("/", 1)[1])
    assert again.id != job
    assert workbench.api.post("/services/stop").json() == {"stopped": 1}
    # what was stopped while it loaded is gone, and its engine with it
    for _ in range(200):
        if again.status == "stopped" and not again.pid:
            break
        time.sleep(0.1)
    assert (again.status, again.pid) == ("stopped", 0)


def test_every_score_is_explained(workbench, page, monkeypatch):
    folder = new_run(workbench.home, monkeypatch)
    row = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 9}
    names = (
        "recall@5",
        "q4_k_m_f1",
        "onnx: macro_f1",
        "bits_per_char",
        "abstained",
        "nothing_here",
    )
    text = "accuracy: inconclusive, p=1 (McNemar, exact); accuracy again"
    scores = {"metrics": dict.fromkeys(names, row), "verdicts": [text]}
    (folder / "scores.json").write_text(json.dumps(scores))
    page.goto(f"{workbench.url}/runs/{folder.name}")
    expect(page.locator(".proof tbody .term")).to_have_text(list(names[:-1]))
    expect(page.locator(".verdicts .term")).to_have_text(["accuracy", "inconclusive", "McNemar"])
    expect(page.locator(".verdicts")).to_have_text(text)
    page.get_by_text("q4_k_m_f1").hover()
    expect(page.locator("#tip")).to_contain_text("harmonic mean")


@pytest.mark.parametrize("address", ["plan", "tasks/detect#train"])
def test_the_device_stays_over_a_reload(workbench, page, address):
    page.goto(f"{workbench.url}/{address}")
    page.locator("#card").fill("8gb")
    page.locator("#card").blur()
    expect(page.locator(".memory")).to_contain_text("8.00 GiB card")
    page.reload()
    expect(page.locator("#card")).to_have_value("8gb")
    expect(page.locator(".memory")).to_contain_text("8.00 GiB card")


def test_a_mended_file_of_the_same_name_is_sent_again(workbench, page):
    page.goto(f"{workbench.url}/tasks/finetune#check")
    field = page.locator('[data-field="dataset"]')
    files = field.locator("input[type=file]")
    files.set_input_files({"name": "a.csv", "mimeType": "text/csv", "buffer": b"a"})
    expect(field.locator("input").first).to_have_value(re.compile(r"uploads.*/a\.csv$"))
    assert files.evaluate("node => node.value") == ""  # else a browser tells no second choice


def test_a_new_start_does_not_go_on_with_an_old_training(workbench, page):
    old = {"resume": True, "output_dir": str(workbench.files / "old"), "max_steps": 7}
    job = ended_job(workbench.home, "train-9", settings=old)
    about = json.loads((job.folder / "job.json").read_text())
    (job.folder / "job.json").write_text(json.dumps({**about, "task": "asr", "command": "train"}))
    page.goto(f"{workbench.url}/tasks/asr#train")
    expect(page.locator('[data-field="max_steps"] input')).to_have_value("7")
    expect(page.locator('[data-field="output_dir"] input').first).to_have_value("")
    expect(page.locator('[data-field="resume"] input')).not_to_be_checked()


def test_one_long_word_does_not_push_a_table_away(workbench, page):
    job = ended_job(workbench.home, "train-8")
    error = {"what": "x" * 5000, "why": "y" * 5000, "fix": "z"}
    (job.folder / "end.json").write_text(json.dumps({"status": "failed", "error": error}))
    page.goto(f"{workbench.url}/jobs")
    expect(page.locator("#ended")).to_contain_text("xxx")
    assert page.locator("#ended .scroll").evaluate("n => n.scrollWidth - n.clientWidth") == 0
    page.goto(f"{workbench.url}/jobs/{job.id}")
    expect(page.locator(".fault")).to_contain_text("xxx")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_question_outlives_a_reload_before_its_answer(workbench, page):
    folder = workbench.files / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("# Boiler\n\nThe boiler is serviced in October.\n")
    body = {"task": "rag", "command": "index", "values": {"folders": [str(folder)]}}
    assert workbench.wait(workbench.api.post("/jobs", json=body).json()["id"])["status"] == "done"
    page.goto(f"{workbench.url}/notes")
    page.route("**/api/notes/ask", lambda route: None)  # it takes long
    question = page.locator("#question")
    question.fill("When is the boiler serviced?")
    page.locator("#send").click()
    expect(question).to_have_value("")
    page.reload()
    expect(question).to_have_value("When is the boiler serviced?")
