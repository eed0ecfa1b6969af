"""A program that is started warm has to be what it is in an interpreter of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.provision import ROOT
from tests.warm_python import WarmPython

READS_SETTINGS = ("gateway.settings", "gateway.connections", "gateway.asgi", "gateway.models")
TELLING = "import os, sys; print(os.getcwd(), sorted(os.environ), sys.argv[1:], sys.stdin.read())"


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmPython]:
    with WarmPython() as python:
        yield python


def test_it_knows_its_environment_its_words_and_its_folder_as_in_an_interpreter_of_its_own(
    warm: WarmPython, tmp_path: Path
) -> None:
    environment = {"PATH": os.environ["PATH"], "SAID": "by the test", "LC_CTYPE": "C.UTF-8"}
    with (tmp_path / "out").open("wb") as out:
        started = warm.start("timeit", ["-n1", "-r1", TELLING], environment=environment, out=out, err=out)
        assert started.wait(60) == 0
    command = [sys.executable, "-m", "timeit", "-n1", "-r1", TELLING]
    cold = subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert (tmp_path / "out").read_text().splitlines()[0] == cold.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("statement", "code"), [("import os; os._exit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9), ("1/0", 1)]
)
def test_how_it_ends_is_told(warm: WarmPython, tmp_path: Path, statement: str, code: int) -> None:
    with (tmp_path / "said").open("wb") as said:
        started = warm.start("timeit", ["-n1", "-r1", statement], environment=os.environ, out=said, err=said)
        assert started.wait(60) == code
    assert started.poll() == code
    started.kill()  # of one that has ended: nothing


def test_one_that_runs_can_be_waited_for_in_vain_and_be_ended(warm: WarmPython, tmp_path: Path) -> None:
    with (tmp_path / "said").open("wb") as said:
        started = warm.start(
            "timeit", ["-n1", "-r1", "import time; time.sleep(60)"], environment=os.environ, out=said, err=said
        )
    assert started.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        started.wait(0.1)
    started.terminate()
    assert started.wait(60) == -15


def test_nothing_is_loaded_that_reads_settings() -> None:
    program = (
        "import sys; from tests import warm_python; warm_python.load(); from django.conf import settings; "
        f"assert not settings.configured; found = set({READS_SETTINGS}) & set(sys.modules); assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
