"""Processes that die, and accelerators that are away."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.conftest import TOKEN
from tests.e2e.gateway_process import GatewayProcess
from tests.provision import ROOT

MESSAGES = [{"role": "user", "content": "one two three"}]
DECLARATION = """
tenants:
  - slug: acme
    projects: [{{slug: web}}]
    providers: [{{name: lab, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-lab"}}]
    models: [{{name: small, provider: lab, vendor_model: small-tok8, price: {{input: 0.15, output: 0.60}}}}]
    tokens: [{{name: ci, project: web, value: {{env: E2E_TOKEN}}, models: ["*"]}}]
"""


def own_gateway(vendors: VendorServer, folder: Path, **settings: str) -> Iterator[GatewayProcess]:
    database = provision.create_database(f"{provision.PREFIX}_{folder.name.replace('-', '_')}_{os.getpid()}")
    gateway = GatewayProcess(database, folder, **settings)
    gateway.apply(DECLARATION.format(url=vendors.url), E2E_TOKEN=TOKEN)
    with gateway:
        yield gateway
    provision.drop_database(database.name)


@pytest.fixture
def without_redis(vendors: VendorServer, tmp_path: Path) -> Iterator[GatewayProcess]:
    yield from own_gateway(vendors, tmp_path, REDIS_URL="redis://127.0.0.1:9/0", IP_RATE_LIMIT="100000")


@pytest.fixture
def own(vendors: VendorServer, tmp_path: Path) -> Iterator[GatewayProcess]:
    yield from own_gateway(vendors, tmp_path)


def ask(gateway: GatewayProcess, client: httpx.Client) -> httpx.Response:
    body = {"model": "small", "messages": MESSAGES}
    return client.post(
        f"{gateway.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {TOKEN}"}, timeout=20
    )


def test_without_redis_every_request_is_served_and_says_so(without_redis: GatewayProcess) -> None:
    with httpx.Client() as client:
        answers = [ask(without_redis, client) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert answers[-1].headers["x-gateway-degraded"] == "ratelimit"


def test_every_request_of_many_at_once_is_in_the_ledger(own: GatewayProcess, vendors: VendorServer) -> None:
    vendors.reset()
    each, workers = 25, 16

    def work() -> None:
        with httpx.Client() as client:
            for _ in range(each):
                assert ask(own, client).status_code == 200

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own.stop()
    lines = own.ledger(state="settled")
    assert len(lines) == each * workers == len(vendors.log)
    assert sum(line["output_tokens"] for line in lines) == sum(call.metered.output for call in vendors.log)
    assert len({line["attempt_id"] for line in lines}) == len(lines)


def test_a_killed_gateway_leaves_its_attempts_on_the_ledger(own: GatewayProcess) -> None:
    body = {"model": "small", "messages": MESSAGES}
    with openai.OpenAI(base_url=f"{own.url}/v1", api_key=TOKEN, max_retries=0) as client:
        client.chat.completions.create(**body)
        own.kill()
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**body)
        own.start()
        client.chat.completions.create(**body)
    own.stop()
    assert len(own.ledger()) == 2


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


def test_a_taken_port_is_one_clear_line(own: GatewayProcess) -> None:
    done = own.manage("up", check=False)
    assert done.returncode == 1
    assert f"Port {own.port} on 127.0.0.1 cannot be used" in done.stderr
    assert len(done.stderr.splitlines()) == 1
