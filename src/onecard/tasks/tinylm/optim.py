"""Muon for matrices and AdamW for the rest, as one thing that steps, and whose state is plain
tensors. Knows no model's meaning."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that Newton-Schulz repeats: tuned to push singular values into [0.7, 1.2] fast,
not to meet 1 (Jordan et al. 2024, Muon)."""
ROUNDS = 5
BETAS = (0.9, 0.99)
"""AdamW's: in short trainings of small models its second moment should forget sooner than 0.999."""


def orthogonal(g_NRC: Tensor) -> Tensor:
    """N matrices R x C, each moved to the nearest one with orthogonal rows (or columns): U V^T of
    its singular value decomposition, by five rounds of a quintic.

    In bfloat16 on a card, which bears it (Jordan et al. 2024); in fp32 on a CPU, where batched
    products are twice as fast so (measured: 7.8 against 14.6 ms).
    """
    a, b, c = COEFFICIENTS
    x = g_NRC.bfloat16() if g_NRC.is_cuda else g_NRC
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x) / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(g_NRC.dtype)


class Optimizer:
    """Muon (Jordan et al. 2024) on the layers' matrices, AdamW (Loshchilov & Hutter 2019) on tables
    and norms.

    Matrices of one shape are moved together: one batched product for all layers, where
    torch.optim.Muon takes them one by one (on a CPU with matrices of 128 x 128 that is most of its
    time).
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        muon: bool,
        learning_rate: float,
        muon_lr: float,
        weight_decay: float,
    ) -> None:
        named = dict(net.named_parameters())
        matrices = {
            name: weight
            for name, weight in named.items()
            if weight.ndim == 2 and "embedding" not in name and not name.startswith("positions")
        }
        self.muon_lr, self.weight_decay = muon_lr, weight_decay
        self.groups: dict[tuple[int, ...], list[tuple[str, nn.Parameter]]] = {}
        self.momentum: dict[str, Tensor] = {}
        if muon:
            for name, weight in matrices.items():
                self.groups.setdefault(tuple(weight.shape), []).append((name, weight))
                self.momentum[name] = torch.zeros_like(weight)
        decayed = [weight for name, weight in matrices.items() if not muon]
        rest = [weight for name, weight in named.items() if name not in matrices]
        groups = [{"params": rest, "weight_decay": 0.0}] + (
            [{"params": decayed, "weight_decay": weight_decay}] if decayed else []
        )
        self.adam = torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)
        self.learning_rate = learning_rate

    def step(self, scale: float) -> None:
        """One step at `scale` times the highest learning rates."""
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * scale
        self.adam.step()
        for shape, members in self.groups.items():
            grads = [weight.grad for _, weight in members if weight.grad is not None]
            held = [self.momentum[name] for name, _ in members]
            torch._foreach_lerp_(held, grads, 1 - MOMENTUM)
            moves = orthogonal(
                torch.stack(torch._foreach_lerp(grads, held, MOMENTUM))
            )  # Nesterov's look ahead
            rate = self.muon_lr * scale * max(1.0, shape[0] / shape[1]) ** 0.5
            weights = [weight.data for _, weight in members]
            torch._foreach_mul_(weights, 1 - self.muon_lr * scale * self.weight_decay)
            torch._foreach_add_(weights, list(moves.unbind()), alpha=-rate)

    def zero_grad(self) -> None:
        self.adam.zero_grad(set_to_none=True)
        for members in self.groups.values():
            for _, weight in members:
                weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """All that a later step depends on, by name."""
        out = {f"muon.{name}": held for name, held in self.momentum.items()}
        for number, values in self.adam.state_dict()["state"].items():
            out |= {f"adam.{number}.{key}": torch.as_tensor(value) for key, value in values.items()}
        return out

    def load(self, state: Mapping[str, Tensor]) -> None:
        """What `state` gave. Raises KeyError for another model's."""
        for name in self.momentum:
            self.momentum[name].copy_(state[f"muon.{name}"])
        held: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("adam."):
                _, number, name = key.split(".")
                held.setdefault(int(number), {})[name] = value
        self.adam.load_state_dict(
            {"state": held, "param_groups": self.adam.state_dict()["param_groups"]}
        )
