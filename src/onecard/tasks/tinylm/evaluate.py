"""onecard tinylm evaluate: loss, length extrapolation and throughput of a trained model."""

from onecard.reporting import Result
from onecard.runs import plots
from onecard.runs.record import Run, read_json
from onecard.tasks.tinylm import compression, metrics, saved_model
from onecard.tasks.tinylm import corpus as corpora
from onecard.tasks.tinylm.configs import EvaluateConfig
from onecard.tasks.tinylm.saved_model import SavedModel

DATA_SETTINGS = ("dataset", "split", "val_share", "seed")
"""Of the training; used again where no other text is named."""


def evaluate(config: EvaluateConfig, run: Run) -> Result:
    """On the text it was trained with, or on another one.

    Raises NotFound, DataError, SettingsError.
    """
    model = saved_model.load(config.run_id)
    net = model.net
    data = _data_settings(config, model)
    corpus = corpora.prepare(data, run.reporter, model.tokenizer)
    corpora.require_blocks(corpus, net.model_config.block_size)
    share = corpus.facts["repeated_share"]
    run.data("questions", rows=len(corpus.val), sha256=corpus.facts["sha256"], repeated_share=share)
    held_out, losses = metrics.held_out(net, corpus, run.reporter)
    run.items(metrics.item_rows(losses))
    lengths = metrics.length_extrapolation(net, corpus, run.reporter, losses)
    run.reporter.line("measuring throughput")
    throughput = metrics.throughput(net)
    memory = read_json(model.folder.parents[1] / "memory.json")
    values = {name: interval.as_dict() for name, interval in held_out.items()}
    values |= {f"loss_at_{row['times']}x": row["loss"] for row in lengths if row["loss"]}
    compressors = compression.compress(corpus.val, corpus.tokenizer)
    run.scores(values, compressors=compressors)
    points = [(row["tokens"], row["loss"]["value"]) for row in lengths if row["loss"]]
    run.artifact(
        "extrapolation.svg",
        plots.lines(
            {net.model_config.position: points}, "tokens of a window", "loss (nats a token)"
        ),
    )
    parts = [
        # of another text than the training's the model has seen neither part
        *([] if config.dataset else metrics.render_split(corpus, data.split)),
        f"{metrics.render_held_out(held_out, len(corpus.val))}\n{compression.render(compressors)}",
        metrics.render_length_extrapolation(lengths),
        metrics.render_throughput(throughput),
        metrics.render_memory(memory),
    ]
    return Result(
        {
            "metrics": values,
            "repeated_share": share,
            "compressors": compressors,
            "extrapolation": lengths,
            "pace": throughput,
            "memory": memory,
            "val_tokens": len(corpus.val),
        },
        "\n\n".join(parts).strip(),
    )


def _data_settings(config: EvaluateConfig, model: SavedModel) -> EvaluateConfig:
    if config.dataset:
        return config
    trained_on = model.config.get("data", {})
    update = {key: trained_on[key] for key in DATA_SETTINGS if key in trained_on}
    return config.model_copy(update=update)
