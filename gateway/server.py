"""``python -m gateway.server``: uvicorn, told to stop, ends with exit code 0.

Once it has drained and closed, uvicorn raises the signal that stopped it again, so that a process under its default
handling ends as if it had been killed. An orderly end is no failure: supervisors and orchestrators read the code.
"""

import signal
import sys

import uvicorn


def _end(*_: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    uvicorn.main()
