"""Tiny pipelines of diffusers with random weights, written to a folder in a second or two.

No word means anything to them, but all the rest is as in the real ones: classes, names of modules,
tokenizers, latents at an eighth of the side. `side` is the pipeline's usual side (px).
"""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from peft import LoraConfig, get_peft_model_state_dict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = (
    *("a", "an", "the", "of", "in", "on", "and", "with", "style", "picture", "photo", "painting"),
    *(
        "sks",
        "dog",
        "cat",
        "apple",
        "house",
        "tree",
        "red",
        "green",
        "blue",
        "yellow",
        "background",
    ),
    *("white", "black", "old", "man", "woman", "car", "very", "best", "quality", "blurred", "low"),
)
"""Words of one token; every other word is cut into bytes, as is Chinese."""
START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
TEXT_WIDTH = 32
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}


def stable_diffusion(
    folder,
    *,
    prediction_type="epsilon",
    side=64,
    seed=0,
    width=TEXT_WIDTH,
    scheduler=DDIMScheduler,
    flags_everything=False,
):
    """Stable Diffusion 1.5's classes, 1.1 M weights. `width`: of the text encoder; a LoRA fits one
    width only. `flags_everything`: a safety checker that blackens every picture."""
    torch.manual_seed(seed)
    checks, tokenizer = flags_everything, clip_tokenizer(Path(folder))
    pipeline = StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_text_config(tokenizer, width)),
        tokenizer=tokenizer,
        unet=_unet(side, width),
        scheduler=_scheduler(scheduler, prediction_type),
        safety_checker=_checker() if checks else None,
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32) if checks else None,
        requires_safety_checker=checks,
    )
    return _write(pipeline, folder)


def stable_diffusion_xl(folder, *, prediction_type="epsilon", side=64, seed=0):
    """Stable Diffusion XL's classes: two text encoders, three blocks of two layers."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(Path(folder))
    second = _text_config(tokenizer, act="gelu", projection=TEXT_WIDTH)
    unet = UNet2DConditionModel(
        sample_size=side // 8,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * TEXT_WIDTH,
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(4, 8, 8),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=_scheduler(EulerDiscreteScheduler, prediction_type),
        add_watermarker=False,
    )
    return _write(pipeline, folder)


def stable_diffusion_3(folder, *, side=64, seed=0):
    """Stable Diffusion 3's classes: a transformer, two CLIPs and a T5."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(Path(folder))
    text = _text_config(tokenizer, projection=TEXT_WIDTH)
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=side // 8,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=2 * TEXT_WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * TEXT_WIDTH,
            out_channels=16,
            pos_embed_max_size=side // 8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(16, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(_t5_config(2 * TEXT_WIDTH)),
        tokenizer_3=t5_tokenizer(),
    )
    return _write(pipeline, folder)


def flux(folder, *, side=64, seed=0):
    """FLUX.1's classes: a transformer of double and single blocks, a CLIP and a T5."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(Path(folder))
    pipeline = FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(_t5_config(TEXT_WIDTH)),
        tokenizer_2=t5_tokenizer(),
    )
    return _write(pipeline, folder)


def clip_tokenizer(folder):
    """CLIP's byte-level byte pairs with a vocabulary of bytes and WORDS; special tokens last."""
    keep = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    keep += range(ord("®"), ord("ÿ") + 1)
    letters = [chr(byte) for byte in keep] + [chr(256 + n) for n in range(256 - len(keep))]
    words = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters)])
    pairs = {}
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pairs[tuple(parts[:2])] = None
            parts[:2] = ["".join(parts[:2])]
            words[parts[0]] = None
    table = {word: number for number, word in enumerate([*words, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = folder / "made-vocab.json", folder / "made-merges.txt"
    vocabulary.write_text(json.dumps(table))
    merges.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs))
    tokenizer = CLIPTokenizer(str(vocabulary), str(merges), model_max_length=LENGTH)
    vocabulary.unlink()
    merges.unlink()
    return tokenizer


def t5_tokenizer():
    """Bytes and T5's special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "</s>", "<unk>", *letters]
    table = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.BPE(table, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )


def _text_config(tokenizer, width=TEXT_WIDTH, act="quick_gelu", projection=512):
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=projection,
        hidden_act=act,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_config(width):
    return T5Config(
        vocab_size=259,
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )


def _vae(latent_channels, **options):
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 32, 32),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        **options,
    )
    with torch.no_grad():  # else all pictures are one grey
        vae.decoder.conv_out.weight.mul_(4)
    return vae


def _unet(side, width):
    return UNet2DConditionModel(
        sample_size=side // 8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
    )


def _scheduler(kind, prediction_type):
    options = {"clip_sample": False, "set_alpha_to_one": False} if kind is DDIMScheduler else {}
    return kind(**SCHEDULE, **options, prediction_type=prediction_type)


def _checker():
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision.to_dict(), projection_dim=16)
    )
    with torch.no_grad():
        checker.concept_embeds.normal_()
        checker.concept_embeds_weights.fill_(-2)  # every cosine is above it
        checker.special_care_embeds.normal_()
        checker.special_care_embeds_weights.fill_(2)
    return checker


def _write(pipeline, folder):
    pipeline.save_pretrained(folder, safe_serialization=True)
    return Path(folder)


UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "proj_in", "conv1")
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1")


def adapt(pipe, rank=4, alpha=2.0, text=True, seed=0, scale=0.05):
    """Put a random LoRA on a pipeline, on convolutions and text encoders too. Its weights, as
    training gives them: unet.LAYER.lora_A.weight."""
    torch.manual_seed(seed)
    names = ["unet", *(["text_encoder", "text_encoder_2"] if text else [])]
    state = {}
    for name in names:
        if (net := getattr(pipe, name, None)) is None:
            continue
        layers = UNET_LAYERS if name == "unet" else TEXT_LAYERS
        net.add_adapter(
            LoraConfig(
                r=rank,
                lora_alpha=alpha,
                target_modules=list(layers),
                init_lora_weights="gaussian",
            )
        )
        for key, weight in net.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=scale)
        state |= {f"{name}.{key}": value for key, value in get_peft_model_state_dict(net).items()}
    return state
