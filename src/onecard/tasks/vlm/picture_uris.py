"""A decoded picture as a data URI."""

import base64
import io

from PIL import Image

from onecard.datasets.images.decode import Rgb


def data_uri(rgb: Rgb) -> str:
    """PNG: the pixels arrive as they were decoded."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
