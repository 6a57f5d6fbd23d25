"""What a config is taken for, against transformers' own class built from it on no device."""

import pytest
import torch
import transformers

from onecard.memory.architectures import config_json, lm
from onecard.memory.architectures.families import FAMILIES

WRAPPERS = {
    *("llava", "mistral3", "gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe"),
    *("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text", "mistral4"),
}
"""Classes that hold more than a language model, or parts of such classes without a head of their
own: their language models are built as another family here."""
NEEDED = {
    "hunyuan_v1_dense": {"head_dim": 128},
    "ministral": {"head_dim": 128},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 8},
    "gemma3n_text": {"num_hidden_layers": 35},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"] * 2},
}
"""What a class's defaults lack."""
BUILT = sorted(f for f in FAMILIES if f in transformers.CONFIG_MAPPING and f not in WRAPPERS)


@pytest.mark.parametrize("family", BUILT)
def test_weights_are_those_of_the_real_class(family):
    """Within one in 10,000: a few biases of routers and heads are left out."""
    needed = {"num_hidden_layers": 6, **NEEDED.get(family, {})}
    if family == "nemotron_h":  # its length is that of its list of blocks
        needed = {}
    config = transformers.CONFIG_MAPPING[family](**needed)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    counted = sum(weight.numel() for weight in model.parameters())
    planned = config_json.from_values(config.to_dict(), family).n_params
    assert planned == pytest.approx(counted, rel=1.1e-4)


@pytest.mark.parametrize(
    ("name", "cached", "state"),
    [
        ("qwen3.6-27b", 16, 48),
        ("granite-4.0-h-tiny", 4, 36),
        ("nemotron-nano-9b-v2", 4, 27),
        ("lfm2-1.2b", 6, 10),
        ("falcon-h1-7b", 44, 44),
        ("gemma-4-E2B", 15, 0),
        ("deepseek-v2-lite", 27, 0),
    ],
)
def test_layers_keep_what_their_kind_keeps(name, cached, state):
    """(layers with a cache, layers with a recurrent state)."""
    layers = lm.find(name).layers
    assert sum(layer.kv_values > 0 for layer in layers) == cached
    assert sum(layer.state_values > 0 for layer in layers) == state


def test_latent_attention_caches_its_latent():
    """DeepSeek-V3: 512 values of the latent and 64 of the rotary part."""
    assert {layer.kv_values for layer in lm.find("deepseek-v3").layers} == {576}


def test_a_sparse_text_config_takes_its_class_s_defaults():
    """As Gemma 3's own config.json leaves heads and windows out."""
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34}
    text |= {"intermediate_size": 10240, "sliding_window": 1024}
    model = config_json.from_values({"model_type": "gemma3", "text_config": text}, "m")
    known = lm.find("gemma-3-4b")
    assert (model.H, model.G, model.K, model.n_params) == (8, 4, 256, known.n_params)
