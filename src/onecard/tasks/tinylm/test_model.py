"""The model against independent references: no token sees what comes, the cache changes nothing,
others open the files with the same logits."""

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig  # noqa: E402
from transformers.models.bloom.modeling_bloom import build_alibi_tensor  # noqa: E402
from transformers.models.llama.modeling_llama import (  # noqa: E402
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from onecard.errors import SettingsError  # noqa: E402
from onecard.tasks.tinylm import export, model, optim, sampling, tokenization  # noqa: E402
from onecard.tasks.tinylm.configs import POSITIONS  # noqa: E402
from onecard.tasks.tinylm.model_config import ModelConfig  # noqa: E402

CONFIG = ModelConfig(50, 64, 3, 4, 2, 64, 96)


def net_of(**more):
    torch.manual_seed(0)
    net = model.TinyLM(replace(CONFIG, **more)).eval()
    for weight in net.parameters():  # fresh weights are so small that nothing would show
        torch.nn.init.normal_(weight, std=0.3)
    return net


@pytest.fixture
def ids():
    return torch.randint(0, 50, (3, 40), generator=torch.Generator().manual_seed(1))


VARIANTS = [{"position": code} for code in POSITIONS] + [
    {"n_kv_head": 4},
    {"n_kv_head": 1},
    {"mlp": "gelu"},
    {"qk_norm": False},
]


@pytest.mark.parametrize("more", VARIANTS, ids=str)
def test_a_future_token_never_changes_an_earlier_logit(more, ids):
    net = net_of(**more)
    with torch.no_grad():
        before = net(ids)
        for at in (1, 17, 39):
            other = ids.clone()
            other[:, at] = (other[:, at] + 7) % 50
            after = net(other)
            assert torch.equal(before[:, :at], after[:, :at]) and not torch.allclose(
                before[:, at], after[:, at]
            )


@pytest.mark.parametrize("more", VARIANTS, ids=str)
def test_cached_logits_equal_uncached_ones(more, ids):
    net = net_of(**more)
    with torch.no_grad():
        whole = net(ids)
        cache = model.Cache(net.model_config, 3, 40)
        parts = [
            net(ids[:, a:b], cache) for a, b in ((0, 11), (11, 12), (12, 30), (30, 31), (31, 40))
        ]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=2e-4) and cache.length == 40


def test_counts_are_those_of_the_formula():
    for more in VARIANTS:
        assert net_of(**more).n_params == replace(CONFIG, **more).n_params


def test_rope_is_that_of_transformers_and_depends_on_distance_only():
    q, k = torch.randn(1, 4, 20, 16), torch.randn(1, 4, 20, 16)
    places = torch.arange(5, 25)
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        )
    )
    cos, sin = theirs(q, places[None])
    expected = apply_rotary_pos_emb(q, k, cos, sin)
    mine = model.rope_angles(places, 16, 5000.0)
    assert torch.allclose(model.rotate(q, *mine), expected[0], atol=1e-5) and torch.allclose(
        model.rotate(k, *mine), expected[1], atol=1e-5
    )
    near = [
        (
            model.rotate(q[:, :, :1], *model.rope_angles(torch.tensor([p]), 16, 1e4))
            * model.rotate(k[:, :, :1], *model.rope_angles(torch.tensor([p - 3]), 16, 1e4))
        )
        .sum()
        .item()
        for p in (3, 50)
    ]
    assert near[0] == pytest.approx(near[1], abs=1e-4)


@pytest.mark.parametrize("heads", [4, 6, 8, 12])
def test_alibi_is_that_of_bloom(heads):
    theirs = build_alibi_tensor(torch.ones(1, 9), heads, torch.float32).view(
        heads, 1, 9
    )  # slope * position: equal to ours up to a constant of each row, which softmax drops
    mine = model.alibi_bias(model.alibi_slopes(heads), 9, 0)
    for row in range(9):
        assert torch.allclose(
            mine[:, row, : row + 1].softmax(-1), theirs[:, 0, : row + 1].softmax(-1), atol=1e-6
        )
    assert torch.isinf(mine[0, 2, 3]) and mine[0, 5, 4] == -model.alibi_slopes(heads)[0]


def test_sinusoids_are_those_of_the_paper():
    table = model.sinusoids(torch.arange(7), 16)
    for place in range(7):
        for i in range(8):
            angle = place / 10_000 ** (2 * i / 16)
            assert table[place, 2 * i] == pytest.approx(math.sin(angle), abs=1e-5) and table[
                place, 2 * i + 1
            ] == pytest.approx(math.cos(angle), abs=1e-5)


def test_grouped_heads_are_full_heads_whose_keys_are_shared(ids):
    grouped = net_of(n_kv_head=2)
    full = net_of(n_kv_head=4)
    state = grouped.state_dict()
    for name, weight in state.items():
        if "wk" in name or "wv" in name:
            state[name] = weight.view(2, 16, 64).repeat_interleave(2, 0).reshape(64, 64)
    full.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(grouped(ids), full(ids), atol=1e-4)


def test_learned_positions_end():
    net = net_of(position="learned")
    with pytest.raises(SettingsError, match="no position 65"):
        net(torch.zeros(1, 65, dtype=torch.long))


@pytest.mark.parametrize("qk_norm", [True, False])
def test_transformers_opens_it_with_the_same_logits(qk_norm, ids, tmp_path):
    net = net_of(qk_norm=qk_norm)
    tokenizer = tokenization.char_tokenizer("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVW")
    export.to_transformers(net, tokenizer, tmp_path, export.layout_of(net.model_config))
    theirs, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, net(ids), atol=1e-3)
    assert (
        AutoTokenizer.from_pretrained(tmp_path)("Hello")["input_ids"]
        == tokenizer.encode("Hello", add_special_tokens=False).ids
    )


def test_what_has_no_layout_is_refused_with_the_reason():
    for more, reason in (
        ({"position": "alibi"}, "positions are alibi"),
        ({"mlp": "gelu"}, "the MLP is gelu"),
    ):
        with pytest.raises(SettingsError) as fault:
            export.layout_of(replace(CONFIG, **more))
        assert reason in fault.value.why


@pytest.mark.parametrize("position", POSITIONS)
def test_generation_is_the_same_with_and_without_the_cache(position):
    net = net_of(position=position)
    start = torch.randint(0, 50, (2, 5), generator=torch.Generator().manual_seed(2))
    cached, plain = (
        list(sampling.generate_tokens(net, start, 50, temperature=0, cached=on))
        for on in (True, False)
    )
    assert torch.equal(torch.cat(cached, 1), torch.cat(plain, 1))
    assert len(list(sampling.generate_tokens(net, start, 200, seed=3))) == 200, (
        "beyond the window it goes on"
    )


def test_samples_follow_the_probabilities():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(20_000, 1)
    random = torch.Generator().manual_seed(0)

    def shares(temperature, top_k, top_p):
        tokens = sampling.sample_token(logits, temperature, top_k, top_p, random)
        return [(tokens == i).float().mean().item() for i in range(4)]

    assert shares(1.0, 0, 1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.02)
    assert shares(1.0, 2, 1.0) == pytest.approx([0.625, 0.375, 0, 0], abs=0.02)
    assert shares(1.0, 0, 0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=0.02)
    assert shares(0.0, 0, 1.0) == [1, 0, 0, 0]


def test_muon_moves_as_torchs_own_does():
    """Both make orthogonal moves in bf16; torch's takes matrices one by one."""
    torch.manual_seed(0)
    net, other = model.TinyLM(CONFIG), model.TinyLM(CONFIG)
    other.load_state_dict(net.state_dict())
    mine = optim.Optimizer(net, muon=True, learning_rate=0.0, muon_lr=0.02, weight_decay=0.1)
    matrices = [
        weight
        for name, weight in other.named_parameters()
        if weight.ndim == 2 and "embedding" not in name
    ]
    theirs = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    for step in range(3):
        ids = torch.randint(0, 50, (2, 20), generator=torch.Generator().manual_seed(step))
        for one in (net, other):
            one.zero_grad()
            model.loss_of(one, ids[:, :-1], ids[:, 1:]).backward()
        mine.step(1.0)
        theirs.step()
    for (name, weight), reference in zip(net.named_parameters(), other.parameters(), strict=True):
        if weight.ndim == 2 and "embedding" not in name:
            assert (weight - reference).abs().max() < 0.004, (
                name
            )  # a move is 0.02 long an entry at most; bf16 keeps 3 digits of it


def test_orthogonal_moves_are_orthogonal():
    update = optim.orthogonal(torch.randn(2, 32, 96, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(update.float())
    assert values.min() > 0.5 and values.max() < 1.4
