"""Tiny random vision-language models with their processors: LLaVA, Qwen2-VL, Qwen3-VL, SmolVLM.

What they answer is noise; their classes, processors, markers and chat templates are the real ones.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = ["what color is the shape red blue green yes no circle a picture of"] * 4
LLAVA_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{{ '</s>' if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL_TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


SOURCE: list[Path] = []
"""Folder of a real tokenizer to take in place of the tiny one, while `write` runs: llama.cpp's
converter knows real ones only."""


def tokenizer(special: list[str], end: str) -> Any:
    if SOURCE:
        tok = transformers.AutoTokenizer.from_pretrained(SOURCE[-1])
        tok.add_special_tokens({"additional_special_tokens": special})
        tok.eos_token, tok.pad_token = end, "<|endoftext|>"
        return tok
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "<s>", *special], initial_alphabet=alphabet
    )
    inner.train_from_iterator(WORDS, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token=end
    )


def _text(tok: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tok),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": tok.pad_token_id,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "tie_word_embeddings": False,
        **more,
    }


def _llava() -> tuple[Any, Any]:
    tok = tokenizer(["</s>", "<image>"], "</s>")
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 32,
    }
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config={"model_type": "llama", **_text(tok)},
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    size = {"height": 32, "width": 32}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    processor = transformers.LlavaProcessor(
        images,
        tok,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def _qwen2() -> tuple[Any, Any]:
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    tok = tokenizer([*marks, "<|image_pad|>", "<|video_pad|>"], "<|im_end|>")
    numbers = {name: tok.convert_tokens_to_ids(name) for name in tok.all_special_tokens}
    numbers |= tok.get_vocab()
    config = transformers.Qwen2VLConfig(
        vision_config={
            "depth": 3,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
        },
        text_config=_text(
            tok, rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3]}
        ),
        image_token_id=numbers["<|image_pad|>"],
        video_token_id=numbers["<|video_pad|>"],
        vision_start_token_id=numbers["<|vision_start|>"],
        vision_end_token_id=numbers["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(patch_size=8, min_pixels=256, max_pixels=4096),
        tok,
        transformers.Qwen2VLVideoProcessor(patch_size=8),
        chat_template=QWEN_TEMPLATE,
    )
    return transformers.Qwen2VLForConditionalGeneration(config), processor


def _qwen3() -> tuple[Any, Any]:
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    tok = tokenizer([*marks, "<|image_pad|>", "<|video_pad|>"], "<|im_end|>")
    numbers = tok.get_vocab()
    rope = {"rope_type": "default", "mrope_section": [3, 3, 2], "mrope_interleaved": True}
    config = transformers.Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        text_config=_text(tok, head_dim=16, rope_parameters={**rope, "rope_theta": 1e4}),
        image_token_id=numbers["<|image_pad|>"],
        video_token_id=numbers["<|video_pad|>"],
        vision_start_token_id=numbers["<|vision_start|>"],
        vision_end_token_id=numbers["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    sizes = {"shortest_edge": 256, "longest_edge": 4096}
    processor = transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(patch_size=8, size=sizes),
        tok,
        transformers.Qwen3VLVideoProcessor(patch_size=8),
        chat_template=QWEN_TEMPLATE,
    )
    return transformers.Qwen3VLForConditionalGeneration(config), processor


def _smol() -> tuple[Any, Any]:
    tiles = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    marks = ["<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>"]
    tok = tokenizer([*marks, "<global-img>", *tiles], "<end_of_utterance>")
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = transformers.SmolVLMConfig(
        vision_config=vision,
        text_config={"model_type": "llama", **_text(tok)},
        scale_factor=2,
        image_token_id=tok.get_vocab()["<image>"],
        pad_token_id=tok.pad_token_id,
        tie_word_embeddings=False,
    )
    images = transformers.SmolVLMImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    video = transformers.SmolVLMVideoProcessor(size={"longest_edge": 64})
    processor = transformers.SmolVLMProcessor(
        images, tok, video, image_seq_len=4, chat_template=SMOL_TEMPLATE
    )
    return transformers.SmolVLMForConditionalGeneration(config), processor


MAKERS = {"llava": _llava, "qwen2-vl": _qwen2, "qwen3-vl": _qwen3, "smolvlm": _smol}


def write(name: str, folder: Path, seed: int = 0, tokens: Path | None = None) -> Path:
    """The model in `folder`, as from_pretrained opens it. `tokens`: folder of a real tokenizer."""
    torch.manual_seed(seed)
    SOURCE[:] = [tokens] if tokens else []
    model, processor = MAKERS[name]()
    SOURCE.clear()
    model.float().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
