"""The embedded llama.cpp as a child process behind a URL. Knows nothing of what is asked of it.

The child is watched: when it dies it is started once more on the same port; the second death is
told with its last lines.
"""

import importlib.metadata
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecard import paths
from onecard.errors import EngineError
from onecard.memory import devices
from onecard.memory.architectures.gguf import read_header
from onecard.reporting import Reporter

START_S = 600
"""Longest wait for a model to load: a 40 GB file from a hard disk takes about 5 minutes."""


@dataclass
class LlamaCpp:
    """A running server. Use as a context manager, or call `close`."""

    path: Path
    n_ctx: int = 4096
    n_gpu_layers: int = 0
    n_threads: int = 0
    n_ubatch: int = 512
    n_parallel: int = 1
    kv_type: str = "f16"
    embedding: bool = False
    rerank: bool = False
    reporter: Reporter = field(default_factory=Reporter)
    name: str = ""
    adapter: Path | None = None
    """A GGUF LoRA adapter that is laid over the model."""

    def __post_init__(self) -> None:
        read_header(
            self.path
        )  # a broken file is refused here with its reason, not by an abort in the child
        self.name = self.name or self.path.stem
        self.api_key = secrets.token_urlsafe(24)
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.log = paths.home() / "logs" / f"llamacpp-{os.getpid()}-{self.port}.log"
        self.devices: list[str] = []
        self._deaths = 0
        self._closing = False
        self._child: subprocess.Popen[str] | None = None
        self._start()

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        asked = {
            "path": str(self.path),
            "alias": self.name,
            "port": self.port,
            "api_key": self.api_key,
            "n_ctx": self.n_ctx,
            "n_ubatch": self.n_ubatch,
            "n_parallel": self.n_parallel,
            "n_gpu_layers": self.n_gpu_layers,
            "n_threads": self.n_threads or os.cpu_count() or 1,
            "kv_type": self.kv_type,
            "embedding": self.embedding,
            "rerank": self.rerank,
            "adapter": str(self.adapter or ""),
        }
        with self.log.open("w") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "onecard.inference.llamacpp_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._child.stdin and self._child.stdout
        try:
            self._child.stdin.write(json.dumps(asked) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._dead("it ended before it read its orders") from None
        timer = threading.Timer(START_S, self._child.kill)
        timer.start()
        line = ""
        while not line.startswith("{"):
            line = self._child.stdout.readline()
            if not line:
                break
        timer.cancel()
        if not line:
            raise self._dead("it ended while it loaded the model")
        self.devices = list(json.loads(line)["devices"])
        threading.Thread(target=self._watch, args=(self._child,), daemon=True).start()

    def _watch(self, child: "subprocess.Popen[str]") -> None:
        if child.stdout:
            child.stdout.read()
        child.wait()
        if self._closing:
            return
        self._deaths += 1
        if self._deaths == 1:
            self.reporter.warn(
                f"the engine died ({_ending(child.returncode)}) and is started again; its log is "
                f"{self.log}"
            )
            try:
                self._start()
            except EngineError:
                self._deaths = 2

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    def why_dead(self) -> EngineError | None:
        """The error to tell when a request failed: None while the child lives or is being started
        again."""
        for _ in range(
            100
        ):  # a restart takes under a second for a small model, more for a large one
            if self.alive or self._deaths >= 2:
                break
            time.sleep(0.1)
        return None if self.alive else self._dead("it died a second time")

    def _dead(self, why: str) -> EngineError:
        try:
            tail = [
                re.sub(r"^[\d.]+ [A-Z] ", "", line)
                for line in self.log.read_text(errors="replace").splitlines()
                if line.strip()
            ]
        except OSError:
            tail = []
        code = self._child.poll() if self._child else None
        said = " | ".join(tail[-3:])[-500:]
        return EngineError(
            f"the engine for {self.path.name} ended",
            why=f"{why} ({_ending(code)}): {said}" if said else f"{why} ({_ending(code)})",
            fix=f"read {self.log}; a smaller --n_ctx needs less memory",
        )

    def where(self) -> str:
        """Where the layers went, from the engine's own log."""
        text = self.log.read_text(errors="replace")
        found = re.search(r"offloaded (\d+)/(\d+) layers to GPU", text)
        if found and self.devices and int(found[1]):
            return (
                f"{found[1]} of {found[2]} layers on {self.devices[0]}, the rest on the CPU"
                if found[1] != found[2]
                else f"all {found[2]} layers on {self.devices[0]}"
            )
        return f"all layers on the CPU ({self.n_threads or os.cpu_count()} threads)"

    def buffers(self) -> dict[str, float]:
        """Sizes in MiB of model, KV and compute buffers as llama.cpp printed them."""
        text = self.log.read_text(errors="replace")
        forms = {
            "model": r"model buffer size =\s+([\d.]+) MiB",
            "kv": r"KV buffer size =\s+([\d.]+) MiB",
            "compute": r"compute buffer size =\s+([\d.]+) MiB",
        }
        return {name: sum(map(float, re.findall(form, text))) for name, form in forms.items()}

    def close(self) -> None:
        self._closing = True
        if not self._child or self._child.poll() is not None:
            return
        try:
            if self._child.stdin:
                self._child.stdin.close()
            self._child.wait(timeout=5)
        except (subprocess.TimeoutExpired, OSError):
            self._child.kill()
        self.log.unlink(missing_ok=True)

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *fault: Any) -> None:
        self.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ending(code: int | None) -> str:
    return "still running" if code is None else f"signal {-code}" if code < 0 else f"exit {code}"


def bypassed(engine_devices: list[str]) -> str:
    """A warning when this machine has a card that the installed engine cannot use; else empty."""
    present = devices.installed()
    if not present or engine_devices:
        return ""
    return (
        f"{present[0].name} is in this machine, but the installed llama.cpp is built for the CPU "
        f"only: it will be many times slower. Mend it with: {cuda_command()}"
    )


def cuda_command() -> str:
    """The command that installs the engine's CUDA build, read from the package's own description."""
    try:
        text = importlib.metadata.distribution("xllamacpp").read_text("METADATA")
    except importlib.metadata.PackageNotFoundError:
        return "pip install xllamacpp"
    found = re.search(r"pip install xllamacpp --force-reinstall --index-url \S*/cu\d+", str(text))
    return found[0] if found else "the CUDA line in the description of the package xllamacpp"
