"""Makes an inference plan fit: which quantization a card holds, and how many layers go on it.

Pure arithmetic over counts.
"""

from onecard.errors import SettingsError
from onecard.memory import calibration, formats
from onecard.memory.architectures.layers import LM
from onecard.memory.devices import Device
from onecard.memory.estimators import llm_inference

BEST_FIRST = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_l", "q2_k")
"""Q8_0 down to Q2_K, by perplexity loss on Llama-3.1-8B (llama.cpp, tools/quantize/README.md)."""
WANTED = "q4_k_m"
"""Below this the loss is felt (same source): it is kept, with layers on the CPU, before a smaller
one is taken."""


def gguf_format(lm: LM, name: str = "") -> str:
    """The format that llama.cpp runs a model in: its file's own, the one that is named, the one
    that it is published in (gpt-oss), else the usual one.

    Raises SettingsError for one that is not known, or that is not the file's.
    """
    own = lm.file.type if lm.file else ""
    if not name.strip():
        return own or (lm.stored if lm.stored in formats.MIXTURES else WANTED)
    quant = formats.choose(name, formats.MIXTURES, f"{lm.name} in llama.cpp")
    if own and quant != own:
        raise SettingsError(
            f"the file's weights are {own}, not {quant}",
            why="a file is planned with its own types",
            fix="leave --quant out, or give the model's name instead of the file",
        )
    return quant


def layers_on_card(
    lm: LM, quant: str, n_ctx: int, kv_type: str, n_ubatch: int, device: Device
) -> int:
    """How many of the layers (plus one for the output head) a card holds beside context and
    buffers; 0 for none."""
    context_bytes, _ = calibration.context_bytes(device)

    def fits(layers: int) -> bool:
        parts = llm_inference.llamacpp(
            lm,
            quant,
            n_ctx,
            k_type=kv_type,
            n_ubatch=n_ubatch,
            place=llm_inference.Placement(layers),
        )
        return sum(term.bytes for term in parts) + context_bytes <= device.free_bytes

    return next((layers for layers in range(lm.L + 1, 0, -1) if fits(layers)), 0)


def best_quant(
    lm: LM, n_ctx: int, kv_type: str, n_ubatch: int, device: Device, have: tuple[str, ...]
) -> str:
    """The best quantization of `have` that the card holds whole; the usual one when none does.

    On a CPU speed is bound by the bytes read per token, so the usual one is taken there too.
    """
    known = [quant for quant in BEST_FIRST if quant in have] or list(have[:1])
    usual = WANTED if WANTED in known else known[-1]
    if device.type == "cpu":
        return usual
    for quant in known[: known.index(usual) + 1]:
        if layers_on_card(lm, quant, n_ctx, kv_type, n_ubatch, device) > lm.L:
            return quant
    return usual
