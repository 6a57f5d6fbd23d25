"""What this machine has and lacks for onecard, each fault with the command that mends it.

Knows the extras, not the tasks' work.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onecard import paths
from onecard.hub import network
from onecard.memory import devices
from onecard.reporting import Result, table
from onecard.units import GIB, gib, size

BESIDE_TASKS = {
    "langchain": ["langchain-core"],
    "llamaindex": ["llama-index-core"],
    "tracking": ["trackio", "tensorboard", "wandb", "mlflow"],
    "ultralytics": ["ultralytics"],
}
"""Extras that belong to no task, and their distributions."""
NOTICES = {
    "ultralytics": "AGPL-3.0: whoever passes on or serves a program with it owes the source",
}
"""What an extra's user should know."""


@dataclass(frozen=True)
class Check:
    name: str
    state: str
    """good, missing (an extra that is not needed for all tasks) or bad."""
    summary: str
    fix: str = ""


def examine(extras: Mapping[str, Sequence[str]]) -> Result:
    """All checks; the result's data has `bad`, the number of faults.

    `extras`: extra -> its distributions that are not installed.
    """
    checks = [_python(), *_card(), _engine(), _torch(), _memory(), _disk(), _hub()]
    own = {package for packages in BESIDE_TASKS.values() for package in packages}
    checks += [_extra(name, [p for p in lacks if p not in own]) for name, lacks in extras.items()]
    for name, packages in BESIDE_TASKS.items():
        checks.append(_extra(name, [each for each in packages if not _installed(each)]))
    rows = [[check.state, check.name, check.summary, check.fix] for check in checks]
    bad = sum(check.state == "bad" for check in checks)
    drawn = table(rows, ["state", "what", "found", "fix"])
    verdict = f"{bad} to mend" if bad else "all is well"
    data = {"bad": bad, "checks": [check.__dict__ for check in checks]}
    return Result(data, f"{drawn}\n\n{verdict}", (drawn,))


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    return Check(
        "python",
        "good" if good else "bad",
        f"{platform.python_version()} on {platform.machine()}",
        "" if good else "install Python 3.11 or newer",
    )


def _card() -> list[Check]:
    present = devices.installed()
    if present:
        return [
            Check("card", "good", f"{device.render()}, driver {device.driver}")
            for device in present
        ]
    if seen := _pci_cards():
        return [
            Check(
                "card",
                "bad",
                f"{seen}: no driver answers",
                "install NVIDIA's driver: apt install nvidia-driver, then restart",
            )
        ]
    return [Check("card", "missing", "no NVIDIA card: everything runs on the CPU, slower")]


def _pci_cards() -> str:
    """NVIDIA display devices on the PCI bus, found without the driver."""
    try:
        for device in sorted(Path("/sys/bus/pci/devices").iterdir()):
            if (device / "vendor").read_text().strip() == "0x10de" and (
                device / "class"
            ).read_text().startswith("0x03"):
                return f"an NVIDIA card at {device.name}"
    except OSError:
        pass
    return ""


def _engine() -> Check:
    try:
        version = importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return Check("llama.cpp", "bad", "xllamacpp is not installed", "pip install xllamacpp")
    code = (
        "import xllamacpp as x; print([d['description'] for d in x.get_device_info() if "
        "d['type'].name != 'GGML_BACKEND_DEVICE_TYPE_CPU'])"
    )
    # in a child: it is 100 MB of library
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if child.returncode:
        return Check(
            "llama.cpp",
            "bad",
            f"xllamacpp {version} does not load: {child.stderr.strip().splitlines()[-1:]}",
            "pip install --force-reinstall xllamacpp",
        )
    engine_devices = child.stdout.strip().strip("[]")
    if devices.installed() and not engine_devices:
        from onecard.inference.llamacpp import cuda_command  # loads httpx: only where it is needed

        return Check(
            "llama.cpp",
            "bad",
            f"xllamacpp {version} is built for the CPU only, the card stays idle",
            cuda_command(),
        )
    return Check(
        "llama.cpp",
        "good",
        f"xllamacpp {version}" + (f" on {engine_devices}" if engine_devices else ", CPU build"),
    )


def _torch() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check(
            "torch",
            "missing",
            "not installed: tasks that train need it",
            "pip install 'onecard[finetune]'",
        )
    version = importlib.metadata.version("torch")
    # read beside the package: asking for torch.version would load torch, half a gigabyte
    package = importlib.util.find_spec("torch")
    built = Path(package.origin).with_name("version.py") if package and package.origin else None
    text = built.read_text() if built and built.is_file() else ""
    cuda = "cuda: Optional[str] = None" not in text and "cuda = None" not in text
    if devices.installed() and not cuda:
        return Check(
            "torch",
            "bad",
            f"{version} is built for the CPU only, the card stays idle",
            "pip install --force-reinstall torch  (the default build has CUDA)",
        )
    return Check("torch", "good", f"{version}, {'CUDA' if cuda else 'CPU'} build")


def _memory() -> Check:
    total, free = devices.memory_bytes()
    return Check(
        "memory",
        "good" if free > 2 * GIB else "bad",
        f"{gib(free)} free of {gib(total)}",
        "" if free > 2 * GIB else "close other programs: 2 GiB are needed",
    )


def _disk() -> Check:
    home = paths.home()
    near = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(near).free
    writable = os.access(near, os.W_OK)
    if not writable:
        return Check(
            "disk", "bad", f"{home} cannot be written", "set ONECARD_HOME to a folder of yours"
        )
    return Check(
        "disk",
        "good" if free > 5 * GIB else "bad",
        f"{size(free)} free at {home}",
        "" if free > 5 * GIB else "set ONECARD_HOME to a disk with 5 GiB free",
    )


def _hub() -> Check:
    if network.offline():
        return Check(
            "hub", "missing", "downloads are switched off (ONECARD_OFFLINE or HF_HUB_OFFLINE)"
        )
    return (
        Check("hub", "good", "reachable")
        if network.hub_reachable()
        else Check(
            "hub", "missing", "the model hub cannot be reached: embedded models and files only"
        )
    )


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _extra(name: str, missing: Sequence[str]) -> Check:
    notice = f" ({NOTICES[name]})" if name in NOTICES else ""
    if not missing:
        return Check(f"onecard[{name}]", "good", f"installed{notice}")
    summary = f"lacks {', '.join(sorted(set(missing)))}{notice}"
    return Check(f"onecard[{name}]", "missing", summary, f"pip install 'onecard[{name}]'")
