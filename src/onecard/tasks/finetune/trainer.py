"""TRL's trainers with what they lack: rows without padding, a stop that keeps everything, a loss
that is no number. Knows no files but checkpoints."""

import ctypes
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from onecard.errors import DataError
from onecard.reporting import Progress
from onecard.runs.record import Run, peak_rss_bytes
from onecard.tasks.finetune.configs import Settings
from onecard.tasks.finetune.dataset import Sample
from onecard.tasks.finetune.loss import answer_loss, serves
from onecard.tasks.finetune.model import backbone, flat
from onecard.tasks.finetune.tokenize_rows import IGNORED, TokenizedExample, pack, render
from onecard.training.output_dir import Stop
from onecard.units import size

WHOLE = ".whole"
"""Lies in a checkpoint that was written to its end: a killed process leaves one without."""
MAX_CHECKPOINTS = 2
"""Checkpoints on the disk at once; the one before the last is there if the last is bad."""
SHAPES = 128
"""Rows are as long as a multiple of this: kernels and the allocator's blocks are used again
(without it resident memory grew by 0.1 GiB a step on a CPU)."""
SAFE_BYTES = 64 * 2**20


def rows(encoded: Sequence[TokenizedExample], settings: Settings) -> list[list[int]]:
    """Which samples lie in a row: packs, or one sample each."""
    return (
        pack([len(item.ids) for item in encoded], settings.max_seq_length)
        if settings.packing
        else [[i] for i in range(len(encoded))]
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest that was written whole."""
    found = [
        path
        for path in folder.glob("checkpoint-*")
        if (path / WHOLE).exists() and path.name.rpartition("-")[2].isdigit()
    ]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def fitting(checkpoint: Path | None, settings: Settings) -> Path | None:
    """The checkpoint, with optimizer states only if the optimizer is still the same: another's
    would not fit."""
    if checkpoint is None:
        return None
    kept = checkpoint / "optim.txt"
    if kept.exists() and kept.read_text() != settings.optim:
        for name in ("optimizer.pt", "scheduler.pt"):
            (checkpoint / name).unlink(missing_ok=True)
    return checkpoint


def drop_broken(folder: Path) -> None:
    for path in folder.glob("checkpoint-*"):
        if not (path / WHOLE).exists():
            shutil.rmtree(path, ignore_errors=True)


class ProgressCallback(TrainerCallback):
    """Tells the record and the screen; marks checkpoints; stops when asked."""

    def __init__(self, run: Run, bar: Progress, stop: Stop, optim: str) -> None:
        self.run, self.bar, self.stop, self.optim = run, bar, stop, optim
        self.tokens, self.done_tokens, self.started, self.loss = 0, 0, time.monotonic(), math.nan
        self.first = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.started, self.first = time.monotonic(), state.global_step
        self.bar.grow(state.max_steps)
        if state.global_step:
            self.bar.step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        rate = self.tokens / max(time.monotonic() - self.started, 1e-6)
        left = (
            (state.max_steps - state.global_step)
            * (time.monotonic() - self.started)
            / max(state.global_step - self.first, 1)
        )
        self.bar.step(
            1,
            note=""
            if math.isnan(self.loss)
            else f"loss {self.loss:.3f}, {rate:.0f} tokens/s, {size(peak_bytes())} of "
            f"{size(self.run.plan.total_bytes)} planned, {left / 60:.0f} min left",
        )
        trim_heap()
        if self.stop.asked:
            control.should_save = control.should_training_stop = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **more: Any
    ) -> None:
        kept = {
            name: float(value)
            for name, value in (logs or {}).items()
            if name
            in ("loss", "learning_rate", "grad_norm", "mean_token_accuracy", "rewards/accuracies")
            and isinstance(value, int | float)
        }
        if "loss" in kept:
            self.loss = kept["loss"]
            self.run.log(
                state.global_step,
                **kept,
                tokens_per_s=round(self.tokens / max(time.monotonic() - self.started, 1e-6), 1),
                peak_bytes=peak_bytes(),
            )

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / "optim.txt").write_text(self.optim)
        (folder / WHOLE).touch()


def trim_heap() -> None:
    """On a CPU: freed pages between kept blocks go back to the system; without it glibc's heap grew
    by 0.1 GiB a step, as samples of ever other lengths came by."""
    if not torch.cuda.is_available() and sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def peak_bytes() -> int:
    """Highest so far: torch's allocator on a card, resident memory else."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_rss_bytes()


class PackedSFTTrainer(SFTTrainer):
    """SFTTrainer on rows that are packed before; `watch` counts real tokens.

    Raises DataError when the loss is no number.
    """

    watch: ProgressCallback

    def training_step(
        self, model: Any, inputs: dict[str, Any], *args: Any, **more: Any
    ) -> torch.Tensor:
        where = inputs.pop("where")
        self.watch.tokens += inputs.pop("n_tokens")
        loss: torch.Tensor = super().training_step(model, inputs, *args, **more)
        if not torch.isfinite(loss):
            raise not_a_number(
                self.state.global_step + 1, where, float(loss), Path(self.args.output_dir)
            )
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean over the step's answer tokens, as TRL's, without entropy and accuracy: on a CPU they
        cost a third of the time."""
        if return_outputs or not serves(self.model.get_base_model()):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        with torch.autocast(
            labels.device.type, torch.bfloat16, enabled=self.args.bf16
        ):  # the trainer's own lies around the whole model's forward, which is not called here
            hidden = backbone(self.model)(**inputs, use_cache=False).last_hidden_state[0]
            loss = answer_loss(self.model, hidden, labels[0])
        n = (
            num_items_in_batch
            if num_items_in_batch is not None
            else (labels[:, 1:] != IGNORED).sum()
        )
        return loss / torch.as_tensor(n, device=hidden.device).clamp(min=1)


def not_a_number(step: int, where: Sequence[str], loss: float, folder: Path) -> DataError:
    kept = last_checkpoint(folder)
    return DataError(
        f"the loss is {loss} in step {step}",
        why=f"the batch was {', '.join(where[:6])}{' ...' if len(where) > 6 else ''}; "
        + (f"{kept.name} of before is kept" if kept else "there was no checkpoint before"),
        fix="a smaller --learning_rate or --max_grad_norm, or mend those rows; then --resume",
    )


def answers(
    model: Any,
    tokenizer: Any,
    peft: Any,
    encoded: Sequence[TokenizedExample],
    settings: Settings,
    folder: Path,
    run: Run,
    bar: Progress,
    stop: Stop,
    callbacks: Sequence[TrainerCallback] = (),
) -> PackedSFTTrainer:
    """The trainer of plain answers.

    A row is its samples' numbers; the collator lays them side by side.
    """

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        picked = [encoded[i] for row in batch for i in row["pack"]]
        n = sum(len(item.ids) for item in picked)
        spare = -n % SHAPES  # a sample of its own at the end, without a target
        row = flat(
            [
                *picked,
                TokenizedExample([tokenizer.eos_token_id or 0] * spare, [IGNORED] * spare, "", 0),
            ]
            if spare
            else picked
        )
        return row | {"where": [item.where for item in picked], "n_tokens": n}

    args = SFTConfig(
        **arguments(settings, folder),
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
    )
    watch = ProgressCallback(run, bar, stop, settings.optim)
    trainer = PackedSFTTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"pack": rows(encoded, settings)}),
        data_collator=collate,
        peft_config=peft,
        callbacks=[watch, *callbacks],
    )
    trainer.watch = watch
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = (
                weight.data.float()
            )  # TRL puts adapters of quantized models in bf16, where small steps of AdamW are lost
    if settings.bf16:
        no_copies(trainer.model)
    return trainer


def no_copies(model: Any) -> None:
    """PEFT turns each adapter's input into its own fp32, which autocast turns back: a second copy
    of every layer's input is kept for the backward pass (18 % of the peak of SmolLM2)."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def preferences(
    model: Any,
    tokenizer: Any,
    peft: Any,
    samples: Sequence[Sample],
    settings: Settings,
    folder: Path,
    run: Run,
    bar: Progress,
    stop: Stop,
) -> Any:
    """DPO (Rafailov 2023) or ORPO (Hong 2024) on pairs of a better and a worse answer."""
    held = Dataset.from_list(
        [
            {
                "prompt": list(s.messages[:-1]),
                "chosen": [s.messages[-1]],
                "rejected": [{"role": "assistant", "content": s.rejected}],
            }
            for s in samples
        ]
    )
    watch = ProgressCallback(run, bar, stop, settings.optim)
    if settings.method == "dpo":
        args = DPOConfig(
            **arguments(settings, folder), beta=settings.beta, max_length=settings.max_seq_length
        )
        return DPOTrainer(
            model=model,
            args=args,
            processing_class=tokenizer,
            train_dataset=held,
            peft_config=peft,
            callbacks=[watch],
        )
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer  # marked as experimental in TRL 1.16

    texts = [
        {
            "prompt": render(tokenizer, s.messages[:-1], ask=True),
            "chosen": s.answer + tokenizer.eos_token,
            "rejected": s.rejected + tokenizer.eos_token,
        }
        for s in samples
    ]
    more = {
        name: value
        for name, value in arguments(settings, folder).items()
        if name != "activation_offloading"
    }
    return ORPOTrainer(
        model=model,
        args=ORPOConfig(**more, beta=settings.beta, max_length=settings.max_seq_length),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(texts),
        peft_config=peft,
        callbacks=[watch],
    )


def arguments(settings: Settings, folder: Path) -> dict[str, Any]:
    """What all of TRL's trainers take."""
    cuda = torch.cuda.is_available()
    optim = (
        settings.optim
        if settings.optim != "auto"
        else "paged_adamw_8bit"
        if cuda
        else "adamw_torch"
    )
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": settings.per_device_train_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "num_train_epochs": settings.num_train_epochs,
        "max_steps": settings.max_steps or -1,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_ratio,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optim": optim,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "bf16": settings.bf16,
        "use_cpu": not cuda,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False}
        if settings.gradient_checkpointing
        else None,
        "neftune_noise_alpha": settings.neftune_noise_alpha or None,
        "logging_steps": settings.logging_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": MAX_CHECKPOINTS,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": cuda,
    }


def go(trainer: Any, folder: Path, stop: Stop, resume: Path | None) -> float:
    """Train; the mean loss.

    Raises KeyboardInterrupt after the checkpoint that a Ctrl-C asked for, DataError for no disk or
    a loss that is no number.
    """
    if shutil.disk_usage(folder).free < SAFE_BYTES:
        raise DataError(
            f"{folder} has no room for a checkpoint",
            why=f"{size(shutil.disk_usage(folder).free)} are free",
            fix="free some disk space, or --output_dir elsewhere",
        )
    trainer.remove_callback(PrinterCallback)
    try:
        with stop.heard():
            done = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except OSError as fault:
        drop_broken(folder)
        raise DataError(
            f"a checkpoint could not be written to {folder}",
            why=fault.strerror or str(fault),
            fix="free some disk space, then go on with --resume: the checkpoint before is whole",
        ) from None
    if stop.asked:
        raise KeyboardInterrupt
    return float(done.training_loss)
