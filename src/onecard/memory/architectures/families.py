"""What a family's class fixes and its config.json does not say: facts of code, one row a
`model_type`. Knows no sizes.

Each row is held against transformers' own class (tests/e2e/test_architectures.py): the counts of a
model built from the same config must be equal.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    gated: bool = True
    """Three feed-forward matrices (SwiGLU, GeGLU) instead of two."""
    norms: int = 2
    """Norms of the width in a layer, without those of queries and keys."""
    norm_params: int = 1
    """Weights of a norm a value: 1 for RMSNorm, 2 with a bias, 0 for one without weights."""
    biases: str = ""
    """Letters of the matrices that have a bias whatever the config says: q k v o, u for up and
    gate, d for down."""
    bias_key: str = "attention_bias"
    """The config's switch for biases of q, k and v (and o)."""
    out_bias: bool = True
    """The switch gives the attention's output one too."""
    qk_norm: str = ""
    """head: a norm over a head's width; width: over all heads; heads: one for each."""
    tied: bool = False
    window_every: int = 0
    """One layer of so many sees everything, where a config has a window and no list of layers."""
    recurrent: str = ""
    """What 'linear_attention' and 'mamba' in the list of layers mean: delta, mamba or conv."""
    parallel: bool = False
    """Attention and recurrent mixer side by side in each layer."""
    single: bool = False
    """One block a layer: a mixer or a feed-forward, not both."""
    gated_attention: bool = False
    """The queries' matrix makes a gate of the same width beside them."""
    softcap: bool = False
    positions: bool = False
    """A learned table of positions."""
    shared_gate: bool = False
    """The shared expert is weighed by a gate of one value."""
    sinks: bool = False
    router_bias: bool = False
    expert_biases: bool = False


LLAMA = Family()
GEMMA3 = Family(norms=4, qk_norm="head", tied=True, window_every=6)
QWEN3 = Family(qk_norm="head", bias_key="attention_bias")
NEXT = Family(
    qk_norm="head",
    recurrent="delta",
    gated_attention=True,
    shared_gate=True,
)

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        [
            *("llama", "mistral", "mistral3", "ministral3", "mixtral", "yi", "llava", "internlm3"),
            *("smollm3", "granite", "granitemoe", "minicpm", "aquila", "solar", "exaone"),
            *("baichuan", "internlm2", "deepseek_v2", "deepseek_v3", "kimi_k2", "minicpm3"),
            *("ernie4_5", "bitnet", "mimo", "diffllama", "helium", "orion", "xverse", "mistral4"),
            *("aria_text", "cwm", "granitemoeshared", "iquestcoder", "solar_open", "vaultgemma"),
            *("youtu",),
        ],
        LLAMA,
    ),
    "ministral": Family(),
    "afmoe": Family(norms=4, qk_norm="head", gated_attention=True),
    "cohere2_moe": Family(norms=1, tied=True, window_every=4),
    **dict.fromkeys(["exaone_moe", "flint", "mellum"], Family(qk_norm="head", window_every=4)),
    "flex_olmo": Family(qk_norm="width"),
    "hy_v3": Family(qk_norm="head"),
    "jais2": Family(gated=False, norm_params=2),
    "kolibri1": Family(norms=4, qk_norm="head", tied=True, window_every=6),
    "minimax_m2": Family(qk_norm="width"),
    "mpt": Family(gated=False),
    "persimmon": Family(gated=False, norm_params=2, biases="qkvoud", tied=True),
    "granite_swa": Family(sinks=True, window_every=2),
    "arcee": Family(gated=False),
    "seed_oss": Family(out_bias=False),
    "apertus": Family(gated=False, qk_norm="head"),
    "hunyuan_v1_dense": Family(qk_norm="head"),
    "exaone4": Family(qk_norm="head", window_every=4),
    "olmo": Family(norm_params=0),
    "olmo2": Family(qk_norm="width"),
    "olmo3": Family(qk_norm="width", window_every=4),
    "olmoe": Family(qk_norm="width"),
    "nemotron": Family(gated=False, norm_params=2),
    "ernie4_5_moe": Family(router_bias=True),
    **dict.fromkeys(
        ["qwen2", "qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text"],
        Family(biases="qkv", bias_key=""),
    ),
    "qwen2_moe": Family(biases="qkv", bias_key="", shared_gate=True),
    **dict.fromkeys(["qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text"], QWEN3),
    **dict.fromkeys(
        ["qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"], NEXT
    ),
    "phi": Family(gated=False, norms=1, norm_params=2, biases="qkvoud"),
    "phi3": Family(),
    "phimoe": Family(norm_params=2),
    "gemma": Family(tied=True),
    "gemma2": Family(norms=4, tied=True, window_every=2, softcap=True),
    **dict.fromkeys(["gemma3", "gemma3_text"], GEMMA3),
    "gemma3n_text": Family(norms=4, qk_norm="head", tied=True, window_every=5),
    **dict.fromkeys(
        ["gemma4_text", "gemma4_unified_text"],
        Family(norms=4, qk_norm="head", tied=True, window_every=6),
    ),
    "gpt2": Family(gated=False, norm_params=2, biases="qkvoud", tied=True, positions=True),
    "opt": Family(gated=False, norm_params=2, biases="qkvoud", tied=True, positions=True),
    "gpt_neox": Family(gated=False, norm_params=2, biases="qkvoud"),
    "gptj": Family(gated=False, norms=1, norm_params=2, biases="ud"),
    "bloom": Family(gated=False, norm_params=2, biases="qkvoud", tied=True),
    "falcon": Family(gated=False, norm_params=2, tied=True, bias_key="bias"),
    "starcoder2": Family(gated=False, norm_params=2, biases="qkvoud", tied=True),
    "stablelm": Family(norm_params=2, bias_key="use_qkv_bias", out_bias=False),
    "cohere": Family(norms=1, tied=True),
    "cohere2": Family(norms=1, tied=True, window_every=4),
    "glm": Family(out_bias=False),
    "glm4": Family(norms=4, out_bias=False),
    "glm4_moe": Family(out_bias=False),
    "glm4_moe_lite": Family(),
    "gpt_oss": Family(window_every=2, sinks=True, router_bias=True, expert_biases=True),
    "chatglm": Family(biases="qkv", bias_key=""),
    "qwen": Family(biases="qkv", bias_key=""),
    "lfm2": Family(qk_norm="head", recurrent="conv", tied=True),
    "lfm2_moe": Family(qk_norm="head", recurrent="conv", tied=True),
    "granitemoehybrid": Family(recurrent="mamba"),
    "bamba": Family(recurrent="mamba"),
    "nemotron_h": Family(gated=False, norms=1, recurrent="mamba", single=True),
    "falcon_h1": Family(recurrent="mamba", parallel=True),
    "llama4_text": Family(),
}
"""`model_type` -> its facts. A family that is missing is unknown: never another's neighbour."""
