"""Vendors' answers that are read to their end although their callers have left."""

import asyncio

_unattended: set["asyncio.Task[None]"] = set()


def keep(task: "asyncio.Task[None]") -> None:
    """The event loop holds tasks weakly: keep one that nobody waits for until it is done."""
    _unattended.add(task)
    task.add_done_callback(_unattended.discard)


async def drained(timeout_s: float) -> None:
    """Wait for calls whose callers have left but whose vendors are still being read."""
    if _unattended:
        await asyncio.wait(set(_unattended), timeout=timeout_s)
