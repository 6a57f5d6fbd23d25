"""Settings of vlm, one Config per command. Names are those of transformers and PEFT."""

from typing import Literal

from pydantic import Field

from onecard.config import Config, PathText


class VlmConfig(Config):
    """Vision-language model."""

    model: str = ""
    """llava-1.5-7b, qwen3-vl-4b, smolvlm2-2.2b, internvl3.5-8b, gemma-3-4b ..., a folder with its
    config.json, or with --mmproj a GGUF file."""
    imgsz: int = Field(default=0, ge=0, le=16_384)
    """Longer side of a picture (px); 0 for the largest that the model takes, or 1280 where it takes
    any."""
    height: int = Field(default=0, ge=0, le=16_384)
    """Its other side (px); 0 for a square."""
    min_pixels: int = Field(default=0, ge=0, le=1 << 30)
    """Smaller pictures are scaled up to so many pixels, where the model takes any size; 0 for the
    model's own."""
    max_pixels: int = Field(default=0, ge=0, le=1 << 30)
    """Larger pictures are scaled down to so many; 0 for the model's own (Qwen2.5-VL: 12845056)."""
    text_tokens: int = Field(default=256, ge=1, le=100_000)
    """Tokens of text beside the picture."""


class VlmDataConfig(Config):
    """Data."""

    data: PathText = ""
    """Rows with pictures: JSONL, JSON, CSV, TSV or Parquet with columns for picture, question and
    answer, conversations of LLaVA or ShareGPT, OpenAI messages, an imagefolder's metadata,
    easy-VQA, VQAv2's questions with their annotations beside, DocVQA; or the folder of one."""
    images: tuple[PathText, ...] = ()
    """Folders of the pictures, where they do not lie beside the data. Only these and the data's own
    folder are opened."""
    eval_data: PathText = ""
    """Held-out rows in the same forms; empty splits some off the data, whole pictures at a time."""
    eval_share: float = Field(default=0.1, gt=0, lt=0.9)
    """Share of the rows that is split off where no eval_data is given."""
    eval_items: int = Field(default=200, ge=2, le=1_000_000)
    """Most held-out rows that are answered and scored."""
    columns: tuple[str, ...] = ()
    """Your own column names: --columns image=photo question=frage answer=antwort. Parts: image,
    question, answer, answers, group, id, system."""
    question: str = ""
    """The question of rows that have none, as captions have: "Describe the image."."""
    allow_leakage: bool = False
    """Go on where rows to train on show pictures of the evaluation."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split and of the controls."""


class AskConfig(VlmConfig):
    """Question."""

    batch_size: int = Field(default=1, ge=1, le=256)
    """Pictures at once."""
    quant: str = ""
    """Weights of the language model: bf16, int8, nf4, awq-int4 ...; with llama.cpp q4_k_m, q8_0 ...
    Empty for bf16, or for the file's own types."""
    max_new_tokens: int = Field(default=512, ge=0, le=100_000)
    """Tokens of the answer: their keys and values stay in the cache."""
    num_images: int = Field(default=1, ge=0, le=1)
    """Pictures of a question; 0 for words only."""
    logits_to_keep: int = Field(default=1, ge=0)
    """0 makes logits of the whole prompt, in fp32, as transformers before 4.45 does; models that
    bring such code of their own do it anyway."""
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel of the vision tower; eager keeps score matrices."""
    engine: Literal["transformers", "llama.cpp"] = "transformers"
    """What runs it; llama.cpp where mmproj is given."""
    mmproj: str = ""
    """llama.cpp's file of the vision half: mmproj-*.gguf."""
    n_ctx: int = Field(default=0, ge=0, le=1 << 24)
    """Cache of llama.cpp, tokens; 0 for picture, text and answer."""
    n_ubatch: int = Field(default=512, ge=1, le=65_536)
    """Tokens that llama.cpp reads at once."""
    kv_type: Literal["f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"] = "f16"
    """Type of llama.cpp's cache."""
    flash_attn: bool = True
    """llama.cpp's flash attention, in both halves."""


class TrainConfig(VlmConfig):
    """Training."""

    method: Literal["lora", "full"] = "lora"
    """Adapters on the language model, or all its weights; the projector is trained too."""
    load_in_4bit: bool = False
    """Frozen weights in nf4 with double quantization (QLoRA)."""
    per_device_train_batch_size: int = Field(default=1, ge=1, le=256)
    """Samples of a micro-batch, each with one picture."""
    vision_tower: Literal["frozen", "lora", "full"] = "frozen"
    """What happens to the vision tower."""
    lora_r: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    optim: Literal["adamw", "adamw-8bit", "paged-adamw-8bit", "lion"] = "adamw"
    """Optimizer."""
    gradient_checkpointing: bool = True
    """Keep each layer's input only and compute the rest again."""
    fp32_master_weights: bool = False
    """Full training: weights in fp32 under autocast, as a model loaded in fp32 is trained."""
    loss: Literal["upcast", "chunked", "fused"] = "upcast"
    """Cross-entropy: in fp32 as transformers makes it, in chunks, or fused (Liger)."""
