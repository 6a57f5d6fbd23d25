"""Settings of vlm, one Config per command. Names are those of transformers and PEFT."""

from typing import Annotated, Literal

from pydantic import Field

from onecard.config import Config, PathText, ShortName
from onecard.inference.config import AUTO, EngineConfig, SamplingConfig
from onecard.runs.config import TrackingConfig
from onecard.serving.config import ServeConfig as HttpConfig
from onecard.training.config import (
    BatchConfig,
    CheckpointConfig,
    LoraConfig,
    OutputConfig,
    PrecisionConfig,
    ScheduleConfig,
)

ASSUMED_TEXT = 256
"""Tokens of text beside the pictures that a plan of an answer counts."""
Metric = Literal[
    "auto", "exact_match", "vqa_accuracy", "anls", "relaxed_accuracy", "rougeL", "field_f1"
]


class PictureSizeConfig(Config):
    """Picture size."""

    imgsz: int = Field(default=0, ge=0, le=16_384)
    """Longer side of a picture (px) that a plan counts; 0 for that of the pictures given, else the
    largest that the model takes, or 1280 where it takes any."""
    height: int = Field(default=0, ge=0, le=16_384)
    """Its other side (px); 0 for a square."""
    min_pixels: int = Field(default=0, ge=0, le=1 << 30)
    """Smaller pictures are scaled up to so many pixels, where the model takes any size; 0 for the
    model's own."""
    max_pixels: int = Field(default=0, ge=0, le=1 << 30)
    """Larger pictures are scaled down to so many; 0 for the model's own (Qwen2.5-VL: 12845056).
    Models that cut a picture into tiles take as many tiles as this area holds."""


class VisionModelConfig(PictureSizeConfig):
    """Vision-language model."""

    model: str = AUTO
    """llava-1.5-7b, qwen3-vl-4b, smolvlm2-2.2b, internvl3.5-8b, gemma-3-4b ..., org/name of the
    hub, a folder with its config.json, a GGUF file, or run:ID of a training; auto takes the best
    one that fits the device."""
    quant: str = ""
    """Weights of the language model: bf16, int8, nf4 ...; with llama.cpp q4_k_m, q8_0 ... Empty for
    what fits of bf16, int8 and nf4, or for the file's own types."""


class AnswerModelConfig(VisionModelConfig, EngineConfig, SamplingConfig):
    """Vision-language model that answers."""

    engine: Literal["auto", "transformers", "llama.cpp"] = "auto"
    """What runs it; auto takes llama.cpp for a GGUF file and transformers for all else."""
    mmproj: str = ""
    """llama.cpp's file of the vision half; empty for the mmproj-*.gguf beside the model's file."""
    base_url: str = ""
    """Address of an OpenAI-compatible server (vLLM, LM Studio, llama-server, onecard vlm serve) to
    ask instead."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key for base_url."""


class PromptConfig(Config):
    """Prompt."""

    system: str = ""
    """System prompt; empty for none."""


class AddressConfig(Config):
    """Web addresses."""

    allow_url: tuple[str, ...] = ()
    """Hosts that pictures may be fetched from, as images.example.org; none: an address in a request
    is refused, so that no request leaves this machine on a document's wish."""


class AskConfig(PromptConfig, AddressConfig, AnswerModelConfig):
    """Question."""

    images: tuple[str, ...] = ()
    """Pictures and the question, in any order: what is no file is the question."""
    question: str = ""
    """The question; what is piped in on standard input is given as context."""
    schema_file: PathText = ""
    """A JSON schema that the answer must keep."""


class ChatConfig(PromptConfig, AddressConfig, AnswerModelConfig):
    """Chat."""

    images: tuple[str, ...] = ()
    """Pictures that the first question is about; /image FILE adds one later."""


class ServeConfig(PromptConfig, AddressConfig, HttpConfig, AnswerModelConfig):
    """OpenAI API with pictures."""

    port: int = Field(default=8090, ge=0, le=65535)
    """Port; 0 takes a free one."""
    max_images: int = Field(default=16, ge=1, le=1024)
    """Most pictures of a request."""
    max_image_mib: int = Field(default=16, ge=1, le=512)
    """Largest picture of a request, as a file (MiB)."""
    n_parallel: int = Field(default=1, ge=1, le=64)
    """Requests that llama.cpp or a server works on at once, each with an n_ctx of its own; with
    transformers one at a time."""


class ExtractConfig(PromptConfig, AnswerModelConfig, OutputConfig):
    """Fields of documents."""

    images: tuple[PathText, ...] = ()
    """Pictures, PDF files or folders of them: receipts, invoices, forms, screenshots."""
    schema_file: PathText = ""
    """A JSON schema of the fields."""
    fields: tuple[str, ...] = ()
    """Names of fields instead of a schema, as --fields date total vendor; each a text or null."""
    question: str = ""
    """What to look for; empty: "Read the fields from this document."."""


class DescribeConfig(PromptConfig, AnswerModelConfig, OutputConfig):
    """Descriptions."""

    images: tuple[PathText, ...] = ()
    """Pictures, PDF files or folders of them."""
    question: str = "Describe this picture in two or three sentences. Read out the text in it."
    """What is asked of each."""


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


class CheckConfig(VlmDataConfig):
    """Validation of the data."""


class ScoreConfig(Config):
    """Score."""

    metric: Metric = "auto"
    """What counts as right: exact_match and vqa_accuracy after VQA's normalization, anls for text
    in documents, relaxed_accuracy for numbers in charts, rougeL for sentences, field_f1 for JSON;
    auto goes by the references. All of them are told."""
    max_new_tokens: int = Field(default=64, ge=1, le=8192)
    """Longest answer in an evaluation (tokens)."""
    controls: bool = True
    """Ask the same questions without the picture and with another one, too: three times the work,
    and the only way to see whether a score comes from the pictures."""


class VisionTrainConfig(
    VlmDataConfig,
    PictureSizeConfig,
    PrecisionConfig,
    BatchConfig,
    ScheduleConfig,
    CheckpointConfig,
    ScoreConfig,
    TrackingConfig,
):
    """Training."""

    text_tokens: int = Field(default=512, ge=8, le=100_000)
    """Longest text of a row beside its pictures (tokens); longer rows are left out."""
    num_images: int = Field(default=0, ge=0, le=64)
    """Pictures of a row that a plan counts; 0 for what the rows have."""
    per_device_train_batch_size: int = Field(default=1, ge=1, le=512)
    """Rows of a micro-batch."""
    gradient_accumulation_steps: int = Field(default=8, ge=1, le=4096)
    """Micro-batches of a step."""
    shuffle: bool = True
    """Rows in a random order, another one each epoch; off keeps the file's, as a curriculum needs.
    """
    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradient clipping."""
    optim: Literal["adamw", "adamw-8bit", "lion"] = "adamw"
    """Optimizer."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only and compute the rest again: less memory, about a third slower,
    the same mathematics."""


class TrainConfig(VisionTrainConfig, LoraConfig):
    """Training of a vision-language model."""

    model: str = AUTO
    """The model to tune: llava-1.5-7b, qwen3-vl-4b, smolvlm2-2.2b ..., org/name of the hub, a
    folder with its config.json and safetensors, or run:ID; auto takes the best one whose training
    fits the device."""
    language_model: Literal["lora", "frozen", "full"] = "lora"
    """Adapters on the language model, nothing, or all its weights."""
    projector: Literal["full", "frozen"] = "full"
    """What happens to the projector between the two halves."""
    vision_tower: Literal["frozen", "lora", "full"] = "frozen"
    """What happens to the vision tower."""
    learning_rate: float = Field(default=2e-4, gt=0, lt=1)
    """Peak learning rate of the language model."""
    projector_lr: float = Field(default=0.0, ge=0, lt=1)
    """Of the projector; 0 for that of the language model."""
    vision_lr: float = Field(default=0.0, ge=0, lt=1)
    """Of the vision tower; 0 for a tenth of the language model's."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    save_steps: int = Field(default=50, ge=0)
    """Steps between checkpoints."""


class ProjectorConfig(VisionTrainConfig):
    """A projector between a vision tower and a language model."""

    vision_model: str = ""
    """The vision tower: a folder or a name of the hub with a CLIP or SigLIP vision model."""
    model: str = "smollm2-135m"
    """The language model: a name of `onecard models list`, org/name of the hub, or a folder."""
    vision_feature_layer: int = Field(default=-2, ge=-64, le=64)
    """Which layer's output is read: the last but one, as in LLaVA."""
    learning_rate: float = Field(default=1e-3, gt=0, lt=1)
    """Peak learning rate."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    save_steps: int = Field(default=50, ge=0)
    """Steps between checkpoints."""


class EvaluateConfig(AnswerModelConfig, ScoreConfig, TrackingConfig):
    """Evaluation."""

    data: PathText = ""
    """Rows with pictures, as for training; with --presence a set of pictures with labelled boxes
    (COCO, YOLO, Pascal VOC)."""
    run_id: str = ""
    """A training whose model is scored against its base, on the rows that it held out or on
    data."""
    images: tuple[PathText, ...] = ()
    """Folders of the pictures, where they do not lie beside the data."""
    columns: tuple[str, ...] = ()
    """Your own column names, as for training."""
    question: str = ""
    """The question of rows that have none."""
    eval_items: int = Field(default=200, ge=2, le=1_000_000)
    """Most rows that are answered and scored."""
    presence: bool = False
    """Ask whether objects are in the picture, as POPE does: as many that are as that are not."""
    sizes: tuple[Annotated[str, ShortName()], ...] = ()
    """Sides of a square (px): score the model at each, with tokens, memory and seconds, as
    --sizes 224 448 896."""


class ExportConfig(OutputConfig, ScoreConfig):
    """Export."""

    run_id: str = ""
    """The training run to export, or its output folder."""
    quants: tuple[str, ...] = ("f16",)
    """Types of the language model's GGUF files: f16, q8_0, q4_k_m ...; none for no file."""
    eval_items: int = Field(default=50, ge=2, le=1_000_000)
    """Most held-out rows that each file answers."""


# Plans


class VlmConfig(PictureSizeConfig):
    """Vision-language model."""

    model: str = ""
    """llava-1.5-7b, qwen3-vl-4b, smolvlm2-2.2b, internvl3.5-8b, gemma-3-4b ..., a folder with its
    config.json, or with --mmproj a GGUF file."""
    text_tokens: int = Field(default=ASSUMED_TEXT, ge=1, le=100_000)
    """Tokens of text beside the picture."""


class PlanConfig(VlmConfig):
    """What-if: an answer."""

    batch_size: int = Field(default=1, ge=1, le=256)
    """Pictures at once."""
    quant: str = ""
    """Weights of the language model: bf16, int8, nf4, awq-int4 ...; with llama.cpp q4_k_m, q8_0 ...
    Empty for bf16, or for the file's own types."""
    max_new_tokens: int = Field(default=512, ge=0, le=100_000)
    """Tokens of the answer: their keys and values stay in the cache."""
    num_images: int = Field(default=1, ge=0, le=64)
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


class TrainPlanConfig(VlmConfig):
    """What-if: a training step."""

    method: Literal["lora", "full"] = "lora"
    """Adapters on the language model, or all its weights; the projector is trained too."""
    load_in_4bit: bool = False
    """Frozen weights in nf4 with double quantization (QLoRA)."""
    num_images: int = Field(default=1, ge=0, le=64)
    """Pictures of a sample."""
    per_device_train_batch_size: int = Field(default=1, ge=1, le=256)
    """Samples of a micro-batch."""
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
    loss: Literal["upcast", "chunked", "fused", "onecard"] = "upcast"
    """Cross-entropy: in fp32 as transformers makes it, in chunks, fused (Liger), or onecard's own,
    of the answers' tokens alone."""
