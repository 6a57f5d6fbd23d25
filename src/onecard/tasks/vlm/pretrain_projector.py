"""onecard vlm pretrain-projector: LLaVA's first stage. Joins a vision tower with a language model
by a projector of two layers, and trains that alone (Liu et al. 2023, Visual Instruction Tuning)."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SiglipVisionModel,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.utils import logging as hf_logging

from onecard.errors import DataError, SettingsError
from onecard.hub import checkpoints
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run
from onecard.tasks.vlm import held_out_rows
from onecard.tasks.vlm.configs import ProjectorConfig
from onecard.tasks.vlm.model import Place, Vlm
from onecard.tasks.vlm.train import precise, run_training
from onecard.training import quantization
from onecard.training.seeds import seed_weights

IMAGE_TOKEN = "<image>"
TOWERS = {"clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel}
"""model_type of a vision config -> its class."""
PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% else %}"
    "{{ m.role | upper }}: {{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""For language models without a chat template of their own: that of Vicuna."""
FLAT = "{%- set messages = ns.rows -%}"
FLATTEN = (
    "{%- set ns = namespace(rows=[], text='') -%}{%- for m in messages -%}"
    "{%- if m.content is string -%}{%- set ns.text = m.content -%}{%- else -%}"
    "{%- set ns.text = '' -%}{%- for c in m.content -%}"
    "{%- set ns.text = ns.text + ('" + IMAGE_TOKEN + "' if c.type == 'image' else c.text) -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- set ns.rows = ns.rows + [{'role': m.role, 'content': ns.text}] -%}{%- endfor -%}" + FLAT
)
"""Before a language model's own template: contents of pictures and texts become one text. Nothing
stands between them, as in llama.cpp, which puts its marker right before the text."""


def pretrain_projector(config: ProjectorConfig, run: Run) -> Result:
    """Join and train; the whole model is written. Raises OneCardErrors."""
    if not config.vision_model:
        raise SettingsError(
            "no vision tower is named",
            why="a projector stands between a vision tower and a language model",
            fix="--vision_model openai/clip-vit-large-patch14-336, or a folder with one",
        )
    report = held_out_rows.validated(config, run)
    run.reporter.line(report.render())
    config, autocast = precise(config, run)
    vlm = join(config, autocast or torch.float32, run.reporter)
    name = f"{config.vision_model} + {config.model}"
    return run_training(vlm, name, report, config, run, "pretrain-projector")


def join(config: ProjectorConfig, dtype: torch.dtype, reporter: Reporter) -> Vlm:
    """A LLaVA of two models with a random projector, the same for the same seed.

    Raises NotFound, DataError.
    """
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    tower_folder = checkpoints.folder(config.vision_model, reporter)
    language_folder = checkpoints.folder(config.model, reporter)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, processor = _joined(config, tower_folder, language_folder, dtype, device)
    vlm = Vlm("the joined model", net, processor, device, Place(language_folder))
    if config.load_in_4bit or config.load_in_8bit:
        wide = config.model_copy(update={"load_in_4bit": False, "load_in_8bit": False})

        def widened() -> Any:
            cpu = torch.device("cpu")
            return _joined(wide, tower_folder, language_folder, dtype, cpu)[0]

        vlm.widened = widened
    return vlm


def _joined(
    config: ProjectorConfig, tower_folder: Path, words: Path, dtype: torch.dtype, device: Any
) -> tuple[Any, Any]:
    """(the model, its processor). The halves are taken in as they are, quantized ones too."""
    tower, images = _tower(tower_folder, dtype)
    language, tokenizer = _language(words, config, dtype, device)
    vision = tower.config
    if not -vision.num_hidden_layers <= config.vision_feature_layer <= vision.num_hidden_layers:
        raise SettingsError(
            f"the tower has no layer {config.vision_feature_layer}",
            why=f"it has {vision.num_hidden_layers}",
            fix="--vision_feature_layer -2",
        )
    has_class_token = vision.model_type == "clip_vision_model"
    strategy = "default" if has_class_token else "full"
    seed_weights(config.seed)  # the new token's row is random, too
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if len(tokenizer) > language.get_input_embeddings().weight.shape[0]:
        language.resize_token_embeddings(len(tokenizer))
    tied = bool(language.config.tie_word_embeddings)
    llava_config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=language.config.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=strategy,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        net: Any = LlavaForConditionalGeneration(llava_config)
    net.model.vision_tower, net.model.language_model = tower, language.model
    net.lm_head = language.lm_head
    net.model.multi_modal_projector = LlavaMultiModalProjector(llava_config).to(dtype)
    if tied:
        net.tie_weights()
    net.generation_config = language.generation_config
    quantization.disable_4bit_repacking(net)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(has_class_token),
        chat_template=FLATTEN + (tokenizer.chat_template or PLAIN_TEMPLATE),
        image_token=IMAGE_TOKEN,
    )
    tower.to(device)
    net.model.multi_modal_projector.to(device)
    return net.requires_grad_(False).eval(), processor


def _tower(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """(a vision transformer, its picture processor). Raises DataError."""
    values = checkpoints.about(folder)
    inner = values.get("vision_config")
    family = str((inner if isinstance(inner, dict) else values).get("model_type") or "")
    if isinstance(inner, dict) and not family:
        family = f"{values.get('model_type', '')}_vision_model"
    if family not in TOWERS:
        raise DataError(
            f"{folder.name} is no vision tower that can be joined",
            why=f"its model_type is '{family or values.get('model_type', '')}'",
            fix=f"a model of {', '.join(TOWERS)}, as openai/clip-vit-large-patch14-336",
        )
    try:
        tower: Any = TOWERS[family].from_pretrained(folder, dtype=dtype, use_safetensors=True)
        images = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as fault:
        raise _unreadable(
            folder, fault, "a vision model's safetensors and its preprocessor_config.json"
        ) from None
    if not (getattr(images, "crop_size", None) or {}):
        # LlavaProcessor counts tokens from the cropped size
        size = dict(images.size)
        images.crop_size = {"height": size["height"], "width": size["width"]}
    return tower, images


def _language(
    folder: Path, config: ProjectorConfig, dtype: torch.dtype, device: Any
) -> tuple[Any, Any]:
    """(a causal language model, its tokenizer). Raises DataError, MissingExtra."""
    options: dict[str, Any] = {"device_map": {"": 0}} if device.type == "cuda" else {}
    if config.load_in_4bit or config.load_in_8bit:
        options["quantization_config"] = quantization.bits_config(config, dtype)
    try:
        AutoConfig.from_pretrained(folder)
        language: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, **options
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as fault:
        needed = "the config.json of a causal language model, its safetensors and tokenizer"
        raise _unreadable(folder, fault, needed) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return language, tokenizer


def _unreadable(folder: Path, fault: Exception, needed: str) -> DataError:
    return DataError(
        f"{folder} cannot be opened",
        why=(str(fault).strip() or type(fault).__name__).splitlines()[0][:200],
        fix=f"the folder needs {needed}",
    )
