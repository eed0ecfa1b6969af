"""Google's ``generateContent``, as the format of a vendor.

Its peculiarities: the model stands in the path, tool results are matched by function name, function calls
and text arrive whole in each streamed chunk with cumulative usage, a prompt may be blocked before anything is
generated, and thinking is proven by a signature on the function call it led to.
"""

from gateway.wire.gemini.answers import open_parser, parse_completion, parse_error
from gateway.wire.gemini.requests import render_request

DIALECT = "gemini"

__all__ = ["DIALECT", "open_parser", "parse_completion", "parse_error", "render_request"]
