"""Writes predict.py beside an exported model: a program that needs onnxruntime, numpy and Pillow
only, to start one's own from. It prints one JSON line a picture."""

from pathlib import Path

from onecard import fsio
from onecard.inference.picture_io import CROP_SHARE, PAD
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import CONFIDENCE, IOU

PROGRAM = "predict.py"

START = '''"""python predict.py PICTURE ...   (pip install onnxruntime numpy pillow)"""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent
CARD = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
CLASSES, WIDTH, HEIGHT = CARD["classes"], CARD["width"], CARD["height"]
network = onnxruntime.InferenceSession(
    str(FOLDER / "model.onnx"), providers=onnxruntime.get_available_providers()
)


'''
LETTERBOX = '''def prepare(image):
    """(the network's input, scale x y, offset x y)"""
    scale = min(HEIGHT / image.height, WIDTH / image.width)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    left, top = round((WIDTH - width) / 2 - 0.1), round((HEIGHT - height) / 2 - 0.1)
    canvas = Image.new("RGB", (WIDTH, HEIGHT), ($PAD,) * 3)
    canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return canvas, (width / image.width, height / image.height), (left, top)


'''
STRETCH = '''def prepare(image):
    """(the network's input, scale x y, offset x y)"""
    scales = (WIDTH / image.width, HEIGHT / image.height)
    return image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), scales, (0, 0)


'''
CROP = '''def prepare(image):
    """(the network's input, scale x y, offset x y)"""
    share = min(1.0, float(CARD["architecture"].get("crop_pct", $CROP_SHARE)))
    scale = max(int(HEIGHT / share) / image.height, int(WIDTH / share) / image.width)
    width = max(WIDTH, int(image.width * scale + 1e-6))
    height = max(HEIGHT, int(image.height * scale + 1e-6))
    left, top = round((width - WIDTH) / 2), round((height - HEIGHT) / 2)
    image_scale = (width / image.width, height / image.height)
    box = (left / image_scale[0], top / image_scale[1],
           min(image.width, (left + WIDTH) / image_scale[0]),
           min(image.height, (top + HEIGHT) / image_scale[1]))
    canvas = image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box)
    return canvas, image_scale, (-left, -top)


'''
RUN = """def run(image):
    canvas, scales, offsets = prepare(image)
    pixels = np.asarray(canvas, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    outputs = network.run(None, {"images": pixels[None]})
    return [output[0] for output in outputs], np.array(scales), np.array(offsets)


"""
CLASSIFY = """def predict(image):
    (probabilities,), _, _ = run(image)
    best = np.argsort(-probabilities)[:5]
    return [{"class": CLASSES[i], "probability": round(float(probabilities[i]), 4)} for i in best]
"""
SUPPRESS = '''def thinned(boxes, scores, labels, limit):
    """Leave out what overlaps a surer box of its class."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        rivals = boxes[[k for k in kept if labels[k] == labels[i]]]
        sides = np.minimum(boxes[i, 2:], rivals[:, 2:]) - np.maximum(boxes[i, :2], rivals[:, :2])
        both = np.clip(sides, 0, None).prod(1)
        areas = (rivals[:, 2:] - rivals[:, :2]).prod(1) + (boxes[i, 2:] - boxes[i, :2]).prod()
        if not (both > limit * (areas - both)).any():
            kept.append(i)
    return kept[:300]


'''
OBJECTS = """def predict(image):
    outputs, scales, offsets = run(image)
    boxes, scores = outputs[:2]
    rows, labels = np.nonzero(scores >= CARD["thresholds"].get("confidence", $CONFIDENCE))
    order = np.argsort(-scores[rows, labels], kind="stable")[:$AT_ONCE]
    rows, labels = rows[order], labels[order]
    boxes, scores = boxes[rows].astype(float), scores[rows, labels]
    kept = $KEPT
    boxes, scores, labels, rows = boxes[kept], scores[kept], labels[kept], rows[kept]
    corners = (boxes.reshape(-1, 2, 2) - offsets) / scales
    corners = np.clip(corners, 0, [image.width, image.height]).reshape(-1, 4)
    objects = [{"class": CLASSES[label], "score": round(float(score), 4),
                "box": [round(float(v), 2) for v in corner]}
               for label, score, corner in zip(labels, scores, corners)]
$MASKS    wide = np.maximum(corners[:, 2:] - corners[:, :2], 0).prod(1) > 0
    return [one for one, is_seen in zip(objects, wide) if is_seen]
"""
MASKS = """    for one, row in zip(objects, rows):  # pixels of each object
        mask = np.tensordot(outputs[2][row], outputs[3], axes=1) > 0
        step = np.array([WIDTH / mask.shape[1], HEIGHT / mask.shape[0]])
        across = (np.arange(mask.shape[1]) + 0.5) * step[0]
        down = (np.arange(mask.shape[0]) + 0.5) * step[1]
        x, y = (across - offsets[0]) / scales[0], (down - offsets[1]) / scales[1]
        x0, y0, x1, y1 = one["box"]
        inside = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None]
        one["pixels"] = round(float((mask & inside).sum() * (step / scales).prod()))
"""
MAPS = '''def predict(image):
    """The share of each class; `classes` is the map of the picture."""
    (probabilities,), scales, offsets = run(image)
    step = np.array(probabilities.shape[:0:-1]) / [WIDTH, HEIGHT]
    first = offsets * step
    last = first + np.array([image.width, image.height]) * scales * step
    first, last = np.maximum(first, 0), np.minimum(last, probabilities.shape[:0:-1])
    layers = [Image.fromarray(np.ascontiguousarray(layer, dtype=np.float32)).resize(
        image.size, Image.Resampling.BILINEAR, box=(*first, *last)) for layer in probabilities]
    classes = np.argmax(np.stack([np.asarray(layer) for layer in layers]), axis=0)
    shares = np.bincount(classes.ravel(), minlength=len(CLASSES)) / classes.size
    return [{"class": name, "share": round(float(v), 6)} for name, v in zip(CLASSES, shares)]
'''
END = """

for name in sys.argv[1:]:
    picture = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    print(json.dumps({"picture": name, "result": predict(picture)}, ensure_ascii=False))
"""


def example(folder: Path, card: ModelCard) -> Path:
    """Write folder/predict.py for the folder's model.onnx and model.json."""
    fit = {"letterbox": LETTERBOX, "crop": CROP}.get(card.resize, STRETCH)
    body = {"classify": CLASSIFY, "detect": OBJECTS}.get(card.task, MAPS)
    if card.instances:
        body = OBJECTS
    if card.nms:
        body = SUPPRESS + body
    suppression = f'thinned(boxes, scores, labels, CARD["thresholds"].get("iou", {IOU}))'
    text = START + fit + RUN + body + END
    for word, value in {
        "$PAD": str(PAD),
        "$CROP_SHARE": str(CROP_SHARE),
        "$CONFIDENCE": str(CONFIDENCE),
        "$KEPT": suppression if card.nms else "slice(None)",
        "$AT_ONCE": "10_000" if card.nms else "300",
        "$MASKS": MASKS if card.instances else "",
    }.items():
        text = text.replace(word, value)
    path = folder / PROGRAM
    fsio.write_text(path, text)
    return path
