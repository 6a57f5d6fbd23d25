"""`--model auto`: the best catalogued model for a device. Downloads nothing."""

from collections.abc import Callable

from onecard.hub import names, network
from onecard.memory import quant_selection
from onecard.memory.devices import Device

EMBEDDED = "smollm2-135m"
"""Carried by a Python package: it can be had where no hub is reachable."""


def best(
    device: Device, fits: Callable[[str], bool], verb: str, check_hub: bool = False
) -> tuple[str, str]:
    """(name, reason): of the catalog's chat models the highest ranked one that fits the device.

    Offline only those that lie here count. Without a GPU it is the embedded one. `check_hub`: ask
    whether the hub answers (up to 3 s), before a run; a plan does not.
    """
    if device.type == "cpu":
        return EMBEDDED, "the embedded one: there is no GPU"
    ranked = sorted(
        (facts["rank"], name) for name, facts in names.catalog().items() if "rank" in facts
    )
    offline = network.offline() or (check_hub and not network.hub_reachable())
    for _, name in reversed(ranked):
        if offline and not names.find(name).here:
            continue
        if fits(name):
            where = " of those on this machine (the hub is out of reach)" if offline else ""
            return name, f"the best of the catalog that fits{where}: {verb}"
    if offline:
        return EMBEDDED, "the embedded one: the hub is out of reach and no better one lies here"
    return EMBEDDED, "the embedded one: nothing larger fits"


def choose(
    device: Device, n_ctx: int, kv_type: str, n_ubatch: int, check_hub: bool = False
) -> tuple[str, str]:
    """(name, reason) for a model that answers: whole on the GPU in Q4_K_M or better."""

    def fits(name: str) -> bool:
        known = names.find_counts(name)
        if known is None:
            return False
        layers = quant_selection.layers_on_card(
            known, quant_selection.WANTED, n_ctx, kv_type, n_ubatch, device
        )
        return layers > known.L

    context = f"{n_ctx} tokens of context"
    return best(device, fits, f"whole on the GPU in Q4_K_M or better, with {context}", check_hub)
