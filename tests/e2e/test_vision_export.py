"""Vision networks out of torch: ONNX, 8 bits, OpenVINO, a program of their own, and the steps
before and after the network. Small real networks with random weights."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="installed by make test")
timm = pytest.importorskip("timm", reason="comes with the vision extras")
openvino = pytest.importorskip("openvino", reason="comes with the vision extras")
onnx = pytest.importorskip("onnx")

from onecard import fsio, ultralytics_env  # noqa: E402
from onecard.errors import (  # noqa: E402
    DataError,
    EngineError,
    MissingExtra,
    NotFound,
    SettingsError,
)
from onecard.evaluation.latency import Latency, measure, table  # noqa: E402
from onecard.export import picture_example  # noqa: E402
from onecard.export.onnx_pictures import (  # noqa: E402
    difference,
    quantize_int8,
    read_onnx_card,
    to_onnx,
    with_nms,
)
from onecard.export.openvino_pictures import to_openvino  # noqa: E402
from onecard.export.tensorrt_pictures import to_tensorrt  # noqa: E402
from onecard.inference import nms  # noqa: E402
from onecard.inference.picture_io import prepare  # noqa: E402
from onecard.inference.picture_model import ModelCard  # noqa: E402
from onecard.inference.picture_sessions import (  # noqa: E402
    ONNX_INT8,
    ONNX_NMS,
    OnnxSession,
    OpenVinoSession,
    Predictor,
    TensorRtSession,
    TorchSession,
)

SIDE = 64
SIZES = ((80, 50), (33, 120), (64, 64), (7, 300), (200, 201))


pytestmark = pytest.mark.usefixtures("one_thread")


def pictures(sizes=SIZES, seed=0):
    """Smooth coloured noise, width x height."""
    random = np.random.default_rng(seed)
    small = [random.integers(0, 256, (5, 6, 3), dtype=np.uint8) for _ in sizes]
    return [
        np.asarray(Image.fromarray(p).resize(size)) for p, size in zip(small, sizes, strict=True)
    ]


class Corners(torch.nn.Module):
    """A network's own outputs as the contract's."""

    def __init__(self, net, form):
        super().__init__()
        self.net, self.form = net, form

    def forward(self, images):
        if self.form == "classes":
            return self.net(images).softmax(1)
        if self.form == "queries":
            out = self.net(pixel_values=images)
            middle, size = out.pred_boxes.split(2, -1)
            boxes = torch.cat([middle - size / 2, middle + size / 2], -1) * SIDE
            return boxes, out.logits.sigmoid()
        out = self.net(images)[0]
        if self.form == "masks":
            out, prototypes = out
        rows = out.transpose(1, 2)
        middle, size = rows[..., :2], rows[..., 2:4]
        boxes = torch.cat([middle - size / 2, middle + size / 2], -1)
        if self.form == "boxes":
            return boxes, rows[..., 4:]
        return boxes, rows[..., 4:7], rows[..., 7:], prototypes


def shaken(net, spread=1.5):
    """Random weights give every picture one answer; these differ."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim > 1:
                fan = weight[0].numel()
                weight.copy_(torch.randn_like(weight) * spread / fan**0.5)
            elif name.endswith("bias"):
                weight.copy_(torch.randn_like(weight) * 0.1)
    return net.eval()


def yolo(instances):
    ultralytics_env.quiet()
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    if instances:
        return Corners(SegmentationModel("yolov8n-seg.yaml", nc=3, verbose=False), "masks")
    return Corners(DetectionModel("yolov8n.yaml", nc=3, verbose=False), "boxes")


def queries(name):
    import transformers

    shared = {
        "encoder_in_channels": [16] * 3,
        "encoder_hidden_dim": 16,
        "d_model": 16,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "decoder_in_channels": [16] * 3,
        "num_queries": 10,
        "decoder_layers": 2,
        "num_labels": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "anchor_image_size": None,
    }
    stages = {"hidden_sizes": [8, 16, 16, 16], "out_features": ["stage2", "stage3", "stage4"]}
    if name == "rt-detr":
        backbone = transformers.RTDetrResNetConfig(
            embedding_size=8, depths=[1] * 4, layer_type="basic", **stages
        )
        config = transformers.RTDetrConfig(backbone_config=backbone, **shared)
        return Corners(transformers.RTDetrForObjectDetection(config), "queries")
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 16, 16],
        stage_mid_channels=[8] * 4,
        stage_out_channels=[8, 16, 16, 16],
        stage_num_blocks=[1] * 4,
        stage_numb_of_layers=[1] * 4,
        **stages,
    )
    config = transformers.DFineConfig(backbone_config=backbone, **shared)
    return Corners(transformers.DFineForObjectDetection(config), "queries")


def unet():
    import segmentation_models_pytorch as smp

    return Corners(smp.Unet("mobilenet_v2", encoder_weights=None, classes=3), "classes")


def classifier(name, **more):
    return Corners(timm.create_model(name, num_classes=4, **more), "classes")


NETS = {  # name -> (network, what its card says)
    "vit": (
        lambda: classifier("vit_tiny_patch16_224", img_size=SIDE),
        {"task": "classify", "resize": "crop", "classes": ("a", "b", "c", "犬")},
    ),
    "cnn": (
        lambda: classifier("mobilenetv3_small_050"),
        {"task": "classify", "resize": "stretch", "classes": ("a", "b", "c", "d")},
    ),
    "yolo": (lambda: yolo(False), {"task": "detect", "nms": True}),
    "yolo-seg": (lambda: yolo(True), {"task": "segment", "nms": True, "instances": True}),
    "rt-detr": (lambda: queries("rt-detr"), {"task": "detect", "resize": "stretch"}),
    "d-fine": (lambda: queries("d-fine"), {"task": "detect", "resize": "stretch"}),
    "unet": (unet, {"task": "segment"}),
}


SPREAD = {"rt-detr": 5.0, "d-fine": 1.0}
"""Of random weights: smaller ones give all queries one score and any order, larger overflow."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network by name, exported once: (card, folder, its torch session)."""
    ready = {}

    def of(name):
        if name not in ready:
            build, facts = NETS[name]
            row = {"model": name, "classes": ("a", "b", "c"), "height": SIDE, "width": SIDE}
            limits = {"thresholds": {"confidence": 0.5, "iou": 0.5}}
            card = ModelCard(**(row | limits | facts))
            net, folder = shaken(build(), SPREAD.get(name, 1.5)), tmp_path_factory.mktemp(name)
            net.train()  # it is exported as in use, and given back as it was
            frozen = next(part for part in net.modules() if not list(part.children()))
            frozen.eval()
            to_onnx(net, card, folder)
            assert net.training
            assert [part for part in net.modules() if not part.training] == [frozen]
            card.write(folder)
            ready[name] = (card, folder, TorchSession(net))
        return ready[name]

    return of


def batch(card, n, seed=0):
    return np.stack([prepare(rgb, card)[0] for rgb in pictures(SIZES[:n], seed)])


@pytest.mark.parametrize("name", NETS)
def test_onnx_and_openvino_give_torchs_numbers(exported, name):
    card, folder, reference = exported(name)
    session = OnnxSession(folder, card, n_threads=1)
    to_openvino(folder, half=False)
    other = OpenVinoSession(folder, card, n_threads=1)
    for n in (1, 3):  # the batch is free
        images = batch(card, n, seed=n)
        truth = reference.run(images)
        assert all(len(array) == n for array in truth)
        assert (
            n == 1 or max(np.ptp(array, axis=0).max() for array in truth) > 1e-2
        )  # each picture has its own answer
        assert difference(reference.run, session.run, images) < 1e-3
        assert difference(reference.run, other.run, images) < 1e-3
    assert read_onnx_card(folder / "model.onnx") == card
    onnx.checker.check_model(folder / "model.onnx", full_check=True)


def test_half_precision_halves_the_file(exported, tmp_path):
    card, folder, reference = exported("cnn")
    net = reference._module
    to_onnx(net, card, tmp_path, half=True)
    whole = (folder / "model.onnx").stat().st_size
    assert (tmp_path / "model.onnx").stat().st_size < 0.65 * whole
    card.write(tmp_path)
    images = batch(card, 3)
    assert difference(reference.run, OnnxSession(tmp_path, card).run, images) < 0.02
    with pytest.raises(DataError, match="8 bits"):
        quantize_int8(tmp_path, [images])
    to_openvino(tmp_path)
    assert difference(reference.run, OpenVinoSession(tmp_path, card).run, images) < 0.02


@pytest.mark.parametrize("name", ["vit", "yolo"])
def test_8_bits_stay_near(exported, name):
    card, folder, reference = exported(name)
    quantize_int8(folder, (batch(card, 4, seed=k) for k in range(4)))
    small, whole = (folder / n for n in (ONNX_INT8, "model.onnx"))
    assert small.stat().st_size < 0.4 * whole.stat().st_size
    images = batch(card, 3, seed=1)
    session = OnnxSession(folder, card, name=ONNX_INT8, n_threads=1)
    truth, ours = reference.run(images), session.run(images)
    for exact, rough in zip(truth, ours, strict=True):
        assert np.corrcoef(exact.ravel(), rough.ravel())[0, 1] > 0.97
    assert read_onnx_card(small) == card


def test_8_bits_need_pictures(exported, tmp_path):
    card, folder, _ = exported("cnn")
    with pytest.raises(DataError, match="8 bits") as refusal:
        quantize_int8(folder, [])
    assert "no picture was read" in str(refusal.value)
    assert not (folder / ONNX_INT8).exists()
    with pytest.raises(DataError):
        quantize_int8(tmp_path, [batch(card, 1)])


def test_suppression_in_the_graph_finds_the_same(exported):
    card, folder, reference = exported("yolo")
    outside = Predictor(card, reference.run, batch=2)
    with_nms(folder / "model.onnx")
    inside = Predictor(card, OnnxSession(folder, card, name=ONNX_NMS).run, batch=2)
    one, two = outside.detect(pictures()), inside.detect(pictures())
    assert sum(map(len, one)) > 3
    for a, b in zip(one, two, strict=True):
        rows = [
            np.array(sorted((d.label, d.x0, d.y0, d.x1, d.y1, d.score) for d in r)) for r in (a, b)
        ]
        np.testing.assert_allclose(*rows, atol=0.02)
    for name in ("rt-detr", "yolo-seg"):
        with pytest.raises(SettingsError):
            with_nms(exported(name)[1] / "model.onnx")


def by_the_program(folder, card, paths):
    picture_example.example(folder, card)
    run = subprocess.run(
        [sys.executable, "-I", str(folder / "predict.py"), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line)["result"] for line in run.stdout.splitlines()]


@pytest.mark.parametrize("name", NETS)
def test_the_program_prints_what_the_predictor_finds(exported, name, tmp_path):
    card, folder, _ = exported(name)
    shown, paths = pictures(), []
    for i, rgb in enumerate(shown):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(rgb).save(paths[-1])
    predictor = Predictor(card, OnnxSession(folder, card).run)
    results = by_the_program(folder, card, paths)
    if card.task == "classify":
        for row, probabilities in zip(results, predictor.classify(shown), strict=True):
            assert row[0]["class"] == card.classes[probabilities.argmax()]
            assert row[0]["probability"] == pytest.approx(probabilities.max(), abs=2e-3)
        return
    found = predictor.segment(shown) if card.task == "segment" else predictor.detect(shown)
    assert len(found) == len(results) == len(shown)
    for row, objects, rgb in zip(results, found, shown, strict=True):
        if isinstance(objects, np.ndarray):
            assert objects.shape == rgb.shape[:2]
            shares = np.bincount(objects.ravel(), minlength=3) / objects.size
            assert [one["share"] for one in row] == pytest.approx(shares.tolist(), abs=2e-3)
            continue
        assert [one["class"] for one in row] == [card.classes[d.label] for d in objects]
        for one, d in zip(row, objects, strict=True):
            assert one["box"] == pytest.approx([d.x0, d.y0, d.x1, d.y1], abs=0.02)
            assert one["score"] == pytest.approx(d.score, abs=1e-3)
            assert 0 <= d.x0 < d.x1 <= rgb.shape[1]
            assert 0 <= d.y0 < d.y1 <= rgb.shape[0]
    if name != "unet":
        assert sum(map(len, found)) > 3


def test_the_programs_suppression_is_ours():
    scope = {"np": np}
    exec(picture_example.SUPPRESS, scope)
    random = np.random.default_rng(0)
    corner = random.uniform(0, 80, (200, 2))
    boxes = np.concatenate([corner, corner + random.uniform(1, 40, (200, 2))], 1)
    scores, labels = random.random(200), random.integers(0, 3, 200)
    ours = nms.nms(boxes, scores, labels, 0.3).tolist()
    assert scope["thinned"](boxes, scores, labels, 0.3) == ours
    assert len(ours) < 190


def test_batches_change_nothing(exported):
    for name in ("yolo-seg", "unet", "vit"):
        card, folder, _ = exported(name)
        run = OnnxSession(folder, card).run
        call = "classify" if card.task == "classify" else "segment"
        one, many = (getattr(Predictor(card, run, batch=n), call)(pictures()) for n in (1, 4))
        if card.instances:
            assert [len(a) for a in one] == [len(a) for a in many]
        else:
            for a, b in zip(one, many, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-4)
        assert len(getattr(Predictor(card, run), call)([])) == 0


# What a session refuses


def test_sessions_refuse_what_is_missing_or_broken(exported, tmp_path):
    card, folder, _ = exported("cnn")
    with pytest.raises(NotFound, match=r"model\.onnx"):
        OnnxSession(tmp_path, card)
    with pytest.raises(NotFound, match=r"model\.xml"):
        OpenVinoSession(tmp_path, card)
    with pytest.raises(NotFound):
        to_openvino(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(DataError):
        OnnxSession(tmp_path, card)
    with pytest.raises(DataError):
        read_onnx_card(tmp_path / "model.onnx")
    (tmp_path / "model_openvino").mkdir()
    (tmp_path / "model_openvino" / "model.xml").write_text("<net")
    (tmp_path / "model_openvino" / "model.bin").write_bytes(b"")
    with pytest.raises(DataError):
        OpenVinoSession(tmp_path, card)
    with pytest.raises(EngineError):
        OnnxSession(folder, card).run(np.zeros((1, 3, 5, 5), np.float64))


@pytest.mark.parametrize("place", ["weights.bin", "../weights.bin"])
def test_no_weights_are_read_from_beside_or_outside(tmp_path, monkeypatch, place):
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.chdir(folder)
    np.arange(4, dtype=np.float32).tofile(folder / place)
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=place)
    values = [onnx.helper.make_tensor_value_info(n, 1, [4]) for n in ("images", "y")]
    node = onnx.helper.make_node("Add", ["images", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [weight])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError):
        OnnxSession(folder, ModelCard("classify", "x", ("a",), 1, 1))


def test_tensorrt_says_what_it_needs(exported):
    card, folder, _ = exported("cnn")
    try:
        import tensorrt
    except ImportError:
        tensorrt = None
    if tensorrt and torch.cuda.is_available():
        to_tensorrt(folder)
        images = batch(card, 3)
        run = TensorRtSession(folder, card).run
        assert difference(OnnxSession(folder, card).run, run, images) < 0.02
        return
    expected = EngineError if tensorrt else MissingExtra
    with pytest.raises(expected, match=r"NVIDIA|not installed"):
        to_tensorrt(folder)
    with pytest.raises(expected):
        TensorRtSession(folder, card)


def test_a_network_that_cannot_be_traced_leaves_nothing(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, images):
            return torch.linalg.matrix_exp(images)

    card = ModelCard("classify", "odd", ("a",), 8, 8)
    with pytest.raises(DataError, match="odd cannot be exported"):
        to_onnx(Odd(), card, tmp_path)
    assert list(tmp_path.iterdir()) == []


# Before the network


def card_of(resize, width=96, height=64, **architecture):
    return ModelCard("detect", "x", ("a",), height, width, resize, architecture=architecture)


@pytest.mark.parametrize(
    ("resize", "size"), itertools.product(("letterbox", "stretch", "crop"), SIZES)
)
def test_boxes_go_there_and_back(resize, size):
    (rgb,) = pictures([size])
    image, where = prepare(rgb, card_of(resize))
    assert image.shape == (3, 64, 96)
    assert image.dtype == np.float32
    assert 0 <= image.min() <= image.max() <= 1
    boxes = np.array([[0, 0, size[0], size[1]], [1, 2, size[0] / 2, size[1] / 3]])
    np.testing.assert_allclose(where.to_picture(where.to_input(boxes)), boxes, atol=1e-6)
    far = where.to_picture(np.array([[-1e4, -1e4, 1e4, 1e4]]))[0]
    assert far.tolist() == [0, 0, *size]


def test_a_mark_lies_where_the_placement_says():
    rgb = np.zeros((150, 300, 3), np.uint8)
    rgb[60:90, 120:180] = 255
    for resize in ("letterbox", "stretch", "crop"):
        image, where = prepare(rgb, card_of(resize, crop_pct=0.9))
        x0, y0, x1, y1 = where.to_input(np.array([[120, 60, 180, 90]]))[0]
        bright = np.argwhere(image[0] > 0.6)
        edges = [bright[:, 1].min(), bright[:, 0].min()]
        edges += [bright[:, 1].max() + 1, bright[:, 0].max() + 1]
        assert edges == pytest.approx([x0, y0, x1, y1], abs=1), resize
        back = where.map_to_picture(image[0])
        assert back.shape == (150, 300)
        inside = (back > 0.5).nonzero()
        assert [inside[1].min(), inside[0].min()] == pytest.approx([120, 60], abs=3)
        part = where.map_to_picture(image[0], (100, 50, 200, 100))
        np.testing.assert_allclose(part, back[50:100, 100:200], atol=2e-2)


@pytest.mark.parametrize("size", [(640, 480), (481, 641), (50, 40), (1000, 33)])
def test_the_letterbox_is_ultralytics(size):
    ultralytics_env.quiet()
    from ultralytics.data.augment import LetterBox

    (rgb,) = pictures([size])
    theirs = LetterBox((64, 96), auto=False)(image=rgb)
    image, _ = prepare(rgb, card_of("letterbox"))
    ours = image.transpose(1, 2, 0) * 255
    grey_ours, grey_theirs = ((a.round() == 114).all(-1) for a in (ours, theirs))
    assert (grey_ours == grey_theirs).mean() > 0.995
    # OpenCV picks 4 pixels where Pillow smooths: the pictures are smooth, so both agree
    assert np.abs(ours - theirs).mean() < 3


@pytest.mark.parametrize("size", [(300, 200), (200, 333), (64, 64), (40, 50)])
def test_the_crop_is_timms(size):
    (rgb,) = pictures([size])
    transform = timm.data.create_transform((3, 64, 64), crop_pct=0.9, interpolation="bicubic")
    theirs = transform(Image.fromarray(rgb)).numpy()
    mean, std = (np.reshape(v, (3, 1, 1)) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    ours, _ = prepare(rgb, card_of("crop", 64, 64, crop_pct=0.9))
    assert np.abs(theirs * std + mean - ours).max() < 3 / 255


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(array):
    with pytest.raises(DataError):
        prepare(array, card_of("letterbox"))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (3000, 2)])
@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
def test_thin_pictures_pass(size, resize):
    rgb = np.full((size[1], size[0], 3), 200, np.uint8)
    image, where = prepare(rgb, card_of(resize))
    assert image.max() == pytest.approx(200 / 255)
    assert where.map_to_picture(image[0]).shape == rgb.shape[:2]


# After it


def test_nms_is_torchvisions():
    from torchvision.ops import batched_nms

    random = np.random.default_rng(0)
    corner = random.uniform(0, 80, (400, 2))
    boxes = np.concatenate([corner, corner + random.uniform(1, 40, (400, 2))], 1)
    scores, labels = random.random(400), random.integers(0, 3, 400)
    theirs = batched_nms(*(torch.from_numpy(a) for a in (boxes, scores, labels)), 0.45)
    assert nms.nms(boxes, scores, labels, 0.45).tolist() == theirs.numpy()[:300].tolist()
    assert len(nms.nms(boxes, scores, labels, 0.45, limit=5)) == 5
    assert nms.nms(boxes[:0], scores[:0], labels[:0], 0.5).tolist() == []


def test_numbers_that_are_not_finite_are_no_objects():
    card = card_of("stretch", 8, 8)
    boxes = np.array([[[0, 0, 4, 4], [0, 0, np.nan, 4], [1, 1, 5, 5], [3, 3, 3, 9]]], np.float32)
    scores = np.array([[[0.9], [0.9], [np.nan], [0.9]]], np.float32)
    (objects,) = Predictor(card, lambda _: (boxes, scores)).detect([np.zeros((8, 8, 3), np.uint8)])
    assert [(d.x0, d.y1) for d in objects] == [(0.0, 4.0)]


def test_outlines_keep_the_area_and_every_part():
    from pycocotools import mask as rle

    y, x = np.mgrid[:60, :80]
    mask = ((x - 30) ** 2 + (y - 25) ** 2 < 300) | ((x > 60) & (y > 40))
    parts = nms.outlines(mask)
    assert len(parts) == 2
    drawn = rle.decode(rle.merge(rle.frPyObjects([list(p) for p in parts], 60, 80))).astype(bool)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.97
    assert nms.outlines(np.zeros((5, 5), bool)) == ()


def test_an_instance_is_drawn_in_the_picture():
    """One prototype with a square in the middle of a letterboxed picture."""
    card = ModelCard("segment", "x", ("a",), 64, 64, instances=True)
    rgb = np.zeros((100, 200, 3), np.uint8)
    _, where = prepare(rgb, card)
    prototype = np.full((1, 1, 64, 64), -5.0, np.float32)
    prototype[..., 28:36, 24:40] = 5.0
    boxes = np.array([[[20, 20, 44, 44]]], np.float32)
    outputs = (boxes, np.ones((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32), prototype)
    ((one,),) = Predictor(card, lambda _: outputs).segment([rgb])
    points = np.array(one.polygons[0]).reshape(-1, 2)
    expected = where.to_picture(np.array([[24, 28, 40, 36]]))[0]
    assert [*points.min(0), *points.max(0)] == pytest.approx(expected, abs=1.6)


# Latency


def test_latency_counts_and_says():
    calls = []
    one = measure(calls.append, [1, 2], repeats=7, warm_up=2)
    assert (one.n, len(calls), one.batch) == (7, 9, 2)
    assert 0 <= one.median_ms <= one.p95_ms
    short = measure(calls.append, [1], seconds=0.0)
    assert short.n >= 5
    assert "| torch |" in table({"torch": Latency(20.0, 22.0, 9)})
    assert table({}).count("\n") == 1
    with pytest.raises(SettingsError):
        measure(calls.append, [])


def test_a_card_is_written_whole(exported):
    _, folder, _ = exported("cnn")
    fsio.remove_dead_drafts(folder)
    assert not [path.name for path in folder.iterdir() if ".draft-" in path.name]
