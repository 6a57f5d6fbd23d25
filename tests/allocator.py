"""What torch's CPU allocator gives out in a real step."""

import torch


def peak_bytes(step):
    """The most above the level before `step`, from the profiler's allocation events."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def allocated_bytes(*modules, optimizer=None):
    """Storages of parameters, buffers and optimizer state, each once."""
    tensors = [t for m in modules for t in [*m.parameters(), *m.buffers()]]
    for state in optimizer.state.values() if optimizer else ():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
    return sum(storage.nbytes() for storage in storages.values())
