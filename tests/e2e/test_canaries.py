"""Secrets leave by no side door: canaries are planted, everything that can go wrong does, and then every place a secret
could have got to is searched for them. Prompts are among them: their content is not logged unless a tenant asks."""

import base64
import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psycopg
import pytest
import redis
from psycopg import sql

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import GatewayProcess

# In no vendor's or gateway's form on purpose: the log's masking, which knows those, is not what is tried here.
CANARIES = {name: secrets.token_hex(16) for name in ("vendor_key", "typed_key", "api_token", "password", "prompt")}
VENDOR_KEY = f"vendor-key-{CANARIES['vendor_key']}"
TYPED_KEY = f"typed-key-{CANARIES['typed_key']}"
API_TOKEN = f"api-token-{CANARIES['api_token']}"
PASSWORD = f"Pass-word-{CANARIES['password']}"
PROMPT = f"my diary says {CANARIES['prompt']}"
EMAIL = "canary@example.com"
PLACES = ("log", "answers", "metrics", "redis", "database", "commands", "files")

DECLARATION = """
tenants:
  - slug: canaries
    projects: [{{slug: web}}]
    providers:
      - {{name: lab, kind: openai-compatible, base_url: "{vendor}/v1", api_key: {{env: CANARY_KEY}}}}
      - {{name: parrot, kind: openai-compatible, base_url: "{parrot}/v1", api_key: {{env: CANARY_KEY}}}}
      - {{name: claude, kind: anthropic, base_url: "{parrot}", api_key: {{env: CANARY_KEY}}}}
      - {{name: gemini, kind: gemini, base_url: "{parrot}/v1beta", api_key: {{env: CANARY_KEY}}}}
      - {{name: nowhere, kind: openai-compatible, base_url: "http://127.0.0.1:9/v1", api_key: {{env: CANARY_KEY}}}}
    models:
{models}
    tokens: [{{name: ci, project: web, value: {{env: CANARY_TOKEN}}, models: ["*"], requests_per_minute: 10000}}]
"""
PARROTS = ("400", "401", "403", "404", "429", "500", "html", "junk", "event", "cut", "307")
MODELS = {
    "fine": ("lab", "canary-tok8"),
    "broken": ("lab", "canary-500"),
    "cut": ("lab", "canary-cut3rst"),
    "unauthorized": ("lab", "canary-401"),
    "unreachable": ("nowhere", "canary"),
    **{f"parrot-{what}": ("parrot", what) for what in PARROTS},
    **{f"{name}-{what}": (name, what) for name in ("claude", "gemini") for what in ("400", "401", "junk", "event")},
}


class Parrot(BaseHTTPRequestHandler):
    """A vendor that repeats the key and the prompt wherever a vendor can say something; the model name says where."""

    protocol_version = "HTTP/1.1"
    said: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._say(401, "application/json", self._error("a word"))

    def do_POST(self) -> None:
        heard = self.rfile.read(int(self.headers["content-length"])).decode()
        gemini = re.search(r"/models/([^:/]+):", self.path)
        wanted = gemini[1] if gemini else json.loads(heard)["model"]
        error = self._error(heard)
        if wanted.isdigit():
            self._say(int(wanted), "application/json", error)
        elif wanted in ("html", "junk"):
            self._say(200, "text/html" if wanted == "html" else "application/json", error)
        else:
            chunk = (
                '{"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "hi"}}]}'
            )
            last = f"event: error\ndata: {error}" if wanted == "event" else f"data: {error[:-9]}"
            self._say(200, "text/event-stream", f"data: {chunk}\n\n{last}\n\n")

    def _key(self) -> str:
        return " ".join(self.headers.get(name, "") for name in ("authorization", "x-api-key", "x-goog-api-key")).strip()

    def _error(self, heard: str) -> str:
        said = f"{self._key()} may not say {heard}"
        error = {"message": said, "type": said, "code": said, "param": said, "status": said, "details": [said]}
        return json.dumps({"type": "error", "error": error, "request_id": said, "detail": said})

    def _say(self, status: int, content_type: str, text: str) -> None:
        self.said.append(text)
        self.send_response(status, self._key() or None)
        for name in ("x-request-id", "x-error", "location"):
            self.send_header(name, f"/elsewhere?said={self._key()}")
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


class ParrotServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """The gateway hangs up on a vendor that talks nonsense."""


@dataclass(slots=True)
class Scene:
    """What was done, and what each place holds afterwards (one text a place)."""

    gateway: GatewayProcess
    answers: list[str] = field(default_factory=list)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.gateway.url, headers=headers, timeout=30, event_hooks={"response": [self._keep]}
        )

    def _keep(self, answer: httpx.Response) -> None:
        answer.read()
        head = "\n".join(f"{name.decode()}: {value.decode('latin-1')}" for name, value in answer.headers.raw)
        self.answers.append(f"{answer.request.method} {answer.status_code}\n{head}\n\n{answer.text}")


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 50, **more}


def call_models(scene: Scene) -> None:
    """Every model in three dialects, streamed and not."""
    with scene.client(authorization=f"Bearer {API_TOKEN}") as client:
        for model in MODELS:
            for stream in (False, True):
                answers = [
                    client.post("/v1/chat/completions", json=body(model, stream=stream)),
                    client.post("/v1/messages", json=body(model, stream=stream)),
                    client.post("/v1/responses", json={"model": model, "input": PROMPT, "stream": stream}),
                ]
                scene.statuses.setdefault(model, []).extend(answer.status_code for answer in answers)
            client.post("/v1/embeddings", json={"model": model, "input": PROMPT})
            client.post("/v1/messages/count_tokens", json=body(model))
        for _ in range(2):  # the second is replayed
            client.post("/v1/chat/completions", json=body("fine"), headers={"idempotency-key": "once"})
            client.post("/v1/chat/completions", json=body("fine", stream=True), headers={"idempotency-key": "twice"})
        client.post("/v1/chat/completions", json=body("fine"), headers={"x-stainless-retry-count": "0"})


def call_wrongly(scene: Scene) -> None:
    """Bodies that are none, and the token in every place but the right one."""
    with scene.client(authorization=f"Bearer {API_TOKEN}") as client:
        for content in (
            PROMPT, json.dumps(body("fine"))[:-1], json.dumps({"messages": PROMPT, "model": "fine"}),
            json.dumps(body("fine", temperature=PROMPT)), json.dumps(body("fine", tools=[{"type": PROMPT}])),
            json.dumps(body("fine", stream=PROMPT)), json.dumps(body("fine", tool_choice=PROMPT)),
        ):  # fmt: skip
            for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
                assert client.post(path, content=content).status_code == 400
        client.post("/v1/chat/completions", json=body("no-such-model"))
        for path in ("/v1/models", "/v1/models/fine", "/v1/nowhere", "/api/circuit-breakers", "/nowhere"):
            client.get(path)
            client.post(path, json=body("fine"))
    wrong: tuple[dict[str, str], ...] = (
        {"authorization": API_TOKEN}, {"authorization": f"Token {API_TOKEN}"}, {"authorization": f"Bearer {API_TOKEN}x"},
        {"authorization": "Basic " + base64.b64encode(f"user:{API_TOKEN}".encode()).decode()},
        {"authorization": f"Bearer {API_TOKEN[:-1]}"}, {"authorization": f"Bearer {VENDOR_KEY}"},
        {"x-token": API_TOKEN}, {"x-forwarded-for": API_TOKEN}, {"cookie": f"token={API_TOKEN}; sessionid={API_TOKEN}"},
    )  # fmt: skip
    for headers in wrong:
        with scene.client(**headers) as client:
            for path in ("/v1/chat/completions", "/v1/messages", "/v1/nowhere"):
                assert client.post(path, json=body("fine")).status_code in (401, 404)
            for path in ("/v1/models", f"/v1/models?key={API_TOKEN}", "/admin/", "/api/circuit-breakers"):
                assert client.get(path).status_code in (302, 401)


def operate(scene: Scene) -> None:
    """An operator signs in, wrongly and rightly, looks at everything, types a key and has providers checked."""
    with scene.client() as client:

        def send(page: str, **given: Any) -> int:
            """The page's form as it stands but for what is ``given``."""
            return client.post(page, data=fields_of(client.get(page).text) | given).status_code

        assert send("/admin/login/", username="nobody@example.com", password=PASSWORD) == 200
        assert send("/admin/login/", username=EMAIL, password=PASSWORD) == 302
        listed = client.get("/admin/gateway/provider/").text
        providers = sorted(set(re.findall(r"/admin/gateway/provider/([0-9a-f-]{36})/change/", listed)))
        for page in (f"/admin/gateway/provider/{provider}/change/" for provider in providers):
            assert send(page, key=TYPED_KEY, base_url="not an address") == 200
            assert send(page, key=f"{TYPED_KEY} {TYPED_KEY}") == 200
            assert send(page, key=TYPED_KEY) == 302
        assert send("/admin/gateway/provider/", action="check_now", _selected_action=providers) == 302
        for page in sorted(set(re.findall(r'href="(/admin/[a-z]+/[a-z]+/)"', client.get("/admin/").text))):
            rows = re.findall(r'href="(/admin/[^"]+/change/[^"]*)"', client.get(page).text)
            for row in sorted(set(rows))[:3]:
                client.get(row.replace("&amp;", "&"))
        send("/admin/password_change/", old_password=PASSWORD + "x", new_password1=PASSWORD, new_password2=PASSWORD)


def fields_of(page: str) -> dict[str, str]:
    """What a browser would send of the page's inputs and selects as they stand."""
    fields = {}
    for tag in re.findall(r"<input\b[^>]*>", page):
        given = dict(re.findall(r'([a-z]+)="([^"]*)"', tag))
        if "name" in given and (given.get("type") not in ("checkbox", "submit") or re.search(r"\bchecked\b", tag)):
            fields[given["name"]] = given.get("value", "on" if given.get("type") == "checkbox" else "")
    for name, options in re.findall(r'<select name="([^"]+)".*?>(.*?)</select>', page, re.DOTALL):
        if chosen := re.search(r'value="([^"]*)" selected', options):
            fields[name] = chosen[1]
    return fields


# ----------------------------------------------------------------------------- the places


def everything_in_redis() -> str:
    """All keys and values, whatever their type."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as db:
        readers: dict[bytes, Callable[[Any], Any]] = {
            b"string": db.get, b"hash": db.hgetall, b"set": db.smembers, b"stream": db.xrange,
            b"list": lambda key: db.lrange(key, 0, -1), b"zset": lambda key: db.zrange(key, 0, -1),
            b"none": lambda key: "expired meanwhile",
        }  # fmt: skip
        return "\n".join(f"{key!r} {readers[db.type(key)](key)!r}" for key in db.scan_iter(count=1000))


def everything_in_the_database(url: str) -> str:
    """Every column of every row, as text; bytes in hexadecimal. Read as the tables' owner, who sees all tenants."""
    found = []
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables "
            "WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for schema, table in tables:
            rows = connection.execute(sql.SQL("SELECT t::text FROM ONLY {} t").format(sql.Identifier(schema, table)))
            found += [f"{table} {row}" for (row,) in rows]
    return "\n".join(found)


def everything_in_files(folder: Path) -> str:
    """What the data directory holds: the log, spools and the like."""
    return "\n".join(f"{path} {path.read_bytes().decode('latin-1')}" for path in folder.rglob("*") if path.is_file())


def commands(gateway: GatewayProcess) -> str:
    """What commands say of it all."""
    lines = [["check_provider", "parrot"], ["check_provider", "claude", "--json"], ["doctor"], ["export_ledger"]]
    done = [gateway.manage(*line, check=False) for line in lines]
    return "\n".join(f"{command.args} {command.stdout} {command.stderr}" for command in done)


@pytest.fixture(scope="module")
def parrot() -> Iterator[str]:
    server = ParrotServer(("127.0.0.1", 0), Parrot)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with server:
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def scene(vendors: VendorServer, parrot: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    database = provision.create_database(f"{provision.PREFIX}_canaries_{os.getpid()}")
    folder: Path = tmp_path_factory.mktemp("canaries")
    gateway = GatewayProcess(database, folder, LOG_LEVEL="DEBUG", LOG_FORMAT="json")
    models = "\n".join(
        f"      - {{name: {name}, provider: {provider}, vendor_model: '{model}', price: {{input: 1, output: 2}}}}"
        for name, (provider, model) in MODELS.items()
    )
    declared = DECLARATION.format(vendor=vendors.url, parrot=parrot, models=models)
    gateway.apply(declared, CANARY_KEY=VENDOR_KEY, CANARY_TOKEN=API_TOKEN)
    gateway.manage("prepare", ADMIN_EMAIL=EMAIL, ADMIN_PASSWORD=PASSWORD)
    with gateway:
        scene = Scene(gateway)
        call_models(scene)
        call_wrongly(scene)
        scene.places["redis"] = everything_in_redis()
        scene.places["metrics"] = httpx.get(f"{gateway.url}/metrics").text
        scene.places["commands"] = commands(gateway)
        operate(scene)
        scene.places["redis"] += everything_in_redis()
    scene.places["answers"] = "\n\n".join(scene.answers)
    scene.places["database"] = everything_in_the_database(database.owner_url)
    scene.places["log"] = gateway.output
    scene.places["files"] = everything_in_files(folder)
    yield scene
    provision.drop_database(database.name)


# ----------------------------------------------------------------------------- the search


def forms_of(canary: str) -> Iterator[str]:
    """As it is, as PostgreSQL shows bytes, and inside longer texts in base64."""
    yield canary
    yield canary.encode().hex()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + canary.encode()).decode()
        yield encoded[(0, 2, 3)[before] : -4]


def finds(canary: str, text: str) -> list[str]:
    """Each find with what surrounds it."""
    pattern = "|".join(map(re.escape, forms_of(canary)))
    return [text[max(0, found.start() - 150) : found.end() + 50] for found in re.finditer(pattern, text)]


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("place", PLACES)
def test_no_canary_got_out(scene: Scene, place: str, canary: str) -> None:
    found = finds(CANARIES[canary], scene.places[place])
    assert not found, f"{canary} is {len(found)} times in the {place}, first of all here: {found[:3]}"


@pytest.mark.parametrize(
    ("place", "marker"),
    [
        ("log", "is open for"), ("answers", "parrot-500"), ("answers", "csrfmiddlewaretoken"), ("metrics", "pointsman_requests"),
        ("database", "parrot-500"), ("database", EMAIL), ("database", "provider_key.set"), ("commands", "parrot"),
        ("files", "tenants:"), ("redis", "pointsman:circuits"), ("redis", "pointsman:idempotent"),
    ],
)  # fmt: skip
def test_the_search_sees_what_is_there(scene: Scene, place: str, marker: str) -> None:
    assert marker in scene.places[place]


@pytest.mark.parametrize("wrapped", ["{}", "Bearer {}", '{{"key": "sk-{}", "n": 1}}', "user:{}", "\0\1{}!"])
def test_the_search_sees_through_encodings(wrapped: str) -> None:
    text = wrapped.format(CANARIES["api_token"])
    for written in (text, text.encode().hex(), base64.b64encode(text.encode()).decode()):
        assert finds(CANARIES["api_token"], written)
        assert not finds(CANARIES["password"], written)


def test_all_that_can_go_wrong_went_wrong(scene: Scene) -> None:
    assert sum(VENDOR_KEY in said and CANARIES["prompt"] in said for said in Parrot.said) > 20
    assert any(TYPED_KEY in said for said in Parrot.said)
    assert set(scene.statuses["fine"]) == {200}
    for model, statuses in scene.statuses.items():
        if model not in ("fine", "cut", "parrot-event", "parrot-cut"):
            assert min(statuses) >= 400, model
    assert sum("GET 200" in answer for answer in scene.answers) > 20


def test_every_line_of_the_log_is_json(scene: Scene) -> None:
    lines = [json.loads(line) for line in scene.places["log"].splitlines()]
    assert lines
    assert all({"timestamp", "level", "logger", "event"} <= set(line) for line in lines)
