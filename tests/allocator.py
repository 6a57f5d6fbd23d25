"""What torch's CPU allocator held in a real step."""

import torch


def peak_bytes(step):
    """The most that torch's allocator held above its level before `step`, from the profiler's
    allocation events."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        step()
    now = peak = 0
    for event in sorted(
        (e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"),
        key=lambda e: e.start_ns(),
    ):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def held_bytes(*modules, optimizer=None):
    tensors = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for m in modules
        for t in [*m.parameters(), *m.buffers()]
    }
    for state in optimizer.state.values() if optimizer else ():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                tensors[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    return sum(tensors.values())
