"""The truth check of a vision-language model: transformers' own class on fake tensors, with its
picture: an answer, or a training step. Every storage is counted. Knows no formula.

Heavy: imports torch and transformers. Words, grids and pixels are real numbers, as the classes look
at them; whatever is made with a weight is fake.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._pytree import tree_leaves, tree_map_only

from onecard.errors import DataError
from onecard.memory.architectures.vlm import VLM, Pictures
from onecard.memory.estimators import vlm, vlm_training
from onecard.memory.estimators.training import FROZEN_CHUNK, Recipe
from onecard.memory.fake_tensor import LINEARS, Counter, _Adapted, _FourBit
from onecard.memory.fake_tensor_nets import give_storage
from onecard.memory.fake_tensor_vlm_inputs import INPUTS, Inputs, config_of, inputs_of, no_class

NOTE = "the real class with its picture: weights, and the most that lies beside them"
TOWERS = ("model.visual", "model.vision_tower", "model.vision_model")
PROJECTORS = (
    "model.multi_modal_projector",
    "model.connector",
    "model.visual.merger",
    "model.visual.deepstack_merger_list",
)
VISION_LINEARS = frozenset(
    {"q_proj", "k_proj", "v_proj", "out_proj", "qkv", "proj", "fc1", "fc2"}
    | {"linear_fc1", "linear_fc2", "gate_proj", "up_proj", "down_proj"}
)


class MixedCounter(Counter):  # type: ignore[no-untyped-call]
    """Counts as Counter does. What is made of whole numbers alone is computed, so that a class can
    look at it (the grid of a picture, the places of its tokens); the rest stays fake."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in INDEXED:
            args = (args[0], _places(args[1]), *args[2:])
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            result = func(*args, **kwargs)
        else:
            result = self._of_numbers(func, args, kwargs, bool(tensors))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        return result

    def _of_numbers(self, func: Any, args: Any, kwargs: Any, is_real: bool) -> Any:
        if not is_real:
            result = func(*args, **kwargs)
            tensors = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
            if any(tensor.is_floating_point() for tensor in tensors):
                return result
        with unset_fake_temporarily():
            return func(*args, **kwargs)


aten: Any = torch.ops.aten
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


def _places(indices: Sequence[Any]) -> list[Any]:
    """A mask as the numbers that torch makes of it: fakes are picked by numbers alone."""
    out: list[Any] = []
    for index in indices:
        is_mask = isinstance(index, torch.Tensor) and index.dtype == torch.bool
        if is_mask and not isinstance(index, FakeTensor):
            with unset_fake_temporarily():
                out += index.nonzero(as_tuple=True)
        else:
            out.append(index)
    return out


# The class


def _built(m: VLM, dtype: torch.dtype, four_bit: str = "") -> Any:
    """The class on the meta device, frozen. Raises DataError."""
    if m.family not in INPUTS:
        raise no_class(m, "")
    config = config_of(m)
    try:
        with torch.device("meta"):
            net: Any = transformers.AutoModelForImageTextToText.from_config(
                config, dtype=dtype, attn_implementation="sdpa"
            ).requires_grad_(False)
            if four_bit:
                for parent, leaf, linear in _linears(_words(net)):
                    setattr(parent, leaf, _packed(linear, four_bit == "nf4-dq"))
    except (ValueError, TypeError, ImportError, AttributeError) as fault:
        raise no_class(m, str(fault)) from None
    return net


def _words(net: Any) -> Any:
    return getattr(net.model, "language_model", None) or net.model.text_model


def _linears(part: Any) -> list[tuple[Any, str, torch.nn.Linear]]:
    """(parent, name in it, layer) of all linear layers."""
    return [
        (part.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], layer)
        for name, layer in list(part.named_modules())
        if isinstance(layer, torch.nn.Linear)
    ]


def _packed(linear: torch.nn.Linear, twice: bool) -> torch.nn.Module:
    """In 4 bits; `twice`: with its scales in 8 bits, and scales of 256 of these."""
    layer = _Packed(linear.in_features, linear.out_features)
    if twice:
        count = linear.in_features * linear.out_features // 64
        layer.register_buffer("scales", torch.empty(count, dtype=torch.uint8))
        layer.register_buffer("outer", torch.empty(count // 256))
    return layer


class _Beside(_Adapted):
    """Answers in the type of its frozen layer, as PEFT does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x)
        linear = torch.nn.functional.linear
        side = linear(linear(x.to(self.down.dtype) if self.casts else x, self.down), self.up)
        return out + side.to(out.dtype)


class _Packed(_FourBit):
    """Its weights are not opened for one word: bitsandbytes has a kernel for that."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() == x.shape[-1] and not x.requires_grad:
            return torch.empty((*x.shape[:-1], self.shape[0]), dtype=x.dtype)
        return super().forward(x)


def _at_home(net: Any, counter: Counter) -> None:
    """Every weight has a storage and is counted. Before the counter is at work."""
    give_storage(net)
    for tensor in [*net.parameters(), *net.buffers()]:
        counter.see(tensor)


# An answer


def answer(m: VLM, look: vlm.Look) -> tuple[int, int]:
    """(bytes of the weights, peak bytes) of reading pictures and words and of the answer's last
    token, whichever is more. Raises DataError for what is not traced."""
    if look.format not in ("bf16", "fp16", "fp32", "f32", "nf4", "nf4-dq") or look.all_logits:
        raise DataError(
            "this answer cannot be traced",
            why="a trace knows 16 and 32 bits and nf4, and logits of the last token",
            fix="--quant nf4, or plan it without --trace",
        )
    dtype = torch.float32 if look.width_bytes == 4 else torch.bfloat16
    four_bit = look.format if look.format.startswith("nf4") else ""
    sight = vlm.pictures_of(m, look)
    net = _built(m, dtype, four_bit)
    counter = MixedCounter()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _at_home(net.eval(), counter)
        static = counter.now
        with counter, torch.no_grad():
            inputs = inputs_of(net, m, look.B, sight, look.tokens)
            out = net(**inputs, use_cache=True, logits_to_keep=1)
            logits = out.logits[:, -1].float()
            cache = out.past_key_values
            del out, logits
            _lengthen(cache, look.answer - 1)
            word = torch.ones((look.B, 1), dtype=torch.long)
            net(input_ids=word, past_key_values=cache, use_cache=True).logits[:, -1].float()
        return static, counter.peak


def _lengthen(cache: Any, n: int) -> None:
    """The cache as it is after n more tokens."""
    for layer in cache.layers if n > 0 else ():
        if layer.keys.shape[2] < getattr(layer, "sliding_window", 1 << 40):
            B, G, T, K = layer.keys.shape
            layer.keys = layer.values = None
            layer.keys = torch.empty((B, G, T + n, K), dtype=layer.dtype)
            layer.values = torch.empty((B, G, T + n, K), dtype=layer.dtype)


# A training step


class _Labelled(torch.autograd.Function):
    """The loss of tokens with a label under a frozen head, a chunk of logits at a time with its
    gradient: what onecard's own trainer holds."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, chunk: int) -> Any:
        grad_ND = torch.empty_like(hidden_ND)
        total = torch.zeros((), dtype=torch.float32)
        for start in range(0, len(hidden_ND), chunk):
            logits = (hidden_ND[start : start + chunk].to(weight_VD.dtype) @ weight_VD.T).float()
            logits.sub_(logits.amax(-1, keepdim=True)).exp_()
            total = total + logits.sum()
            grad_ND[start : start + chunk] = (logits.to(weight_VD.dtype) @ weight_VD).to(
                grad_ND.dtype
            )
            del logits
        ctx.save_for_backward(grad_ND)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grads[0].to(grad_ND.dtype), None, None


@contextmanager
def card_autocast() -> Iterator[None]:
    """LayerNorm answers in fp32 under autocast, as on a card; autocast on a CPU leaves it as it is
    (torch's documentation of torch.amp: ops that autocast to float32)."""
    functions: Any = torch.nn.functional
    plain = functions.layer_norm

    def layer_norm(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            values = (x, args, kwargs)
            x, args, kwargs = tree_map_only(torch.Tensor, lambda value: value.float(), values)
        normed: torch.Tensor = plain(x, *args, **kwargs)
        return normed

    functions.layer_norm = layer_norm
    try:
        yield
    finally:
        functions.layer_norm = plain


def step(m: VLM, s: vlm.Training) -> tuple[int, int]:
    """(bytes before it, peak bytes) of a micro-batch of a later step: AdamW's two states lie there,
    and where steps are gathered, gradients.

    Raises DataError for what is not traced.
    """
    recipe = s.recipe
    fp32 = recipe.compute_fp32 or recipe.weights in ("fp32", "f32")
    if recipe.optimizer != "adamw" or recipe.loss != "frozen":
        raise DataError(
            "this training cannot be traced",
            why="a trace knows AdamW and onecard's own loss",
            fix="--loss onecard --optim adamw, or plan it without --trace",
        )
    if recipe.weights not in ("bf16", "fp16", "fp32", "f32", "nf4", "nf4-dq"):
        raise DataError(
            "this training cannot be traced",
            why=f"a trace knows 16 and 32 bits and nf4, not {recipe.weights}",
            fix="--load_in_4bit, or plan it without --trace",
        )
    sight = vlm.pictures_of(m, s)
    four_bit = recipe.weights if recipe.weights.startswith("nf4") else ""
    net = _built(m, torch.float32 if fp32 else torch.bfloat16, four_bit)
    with torch.device("meta"):
        _train_parts(m, net, s)
    if recipe.checkpointing:
        # not of a frozen tower: its frames are cycles, which keep every layer's input
        for part in [_words(net), *(_towers(net) if s.tower != "frozen" else ())]:
            part.activation_checkpointing_enable()
    counter = MixedCounter()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _at_home(net.train(), counter)
        trained = [weight for weight in net.parameters() if weight.requires_grad]
        with counter, card_autocast():
            state = [torch.empty_like(weight) for weight in trained for _ in range(2)]
            if recipe.accumulation > 1 or recipe.method != "full":
                for weight in trained:
                    weight.grad = torch.empty_like(weight)
            inputs = inputs_of(net, m, recipe.B, sight, s.words)
            static = counter.peak = counter.now
            with torch.autocast("cpu", torch.bfloat16, enabled=not fp32):
                loss = _loss(net, inputs, s, sight)
            loss.backward()  # type: ignore[no-untyped-call]
            del state
        return static, counter.peak


def _loss(net: Any, inputs: Inputs, s: vlm.Training, sight: Pictures) -> torch.Tensor:
    hidden_BTD = net.model(**inputs, use_cache=False).last_hidden_state
    labelled = hidden_BTD[:, sight.tokens :].reshape(-1, hidden_BTD.shape[-1])
    head = net.get_output_embeddings()
    if head.weight.requires_grad:
        numbers = torch.zeros(len(labelled), dtype=torch.long)
        total = torch.zeros(())
        chunks = zip(
            torch.split(labelled, FROZEN_CHUNK), torch.split(numbers, FROZEN_CHUNK), strict=True
        )
        for hidden, words in chunks:
            total = total + torch.nn.functional.cross_entropy(head(hidden).float(), words)
        return total
    with torch.autocast("cpu", enabled=False):
        out: torch.Tensor = _Labelled.apply(labelled, head.weight, FROZEN_CHUNK)
    return out


def _train_parts(m: VLM, net: Any, s: vlm.Training) -> None:
    """What is trained: in fp32, or for a whole part in the width that it is kept in."""
    recipe = s.recipe
    words = _words(net)
    if recipe.method == "full":
        words.requires_grad_(True)
        net.get_output_embeddings().requires_grad_(True)
        if recipe.mixed:
            words.float()
            net.get_output_embeddings().float()
    else:
        adapted = {LINEARS[name] for name in recipe.targets if name in LINEARS}
        _adapt(words, adapted, recipe)
    whole = _towers(net) if s.tower == "full" else []
    if s.tower == "lora":
        for tower in _towers(net):
            _adapt(tower, VISION_LINEARS, recipe)
    if s.projector == "full" and not (whole and m.rotated):
        whole += [part for name in PROJECTORS if (part := _part(net, name)) is not None]
    if (recipe.method != "full" and recipe.targets) or s.tower == "lora":
        # PEFT keeps the first form of what is trained whole beside its adapters
        net.first_forms = torch.nn.ModuleList(copy.deepcopy(part) for part in whole)
    for part in whole:
        part.float().requires_grad_(True)


def _towers(net: Any) -> list[Any]:
    return [tower for name in TOWERS if (tower := _part(net, name)) is not None]


def _part(net: Any, name: str) -> Any:
    try:
        return net.get_submodule(name)
    except AttributeError:
        return None


def _adapt(part: Any, names: Collection[str], recipe: Recipe) -> None:
    dtype = torch.float32 if recipe.adapter_fp32 else torch.bfloat16
    casts = recipe.loss != "frozen"
    for name, layer in list(part.named_modules()):
        leaf = name.rpartition(".")[2]
        if leaf not in names or not isinstance(layer, torch.nn.Linear | _FourBit):
            continue
        shape = (
            (layer.out_features, layer.in_features)
            if isinstance(layer, torch.nn.Linear)
            else layer.shape
        )
        parent = part.get_submodule(name.rpartition(".")[0])
        setattr(parent, leaf, _Beside(layer, shape[1], shape[0], recipe.r, dtype, casts=casts))


def check(question: Callable[[Any], tuple[VLM, vlm.Look | vlm.Training]], config: Any) -> Any:
    """(traced, counted by the formulas) of a plan: weights, and what an answer or a step holds.

    `question`: the task's reading of its own config. Raises DataError.
    """
    m, asked = question(config)
    try:
        if isinstance(asked, vlm.Look):
            traced, terms = answer(m, asked)[1], vlm.talk(m, asked)
        else:
            traced, terms = step(m, asked)[1], vlm_training.step(m, asked)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as fault:
        raise DataError(
            f"{m.name} does not run on fake tensors with these settings",
            why=f"{type(fault).__name__}: {str(fault).strip().splitlines()[0][:200]}",
            fix="plan it without --trace",
        ) from None
    return traced, sum(term.bytes for term in terms if term.name != "workspace")
