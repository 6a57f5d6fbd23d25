"""One grammar of model names, and the choice of `--model auto`."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest

from onecard import fsio
from onecard.errors import NotFound, OneCardError, SettingsError
from onecard.hub import auto, names, store
from onecard.inference.config import LlmConfig
from onecard.inference.planning import model_of, resolve_auto, share
from onecard.memory import devices
from onecard.memory.architectures import lm
from onecard.reporting import Reporter

LLAMA = (
    "llama3.1:8b",
    "llama3.1",
    "llama-3.1-8b",
    "Llama 3.1 8B",
    "Llama-3.1-8B-Instruct",
    "meta-llama/Meta-Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-8B",
    "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit",
    "Meta-Llama-3.1-8B-Instruct-Q4_K_M",
)


@pytest.mark.parametrize("name", LLAMA)
def test_every_spelling_is_the_same_model(name):
    assert names.in_catalog(name) == "llama3.1:8b"
    assert names.counts(name).n_params == lm.find("llama-3.1-8b").n_params


@pytest.mark.parametrize("name", [each for each in LLAMA if each != "llama3.1"])
def test_the_table_of_counts_knows_every_spelling_of_a_size(name):
    assert lm.named(name) is not None


@pytest.mark.parametrize(
    "name",
    [
        "llama3.1:80b",
        "llama-3.1-8b-vision",
        "gpt2-xxl",
        "qwen3-coder-481b",
        "falcon-h1-8b",
        "phi-4-multimodal",
        "mistral-70b",
        "qwen9",
        "gemma-3-12b-medical",
        "",
    ],
)
def test_no_model_is_taken_for_its_neighbour(name):
    assert lm.named(name) is None


NAMES = list(csv.DictReader((Path(__file__).parents[1] / "validation/names_lm.csv").open()))
"""Names that users type, with published counts of their language models; empty: there is none."""


@pytest.mark.parametrize("row", NAMES, ids=lambda row: row["name"])
def test_no_name_is_planned_as_another_model(row):
    model = lm.named(row["name"])
    if model and row["billions"]:
        assert model.n_params / 1e9 == pytest.approx(float(row["billions"]), rel=0.01)
    elif model:
        pytest.fail(f"{row['name']} is taken for a model of {model.n_params / 1e9:.2f}e9")


def test_nearly_all_names_are_known():
    known = [bool(lm.named(row["name"])) == bool(row["billions"]) for row in NAMES]
    assert len(known) >= 116
    assert sum(known) / len(known) >= 0.98


@pytest.mark.parametrize(
    "name",
    [
        *("a" * 300, "a" * 5000, "~nobody/x", "http://[", "https://h/x.zip", "hf:", "a\x01b"),
        *("/dev/zero", "/etc/passwd", "run:../../x", "C:\\x\\y.gguf", "..", "a\x00b", "\ud800"),
    ],
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(OneCardError) as fault:
        names.counts(name)
    assert fault.value.fix


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(NotFound) as fault:
        names.find("lama3.1:8b")
    assert "llama3.1:8b" in fault.value.fix


@pytest.mark.parametrize("name", ["", "   "])
def test_no_name_is_refused(name):
    with pytest.raises(SettingsError):
        names.find(name)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("hf:org/name", "hub"),
        ("org/unknown-model", "hub"),
        ("org/unknown-model:q4_k_m", "hub"),
        ("https://host.example/some/model-Q4_K_M.gguf", "address"),
        ("ollama:llama3.1:8b", "ollama"),
        ("llama3.1:8b", "catalog"),
    ],
)
def test_a_name_says_where_a_model_comes_from(name, source):
    assert names.find(name).source == source


def test_a_file_on_the_disk_is_taken_as_it_is(tmp_path):
    path = tmp_path / "mine-Q8_0.gguf"
    path.write_bytes(b"GGUF")
    model = names.find(str(path))
    assert (model.source, model.quant, model.path) == ("file", "q8_0", path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(NotFound, match="no model file"):
        names.find(str(tmp_path / "none.gguf"))


def test_an_address_of_no_gguf_is_refused():
    with pytest.raises(SettingsError, match="GGUF"):
        names.find("https://host.example/model.safetensors")


def test_a_name_cannot_leave_the_model_store(empty_home):
    for name in ("../../x", "hf:a/../../b", "https://h/..%2f..%2fx.gguf"):
        assert names.model_dir(name).parent == empty_home / "models"


@pytest.mark.parametrize("name", names.catalog())
def test_a_row_of_the_catalogue_is_whole(name):
    row = names.catalog()[name]
    assert row["summary"]
    assert row["license"]
    assert row["task"] in ("chat", "text", "embed", "rerank")
    if "rank" in row:
        assert lm.named(name) or lm.named(row["base"]), "auto needs the counts"


def test_names_of_the_catalogue_do_not_collide():
    spellings = [
        spelling
        for name, row in names.catalog().items()
        for spelling in {names.canonical(each) for each in (name, *row.get("aliases", ()))}
    ]
    assert len(spellings) == len(set(spellings))


def test_ranks_are_distinct():
    ranks = [row["rank"] for row in names.catalog().values() if "rank" in row]
    assert len(ranks) == len(set(ranks)) >= 15


@pytest.fixture
def online(monkeypatch):
    """Downloads are allowed; a plan asks no hub."""
    for name in ("HF_HUB_OFFLINE", "ONECARD_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def test_auto_takes_larger_models_on_larger_cards(online):
    sizes = []
    for card in ("6gb", "8gb", "12gb", "16gb", "24gb"):
        name, reason = auto.choose(devices.find(card), 8192, "f16", 512)
        sizes.append(names.counts(name).n_params)
        assert "best of the catalog" in reason
    assert sizes == sorted(sizes)
    assert sizes[0] < 8e9 < 20e9 < sizes[-1]


@pytest.mark.parametrize("card", ["6gb", "8gb", "12gb", "16gb", "24gb"])
def test_what_auto_takes_is_planned_whole_on_the_card(card, online):
    device = devices.find(card)
    planned = share(LlmConfig(), device)
    config, _ = resolve_auto(LlmConfig(), device)
    layers = names.counts(config.model).L
    assert planned.choices["n_gpu_layers"] == layers + 1
    assert sum(term.bytes for term in planned.terms) <= device.free_bytes


def test_auto_without_a_gpu_is_the_embedded_model():
    config, reason = resolve_auto(LlmConfig(), devices.find("cpu"))
    assert config.model == auto.EMBEDDED
    assert "no GPU" in reason


def test_auto_offline_takes_only_what_lies_here(empty_home, monkeypatch):
    monkeypatch.setenv("ONECARD_OFFLINE", "1")
    name, reason = auto.choose(devices.find("24gb"), 4096, "f16", 512)
    assert name == auto.EMBEDDED
    assert "out of reach" in reason
    file = names.model_dir("llama3.2:1b") / "Llama-3.2-1B-Instruct-Q8_0.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(names.Model, "counts", lambda self: lm.find("llama-3.2-1b"))
    assert auto.choose(devices.find("24gb"), 4096, "f16", 512)[0] == "llama3.2:1b"


def test_a_named_model_is_left_as_it_is():
    config = LlmConfig(model="qwen3:8b")
    assert resolve_auto(config, devices.find("8gb")) == (config, "")


def test_a_server_holds_its_own_model():
    config = LlmConfig(base_url="http://127.0.0.1:9/v1")
    assert model_of(config, devices.find("24gb")) is None


def test_a_half_imported_model_is_not_here(empty_home, tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    (source / "config.json").write_text("{}")
    for i in (1, 2):
        with (source / f"model-{i}.safetensors").open("wb") as file:
            file.truncate(200 << 20)  # sparse: long enough to be killed in the middle
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", "models", "import", source, "--name", "mine"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "ONECARD_HOME": str(empty_home)},
    )
    folder = empty_home / "models" / "mine"
    processes.kill_when(lambda: list(folder.glob(".model-*")), child)
    assert (folder / "config.json").exists()
    assert "mine" not in [row["name"] for row in store.listing().data["models"]]
    assert not list(folder.glob(".*.draft-*"))
    with pytest.raises(NotFound):
        names.find("mine")
    store.import_model(str(source), "mine", Reporter())
    assert "mine" in [row["name"] for row in store.listing().data["models"]]
    assert names.find("mine").here


def test_drafts_of_the_living_stay(tmp_path):
    with fsio.atomic_write(tmp_path / "a.txt") as draft:
        dead = tmp_path / ".a.txt.draft-4194305-77-abc"
        dead.touch()
        foreign = tmp_path / ".b.draft-of-mine"
        foreign.touch()
        fsio.remove_dead_drafts(tmp_path)
        assert draft.exists()
        assert not dead.exists()
        assert foreign.exists()
    with pytest.raises(RuntimeError), fsio.atomic_folder(tmp_path / "model") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert not (tmp_path / "model").exists()
    with fsio.atomic_folder(tmp_path / "model") as folder:
        (folder / "whole").touch()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["whole"]


def test_names_that_are_not_utf8_are_written(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    fsio.write_text(tmp_path / "x.json", json.dumps({"file": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"file": name}


@pytest.mark.parametrize("name", ["smollm2-135m", "llama-3.1-8b", "e5-small"])
def test_a_folder_in_the_working_directory_takes_no_catalogued_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert names.local_path(name) is None
    assert names.find(name).source == "catalog"
    assert names.local_path(f"./{name}") == Path(name)
    assert names.find(f"./{name}").path == tmp_path / name
    (tmp_path / "mine").mkdir()
    assert names.find("mine").path == tmp_path / "mine"
