"""onecard tinylm generate: continues a prompt with a trained model."""

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.tinylm import sampling, saved_model
from onecard.tasks.tinylm.configs import Settings


def generate(settings: Settings, run: Run) -> Result:
    """`num_samples` texts, shown as they come. Raises NotFound, SettingsError, DataError."""
    model = saved_model.load(settings.run_id)
    texts = []
    for number in range(settings.num_samples):
        pieces = []
        for piece in sampling.generate_text(
            model.net,
            model.tokenizer,
            settings.prompt,
            settings.max_new_tokens,
            settings.model_copy(update={"seed": settings.seed + number}),
        ):
            run.reporter.stream(piece)
            pieces.append(piece)
        is_last = number + 1 == settings.num_samples
        run.reporter.stream("\n" if is_last else "\n---\n")
        texts.append("".join(pieces))
    return Result({"texts": texts})
