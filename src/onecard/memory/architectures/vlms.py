"""Vision-language models by name: the tower, the language model of lm's table, and the published
number of weights.

Sources: the repositories' configs; the numbers of weights as the hub counts them in the checkpoints
(the model list that the program llmfit carries). Where no number is known here, the formulas' count
of the tower and the projector stands.
"""

from functools import cache
from pathlib import Path
from typing import Any

from onecard.errors import NotFound, nearest
from onecard.memory.architectures import config_json, lm
from onecard.memory.architectures.model_names import tokens
from onecard.memory.architectures.vlm import (
    QWEN3_PIXELS,
    QWEN_PIXELS,
    VLM,
    Tower,
    from_values,
)

CLIP_L = Tower(1024, 24, 16, 4096, 14)
SO400M = Tower(1152, 27, 16, 4304, 14)
SIGLIP_B = Tower(768, 12, 12, 3072, 16)
INTERN_300M = Tower(1024, 24, 16, 4096, 14)
INTERN_6B = Tower(3200, 45, 25, 12800, 14)
QWEN2 = Tower(1280, 32, 16, 5120, 14)
QWEN25 = Tower(1280, 32, 16, 3420, 14, True)
QWEN3_S, QWEN3_L = Tower(1024, 24, 16, 4096, 16), Tower(1152, 27, 16, 4304, 16)
PIXTRAL, MISTRAL3 = Tower(1024, 24, 16, 4096, 16, True), Tower(1024, 24, 16, 4096, 14, True)
GEMMA4_S, GEMMA4_L = Tower(768, 16, 12, 3072, 16, True), Tower(1152, 27, 16, 4304, 16, True)
NO_TOWER = Tower(768, 0, 12, 3072, 16)
MLLAMA = Tower(1280, 40, 16, 5120, 14)

Facts = tuple[Tower, str, int, dict[str, Any]]
"""(tower, language model, published weights of the whole or 0, how an image is cut)."""
GEMMA4_AREA = 280 * 48**2
"""At most 280 tokens of an image, each of 48 px."""


def _tiled(tile: int, n: int, most: int = 1, **more: Any) -> dict[str, Any]:
    return {"tile": tile, "tokens": n, "most": most, **more}


INTERN = _tiled(448, 256, 13)
OLD_INTERN = _tiled(448, 256, 13, old_code=True)
QWEN3 = {"pixels": QWEN3_PIXELS, "deep": 3}
GEMMA4 = {"merge": 3, "pixels": (GEMMA4_AREA, GEMMA4_AREA)}
MISTRAL = {"merge": 2, "pixels": (1, 1 << 40), "longest": 1540}

TABLE: dict[str, Facts] = {
    "qwen2-vl-2b": (QWEN2, "qwen2-1.5b", 2_208_985_600, {}),
    "qwen2-vl-7b": (QWEN2, "qwen2-7b", 8_291_375_616, {}),
    "qwen2-vl-72b": (QWEN2, "qwen2-72b", 73_405_560_320, {}),
    "qwen2.5-vl-3b": (QWEN25, "qwen2.5-3b", 3_754_622_976, {}),
    "qwen2.5-vl-7b": (QWEN25, "qwen2.5-7b", 8_292_166_656, {}),
    "qwen2.5-vl-32b": (QWEN25, "qwen2.5-32b", 33_452_718_336, {}),
    "qwen2.5-vl-72b": (QWEN25, "qwen2.5-72b", 73_410_777_344, {}),
    "qwen3-vl-2b": (QWEN3_S, "qwen3-1.7b", 2_127_532_032, QWEN3),
    "qwen3-vl-4b": (QWEN3_S, "qwen3-4b", 4_437_815_808, QWEN3),
    "qwen3-vl-8b": (QWEN3_L, "qwen3-8b", 8_767_123_696, QWEN3),
    "qwen3-vl-32b": (QWEN3_L, "qwen3-32b", 33_357_390_064, QWEN3),
    "qwen3-vl-30b-a3b": (QWEN3_L, "qwen3-30b-a3b", 31_070_754_032, QWEN3),
    "qwen3-vl-235b-a22b": (QWEN3_L, "qwen3-235b-a22b", 235_670_022_896, QWEN3),
    "internvl2-1b": (INTERN_300M, "qwen2-0.5b", 938_158_976, OLD_INTERN),
    "internvl2-2b": (INTERN_300M, "internlm2-1.8b", 2_205_754_368, OLD_INTERN),
    "internvl2-8b": (INTERN_300M, "internlm2-7b", 8_075_365_376, OLD_INTERN),
    "internvl2.5-1b": (INTERN_300M, "qwen2.5-0.5b", 938_193_024, OLD_INTERN),
    "internvl2.5-2b": (INTERN_300M, "internlm2-1.8b", 2_205_754_368, OLD_INTERN),
    "internvl2.5-4b": (INTERN_300M, "qwen2.5-3b", 3_712_637_952, OLD_INTERN),
    "internvl2.5-8b": (INTERN_300M, "internlm2-7b", 8_075_365_376, OLD_INTERN),
    "internvl2.5-26b": (INTERN_6B, "internlm2-20b", 25_514_186_112, OLD_INTERN),
    "internvl2.5-38b": (INTERN_6B, "qwen2.5-32b", 38_388_164_992, OLD_INTERN),
    "internvl3-1b": (INTERN_300M, "qwen2.5-0.5b", 938_193_024, INTERN),
    "internvl3-2b": (INTERN_300M, "qwen2.5-1.5b", 2_088_957_440, INTERN),
    "internvl3-8b": (INTERN_300M, "qwen2.5-7b", 7_944_373_760, INTERN),
    "internvl3-9b": (INTERN_300M, "internlm3-8b", 9_138_793_472, INTERN),
    "internvl3-14b": (INTERN_300M, "qwen2.5-14b", 15_117_256_704, INTERN),
    "internvl3-38b": (INTERN_6B, "qwen2.5-32b", 38_388_164_992, INTERN),
    "internvl3-78b": (INTERN_6B, "qwen2.5-72b", 78_408_318_336, INTERN),
    "internvl3.5-1b": (INTERN_300M, "qwen3-0.6b", 1_060_897_792, INTERN),
    "internvl3.5-2b": (INTERN_300M, "qwen3-1.7b", 2_348_347_392, INTERN),
    "internvl3.5-4b": (INTERN_300M, "qwen3-4b", 4_732_489_216, INTERN),
    "internvl3.5-8b": (INTERN_300M, "qwen3-8b", 8_528_318_464, INTERN),
    "internvl3.5-14b": (INTERN_300M, "qwen3-14b", 15_119_523_840, INTERN),
    "internvl3.5-30b-a3b": (INTERN_300M, "qwen3-30b-a3b", 30_848_730_112, INTERN),
    "internvl3.5-38b": (INTERN_6B, "qwen3-32b", 38_390_405_504, INTERN),
    "smolvlm-256m": (SIGLIP_B, "smollm2-135m", 256_484_928, _tiled(512, 64, 17)),
    "smolvlm-500m": (SIGLIP_B, "smollm2-360m", 507_482_304, _tiled(512, 64, 17)),
    "smolvlm-2.2b": (SO400M, "smollm2-1.7b", 2_246_272_880, _tiled(384, 81, 17)),
    "smolvlm2-256m": (SIGLIP_B, "smollm2-135m", 256_484_928, _tiled(512, 64, 17)),
    "smolvlm2-500m": (SIGLIP_B, "smollm2-360m", 507_482_304, _tiled(512, 64, 17)),
    "smolvlm2-2.2b": (SO400M, "smollm2-1.7b", 2_246_784_880, _tiled(384, 81, 17)),
    "minicpm-v-2": (SO400M, "minicpm-2b", 0, _tiled(448, 64, 10, old_code=True, more=35_000_000)),
    "minicpm-v-2.5": (SO400M, "llama-3-8b", 0, _tiled(448, 96, 10, old_code=True, more=80_000_000)),
    "minicpm-v-2.6": (SO400M, "qwen2-7b", 8_099_175_152, _tiled(448, 64, 10, old_code=True)),
    "minicpm-v-4.5": (SO400M, "qwen3-8b", 8_695_895_280, _tiled(448, 64, 10, old_code=True)),
    "gemma-3-4b": (SO400M, "gemma-3-4b", 4_300_079_472, _tiled(896, 256)),
    "gemma-3-12b": (SO400M, "gemma-3-12b", 12_187_325_040, _tiled(896, 256)),
    "gemma-3-27b": (SO400M, "gemma-3-27b", 27_432_406_640, _tiled(896, 256)),
    "gemma-4-e2b": (GEMMA4_S, "gemma-4-e2b", 5_123_178_051, GEMMA4),
    "gemma-4-e4b": (GEMMA4_S, "gemma-4-e4b", 7_996_156_490, GEMMA4),
    "gemma-4-12b": (NO_TOWER, "gemma-4-12b", 11_959_730_224, GEMMA4),
    "gemma-4-26b-a4b": (GEMMA4_L, "gemma-4-26b-a4b", 25_805_936_206, GEMMA4),
    "gemma-4-31b": (GEMMA4_L, "gemma-4-31b", 31_273_088_876, GEMMA4),
    "paligemma-3b": (SO400M, "gemma-2b", 2_923_466_480, _tiled(224, 256)),
    "paligemma-3b-448": (SO400M, "gemma-2b", 2_924_351_216, _tiled(448, 1024)),
    "paligemma-3b-896": (SO400M, "gemma-2b", 0, _tiled(896, 4096)),
    **{
        f"paligemma2-{size}{end}": (SO400M, words, total if side == 224 else 0, _tiled(side, n))
        for size, words, total in (
            ("3b", "gemma-2-2b", 3_032_242_416),
            ("10b", "gemma-2-9b", 0),
            ("28b", "gemma-2-27b", 0),
        )
        for side, n, end in ((224, 256, ""), (448, 1024, "-448"), (896, 4096, "-896"))
    },
    "llava-1.5-7b": (CLIP_L, "vicuna-7b", 7_063_427_072, _tiled(336, 576)),
    "llava-1.5-13b": (CLIP_L, "vicuna-13b", 13_351_494_656, _tiled(336, 576)),
    "llava-1.6-mistral-7b": (CLIP_L, "mistral-7b-v0.2", 7_566_747_648, _tiled(336, 576, 5)),
    "llava-1.6-vicuna-7b": (CLIP_L, "vicuna-7b", 7_063_431_168, _tiled(336, 576, 5)),
    "llava-1.6-vicuna-13b": (CLIP_L, "vicuna-13b", 13_351_499_776, _tiled(336, 576, 5)),
    "llava-1.6-34b": (CLIP_L, "yi-34b", 34_752_083_968, _tiled(336, 576, 5)),
    "llava-onevision-qwen2-0.5b": (SO400M, "qwen2-0.5b", 893_675_552, _tiled(384, 729, 10)),
    "llava-onevision-qwen2-7b": (SO400M, "qwen2-7b", 8_030_807_584, _tiled(384, 729, 10)),
    "pixtral-12b": (
        PIXTRAL,
        "mistral-nemo",
        0,
        {"merge": 1, "pixels": (1, 1 << 40), "longest": 1024},
    ),
    "mistral-small-3.1-24b": (MISTRAL3, "mistral-small-3.1-24b", 24_011_361_280, MISTRAL),
    "mistral-small-3.2-24b": (MISTRAL3, "mistral-small-3.1-24b", 24_011_361_280, MISTRAL),
    "llama-3.2-11b-vision": (
        MLLAMA,
        "llama-3.1-8b",
        10_670_220_835,
        _tiled(560, 1601, 4, cross_values=8 * 2 * 1024),
    ),
    "phi-3.5-vision": (CLIP_L, "phi-3.5-mini", 4_146_621_440, _tiled(336, 151, 5, old_code=True)),
    "phi-4-multimodal": (SO400M, "phi-4-mini", 5_574_460_384, _tiled(448, 256, 37)),
    "moondream2": (SO400M, "phi-1.5", 1_927_237_104, _tiled(378, 729)),
    "idefics2-8b": (SO400M, "mistral-7b-v0.2", 8_402_768_112, _tiled(980, 64)),
    "idefics3-8b": (SO400M, "llama-3.1-8b", 8_462_086_384, _tiled(364, 169, 17)),
    "nanovlm": (SIGLIP_B, "smollm2-135m", 0, _tiled(224, 49)),
}
ALSO = {
    "smolvlm": "smolvlm-2.2b",
    "smolvlm2-256m-video": "smolvlm2-256m",
    "smolvlm2-500m-video": "smolvlm2-500m",
    "llava-7b": "llava-1.6-mistral-7b",
    "llava-v1.6-7b": "llava-1.6-vicuna-7b",
    "llava-1.6-13b": "llava-1.6-vicuna-13b",
    "llava-v1.6-yi-34b": "llava-1.6-34b",
    "minicpm-v": "minicpm-v-2.6",
    "minicpm-v-8b": "minicpm-v-2.6",
    "minicpm-llama3-v-2.5": "minicpm-v-2.5",
    "idefics3-8b-llama3": "idefics3-8b",
    "idefics2": "idefics2-8b",
    "idefics3": "idefics3-8b",
    "llama-3.2-vision": "llama-3.2-11b-vision",
    "llama-3.2-vision-11b": "llama-3.2-11b-vision",
    "pixtral": "pixtral-12b",
    "phi-3.5-vision-4.2b": "phi-3.5-vision",
    "moondream": "moondream2",
    "paligemma-3b-mix-224": "paligemma-3b",
    "paligemma-3b-224": "paligemma-3b",
    "paligemma-3b-mix-448": "paligemma-3b-448",
    "llava-onevision-qwen2-0.5b-ov": "llava-onevision-qwen2-0.5b",
    "llava-onevision-qwen2-7b-ov": "llava-onevision-qwen2-7b",
    "mistral-small-3.1": "mistral-small-3.1-24b",
    "mistral-small-3.2": "mistral-small-3.2-24b",
    **{
        f"paligemma2-{size}-{mix}{side}": f"paligemma2-{size}{'' if side == 224 else f'-{side}'}"
        for size in ("3b", "10b", "28b")
        for side in (224, 448, 896)
        for mix in ("", "mix-")
    },
}
NOT_KNOWN = {
    "minicpm-v-4": "its language model, MiniCPM4-3B, has no config here",
    "minicpm-v-4.6": "its language model has no config here",
    "idefics-9b": "its cross-attention layers are not described here",
    "llama-3.2-90b-vision": "no checked number of its weights is known here",
}
"""Models that exist and cannot be planned, with what is missing."""


FAMILIES = {
    "qwen2-vl": "qwen2_vl",
    "qwen2.5-vl": "qwen2_5_vl",
    "qwen3-vl": "qwen3_vl",
    "smolvlm-": "idefics3",
    "smolvlm2": "smolvlm",
    "idefics3": "idefics3",
    "gemma-3-": "gemma3",
    "paligemma": "paligemma",
    "llava-1.5": "llava",
    "llava-1.6": "llava_next",
}
"""How a name begins -> its model_type in transformers."""


def _family(known: str) -> str:
    if known.endswith(("-a3b", "-a22b")) and known.startswith("qwen3-vl"):
        return "qwen3_vl_moe"
    return next((kind for start, kind in FAMILIES.items() if known.startswith(start)), "")


@cache
def _index() -> dict[str, str]:
    return {tokens(name): known for name, known in {**{n: n for n in TABLE}, **ALSO}.items()}


def why_not(name: str) -> str:
    """What is missing for a model that is known not to be described; empty for all others."""
    key = tokens(name)
    return next((why for n, why in NOT_KNOWN.items() if tokens(n) == key), "")


def named(name: str) -> VLM:
    """By its whole name, in any spelling. Raises NotFound with the nearest."""
    key = tokens(name)
    known = _index().get(key)
    if known is None:
        why = why_not(name)
        near = nearest(key, _index())
        raise NotFound(
            f"there is no vision-language model named '{name}'",
            why=why or "it is not in the table of known models, which takes a name as a whole",
            fix=(
                f"did you mean {' or '.join(_index()[n] for n in near)}? Else give"
                if near
                else "give"
            )
            + " the model's folder or its config.json",
        )
    return build(known)


@cache
def build(known: str) -> VLM:
    tower, words_name, total, how = TABLE[known]
    words = lm.find(words_name)
    places = (int(str(how.get("tile", 0))) // tower.patch) ** 2 * tower.D
    merge = int(str(how.get("merge", 2))) ** 2 if not how.get("tile") else 1
    beside = total - words.n_params if total else 0
    projector = merge * tower.D * words.D
    if merge == 1 and tower in (CLIP_L, PIXTRAL):  # two layers
        projector += words.D**2
    resampler = int(str(how.get("more", 0)))
    beside = beside or tower.n_params + places + projector + resampler
    pixels = how.get("pixels", QWEN_PIXELS)
    return VLM(
        known,
        tower,
        words,
        beside,
        family=_family(known),
        **{**{k: v for k, v in how.items() if k != "more"}, "pixels": pixels},
    )


def find(name: str) -> VLM:
    """By name, or a folder with a config.json, or that file. Raises NotFound, DataError."""
    path = Path(name).expanduser()
    file = path if path.suffix == ".json" else path / "config.json"
    if path.suffix == ".json" or file.is_file():
        return from_values(config_json.read(file), file.absolute().parent.name, file)
    return named(name)
