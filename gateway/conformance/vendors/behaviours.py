"""How a scripted vendor behaves, read from the model name.

A model name is split at its dashes; each part that stands in this table changes the behaviour, every other
part is just a name. ``gpt-4o-tok8-cached25`` is the model ``gpt-4o`` answering with 8 tokens, 25 % of its prompt
cached. Later parts win over earlier ones. The same words script the next calls of a model (``script``).

    what is answered
    tokN          N output tokens, "tok1 tok2 ... tokN"; without it 8, or 60 where a fault counts chunks
    toklongN      N output tokens of 1000 characters each, "tok1........ tok2........"
    varyK         from the K-th word on the text bears the call's own number ("tok5~17"): no two calls agree
    cachedP       P % of the prompt tokens are read from a cache (Ollama has none: reported as plain input)
    cachewriteP   P % of the prompt tokens are written to a cache (Anthropic only)
    flex          served in the flex tier, and said so (OpenAI chat only; any other model is served in the tier that is
                  asked for, else in the default one; Anthropic says at which speed, where one is asked for)
    thinkN        N reasoning tokens "think1 ... thinkN" first, in each format's own way
    tool          calls the first offered tool (or the chosen one) with {"city": "Paris"}; text only when none is
                  offered, tool_choice forbids it or a tool result came last. With tokN, text precedes the call
    tools2        the same with two parallel calls, Paris and Rome (the second tool is used when two are offered);
                  OpenAI's stream interleaves the pieces of their arguments. Any number works
    json          an object that fits the given schema (required properties only), {"answer": "tok1"} without one
    refuse        a refusal in the format's way (Gemini: the prompt is blocked, Ollama: plain text)
    filter        all tokens, then a content filter's stop (Ollama has none: a plain stop)
    length        stops for length after max_tokens, at most tokN (or 60) tokens
    noprefill     refuses a conversation that an assistant's turn ends, with the vendor's 400. Any other model goes on
                  with that turn where its text would begin so ("tok1 tok2" is answered with " tok3 ...")
    freshprefill  takes such a conversation and starts over all the same
    echo          the last user text, then " [image/png ...]" for the media seen in that message
    stop          honours stop sequences (any other model ignores them; max_tokens is always honoured)

    pace
    gapMS         MS milliseconds before each token (a whole answer waits for the sum)
    slowfirstS    S seconds before the first token (slowfirst300ms: milliseconds)
    pings         while slowfirst lasts, the stream has begun and says every 200 ms that it is alive: comments and
                  empty deltas (OpenAI), comments (Responses, Gemini), pings (Anthropic), empty lines (Ollama)
    drip, dripMS  the body goes out byte by byte, 50 (or MS) milliseconds apart

    refusals, with the vendor's own error body
    400 401 403 404 408 413 422 500 502 503 504 529    that status
    429, 429none  rate limited without Retry-After
    429sN         Retry-After: N (seconds)
    429date       Retry-After: an HTTP date 2 s ahead
    429reset      the vendor's rate-limit headers, nothing remaining, reset in 2 s (Retry-After where it has none)
    rlN           N calls per key and 2 s; each answer counts down in the vendor's rate-limit headers, the next call
                  is a 429reset
    downS         503 for S seconds from the model's first call on, then healthy (down300ms: milliseconds)
    ctx           400, the prompt exceeds the context window

    faults (a whole answer meets the nearest equivalent, in brackets)
    reset         RST before the headers
    silent        the request is read and never answered
    headers-silent  200 and the headers, then silence
    stallN        silence after N chunks of content [after half the body]
    cutNfin       FIN 16 bytes into the event that follows N tokens, inside its HTTP chunk [half the body]
    cutNrst       RST after N tokens [after half the body]
    badeventN     the N-th event of the stream is broken JSON, the rest is sound [broken JSON]
    erreventN     the format's error event after N chunks of content, then the end [200 with an error body]
    errplainN     the same as a bare "error" event where the format has a second one (Responses: response.failed)
    nodone        the end marker (OpenAI [DONE], Anthropic message_stop) is missing and the connection stays open
                  for 30 s (nodoneS: S seconds); Gemini and Ollama only keep it open [a sound answer]
    nousage       no usage anywhere
    usageall      running usage on every chunk (OpenAI, asked for or not; Gemini always does)
    usagewrong    every count of tokens is negative (usagewrongtext: a text)
    wrongtype     200 text/html
    empty         200 and an empty body
    giant         one token, 20 MiB long, on one line

Whatever is no conversation (embeddings, images, ...) knows reset, silent, slowfirst and the refusals.

Any word may end in ``once``: it applies to the model's first call since the start or the last reset (500once).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

DEFAULT_TOKENS = 8
LONG_TOKENS = 60
LONG_TOKEN_CHARS = 1000
GIANT_BYTES = 20 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One call's behaviour; the module's table says what each field does."""

    tokens: int | None = None
    token_chars: int = 0
    vary_from: int | None = None
    prefill: Literal["continue", "refuse", "ignore"] = "continue"
    cached_percent: int = 0
    cache_write_percent: int = 0
    thinking: int = 0
    tool_calls: int = 0
    json: bool = False
    refuse: bool = False
    filter: bool = False
    length: bool = False
    echo: bool = False
    stop: bool = False
    gap_s: float = 0.0
    first_token_s: float = 0.0
    pings: bool = False
    drip_s: float = 0.0
    status: int | None = None
    retry_after: str | None = None
    rate_limit: int | None = None
    down_s: float = 0.0
    context_exceeded: bool = False
    reset: bool = False
    silent: Literal["request", "headers"] | None = None
    stall_after: int | None = None
    cut_after: int | None = None
    cut_by: Literal["fin", "rst"] = "fin"
    bad_event: int | None = None
    error_after: int | None = None
    error_plain: bool = False
    hold_open_s: float = 0.0
    usage: Literal["normal", "none", "every_chunk", "negative", "text"] = "normal"
    wrong_type: bool = False
    empty: bool = False
    giant: bool = False

    @property
    def text_tokens(self) -> int:
        """Text tokens to answer with when nothing else decides the text."""
        if self.tokens is not None:
            return self.tokens
        counts_chunks = (self.stall_after, self.cut_after, self.bad_event, self.error_after)
        long = self.length or any(count is not None for count in counts_chunks)
        return LONG_TOKENS if long else DEFAULT_TOKENS


def _seconds(number: str, unit: str | None) -> float:
    return int(number) / 1000 if unit else float(number)


_WORDS: list[tuple[str, Callable[[re.Match[str]], dict[str, Any]]]] = [
    (r"tok(\d+)", lambda m: {"tokens": int(m[1]), "token_chars": 0}),
    (r"toklong(\d+)", lambda m: {"tokens": int(m[1]), "token_chars": LONG_TOKEN_CHARS}),
    (r"vary(\d+)", lambda m: {"vary_from": int(m[1])}),
    (r"noprefill", lambda _: {"prefill": "refuse"}),
    (r"freshprefill", lambda _: {"prefill": "ignore"}),
    (r"cached(\d+)", lambda m: {"cached_percent": int(m[1])}),
    (r"cachewrite(\d+)", lambda m: {"cache_write_percent": int(m[1])}),
    (r"flex", lambda _: {}),  # stands in the answer's model, which is all that the format needs
    (r"think(\d+)", lambda m: {"thinking": int(m[1])}),
    (r"tool", lambda _: {"tool_calls": 1}),
    (r"tools(\d+)", lambda m: {"tool_calls": int(m[1])}),
    (r"json|refuse|filter|length|echo|stop|pings|empty|giant|reset", lambda m: {m[0]: True}),
    (r"gap(\d+)", lambda m: {"gap_s": int(m[1]) / 1000}),
    (r"slowfirst(\d+)(ms)?", lambda m: {"first_token_s": _seconds(m[1], m[2])}),
    (r"drip(\d+)?", lambda m: {"drip_s": int(m[1] or 50) / 1000}),
    (r"400|401|403|404|408|413|422|429|500|502|503|504|529", lambda m: {"status": int(m[0])}),
    (r"429none", lambda _: {"status": 429}),
    (r"429s(\d+)", lambda m: {"status": 429, "retry_after": m[1]}),
    (r"429(date|reset)", lambda m: {"status": 429, "retry_after": m[1]}),
    (r"rl(\d+)", lambda m: {"rate_limit": int(m[1])}),
    (r"down(\d+)(ms)?", lambda m: {"down_s": _seconds(m[1], m[2])}),
    (r"ctx", lambda _: {"context_exceeded": True}),
    (r"silent", lambda _: {"silent": "request"}),
    (r"headers_silent", lambda _: {"silent": "headers"}),
    (r"stall(\d+)", lambda m: {"stall_after": int(m[1])}),
    (r"cut(\d+)(fin|rst)", lambda m: {"cut_after": int(m[1]), "cut_by": m[2]}),
    (r"badevent(\d+)", lambda m: {"bad_event": int(m[1])}),
    (r"errevent(\d+)", lambda m: {"error_after": int(m[1]), "error_plain": False}),
    (r"errplain(\d+)", lambda m: {"error_after": int(m[1]), "error_plain": True}),
    (r"nodone(\d+)?", lambda m: {"hold_open_s": float(m[1] or 30)}),
    (r"nousage", lambda _: {"usage": "none"}),
    (r"usageall", lambda _: {"usage": "every_chunk"}),
    (r"usagewrong", lambda _: {"usage": "negative"}),
    (r"usagewrongtext", lambda _: {"usage": "text"}),
    (r"wrongtype", lambda _: {"wrong_type": True}),
]
_COMPILED = [(re.compile(pattern), fields) for pattern, fields in _WORDS]


def _fields_of(word: str) -> dict[str, Any] | None:
    for pattern, fields in _COMPILED:
        if match := pattern.fullmatch(word):
            return fields(match)
    return None


@lru_cache(maxsize=4096)
def parse_behaviour(words: str, first_call: bool = True) -> Behaviour:
    """The behaviour that ``words`` (a model name) ask for; ``first_call`` decides on the "once" words."""
    fields: dict[str, Any] = {}
    for word in words.replace("headers-silent", "headers_silent").split("-"):
        stem = word.removesuffix("once")
        if stem == word or first_call:
            fields |= _fields_of(stem) or {}
    return Behaviour(**fields)


def check_words(words: str) -> None:
    """Raises ValueError when a scripted behaviour holds a word the table does not know ("" and "ok" are none)."""
    for word in words.replace("headers-silent", "headers_silent").split("-"):
        if word not in ("", "ok") and _fields_of(word.removesuffix("once")) is None:
            raise ValueError(f"unknown behaviour {word!r} in {words!r}")
