"""Export of a trained vision model: every form is written, held against torch, scored and timed."""

from pathlib import Path
from typing import Any

from onecard.errors import OneCardError
from onecard.export import picture_forms
from onecard.export.picture_forms import Form, Scorer
from onecard.inference import picture_use
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_use import Load
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.training import checked_set
from onecard.training.checked_set import CheckedSet, Task


def export(
    config: Any, run: Run, task: Task, load: Load, scorer: Scorer[Any], *, nms: bool = False
) -> Result:
    """`config`: a PictureExportConfig with ImageDataConfig and TrainedModelConfig.

    A form that cannot be made here (no card, no library) does not stop the others. Raises
    SettingsError, NotFound, and DataError where a form is worse than torch beyond noise.
    """
    folder, card = picture_use.require_model(config, task)
    out = Path(config.output_dir).expanduser() if config.output_dir else folder
    data = checked_set.load_for_scoring(config, card, task, run)
    confidence = getattr(scorer, "least_score", None)
    torch_run = picture_use.open_form("torch", folder, card, load, config.n_threads)
    run.reporter.line(f"scoring torch and {len(config.formats)} forms on {len(data.val)} pictures")
    weights = folder / "model.safetensors"
    torch = picture_forms.measure("torch", weights, torch_run, card, data.val, scorer, confidence)
    forms: list[Form[Any]] = [torch]
    faults: list[OneCardError] = []
    for name in dict.fromkeys(config.formats):
        try:
            forms.append(_one(name, config, out, card, load, data, torch, scorer, nms, torch_run))
        except OneCardError as fault:
            faults.append(fault)
            run.reporter.warn(f"{name}: {fault.what}: {fault.why}")
    shown = picture_forms.as_table(forms, scorer)
    rows = {form.name: picture_forms.as_data(form, scorer) for form in forms}
    run.scores(
        {
            f"{form.name}: {name}": interval.as_dict()
            for form in forms
            for name, interval in scorer.figures(form.scores).items()
        }
    )
    for form in forms:
        if form.refusal:
            picture_forms.remove(form)
    if len(forms) == 1 and faults:
        raise faults[0]
    if any(form.refusal for form in forms):
        run.reporter.line(str(shown))
        picture_forms.refuse(forms, run.reporter)
    lines = [str(shown)]
    for form in forms[1:]:
        lines += [
            f"{form.name}: {name} {comparison.render()}"
            for name, comparison in form.comparisons.items()
        ]
        lines.append(f"wrote {form.path}")
    if any(form.name == "onnx" for form in forms):
        lines.append(f"try it: python {out / 'predict.py'} PICTURE  (needs onnxruntime and pillow)")
    return Result({"forms": rows, "output_dir": str(out)}, "\n".join(lines), (shown,))


def _one(
    name: str,
    config: Any,
    out: Path,
    card: ModelCard,
    load: Load,
    data: CheckedSet,
    torch: Form[Any],
    scorer: Scorer[Any],
    nms: bool,
    torch_run: Any,
) -> Form[Any]:
    """Write one form, hold it against torch, score and time it."""
    net = load(picture_use.require_model(config, card.task)[0], card)
    path = picture_forms.write(name, net, card, out, data.train, nms)
    form_run = picture_use.open_form(name, out, card, load, config.n_threads)
    picture_forms.check_outputs(name, torch_run, form_run, card)
    confidence = getattr(scorer, "least_score", None)
    form = picture_forms.measure(name, path, form_run, card, data.val, scorer, confidence)
    picture_forms.judge(torch, form, scorer)
    return form
