"""Writes what the plan knows of networks of images by name: architectures/nets.jsonl.

python scripts/net_facts.py [NAME ...]      (needs ultralytics, timm, torchvision and transformers)

Each network's real class is built on no memory and run on fake tensors at a few sizes, forward, as
it is trained and as it is used. What is written are counts: its weights, and what its parts keep
for the way back as a polynomial of the pixels of an image. No weights are read.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from onecard import ultralytics_env  # noqa: E402
from onecard.memory.fake_tensor import Counter  # noqa: E402
from onecard.memory.fake_tensor_nets import _give_storage  # noqa: E402

OUT = ROOT / "src/onecard/memory/architectures/nets.jsonl"
PARTS = 12
"""Into so many a network is cut, of about equal weights and kept values."""


@dataclass
class Subject:
    """One network to be recorded."""

    names: tuple[str, ...]
    task: str
    build: Callable[[], Any]
    sides: tuple[int, int, int]
    source: str
    call: Callable[[Any, torch.Tensor], Any] = lambda net, x: net(x)
    extra: dict[str, Any] = field(default_factory=dict)


def block(size: int) -> int:
    return -(-size // 512) * 512


class Keeper:
    """What autograd keeps, in the order of the modules that run."""

    def __init__(self, net: Any) -> None:
        self.weights = {t.untyped_storage()._cdata for t in [*net.parameters(), *net.buffers()]}
        self.kept: dict[int, Any] = {}
        self.counted: set[int] = set()
        self.bytes = self.params = self.largest = 0
        self.steps: list[tuple[int, int, int]] = []
        self.hooks = []  # ultralytics' networks share one activation: hooks must not stay on it
        for module in net.modules():
            self.hooks.append(module.register_forward_pre_hook(self.before))
            if not list(module.children()):
                self.hooks.append(module.register_forward_hook(self.after))

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights and storage._cdata not in self.kept:
            self.kept[storage._cdata] = storage
            self.bytes += block(storage.nbytes())
        return tensor

    def before(self, module: Any, _: Any) -> None:
        if id(module) not in self.counted:
            self.counted.add(id(module))
            own = module.parameters(recurse=False)
            self.params += sum(p.numel() for p in own if p.requires_grad)

    def after(self, module: Any, _: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, block(out.numel() * out.element_size()))
        self.steps.append((self.bytes, self.params, self.largest))
        self.largest = 0


def fakes(subject: Subject) -> Any:
    with torch.device("meta"):
        return subject.build()


def kept(subject: Subject, B: int, side: int, amp: bool) -> list[tuple[int, int, int]]:
    """(bytes kept, weights passed, largest result since) after each module of a pass forward."""
    net = fakes(subject)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_storage(net)
        net.train()
        keeper = Keeper(net)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=amp)
        with torch.autograd.graph.saved_tensors_hooks(keeper.pack, lambda t: t), autocast:
            out = subject.call(net, torch.empty(B, 3, side, side))
        keeper.steps.append((keeper.bytes, keeper.params, keeper.largest))
        for hook in keeper.hooks:
            hook.remove()
        del out
    return keeper.steps


def used(subject: Subject, B: int, side: int) -> tuple[int, int]:
    """(peak beyond the weights of a pass without gradients in fp32, weights)."""
    net = fakes(subject)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_storage(net)
        net.train("maps" in subject.extra)  # a detector that is used picks boxes by their values
        counter = Counter()
        for tensor in [*net.parameters(), *net.buffers()]:
            counter.see(tensor)
        before = counter.peak = counter.now
        with counter, torch.no_grad():
            out = subject.call(net, torch.empty(B, 3, side, side))
        del out
    return counter.peak - before, sum(p.numel() for p in net.parameters())


def polynomial(values: list[int], doubled: int, sides: tuple[int, ...]) -> list[float]:
    """(bytes of any batch, then of one image: constant, for a pixel, for a pixel squared)."""
    one = doubled - values[0]
    fixed = values[0] - one
    if len(sides) == 1:
        return [max(fixed, 0), max(one, 0), 0, 0]
    x = [float(side**2) for side in sides]
    y = [float(value - fixed) for value in values]
    slope = (y[2] - y[0]) / (x[2] - x[0])
    bend = ((y[1] - y[0]) / (x[1] - x[0]) - slope) / (x[1] - x[2])
    if abs(bend) * x[2] ** 2 < 0.02 * max(y[2], 1) or bend < 0:
        bend = 0.0
    else:
        slope -= bend * (x[0] + x[2])
    return [float(f"{v:.4g}") for v in (fixed, y[0] - slope * x[0] - bend * x[0] ** 2, slope, bend)]


def cuts(steps: list[tuple[int, int, int]]) -> list[int]:
    """Ends of about equal parts, by the share of kept bytes and of weights."""
    most_bytes, most_params = max(steps[-1][0], 1), max(steps[-1][1], 1)
    ends, part = [], 1
    for i, (kept_bytes, params, _) in enumerate(steps):
        share = kept_bytes / most_bytes / 2 + params / most_params / 2
        if share >= part / PARTS or i == len(steps) - 1:
            ends.append(i)
            part = int(share * PARTS) + 1
    return ends


def parts(subject: Subject, amp: bool) -> list[list[float]]:
    """Of each part: weights, the largest result's polynomial, the kept values' polynomial."""
    sides = tuple(sorted(set(subject.sides)))
    passes = [kept(subject, 1, side, amp) for side in sides]
    doubled = kept(subject, 2, sides[0], amp)
    if len({len(steps) for steps in (*passes, doubled)}) != 1:
        raise ValueError(f"{subject.names[0]}: its modules run a different number of times")
    rows, last = [], -1
    for end in cuts(passes[-1]):

        def grown(
            steps: list[tuple[int, int, int]], column: int, last: int = last, end: int = end
        ) -> int:
            return steps[end][column] - (steps[last][column] if last >= 0 else 0)

        def largest(steps: list[tuple[int, int, int]], last: int = last, end: int = end) -> int:
            return max(step[2] for step in steps[last + 1 : end + 1])

        size = polynomial([largest(s) for s in passes], largest(doubled), sides)
        memory = polynomial([grown(s, 0) for s in passes], grown(doubled, 0), sides)
        rows.append([grown(passes[-1], 1), *size, *memory])
        last = end
    return rows


def record(subject: Subject) -> dict[str, Any]:
    sides = tuple(sorted(set(subject.sides)))
    peaks = [used(subject, 1, side) for side in sides]
    doubled = used(subject, 2, sides[0])[0]
    return {
        "names": list(subject.names),
        "task": subject.task,
        "params": peaks[0][1],
        "source": subject.source,
        "used": polynomial([peak for peak, _ in peaks], doubled, sides),
        "fp32": parts(subject, False),
        "amp": parts(subject, True),
        **({"side": sides[0]} if len(sides) == 1 else {}),
        **subject.extra,
    }


def main() -> None:
    from net_subjects import subjects

    ultralytics_env.quiet()
    wanted = set(sys.argv[1:])
    rows = {}
    if OUT.exists():
        for line in OUT.read_text().splitlines():
            row = json.loads(line)
            rows[row["names"][0]] = row
    for subject in subjects():
        name = subject.names[0]
        if (wanted and name not in wanted) or (not wanted and name in rows):
            continue
        try:
            rows[name] = record(subject)
            print(name, rows[name]["params"], flush=True)
        except Exception as fault:  # what cannot be run is told and left out
            print("LEFT OUT", name, type(fault).__name__, str(fault)[:200], flush=True)
        OUT.write_text("".join(json.dumps(rows[n]) + "\n" for n in sorted(rows)))


if __name__ == "__main__":
    main()
