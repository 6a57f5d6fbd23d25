"""Image and video generators by name: the denoiser, the text encoders and the decoder of each.

Sources: the pipelines' configs, counted by diffusers' and transformers' classes
(tests/e2e/test_pipelines.py).
"""

from dataclasses import dataclass
from functools import cache

from onecard.errors import NotFound, nearest
from onecard.memory.architectures.denoisers import Dit, UNet
from onecard.memory.architectures.model_names import tokens


@dataclass(frozen=True)
class Text:
    """A text encoder: its weights in millions, those that stay 16 bits when it is quantized, and
    those that transformers keeps in fp32."""

    name: str
    linear: float
    table: float
    kept_fp32: float = 0.0
    """T5's `wo`: kept in fp32 by transformers when bitsandbytes loads the rest (T5PreTrainedModel;
    FLUX in nf4: 12.6 GiB after loading)."""
    layers: int = 0
    width: int = 0
    """Of a CLIP that can have adapters of its own; 0 for others."""


CLIP_L, CLIP_H, CLIP_G = (
    Text("CLIP-L", 85.1, 38.0, layers=12, width=768),
    Text("OpenCLIP-H", 290.0, 50.7, layers=23, width=1024),
    Text("OpenCLIP-bigG", 631.0, 63.7, layers=32, width=1280),
)
T5_XXL, MT5_XL, BERT = (
    Text("T5-XXL", 3623.9, 131.6, 1006.6),
    Text("mT5-XL", 1158.0, 512.4, 251.7),
    Text("BERT", 302.0, 49.0),
)
UMT5_XXL = Text("UMT5-XXL", 3624.1, 1050.1, 1006.6)
PILE_T5 = Text("Pile-T5-XL", 906.2, 65.8, 251.7)
QWEN_VL = Text("Qwen2.5-VL-7B", 7202.0, 1090.0)
QWEN3_4B, QWEN3_8B = Text("Qwen3-4B", 3633.5, 389.0), Text("Qwen3-8B", 7568.4, 622.3)
MISTRAL = Text("Mistral-Small-3.1-24B", 23340.2, 671.1)
GEMMA2 = Text("Gemma-2-2B", 2024.5, 589.8)
GLM = Text("ChatGLM3-6B", 5977.3, 266.3)


@dataclass(frozen=True)
class Decoder:
    """Makes pixels of a latent picture."""

    weights: float = 83.7e6
    widths: tuple[int, ...] = (128, 256, 512, 512)
    coarse: int = 1
    """Its last pixels are patches of so many a side."""
    frames: int = 1
    """Frames that it works on at once; 0 for all of a film."""
    tiny: bool = False
    """An AutoencoderTiny."""


KL, KL2, DC = (
    Decoder(),
    Decoder(84.0e6),
    Decoder(362.9e6, (128, 256, 512, 512, 1024, 1024)),
)
WAN = Decoder(126.9e6, (96, 192, 384, 384), frames=4)
WAN22 = Decoder(704.7e6, (160, 320, 640, 640), coarse=2, frames=4)
LTX = Decoder(419.2e6, coarse=4, frames=0)


@dataclass(frozen=True)
class Pipeline:
    name: str
    net: str
    """A UNet or a transformer of architectures/denoisers.py."""
    texts: tuple[Text, ...]
    size: int
    """The usual side of a picture (px)."""
    channels: int = 4
    """Of the latent picture."""
    guided: bool = True
    """Classifier-free guidance runs the network on two pictures for one."""
    upcast: bool = False
    """Its decoder overflows in fp16 and runs in fp32 (SDXL)."""
    factor: int = 8
    trains_fp32: bool = False
    """Its training script keeps frozen parts in fp32 under autocast, and its class makes little of
    gradient checkpointing (aMUSEd's published table)."""
    patch: int = 2
    """Side of a transformer's patch, in latents."""
    decoder: Decoder = KL
    frames: int = 1
    """The usual length of a film, in frames."""
    skip: int = 1
    """Frames that become one latent frame."""
    wide: int = 0
    """Usual width where it is not the height."""
    unet: UNet | None = None
    dit: Dit | None = None
    """The denoiser of one that stands in no table."""


_SD3 = (CLIP_L, CLIP_G, T5_XXL)
PIPELINES = (
    Pipeline("sd-1.5", "sd-1.5", (CLIP_L,), 512),
    Pipeline("sd-2.1", "sd-2.1", (CLIP_H,), 768),
    Pipeline("sdxl", "sdxl", (CLIP_L, CLIP_G), 1024, upcast=True),
    Pipeline("sdxl-turbo", "sdxl", (CLIP_L, CLIP_G), 512, guided=False, upcast=True),
    Pipeline("sdxl-lightning", "sdxl", (CLIP_L, CLIP_G), 1024, guided=False, upcast=True),
    Pipeline("sdxl-refiner", "sdxl-refiner", (CLIP_G,), 1024, upcast=True),
    Pipeline("ssd-1b", "ssd-1b", (CLIP_L, CLIP_G), 1024, upcast=True),
    Pipeline("kolors", "kolors", (GLM,), 1024, upcast=True),
    Pipeline("sd3-medium", "sd3-medium", _SD3, 1024, 16),
    Pipeline("sd3.5-medium", "sd3.5-medium", _SD3, 1024, 16),
    Pipeline("sd3.5-large", "sd3.5-large", _SD3, 1024, 16),
    Pipeline("sd3.5-large-turbo", "sd3.5-large", _SD3, 1024, 16, guided=False),
    Pipeline("flux.1", "flux.1", (CLIP_L, T5_XXL), 1024, 16, guided=False),
    Pipeline("flux.2-dev", "flux.2-dev", (MISTRAL,), 1024, 32, guided=False, decoder=KL2),
    Pipeline("flux.2-klein-4b", "flux.2-klein-4b", (QWEN3_4B,), 1024, 32, False, decoder=KL2),
    Pipeline("flux.2-klein-9b", "flux.2-klein-9b", (QWEN3_8B,), 1024, 32, False, decoder=KL2),
    Pipeline("chroma", "chroma", (T5_XXL,), 1024, 16),
    Pipeline("z-image", "z-image", (QWEN3_4B,), 1024, 16),
    Pipeline("z-image-turbo", "z-image", (QWEN3_4B,), 1024, 16, guided=False),
    Pipeline("pixart", "pixart", (T5_XXL,), 1024),
    Pipeline("hunyuandit", "hunyuandit", (BERT, MT5_XL), 1024),
    Pipeline("qwen-image", "qwen-image", (QWEN_VL,), 1024, 16),
    Pipeline("sana-0.6b", "sana-0.6b", (GEMMA2,), 1024, 32, factor=32, patch=1, decoder=DC),
    Pipeline("sana-1.6b", "sana-1.6b", (GEMMA2,), 1024, 32, factor=32, patch=1, decoder=DC),
    Pipeline("lumina-2", "lumina-2", (GEMMA2,), 1024, 16),
    Pipeline("auraflow", "auraflow", (PILE_T5,), 1024),
    Pipeline("amused", "amused", (CLIP_L,), 512, 64, factor=16, trains_fp32=True),
    Pipeline(
        "wan2.1-1.3b", "wan-1.3b", (UMT5_XXL,), 480, 16, decoder=WAN, frames=81, skip=4, wide=832
    ),
    Pipeline(
        "wan2.1-14b", "wan-14b", (UMT5_XXL,), 480, 16, decoder=WAN, frames=81, skip=4, wide=832
    ),
    Pipeline(
        "wan2.2-5b",
        "wan-5b",
        (UMT5_XXL,),
        704,
        48,
        factor=16,
        decoder=WAN22,
        frames=121,
        skip=4,
        wide=1280,
    ),
    Pipeline(
        "ltx-video",
        "ltx-video",
        (T5_XXL,),
        480,
        128,
        factor=32,
        patch=1,
        decoder=LTX,
        frames=161,
        skip=8,
        wide=704,
    ),
)
ALSO = {
    "sd-1.5": "sd-1.4 sd15 sd14 stable-diffusion-1.5 stable-diffusion-1.4 dreamshaper-8",
    "sd-2.1": "sd21 stable-diffusion-2.1",
    "sdxl": "sdxl-1.0 stable-diffusion-xl stable-diffusion-xl-1.0 sdxl-base-1.0",
    "sdxl-lightning": "sdxl-lightning-4step hyper-sdxl",
    "sdxl-refiner": "stable-diffusion-xl-refiner-1.0 sdxl-refiner-1.0",
    "kolors": "kolors-diffusers",
    "sd3-medium": "sd3 sd-3-medium stable-diffusion-3-medium",
    "sd3.5-medium": "sd-3.5-medium stable-diffusion-3.5-medium",
    "sd3.5-large": "sd-3.5-large stable-diffusion-3.5-large",
    "sd3.5-large-turbo": "sd-3.5-large-turbo stable-diffusion-3.5-large-turbo",
    "flux.1": "flux flux.1-dev flux.1-schnell flux-dev flux-schnell flux.1-kontext-dev "
    "flux.1-kontext flux.1-krea-dev flux.1-fill-dev",
    "flux.2-dev": "flux.2 flux2-dev",
    "flux.2-klein-4b": "flux2-klein-4b",
    "flux.2-klein-9b": "flux2-klein-9b",
    "chroma": "chroma1-hd chroma-hd chroma1",
    "pixart": "pixart-alpha pixart-sigma pixart-xl-2-1024-ms pixart-sigma-xl-2-1024-ms",
    "hunyuandit": "hunyuandit-v1.2 hunyuandit-v1.1 hunyuan-dit hunyuandit-1.2",
    "qwen-image": "qwen-image-edit qwen-image-edit-plus",
    "sana-0.6b": "sana-600m-1024px sana-600m",
    "sana-1.6b": "sana-1600m-1024px sana-1600m sana1.5-1.6b-1024px sana",
    "lumina-2": "lumina-image-2.0 lumina-2.0 lumina2",
    "auraflow": "auraflow-v0.3 auraflow-v0.2",
    "amused": "amused-512",
    "wan2.1-1.3b": "wan2.1-t2v-1.3b wan-1.3b",
    "wan2.1-14b": "wan2.1-t2v-14b wan-14b",
    "wan2.2-5b": "wan2.2-ti2v-5b wan-5b",
    "ltx-video": "ltx-video-2b ltxv-2b ltxv ltx-video-0.9",
}
"""Name -> other names of the same sizes."""
REPOS = {
    "sd-1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd-2.1": "stabilityai/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sdxl-turbo": "stabilityai/sdxl-turbo",
    "sdxl-refiner": "stabilityai/stable-diffusion-xl-refiner-1.0",
    "ssd-1b": "segmind/SSD-1B",
    "kolors": "Kwai-Kolors/Kolors-diffusers",
    "sd3-medium": "stabilityai/stable-diffusion-3-medium-diffusers",
    "sd3.5-medium": "stabilityai/stable-diffusion-3.5-medium",
    "sd3.5-large": "stabilityai/stable-diffusion-3.5-large",
    "sd3.5-large-turbo": "stabilityai/stable-diffusion-3.5-large-turbo",
    "flux.1": "black-forest-labs/FLUX.1-dev",
    "flux.2-dev": "black-forest-labs/FLUX.2-dev",
    "flux.2-klein-4b": "black-forest-labs/FLUX.2-klein-4B",
    "flux.2-klein-9b": "black-forest-labs/FLUX.2-klein-9B",
    "chroma": "lodestones/Chroma1-HD",
    "z-image": "Tongyi-MAI/Z-Image",
    "z-image-turbo": "Tongyi-MAI/Z-Image-Turbo",
    "pixart": "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
    "hunyuandit": "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
    "qwen-image": "Qwen/Qwen-Image",
    "sana-0.6b": "Efficient-Large-Model/Sana_600M_1024px_diffusers",
    "sana-1.6b": "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
    "lumina-2": "Alpha-VLLM/Lumina-Image-2.0",
    "auraflow": "fal/AuraFlow-v0.3",
}
"""Name -> repository of the hub in diffusers' form, for those that make pictures."""
NOT_KNOWN = {
    "wan2.2-t2v-a14b": "it holds two denoisers that take turns: not described here",
    "wan2.2-i2v-a14b": "it holds two denoisers that take turns: not described here",
    "hunyuanvideo": "its text encoders are not described here",
    "hidream-i1-full": "its mixture of experts is not described here",
    "stable-cascade": "its three stages are not described here",
}
"""Generators that exist and cannot be planned, with what is missing."""


def _key(name: str) -> str:
    return tokens(name).removesuffix("-diffusers")


@cache
def _index() -> dict[str, Pipeline]:
    out = {}
    for pipeline in PIPELINES:
        for name in (pipeline.name, *ALSO.get(pipeline.name, "").split()):
            out[_key(name)] = pipeline
    return out


def why_not(name: str) -> str:
    """What is missing of a generator that exists and cannot be planned; empty for all others."""
    return next((why for n, why in NOT_KNOWN.items() if _key(n) == _key(name)), "")


def find(name: str) -> Pipeline:
    """By its whole name, in any spelling. Raises NotFound with the nearest."""
    key = _key(name)
    if known := _index().get(key):
        return known
    why = why_not(name)
    near = list(dict.fromkeys(_index()[n].name for n in nearest(key, _index())))
    raise NotFound(
        f"there is no image generator named '{name}'",
        why=why or f"there are: {', '.join(p.name for p in PIPELINES)}",
        fix=f"did you mean {' or '.join(near)}?" if near else "onecard plan diffusion sdxl",
    )
