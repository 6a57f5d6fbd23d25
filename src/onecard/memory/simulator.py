"""Counts what a network holds in a forward and a backward pass, from shapes alone: a simulation in
plain Python that takes milliseconds.

A network is a function that calls the operations below, as its torch code would; a tensor is freed
when no variable and no backward pass
needs it, as in torch. Knows no network by name and computes no value; trace.py holds it against the
real classes (tests/e2e/test_nets.py).
Shapes: images (n, c, h, w), sequences (n, t, c).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

Task = Literal["silu", "relu", "gelu", "lrelu", "hswish", "sigmoid", "tanh", "softmax"]
KEEPS_RESULT = ("relu", "sigmoid", "tanh", "softmax", "lrelu")
"""Their backward pass reads the result; the others' reads what came in."""


class _Box:
    """Bytes of one storage, given back when nothing refers to it."""

    __slots__ = ("bytes", "tape")

    def __init__(self, tape: "Tape", size: float) -> None:
        self.tape, self.bytes = (
            tape,
            -(-math.ceil(size) // 512) * 512,
        )  # torch's allocator hands out blocks of 512 bytes
        tape.now += self.bytes
        tape.peak = max(tape.peak, tape.now)

    def __del__(self) -> None:
        self.tape.now -= self.bytes


@dataclass(slots=True)
class Tensor:
    shape: tuple[int, ...]
    wide: float
    """Bytes a value."""
    box: _Box
    key: int
    """Whose gradient it shares; views have the same."""
    needs: bool
    """Whether a gradient flows through it."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        return self.size * self.wide


@dataclass(slots=True)
class _Op:
    out: int
    into: list[tuple[int, float]]
    saved: list[_Box]
    grown: float
    """Bytes of weights' gradients."""
    passes: bool
    """The gradient goes through as it is: adding, joining."""
    scratch: float
    redo: Callable[[], int] | None = None
    """Runs a checkpointed block again, with its operations on the tape; gives the key of what it
    made."""


@dataclass
class Tape:
    """One pass over a network.

    `weights` is the bytes a weight while it lies there, `wide` those of a value.
    """

    grad: bool = False
    wide: float = 4.0
    weights: float = 4.0
    device: bool = True
    """Whether convolutions are cuDNN's: its tensor-core kernels want channels last and copy what
    comes in (SDXL's decoder: 10.47 GiB measured, 9.7 without)."""
    frozen: bool = False
    """Weights made while this is true are not trained.

    Convolutions and norms keep what came in all the same, linear layers do not (torch 2.14).
    """
    now: int = 0
    peak: int = 0
    params: int = 0
    trained: int = 0
    _ops: list[_Op] = field(default_factory=list)
    _grown: list[_Box] = field(default_factory=list)
    _keys: "count[int]" = field(default_factory=lambda: count())

    @property
    def cast(self) -> bool:
        """Autocast: weights are kept in one width and used in another."""
        return self.weights > self.wide

    def tensor(self, *shape: int, wide: float = 0.0, needs: bool = False) -> Tensor:
        wide = wide or self.wide
        return Tensor(
            shape, wide, _Box(self, math.prod(shape) * wide), next(self._keys), needs and self.grad
        )

    def op(
        self,
        shape: Sequence[int],
        into: Sequence[Tensor],
        saved: Sequence[Tensor] = (),
        *,
        wide: float = 0.0,
        n_params: int = 0,
        keeps: bool = False,
        extra: float = 0.0,
        passes: bool = False,
        inplace: bool = False,
        scratch: float = 0.0,
    ) -> Tensor:
        """One operation.

        `saved`: what its backward pass reads, if a gradient flows; `keeps`: that is its result;
        `extra`: bytes it keeps beside.
        """
        train = bool(n_params) and self.grad and not self.frozen
        self.params += n_params
        self.trained += 0 if self.frozen else n_params
        needs = self.grad and (train or any(t.needs for t in into))
        wide = wide or self.wide
        copy = _Box(self, n_params * self.wide) if n_params and self.cast else None
        box = into[0].box if inplace else _Box(self, math.prod(shape) * wide)
        out = Tensor(tuple(shape), wide, box, next(self._keys), needs)
        worked = _Box(self, scratch) if scratch else None
        if needs:
            boxes = (
                [t.box for t in saved]
                + ([box] if keeps else [])
                + ([copy] if copy else [])
                + ([_Box(self, extra)] if extra else [])
            )
            self._ops.append(
                _Op(
                    out.key,
                    [(t.key, t.bytes) for t in into if t.needs],
                    boxes,
                    n_params * self.weights if train else 0,
                    passes,
                    scratch,
                )
            )
        del worked
        return out

    # --- operations with weights

    def conv(
        self,
        x: Tensor,
        c: int,
        k: int = 3,
        s: int = 1,
        groups: int = 1,
        bias: bool = False,
        pad: int = -1,
    ) -> Tensor:
        n, c_in, h, w = x.shape
        pad = k // 2 if pad < 0 else pad
        return self.op(
            (n, c, (h + 2 * pad - k) // s + 1, (w + 2 * pad - k) // s + 1),
            [x],
            [x],
            n_params=c * (c_in // groups) * k * k + c * bias,
            scratch=x.bytes if k > 1 and self.device else 0,
        )

    def deconv(self, x: Tensor, c: int, k: int = 2, s: int = 2) -> Tensor:
        n, c_in, h, w = x.shape
        return self.op((n, c, h * s, w * s), [x], [x], n_params=c * c_in * k * k + c)

    def linear(self, x: Tensor, c: int, bias: bool = True) -> Tensor:
        return self.op(
            (*x.shape[:-1], c),
            [x],
            [x] if not self.frozen else [],
            n_params=x.shape[-1] * c + c * bias,
        )

    def lora(
        self,
        x: Tensor,
        c: int,
        r: int,
        bias: bool = True,
        fp32: bool = False,
        autocast: bool = False,
    ) -> Tensor:
        """A frozen linear layer with a trained pair beside it, as PEFT computes it.

        `fp32`: PEFT casts what comes in to the adapter's fp32; under `autocast` it is cast back,
        and the backward pass keeps that copy.
        """
        was, self.frozen = self.frozen, True
        base = self.linear(x, c, bias)
        self.frozen = False
        if fp32 and x.wide < 4 and not self.cast:
            narrow = x.wide
            x = self.to(x, 4.0)
            x = self.to(x, narrow) if autocast else x
        down = self.op((*x.shape[:-1], r), [x], [x], n_params=x.shape[-1] * r)
        side = self.op((*x.shape[:-1], c), [down], [down], n_params=r * c)
        side = self.op(side.shape, [side])  # scaling
        self.frozen = was
        return self.add(base, side)

    def embed(self, n: int, t: int, c: int, rows: int, tied: bool = False) -> Tensor:
        """A table looked up (n, t) times.

        Tied to the head, its gradient is made and added to the head's: two more for a moment, none
        after.
        """
        out = self.op((n, t, c), [], n_params=rows * c, wide=self.weights if self.cast else 0.0)
        if tied and out.needs:
            self._ops[-1].grown, self._ops[-1].scratch = 0, 2 * rows * c * self.weights
        return out

    def tied(self, x: Tensor, rows: int) -> Tensor:
        """A head that is the table of words: no weights of its own, and a gradient as large as the
        table's."""
        counts = self.params, self.trained
        out = self.op(
            (*x.shape[:-1], rows), [x], [x] if not self.frozen else [], n_params=x.shape[-1] * rows
        )
        self.params, self.trained = counts
        return out

    def norm(
        self,
        x: Tensor,
        over: Literal["batch", "group", "layer", "rms"] = "batch",
        affine: bool = True,
    ) -> Tensor:
        """Batch norm keeps its type under autocast; group and layer norm work in fp32 there."""
        c = x.shape[1] if over in ("batch", "group") else x.shape[-1]
        n_params = (c if over == "rms" else 2 * c) * affine
        wide = x.wide
        if self.cast and over != "batch":
            x, wide = self.to(x, 4.0), 4.0
        was, self.weights = (
            self.weights,
            self.wide if self.cast and over != "batch" else self.weights,
        )  # their weights are not cast
        out = self.op(x.shape, [x], [x], wide=wide, n_params=n_params)
        self.weights = was
        return out

    # --- operations without

    def act(self, x: Tensor, kind: Task = "silu", inplace: bool = False) -> Tensor:
        if kind in KEEPS_RESULT:
            return self.op(x.shape, [x], wide=x.wide, keeps=True, inplace=inplace)
        return self.op(
            x.shape,
            [x],
            [x] if not inplace else [],
            wide=x.wide,
            inplace=inplace,
            extra=x.bytes if inplace else 0,
        )  # in place: a clone is kept

    def to(self, x: Tensor, wide: float) -> Tensor:
        return x if wide == x.wide else self.op(x.shape, [x], wide=wide)

    def add(self, a: Tensor, b: Tensor, inplace: bool = False) -> Tensor:
        return self.op(
            max(a.shape, b.shape, key=math.prod),
            [a, b],
            wide=max(a.wide, b.wide),
            passes=True,
            inplace=inplace,
        )

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return self.op(
            max(a.shape, b.shape, key=math.prod), [a, b], [a, b], wide=max(a.wide, b.wide)
        )

    def cat(self, parts: Sequence[Tensor], dim: int = 1) -> Tensor:
        shape = list(parts[0].shape)
        shape[dim] = sum(part.shape[dim] for part in parts)
        return self.op(shape, parts, wide=max(part.wide for part in parts), passes=True)

    def chunk(self, x: Tensor, parts: int, dim: int = 1) -> list[Tensor]:
        """Views; their gradients are as large as the parts."""
        shape = list(x.shape)
        shape[dim] //= parts
        return [self.view(x, *shape) for _ in range(parts)]

    def view(self, x: Tensor, *shape: int) -> Tensor:
        return Tensor(shape, x.wide, x.box, x.key, x.needs)

    def copy(self, x: Tensor, *shape: int) -> Tensor:
        """Laid out anew: contiguous after a permutation."""
        return self.op(shape or x.shape, [x], wide=x.wide)

    def up(self, x: Tensor, by: int = 2) -> Tensor:
        n, c, h, w = x.shape
        return self.op((n, c, h * by, w * by), [x], wide=x.wide)

    def pool(self, x: Tensor, k: int, s: int, mean: bool = False) -> Tensor:
        """Padded to keep the size where s is 1; a maximum keeps its input and where it was found
        (int64)."""
        n, c, h, w = x.shape
        shape = (n, c, -(-h // s), -(-w // s))
        return self.op(shape, [x], [x], wide=x.wide, extra=0 if mean else math.prod(shape) * 8)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, fused: bool = True, copies: bool = False
    ) -> Tensor:
        """Sequences (n, t, c).

        Fused kernels keep q, k, v, the result and a number a row; else score matrices are made and
        their softmax kept.
        """
        if copies:
            q, k, v = self.copy(q), self.copy(k), self.copy(v)
        if fused:
            return self.op(
                q.shape[:2] + v.shape[2:],
                [q, k, v],
                [q, k, v],
                keeps=True,
                extra=q.shape[0] * heads * q.shape[1] * 4,
                wide=q.wide,
            )
        scores = self.op((q.shape[0], heads, q.shape[1], k.shape[1]), [q, k], [q, k], wide=q.wide)
        scores = self.op(
            scores.shape, [scores], wide=q.wide, keeps=True, scratch=scores.bytes * (4 / q.wide - 1)
        )  # softmax works in fp32
        return self.op(q.shape[:2] + v.shape[2:], [scores, v], [scores, v], wide=q.wide)

    def kept(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A block under activation checkpointing: its input is kept, the rest is made anew on the
        way back."""
        if not self.grad:
            return block(x)
        self.grad = False
        out = block(x)
        self.grad = True
        result = Tensor(out.shape, out.wide, out.box, next(self._keys), True)

        def redo() -> int:
            counts = self.params, self.trained, self.frozen
            self.frozen = frozen
            again = block(Tensor(x.shape, x.wide, box, x.key, x.needs))
            self.params, self.trained, self.frozen = counts
            return again.key

        box, frozen = x.box, self.frozen
        self._ops.append(_Op(result.key, [], [], 0, False, 0, redo))
        return result

    # --- the way back

    def backward(self, loss: Tensor) -> None:
        """Gradients of all trained weights; kept values are freed on the way."""
        grads = {loss.key: _Box(self, loss.bytes)}
        del loss
        while self._ops:
            op = self._ops.pop()
            came = grads.pop(op.out, None)
            if came is None:
                continue
            if op.redo:
                grads[op.redo()] = came
                del op, came
                continue
            worked = _Box(self, op.scratch) if op.scratch else None
            for key, size in op.into:
                new = came if op.passes else _Box(self, size)
                if key in grads:  # summed: into a third where the gradient is shared, else in place
                    new = _Box(self, max(grads[key].bytes, size)) if op.passes else grads[key]
                grads[key] = new
                del new
            if op.grown:
                half = _Box(self, op.grown * self.wide / self.weights) if self.cast else None
                self._grown.append(_Box(self, op.grown))
                del half
            del came, worked
        grads.clear()
