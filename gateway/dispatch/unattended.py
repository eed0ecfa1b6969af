"""Vendors' answers that are read to their end although their callers have left."""

import asyncio

STOPPING_S = 1.0  # for what was cancelled to be settled

_unattended: set["asyncio.Task[None]"] = set()


def keep(task: "asyncio.Task[None]") -> None:
    """The event loop holds tasks weakly: keep one that nobody waits for until it is done."""
    _unattended.add(task)
    task.add_done_callback(_unattended.discard)


async def drained(timeout_s: float) -> None:
    """Wait for calls whose callers have left but whose vendors are still being read; what takes longer is stopped, and
    charged by what was seen of it."""
    if not _unattended:
        return
    _, late = await asyncio.wait(set(_unattended), timeout=timeout_s)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=STOPPING_S)
