"""A Qwen2-VL as GGUF pair with random weights: a model that takes pictures of any size. Names and
keys as llama.cpp's gguf-py and tools/mtmd/clip-impl.h list them."""

import gguf
import numpy as np

from tests import random_gguf

D, LAYERS, HEADS, F = 128, 2, 2, 256
TOWER, TOWER_HEADS, TOWER_F, PATCH = 64, 4, 128, 14
SIDE = 2 * PATCH
"""px of the square that becomes one token."""


def write(folder):
    """model.gguf with mmproj.gguf beside it; the path of the first."""
    _language(folder / "model.gguf")
    _vision(folder / "mmproj.gguf")
    return folder / "model.gguf"


def _language(path):
    writer = gguf.GGUFWriter(path, "qwen2vl")
    writer.add_block_count(LAYERS)
    writer.add_context_length(8192)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(F)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_sections([8, 12, 12, 0])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    random_gguf.vocabulary(writer)
    shapes = {
        "token_embd.weight": (random_gguf.V, D),
        "output_norm.weight": (D,),
        "output.weight": (random_gguf.V, D),
    }
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{name}.weight": (D,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{i}.{name}.weight": (F, D) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"blk.{i}.attn_output.weight": (D, D), f"blk.{i}.ffn_down.weight": (D, F)}
        for name in ("attn_q", "attn_k", "attn_v"):
            shapes |= {f"blk.{i}.{name}.weight": (D, D), f"blk.{i}.{name}.bias": (D,)}
    _finish(writer, shapes)


def _vision(path):
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "qwen2vl_merger")
    writer.add_bool("clip.use_gelu", False)
    counts = {
        "image_size": 560,
        "patch_size": PATCH,
        "embedding_length": TOWER,
        "feed_forward_length": TOWER_F,
        "projection_dim": D,
        "block_count": LAYERS,
        "attention.head_count": TOWER_HEADS,
    }
    for key, value in counts.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    for key in ("mean", "std"):
        writer.add_array(f"clip.vision.image_{key}", [0.5, 0.5, 0.5])
    merged = 4 * TOWER
    shapes = {f"v.patch_embd.weight{end}": (TOWER, 3, PATCH, PATCH) for end in ("", ".1")}
    shapes |= {f"v.post_ln.{kind}": (TOWER,) for kind in ("weight", "bias")}
    shapes |= {"mm.0.weight": (merged, merged), "mm.0.bias": (merged,)}
    shapes |= {"mm.2.weight": (D, merged), "mm.2.bias": (D,)}
    for i in range(LAYERS):
        matrices = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (TOWER, TOWER))
        matrices |= {"ffn_up": (TOWER_F, TOWER), "ffn_down": (TOWER, TOWER_F)}
        for name, shape in matrices.items():
            shapes |= {f"v.blk.{i}.{name}.weight": shape, f"v.blk.{i}.{name}.bias": shape[:1]}
        for name in ("ln1", "ln2"):
            shapes |= {f"v.blk.{i}.{name}.{kind}": (TOWER,) for kind in ("weight", "bias")}
    _finish(writer, shapes)


def _finish(writer, shapes):
    dice = np.random.default_rng(0)
    for name, shape in shapes.items():
        kind = np.float16 if len(shape) > 1 else np.float32
        writer.add_tensor(name, (dice.standard_normal(shape) * 0.05).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
