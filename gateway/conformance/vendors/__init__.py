"""Scripted LLM vendors on loopback: the independent other side of every test and benchmark.

One port speaks OpenAI (chat, Responses and what it offers beside them), Anthropic, Gemini and Ollama, whole and
streamed, checks requests as strictly as the originals and answers or fails as the model name says (the table is in
:mod:`gateway.conformance.vendors.behaviours`). Nothing here imports the rest of the gateway: a shared mistake would go
unnoticed.
"""

from gateway.conformance.vendors.answers import Metered, count_tokens, signature_of
from gateway.conformance.vendors.fixture import VendorServer
from gateway.conformance.vendors.log import LoggedCall
from gateway.conformance.vendors.schemas import instance_of

__all__ = ["LoggedCall", "Metered", "VendorServer", "count_tokens", "instance_of", "signature_of"]
