"""Which kernels a piece of work launches, by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable


def launched(run: Callable[[], object]) -> tuple[str, ...]:
    """Run ``run`` under the profiler; return the names of its GPU kernels in order of their start.

    The profiler is taken down afterwards (``TEARDOWN_CUPTI``): left in place, it adds to every
    later kernel of the process (:mod:`.graph_kernels`).

    () where the profiler sees no kernel: nothing was launched, or roctracer or CUPTI is missing.
    """
    import os

    import torch
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("TEARDOWN_CUPTI", "1")
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            run()
            torch.cuda.synchronize()
    except RuntimeError:  # no profiler on this system
        return ()
    device = torch.autograd.DeviceType.CUDA
    events = [event for event in seen.events() or [] if event.device_type == device]
    events.sort(key=lambda event: event.time_range.start)
    return tuple(event.name for event in events if not event.name.startswith(("Mem", "hip")))
