"""The plan against torch's CPU allocator in real training steps: within 7 %."""

import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
from allocator import allocated_bytes, peak_bytes  # noqa: E402

from onecard import ultralytics_env  # noqa: E402
from onecard.memory.architectures import denoisers as nets  # noqa: E402
from onecard.memory.architectures import detr, layers, lm  # noqa: E402
from onecard.memory.estimators import speech, training, vision, vlm  # noqa: E402
from onecard.memory.simulator import Tape  # noqa: E402


def run(model, loss_of, optimizer):
    """One step to make the states, then weights and states before the second and the most that the
    second needs."""

    def step():
        loss_of().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    return allocated_bytes(model, optimizer=optimizer) + peak_bytes(step)


def adam(model):
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True
    )


def smollm2(n_layers=30):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=n_layers,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


def text(B, T):
    ids = torch.randint(0, 49152, (B, T))
    return {"input_ids": ids, "labels": ids}


def test_smollm2_trained_whole():
    model = smollm2()
    batch = text(1, 256)
    measured = run(model, lambda: model(**batch).loss, adam(model))
    terms = training.step(
        lm.find("smollm2-135m"),
        training.Recipe(
            "full", "fp32", 1, 256, checkpointing=False, compute_fp32=True, keeps_logits=False
        ),
    )
    assert sum(t.bytes for t in terms) == pytest.approx(measured, rel=0.07)


def test_smollm2_with_lora():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        smollm2(), LoraConfig(r=16, target_modules="all-linear", lora_dropout=0.0)
    )
    batch = text(2, 256)
    measured = run(model, lambda: model(**batch).loss, adam(model))
    terms = training.step(
        lm.find("smollm2-135m"),
        training.Recipe(
            "lora", "fp32", 2, 256, 16, checkpointing=False, compute_fp32=True, keeps_logits=False
        ),
    )
    assert sum(t.bytes for t in terms) == pytest.approx(measured, rel=0.07)


def test_smollm2_with_lora_on_nf4():
    """Short and of few layers, as CPUs without AVX512-BF16 emulate bf16."""
    from peft import LoraConfig, get_peft_model
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = smollm2(6).to(torch.bfloat16)
    weights = {
        name: module.weight.data
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    model = replace_with_bnb_linear(
        model, modules_to_not_convert=["lm_head"], quantization_config=config
    )
    import bitsandbytes as bnb

    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.weight = bnb.nn.Params4bit(
                weights[name], requires_grad=False, quant_type="nf4", compress_statistics=False
            ).to("cpu")
    del weights
    model.requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", lora_dropout=0.0))
    batch = text(1, 96)

    def loss():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(**batch).loss

    measured = run(model, loss, adam(model))
    terms = training.step(
        lm.find("smollm2-135m").with_layers(6),
        training.Recipe("qlora", "nf4", 1, 96, 16, checkpointing=False, keeps_logits=False),
    )
    assert sum(t.bytes for t in terms) == pytest.approx(measured, rel=0.07)


def test_whisper_base_with_lora():
    from peft import LoraConfig, get_peft_model
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    _, w = speech.find("base")
    config = WhisperConfig(
        vocab_size=w.V,
        d_model=w.D,
        encoder_layers=w.encoder,
        decoder_layers=w.decoder,
        encoder_attention_heads=w.H,
        decoder_attention_heads=w.H,
        encoder_ffn_dim=4 * w.D,
        decoder_ffn_dim=4 * w.D,
        use_cache=False,
    )
    model = get_peft_model(
        WhisperForConditionalGeneration(config),
        LoraConfig(r=32, target_modules=["q_proj", "v_proj"], lora_dropout=0.0),
    )
    sound, labels = torch.randn(1, 80, 3000), torch.randint(0, w.V, (1, 60))
    measured = run(
        model, lambda: model.base_model(input_features=sound, labels=labels).loss, adam(model)
    )
    terms = speech.train(
        w, speech.Training("lora", 1, 60, 32, amp=False, foreach=False), device=False
    )
    assert sum(t.bytes for t in terms) == pytest.approx(measured, rel=0.07)


def test_yolov8n():
    from types import SimpleNamespace

    ultralytics_env.quiet()
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolov8n.yaml", verbose=False).train()
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    n = 30  # boxes an image
    batch = {
        "img": torch.rand(4, 3, 320, 320),
        "batch_idx": torch.arange(4).repeat_interleave(n).float(),
        "cls": torch.randint(0, 80, (4 * n, 1)).float(),
        "bboxes": torch.rand(4 * n, 4) * 0.3 + 0.3,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    measured = run(model, lambda: model.loss(batch)[0].sum(), optimizer)
    terms = vision.step(
        vision.find("yolov8n"),
        vision.Recipe(4, 320, 320, amp=False, ema=False, boxes=n, device=False),
    )
    assert sum(t.bytes for t in terms) == pytest.approx(measured, rel=0.07)


def test_rt_detr():
    """Its class looks at values while it runs, so that it cannot be traced on fakes."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        out_features=["stage2", "stage3", "stage4"],
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        num_labels=80,
        freeze_backbone_batch_norms=False,
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        anchor_image_size=None,
        num_denoising=0,
    )
    model, images = RTDetrForObjectDetection(config).train(), torch.randn(2, 3, 320, 320)

    def step():
        made = model(images)
        sum(
            part.sum()
            for part in (
                made.logits,
                made.pred_boxes,
                made.intermediate_logits,
                made.intermediate_reference_points,
                made.enc_outputs_class,
                made.enc_outputs_coord_logits,
            )
        ).backward()

    t = Tape(grad=True, device=False)
    maps = detr.rt_detr(t, t.tensor(2, 3, 320, 320), "r18", 80)
    loss = t.op((1,), maps)
    del maps
    t.backward(loss)
    assert t.peak == pytest.approx(peak_bytes(step), rel=0.05) and t.params == pytest.approx(
        sum(p.numel() for p in model.parameters()), rel=0.005
    )


def test_a_small_unet_with_lora():
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    spec = nets.UNet((64, 128, 256, 256), (1, 1, 1, 0), 128)
    model = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=spec.widths,
        cross_attention_dim=128,
        attention_head_dim=8,
    )
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    latents, words = torch.randn(2, 4, 32, 32), torch.randn(2, 77, 128)
    measured = run(
        model,
        lambda: torch.nn.functional.mse_loss(
            model(latents, torch.tensor([10, 20]), words).sample, latents
        ),
        adam(model),
    )
    t = Tape(grad=True, device=False)
    out = nets.unet(
        t, t.tensor(2, 4, 32, 32), spec, t.tensor(2, 77, 128), a=nets.Adapt(8, fp32=True)
    )
    loss = t.op((1,), [out], [out])
    del out
    t.backward(loss)
    assert t.params * 4 + t.trained * 8 + t.peak == pytest.approx(measured, rel=0.07)


def test_a_tiny_llava():
    """Vision tower frozen, projector and language model trained whole."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    words = layers.uniform("tiny-words", 8192, 256, 688, 6, 8, 8, 32)
    tower = vlm.Tower(192, 4, 4, 768, 14)
    config = LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=8192,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=6,
            num_attention_heads=8,
            use_cache=False,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=224,
            patch_size=14,
            projection_dim=192,
        ),
        image_token_id=5,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.requires_grad_(False)
    ids = torch.cat([torch.full((2, 256), 5), torch.randint(6, 8000, (2, 64))], dim=1)
    pixels = torch.randn(2, 3, 224, 224)
    measured = run(
        model, lambda: model(input_ids=ids, pixel_values=pixels, labels=ids).loss, adam(model)
    )
    recipe = training.Recipe(
        "full", "fp32", 2, 1, checkpointing=False, compute_fp32=True, keeps_logits=False
    )
    beside = tower.n_params + 256 * 192 + 192 * 256 + 256 * 256
    terms = vlm.tune(
        vlm.VLM("tiny", tower, words, beside, tile=224, tokens=256),
        vlm.Training(recipe, 64, tower="frozen"),
    )
    assert sum(t.bytes for t in terms) == pytest.approx(measured, rel=0.07)
