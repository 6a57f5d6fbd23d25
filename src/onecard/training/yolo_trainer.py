"""Ultralytics' own trainers with checkpoints that are whole: a killed training goes on with the
same weights, optimizer and random numbers.

Ultralytics saves the averaged weights in 16 bits and no others, the optimizer in 16 bits and no
random state (BaseTrainer.save_model), so its own --resume is another training. Everything else is
left as it is: an unbroken training equals `yolo train` bit for bit
(tests/e2e/test_vision_training.py).

Ultralytics is AGPL-3.0: whoever passes on a program with it, or serves one, owes its source.
"""

import json
import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from onecard import fsio, ultralytics_env
from onecard.errors import DataError
from onecard.reporting import Progress
from onecard.runs.record import Run
from onecard.training import checkpoints
from onecard.training.config import VisionTrainConfig
from onecard.training.interrupt import Interrupt, graceful_interrupt
from onecard.training.picture_trainer import BEST, TrainingState, cpu_count, own_tensors
from onecard.training.yolo_names import yaml_of
from onecard.training.yolo_network import load_weights

ultralytics_env.quiet()

from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.models.yolo.segment import SegmentationTrainer  # noqa: E402
from ultralytics.utils import LOGGER, SETTINGS  # noqa: E402
from ultralytics.utils.torch_utils import unwrap_model  # noqa: E402

REPORTS = (
    *("sync", "hub", "mlflow", "wandb", "comet", "clearml", "dvc", "neptune", "raytune"),
    "tensorboard",
)
"""ultralytics' own reports of use and of trainings: what is sent is the run's matter (--report_to).
"""
NEVER_RETRY = 3
"""Ultralytics halves the batch itself after so few out-of-memory errors of the first epoch; the
plan's fallback does it here, in any epoch."""


class _Resumable:
    """Beside ultralytics' trainer in a class's bases."""

    def begin(self, folder: Path, out: Path, on_epoch: Callable[[dict[str, float]], None]) -> None:
        self.checkpoints, self.out, self.on_epoch = folder, out, on_epoch
        self.training = TrainingState()
        self.batch_number, self.last_step = 0, -1
        self.gradients: dict[str, Tensor] = {}

    def resume_training(self: Any, ckpt: Any) -> None:
        """Called by the trainer when all is set up."""
        path = checkpoints.last(self.checkpoints)
        if path is None:
            return
        tensors, metadata = checkpoints.load(path), checkpoints.read_metadata(path)
        state = json.loads(metadata["state"])
        model: Any = unwrap_model(self.model)
        with checkpoints.restoring(path):
            model.load_state_dict(checkpoints.select("net.", tensors))
            self.ema.ema.load_state_dict(checkpoints.select("average.", tensors))
            checkpoints.load_optimizer_state(self.optimizer, checkpoints.select("optim.", tensors))
        # batches add up to a step of the optimizer over the end of an epoch
        self.gradients = checkpoints.select("grad.", tensors)
        self.last_step = int(metadata["last_step"])
        self.ema.updates = state["ema_updates"]
        self.best_fitness = state["best"]
        self.stopper.best_fitness, self.stopper.best_epoch = state["best"], state["best_epoch"]
        self.scaler.load_state_dict(json.loads(metadata["scaler"]))
        self.start_epoch = state["epoch"]
        self.training = TrainingState(**state)
        if getattr(model.model[-1], "one2one_cv2", None) is not None:
            # the two losses of an end-to-end head shift their weights by the epoch
            model.criterion = model.init_criterion()
            model.criterion.updates = self.start_epoch - 1
            model.criterion.update()
        closing = self.epochs - self.args.close_mosaic if self.args.close_mosaic else -1
        _replay_order(self.train_loader, self.start_epoch, closing)
        if 0 <= closing < self.start_epoch or closing < 0 < self.args.close_mosaic:
            self._close_dataloader_mosaic()
            self.args.close_mosaic = 0  # closed: the loop would draw a new order for it
        _restore_random(self.train_loader, json.loads(metadata["random"]), tensors)

    def save_model(self: Any) -> bool:
        """Called by the trainer after each epoch and its validation."""
        state = self.training
        state.epoch, state.ema_updates = self.epoch + 1, self.ema.updates
        figures = {name: float(value) for name, value in self.metrics.items()}
        loss = {f"loss/{name}": float(value) for name, value in self.tloss.items()}
        total = sum(loss.values())
        row = {"epoch": state.epoch, "loss": total, "fitness": float(self.fitness), **figures}
        state.history.append(row)
        if self.best_fitness == self.fitness:
            weights = {k: v.detach().contiguous() for k, v in self.ema.ema.state_dict().items()}
            with fsio.atomic_write(self.out / BEST) as draft:
                save_file(own_tensors(weights), draft)
        state.best, state.best_epoch = float(self.best_fitness), self.stopper.best_epoch
        words, numbers = _random_state(self.train_loader)
        gradients = {
            name: weight.grad
            for name, weight in unwrap_model(self.model).named_parameters()
            if weight.grad is not None
        }
        tensors = {
            **checkpoints.with_prefix("net.", unwrap_model(self.model).state_dict()),
            **checkpoints.with_prefix("average.", self.ema.ema.state_dict()),
            **checkpoints.with_prefix("optim.", checkpoints.optimizer_state(self.optimizer)),
            **checkpoints.with_prefix("grad.", gradients),
            **numbers,
        }
        metadata = {
            "last_step": str(self.last_step),
            "state": json.dumps(vars(state)),
            "scaler": json.dumps(self.scaler.state_dict()),
            "random": json.dumps(words),
        }
        checkpoints.save(self.checkpoints, state.epoch, own_tensors(tensors), metadata)
        self.on_epoch({"epoch": state.epoch, "fitness": float(self.fitness), **figures, **loss})
        return True

    def optimizer_step(self) -> None:
        """Called by the loop by a count that begins anew with every start: `count_batch` steps."""

    def count_batch(self: Any) -> None:
        """After each batch: a step when `accumulate` batches have added up."""
        if self.batch_number - self.last_step >= self.accumulate:
            super().optimizer_step()  # type: ignore[misc]
            self.last_step = self.batch_number
        self.batch_number += 1

    def begin_epoch(self: Any) -> None:
        """Before each epoch, the gradients of the one before where this is a resumed training."""
        self.batch_number = self.epoch * len(self.train_loader)
        for name, weight in unwrap_model(self.model).named_parameters():
            if name in self.gradients:
                weight.grad = self.gradients[name].to(weight.device)
        self.gradients = {}

    def _handle_nan_recovery(self: Any, epoch: int) -> bool:
        finite = self.loss is None or bool(self.loss.isfinite())
        if finite and (self.fitness is None or np.isfinite(self.fitness)):
            return False
        raise DataError(
            f"the loss is not finite in epoch {epoch + 1}",
            why="an earlier step was probably too large, or 16 bits were too few",
            fix="a smaller --lr0, or --no_amp; --resume continues from the last whole epoch",
        )

    def final_eval(self) -> None:
        """The score is made with the same code for every trainer, after this."""


class ResumableDetection(_Resumable, DetectionTrainer):
    """ultralytics' trainer of detectors."""


class ResumableSegmentation(_Resumable, SegmentationTrainer):
    """ultralytics' trainer of instance segmenters."""


TRAINERS: dict[str, Any] = {"detect": ResumableDetection, "segment": ResumableSegmentation}


def _random_state(loader: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Every source of random numbers of an epoch: Python's, numpy's, torch's, the loader's order,
    albumentations' own, and the pictures that mosaics choose from."""
    kind, keys, *rest = np.random.get_state()
    words = {
        "python": random.getstate(),
        "numpy": [kind, *rest],
        "buffer": list(loader.dataset.buffer),
        "albumentations": [
            [each.random_generator.bit_generator.state, each.py_random.getstate()]
            for each in _albumentations(loader)
            if each.seed is not None
        ],
    }
    numbers = {
        "random.numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "random.torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        numbers["random.cuda"] = torch.cuda.get_rng_state()
    return words, numbers


def _restore_random(loader: Any, words: Mapping[str, Any], numbers: Mapping[str, Tensor]) -> None:
    dataset = loader.dataset
    for number in words["buffer"]:
        dataset.load_image(number)
    dataset.buffer = list(words["buffer"])
    if "random.cuda" in numbers and torch.cuda.is_available():
        torch.cuda.set_rng_state(numbers["random.cuda"])
    random.setstate(_as_tuple(words["python"]))
    kind, *rest = words["numpy"]
    np.random.set_state((kind, numbers["random.numpy"].numpy().astype(np.uint32), *rest))
    torch.set_rng_state(numbers["random.torch"])
    for each, (state, python) in zip(
        _albumentations(loader), words["albumentations"], strict=False
    ):
        # by torch's seed, else its first call would do so, and begin anew
        each.set_random_seed(torch.initial_seed())
        each.random_generator.bit_generator.state = state
        each.py_random.setstate(_as_tuple(python))


def _replay_order(loader: Any, epochs: int, closing: int) -> None:
    """Draw the order of the epochs that were trained before, without reading a picture: the loader
    is then where it was. `closing`: the epoch at whose start mosaics end and the loader begins
    anew, below 0 for none or for one before the first.

    Only for a loader without processes of its own, which read ahead.
    """
    if loader.num_workers:
        return
    iterator = None
    for epoch in range(epochs):
        if epoch == closing:
            iterator = None
        if iterator is None:
            iterator = loader._get_iterator()
        for _ in range(len(loader)):
            next(iterator._sampler_iter)
    loader.iterator = iterator


def _as_tuple(state: Any) -> tuple[Any, ...]:
    version, numbers, gauss = state
    return version, tuple(numbers), gauss


def _albumentations(loader: Any) -> list[Any]:
    steps = getattr(loader.dataset.transforms, "transforms", [])
    inner = [getattr(step, "transform", None) for step in steps]
    composes: list[Any] = [each for each in inner if hasattr(each, "random_generator")]
    return [part for each in composes for part in (each, *each.transforms)]


def fit(
    task: str,
    model: str,
    data_yaml: Path,
    config: VisionTrainConfig,
    batch: int,
    out: Path,
    run: Run,
    check: Callable[[TrainingState, Any], None],
) -> tuple[nn.Module, TrainingState]:
    """Train a YOLO, or go on from out/checkpoints; (the network with its best weights, the state).

    `check` is called after each epoch with the averaged network and may raise DataError. Raises
    KeyboardInterrupt when it was stopped, NotFound for weights that cannot be had.
    """
    LOGGER.setLevel(logging.ERROR)
    reports = {name: False for name in REPORTS if SETTINGS.get(name)}
    if reports:
        SETTINGS.update(reports)
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_weights(model, run.reporter) if config.pretrained else None
    overrides = arguments(task, config, batch) | {
        "model": yaml_of(model),
        "data": str(data_yaml),
        "project": str(out),
        "name": "ultralytics",
        "exist_ok": True,
    }
    trainer = TRAINERS[task](overrides=overrides)
    trainer.model = trainer.get_model(
        cfg=weights.yaml if weights else yaml_of(model), weights=weights, verbose=False
    )

    if ended := _ended(folder, config.epochs):
        trainer.model.load_state_dict(_best(out))
        return trainer.model.eval(), ended

    def on_epoch(row: dict[str, float]) -> None:
        step = int(row.pop("epoch"))
        run.log(step, **row)
        check(trainer.training, unwrap_model(trainer.ema.ema))

    trainer.begin(folder, out, on_epoch)
    with graceful_interrupt() as interrupt, run.reporter.progress("training", 0) as bar:
        _watch(trainer, interrupt, bar)
        trainer.train()
    net = unwrap_model(trainer.ema.ema)
    net.load_state_dict(_best(out))
    return net.eval(), trainer.training


def _ended(folder: Path, epochs: int) -> TrainingState | None:
    """The state of a training that is at its end: ultralytics' loop would train once more."""
    path = checkpoints.last(folder)
    if path is None:
        return None
    state = TrainingState(**json.loads(checkpoints.read_metadata(path)["state"]))
    return state if state.epoch >= epochs else None


def _best(out: Path) -> dict[str, Tensor]:
    return checkpoints.load(out / BEST)


def _watch(trainer: Any, interrupt: Interrupt, bar: Progress) -> None:
    def begin(trainer: Any) -> None:
        n = len(trainer.train_loader)
        bar.grow(n * trainer.epochs)
        bar.step(n * trainer.start_epoch)

    def before(trainer: Any) -> None:
        trainer._oom_retries = NEVER_RETRY

    def after(trainer: Any) -> None:
        trainer.count_batch()
        loss = float(trainer.loss.detach()) / max(trainer.batch_size, 1)
        best = trainer.best_fitness
        text = f"epoch {trainer.epoch + 1}/{trainer.epochs}, loss {loss:.2f}"
        bar.step(1, text + (f", best mAP {float(best):.3f}" if best is not None else ""))
        if interrupt.requested:
            raise KeyboardInterrupt

    trainer.add_callback("on_train_start", begin)
    trainer.add_callback("on_train_epoch_start", lambda trainer: trainer.begin_epoch())
    trainer.add_callback("on_train_batch_start", before)
    trainer.add_callback("on_train_batch_end", after)


def arguments(task: str, config: VisionTrainConfig, batch: int) -> dict[str, Any]:
    """ultralytics' arguments for a config."""
    optimizer = {"sgd-momentum": "SGD", "adamw": "AdamW", "auto": "auto"}.get(
        str(getattr(config, "optimizer", "auto")), "auto"
    )
    augment = {
        name: getattr(config, name)
        for name in ("fliplr", "flipud", "degrees", "translate", "scale", "hsv_h", "hsv_s", "hsv_v")
    }
    if config.augment:
        augment["mosaic"] = getattr(config, "mosaic", 1.0)
    else:
        augment = dict.fromkeys([*augment, "mosaic", "mixup", "erasing"], 0.0)
    cuda = torch.cuda.is_available()
    amp: bool | str = False
    if config.amp and cuda:
        amp = "bf16" if torch.cuda.is_bf16_supported() else True
    return {
        "task": task,
        "epochs": config.epochs,
        "batch": batch,
        "imgsz": config.imgsz,
        "nbs": max(64, batch * config.accumulate),
        "optimizer": optimizer,
        "lr0": config.lr0 or 0.01,
        "weight_decay": config.weight_decay,
        "warmup_epochs": config.warmup_epochs,
        "patience": config.patience,
        "freeze": config.freeze or None,
        "cls_pw": config.cls_pw,
        "multi_scale": 0.5 if config.multi_scale else 0.0,
        "seed": config.seed,
        "workers": min(8, cpu_count()) if config.workers < 0 and cuda else max(config.workers, 0),
        "device": "0" if cuda else "cpu",
        "amp": amp,
        "pretrained": False,
        "plots": False,
        "save": True,
        "verbose": False,
        **augment,
    }
