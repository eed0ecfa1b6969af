"""Thought signatures: what Gemini puts on a function call to prove the thinking that led to it.

In the canonical form such a signature belongs to the :class:`~gateway.wire.types.Thinking` part ahead of the
call. It carries a scheme there, so that no other vendor is sent it, and no other vendor's signature is sent to
Gemini, when a conversation moves between them.
"""

SCHEME = "gemini:"
# What the vendor documents for a call in a history that it did not generate itself.
UNSIGNED = "skip_thought_signature_validator"


def to_canonical(signature: str) -> str:
    return SCHEME + signature


def from_canonical(signature: str | None) -> str | None:
    """The vendor's own signature; None for another vendor's, or for none."""
    if signature is None or not signature.startswith(SCHEME):
        return None
    return signature.removeprefix(SCHEME)
