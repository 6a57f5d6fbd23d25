"""onecard tinylm generate: continues a prompt with a trained model."""

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.tinylm import sampling, saved_model
from onecard.tasks.tinylm.configs import GenerateConfig


def generate(config: GenerateConfig, run: Run) -> Result:
    """`num_samples` texts, shown as they come. Raises NotFound, SettingsError, DataError."""
    model = saved_model.load(config.run_id)
    texts = []
    for number in range(config.num_samples):
        pieces = []
        for piece in sampling.generate_text(
            model.net,
            model.tokenizer,
            config.prompt,
            config.max_new_tokens,
            config.model_copy(update={"seed": config.seed + number}),
        ):
            run.reporter.stream(piece)
            pieces.append(piece)
        is_last = number + 1 == config.num_samples
        run.reporter.stream("\n" if is_last else "\n---\n")
        texts.append("".join(pieces))
    return Result({"texts": texts})
