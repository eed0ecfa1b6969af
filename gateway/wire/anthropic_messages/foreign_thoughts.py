"""Thinking of other vendors in a Messages caller's history.

A conversation that was answered elsewhere before brings thinking that nobody signed, or that somebody else did. The
API refuses a request for a single such block, so they stay behind when the rest of the bytes is passed on.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

_encode = msgspec.json.Encoder().encode

_FOREIGN_SCHEME = ":"  # Anthropic's signatures are bare base64; ours for other vendors have a scheme


class _Turn(Struct):
    role: str
    content: str | list[Raw]


class _Block(Struct):
    type: str = ""
    signature: Any = None
    data: Any = None


_RAWS = msgspec.json.Decoder(list[Raw])
_TURN = msgspec.json.Decoder(_Turn)
_TURN_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_BLOCK = msgspec.json.Decoder(_Block)


def is_genuine(proof: str | None) -> bool:
    """Whether a signature, or the data of redacted thinking, can be Anthropic's own."""
    return bool(proof) and _FOREIGN_SCHEME not in (proof or "")


def leave_out_foreign_thoughts(fields: dict[str, Raw], dropped: list[str]) -> None:
    """Takes thinking that is not Anthropic's out of ``fields["messages"]``, and notes it in ``dropped``.

    Not a byte changes where there is none; else only the turns concerned are written anew, their other blocks as they
    were. A turn that held nothing else goes as a whole: the API joins the turns beside it. Thinking with a budget is
    not asked for where the tool calls that are being answered would now lack the thinking they must begin with.
    """
    body = bytes(fields["messages"])
    if b'thinking"' not in body:
        return
    raws = _RAWS.decode(body)
    turns = [_TURN.decode(raw) for raw in raws]
    bereft = set()
    for index, turn in enumerate(turns):
        if turn.role != "assistant" or isinstance(turn.content, str):
            continue
        kept = [block for block in turn.content if not _is_foreign(block)]
        if len(kept) < len(turn.content):
            raws[index] = Raw(_encode(_TURN_FIELDS.decode(raws[index]) | {"content": Raw(_encode(kept))}))
            turn.content = kept
            bereft.add(index)
    if not bereft:
        return
    left = [raw for index, raw in enumerate(raws) if index not in bereft or turns[index].content]
    fields["messages"] = Raw(_encode(left))
    dropped.append("thinking")
    if _has_a_budget(fields) and _resumes_without_thinking(turns, bereft):
        del fields["thinking"]
        dropped.append("thinking_budget")


def _is_foreign(raw: Raw) -> bool:
    block = _BLOCK.decode(raw)
    if block.type == "thinking":
        proof = block.signature
    elif block.type == "redacted_thinking":
        proof = block.data
    else:
        return False
    return proof is None or (isinstance(proof, str) and not is_genuine(proof))


def _has_a_budget(fields: dict[str, Raw]) -> bool:
    """Adaptive thinking, the other kind, does not mind how earlier turns begin."""
    setting = msgspec.json.decode(fields["thinking"]) if "thinking" in fields else None
    return isinstance(setting, dict) and setting.get("type") == "enabled"


def _resumes_without_thinking(turns: list[_Turn], bereft: set[int]) -> bool:
    """Whether the last turn answers tools, and thinking was taken since the question that they were called for."""
    if len(turns) < 2 or not _answers_tools(turns[-1]):
        return False
    asked = max((i for i, turn in enumerate(turns) if turn.role == "user" and not _answers_tools(turn)), default=0)
    return max(bereft) > asked and not _begins_with_thinking(turns[-2])


def _answers_tools(turn: _Turn) -> bool:
    return turn.role == "user" and any(_type_of(block) == "tool_result" for block in turn.content)


def _begins_with_thinking(turn: _Turn) -> bool:
    return _type_of(turn.content[0]) in ("thinking", "redacted_thinking") if turn.content else False


def _type_of(block: str | Raw) -> str:
    return "" if isinstance(block, str) else _BLOCK.decode(block).type
