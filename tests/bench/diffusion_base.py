"""A small text-to-image model with the classes of Stable Diffusion 1.5, from pictures that can be
had without a model hub: the base that tests of `diffusion` and benches adapt.

    python tests/bench/diffusion_base.py --emoji DIR --clip_vocab FILE --taef2 DIR OUT
        [--minutes 60] [--stamps DIR]

DIR of the emoji: `npm pack emoji-datasource-twitter@16.0.0`, unpacked (CC BY 4.0). Stamps: Debian's
tuxpaint-stamps-default, `dpkg -x` (GPL-2). FILE: bpe_simple_vocab_16e6.txt.gz of PyPI's
open-clip-torch (MIT). TAEF2: the two .pth of https://github.com/madebyollin/taesd (MIT).

1. AutoencoderTiny from TAEF2's weights. diffusers' class has no pooled branch, so the rest is tuned
   on these pictures until it does without.
2. CLIPTextModel (4 layers, 256 wide, CLIP's vocabulary) and UNet2DConditionModel from random
   weights, together. Emoji are tinted in nine colours and captioned so: composition of colour and
   subject is learned, not only the pictures.
3. OUT holds a diffusers pipeline, base.json the losses, grid.png samples.
"""

import argparse
import gzip
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIDE = 64
CATEGORIES = ("Animals & Nature", "Food & Drink", "Travel & Places")
LEFT_OUT = ("clock", "moon", "globe")
"""Dozens of pictures that differ in little."""
CHANNELS = 8
"""Of the latents: TAEF2's 32 are cut to those that vary most. Few are learned faster."""
COLOURS = {
    "red": (220, 30, 40),
    "orange": (250, 140, 20),
    "yellow": (250, 215, 40),
    "green": (40, 165, 60),
    "blue": (40, 90, 225),
    "purple": (130, 50, 190),
    "pink": (250, 120, 185),
    "brown": (130, 80, 45),
    "black": (45, 45, 45),
}
TEMPLATES = ("{}", "a {}", "a picture of a {}", "a {} on a white background")
SEED = 20
RATE = 6e-4


def on_white(path):
    """[H, W, 3] uint8 of SIDE px: alpha over white, the longer side fills it."""
    image = Image.open(path).convert("RGBA")
    box = image.getchannel("A").getbbox()
    image = image.crop(box) if box else image
    image.thumbnail((SIDE - 4, SIDE - 4), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 255))
    place = ((SIDE - image.width) // 2, (SIDE - image.height) // 2)
    canvas.alpha_composite(image, place)
    return np.asarray(canvas.convert("RGB"))


def tinted(rgb, colour):
    """Luminance kept, hue given: dark stays dark, light goes to the colour, white stays white."""
    light = (rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)) / 255
    background = (rgb.min(-1) > 245)[..., None]
    target = np.array(colour, np.float32)
    shade = np.clip(light / 0.75, 0.15, 1.0)[..., None] * target
    glow = np.clip((light - 0.85) / 0.15, 0, 1)[..., None]
    out = shade * (1 - 0.6 * glow) + 255 * 0.6 * glow
    return np.where(background, rgb, out.clip(0, 255)).astype(np.uint8)


def emoji(folder):
    """(caption, path) of the chosen categories."""
    for row in json.loads((folder / "emoji.json").read_text()):
        path = folder / "img" / "twitter" / "64" / row["image"]
        name = row["name"].lower()
        if row["category"] in CATEGORIES and not any(word in name for word in LEFT_OUT):
            yield name, path


def stamps(folder):
    """(caption, path): the first line of the caption beside the picture."""
    for path in sorted(next(folder.rglob("tuxpaint/stamps")).rglob("*.png")):
        text = path.with_suffix(".txt")
        if "_mirror" in path.stem or not text.is_file():
            continue
        lines = text.read_text(encoding="utf-8").splitlines()
        if lines and lines[0].strip():
            yield lines[0].strip(" .!").lower().removeprefix("a ").removeprefix("an "), path


def pictures(args):
    """Captions (without templates) and pixels [N, 3, H, W] in -1..1."""
    captions, pixels = [], []
    for name, path in emoji(args.emoji):
        rgb = on_white(path)
        captions.append(name)
        pixels.append(rgb)
        for colour, value in COLOURS.items():
            if colour not in name.split():
                captions.append(f"{colour} {name}")
                pixels.append(tinted(rgb, value))
    for name, path in stamps(args.stamps) if args.stamps else ():
        captions.append(f"stamp of {name}")
        pixels.append(on_white(path))
    stack = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    return captions, stack


def floats(pixels_u8):
    return pixels_u8.float() / 127.5 - 1


def tiny_vae(folder):
    """AutoencoderTiny with TAEF2's weights, but for its pooled branches."""
    vae = AutoencoderTiny(latent_channels=32, scaling_factor=1.0)
    for part, net, shift in (("encoder", vae.encoder, 0), ("decoder", vae.decoder, -1)):
        weights = torch.load(folder / f"taef2_{part}.pth", weights_only=True)
        state = {}
        for name, value in weights.items():
            number, _, rest = name.partition(".")
            if not rest.startswith("pool"):
                state[f"layers.{int(number) + shift}.{rest}"] = value.float()
        net.load_state_dict(state)
    return vae


@torch.no_grad()
def narrowed(wide, pixels):
    """An AutoencoderTiny with CHANNELS latents of unit variance: the principal components of the
    wide one's, folded into its convolutions before and after."""
    latents = encode(wide, pixels)
    flat = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((flat - mean).T))
    scale = values[-CHANNELS:].sqrt()
    down, up = vectors[:, -CHANNELS:].T / scale[:, None], vectors[:, -CHANNELS:] * scale
    vae = AutoencoderTiny(latent_channels=CHANNELS, scaling_factor=1.0)
    state, own = wide.state_dict(), vae.state_dict()
    last = max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layers"))
    ends = {
        f"encoder.layers.{last}.weight": lambda w: torch.einsum("ij,jklm->iklm", down, w),
        f"encoder.layers.{last}.bias": lambda b: down @ (b - mean),
        "decoder.layers.0.weight": lambda w: torch.einsum("ojkl,ji->oikl", w, up),
        "decoder.layers.0.bias": lambda b: (
            b + torch.einsum("ojkl,j->o", state["decoder.layers.0.weight"], mean)
        ),
    }
    for name in own:
        own[name] = ends[name](state[name]) if name in ends else state[name]
    vae.load_state_dict(own)
    return vae


def tune_vae(vae, pixels, minutes):
    """Reconstruction, L1 and its gradient's; latents are held near unit size."""
    optimizer = torch.optim.AdamW(vae.parameters(), 4e-4, weight_decay=0)
    random_order = torch.Generator().manual_seed(SEED)
    end, step = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        share = 1 - (end - time.monotonic()) / (60 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = 4e-4 * (0.05 + 0.95 * math.cos(share * math.pi / 2))
        batch = floats(pixels[torch.randint(len(pixels), (12,), generator=random_order)])
        latents = vae.encoder(batch)
        back = vae.decoder(latents + 0.05 * torch.randn(latents.shape, generator=random_order))
        edges = sum(F.l1_loss(back.diff(dim=axis), batch.diff(dim=axis)) for axis in (2, 3))
        loss = F.l1_loss(back, batch) + 0.5 * edges + 1e-4 * latents.square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 50 == 0:
            print(f"vae step {step} loss {float(loss):.4f}", flush=True)
    return step


@torch.no_grad()
def encode(vae, pixels):
    parts = [vae.encoder(floats(part)) for part in pixels.split(64)]
    return torch.cat(parts)


def clip_tokenizer(vocab, folder):
    """CLIP's byte-pair vocabulary in the form of transformers."""
    lines = gzip.decompress(vocab.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    keep = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    keep += range(ord("®"), ord("ÿ") + 1)
    rest = [byte for byte in range(256) if byte not in keep]
    letters = [chr(byte) for byte in keep] + [chr(256 + n) for n in range(len(rest))]
    words = [*letters, *(letter + "</w>" for letter in letters)]
    words += ["".join(pair) for pair in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    table = json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(table, encoding="utf-8")
    pairs = "\n".join(" ".join(pair) for pair in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{pairs}\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


def networks():
    torch.manual_seed(SEED)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=256,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        block_out_channels=(96, 192),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=256,
        attention_head_dim=4,
    )
    return text, unet


def scheduler_settings():
    return {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "clip_sample": False,
        "steps_offset": 1,
    }


class Averages:
    """Moving average of weights."""

    def __init__(self, nets):
        self.nets = nets
        self.values = [p.detach().clone() for net in nets for p in net.parameters()]

    @torch.no_grad()
    def update(self, step):
        decay = min(0.999, (1 + step) / (10 + step))
        weights = [p for net in self.nets for p in net.parameters()]
        torch._foreach_lerp_(self.values, weights, 1 - decay)

    @torch.no_grad()
    def swap(self):
        for value, weight in zip(
            self.values, (p for net in self.nets for p in net.parameters()), strict=True
        ):
            kept = weight.detach().clone()
            weight.copy_(value)
            value.copy_(kept)


def train(args, tokenizer, captions, latents, out, vae):
    text, unet = networks()
    parameters = [*unet.parameters(), *text.parameters()]
    print(f"UNet {sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M", flush=True)
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.01, fused=True)
    noise_of = DDPMScheduler(**scheduler_settings())
    alphas = noise_of.alphas_cumprod
    average, losses = Averages([unet, text]), []
    order = random.Random(SEED)
    torch.manual_seed(SEED)
    plain = [i for i, caption in enumerate(captions) if caption.split()[0] not in COLOURS]
    end, step, saved = time.monotonic() + 60 * args.minutes, 0, time.monotonic()
    while time.monotonic() < end:
        share = 1 - (end - time.monotonic()) / (60 * args.minutes)
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm * (0.03 + 0.97 * (1 + math.cos(share * math.pi)) / 2)
        rows = [
            order.choice(plain) if order.random() < 0.5 else order.randrange(len(captions))
            for _ in range(args.batch)
        ]
        words = [
            "" if order.random() < 0.1 else order.choice(TEMPLATES).format(captions[i])
            for i in rows
        ]
        tokens = tokenizer(
            words, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids
        clean = latents[rows]
        noise = torch.randn_like(clean)
        when = torch.randint(0, 1000, (len(rows),))
        noisy = noise_of.add_noise(clean, noise, when)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            guess = unet(noisy, when, text(tokens)[0]).sample.float()
        ratio = alphas[when] / (1 - alphas[when])
        weight = torch.minimum(ratio, torch.tensor(5.0)) / ratio
        loss = (weight * (guess - noise).square().mean((1, 2, 3))).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        average.update(step)
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            mean = sum(losses[-100:]) / 100
            left = (end - time.monotonic()) / 60
            print(f"step {step} loss {mean:.4f}, {left:.1f} min left", flush=True)
        if time.monotonic() - saved > 600:
            average.swap()
            write(out, vae, text, tokenizer, unet)
            average.swap()
            saved = time.monotonic()
    average.swap()
    write(out, vae, text, tokenizer, unet)
    return step, losses


def write(out, vae, text, tokenizer, unet):
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**scheduler_settings(), set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--stamps", type=Path)
    parser.add_argument("--clip_vocab", type=Path, required=True)
    parser.add_argument("--taef2", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--vae_minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    captions, pixels = pictures(args)
    print(f"{len(captions)} pictures", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "vae" / "config.json").is_file():
        if not (args.out / "vae-wide" / "config.json").is_file():
            wide = tiny_vae(args.taef2)
            tune_vae(wide, pixels, args.vae_minutes)
            wide.save_pretrained(args.out / "vae-wide")
        vae = narrowed(AutoencoderTiny.from_pretrained(args.out / "vae-wide"), pixels[::10])
        tune_vae(vae, pixels, args.vae_minutes)
        vae.register_to_config(scaling_factor=float(1 / encode(vae, pixels[::20]).std()))
        vae.save_pretrained(args.out / "vae")
    vae = AutoencoderTiny.from_pretrained(args.out / "vae")
    with torch.no_grad():
        sample = floats(pixels[::50])
        error = F.mse_loss(vae.decoder(vae.encoder(sample)), sample)
    print(f"vae PSNR {10 * math.log10(4 / float(error)):.1f} dB", flush=True)
    latents = encode(vae, pixels) * vae.config.scaling_factor
    tokenizer = clip_tokenizer(args.clip_vocab, args.out / "tokenizer")
    step, losses = train(args, tokenizer, captions, latents, args.out, vae)
    (args.out / "base.json").write_text(json.dumps({"steps": step, "losses": losses[::20]}))


if __name__ == "__main__":
    main()
