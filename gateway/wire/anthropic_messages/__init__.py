"""Anthropic's Messages API, as the format of a vendor.

Its peculiarities: the system prompt stands apart, turns alternate, ``max_tokens`` is mandatory, tool results
are blocks of a user turn, thinking blocks are signed, and usage counts cache reads and writes beside the
input instead of inside it.
"""

from gateway.wire.anthropic_messages.answers import open_parser, parse_completion, parse_error
from gateway.wire.anthropic_messages.requests import render_request

DIALECT = "anthropic_messages"

__all__ = ["DIALECT", "open_parser", "parse_completion", "parse_error", "render_request"]
