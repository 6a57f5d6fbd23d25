"""Checkpoints of our own training loops: one safetensors file a step, written whole or not at all.

Tensor names carry a prefix each: `net.` for weights, `optim.` for optimizer state. The random state
is not stored: it follows from seed and step (training.seeds).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onecard import fsio
from onecard.errors import DataError

MAX_CHECKPOINTS = 2
"""On the disk at once: the one before the last is there if the last turns out to be damaged."""


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the checkpoint of `step` and remove all but the newest MAX_CHECKPOINTS.

    Raises DataError where the disk is full.
    """
    with fsio.atomic_write(folder / f"step-{step:07d}.safetensors") as draft:
        try:
            save_file(
                {name: value.detach().contiguous().cpu() for name, value in tensors.items()},
                draft,
                metadata=dict(metadata or {}),
            )
        except SafetensorError as fault:
            raise DataError(
                f"a checkpoint could not be written to {folder}",
                why=str(fault)[:200],
                fix="free some disk space, then --resume: the checkpoint before is complete",
            ) from None
    for path in _newest_last(folder)[:-MAX_CHECKPOINTS]:
        path.unlink()


def last(folder: Path) -> Path | None:
    """The checkpoint with the highest step."""
    paths = _newest_last(folder)
    return paths[-1] if paths else None


def step_of(path: Path) -> int:
    """The step in a checkpoint's name.

    >>> step_of(Path("step-0000040.safetensors"))
    40
    """
    return int(path.stem.removeprefix("step-"))


def _newest_last(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), key=step_of)


def read_metadata(path: Path) -> dict[str, str]:
    """Raises DataError for a truncated file."""
    with _open(path) as file:
        return dict(file.metadata() or {})


def load(path: Path) -> dict[str, Tensor]:
    """All tensors by name. Raises DataError for a truncated file."""
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as fault:
        raise DataError(
            f"{path} is not a complete checkpoint",
            why=str(fault)[:200],
            fix=f"remove it; --resume then continues from the one before in {path.parent}",
        ) from None


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Around the code that copies a checkpoint's tensors into model and optimizer.

    Raises DataError where names or shapes differ.
    """
    try:
        yield
    except (KeyError, RuntimeError) as fault:
        raise DataError(
            f"{path.name} is the checkpoint of another model",
            why=str(fault).splitlines()[0][:200],
            fix="the same model and optimizer as before, or --output_dir elsewhere",
        ) from None


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def select(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a prefix, named without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


@torch.no_grad()
def copy_into(weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into `weights` of the same names. Raises KeyError for a missing one."""
    for name, weight in weights.items():
        weight.copy_(tensors[name])


OPTIMIZER = "optimizer"
"""Metadata: the class whose state lies in a checkpoint."""


def optimizer_metadata(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    return {OPTIMIZER: type(optimizer).__name__}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """`load_optimizer_state`, unless another class saved it: an out-of-memory fallback may have
    taken an 8-bit one, whose moments start anew. A checkpoint that names none is of the same."""
    own = type(optimizer).__name__
    if metadata.get(OPTIMIZER, own) == own:
        load_optimizer_state(optimizer, tensors)


NESTED = "/"
"""Between the names of a group of tensors and of one in it: bitsandbytes keeps its quantized states
in a dictionary of their own."""


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimizer as flat tensors: `<parameter number>.<name>`."""
    tensors: dict[str, Tensor] = {}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            rows = (
                {f"{name}{NESTED}{key}": row for key, row in value.items()}
                if isinstance(value, dict)
                else {name: value}
            )
            tensors |= {f"{number}.{key}": torch.as_tensor(row) for key, row in rows.items()}
    return tensors


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_state` returned; learning rates and groups stay as they are."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        group, _, inner = name.partition(NESTED)
        row = state.setdefault(int(number), {})
        # torch counts steps in float tensors, bitsandbytes in plain integers
        plain = int(value) if value.ndim == 0 and value.dtype == torch.int64 else value
        if inner:
            row.setdefault(group, {})[inner] = plain
        else:
            row[group] = plain
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
