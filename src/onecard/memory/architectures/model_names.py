"""One spelling for the many of a model's name. Knows no model.

`llama3.1:8b`, `llama-3.1-8b`, `Llama 3.1 8B` and `meta-llama/Meta-Llama-3.1-8B-Instruct` are one
model; `llama-3.1-80b` is another: a size, a version or a word that is not known to be harmless
makes another name.
"""

import re

HARMLESS = frozenset(
    [
        *("instruct", "it", "chat", "base", "pt", "text", "preview", "latest"),
        *("hf", "gguf", "awq", "gptq", "mlx", "bnb", "exl2", "unsloth", "ud", "i1", "imatrix"),
        *("qat", "dynamic", "4bit", "8bit", "nf4", "int4", "int8", "fp4", "fp8", "mxfp4"),
        *("fp16", "bf16", "f16", "f32", "4k", "8k", "32k", "128k", "1m"),
    ]
)
"""Words that name a tuning, a packaging or a context of the same architecture."""
_QUANT = re.compile(r"(?i)[-._:](?:iq[1-4]_[a-z]+|q[2-8]_[0-9k](?:_[a-z]{1,2})?)(?=$|[-._])")
_DATE = re.compile(r"2[3-9](?:0[1-9]|1[0-2])|20\d{6}|(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])")
"""2407, 20241022, 0528: a release of the same architecture."""
_OWNER = re.compile(r"^(?:meta|microsoft|google|mistralai|qwen|nvidia|ibm|openai)-(?=[a-z]+)")


def canonical(name: str) -> str:
    """The name without owner, tuning, packaging and quantization, in one spelling.

    >>> canonical("meta-llama/Meta-Llama-3.1-8B-Instruct"), canonical("llama3.1:8b")
    ('llama3.1-8b', 'llama3.1-8b')
    >>> canonical("Qwen2.5-7B-Instruct-Q4_K_M.gguf"), canonical("Phi_4 mini instruct")
    ('qwen2.5-7b', 'phi4-mini')
    >>> canonical("unsloth/Qwen3-4B-Instruct-2507-GGUF"), canonical("gpt2-xl")
    ('qwen3-4b', 'gpt2-xl')
    """
    text = name.strip().removeprefix("hf:").rstrip("/").rsplit("/", 1)[-1]
    text = re.sub(r"(?i)\.gguf$", "", text)
    text = _QUANT.sub("", text).lower()
    text = re.sub(r"[\s_:]+", "-", text)
    text = _OWNER.sub("", text)
    text = re.sub(r"^([a-z]+)-(?=\d)", r"\1", text)
    words = [word for word in text.split("-") if word and word not in HARMLESS]
    return "-".join(word for word in words if not _DATE.fullmatch(word))


def spellings(name: str) -> list[str]:
    """The canonical name, and the one without a version at its end (`-v0.3`), the exact one first.

    >>> spellings("mistralai/Mistral-7B-Instruct-v0.3")
    ['mistral7b-v0.3', 'mistral7b']
    """
    exact = canonical(name)
    plain = re.sub(r"-v\d+(?:\.\d+)*$", "", exact)
    return [exact] if plain == exact else [exact, plain]


def tokens(name: str) -> str:
    """The canonical name as its words and numbers alone, for tables whose names are written with
    and without separators.

    >>> tokens("OpenGVLab/InternVL3_5-8B"), tokens("internvl3.5:8b"), tokens("internvl3-58b")
    ('internvl-3-5-8-b', 'internvl-3-5-8-b', 'internvl-3-58-b')
    >>> tokens("llava-hf/llava-v1.6-mistral-7b-hf")
    'llava-1-6-mistral-7-b'
    """
    words = re.findall(r"[a-z]+|\d+", canonical(name))
    kept = [
        word
        for i, word in enumerate(words)
        if not (word == "v" and i + 1 < len(words) and words[i + 1].isdigit())
    ]
    return "-".join(kept)
