"""Memory of training a tiny language model from scratch. Pure arithmetic."""

from collections.abc import Iterator

from onecard.config import Config
from onecard.memory import calibration, number_types, terms
from onecard.memory.architectures import layers
from onecard.memory.devices import Device
from onecard.memory.estimators import training
from onecard.memory.fallbacks import SAME, Change
from onecard.memory.plan import Plan, Term
from onecard.tasks.tinylm import sizing
from onecard.tasks.tinylm.configs import TrainConfig
from onecard.units import GIB

VOCAB = 66
"""Characters of an English text, before the text is read."""
CPU_PROGRAM_BYTES = round(0.84 * GIB)
HEAP_SHARE = 0.4
"""Python with torch, and what heap and oneDNN hold beyond the tensors, as a share of these: fitted
to peaks of resident memory of seven trainings (0.3 to 6 million weights, characters and BPE: 65 to
1757 MiB of tensors, 865 to 1593 MiB beside them), whose totals it meets within 11 % (README)."""
BAND = 0.12
"""Half-width of the band around a total."""


def plan(config: Config, device: Device) -> Plan:
    """Weights, gradients, optimizer and activations of one step; nothing for the other commands.

    Raises SettingsError for sizes that do not divide.
    """
    if not isinstance(config, TrainConfig):
        return Plan((), device)
    vocab = VOCAB if config.tokenizer == "char" else config.vocab_size
    chosen = sizing.derive(config, vocab, 0)
    model = chosen.model_config
    on_cpu = device.type == "cpu"
    counts = layers.uniform(
        "tiny",
        model.vocab_size,
        model.n_embd,
        model.d_ff,
        model.n_layer,
        model.n_head,
        model.n_kv_head,
        model.n_embd // model.n_head,
        tied=True,
        gated=model.mlp == "swiglu",
        qk_norm=model.qk_norm,
    )
    usual = not on_cpu and bool(number_types.bf16_unit(device))
    amp = config.bf16 == "on" or (config.bf16 == "auto" and usual)
    recipe = training.Recipe(
        "full",
        "bf16" if amp else "fp32",
        chosen.batch_size,
        model.block_size,
        optimizer=config.optim,
        checkpointing=False,
        mixed=amp,
        compute_fp32=not amp,
        keeps_logits=False,
        accumulation=chosen.accumulation_steps,
    )
    parts = training.step(counts, recipe)
    if config.ema_decay:
        because = f"{counts.n_params / 1e6:.2f}e6 x 4 B"
        parts.append(Term("averaged weights", 4 * counts.n_params, because))
    if on_cpu:
        beside = CPU_PROGRAM_BYTES + round(HEAP_SHARE * sum(term.bytes for term in parts))
        because = (
            f"Python with torch, heap and oneDNN: {CPU_PROGRAM_BYTES / GIB:.2f} GiB and "
            f"{HEAP_SHARE:.0%} of the rest"
        )
        parts.append(Term("program", beside, because))
    else:
        parts += [training.fragments(counts, recipe), *terms.cuda_context(device)]
    notes = []
    if config.tokenizer == "char":
        notes.append(
            f"the vocabulary is not known before the text is read: {VOCAB} characters are assumed"
        )
    notes.append(_number_type(config.bf16, amp, device))
    choices = {
        "weights": f"{model.n_params / 1e6:.2f}e6",
        "layers x width": f"{model.n_layer} x {model.n_embd}",
        "tokens per step": chosen.tokens_per_step,
    }
    band = calibration.band(device, "tinylm", BAND)
    return Plan(tuple(parts), device, choices, tuple(notes), band)


def _number_type(setting: str, amp: bool, device: Device) -> str:
    unit = number_types.bf16_unit(device)
    if setting == "auto" and device.type == "cpu" and unit:
        return f"computing in fp32 or bf16 ({unit}), whichever is faster in the first steps"
    return number_types.describe(amp, device)


def fallbacks(config: Config) -> Iterator[Change]:
    """The same mathematics with smaller micro-batches, down to one sample; then bf16, then less."""
    if not isinstance(config, TrainConfig):
        return
    chosen = sizing.derive(config, VOCAB, 0)
    batch, effective = chosen.batch_size, chosen.batch_size * chosen.accumulation_steps
    while batch > 1:
        batch //= 2
        yield (
            {
                "per_device_train_batch_size": batch,
                "gradient_accumulation_steps": -(-effective // batch),
            },
            SAME,
        )
    if config.bf16 != "on":
        yield {"bf16": "on"}, "equal within noise in published runs"
    block = chosen.model_config.block_size
    while block > 16:
        block //= 2
        yield {"block_size": block}, "a shorter context: another model"
