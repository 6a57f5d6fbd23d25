"""The plan of a model that only the hub knows: facts are read, weights are not."""

import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
import random_gguf

CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 50000,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """The parts of a hub that a plan asks: a list of files, small files, ranges of large ones."""

    files: dict[str, dict[str, bytes]] = {}
    asked: list[str] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        type(self).asked.append(self.path)
        if self.path.startswith("/api/models/"):
            repo = "/".join(self.path.split("/")[3:5])
            if repo not in self.files:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in self.files[repo].items()
            ]
            return self.answer(200, json.dumps(tree).encode())
        parts = self.path.strip("/").split("/")
        data = self.files.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
        if data is None:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        facts = {"ETag": '"abc"', "X-Repo-Commit": COMMIT}
        if "Range" in self.headers:
            first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
            facts["Content-Range"] = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            return self.answer(206, data[first : last + 1], facts)
        return self.answer(200, data, facts)

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    gguf = random_gguf.write(tmp_path / "m.gguf", "qwen35", **random_gguf.SIZES["qwen35"])
    index = {"metadata": {"total_size": 700_000_000}, "weight_map": {}}
    Hub.files = {
        "someone/Strange-1": {
            "config.json": json.dumps(CONFIG).encode(),
            "model.safetensors.index.json": json.dumps(index).encode(),
            "model-00001-of-00001.safetensors": b"weights" * 100,
        },
        "someone/Strange-GGUF": {"Strange-Q4_K_M.gguf": gguf.read_bytes()},
        "someone/Broken": {"config.json": b'{"model_type": "qwen3"}'},
    }
    Hub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def plan(hub, home, *words, offline=False):
    away = ("HF_HUB_OFFLINE", "ONECARD_OFFLINE", "HF_TOKEN")
    environment = {k: v for k, v in os.environ.items() if k not in away}
    environment |= {"HF_ENDPOINT": hub, "ONECARD_HOME": str(home), "HF_HOME": str(home / "hf")}
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "onecard", "plan", "llm-infer", *words, "--card", "12gb", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_config_is_read_and_no_weight(hub, tmp_path):
    done = plan(hub, tmp_path, "someone/Strange-1", "--engine", "transformers")
    assert done.returncode == 0, done.stderr
    weights = json.loads(done.stdout)["terms"][0]["bytes"]
    assert weights == 700_000_000, "the index says how much lies there"
    assert not any(path.endswith(".safetensors") for path in Hub.asked)


def test_what_was_read_once_is_known_offline(hub, tmp_path):
    refused = plan(hub, tmp_path, "someone/Strange-1", offline=True)
    assert refused.returncode != 0
    assert "config.json" in refused.stderr
    assert plan(hub, tmp_path, "someone/Strange-1").returncode == 0
    assert plan(hub, tmp_path, "someone/Strange-1", offline=True).returncode == 0


def test_a_gguf_repository_is_read_by_its_header(hub, tmp_path):
    done = plan(hub, tmp_path, "someone/Strange-GGUF", "--n_ctx", "4096")
    assert done.returncode == 0, done.stderr
    terms = {term["name"]: term["bytes"] for term in json.loads(done.stdout)["terms"]}
    assert terms["recurrent state"] > 0


@pytest.mark.parametrize("name", ["someone/Not-There", "someone/Broken"])
def test_a_repository_that_says_nothing_is_refused(hub, tmp_path, name):
    done = plan(hub, tmp_path, name)
    assert done.returncode in (5, 6)
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr
