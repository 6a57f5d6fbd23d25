"""Counts of weights in the tables of generators and speech models against the real classes, built
without memory; recorded networks of images against a real pass."""

import pytest

from onecard.memory.architectures import denoisers, listeners, pipelines, traced
from onecard.memory.simulator import Tape

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


def count(build):
    with torch.device("meta"):
        model = build()
    return sum(p.numel() for p in model.parameters())


KLEIN = {"guidance_embeds": False}
SD3 = {
    "sample_size": 128,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "out_channels": 16,
}
REAL = {
    "flux.1": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "flux.2-dev": ("Flux2Transformer2DModel", {}),
    "flux.2-klein-4b": (
        "Flux2Transformer2DModel",
        {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            **KLEIN,
        },
    ),
    "flux.2-klein-9b": (
        "Flux2Transformer2DModel",
        {
            "num_layers": 8,
            "num_single_layers": 24,
            "num_attention_heads": 32,
            "joint_attention_dim": 12288,
            **KLEIN,
        },
    ),
    "chroma": ("ChromaTransformer2DModel", {}),
    "z-image": ("ZImageTransformer2DModel", {}),
    "qwen-image": ("QwenImageTransformer2DModel", {}),
    "sana-1.6b": ("SanaTransformer2DModel", {}),
    "lumina-2": ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
    "auraflow": ("AuraFlowTransformer2DModel", {}),
    "wan-14b": ("WanTransformer3DModel", {}),
    "wan-1.3b": (
        "WanTransformer3DModel",
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    ),
    "ltx-video": ("LTXVideoTransformer3DModel", {}),
    "sd3.5-large": (
        "SD3Transformer2DModel",
        {
            **SD3,
            "num_layers": 38,
            "num_attention_heads": 38,
            "caption_projection_dim": 2432,
            "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        },
    ),
}


@pytest.mark.parametrize("net", REAL)
def test_a_denoiser_has_the_weights_of_its_class(net):
    name, config = REAL[net]
    spec = denoisers.DITS[net]
    t = Tape()
    denoisers.dit(t, t.tensor(1, 64, spec.channels), spec)
    assert t.params == count(lambda: getattr(diffusers, name)(**config))


def test_decoders_have_the_weights_of_their_classes():
    assert count(diffusers.AutoencoderKLWan) == pytest.approx(pipelines.WAN.weights, rel=0.001)
    assert count(diffusers.AutoencoderKLFlux2) == pytest.approx(pipelines.KL2.weights, rel=0.001)
    assert count(diffusers.AutoencoderKLLTXVideo) == pytest.approx(pipelines.LTX.weights, rel=0.001)


def spoken():
    """(name, class, config) of speech models whose configs are the classes' own."""
    deep = transformers.ParakeetEncoderConfig(num_hidden_layers=42).to_dict()
    return {
        "parakeet-ctc-0.6b": ("ParakeetForCTC", transformers.ParakeetCTCConfig()),
        "parakeet-ctc-1.1b": (
            "ParakeetForCTC",
            transformers.ParakeetCTCConfig(encoder_config=deep),
        ),
        "parakeet-tdt-0.6b": ("ParakeetForTDT", transformers.ParakeetTDTConfig()),
        "canary-1b-v2": ("CanaryForConditionalGeneration", transformers.CanaryConfig()),
        "moonshine-tiny": ("MoonshineForConditionalGeneration", transformers.MoonshineConfig()),
        "wav2vec2-base": ("Wav2Vec2ForCTC", transformers.Wav2Vec2Config()),
        "voxtral-mini-3b": ("VoxtralForConditionalGeneration", transformers.VoxtralConfig()),
    }


@pytest.mark.parametrize("name", ["parakeet-ctc-0.6b", "parakeet-ctc-1.1b", "parakeet-tdt-0.6b",
                                  "canary-1b-v2", "moonshine-tiny", "wav2vec2-base",
                                  "voxtral-mini-3b"])  # fmt: skip
def test_a_speech_model_has_the_weights_of_its_class(name):
    class_name, config = spoken()[name]
    real = count(lambda: getattr(transformers, class_name)(config))
    assert listeners.TABLE[name].params == real


def peaks(name, build, side, batch, call):
    from onecard.memory.fake_tensor_nets import passed, passed_bytes

    row = traced.rows()[name]
    real = passed_bytes(build, lambda net: call(net, torch.empty(batch, 3, side, side)))
    return passed(lambda t: traced.run(row, t, t.tensor(batch, 3, side, side))), real


@pytest.mark.parametrize(("size", "side", "batch"), [("b0", 512, 4), ("b0", 320, 8)])
def test_a_recorded_network_keeps_what_its_class_does(size, side, batch):
    """At sizes and batches that were not recorded."""

    def build():
        return transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(decoder_hidden_size=256, num_labels=150)
        )

    def call(net, x):  # the loss reads them as large as the image
        logits = net(pixel_values=x).logits
        return torch.nn.functional.interpolate(logits, size=x.shape[-2:], mode="bilinear")

    planned, real = peaks(f"segformer-{size}", build, side, batch, call)
    assert planned == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize(("name", "side", "batch"), [("yolo26n", 512, 8), ("yolo12n", 384, 4)])
def test_a_recorded_detector_keeps_what_its_class_does(name, side, batch):
    pytest.importorskip("ultralytics")
    from onecard.memory import fake_tensor_nets

    real = fake_tensor_nets.detector(name, batch, side, side)
    row = traced.rows()[name]
    planned = fake_tensor_nets.passed(lambda t: traced.run(row, t, t.tensor(batch, 3, side, side)))
    assert planned == pytest.approx(real, rel=0.1)
