"""One call as it goes through the pipeline: what came in, what is known of it, and what goes back."""

from collections.abc import AsyncGenerator, Callable, Mapping

from msgspec import Struct, field

from gateway.dispatch import DrainedStream, Job, OpenAttempt, ServedStream
from gateway.errors import GatewayError
from gateway.policy import TenantPolicy, TokenFacts
from gateway.selection import Selection
from gateway.wire.types import Request
from gateway.wire.verbs import CallerFormat, StreamRenderer
from tenants.ratelimit import Lease

JSON = (b"content-type", b"application/json")
EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
REPLAYED = (b"x-gateway-idempotent-replay", b"true")
NOT_FROM_CACHE = (b"x-gateway-cache", b"miss")
LEAVING = "pointsman.leaving"  # an ASGI extension of our server: a set of what is called when the caller hangs up
Headers = list[tuple[bytes, bytes]]
AnyStream = ServedStream | DrainedStream


class Call(Struct, eq=False):
    """What came in. ``received`` is ``time.perf_counter()`` at the last byte of the body."""

    request_id: str
    caller: CallerFormat
    body: bytes
    headers: Mapping[str, str]
    credential: str | None
    client_ip: str
    received: float
    opened: float | None = None  # when a stream's first event was there: from then on its vendor sets the pace
    answer_headers: Headers = field(default_factory=list)
    request: Request | None = None  # once it is parsed
    selection: Selection | None = None  # where a limit had to know it before it is served
    outcome: "Outcome | None" = None
    lease: Lease | None = None  # what its limits hold for it until it ends
    answered: bytes = b""  # what it was told, for tenants who keep that
    broke_off: bool = False  # its stream ended in an error
    left: bool = False  # the caller hung up: whatever else cancels it is the server's shutdown
    renderer: StreamRenderer | None = None  # of its stream, once that has begun

    @property
    def streamed(self) -> bool:
        """Whether the caller is known to wait for a stream."""
        return self.request is not None and self.request.stream

    def early_headers(self) -> Headers:
        """The headers of a stream that starts before its vendor has spoken."""
        return [*EVENT_STREAM, *self.answer_headers, NOT_FROM_CACHE]

    def render_stream_error(self, error: GatewayError) -> bytes:
        """What ends a stream that has begun and got nowhere."""
        assert self.request is not None  # noqa: S101 - only a parsed request starts a stream
        renderer = self.renderer or self.caller.open_stream(self.request)
        return renderer.render_error(error, self.request_id)


class WholeAnswer(Struct, eq=False):
    headers: Headers
    body: bytes


class StreamedAnswer(Struct, eq=False):
    """``events`` yields the bytes of server-sent events; it must be closed (``aclose``) if not read to its end.
    ``abandon`` ends what is behind them when nobody has even begun to read: a generator that never ran has no end."""

    headers: Headers
    events: AsyncGenerator[bytes, None]
    abandon: Callable[[], None] | None = None


Answer = WholeAnswer | StreamedAnswer


class Outcome(Struct, eq=False):
    """What is known of a request for the request log, filled in as it goes."""

    policy: TenantPolicy
    token: TokenFacts
    request: Request
    job: Job | None = None
    served: OpenAttempt | None = None
    finish_reason: str = ""
    selection: Selection | None = None  # where the caller left the choice of the model to us

    @property
    def judged(self) -> bool:
        """Whether its answer goes to the judge."""
        return self.selection is not None and self.selection.judged
