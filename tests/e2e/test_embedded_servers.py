"""The servers that come along where none is configured: they belong to whoever uses them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.provision import ROOT


def command(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    environment["DATA_DIR"] = str(data_dir)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "manage.py", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def servers_of(data_dir: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] in ("postgres", "redis-server")
        and str(data_dir) in " ".join(process.info["cmdline"] or ())
    ]


def test_embedded_servers_keep_their_data_stop_with_their_users_and_survive_a_kill(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    assert command(data_dir, "migrate", "--verbosity", "0").returncode == 0
    assert command(data_dir, "create_tenant", "acme").returncode == 0
    assert servers_of(data_dir) == []  # the last one to leave stops them

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data_dir)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={name: value for name, value in os.environ.items() if not name.endswith("_URL")},
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    for process in (*servers_of(data_dir), psutil.Process(holder.pid)):
        process.send_signal(signal.SIGKILL)
    holder.wait()

    again = command(data_dir, "create_tenant", "acme")
    assert again.returncode != 0
    assert "already exists" in again.stderr
    assert servers_of(data_dir) == []


HOLD = """
import sys, time
from pathlib import Path
from gateway import embedded
embedded.provide(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    done = command(in_the_way / "var", "migrate")
    assert done.returncode == 1
    assert done.stderr.startswith("error: DATA_DIR ")
    assert len(done.stderr.splitlines()) == 1
