"""Being written."""

from collections.abc import Mapping
from typing import Any

from gateway.errors import ProviderError


class TargetHealth:
    def __init__(self, redis: Any = None) -> None: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...
    def admits(self, circuit: str) -> bool:
        return True

    async def try_probe(self, circuit: str) -> bool:
        return False

    def succeeded(self, circuit: str, first_token_s: float | None) -> None: ...
    def failed(self, circuit: str, error: ProviderError) -> None: ...
    def saw_headers(self, circuit: str, headers: Mapping[str, str]) -> None: ...
    def paused_for(self, circuit: str) -> float:
        return 0.0

    def retry_in(self, circuit: str) -> float:
        return 1.0

    def first_token_s(self, circuit: str, quantile: float) -> float | None:
        return None

    def abandoned_probe(self, circuit: str) -> None: ...
