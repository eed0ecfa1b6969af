"""A command that is run by fork has to be what it is when it is started."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.gateway_process import GatewayProcess
from tests.provision import ROOT


@pytest.mark.parametrize(
    "words",
    [
        ("version",),
        ("no_such_command",),
        ("export_ledger", "--tenant", "nobody"),
        ("shell", "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"),
        ("shell", "-c", "raise ValueError('unforeseen')"),
    ],
)
def test_it_says_the_same_and_ends_the_same(gateway: GatewayProcess, words: tuple[str, ...]) -> None:
    warm = gateway.manage(*words, check=False)
    cold = subprocess.run(
        [sys.executable, "-W", "ignore", "manage.py", *words],
        cwd=ROOT, env=gateway.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


def test_many_at_once_keep_apart_what_they_are_told_and_what_they_say(gateway: GatewayProcess) -> None:
    def echo(number: int) -> str:
        said = gateway.manage("shell", "-c", "import os; print(os.environ['SAID'])", SAID=f"n{number}").stdout
        return said.splitlines()[-1]  # before it the shell tells what it has imported

    with ThreadPoolExecutor(8) as callers:
        assert list(callers.map(echo, range(8))) == [f"n{number}" for number in range(8)]


def test_a_failed_command_raises_where_that_was_not_expected(gateway: GatewayProcess) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        gateway.manage("no_such_command")
