"""OpenAI's chat completions, toward callers and toward vendors that speak it.

The verbs of :mod:`gateway.wire.verbs`, by direction:

    caller  -> us      parse_request, parse_conversation       caller_requests, conversation
    us      -> caller  render_completion, open_stream,         caller_answers
                       render_error
    us      -> vendor  render_request                          vendor_requests
    vendor  -> us      parse_completion, open_parser,          vendor_answers, vendor_streams,
                       parse_error                             vendor_errors, usage
"""

from gateway.wire.openai_chat.caller_answers import open_stream, render_completion, render_error
from gateway.wire.openai_chat.caller_requests import parse_request
from gateway.wire.openai_chat.conversation import parse_conversation
from gateway.wire.openai_chat.shapes import DIALECT
from gateway.wire.openai_chat.vendor_answers import parse_completion
from gateway.wire.openai_chat.vendor_errors import parse_error
from gateway.wire.openai_chat.vendor_requests import render_request
from gateway.wire.openai_chat.vendor_streams import open_parser

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
