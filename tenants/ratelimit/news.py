"""What Redis has to hear of requests admitted earlier."""

from collections.abc import Iterator

from msgspec import Struct, field, msgpack

from tenants.ratelimit.rules import Correction


class News(Struct, eq=False):
    """Corrections of estimates, and leases given back or still held, each as (key of the slots, name of the lease)."""

    corrections: list[Correction] = field(default_factory=list)
    returned: list[tuple[str, str]] = field(default_factory=list)
    renewed: list[tuple[str, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.corrections or self.returned or self.renewed)

    def first(self, most: int) -> "News":
        """Takes at most so many of each kind out."""
        taken = News(self.corrections[:most], self.returned[:most], self.renewed[:most])
        del self.corrections[:most], self.returned[:most], self.renewed[:most]
        return taken

    def add_again(self, lost: "News") -> None:
        """What did not reach Redis. Only what is given back still matters when Redis is there again."""
        self.corrections.clear()
        self.renewed.clear()
        self.returned = lost.returned + self.returned

    def named_keys(self) -> Iterator[str]:
        for correction in self.corrections:
            yield correction.key
        for key, _ in self.returned:
            yield key
        for key, _ in self.renewed:
            yield key

    def encoded(self) -> bytes:
        """As the script reads it; empty when there is none."""
        if not self:
            return b""
        returned, renewed = ([name for _, name in leases] for leases in (self.returned, self.renewed))
        return msgpack.encode((self.corrections, returned, renewed))
