"""Anthropic's Messages API, toward callers and toward vendors that speak it.

Its peculiarities: the system prompt stands apart, turns alternate, ``max_tokens`` is mandatory, tool results
are blocks of a user turn, thinking blocks are signed, and usage counts cache reads and writes beside the
input instead of inside it.

    caller  -> us      parse_request, parse_conversation       caller_requests, conversation
    us      -> caller  render_completion, open_stream,         caller_answers
                       render_error
    us      -> vendor  render_request                          requests
    vendor  -> us      parse_completion, parse_error,          answers
                       open_parser                             streams

``count_tokens`` is a path of its own beside it.
"""

from gateway.wire.anthropic_messages.answers import parse_completion, parse_error
from gateway.wire.anthropic_messages.caller_answers import open_stream, render_completion, render_error
from gateway.wire.anthropic_messages.caller_requests import parse_request
from gateway.wire.anthropic_messages.conversation import parse_conversation
from gateway.wire.anthropic_messages.requests import render_request
from gateway.wire.anthropic_messages.shapes import DIALECT
from gateway.wire.anthropic_messages.streams import open_parser

__all__ = [
    "DIALECT",
    "open_parser",
    "open_stream",
    "parse_completion",
    "parse_conversation",
    "parse_error",
    "parse_request",
    "render_completion",
    "render_error",
    "render_request",
]
