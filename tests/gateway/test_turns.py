"""Calls that wait for the others of their tick, and are then made one right after the other."""

import asyncio

import pytest

from gateway.turns import InTurn


async def test_calls_of_one_tick_are_made_together_and_in_order() -> None:
    made: list[str] = []

    def step(name: str) -> str:
        made.append(f"step {name}")
        return name.upper()

    in_turn = InTurn(step)

    async def request(name: str) -> str:
        made.append(f"before {name}")
        return await in_turn(name)

    assert await asyncio.gather(request("a"), request("b")) == ["A", "B"]
    assert made == ["before a", "before b", "step a", "step b"]


async def test_one_that_fails_does_not_disturb_the_others() -> None:
    def inverse(number: float) -> float:
        return 1 / number

    in_turn = InTurn(inverse)
    found = await asyncio.gather(in_turn(2.0), in_turn(0.0), in_turn(4.0), return_exceptions=True)
    assert (found[0], type(found[1]), found[2]) == (0.5, ZeroDivisionError, 0.25)


async def test_nothing_is_called_for_who_has_gone() -> None:
    made: list[str] = []
    in_turn = InTurn(made.append)
    gone, stays = in_turn("gone"), in_turn("stays")
    gone.cancel()
    await stays
    assert made == ["stays"]
    with pytest.raises(asyncio.CancelledError):
        await gone
