"""onecard finetune check: validates the data without training, and without torch."""

from transformers import AutoTokenizer

from onecard.hub import checkpoints
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.finetune import tokenization, training_data
from onecard.tasks.finetune.configs import CheckConfig
from onecard.tasks.finetune.training_data import ModelLimits


def check(config: CheckConfig, run: Run) -> Result:
    """What train would train on, and what it would reject. Raises what train would raise."""
    parsed = training_data.read(config)  # before the model: an empty file fetches none
    folder = checkpoints.folder(config.model, run.reporter)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenization.require_chat_template(tokenizer, config.model)
    data = training_data.prepare(config, parsed, tokenizer, ModelLimits.of_folder(folder))
    return Result(
        {"train": len(data.train), "eval": len(data.evaluation), **data.report.as_dict()},
        data.render(),
    )
