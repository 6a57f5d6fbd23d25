"""Planned against measured bytes of one step of finetune's trainer."""

import torch
from allocator import allocated_bytes, peak_bytes

from onecard.memory import devices, number_types
from onecard.memory.plan import Plan
from onecard.reporting import Reporter
from onecard.runs.record import Run
from onecard.tasks.finetune import model, trainer
from onecard.tasks.finetune.memory import plan
from onecard.tasks.finetune.tokenization import TokenizedExample


def planned_and_measured(folder, settings, workdir):
    """(planned, measured) bytes of tensors, without the program: weights, adapters and optimizer
    before a step, and the most that a step allocates."""
    cpu = devices.find("cpu")
    # as the command does: with 4-bit weights never in bf16 where a processor emulates it
    settings = settings.model_copy(update={"bf16": number_types.in_bf16(settings, cpu)})
    tokens = settings.max_seq_length
    net = model.load_base(folder, settings)
    rows = torch.randint(100, net.config.vocab_size, (2, tokens)).tolist()
    with Reporter().progress("", 0) as bar:
        progress = trainer.ProgressCallback(Run(None, Reporter(), Plan((), cpu)), bar, "auto")
        sft = trainer.sft_trainer(
            net,
            model.load_tokenizer(folder),
            model.lora_config(settings, net),
            [TokenizedExample(row, row, "row", tokens) for row in rows],
            settings,
            workdir,
            progress,
        )
        sft.train()
    batch = sft.data_collator([{"pack": [0]}])
    inputs = {name: value for name, value in batch.items() if name not in ("sources", "n_tokens")}
    optimizer = getattr(sft.optimizer, "optimizer", sft.optimizer)

    def step():
        sft.model.train()
        sft.compute_loss(sft.model, dict(inputs)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    measured = allocated_bytes(sft.model, optimizer=optimizer) + peak_bytes(step)
    planned = sum(term.bytes for term in plan(settings, cpu).terms if term.name != "program")
    return planned, measured
