"""The embedded llama.cpp server as a child process behind a URL.

The child is watched. When it dies, it is started again on the same port: at once after a first
death, later with a growing pause (FIRST_PAUSE_S to LONGEST_PAUSE_S), so that a file that always
kills it does not hold the machine busy.
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
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecard import paths
from onecard.errors import EngineError
from onecard.inference import threads
from onecard.inference.config import PROMPT_CACHE_MIB
from onecard.memory import devices
from onecard.memory.architectures import mmproj as clip_files
from onecard.memory.architectures.gguf import read_header
from onecard.reporting import Reporter

START_S = 600
"""Longest wait for a model to load: a 40 GB file from a hard disk takes about 5 minutes."""
SPIN_COUNT = "300"
"""Turns that a thread of libgomp spins at a barrier before it sleeps (GOMP_SPINCOUNT).

The number of threads is chosen once, when the engine starts; this bound helps when the machine
becomes busy later. SmolLM2-135M, 2 threads, 2 cores of Zen 4, tokens/s: idle 113 with the default
(300,000 turns) and 113 with 300; beside 2 busy loops 2 to 42 with the default, 38 to 63 with 300.
No spin at all (OMP_WAIT_POLICY=PASSIVE) gives 65 idle.
"""
RESTART_S = 10
"""Longest wait for the restart: under a second for a small model, more for a large one."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Pause before the second restart, and the longest; it doubles from one to the other."""
HUNG_S = 20
"""The engine's loop answers between two batches, which take seconds at most."""
WELL_S = 120
"""An engine that lived so long is well: its next death counts as its first."""


@dataclass
class LlamaCpp:
    """A running server. Use it as a context manager, or call `close`."""

    path: Path
    n_ctx: int = 4096
    n_gpu_layers: int = 0
    n_threads: int = 0
    """CPU threads; 0 chooses from the cores that are free when the engine starts."""
    n_ubatch: int = 512
    n_parallel: int = 1
    kv_type: str = "f16"
    embedding: bool = False
    rerank: bool = False
    reporter: Reporter = field(default_factory=Reporter)
    name: str = ""
    adapter: Path | None = None
    """A GGUF LoRA adapter that is laid over the model."""
    mmproj: Path | None = None
    """The file of the vision half; without it the model reads text only."""
    image_min_tokens: int = 0
    image_max_tokens: int = 0
    """Of one picture, where the model takes any size; 0 for the model's own."""

    def __post_init__(self) -> None:
        # a broken file is refused here with its reason, not by an abort in the child
        if self.mmproj:
            clip_files.check_pair(self.path, self.mmproj)
        else:
            read_header(self.path)
        self.name = self.name or self.path.stem
        self.api_key = secrets.token_urlsafe(24)
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.log = paths.home() / "logs" / f"llamacpp-{os.getpid()}-{self.port}.log"
        self.threads = threads.choose(self.n_threads)
        self.devices: list[str] = []
        self._deaths = 0
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._start()

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        params = {
            "path": str(self.path),
            "alias": self.name,
            "port": self.port,
            "api_key": self.api_key,
            "n_ctx": self.n_ctx,
            "n_ubatch": self.n_ubatch,
            "n_parallel": self.n_parallel,
            "n_gpu_layers": self.n_gpu_layers,
            "n_threads": self.threads.n,
            "kv_type": self.kv_type,
            "cache_ram_mib": PROMPT_CACHE_MIB,
            "embedding": self.embedding,
            "rerank": self.rerank,
            "adapter": str(self.adapter or ""),
            "mmproj": str(self.mmproj or ""),
            "image_min_tokens": self.image_min_tokens,
            "image_max_tokens": self.image_max_tokens,
        }
        environment = dict(os.environ)
        if "OMP_WAIT_POLICY" not in environment:
            environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
        with self.log.open("w") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "onecard.inference.llamacpp_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=environment,
            )
        try:
            line = self._load(self._child, json.dumps(params))
        except BaseException:  # Ctrl-C while it loads: nobody else would end it
            self._child.kill()
            self._child.wait()
            raise
        self.devices = list(json.loads(line)["devices"])
        self._started = time.monotonic()
        self._ready.set()
        threading.Thread(target=self._watch, args=(self._child,), daemon=True).start()

    def _load(self, child: "subprocess.Popen[str]", params: str) -> str:
        """What a child tells when its model is loaded. Raises EngineError."""
        assert child.stdin and child.stdout
        try:
            child.stdin.write(params + "\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise self._exit_error("it ended before it read its parameters") from None
        timer = threading.Timer(START_S, child.kill)
        timer.daemon = True
        timer.start()
        try:
            line = ""
            while not line.startswith("{"):
                line = child.stdout.readline()
                if not line:
                    raise self._exit_error("it ended while it loaded the model")
        finally:
            timer.cancel()
        return line

    def _watch(self, child: "subprocess.Popen[str]") -> None:
        if child.stdout:
            child.stdout.read()
        child.wait()
        self._ready.clear()
        if time.monotonic() - self._started > WELL_S:
            self._deaths = 0
        while not self._closing.is_set():
            self._deaths += 1
            pause = self._pause_s()
            self.reporter.warn(
                f"the engine died ({_exit_status(child.returncode)}) and is started again"
                f"{f' in {pause:.0f} s' if pause else ''}; its log is {self.log}"
            )
            if self._closing.wait(pause):
                return
            try:
                self._start()
                return  # the new child has a watch of its own
            except (EngineError, OSError):
                continue

    def _pause_s(self) -> float:
        """Before the next start."""
        if self._deaths < 2:
            return 0.0
        return float(min(FIRST_PAUSE_S * 2.0 ** min(self._deaths - 2, 10), LONGEST_PAUSE_S))

    @property
    def alive(self) -> bool:
        """Whether it answers: it has loaded its model and has not ended."""
        return self._ready.is_set() and self._child is not None and self._child.poll() is None

    def restart_if_hung(self) -> None:
        """End a child whose loop stands still; the watch starts it again."""
        if not self.alive or not self._child:
            return
        child = self._child
        request = urllib.request.Request(
            self.base_url.removesuffix("/v1") + "/metrics",  # answered by the loop itself
            headers={"Authorization": f"Bearer {self.api_key}"},
        )
        try:
            urllib.request.urlopen(request, timeout=HUNG_S).close()
        except OSError:
            self.reporter.warn(f"the engine did nothing for {HUNG_S} s and is ended")
            child.kill()

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    def failure(self) -> EngineError | None:
        """The error to raise after a failed request; None while the child lives, which is awaited
        when it restarts."""
        self._ready.wait(RESTART_S)
        if self.alive:
            return None
        return self._exit_error(
            f"it died {self._deaths} times; the next start is in at most {self._pause_s():.0f} s"
        )

    def _exit_error(self, why: str) -> EngineError:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        code = self._child.poll() if self._child else None
        status = f"{why} ({_exit_status(code)})"
        reason = self._reason(lines)
        fix = f"read {self.log}; a smaller --n_ctx needs less memory"
        if self.mmproj and "tensor" in reason:
            fix = f"download {self.mmproj.name} again, or convert it again; the log is {self.log}"
        return EngineError(
            f"the engine for {self.path.name} ended",
            why=f"{status}: {reason}" if reason else status,
            fix=fix,
        )

    def _reason(self, lines: Sequence[str]) -> str:
        """What the log says of its end: the first errors, which the later ones follow from, else
        its last lines."""
        errors = [line for line in lines if re.match(r"[\d.]+ E ", line)]
        rows = [
            re.sub(r"^[\d.]+ [A-Z] +", "", line)
            for line in (errors[:3] or [line for line in lines if line.strip()][-3:])
        ]
        text = " | ".join(rows)
        for path in (self.mmproj, self.path):
            text = text.replace(str(path), path.name) if path else text
        return text[:500] if errors else text[-500:]

    def placement(self) -> str:
        """Where the layers are, from the engine's own log, and the CPU threads."""
        text = self.log.read_text(errors="replace")
        match = re.search(r"offloaded (\d+)/(\d+) layers to GPU", text)
        if not match or not self.devices or not int(match[1]):
            return f"all layers on the CPU ({self.threads.render()})"
        on_gpu, total = match[1], match[2]
        if on_gpu == total:
            return f"all {total} layers on {self.devices[0]}"
        return (
            f"{on_gpu} of {total} layers on {self.devices[0]}, the rest on the CPU "
            f"({self.threads.render()})"
        )

    def buffers(self) -> dict[str, float]:
        """Sizes in MiB of model, KV and compute buffers as llama.cpp printed them."""
        for _ in range(50):  # the log is written by another process
            text = self.log.read_text(errors="replace")
            if "compute buffer size" in text:
                break
            time.sleep(0.1)
        patterns = {
            "model": r"model buffer size =\s+([\d.]+) MiB",
            "kv": r"KV buffer size =\s+([\d.]+) MiB",
            "state": r"RS buffer size =\s+([\d.]+) MiB",
            "compute": r"compute buffer size =\s+([\d.]+) MiB",
        }
        return {
            name: sum(map(float, re.findall(pattern, text))) for name, pattern in patterns.items()
        }

    def close(self) -> None:
        self._closing.set()
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
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _exit_status(code: int | None) -> str:
    if code is None:
        return "still running"
    return f"signal {-code}" if code < 0 else f"exit {code}"


def unused_gpu_warning(engine_devices: list[str]) -> str:
    """A warning when this machine has a GPU that the installed engine cannot use; else empty."""
    gpus = devices.installed()
    if not gpus or engine_devices:
        return ""
    return (
        f"{gpus[0].name} is in this machine, but the installed llama.cpp is built for the CPU "
        f"only: it will be many times slower. Install the CUDA build: {cuda_command()}"
    )


def cuda_command() -> str:
    """The command that installs the engine's CUDA build, from the package's own description."""
    try:
        text = importlib.metadata.distribution("xllamacpp").read_text("METADATA")
    except importlib.metadata.PackageNotFoundError:
        return "pip install xllamacpp"
    line = re.search(r"pip install xllamacpp --force-reinstall --index-url \S*/cu\d+", str(text))
    return line[0] if line else "the CUDA line in the description of the package xllamacpp"
