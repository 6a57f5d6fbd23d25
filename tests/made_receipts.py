"""Receipt-like pictures and scanned PDFs with words that are known; each has a bar in a colour by
which a test's server knows it."""

from PIL import Image, ImageDraw, ImageFont

from tests.picture_server import COLOURS


def receipt(colour, lines, size=(400, 560)):
    """A till receipt on white paper."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, size[0], 60), fill=COLOURS[colour])
    font = ImageFont.load_default(18)
    for i, line in enumerate(lines):
        draw.text((24, 80 + 28 * i), line, fill=(40, 40, 40), font=font)
    return image


def scan(path, colours, lines=("Invoice", "total 12.50")):
    """A PDF of scanned pages: pictures, no text."""
    pages = [receipt(colour, lines) for colour in colours]
    pages[0].save(path, "PDF", save_all=True, append_images=pages[1:])
    return path
