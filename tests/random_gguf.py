"""Tiny GGUF files of random weights in architectures of every kind, to be loaded by the embedded
engine: plain, mixture, latent attention, sliding windows, Mamba hybrid, short convolutions, gated
delta net. Tensor names and keys as llama.cpp's gguf-py/gguf/constants.py lists them."""

from pathlib import Path

import gguf
import numpy as np

V = 2048
SMALL = ("conv", "norm", "bias", "ssm_a", "ssm_d", "gate_inp")
"""Parts of names of tensors that stay in fp32."""


def write(path: Path, arch: str, *, D=256, L=4, H=4, G=2, K=64, F=512, **more) -> Path:
    """A file of an architecture; `more` are sizes of its own."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(L)
    writer.add_context_length(32768)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(F)
    writer.add_head_count(H)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    vocabulary(writer)
    sizes = {"D": D, "L": L, "H": H, "G": G, "K": K, "F": F, **more}
    tensors = {"token_embd.weight": (V, D), "output_norm.weight": (D,)}
    tensors |= WRITERS[arch](writer, sizes)
    if "token_embd_norm.weight" in tensors:  # LFM2's last norm
        tensors.pop("output_norm.weight")
    rng = np.random.default_rng(0)
    for name, shape in tensors.items():
        is_matrix = len(shape) > 1 and not any(word in name for word in SMALL)
        kind = np.float16 if is_matrix else np.float32
        writer.add_tensor(name, (rng.standard_normal(shape) * 0.02).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary(writer) -> None:
    """Bytes and made words in SentencePiece's form."""
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{i:02X}>" for i in range(256)]]
    kinds = [2, 3, 3, *[6] * 256]
    tokens += [f"w{i}" for i in range(V - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * V)
    writer.add_token_types([*kinds, *[1] * (V - len(kinds))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def attention(i, s, norms=False):
    D, H, G, K = s["D"], s["H"], s["G"], s["K"]
    out = {
        f"blk.{i}.attn_norm.weight": (D,),
        f"blk.{i}.attn_q.weight": (H * K, D),
        f"blk.{i}.attn_k.weight": (G * K, D),
        f"blk.{i}.attn_v.weight": (G * K, D),
        f"blk.{i}.attn_output.weight": (D, H * K),
    }
    if norms:
        out |= {f"blk.{i}.attn_q_norm.weight": (K,), f"blk.{i}.attn_k_norm.weight": (K,)}
    return out


def feed(i, s):
    D, F = s["D"], s["F"]
    return {
        f"blk.{i}.ffn_norm.weight": (D,),
        f"blk.{i}.ffn_gate.weight": (F, D),
        f"blk.{i}.ffn_up.weight": (F, D),
        f"blk.{i}.ffn_down.weight": (D, F),
    }


def experts(i, s, shared=0):
    D, E, W = s["D"], s["experts"], s["width"]
    out = {
        f"blk.{i}.ffn_norm.weight": (D,),
        f"blk.{i}.ffn_gate_inp.weight": (E, D),
        f"blk.{i}.ffn_gate_exps.weight": (E, W, D),
        f"blk.{i}.ffn_up_exps.weight": (E, W, D),
        f"blk.{i}.ffn_down_exps.weight": (E, D, W),
    }
    if shared:
        out |= {
            f"blk.{i}.ffn_gate_shexp.weight": (shared, D),
            f"blk.{i}.ffn_up_shexp.weight": (shared, D),
            f"blk.{i}.ffn_down_shexp.weight": (D, shared),
        }
    return out


def widths(writer, s):
    writer.add_head_count_kv(s["G"])
    writer.add_key_length(s["K"])
    writer.add_value_length(s["K"])


def expert_keys(writer, s):
    writer.add_expert_count(s["experts"])
    writer.add_expert_used_count(s["used"])
    writer.add_expert_feed_forward_length(s["width"])


def llama(writer, s):
    widths(writer, s)
    writer.add_rope_dimension_count(s["K"])
    out = {"output.weight": (V, s["D"])}
    for i in range(s["L"]):
        out |= attention(i, s) | feed(i, s)
    return out


def qwen3moe(writer, s):
    widths(writer, s)
    expert_keys(writer, s)
    out = {"output.weight": (V, s["D"])}
    for i in range(s["L"]):
        out |= attention(i, s, norms=True) | experts(i, s)
    return out


def gemma3(writer, s):
    widths(writer, s)
    writer.add_sliding_window(s["window"])
    out = {}
    for i in range(s["L"]):
        out |= attention(i, s, norms=True) | feed(i, s)
        out[f"blk.{i}.post_attention_norm.weight"] = (s["D"],)
        out[f"blk.{i}.post_ffw_norm.weight"] = (s["D"],)
    return out


def gpt_oss(writer, s):
    widths(writer, s)
    expert_keys(writer, s)
    writer.add_sliding_window(s["window"])
    D, E, W = s["D"], s["experts"], s["width"]
    out = {"output.weight": (V, D)}
    for i in range(s["L"]):
        layer = attention(i, s) | experts(i, s)
        layer.pop(f"blk.{i}.ffn_norm.weight")
        for part, rows in (("q", s["H"]), ("k", s["G"]), ("v", s["G"])):
            layer[f"blk.{i}.attn_{part}.bias"] = (rows * s["K"],)
        layer |= {
            f"blk.{i}.attn_output.bias": (D,),
            f"blk.{i}.attn_sinks.weight": (s["H"],),
            f"blk.{i}.post_attention_norm.weight": (D,),
            f"blk.{i}.ffn_gate_inp.bias": (E,),
            f"blk.{i}.ffn_gate_exps.bias": (E, W),
            f"blk.{i}.ffn_up_exps.bias": (E, W),
            f"blk.{i}.ffn_down_exps.bias": (E, D),
        }
        out |= layer
    return out


def deepseek2(writer, s):
    rank, rope, plain, value = s["rank"], s["rope"], s["K"], s["K"]
    D, H = s["D"], s["H"]
    writer.add_head_count_kv(1)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(plain + rope)
    writer.add_value_length_mla(value)
    writer.add_kv_lora_rank(rank)
    writer.add_q_lora_rank(s["q_rank"])
    writer.add_rope_dimension_count(rope)
    writer.add_leading_dense_block_count(1)
    writer.add_expert_shared_count(1)
    writer.add_expert_weights_scale(1.0)
    writer.add_vocab_size(V)
    expert_keys(writer, s)
    out = {"output.weight": (V, D)}
    for i in range(s["L"]):
        out |= {
            f"blk.{i}.attn_norm.weight": (D,),
            f"blk.{i}.attn_q_a.weight": (s["q_rank"], D),
            f"blk.{i}.attn_q_a_norm.weight": (s["q_rank"],),
            f"blk.{i}.attn_q_b.weight": (H * (plain + rope), s["q_rank"]),
            f"blk.{i}.attn_kv_a_mqa.weight": (rank + rope, D),
            f"blk.{i}.attn_kv_a_norm.weight": (rank,),
            f"blk.{i}.attn_k_b.weight": (H, rank, plain),
            f"blk.{i}.attn_v_b.weight": (H, value, rank),
            f"blk.{i}.attn_output.weight": (D, H * value),
        }
        out |= experts(i, s, s["width"]) if i else feed(i, s)
    return out


def mamba_keys(writer, s):
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(s["inner"])
    writer.add_ssm_state_size(s["state"])
    writer.add_ssm_time_step_rank(s["ssm_heads"])
    writer.add_ssm_group_count(s["groups"])


def granitehybrid(writer, s):
    D, inner, heads, groups = s["D"], s["inner"], s["ssm_heads"], s["groups"]
    channels = inner + 2 * groups * s["state"]
    writer.add_head_count_kv([s["G"] if i % 4 == 3 else 0 for i in range(s["L"])])
    writer.add_rope_dimension_count(s["K"])
    writer.add_embedding_scale(1.0)
    writer.add_residual_scale(1.0)
    writer.add_logit_scale(1.0)
    writer.add_attention_scale(0.1)
    mamba_keys(writer, s)
    out = {}
    for i in range(s["L"]):
        if i % 4 == 3:
            out |= attention(i, s)
        else:
            out |= {
                f"blk.{i}.attn_norm.weight": (D,),
                f"blk.{i}.ssm_in.weight": (inner + channels + heads, D),
                f"blk.{i}.ssm_conv1d.weight": (channels, 4),
                f"blk.{i}.ssm_conv1d.bias": (channels,),
                f"blk.{i}.ssm_dt.bias": (heads,),
                f"blk.{i}.ssm_a": (heads, 1),
                f"blk.{i}.ssm_d": (heads, 1),
                f"blk.{i}.ssm_norm.weight": (groups, inner // groups),
                f"blk.{i}.ssm_out.weight": (D, inner),
            }
        out |= feed(i, s)
    return out


def lfm2(writer, s):
    D = s["D"]
    writer.add_head_count_kv([s["G"] if i % 2 else 0 for i in range(s["L"])])
    writer.add_shortconv_l_cache(3)
    writer.add_vocab_size(V)
    out = {"token_embd_norm.weight": (D,)}
    for i in range(s["L"]):
        if i % 2:
            out |= attention(i, s, norms=True)
        else:
            out |= {
                f"blk.{i}.attn_norm.weight": (D,),
                f"blk.{i}.shortconv.conv.weight": (D, 3),
                f"blk.{i}.shortconv.in_proj.weight": (3 * D, D),
                f"blk.{i}.shortconv.out_proj.weight": (D, D),
            }
        out |= feed(i, s)
    return out


def qwen35(writer, s):
    D, inner, heads, groups = s["D"], s["inner"], s["ssm_heads"], s["groups"]
    channels = inner + 2 * groups * s["state"]
    widths(writer, s)
    writer.add_rope_dimension_count(s["K"] // 4)
    writer.add_rope_dimension_sections([s["K"] // 16] * 4)
    writer.add_uint32("qwen35.full_attention_interval", 4)
    mamba_keys(writer, s)
    out = {"output.weight": (V, D)}
    for i in range(s["L"]):
        if i % 4 == 3:
            out |= attention(i, s, norms=True)
            out[f"blk.{i}.attn_q.weight"] = (2 * s["H"] * s["K"], D)
        else:
            out |= {
                f"blk.{i}.attn_norm.weight": (D,),
                f"blk.{i}.attn_qkv.weight": (channels, D),
                f"blk.{i}.attn_gate.weight": (inner, D),
                f"blk.{i}.ssm_conv1d.weight": (channels, 4),
                f"blk.{i}.ssm_dt.bias": (heads,),
                f"blk.{i}.ssm_a": (heads,),
                f"blk.{i}.ssm_beta.weight": (heads, D),
                f"blk.{i}.ssm_alpha.weight": (heads, D),
                f"blk.{i}.ssm_norm.weight": (inner // heads,),
                f"blk.{i}.ssm_out.weight": (D, inner),
            }
        layer = feed(i, s)
        layer[f"blk.{i}.post_attention_norm.weight"] = layer.pop(f"blk.{i}.ffn_norm.weight")
        out |= layer
    return out


WRITERS = {
    "llama": llama,
    "qwen3moe": qwen3moe,
    "gemma3": gemma3,
    "gpt-oss": gpt_oss,
    "deepseek2": deepseek2,
    "granitehybrid": granitehybrid,
    "lfm2": lfm2,
    "qwen35": qwen35,
}
SIZES = {
    "llama": {},
    "qwen3moe": {"experts": 16, "used": 4, "width": 128, "K": 32},
    "gemma3": {"window": 256, "L": 6},
    "gpt-oss": {"experts": 8, "used": 2, "width": 256, "window": 128, "D": 320},
    "deepseek2": {"experts": 8, "used": 2, "width": 128, "rank": 128, "rope": 32, "q_rank": 96},
    "granitehybrid": {"inner": 512, "state": 64, "ssm_heads": 8, "groups": 1, "L": 8},
    "lfm2": {"L": 6},
    "qwen35": {"inner": 512, "state": 64, "ssm_heads": 8, "groups": 4, "L": 8},
}
