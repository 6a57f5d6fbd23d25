"""The training loop of Whisper: LoRA or all weights, with a frozen encoder or without.

`fit` reads from top to bottom. Knows no files but its checkpoints.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.utils import logging as hf_logging

from onecard.errors import DataError
from onecard.memory import number_types
from onecard.runs.record import Run
from onecard.tasks.asr import dataset, features
from onecard.tasks.asr.configs import TrainConfig
from onecard.tasks.asr.corpora import Clip
from onecard.tasks.asr.features import Batch
from onecard.training import checkpoints, number_type, output_dir
from onecard.training.interrupt import graceful_interrupt
from onecard.training.schedules import lr_at
from onecard.training.seeds import seed_step

LORA_LAYERS = r"(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
WEIGHT_DECAY = 0.01
"""Of full fine-tuning; adapters have none."""
MAX_GRAD_NORM = 1.0
BYTES_A_WEIGHT = 16
"""Of free disk space; a checkpoint has 12, the fp32 weight and AdamW's two moments."""
MARGIN_BYTES = 2**26


def load_model(folder: Path, config: TrainConfig) -> tuple[Any, Any]:
    """(Whisper in fp32, its processor)."""
    hf_logging.disable_progress_bar()
    net: Any = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    net.to("cuda" if torch.cuda.is_available() else "cpu")
    net.config.use_cache = False
    if config.gradient_checkpointing:
        net.gradient_checkpointing_enable({"use_reentrant": False})
    return net, WhisperProcessor.from_pretrained(folder)


@dataclass
class TrainingSet:
    """Clips as token ids, and their sounds as encoder output (or as files, where it is trained)."""

    clips: Sequence[Clip]
    targets: list[list[int]]
    n_prompt: int
    encoded: np.ndarray | None

    def __len__(self) -> int:
        """With augmented copies."""
        return len(self.clips) if self.encoded is None else len(self.encoded)

    def batch(self, processor: Any, numbers: np.ndarray, seed: int, step: int) -> Batch:
        """Of these items. Sounds from files are augmented, differently in each step."""
        n_clips = len(self.clips)
        ids, labels = features.pad_targets(
            [self.targets[i % n_clips] for i in numbers], self.n_prompt
        )
        if self.encoded is not None:
            # memory-mapped: rows are read in the order of the file
            order = np.argsort(numbers)
            rows = np.asarray(self.encoded[numbers[order]], dtype=np.float32)
            return Batch(torch.from_numpy(rows[np.argsort(order)]), ids, labels)
        random = np.random.default_rng([seed, step, int(numbers[0])])
        mels = [
            features.augmented_features(processor, dataset.load_sound(self.clips[i]), random)
            for i in numbers
        ]
        return Batch(torch.from_numpy(np.stack(mels)), ids, labels)


def fit(
    net: Any,
    processor: Any,
    clips: Sequence[Clip],
    language: str,
    config: TrainConfig,
    out: Path,
    run: Run,
) -> Any:
    """The trained model: with its adapter for LoRA, which is also saved to out/adapter.

    Raises KeyboardInterrupt after the checkpoint that an interrupt asked for, DataError for a loss
    that is not finite or a full disk.
    """
    # 1. data, weights and optimizer
    torch.manual_seed(config.seed)
    targets = [features.target_tokens(processor, clip.text, language) for clip in clips]
    n_prompt = len(features.prompt_tokens(processor, language))
    encoded = None
    if config.freeze_encoder:
        encoded = features.encode_clips(net, processor, clips, config, out, run.reporter)
    data = TrainingSet(clips, targets, n_prompt, encoded)
    net = _trainable(net, config)
    weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(
        weights.values(),
        lr=config.learning_rate,
        weight_decay=0.0 if config.method == "lora" else WEIGHT_DECAY,
    )
    clips_per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
    n_clips = config.num_train_epochs * len(data)
    steps = config.max_steps or max(1, math.ceil(n_clips / clips_per_step))
    # 2. the last checkpoint
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    n_weights = sum(weight.numel() for weight in weights.values())
    output_dir.require_space(out, BYTES_A_WEIGHT * n_weights + MARGIN_BYTES)
    step = restore(folder, weights, optimizer)
    # 3. steps
    device = number_types.here(next(net.parameters()).device.type)
    number_type.announce(config.bf16, device, run.reporter)
    with run.reporter.progress("training", steps) as bar, graceful_interrupt() as interrupt:
        bar.step(step)
        while step < steps:
            loss = train_step(net, processor, data, optimizer, config, step, steps)
            step += 1
            run.log(step, loss=loss, learning_rate=optimizer.param_groups[0]["lr"])
            bar.step(1, f"loss {loss:.3f}")
            if step % config.save_steps == 0 or step == steps or interrupt.requested:
                save(folder, step, weights, optimizer)
            if interrupt.requested:
                run.reporter.line(
                    f"stopped; to continue: onecard asr train ... --output_dir {out} --resume"
                )
                raise KeyboardInterrupt
    if isinstance(net, PeftModel):
        net.save_pretrained(out / "adapter")
    return net


def _trainable(net: Any, config: TrainConfig) -> Any:
    """The model with the weights that the settings train."""
    if config.method == "lora":
        side = r".*decoder.*" if config.freeze_encoder else r".*"
        adapter = LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=rf"{side}\.{LORA_LAYERS}",
        )
        return get_peft_model(net, adapter)
    if config.freeze_encoder:
        net.model.encoder.requires_grad_(False)
    return net


def train_step(
    net: Any,
    processor: Any,
    data: TrainingSet,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
    steps: int,
) -> float:
    """The loss. Which clips a step takes and what is dropped depends on the seed and its number
    alone.

    Raises DataError for a loss that is not finite, before the weights are changed by it.
    """
    seed_step(config.seed, step)
    net.train()
    device = next(net.parameters()).device
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * lr_at(step, steps, config.warmup_ratio)
    total = 0.0
    for numbers in micro_batches(len(data), step, config):
        batch = data.batch(processor, numbers, config.seed, step)
        inputs = batch.inputs.to(device)
        sound: dict[str, Any] = {"input_features": inputs}
        if data.encoded is not None:
            sound = {"encoder_outputs": (inputs,)}
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            logits = net(**sound, decoder_input_ids=batch.ids.to(device)).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), batch.labels.to(device), ignore_index=features.IGNORED
        )
        loss = loss / config.gradient_accumulation_steps
        loss.backward()
        total += float(loss.detach())
    if not math.isfinite(total):
        raise DataError(
            f"the loss is {total} in step {step + 1}",
            why="an earlier step was probably too large, or a clip is damaged",
            fix="a smaller --learning_rate; --resume then continues from the last checkpoint",
        )
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    torch.nn.utils.clip_grad_norm_(weights, MAX_GRAD_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def micro_batches(n: int, step: int, config: TrainConfig) -> Iterator[np.ndarray]:
    """Item numbers of the step's micro-batches: rounds over all items, each in an order of its
    own."""
    size = config.per_device_train_batch_size
    per_step = size * config.gradient_accumulation_steps
    numbers = [
        int(np.random.default_rng([config.seed, position // n]).permutation(n)[position % n])
        for position in range(step * per_step, (step + 1) * per_step)
    ]
    yield from np.array(numbers).reshape(-1, size)


def save(
    folder: Path, step: int, weights: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    tensors = {
        **checkpoints.with_prefix("net.", weights),
        **checkpoints.with_prefix("optim.", checkpoints.optimizer_state(optimizer)),
    }
    checkpoints.save(folder, step, tensors)


def restore(folder: Path, weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """The step of the last checkpoint, whose state is loaded; 0 where there is none.

    Raises DataError for a truncated checkpoint or another model's.
    """
    path = checkpoints.last(folder)
    if path is None:
        return 0
    tensors = checkpoints.load(path)
    with checkpoints.restoring(path):
        checkpoints.copy_into(weights, checkpoints.select("net.", tensors))
        checkpoints.load_optimizer_state(optimizer, checkpoints.select("optim.", tensors))
    return checkpoints.step_of(path)
