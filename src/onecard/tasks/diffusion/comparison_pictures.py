"""Pictures of checkpoints for the same prompts and seeds, kept on the disk: what is there already
is not made again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from onecard import fsio
from onecard.reporting import Progress
from onecard.runs import record
from onecard.tasks.diffusion import lora_files, pipeline
from onecard.tasks.diffusion.pipeline import LoadedPipeline, Sampling
from onecard.training import output_dir

KEY = "onecard-comparison"
FLAGGED = "flagged"
BYTES_PER_PIXEL = 3


@dataclass(frozen=True)
class Job:
    """One picture to be made."""

    id: str
    prompt: str
    seed: int


def folder_name(step: int) -> str:
    """Of a checkpoint's pictures; the base is step 0."""
    return f"step-{step:06d}"


def to_vote_on(folder: Path, step: int, picture: str, prompt: str) -> dict[str, Any]:
    """Prompt and the pictures of base and checkpoint, for a person to vote on; empty where one is
    missing."""
    paths = {
        name: folder / folder_name(of) / f"{picture}.png"
        for name, of in (("base", 0), ("tuned", step))
    }
    if not all(path.is_file() for path in paths.values()):
        return {}
    return {"prompt": prompt, "pictures": {n: str(path.resolve()) for n, path in paths.items()}}


class PictureStore:
    """The pictures of one comparison in a folder for each checkpoint."""

    def __init__(
        self, folder: Path, loaded: LoadedPipeline, sampling: Sampling, batch_size: int = 0
    ) -> None:
        self.folder, self.loaded, self.batch_size = folder, loaded, batch_size
        self.sampling = pipeline.usual(loaded, sampling)
        self._base = json.dumps([_model_state(loaded), asdict(self.sampling)], default=str)

    def require_space(self, n: int) -> None:
        """Raises DataError where the disk has no room for `n` pictures."""
        n_bytes = n * self.sampling.width * self.sampling.height * BYTES_PER_PIXEL
        self.folder.mkdir(parents=True, exist_ok=True)
        output_dir.require_space(self.folder, n_bytes, "the pictures of a comparison")

    def pictures(
        self,
        name: str,
        loras: Sequence[tuple[Path, float]],
        jobs: Sequence[Job],
        progress: Progress,
    ) -> dict[str, Image.Image]:
        """Id -> picture. Those that the safety checker blackened are left out.

        Raises NotFound, DataError for a LoRA that cannot be read or does not fit.
        """
        state = [[record.fingerprint(path), weight] for path, weight in loras]
        keys = {job.id: self._key(state, job) for job in jobs}
        images: dict[str, Image.Image | None] = {}
        missing = []
        for job in jobs:
            there, image = self._read(name, job, keys[job.id])
            if there:
                images[job.id] = image
                progress.step()
            else:
                missing.append(job)
        if missing:
            lora_files.apply(self.loaded, loras)
            texts, seeds = [job.prompt for job in missing], [job.seed for job in missing]
            batches = pipeline.batches(
                self.loaded, texts, seeds, self.sampling, batch_size=self.batch_size
            )
            left = iter(missing)
            for batch in batches:
                for picture in batch:
                    job = next(left)
                    self._write(name, job, keys[job.id], picture)
                    images[job.id] = None if picture.flagged else picture.image
                    progress.step()
        return {job.id: image for job in jobs if (image := images[job.id]) is not None}

    def _key(self, state: Sequence[Any], job: Job) -> str:
        text = json.dumps([self._base, state, job.prompt, job.seed])
        return hashlib.sha256(text.encode()).hexdigest()

    def _path(self, name: str, job: Job) -> Path:
        return self.folder / name / f"{job.id}.png"

    def _read(self, name: str, job: Job, key: str) -> tuple[bool, Image.Image | None]:
        """(whether this very picture is there, the picture unless it was flagged)."""
        try:
            with Image.open(self._path(name, job), formats=["PNG"]) as image:
                texts = getattr(image, "text", {})
                if texts.get(KEY) != key:
                    return False, None
                image.load()
                return True, None if texts.get(FLAGGED) else image.convert("RGB")
        except (OSError, SyntaxError, ValueError):
            return False, None

    def _write(self, name: str, job: Job, key: str, picture: pipeline.Picture) -> None:
        info = PngInfo()
        info.add_text(KEY, key)
        info.add_itxt("prompt", job.prompt)
        info.add_text("seed", str(job.seed))
        if picture.flagged:
            info.add_text(FLAGGED, "1")
        with fsio.atomic_write(self._path(name, job)) as draft:
            picture.image.save(draft, "PNG", pnginfo=info)


def _model_state(loaded: LoadedPipeline) -> Mapping[str, Any]:
    """What tells one base from another without reading gigabytes."""
    files = [loaded.folder] if loaded.folder.is_file() else loaded.folder.rglob("*.safetensors")
    weights = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return {
        "weights": sorted(weights),
        "dtype": str(loaded.dtype),
        "switches": [str(switch) for switch in loaded.switches],
        "scheduler": type(loaded.pipe.scheduler).__name__,
    }
