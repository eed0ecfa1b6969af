"""``python -m gateway.server OPTIONS``: uvicorn, told to stop, ends with exit code 0.

Once it has drained and closed, uvicorn raises the signal that stopped it again, so that a process under its default
handling ends as if it had been killed. An orderly end is no failure: supervisors and orchestrators read the code.
"""

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import uvicorn


def _end(*_: object) -> None:
    sys.exit(0)


def run(options: Sequence[str]) -> NoReturn:
    """Serve in this process until it is told to stop, then end it. ``options`` are uvicorn's own."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    uvicorn.main(options)
    raise AssertionError("uvicorn's command line returns")


if __name__ == "__main__":
    run(sys.argv[1:])
