"""``python -m gateway.conformance.vendors --port 9110``: the scripted vendors by hand, until Ctrl-C."""

import argparse
import asyncio
import contextlib
import signal
import sys

from gateway.conformance.vendors.server import MODELS, Vendors, serve


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.conformance.vendors", description="Scripted LLM vendors on one port."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9110, help="0 lets the system choose")
    parser.add_argument("--key", action="append", help="accept only this key (repeatable); default: any")
    parser.add_argument("--model", action="append", help="a model to list (repeatable); any name is answered")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    options = parser.parse_args()
    vendors = Vendors(options.key, options.model or MODELS)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(vendors, options))


async def _run(vendors: Vendors, options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if options.until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), stop.set)

    def ready(port: int) -> None:
        sys.stdout.write(f"scripted vendors on http://{options.host}:{port}\n")
        sys.stdout.flush()

    await serve(vendors, options.host, options.port, ready, stop)


if __name__ == "__main__":
    main()
