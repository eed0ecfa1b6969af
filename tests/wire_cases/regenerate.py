"""Writes the golden files anew: ``python -m tests.wire_cases.regenerate``, from the repository's root.

Every cell's question is asked of the scripted vendor and what happens is written down. To be run after a deliberate
change of a translation, a question or a scripted vendor: look at the diff, it is what callers and vendors will see.
"""

from gateway.conformance.vendors.formats import Refusal
from gateway.errors import GatewayError
from tests.wire_cases import scripted
from tests.wire_cases.cells import CELLS, Cell, ask
from tests.wire_cases.golden import FOLDER, compact, path_of, written
from tests.wire_cases.questions import CASES, question
from tests.wire_cases.transcript import Given, transcribe


def main() -> None:
    stale = set(FOLDER.glob("*/*/*.json"))
    for cell in CELLS:
        path = path_of(cell.dialect, cell.vendor_dialect, cell.case)
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = transcribe(cell, _given(cell, streamed=False), _given(cell, streamed=True))
        path.write_text(written(shown) + "\n", encoding="utf-8")
        stale.discard(path)
    for path in stale:
        path.unlink()
    print(f"{len(CELLS)} golden files")


def _given(cell: Cell, *, streamed: bool) -> Given:
    """Raises SystemExit where the vendor refuses what the gateway sends it: that is a bug of one of them."""
    body = compact(question(cell.dialect, cell.case, streamed=streamed)).encode()
    case = CASES[cell.case]
    try:
        _, sent = ask(cell, body)
    except GatewayError:
        return Given(body, None)
    try:
        return Given(body, scripted.answer(cell, sent, case.streamed if streamed else case.whole))
    except Refusal as refusal:
        raise SystemExit(f"{cell}: the vendor refuses {sent.body.decode()}: {refusal.message}") from refusal


if __name__ == "__main__":
    main()
