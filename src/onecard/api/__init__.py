"""The one door for command line, web page and notebook. Prints nothing.

    config = api.configure("rag", "ask", values={"question": "..."})
    print(api.plan("rag", config, card="12gb").render())
    result = api.run("rag", "ask", config)

Names are loaded when they are asked for: a plan need not load what a run needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onecard.api.data import (
        document_blocks,
        edited_rows,
        pdf_view,
        picture_file,
        pictures,
        reject_picture,
        rows,
        text_of,
    )
    from onecard.api.machine import (
        card_names,
        convert,
        doctor,
        missing_packages,
        model_names,
        models,
        pull,
        quantize,
    )
    from onecard.api.measurements import plan_bench
    from onecard.api.planning import (
        compare_plan,
        configure,
        configure_plan,
        device,
        explain_oom,
        fit,
        fit_card,
        plan,
        plan_levers,
        plan_task,
        plans,
        preset_values,
        presets,
        trace,
    )
    from onecard.api.running import (
        ballot,
        can_vote,
        compare,
        find_run,
        item_endings,
        item_file,
        plan_calibrate,
        plan_check,
        process_bytes,
        report,
        rerun,
        restore_run,
        run,
        run_model,
        runs,
        trash_run,
        trashed_runs,
        vote,
        vote_media,
        vote_verdict,
    )

_MODULES = {
    "data": (
        "document_blocks",
        "edited_rows",
        "pdf_view",
        "picture_file",
        "pictures",
        "reject_picture",
        "rows",
        "text_of",
    ),
    "machine": (
        "card_names",
        "convert",
        "doctor",
        "missing_packages",
        "model_names",
        "models",
        "pull",
        "quantize",
    ),
    "measurements": ("plan_bench",),
    "planning": (
        "compare_plan",
        "configure",
        "configure_plan",
        "preset_values",
        "device",
        "explain_oom",
        "fit",
        "fit_card",
        "plan",
        "plan_levers",
        "plan_task",
        "plans",
        "presets",
        "trace",
    ),
    "running": (
        "compare",
        "compare_plan",
        "find_run",
        "item_endings",
        "item_file",
        "run_model",
        "can_vote",
        "process_bytes",
        "vote_media",
        "vote_verdict",
        "vote",
        "ballot",
        "trashed_runs",
        "restore_run",
        "trash_run",
        "plan_calibrate",
        "plan_check",
        "report",
        "rerun",
        "run",
        "runs",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ballot",
    "can_vote",
    "card_names",
    "compare",
    "compare_plan",
    "configure",
    "configure_plan",
    "convert",
    "device",
    "doctor",
    "document_blocks",
    "edited_rows",
    "explain_oom",
    "find_run",
    "fit",
    "fit_card",
    "item_endings",
    "item_file",
    "missing_packages",
    "model_names",
    "models",
    "pdf_view",
    "picture_file",
    "pictures",
    "plan",
    "plan_bench",
    "plan_calibrate",
    "plan_check",
    "plan_levers",
    "plan_task",
    "plans",
    "preset_values",
    "presets",
    "process_bytes",
    "pull",
    "quantize",
    "reject_picture",
    "report",
    "rerun",
    "restore_run",
    "rows",
    "run",
    "run_model",
    "runs",
    "text_of",
    "trace",
    "trash_run",
    "trashed_runs",
    "vote",
    "vote_media",
    "vote_verdict",
]
