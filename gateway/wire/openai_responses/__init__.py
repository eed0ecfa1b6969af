"""OpenAI's Responses API, toward callers and toward vendors that speak it.

    caller  -> us      parse_request, parse_conversation       caller_requests, conversation
    us      -> caller  render_completion, render_error,        caller_answers
                       open_stream                             caller_streams
    us      -> vendor  render_request                          vendor_requests
    vendor  -> us      parse_completion, open_parser           vendor_answers

Errors are those of OpenAI's chat format.
"""

from gateway.wire.openai_chat.vendor_errors import parse_error
from gateway.wire.openai_responses.caller_answers import render_completion, render_error
from gateway.wire.openai_responses.caller_requests import parse_request
from gateway.wire.openai_responses.caller_streams import open_stream
from gateway.wire.openai_responses.conversation import parse_conversation
from gateway.wire.openai_responses.shapes import DIALECT
from gateway.wire.openai_responses.vendor_answers import open_parser, parse_completion
from gateway.wire.openai_responses.vendor_requests import render_request

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
