"""TRL's trainers with what they lack: packed rows without padding, an interrupt that loses nothing,
a stop at a loss that is not finite, and progress in the run. Knows no files but checkpoints."""

import ctypes
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from onecard.errors import DataError
from onecard.reporting import Progress
from onecard.runs.record import Run, peak_bytes
from onecard.tasks.finetune.configs import TrainConfig
from onecard.tasks.finetune.model import backbone, concatenate
from onecard.tasks.finetune.sample import Sample
from onecard.tasks.finetune.tokenization import IGNORED, TokenizedExample, end_mark, pack, render
from onecard.training import frozen_head, output_dir, trainer_checkpoints
from onecard.training.checkpoints import MAX_CHECKPOINTS
from onecard.training.interrupt import Interrupt, graceful_interrupt
from onecard.units import size

ROW_MULTIPLE = 128
"""Rows are padded to a multiple of this many tokens, so that the allocator can reuse its blocks:
without it resident memory grew by 0.1 GiB a step on a CPU."""
MIN_FREE_BYTES = 64 * 2**20
"""Free disk space without which no training starts: an adapter's checkpoint and its optimizer."""
LOGGED = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy", "rewards/accuracies")


class ProgressCallback(TrainerCallback):
    """Reports steps to the run and the terminal, marks complete checkpoints, stops on an
    interrupt."""

    def __init__(self, run: Run, bar: Progress, optim: str) -> None:
        self.run, self.bar, self.optim = run, bar, optim
        self.interrupt = Interrupt()
        self.tokens, self.loss = 0, math.nan
        self.started, self.first_step = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step
        self.bar.grow(state.max_steps)
        if state.global_step:
            self.bar.step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        self.bar.step(1, note="" if math.isnan(self.loss) else self._note(state))
        trim_heap()
        if self.interrupt.requested:
            control.should_save = control.should_training_stop = True

    def _note(self, state: Any) -> str:
        seconds_a_step = self._elapsed_s() / max(state.global_step - self.first_step, 1)
        minutes_left = (state.max_steps - state.global_step) * seconds_a_step / 60
        return (
            f"loss {self.loss:.3f}, {self._tokens_per_s():.0f} tokens/s, {size(peak_bytes())} of "
            f"{size(self.run.plan.total_bytes)} planned, {minutes_left:.0f} min left"
        )

    def _elapsed_s(self) -> float:
        return max(time.monotonic() - self.started, 1e-6)

    def _tokens_per_s(self) -> float:
        return self.tokens / self._elapsed_s()

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **unused: Any,
    ) -> None:
        values = {
            name: float(value)
            for name, value in (logs or {}).items()
            if name in LOGGED and isinstance(value, int | float)
        }
        if "loss" in values:
            self.loss = values["loss"]
            self.run.log(
                state.global_step,
                **values,
                tokens_per_s=round(self._tokens_per_s(), 1),
                peak_bytes=peak_bytes(),
            )

    def on_save(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        trainer_checkpoints.mark_complete(checkpoint, self.optim)


def trim_heap() -> None:
    """On a CPU, return freed pages of glibc's heap to the system: samples of ever other lengths
    fragment it, and it grew by 0.1 GiB a step."""
    if not torch.cuda.is_available() and sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


class PackedSFTTrainer(SFTTrainer):
    """SFTTrainer on rows that were packed before; `progress` counts tokens without padding.

    Raises DataError when the loss is not finite.
    """

    progress: ProgressCallback

    def training_step(
        self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any
    ) -> torch.Tensor:
        sources = inputs.pop("sources")
        self.progress.tokens += inputs.pop("n_tokens")
        loss: torch.Tensor = super().training_step(model, inputs, *args, **options)
        if not torch.isfinite(loss):
            step, folder = self.state.global_step + 1, Path(self.args.output_dir)
            raise non_finite_loss(step, sources, float(loss), folder)
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean over the step's answer tokens, as TRL's, but without entropy and token accuracy,
        which cost a third of a step on a CPU."""
        if return_outputs or not frozen_head.supports(self.model.get_base_model()):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        # the trainer's own autocast wraps the forward of the whole model, which is not called here
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=self.args.bf16):
            hidden = backbone(self.model)(**inputs, use_cache=False).last_hidden_state[0]
            loss = frozen_head.answer_loss(self.model, hidden, labels[0])
        n_labels = num_items_in_batch
        if n_labels is None:
            n_labels = (labels[:, 1:] != IGNORED).sum()
        return loss / torch.as_tensor(n_labels, device=hidden.device).clamp(min=1)


def finite_loss_only(trainer_class: Any) -> Any:
    """The trainer, ended by a loss that is not finite: AdamW would write it into every weight."""

    class FiniteLossTrainer(trainer_class):
        def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*args, **options)
            if not torch.isfinite(loss):
                step, folder = self.state.global_step + 1, Path(self.args.output_dir)
                raise non_finite_loss(step, ["of preference pairs"], float(loss), folder)
            return loss

    return FiniteLossTrainer


def non_finite_loss(step: int, sources: Sequence[str], loss: float, folder: Path) -> DataError:
    checkpoint = trainer_checkpoints.last(folder)
    rows = ", ".join(sources[:6]) + (" ..." if len(sources) > 6 else "")
    previous = "there is no checkpoint before it"
    if checkpoint:
        previous = f"{checkpoint.name} from before is complete"
    return DataError(
        f"the loss is {loss} in step {step}",
        why=f"the batch was {rows}; {previous}",
        fix="a smaller --learning_rate or --max_grad_norm, or correct those rows; then --resume",
    )


def sft_trainer(
    model: Any,
    tokenizer: Any,
    peft_config: Any,
    examples: Sequence[TokenizedExample],
    config: TrainConfig,
    folder: Path,
    progress: ProgressCallback,
) -> PackedSFTTrainer:
    """Supervised fine-tuning. The trainer's dataset is row -> example numbers; the collator lays
    the examples of a row side by side."""
    if config.packing:
        rows = pack([len(e.ids) for e in examples], config.max_seq_length)
    else:
        rows = [[i] for i in range(len(examples))]
    trainer = PackedSFTTrainer(
        model=model,
        args=SFTConfig(
            **training_arguments(config, folder),
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            packing=False,
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"pack": rows}),
        data_collator=collator(examples, tokenizer.eos_token_id or 0),
        peft_config=peft_config,
        callbacks=[progress],
    )
    trainer.progress = progress
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            # TRL puts the adapters of quantized models in bf16, where AdamW's small steps are lost
            weight.data = weight.data.float()
    if config.bf16:
        disable_input_casts(trainer.model)
    return trainer


def collator(
    examples: Sequence[TokenizedExample], pad_token: int
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Rows of example numbers to one row of tokens, padded to ROW_MULTIPLE by an example of its own
    that has no labels."""

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        parts = [examples[i] for row in batch for i in row["pack"]]
        n_tokens = sum(len(e.ids) for e in parts)
        sources = [e.source for e in parts]
        n_pad = -n_tokens % ROW_MULTIPLE
        if n_pad:
            parts.append(TokenizedExample([pad_token] * n_pad, [IGNORED] * n_pad, "", 0))
        return concatenate(parts) | {"sources": sources, "n_tokens": n_tokens}

    return collate


def disable_input_casts(model: Any) -> None:
    """PEFT casts each adapter's input to fp32, which autocast casts back: a second copy of every
    layer's input is kept for the backward pass (18 % of SmolLM2's peak)."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def preference_trainer(
    model: Any,
    tokenizer: Any,
    peft_config: Any,
    samples: Sequence[Sample],
    config: TrainConfig,
    folder: Path,
    progress: ProgressCallback,
) -> Any:
    """DPO (Rafailov 2023) or ORPO (Hong 2024) on pairs of a better and a worse answer."""
    arguments = training_arguments(config, folder)
    arguments |= {"beta": config.beta, "max_length": config.max_seq_length}
    rows: list[dict[str, Any]]
    trainer_class: Any
    if config.method == "dpo":
        rows = [
            {
                "prompt": list(s.messages[:-1]),
                "chosen": [s.messages[-1]],
                "rejected": [{"role": "assistant", "content": s.rejected}],
            }
            for s in samples
        ]
        trainer_class, trl_arguments = DPOTrainer, DPOConfig(**arguments)
    else:
        # experimental in TRL 1.16: importing it warns, which is only for those who use it
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        end = end_mark(tokenizer) or tokenizer.eos_token
        rows = [
            {
                "prompt": render(tokenizer, s.messages[:-1], add_generation_prompt=True),
                "chosen": s.answer + end,
                "rejected": s.rejected + end,
            }
            for s in samples
        ]
        trainer_class, trl_arguments = ORPOTrainer, ORPOConfig(**arguments)
    return finite_loss_only(trainer_class)(
        model=model,
        args=trl_arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        peft_config=peft_config,
        callbacks=[progress],
    )


def training_arguments(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """What all of TRL's trainers take."""
    cuda = torch.cuda.is_available()
    optim: str = config.optim
    if optim == "auto":
        optim = "paged_adamw_8bit" if cuda else "adamw_torch"
    checkpointing = {"use_reentrant": False} if config.gradient_checkpointing else None
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "num_train_epochs": config.num_train_epochs,
        "max_steps": config.max_steps or -1,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": config.warmup_ratio,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "optim": optim,
        "seed": config.seed,
        "data_seed": config.seed,
        "bf16": config.bf16,
        "use_cpu": not cuda,
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_checkpointing_kwargs": checkpointing,
        "neftune_noise_alpha": config.neftune_noise_alpha or None,
        "logging_steps": config.logging_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": MAX_CHECKPOINTS,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": cuda,
    }


def fit(trainer: Any, folder: Path, progress: ProgressCallback, checkpoint: Path | None) -> float:
    """Train, from `checkpoint` where there is one; the mean loss.

    Raises KeyboardInterrupt after the checkpoint that an interrupt asked for, DataError for a full
    disk or a loss that is not finite.
    """
    output_dir.require_space(folder, MIN_FREE_BYTES)
    trainer.remove_callback(PrinterCallback)
    try:
        with graceful_interrupt() as interrupt:
            progress.interrupt = interrupt
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except OSError as fault:
        trainer_checkpoints.remove_incomplete(folder)
        raise DataError(
            f"a checkpoint could not be written to {folder}",
            why=fault.strerror or str(fault),
            fix="free some disk space, then --resume: the checkpoint before is complete",
        ) from None
    if interrupt.requested:
        raise KeyboardInterrupt
    return float(result.training_loss)
