"""A decoder language model from a GGUF file's header, with the bytes of its own tensors.

What a header leaves to llama.cpp's code (src/llama-model.cpp) stands in the tables below by
architecture; everything else is read.
"""

from collections import defaultdict
from collections.abc import Sequence

from onecard.errors import DataError
from onecard.memory.architectures import mixers
from onecard.memory.architectures.gguf import Header, Tensor
from onecard.memory.architectures.layers import LM, FileWeights, Layer, Matrix

MAX_LAYERS = 4096
WINDOW_EVERY = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "cohere2": 4,
    "exaone4": 4,
    "olmo2": 4,
    "llama4": 4,
    "afmoe": 4,
    "smallthinker": 4,
}
"""One layer of so many sees everything; the file gives the window alone (set_swa_pattern)."""
DENSE_FIRST = ("smallthinker",)
"""The layer that sees everything is the first of the group, not the last."""
CHUNKS = {"llama4": 8192}
"""A window that the file gives under another key, or that is fixed."""
NO_WINDOW = ("phi3", "phimoe", "qwen2", "mistral", "llama", "starcoder2")
"""Files of these name a window that llama.cpp does not use."""
KV_LAYERS = {"gemma3n": 20}
"""First layers that keep keys and values; the others read theirs."""
NOT_DECODERS = {
    "clip": "a vision or audio projector (mmproj)",
    "bert": "an encoder",
    "nomic-bert": "an encoder",
    "t5encoder": "an encoder",
    **dict.fromkeys(
        ["flux", "sd1", "sd3", "sdxl", "wan", "ltxv", "hidream", "cosmos", "hyvid", "lumina2"],
        "a diffusion model",
    ),
    **dict.fromkeys(["qwen_image", "aura", "pixart", "z_image"], "a diffusion model"),
}
ROLES = {
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_qkv": "q",
    "attn_output": "o",
    "attn_q_a": "q_a",
    "attn_q_b": "q_b",
    "attn_kv_a_mqa": "kv_a",
    "attn_kv_b": "kv_b",
    "attn_k_b": "kv_b",
    "attn_v_b": "kv_b",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
    "ffn_gate_exps": "gate",
    "ffn_up_exps": "up",
    "ffn_down_exps": "down",
    "ffn_gate_up_exps": "up",
    "ffn_gate_shexp": "gate",
    "ffn_up_shexp": "up",
    "ffn_down_shexp": "down",
}


def from_header(header: Header, name: str = "") -> LM:
    """The counts and bytes in a header; all shards' tensors together.

    Raises DataError for a file that is no decoder or says impossible counts.
    """
    kind = NOT_DECODERS.get(header.architecture)
    has_blocks = any(t.name.startswith("blk.") for t in header.tensors)
    if kind or not has_blocks or not any(t.name == "token_embd.weight" for t in header.tensors):
        raise DataError(
            f"{name or 'the file'} holds no language model",
            why=f"its architecture '{header.architecture[:40]}' is "
            + (kind or "without a table of words and blocks"),
            fix="give the language model's GGUF file; a projector goes beside it with --mmproj",
        )
    try:
        return _Builder(header, name).build()
    except (ValueError, KeyError, IndexError, ArithmeticError, TypeError) as fault:
        raise DataError(
            f"{name or 'the file'} has a broken header",
            why=str(fault)[:200],
            fix="download or convert it again",
        ) from None


class _Builder:
    def __init__(self, header: Header, name: str) -> None:
        self.header, self.name, self.arch = header, name, header.architecture
        self.L = header.number("block_count")
        if not 0 < self.L <= MAX_LAYERS:
            raise ValueError(f"block_count is {self.L}")
        self.blocks: dict[int, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        self.outside: list[Tensor] = []
        for tensor in header.tensors:
            parts = tensor.name.split(".")
            if parts[0] == "blk" and len(parts) > 2 and parts[1].isdigit():
                self.blocks[int(parts[1])][parts[2]].append(tensor)
            else:
                self.outside.append(tensor)
        beyond = [index for index in self.blocks if index >= self.L]
        if beyond:
            raise ValueError(f"it holds block {max(beyond)}, but block_count is {self.L}")

    def number(self, name: str, layer: int, default: int = 0) -> int:
        values = self.header.each(name)
        if not values:
            return default
        return values[0] if len(values) == 1 else values[layer]

    def build(self) -> LM:
        header = self.header
        names = {tensor.name for tensor in header.tensors}
        self.D = header.number("embedding_length")
        table = next(t for t in self.outside if t.name == "token_embd.weight")
        V = table.shape[-1]
        if min(self.D, V) < 1:
            raise ValueError("embedding_length or the table of words is missing")
        self.windows = self._windows()
        layers = tuple(self.layer(i) for i in range(self.L))
        lookup = sum(_values(t) for t in self.outside if t.name.startswith("per_layer_token_embd"))
        known = V * self.D * (1 if "output.weight" not in names else 2) + lookup
        rest = sum(_values(t) for t in self.outside) - known
        return LM(
            self.name or self.arch,
            V,
            self.D,
            layers,
            tied="output.weight" not in names,
            gated=any(".ffn_gate" in n for n in names),
            qk_norm=any("attn_q_norm" in n for n in names),
            norms=sum(
                key.endswith("_norm") and "_q_" not in key and "_k_" not in key
                for key in self.blocks[0]
            ),
            rest_params=max(rest, 0),
            lookup_params=lookup,
            max_tokens=header.number("context_length"),
            stored=header.type,
            family=self.arch,
            file=self._file_weights(),
        )

    def _windows(self) -> list[int]:
        """Tokens that each layer sees; 0 for all."""
        window = self.header.number("attention.sliding_window") or CHUNKS.get(self.arch, 0)
        if not window or self.arch in NO_WINDOW:
            return [0] * self.L
        pattern = self.header.keys.get(f"{self.arch}.attention.sliding_window_pattern")
        if isinstance(pattern, list) and pattern:
            return [window if pattern[i % len(pattern)] else 0 for i in range(self.L)]
        every = pattern if isinstance(pattern, int) and not isinstance(pattern, bool) else 0
        every = every or WINDOW_EVERY.get(self.arch, 1)
        full = 0 if self.arch in DENSE_FIRST else every - 1
        if every == 1:
            return [window] * self.L
        return [0 if i % every == full else window for i in range(self.L)]

    def layer(self, index: int) -> Layer:
        block = self.blocks[index]
        matrices, small = [], 0
        for key, tensors in block.items():
            for tensor in tensors:
                if len(tensor.shape) < 2 or "norm" in key or key in ("ssm_conv1d", "ffn_gate_inp"):
                    small += _values(tensor)
                else:
                    matrices.append(self._matrix(key, tensor))
        has_attention = any(key in block for key in ("attn_k", "attn_qkv", "attn_kv_a_mqa"))
        if "ssm_out" in block and "attn_output" not in block:
            has_attention = False  # the gated delta net's projections are named attn_qkv too
        has_attention |= "attn_q" in block
        keys, values = self._cached(index, block) if has_attention else (0, 0)
        H = self.number("attention.head_count", index) if has_attention else 0
        return Layer(
            H,
            self.number("attention.head_count_kv", index, H) if has_attention else 0,
            self._key_width(index, H) if has_attention else 0,
            self._feed_width(index, block),
            tuple(matrices),
            small,
            keys,
            values,
            self.windows[index] if keys else 0,
            self._state(block),
            self.header.number("attention.kv_lora_rank") if has_attention else 0,
            self._mixer_width(block),
        )

    def _matrix(self, key: str, tensor: Tensor) -> Matrix:
        role = ROLES.get(key, key)
        columns, rows = tensor.shape[0], tensor.shape[1]
        if "exps" in key and len(tensor.shape) == 3:
            used = self.header.number("expert_used_count", 1)
            return Matrix(role, rows, columns, tensor.shape[2], used)
        return Matrix(role, _values(tensor) // max(columns, 1), columns)

    def _key_width(self, index: int, H: int) -> int:
        swa = self.number("attention.key_length_swa", index) if self.windows[index] else 0
        return swa or self.number("attention.key_length", index) or self.D // max(H, 1)

    def _cached(self, index: int, block: dict[str, list[Tensor]]) -> tuple[int, int]:
        """(values of keys, values of values) that one token leaves."""
        shared = self.header.number("attention.shared_kv_layers")
        first = KV_LAYERS.get(self.arch, self.L - shared)
        if index >= first or index >= self.L - self.header.number("nextn_predict_layers"):
            return 0, 0
        H = self.number("attention.head_count", index)
        rank = self.header.number("attention.kv_lora_rank")
        if rank and "attn_k_b" in block:
            return rank + self.header.number("rope.dimension_count"), 0
        G = self.number("attention.head_count_kv", index, H)
        swa = self.number("attention.value_length_swa", index) if self.windows[index] else 0
        value = swa or self.number("attention.value_length", index) or self.D // max(H, 1)
        return G * self._key_width(index, H), G * value

    def _feed_width(self, index: int, block: dict[str, list[Tensor]]) -> int:
        shared = sum(t.shape[1] for t in block.get("ffn_up_shexp", ()) if len(t.shape) == 2)
        if "ffn_down_exps" in block:
            width = block["ffn_down_exps"][0].shape[0]
            dense = sum(t.shape[1] for t in block.get("ffn_up", ()) if len(t.shape) == 2)
            return self.header.number("expert_used_count", 1) * width + shared + dense
        return self.number("feed_forward_length", index)

    def _state(self, block: dict[str, list[Tensor]]) -> int:
        """Values of recurrent state (llama-hparams.cpp, n_embd_r and n_embd_s)."""
        number = self.header.number
        if "shortconv_conv" in block or "shortconv" in block:
            return self.D * max(number("shortconv.l_cache", 3) - 1, 0)
        if not any(key.startswith("ssm_") for key in block):
            return 0
        kernel, inner = number("ssm.conv_kernel"), number("ssm.inner_size")
        states, groups = number("ssm.state_size"), number("ssm.group_count")
        return max(kernel - 1, 0) * (inner + 2 * groups * states) + states * inner

    def _mixer_width(self, block: dict[str, list[Tensor]]) -> int:
        number = self.header.number
        inner = number("ssm.inner_size")
        channels = inner + 2 * number("ssm.group_count") * number("ssm.state_size")
        if "ssm_in" in block:
            return mixers.mamba_width(inner, channels, number("ssm.time_step_rank"), self.D)
        return mixers.delta_width(channels) if "ssm_out" in block else 0

    def _file_weights(self) -> FileWeights:
        def total(tensors: Sequence[Tensor]) -> int:
            return sum(tensor.bytes for tensor in tensors)

        layers, experts = [], []
        for index in range(self.L):
            block = self.blocks[index]
            layers.append(sum(total(tensors) for tensors in block.values()))
            experts.append(sum(total(ts) for key, ts in block.items() if key.endswith("_exps")))
        tables = ("token_embd.weight", "per_layer_token_embd.weight")
        embedding = total([t for t in self.outside if t.name in tables])
        head = total([t for t in self.outside if t.name == "output.weight"])
        rest = total(self.outside) - embedding - head
        return FileWeights(
            self.header.type,
            tuple(layers),
            tuple(experts),
            embedding,
            head,
            rest,
            self.header.repacked_bytes,
        )


def _values(tensor: Tensor) -> int:
    count = 1
    for extent in tensor.shape:
        count *= extent
    return count
