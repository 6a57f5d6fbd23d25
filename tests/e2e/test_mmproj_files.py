"""A LLaVA of transformers and its mmproj file in llama.cpp: the same picture gives the same answer.

The language model is SmolLM2-135M in f16 in both. Rounding moves a log-probability by 0.01; a wrong
picture moves it by 1 and more.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from onecard.errors import DataError, NotFound
from onecard.export import mmproj, quantize
from onecard.hub import checkpoints
from onecard.memory.architectures import gguf
from onecard.memory.architectures import mmproj as clip_files
from onecard.memory.devices import find as find_device
from onecard.memory.plan import Plan
from onecard.reporting import Reporter
from onecard.tasks.vlm import class_tokens, engine_http, square_pictures
from onecard.tasks.vlm.configs import AskConfig
from onecard.tasks.vlm.engine import Picture, Question, with_pictures
from tests import made_llava

TOLERANCE = 0.05
IMAGE = 49151
BEFORE = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
    "Face<|im_end|>\n<|im_start|>user\n"
)
AFTER = "What is this?<|im_end|>\n<|im_start|>assistant\n"
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "size": {"shortest_edge": made_llava.SIDE},
    "crop_size": {"height": made_llava.SIDE, "width": made_llava.SIDE},
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}


def photo(width, height):
    y, x = np.mgrid[0:height, 0:width]
    dice = np.random.default_rng(width)
    red, green = x * 255 / width, y * 255 / height
    waves = 128 + 100 * np.sin(x / 9) * np.cos(y / 13)
    noise = dice.normal(0, 10, (height, width, 3))
    return (np.stack([red, green, waves], -1) + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def language(session_home, one_thread):
    """(network, tokenizer) of SmolLM2 in fp32, dequantized from the file that llama.cpp reads."""
    folder = checkpoints.folder("smollm2-135m", Reporter())
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return net, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def f16(tmp_path_factory, session_home):
    """SmolLM2 in f16: with 4-bit weights llama.cpp rounds activations to 8 bits, which moves a
    log-probability by 0.3."""
    path = tmp_path_factory.mktemp("f16") / "model.gguf"
    quantize.quantize(made_llava.language_file(), path, "f16", Reporter())
    return path


def llava(language, folder, class_token, layers):
    """transformers' model, and its folder as save_pretrained writes it, without the language
    model's weights."""
    config = made_llava.CONFIG
    if class_token:
        vision = CLIPVisionConfig(**{**config, "hidden_act": "quick_gelu"})
    else:
        vision = SiglipVisionConfig(**config)
    settings = LlavaConfig(
        vision_config=vision,
        text_config=language[0].config,
        vision_feature_layer=layers if len(layers) > 1 else layers[0],
        vision_feature_select_strategy="default" if class_token else "full",
        image_seq_length=made_llava.TOKENS,
        image_token_index=IMAGE,
    )
    net = LlavaForConditionalGeneration(settings).float().eval()
    tower = made_llava.tower(class_token=class_token)
    projector = made_llava.projector(n_layers=len(layers))
    for part, state in (("vision_tower", tower), ("multi_modal_projector", projector)):
        values = {name: torch.from_numpy(value) for name, value in state.items()}
        missing = getattr(net.model, part).load_state_dict(values, strict=False)
        assert not missing.unexpected_keys
    net.model.language_model.load_state_dict(language[0].model.state_dict())
    net.lm_head.load_state_dict(language[0].lm_head.state_dict())
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings.to_dict(), default=str))
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    tensors = {f"model.vision_tower.vision_model.{name}": value for name, value in tower.items()}
    tensors |= {f"multi_modal_projector.{name}": value for name, value in projector.items()}
    save_file(tensors, folder / "model.safetensors")
    return net


def features(net, rgb):
    """[1, tokens, width] as transformers makes them."""
    pixels = CLIPImageProcessor(**PROCESSOR)(images=Image.fromarray(rgb), return_tensors="pt")
    with torch.no_grad():
        values = net.get_image_features(pixel_values=pixels["pixel_values"])
    values = values.pooler_output if hasattr(values, "pooler_output") else values
    return torch.cat(list(values)).reshape(1, made_llava.TOKENS, -1)


def class_token_last(net, rgb):
    """The same by llama.cpp's graph (#25814): the class token behind the patches, positions and
    the choice of tokens as if it stood before them."""
    tower = net.model.vision_tower
    processor = CLIPImageProcessor(**PROCESSOR)
    pixels = processor(images=Image.fromarray(rgb), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        patches = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        token = tower.embeddings.class_embedding.expand(1, 1, -1)
        values = torch.cat([patches, token], 1) + tower.embeddings.position_embedding.weight[None]
        values = tower.pre_layrnorm(values)
        for layer in tower.encoder.layers[: made_llava.LAYERS - 1]:
            values = layer(values, None)
            values = values[0] if isinstance(values, tuple) else values
        return net.model.multi_modal_projector(values[:, 1:])


def class_token(net, rgb):
    """[1, width]: what the projector makes of the class token's own output."""
    pixels = CLIPImageProcessor(**PROCESSOR)(images=Image.fromarray(rgb), return_tensors="pt")
    with torch.no_grad():
        states = net.model.vision_tower(pixels["pixel_values"], output_hidden_states=True)
        return net.model.multi_modal_projector(states.hidden_states[-2][:, :1])[:, 0]


def log_probabilities(net, tokenizer, values):
    """Of the first token of the answer."""
    embed = net.get_input_embeddings()
    ids = [
        torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        for text in (BEFORE, AFTER)
    ]
    with torch.no_grad():
        inputs = torch.cat([embed(ids[0]), values, embed(ids[1])], 1)
        hidden = net.model.language_model(inputs_embeds=inputs).last_hidden_state
        return torch.log_softmax(net.lm_head(hidden)[0, -1], -1)


def in_llamacpp(engine, rgb):
    """{token: log-probability} of the twenty likeliest first tokens."""
    rows = engine.first_token(Question(with_pictures("What is this?", [1]), (Picture(rgb),)), 20)
    assert len(rows) == 20
    return rows


class Lines(Reporter):
    def __init__(self, lines):
        self.line = self.warn = lines.append


def opened(folder, lines=None):
    config = AskConfig(model=str(folder / "model.gguf"), n_ctx=1024)
    reporter = Lines([] if lines is None else lines)
    return engine_http.opened(config, Plan((), find_device("cpu")), reporter)


def distance(theirs, ours):
    return max(abs(value - float(ours[token])) for token, value in theirs.items())


PHOTOS = [photo(64, 64), photo(200, 120), photo(90, 300), photo(640, 480)]


@pytest.mark.parametrize(("layers", "outtype"), [([-1], "f16"), ([-1, 1], "f32")])
def test_a_tower_without_a_class_token_is_the_same_in_llamacpp(
    language, f16, tmp_path, layers, outtype
):
    net = llava(language, tmp_path / "llava", False, layers)
    (tmp_path / "model.gguf").symlink_to(f16)
    mmproj.write_llava(tmp_path / "llava", tmp_path / "mmproj.gguf", outtype)
    expected = [log_probabilities(net, language[1], features(net, rgb)) for rgb in PHOTOS]
    with opened(tmp_path) as engine:
        rows = [in_llamacpp(engine, rgb) for rgb in PHOTOS]
    for i, theirs in enumerate(rows):
        assert distance(theirs, expected[i]) < TOLERANCE
        others = [distance(theirs, expected[k]) for k in range(len(rows)) if k != i]
        assert min(others) > 2 * TOLERANCE, "the pictures are too much alike to tell a mistake"


def test_llamacpp_puts_the_class_token_last(language, f16, tmp_path, monkeypatch):
    """The file is right, llama.cpp's graph is not. When this fails, llama.cpp was mended: then
    class_tokens is of the builds before only."""
    net = llava(language, tmp_path / "llava", True, [-2])
    (tmp_path / "model.gguf").symlink_to(f16)
    mmproj.write_llava(tmp_path / "llava", tmp_path / "mmproj.gguf", "f32")
    monkeypatch.setattr(class_tokens, "MEASURED", ())
    lines = []
    with opened(tmp_path, lines) as engine:
        for rgb in PHOTOS:
            theirs = in_llamacpp(engine, rgb)
            wrong = log_probabilities(net, language[1], class_token_last(net, rgb))
            right = log_probabilities(net, language[1], features(net, rgb))
            assert distance(theirs, wrong) < TOLERANCE
            assert distance(theirs, right) > 3 * distance(theirs, wrong)
    assert class_tokens.NOT_MENDED in lines


def test_the_class_token_is_made_good(language, f16, tmp_path, own_home):
    """All tokens but the last are then those of transformers."""
    net = llava(language, tmp_path / "llava", True, [-2])
    (tmp_path / "model.gguf").symlink_to(f16)
    mmproj.write_llava(tmp_path / "llava", tmp_path / "mmproj.gguf", "f32")
    before = (tmp_path / "mmproj.gguf").read_bytes()
    lines = []
    with opened(tmp_path, lines) as engine:
        for rgb in PHOTOS:
            expected = features(net, rgb)
            expected[:, -1] = class_token(net, rgb)
            theirs = in_llamacpp(engine, rgb)
            assert distance(theirs, log_probabilities(net, language[1], expected)) < TOLERANCE
    assert class_tokens.MENDED in lines
    assert (tmp_path / "mmproj.gguf").read_bytes() == before
    assert len(list((own_home / "mmproj").glob("mmproj-*.gguf"))) == 1


def test_the_last_patch_goes_to_the_front():
    rgb = np.repeat(np.repeat(np.arange(9, dtype=np.uint8).reshape(3, 3), 2, 0), 2, 1)
    moved = class_tokens.rolled(np.stack([rgb] * 3, -1), 2)
    assert moved[::2, ::2, 0].tolist() == [[8, 0, 1], [2, 3, 4], [5, 6, 7]]
    assert moved.shape == (6, 6, 3) and (moved[:2, :2] == 8).all()


def test_pixels_are_those_of_transformers():
    square = square_pictures.Square(made_llava.SIDE, "crop", made_llava.SIDE)
    mean, std = (np.array(PROCESSOR[f"image_{key}"])[:, None, None] for key in ("mean", "std"))
    for rgb in [*PHOTOS, photo(65, 64), photo(333, 64), photo(64, 6000)]:
        pixels = CLIPImageProcessor(**PROCESSOR)(images=Image.fromarray(rgb), return_tensors="np")
        theirs = (np.asarray(pixels["pixel_values"][0]) * std + mean) * 255
        assert np.abs(theirs - square.prepared(rgb).transpose(2, 0, 1)).max() < 1.5


def test_padding_and_stretching_keep_what_they_should():
    wide = np.full((20, 60, 3), 200, np.uint8)
    padded = square_pictures.Square(60, "pad", 60, colour=(7, 7, 7)).prepared(wide)
    assert (padded[:20] == 7).all() and (padded[20:40] == 200).all() and (padded[40:] == 7).all()
    stretched = square_pictures.Square(60, "stretch", 60).prepared(wide)
    assert stretched.shape == (60, 60, 3) and (stretched == 200).all()
    assert square_pictures.of_keys({}, 60) is None
    assert square_pictures.of_keys(dict.fromkeys(square_pictures.KEYS, "x"), 60) is None


# The writer


def written(path, config=None, tower=None, projector=None, **more):
    mmproj.write_clip_llava(
        {**made_llava.CONFIG, **(config or {})},
        tower or made_llava.tower(),
        projector or made_llava.projector(),
        made_llava.PIXELS,
        path,
        **more,
    )
    return gguf.read_header(path)


def test_only_the_layers_that_are_read_are_written(tmp_path):
    header = written(tmp_path / "a.gguf", layers=(-2,))
    names = {tensor.name for tensor in header.tensors}
    assert "v.blk.1.ln1.weight" in names and "v.blk.2.ln1.weight" not in names
    assert header.keys["clip.vision.block_count"] == made_llava.LAYERS - 1
    half = clip_files.read(tmp_path / "a.gguf")
    assert (half.kind, half.side, half.tokens()) == ("mlp", 64, made_llava.TOKENS)
    f32 = written(tmp_path / "b.gguf", outtype="f32")
    assert {tensor.type for tensor in f32.tensors} == {"f32"}


@pytest.mark.parametrize(
    "changed",
    [
        {"layers": (0,)},
        {"layers": (9,)},
        {"layers": (-1, 3)},
        {"layers": ()},
        {"config": {"hidden_act": "swish"}},
        {"config": {"num_attention_heads": 0}},
        {"config": {"image_size": "64"}},
        {"tower": made_llava.tower(layers=1)},
        {"projector": made_llava.projector(n_layers=2)},
        {"projector": {"linear_1.weight": np.zeros((2, 2), np.float32)}},
        {"projector": {**made_llava.projector(), "norm.weight": np.ones(3, np.float32)}},
    ],
)
def test_what_llamacpp_has_no_place_for_is_refused(tmp_path, changed):
    with pytest.raises(DataError) as fault:
        written(tmp_path / "a.gguf", **changed)
    assert fault.value.why and fault.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_llava_is_refused(language, tmp_path):
    llava(language, tmp_path / "llava", False, [-1])
    target = tmp_path / "mmproj.gguf"
    with pytest.raises(NotFound):
        mmproj.write_llava(tmp_path / "llava", target, "q4_k_m")
    for name, text in (
        ("preprocessor_config.json", '{"size": {"longest_edge": 5}}'),
        ("preprocessor_config.json", "[]"),
        ("model.safetensors", "no tensors"),
        ("config.json", '{"model_type": "qwen2_vl"}'),
        ("config.json", "{"),
    ):
        before = (tmp_path / "llava" / name).read_bytes()
        (tmp_path / "llava" / name).write_text(text)
        with pytest.raises(DataError):
            mmproj.write_llava(tmp_path / "llava", target)
        (tmp_path / "llava" / name).write_bytes(before)
    assert not target.exists()
    mmproj.write_llava(tmp_path / "llava", target)
    assert target.exists()
