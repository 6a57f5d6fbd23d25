"""EfficientNet-Lite0's weights out of a package, under timm's names: photos have their class."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="installed by make test")

from onecard.datasets.images.decode import read_rgb  # noqa: E402
from onecard.inference.picture_io import prepare  # noqa: E402
from onecard.inference.picture_model import ModelCard  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.tasks.classify import model  # noqa: E402
from onecard.training import backbones  # noqa: E402

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "dreambooth"
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs ../shared/data/dreambooth")
PEMBROKE, TEAPOT = 263, 849
CATS = range(281, 286)
"""Numbers of ImageNet's classes."""


@pytest.fixture(scope="module")
def told(session_home):
    """The likeliest class of a photo."""
    net = model.create(
        backbones.EMBEDDED, 1000, (224, 224), pretrained=True, reporter=Reporter()
    ).eval()
    card = ModelCard("classify", backbones.EMBEDDED, ("",) * 1000, 224, 224, resize="crop")

    def likeliest(path):
        image = prepare(read_rgb(path), card)[0]
        with torch.inference_mode():
            return int(net(torch.from_numpy(image[None])).argmax())

    return likeliest


@pytest.mark.parametrize(
    ("subject", "classes"), [("dog", [PEMBROKE]), ("cat", CATS), ("teapot", [TEAPOT])]
)
def test_most_photos_of_a_subject_have_its_class(told, subject, classes):
    photos = sorted((PHOTOS / subject).glob("*.jpg"))
    right = [told(path) in classes for path in photos]
    assert len(right) >= 4 and np.mean(right) >= 0.5, dict(zip(photos, right, strict=True))


def test_every_weight_of_the_file_has_a_place():
    import timm

    state = backbones.timm_state(backbones.embedded_weights(Reporter()))
    net = timm.create_model(backbones.EMBEDDED)
    net.load_state_dict(state, strict=True)
