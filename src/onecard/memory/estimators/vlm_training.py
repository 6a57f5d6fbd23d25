"""Memory of a step of onecard's own training of a vision-language model: a frozen tower without
gradients, then projector and language model on the simulator's tape, and logits of the answers'
tokens alone. Pure arithmetic.

Letters: as in training.py; a row is pictures first, then words.
"""

import math
from collections.abc import Callable

from onecard.memory import formats
from onecard.memory.architectures.layers import LM, Layer
from onecard.memory.architectures.vlm import VLM, Pictures
from onecard.memory.estimators import training
from onecard.memory.estimators.training import FROZEN_CHUNK, OPTIMIZER, Recipe
from onecard.memory.estimators.vlm import (
    Training,
    features_bytes,
    pictures_of,
    pixel_bytes,
    quick_gelu,
    tower_hump,
)
from onecard.memory.plan import Term
from onecard.memory.simulator import Tape, Tensor


def step(m: VLM, s: Training) -> list[Term]:
    """The terms of the step's peak: what lies there, and the most of what comes and goes."""
    recipe = s.recipe
    sight = pictures_of(m, s)
    among = 0 if m.cross_values else sight.tokens
    tokens = recipe.B * (among + s.words)
    wide = 4.0 if recipe.compute_fp32 or recipe.weights in ("fp32", "f32") else 2.0
    parts = _lying(m, s, wide)
    pixels = recipe.B * pixel_bytes(m, sight, wide)
    moments = _moments(m, s, sight, tokens, wide)
    why = max(moments, key=lambda name: moments[name])
    parts.append(
        Term("activations", math.ceil(moments[why] + pixels), f"{why}, {tokens} tokens in all")
    )
    return parts


def _lying(m: VLM, s: Training, wide: float) -> list[Term]:
    """Weights, and of those that are trained the optimizer's states and gradients: in fp32."""
    recipe, words = s.recipe, m.words
    out = []
    if recipe.method == "full":
        trained = words.n_params + m.own_head
        why = [f"language model {trained / 1e6:.0f}e6"]
    else:
        weights = formats.hf(words, recipe.weights, wide)
        reason = f"{words.n_params / 1e9:.2f}e9 of {words.name} in {recipe.weights}"
        out.append(Term("weights", weights.total, reason))
        trained = training.adapter_params(words, recipe.targets, recipe.r)
        why = [f"adapters {trained / 1e6:.1f}e6, rank {recipe.r}"] if trained else []
    adapted = bool(trained) and recipe.method != "full"
    whole = 0
    if s.projector == "full" or (s.tower == "full" and m.rotated):
        whole += m.projector
        why.append(f"projector {m.projector / 1e6:.1f}e6")
    if s.tower == "full":
        tower = m.beside - m.projector - m.own_head
        whole += tower
        why.append(f"tower {tower / 1e6:.0f}e6")
    elif s.tower == "lora":
        adapters = m.tower_adapters(recipe.r)
        trained += adapters
        adapted = True
        why.append(f"adapters on the tower {adapters / 1e6:.1f}e6")
    # beside adapters PEFT keeps the first form of what is trained whole
    kept = m.beside if adapted else m.beside - whole
    kept -= m.own_head if recipe.method == "full" else 0
    trained += whole
    state = OPTIMIZER[recipe.optimizer][0]
    reason = ", ".join(why)
    return [
        *out,
        Term("vision tower", math.ceil(kept * wide), f"{kept / 1e6:.0f}e6 x {wide:.0f} B, frozen"),
        Term("trained weights", 4 * trained, f"{reason}, fp32"),
        Term("optimizer", round(trained * state), f"{recipe.optimizer}: {state:.2f} B a weight"),
        Term("gradients", 4 * trained, "one for each trained weight"),
    ]


def _moments(m: VLM, s: Training, sight: Pictures, tokens: int, wide: float) -> dict[str, float]:
    """Bytes of what comes and goes by the moment, gradients not among them."""
    recipe = s.recipe
    autocast = wide < 4
    if s.tower == "frozen":
        tower = tower_hump(m, recipe.B, sight, wide, autocast=autocast)
        features = recipe.B * features_bytes(m, sight, wide)
        waits = _projector_keeps(m, recipe.B, sight, wide) if s.projector == "full" else 0.0
        out = {f"{sight.tiles} tiles, {sight.patches} patches in the frozen tower": tower}
    else:
        out, features = {}, recipe.B * features_bytes(m, sight, wide)
        tower, waits = _trained_tower(m, s, sight, wide)
        waits += _projector_keeps(m, recipe.B, sight, wide)
        out["the tower forward and back"] = tower
    forward, backward = language(m.words, recipe, tokens, recipe.B * s.words, wide)
    out["logits of the answers"] = forward + features + waits + _cast(m, s, wide)
    out["one layer's backward"] = backward + waits
    return out


def _cast(m: VLM, s: Training, wide: float) -> float:
    """Autocast keeps what it made of fp32 weights until the way forward ends; without
    checkpointing the layers' own are kept for the way back and counted there."""
    if wide == 4:
        return 0.0
    cast = training.adapter_params(m.words, s.recipe.targets, s.recipe.r)
    if s.recipe.checkpointing and s.tower == "full":
        cast += m.beside - m.projector
    if s.recipe.method == "full":
        cast = m.words.n_params
    return cast * wide


def _projector_keeps(m: VLM, B: int, sight: Pictures, wide: float) -> float:
    """What a trained projector's backward pass reads: the tower's output (normed in fp32 by
    Qwen-VL), and around its activation; its weights cast to 16 bits."""
    rows = B * sight.patches * m.tower.D
    cast_too = 4 if wide < 4 else 0
    normed = 4 + cast_too if m.rotated else 0
    hidden = sight.tokens * B * m.projector_width * 2
    cast = m.projector * wide if wide < 4 else 0
    return rows * (wide + normed) + hidden * wide * (1 + m.deep) + cast


def _trained_tower(m: VLM, s: Training, sight: Pictures, wide: float) -> tuple[float, float]:
    """(peak of its own, bytes that wait for the backward pass)."""
    recipe = s.recipe
    kept = 4.0 if s.tower == "full" else wide
    t = Tape(grad=True, wide=wide, weights=kept, frozen=s.tower != "full", device=False)
    y = t.tensor(1, recipe.B * sight.patches, m.tower.D, wide=kept, needs=True)
    block = _encoder(t, m, recipe.r if s.tower == "lora" else 0)
    for _ in range(m.tower.L):
        y = t.kept(block, y) if recipe.checkpointing else block(y)
    waits = t.now - y.bytes
    t.backward(t.op((1,), [y]))
    grown = 4.0 * t.trained
    return t.peak - grown, waits


def language(
    lm: LM, recipe: Recipe, tokens: int, labelled: int, wide: float
) -> tuple[float, float]:
    """(peak of the way forward, of the way back) of all decoder layers and the loss."""
    t = Tape(grad=True, wide=wide, weights=wide, frozen=True, device=False)
    x = t.tensor(recipe.B, tokens // recipe.B, lm.D, needs=True)
    for layer in lm.layers:
        block = _block(t, lm, layer, recipe)
        x = t.kept(block, x) if recipe.checkpointing else block(x)
    x = _rms(t, x)
    picked = t.op((labelled, lm.D), [x])
    if recipe.method == "full":  # under a trained head all chunks' logits wait
        logits = t.to(t.op((labelled, lm.V), [picked], [picked]), 4.0)
        loss = t.op((1,), [t.op(logits.shape, [logits], wide=4.0, keeps=True)])
        del x, picked, logits
        return _both_ways(t, loss)
    # logits of a chunk in fp32 and in 16 bits, beside the gradient of what was picked
    grad = t.tensor(labelled, lm.D)
    logits = t.tensor(min(labelled, FROZEN_CHUNK), lm.V, wide=4.0 if wide == 4 else 6.0)
    del logits
    loss = t.op((1,), [picked], [grad])
    del x, picked, grad
    return _both_ways(t, loss)


def _both_ways(t: Tape, loss: Tensor) -> tuple[float, float]:
    forward = t.peak
    t.peak = t.now
    t.backward(loss)
    return float(forward), float(t.peak)


def _block(t: Tape, lm: LM, layer: Layer, recipe: Recipe) -> Callable[[Tensor], Tensor]:
    opened = recipe.weights.startswith("nf4")
    full = recipe.method == "full"

    def linear(x: Tensor, c: int, name: str) -> Tensor:
        scratch = x.shape[-1] * c * t.wide if opened else 0
        base = t.op((*x.shape[:-1], c), [x], [x] if full else [], scratch=scratch)
        if full or name not in recipe.targets:
            return base
        down = t.op((*x.shape[:-1], recipe.r), [x], [x])
        return t.add(base, t.op(base.shape, [down], [down]))

    def run(x: Tensor) -> Tensor:
        y = _rms(t, x)
        if layer.H:
            x = t.add(x, _attention(t, y, lm, layer, linear, recipe))
        del y
        y = _rms(t, x)
        gate = linear(y, layer.F, "gate") if lm.gated else None
        up = linear(y, layer.F, "up")
        del y
        inner = t.act(gate if gate else up)
        del gate
        inner = t.mul(inner, up) if lm.gated else inner
        del up
        return t.add(x, linear(inner, lm.D, "down"))

    return run


Linear = Callable[[Tensor, int, str], Tensor]


def _attention(t: Tape, y: Tensor, lm: LM, layer: Layer, linear: Linear, recipe: Recipe) -> Tensor:
    q = linear(y, layer.H * layer.K, "q")
    k, v = linear(y, layer.G * layer.K, "k"), linear(y, layer.G * layer.K, "v")
    if lm.qk_norm:
        q, k = _rms(t, q), _rms(t, k)
    q, k = _turned(t, q), _turned(t, k)
    if recipe.B == 1:
        out = t.attend(q, k, v, layer.H)
    else:  # rows of different lengths have a mask, for which grouped heads are repeated
        if layer.G < layer.H:
            k, v = t.op(q.shape, [k]), t.op(q.shape, [v])
        mask = t.tensor(q.shape[0], q.shape[1], q.shape[1])
        sums = 4.0 * q.shape[0] * layer.H * q.shape[1]
        out = t.op(q.shape, [q, k, v], [q, k, v, mask], keeps=True, extra=sums)
        del mask
    del q, k, v
    return linear(out, lm.D, "o")


def _rms(t: Tape, x: Tensor) -> Tensor:
    """In fp32, as the classes of transformers compute it; its own weight is frozen."""
    y = t.to(x, 4.0)
    y = t.op(y.shape, [y], [y], wide=4.0)
    return t.op(y.shape, [t.to(y, t.wide)])


def _turned(t: Tape, x: Tensor) -> Tensor:
    """Rotary embedding: a product with cosines, and one of the halves exchanged with sines."""
    return t.add(t.op(x.shape, [x]), t.op(x.shape, [t.op(x.shape, [x])]))


def _encoder(t: Tape, m: VLM, r: int) -> Callable[[Tensor], Tensor]:
    """A layer of the tower that is trained whole, or by adapters of rank r."""
    tower = m.tower

    def linear(x: Tensor, c: int) -> Tensor:
        x = t.to(x, t.wide)  # each makes its own copy of what a norm gives in fp32
        return t.lora(x, c, r) if r else t.linear(x, c)

    def normed(x: Tensor) -> Tensor:
        y = t.to(x, 4.0)
        n_params = (2 - tower.gated) * tower.D * (not r)  # RMSNorm has no bias
        was, t.weights = t.weights, t.wide  # a norm's weights are not cast
        y = t.op(y.shape, [y], [y], wide=4.0, n_params=n_params)
        t.weights = was
        return t.to(y, t.wide) if tower.gated else y

    def turned(x: Tensor) -> Tensor:
        return t.to(_turned(t, t.to(x, 4.0)), t.wide)

    def run(x: Tensor) -> Tensor:
        y = normed(x)
        if m.rotated:  # values are a view of the three
            joined = linear(y, 3 * tower.D)
            q, k, v = (t.view(joined, *x.shape) for _ in range(3))
            q, k = turned(q), turned(k)
            del joined
        else:
            q, k, v = linear(y, tower.D), linear(y, tower.D), linear(y, tower.D)
        del y
        y = t.attend(q, k, v, tower.H)
        y = t.op(y.shape, [y]) if m.rotated else y  # windows are joined
        del q, k, v
        x = t.add(x, linear(y, tower.D))
        y = normed(x)
        gate = linear(y, tower.F) if tower.gated else None
        y = linear(y, tower.F)
        if gate:
            y = t.mul(t.act(gate), y)
        elif quick_gelu(m):
            y = t.mul(y, t.act(y, "sigmoid"))
        else:
            y = t.act(y, "gelu")
        del gate
        return t.add(x, linear(y, tower.D))

    return run
