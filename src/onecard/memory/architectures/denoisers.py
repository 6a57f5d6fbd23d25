"""What an image generator is made of: UNets with text attention, the picture's autoencoder, and
transformers over patches.

Sources: diffusers' UNet2DConditionModel, AutoencoderKL, SD3, FLUX, PixArt, HunyuanDiT, Qwen-Image
and UVit2D classes with the published configs. Knows no pipeline and no card.
"""

from dataclasses import dataclass

from onecard.memory.simulator import Tape, Tensor

TEXT_TOKENS = 77


@dataclass(frozen=True)
class UNet:
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    """Text attention blocks in each resolution; 0 means none."""
    context: int
    added: int = 0
    """Width of what SDXL embeds beside the time."""
    linear: bool = False
    """Projections in and out are linear layers, not 1x1 convolutions."""
    from_width: int = 0
    """Width of the text before a layer brings it to `context`."""
    layers: int = 2
    """Residuals in each resolution on the way down, one more on the way up."""
    middle: int = 0
    """Text attention blocks in the middle; 0 for as many as in the lowest resolution that has
    some."""
    channels: int = 4
    """Of the output."""


UNETS = {
    "sd-1.5": UNet((320, 640, 1280, 1280), (1, 1, 1, 0), 768),
    "sd-2.1": UNet((320, 640, 1280, 1280), (1, 1, 1, 0), 1024, linear=True),
    "sdxl": UNet((320, 640, 1280), (0, 2, 10), 2048, 2816, True),
    "ssd-1b": UNet((320, 640, 1280), (0, 2, 4), 2048, 2816, True),
    "sdxl-refiner": UNet((384, 768, 1536, 1536), (0, 4, 4, 0), 1280, 2560, True),
    "kolors": UNet((320, 640, 1280), (0, 2, 10), 2048, 5632, True, 4096),
}


@dataclass(frozen=True)
class Dit:
    """A transformer over patches of the latent picture."""

    width: int
    joint: int
    """Blocks with weights of their own for text and picture (MMDiT); or with text attention, for
    `crossed`."""
    single: int
    heads: int
    text_width: int
    text_tokens: int
    channels: int = 16
    crossed: bool = False
    adaptive: int = 6
    """Values of the modulation in a joint block, in widths; PixArt shares one table."""
    up: float = 4.0
    """Width of the feed-forward, in widths."""
    beside: int = 0
    """Weights before and after the blocks that work on few places."""
    params: int = 0
    """Weights as the real class counts them; 0 for those that the blocks below make."""
    words: int = 0
    """Picture tokens to choose from, where it foretells tokens and not noise."""


DITS = {
    "sd3-medium": Dit(1536, 24, 0, 24, 4096, 77 + 256, params=2_028_328_000),
    "sd3.5-medium": Dit(1536, 24, 0, 24, 4096, 77 + 256, params=2_243_171_520),
    "sd3.5-large": Dit(2432, 38, 0, 38, 4096, 77 + 256, params=8_056_627_520),
    "flux.1": Dit(3072, 19, 38, 24, 4096, 512, 64, params=11_901_408_320),
    "flux.2-dev": Dit(6144, 8, 48, 48, 15360, 512, 128, up=4.5, params=32_223_281_152),
    "flux.2-klein-4b": Dit(3072, 5, 20, 24, 7680, 512, 128, up=4.5, params=3_875_544_576),
    "flux.2-klein-9b": Dit(4096, 8, 24, 32, 12288, 512, 128, up=4.5, params=9_078_581_248),
    "chroma": Dit(3072, 19, 38, 24, 4096, 512, 64, params=8_899_983_424),
    "z-image": Dit(3840, 0, 34, 30, 2560, 512, 64, up=4.0, params=6_154_908_736),
    "pixart": Dit(1152, 28, 0, 16, 4096, 300, 4, True, 0, params=611_349_152),
    "hunyuandit": Dit(1408, 40, 0, 16, 2048, 333, 4, True, 1, 4.36),
    "qwen-image": Dit(3072, 60, 0, 24, 3584, 256, 64, params=20_430_401_088),
    "sana-0.6b": Dit(1152, 28, 0, 36, 2304, 300, 32, True, 0, 5.0, params=591_747_872),
    "sana-1.6b": Dit(2240, 20, 0, 70, 2304, 300, 32, True, 0, 5.0, params=1_604_462_752),
    "lumina-2": Dit(2304, 0, 30, 24, 2304, 256, 64, up=4.0, params=2_609_769_152),
    "auraflow": Dit(3072, 4, 32, 12, 2048, 256, 16, params=6_833_439_744),
    "wan-1.3b": Dit(1536, 30, 0, 12, 4096, 512, 64, True, 0, 5.83, params=1_418_996_800),
    "wan-5b": Dit(3072, 30, 0, 24, 4096, 512, 192, True, 0, 4.67, params=4_999_787_712),
    "wan-14b": Dit(5120, 40, 0, 40, 4096, 512, 64, True, 0, 2.7, params=14_288_491_584),
    "ltx-video": Dit(2048, 28, 0, 32, 4096, 128, 128, True, 0, params=1_923_385_472),
    "amused": Dit(1024, 22, 0, 16, 768, 77, 64, True, 6, 4.13, 90_000_000, words=8192),
}


@dataclass(frozen=True)
class Adapt:
    """LoRA on the attention's projections."""

    r: int = 0
    fp32: bool = False
    """Adapters in fp32, computed under autocast."""


def _linear(t: Tape, x: Tensor, c: int, bias: bool, a: Adapt) -> Tensor:
    return t.lora(x, c, a.r, bias, a.fp32, autocast=True) if a.r else t.linear(x, c, bias)


def _res(t: Tape, x: Tensor, c: int, time: Tensor | None, add: Tensor | None = None) -> Tensor:
    y = t.act(t.norm(x, "group"), "silu")
    y = t.conv(_cast(t, y), c, 3, bias=True)
    if time is not None:
        t.linear(time, c)
        y = t.op(y.shape, [y])
    y = t.act(t.norm(y, "group"), "silu")
    y = t.conv(_cast(t, y), c, 3, bias=True)
    side = t.conv(x, c, 1, bias=True) if x.shape[1] != c else x
    return t.add(side, y)


def _cast(t: Tape, x: Tensor) -> Tensor:
    return t.to(x, t.wide) if t.cast else x


def _text_block(t: Tape, x: Tensor, text: Tensor, heads: int, fused: bool, a: Adapt) -> Tensor:
    d = x.shape[-1]
    for other in (None, text):
        y = _cast(t, t.norm(x, "layer"))
        from_ = other or y
        q, k, v = (
            _linear(t, y, d, False, a),
            _linear(t, from_, d, False, a),
            _linear(t, from_, d, False, a),
        )
        del y, from_
        y = t.attend(q, k, v, heads, fused=fused)
        del q, k, v
        x = t.add(_linear(t, y, d, True, a), x)
    y = _cast(t, t.norm(x, "layer"))
    gate, value = t.chunk(t.linear(y, 8 * d), 2, dim=2)
    y = t.mul(value, t.act(gate, "gelu"))
    del gate, value
    return t.add(t.linear(y, d), x)


def _attention(
    t: Tape,
    x: Tensor,
    text: Tensor,
    depth: int,
    linear: bool,
    fused: bool,
    a: Adapt,
    checkpointing: bool,
) -> Tensor:
    def block(u: Tensor) -> Tensor:
        return _text_block(t, u, text, max(c // 64, 1) if linear else 8, fused, a)

    n, c, h, w = x.shape
    y = _cast(t, t.norm(x, "group"))
    y = (
        t.linear(t.copy(y, n, h * w, c), c)
        if linear
        else t.copy(t.conv(y, c, 1, bias=True), n, h * w, c)
    )
    for _ in range(depth):
        y = t.kept(block, y) if checkpointing else block(y)
    y = t.linear(y, c) if linear else t.conv(t.copy(y, n, c, h, w), c, 1, bias=True)
    return t.add(t.copy(y, n, c, h, w) if linear else y, x)


def unet(
    t: Tape,
    x: Tensor,
    spec: UNet,
    text: Tensor,
    *,
    fused: bool = True,
    checkpointing: bool = False,
    a: Adapt | None = None,
) -> Tensor:
    """The noise of a latent picture (n, 4, h/8, w/8).

    `checkpointing` is diffusers': the input only of each residual and each transformer block is
    kept.
    """
    a = a or Adapt()
    t.frozen = bool(a.r)
    time = t.linear(
        t.act(t.linear(t.tensor(x.shape[0], spec.widths[0]), 4 * spec.widths[0]), "silu"),
        4 * spec.widths[0],
    )
    if spec.added:
        t.linear(
            t.act(t.linear(t.tensor(x.shape[0], spec.added), 4 * spec.widths[0]), "silu"),
            4 * spec.widths[0],
        )

    def res(v: Tensor, c: int) -> Tensor:
        return t.kept(lambda u: _res(t, u, c, time), v) if checkpointing else _res(t, v, c, time)

    def attend(v: Tensor, depth: int) -> Tensor:
        return _attention(t, v, text, depth, spec.linear, fused, a, checkpointing)

    x = t.conv(x, spec.widths[0], 3, bias=True)
    sides = [x]
    for i, (c, depth) in enumerate(zip(spec.widths, spec.depths, strict=True)):
        for _ in range(spec.layers):
            x = res(x, c)
            if depth:
                x = attend(x, depth)
            sides.append(x)
        if i < len(spec.widths) - 1:
            x = t.conv(x, c, 3, 2, bias=True)
            sides.append(x)
    x = res(x, x.shape[1])
    x = attend(x, spec.middle or spec.depths[-1] or max(spec.depths))
    if spec.from_width:
        t.linear(t.tensor(1, TEXT_TOKENS, spec.from_width), spec.context)
    x = res(x, x.shape[1])
    for i in range(len(spec.widths) - 1, -1, -1):
        for _ in range(spec.layers + 1):
            x = res(t.cat([x, sides.pop()]), spec.widths[i])
            if spec.depths[i]:
                x = attend(x, spec.depths[i])
        if i:
            x = t.conv(t.up(x), spec.widths[i], 3, bias=True)
    x = _cast(t, t.act(t.norm(x, "group"), "silu"))
    out = t.conv(x, spec.channels, 3, bias=True)
    t.frozen = False
    return out


def _mid(t: Tape, x: Tensor, fused: bool) -> Tensor:
    """Residual, attention over all places with one head, residual."""
    x = _res(t, x, x.shape[1], None)
    n, c, h, w = x.shape
    y = t.copy(t.norm(x, "group"), n, h * w, c)
    q, k, v = t.linear(y, c), t.linear(y, c), t.linear(y, c)
    del y
    y = t.attend(q, k, v, 1, fused=fused)
    del q, k, v
    x = t.add(t.view(t.linear(y, c), n, c, h, w), x)
    return _res(t, x, c, None)


def decode(
    t: Tape, z: Tensor, widths: tuple[int, ...] = (128, 256, 512, 512), fused: bool = True
) -> Tensor:
    """A latent picture (n, c, h, w) made to pixels (n, 3, 8h, 8w)."""
    x = t.conv(z, widths[-1], 3, bias=True)
    x = _mid(t, x, fused)
    for i in range(len(widths) - 1, -1, -1):
        for _ in range(3):
            x = _res(t, x, widths[i], None)
        if i:
            x = t.up(x)
            x = t.conv(x, widths[i], 3, bias=True)
    x = t.norm(x, "group")
    x = t.act(x, "silu")
    return t.conv(x, 3, 3, bias=True)


def encode(
    t: Tape,
    x: Tensor,
    channels: int = 4,
    widths: tuple[int, ...] = (128, 256, 512, 512),
    fused: bool = True,
) -> Tensor:
    """Pixels (n, 3, h, w) to mean and variance of a latent picture."""
    x = t.conv(x, widths[0], 3, bias=True)
    for i, c in enumerate(widths):
        for _ in range(2):
            x = _res(t, x, c, None)
        if i < len(widths) - 1:
            x = t.conv(x, c, 3, 2, bias=True)
    x = _mid(t, x, fused)
    x = t.act(t.norm(x, "group"), "silu")
    return t.conv(x, 2 * channels, 3, bias=True)


def dit(
    t: Tape, x: Tensor, spec: Dit, *, checkpointing: bool = False, a: Adapt | None = None
) -> Tensor:
    """The noise of patches (n, tokens, channels)."""
    a = a or Adapt()
    t.frozen = bool(a.r)
    n, tokens, d = x.shape[0], x.shape[1], spec.width
    y = t.linear(x, d)
    text = t.linear(t.tensor(n, spec.text_tokens, spec.text_width), d)
    time = t.linear(t.act(t.linear(t.tensor(n, 256), d), "silu"), d)

    def joint(u: Tensor) -> Tensor:
        t.linear(time, spec.adaptive * d)
        t.linear(time, spec.adaptive * d)
        v = _cast(t, t.op(u.shape, [t.norm(u, "layer", affine=False)]))
        q, k, w = _linear(t, v, d, True, a), _linear(t, v, d, True, a), _linear(t, v, d, True, a)
        _second(t, 3 * d * d + 3 * d)
        v = t.attend(t.copy(q), t.copy(k), w, spec.heads)
        del q, k, w
        v = _linear(t, v, d, True, a)
        _second(t, d * d + d)
        u = t.add(u, t.op(v.shape, [v]))
        v = _cast(t, t.op(u.shape, [t.norm(u, "layer", affine=False)]))
        v = t.act(t.linear(v, int(spec.up * d)), "gelu")
        v = t.linear(v, d)
        _second(t, 2 * int(spec.up * d) * d + d + int(spec.up * d))
        return t.add(u, t.op(v.shape, [v]))

    def crossed(u: Tensor) -> Tensor:
        if spec.adaptive:
            t.linear(time, spec.adaptive * d)
        v = _cast(t, t.norm(u, "layer", affine=bool(spec.adaptive)))
        for other in (None, text):
            from_ = other or v
            q, k, w = (
                _linear(t, v, d, True, a),
                _linear(t, from_, d, True, a),
                _linear(t, from_, d, True, a),
            )
            del from_
            o = t.attend(q, k, w, spec.heads)
            del q, k, w
            u = t.add(u, _linear(t, o, d, True, a))
            del o
            v = u
        v = t.act(
            t.linear(_cast(t, t.norm(u, "layer", affine=bool(spec.adaptive))), int(spec.up * d)),
            "gelu",
        )
        return t.add(u, t.linear(v, d))

    def single(u: Tensor) -> Tensor:
        t.linear(time, 3 * d)
        v = _cast(t, t.op(u.shape, [t.norm(u, "layer", affine=False)]))
        m = t.act(t.linear(v, 4 * d), "gelu")
        q, k, w = _linear(t, v, d, True, a), _linear(t, v, d, True, a), _linear(t, v, d, True, a)
        del v
        o = t.attend(t.copy(q), t.copy(k), w, spec.heads)
        del q, k, w
        o = t.cat([o, m], dim=2)
        del m
        return t.add(u, t.linear(o, d))

    block = crossed if spec.crossed else joint
    if not spec.crossed:
        y = t.cat([y, text], dim=1)
    for _ in range(spec.joint):
        y = t.kept(block, y) if checkpointing else block(y)
    for _ in range(spec.single):
        y = t.kept(single, y) if checkpointing else single(y)
    t.linear(time, 2 * d)
    _second(t, spec.beside)
    out = t.linear(
        _cast(t, t.norm(t.op((n, tokens, d), [y]), "layer", affine=False)), spec.channels
    )
    _as_the_class(t, spec, a)
    if spec.words:
        out = _chosen(t, out, spec.words)
    t.frozen = False
    return out


def _chosen(t: Tape, x: Tensor, words: int) -> Tensor:
    """Picture tokens at four times the places, in fp32."""
    logits = t.op((x.shape[0], 4 * x.shape[1], words), [x], wide=4.0)
    return t.op(logits.shape, [logits], [logits], keeps=True, wide=4.0)


def _as_the_class(t: Tape, spec: Dit, a: Adapt) -> None:
    """The real class has other weights beside these blocks, or fewer; the tape ran nothing else."""
    if spec.params:
        _second(t, spec.params - (t.params - (t.trained if a.r else 0)))


def _second(t: Tape, n_params: int) -> None:
    """Weights whose work is counted with others': the text's own in a joint block, as its tokens
    stand in the same sequences here."""
    t.params += n_params
    t.trained += 0 if t.frozen or not t.grad else n_params
