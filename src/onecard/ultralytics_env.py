"""What ultralytics reads at its first import: no network, no installs, no usage reports, its
settings file in our own folder. Knows nothing else of it."""

import os

from onecard import paths


def quiet() -> None:
    """Before the first `import ultralytics` of a process."""
    folder = paths.home() / "ultralytics"
    for key, value in {
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": str(folder),
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }.items():
        os.environ.setdefault(key, value)
    folder.mkdir(parents=True, exist_ok=True)
