"""A decoded picture as a data URI."""

import base64
import io

from PIL import Image

from onecard.datasets.images.decode import Rgb


def data_uri(rgb: Rgb, longer_side: int = 0) -> str:
    """PNG: the pixels arrive as they were decoded, or scaled down where a side has more than
    `longer_side` px."""
    image = Image.fromarray(rgb)
    if longer_side and max(image.size) > longer_side:
        image.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
