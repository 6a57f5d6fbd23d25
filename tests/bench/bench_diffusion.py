"""A small base with Stable Diffusion's classes (diffusion_base.py): how good it is, what a LoRA
learns of a style and what it costs elsewhere, steps a second beside diffusers' recipe, kills.

    python tests/bench/bench_diffusion.py base  --model DIR --emoji DIR
        16 pictures of a named colour; 50 subjects found again by their features; grid
    python tests/bench/bench_diffusion.py style --model DIR --data DIR [--steps 600]
        a LoRA of 24 pictures with and without class pictures: fidelity, drift, recommendation
    python tests/bench/bench_diffusion.py speed --model DIR --data DIR [--rounds 3]
        against diffusers' examples/dreambooth/train_dreambooth_lora.py, its step restated for
        diffusers 0.42 (the script itself is no part of the package), same settings
    python tests/bench/bench_diffusion.py kills --model DIR --data DIR
        SIGKILL at five random moments, then the adapters compared

DIR of the style: Debian's wesnoth-1.16-data, `dpkg -x`, .../data/core/images/portraits (GPL-2+).
Writes bench-results/diffusion-<part>.json.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import diffusion_base
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from onecard import api
from onecard.datasets.images import sheets
from onecard.evaluation import stats
from onecard.reporting import Reporter, TerminalReporter
from onecard.tasks.diffusion import features, lora_files, pipeline

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench-results"
GUIDANCE, STEPS = 4.0, 30
TRIGGER = "wsn"


def write(part, result):
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"diffusion-{part}.json"
    path.write_text(json.dumps(result, indent=1))
    print(f"wrote {path}", flush=True)


# The base


def foreground(image):
    """Mean RGB of what is not the white background; None for an empty picture."""
    rgb = np.asarray(image).reshape(-1, 3).astype(float)
    rows = rgb[rgb.min(1) < 225]
    return rows.mean(0) if len(rows) > 40 else None


def colour_references(path):
    """Mean foreground of a subject's own picture in each of the nine tints: a dark subject is dark
    in every colour."""
    rgb = diffusion_base.on_white(path)
    tints = {key: diffusion_base.tinted(rgb, v) for key, v in diffusion_base.COLOURS.items()}
    return {key: foreground(tint) for key, tint in tints.items()}


def distance(tints, mean, key):
    return float(np.linalg.norm(tints[key] - mean))


def base(args):
    loaded = pipeline.load(str(args.model))
    extractor = features.load("efficientnet-lite0", Reporter())
    subjects = [(n, p) for n, p in diffusion_base.emoji(args.emoji) if len(n.split()) == 1]
    subjects = random.Random(0).sample(subjects, 50)
    names = [name for name, _ in subjects]
    draw = random.Random(1)
    colours = [*diffusion_base.COLOURS]
    asked = [(colours[i % 9], names[draw.randrange(50)]) for i in range(16)]
    options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    paths = dict(subjects)
    right, tiles = [], []
    for i, (colour, name) in enumerate(asked):
        text = f"a {colour} {name}"
        image = pipeline.sample(loaded, text, seed=i, **options)[0]
        mean = foreground(image)
        tints = colour_references(paths[name])
        nearest = mean is not None and min(tints, key=partial(distance, tints, mean))
        right.append(nearest == colour)
        tiles.append((np.asarray(image), None, f"{text}: {nearest}"))
    real = extractor.pictures([Image.fromarray(diffusion_base.on_white(p)) for _, p in subjects])
    made = []
    for i, name in enumerate(names):
        image = pipeline.sample(loaded, f"a {name}", seed=100 + i, **options)[0]
        made.append(image)
        if i < 32:
            tiles.append((np.asarray(image), None, f"a {name}"))
    cosines = extractor.pictures(made) @ real.T
    ranks = [int((row > row[i]).sum()) for i, row in enumerate(cosines)]
    result = {
        "colours_right": sum(right),
        "of": len(right),
        "asked": asked,
        "top1": stats.mean_interval([float(rank == 0) for rank in ranks]).as_dict(),
        "top5": stats.mean_interval([float(rank < 5) for rank in ranks]).as_dict(),
        "chance_top1": 1 / 50,
        "chance_top5": 5 / 50,
    }
    print(json.dumps({k: v for k, v in result.items() if k != "asked"}, indent=1))
    RESULTS.mkdir(exist_ok=True)
    sheets.draw_tiles(tiles, (), RESULTS / "diffusion-base.png", columns=8)
    write("base", result)


# A style


def portraits(args, folder, n=24):
    """The first n of the painted portraits by a fixed draw, over white."""
    folder.mkdir(parents=True)
    paths = sorted(p for p in args.data.rglob("*") if p.suffix in (".png", ".webp"))
    for path in random.Random(2).sample(paths, n):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    return folder


def train(model, data, out, reporter=None, **values):
    settings = {
        "model": str(model),
        "data": str(data),
        "output_dir": str(out),
        "trigger": TRIGGER,
        "caption": "a painting in the style of {trigger}",
        "caption_source": "template",
        "gradient_checkpointing": False,
        **values,
    }
    config = api.configure("diffusion", "train", values=settings)
    return api.run("diffusion", "train", config, reporter=reporter or Reporter())


CLASS_WORDS = (
    *("dog", "cat", "fish", "bear", "horse", "bird", "apple", "bread", "cheese", "grapes"),
    *("castle", "bus", "rocket", "mountain", "fire", "penguin"),
)
"""What class pictures show: other things than the prompts by which drift is measured."""


def class_pictures(args, folder):
    """48 of the base's own pictures, with their prompts as captions."""
    folder.mkdir(parents=True)
    loaded = pipeline.load(str(args.model))
    for i in range(48):
        text = f"a {CLASS_WORDS[i % len(CLASS_WORDS)]}"
        image = pipeline.sample(
            loaded, text, seed=500 + i, num_inference_steps=STEPS, guidance_scale=GUIDANCE
        )[0]
        image.save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(text)
    return folder


def style(args):
    with tempfile.TemporaryDirectory() as temp:
        work = Path(temp)
        data = portraits(args, work / "data")
        result, scores = {}, {}
        others = class_pictures(args, work / "class")
        for name, prior in (("without", False), ("with", True)):
            began = time.monotonic()
            out = work / name
            answer = train(
                args.model,
                data,
                out,
                TerminalReporter(),
                max_train_steps=args.steps,
                save_steps=args.steps // args.saves,
                validation_steps=args.steps // args.saves,
                learning_rate=args.lr,
                train_batch_size=4,
                rank=8,
                num_eval_images=64,
                with_prior_preservation=prior,
                class_prompt="a picture" if prior else "",
                class_data=str(others) if prior else "",
                num_class_images=48,
            )
            report = json.loads((out / "eval" / "comparison.json").read_text())
            scores[name] = report["scores"]
            result[name] = {
                "seconds": round(time.monotonic() - began),
                "verdicts": answer.data["verdicts"],
                "metrics": answer.data["metrics"],
                "recommended": report["recommended"],
                "reason": report["reason"],
                "against_base": report["against_base"],
            }
            for file in ("grid.png", "comparison.svg"):
                shutil.copy(out / "eval" / file, RESULTS / f"diffusion-style-{name}-{file}")
        last = str(args.steps)
        for measure in ("fidelity", "drift"):
            rows = {name: scores[name][last][measure] for name in scores}
            groups = {each: int(each.split("-")[1]) for each in rows["with"]}
            compared = stats.compare(
                rows["without"],
                rows["with"],
                groups=groups,
                higher_is_better=measure == "fidelity",
            )
            single = stats.compare(
                rows["without"], rows["with"], higher_is_better=measure == "fidelity"
            )
            print(
                measure,
                "with against without:",
                compared.render(),
                "| by picture:",
                single.render(),
            )
            result[f"{measure}: with against without class pictures"] = compared.as_dict()
            result[f"{measure}: by picture"] = single.as_dict()
        write("style", result)


# Speed


def peer(args):
    """diffusers' recipe: a DataLoader that decodes, encoder and text encoder in every step,
    accelerate around all of it."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from diffusers.optimization import get_scheduler
    from peft import LoraConfig, get_peft_model_state_dict
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    torch.manual_seed(args.seed)
    accelerator = Accelerator()
    pipe = StableDiffusionPipeline.from_pretrained(args.model)
    unet, vae, text, tokenizer = pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer
    noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    for net in (unet, vae, text):
        net.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(
        LoraConfig(r=8, lora_alpha=8, init_lora_weights="gaussian", target_modules=targets)
    )
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.lr, weight_decay=1e-2)
    side = unet.config.sample_size * pipe.vae_scale_factor
    steps = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    paths = sorted(Path(args.data).iterdir())
    prompt = f"a painting in the style of {TRIGGER}"

    class Pictures(Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, i):
            image = Image.open(paths[i]).convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image)
            tokens = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
            return steps(white.convert("RGB")), tokens.input_ids[0]

    loader = DataLoader(Pictures(), batch_size=args.batch, shuffle=True)
    schedule = get_scheduler("constant", optimizer)
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)
    unet.train()
    done, seconds = 0, []
    while done < args.steps:
        for pixels, tokens in loader:
            began = time.perf_counter()
            encoded = vae.encode(pixels)
            clean = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.sample()
            clean = clean * vae.config.scaling_factor
            noise = torch.randn_like(clean)
            when = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(clean),))
            noisy = noise_scheduler.add_noise(clean, noise, when.long())
            hidden = text(tokens)[0]
            loss = F.mse_loss(unet(noisy, when, hidden).sample.float(), noise.float())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss.item()
            done += 1
            seconds.append(time.perf_counter() - began)
            if done == args.steps:
                break
    state = {f"unet.{k}": v for k, v in get_peft_model_state_dict(unet).items()}
    lora_files.write(args.out, state)
    return seconds


def ours(args):
    """The same settings through `diffusion train`; seconds of a step from the run's own loop."""
    from onecard.tasks.diffusion import trainer

    seconds, step = [], trainer.Trainer.step

    def timed(self, *rest):
        began = time.perf_counter()
        loss = step(self, *rest)
        seconds.append(time.perf_counter() - began)
        return loss

    trainer.Trainer.step = timed
    out = Path(args.out).parent / "run"
    train(
        args.model,
        args.data,
        out,
        max_train_steps=args.steps,
        save_steps=0,
        validation_steps=0,
        num_eval_images=0,
        learning_rate=args.lr,
        lr_scheduler="constant",
        lr_warmup_ratio=0,
        train_batch_size=args.batch,
        rank=8,
        snr_gamma=0,
        buckets=False,
        allow_duplicates=True,
        val_share=0.01,
        seed=args.seed,
    )
    shutil.copy(out / "lora.safetensors", args.out)
    return seconds


def child(args):
    """One training in a process of its own: what it took, as JSON on the last line."""
    began = time.perf_counter()
    seconds = {"peer": peer, "ours": ours}[args.side](args)
    row = {
        "step_s": statistics.median(seconds[5:]),
        "loop_s": sum(seconds),
        "whole_s": time.perf_counter() - began,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(row))


def fixed_loss(model, data, lora):
    """Mean squared error on fixed noise over the training pictures, without weights."""
    loaded = pipeline.load(str(model))
    lora_files.apply(loaded, [(lora, 1.0)])
    pipe, side, losses = loaded.pipe, loaded.side, []
    from diffusers import DDPMScheduler

    noise_of = DDPMScheduler.from_config(pipe.scheduler.config)
    embeds = pipe.encode_prompt(f"a painting in the style of {TRIGGER}", "cpu", 1, False)[0]
    with torch.no_grad():
        for number, path in enumerate(sorted(Path(data).iterdir())):
            image = Image.open(path).convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image)
            rgb = np.asarray(white.convert("RGB").resize((side, side)))
            pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            encoded = pipe.vae.encode(pixels)
            clean = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
            clean = clean * pipe.vae.config.scaling_factor
            draw = torch.Generator().manual_seed(number)
            for when in (100, 300, 500, 700, 900):
                noise = torch.randn(clean.shape, generator=draw)
                at = torch.tensor([when])
                guess = pipe.unet(noise_of.add_noise(clean, noise, at), at, embeds).sample
                losses.append(float((guess - noise).square().mean()))
    return statistics.mean(losses)


def speed(args):
    rows = {"peer": [], "ours": []}
    with tempfile.TemporaryDirectory() as temp:
        work = Path(temp)
        data = portraits(args, work / "data")
        for round_number in range(args.rounds):
            for side in ("peer", "ours") if round_number % 2 == 0 else ("ours", "peer"):
                folder = work / f"{side}{round_number}"
                folder.mkdir()
                out = folder / "lora.safetensors"
                words = [sys.executable, __file__, "child", "--side", side, "--model", args.model]
                words += ["--data", data, "--out", out, "--steps", args.steps, "--lr", args.lr]
                words += ["--seed", round_number, "--batch", args.batch]
                done = subprocess.run([*map(str, words)], capture_output=True, text=True)
                assert done.returncode == 0, done.stderr[-3000:]
                row = json.loads(done.stdout.strip().splitlines()[-1])
                row["fixed_loss"] = fixed_loss(args.model, data, out)
                rows[side].append(row)
                print(side, row, flush=True)
    medians = {
        side: {key: statistics.median(row[key] for row in values) for key in values[0]}
        for side, values in rows.items()
    }
    ratio = medians["peer"]["step_s"] / medians["ours"]["step_s"]
    differences = [a["fixed_loss"] - b["fixed_loss"] for a, b in zip(*rows.values(), strict=True)]
    result = {"rows": rows, "medians": medians, "steps_per_s_ratio": ratio}
    result["loss_difference"] = stats.compare_seeds(differences).render()
    print(json.dumps(medians, indent=1), f"ratio {ratio:.2f}", result["loss_difference"])
    write("speed", result)


# Kills


def checkpoint_names(out):
    return sorted(path.name for path in out.glob("checkpoints/step-*"))


def kills(args):
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temp:
        work = Path(temp)
        data = portraits(args, work / "data")
        flags = {
            "model": args.model,
            "trigger": TRIGGER,
            "max_train_steps": args.steps,
            "save_steps": max(1, args.steps // 20),
            "validation_steps": 0,
            "num_eval_images": 0,
            "train_batch_size": 2,
            "rank": 4,
        }
        words = [sys.executable, "-m", "onecard", "diffusion", "train", str(data)]
        for name, value in flags.items():
            words += [f"--{name}", str(value)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        began = time.monotonic()
        subprocess.run([*words, "--output_dir", work / "whole"], env=env, check=True)
        whole_s, moments = time.monotonic() - began, []
        out = work / "killed"
        while len(moments) < 5:
            resumed = ["--resume"] if (out / "training.json").exists() else []
            process = subprocess.Popen([*words, "--output_dir", out, *resumed], env=env)
            before, limit = checkpoint_names(out), None
            while process.poll() is None and (limit is None or time.monotonic() < limit):
                if limit is None and checkpoint_names(out) != before:
                    limit = time.monotonic() + rng.uniform(0, 0.1) * whole_s
                time.sleep(0.01)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(checkpoint_names(out)[-1])
        done = not (out / "lora.safetensors").exists()
        if done:
            subprocess.run([*words, "--output_dir", out, "--resume"], env=env, check=True)
        pair = [load_file(folder / "lora.safetensors") for folder in (work / "whole", out)]
        worst = max(float((pair[0][key] - pair[1][key]).abs().max()) for key in pair[0])
    print(f"killed after {moments}: largest difference {worst}")
    write("kills", {"killed_after": moments, "largest_difference": worst})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=("base", "style", "speed", "kills", "child"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--emoji", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--saves", type=int, default=4, help="checkpoints that are compared")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=("peer", "ours"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.steps = args.steps or {"style": 600, "kills": 60}.get(args.part, 100)
    parts = {"base": base, "style": style, "speed": speed, "kills": kills, "child": child}
    parts[args.part](args)


if __name__ == "__main__":
    main()
