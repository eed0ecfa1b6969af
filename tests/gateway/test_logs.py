"""What a log line looks like whoever writes it, and that no secret gets into one."""

import json
import logging
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from logging.config import DictConfigurator  # type: ignore[attr-defined] # documented only by its use
from typing import Any

import pytest
import structlog
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway import logs
from tenants import tokens
from tests.provision import ROOT

PEPPERS = tokens.Peppers({1: b"p" * 32})
FORMATS = pytest.mark.parametrize("output", logs.FORMATS)
Emit = Callable[[logging.Logger], object]


def written(output: str, emit: Emit) -> str:
    """What a process with this format would have written."""
    stream = StringIO()
    config = logs.logging_config("DEBUG", output)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(DictConfigurator(config).configure_formatter(config["formatters"]["line"]))
    logger = logging.Logger("gateway.somewhere")  # noqa: LOG001 - outside the tree: nothing else hears of it
    logger.addHandler(handler)
    emit(logger)
    return stream.getvalue()


def line_of(emit: Emit) -> dict[str, Any]:
    """The one line of JSON that ``emit`` made."""
    text = written("json", emit)
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    line = json.loads(text, parse_constant=pytest.fail)
    assert isinstance(line, dict)
    return line


@pytest.fixture
def request_context() -> Iterator[None]:
    yield
    logs.clear_request()


def fail(message: str) -> None:
    raise ValueError(message)


def log_failure(logger: logging.Logger, message: str) -> None:
    try:
        fail(message)
    except ValueError:
        logger.exception("it failed")


# ----------------------------------------------------------------------------- the shape of a line


def test_a_line_says_when_how_bad_where_and_what() -> None:
    before = datetime.now(UTC)
    line = line_of(lambda logger: logger.warning("%s is open for %.0f s", "lab/small", 5.0))
    assert list(line) == ["timestamp", "level", "logger", "event"]
    assert (line["level"], line["logger"]) == ("warning", "gateway.somewhere")
    assert line["event"] == "lab/small is open for 5 s"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", line["timestamp"])
    assert before <= datetime.fromisoformat(line["timestamp"]) <= datetime.now(UTC)


def test_extra_fields_stay_what_they_are() -> None:
    key = uuid.UUID(int=7)
    extra = {
        "attempt": 2, "share": 0.5, "left": None, "done": True, "cost": Decimal("0.10"), "row": key,
        "nested": {"names": ("a", "b"), "depth": {"x": {"y": {"z": {"deep": 1}}}}}, "endless": float("inf"),
    }  # fmt: skip
    line = line_of(lambda logger: logger.info("x", extra=extra))
    assert (line["attempt"], line["share"], line["left"], line["done"]) == (2, 0.5, None, True)
    assert (line["cost"], line["row"], line["endless"]) == ("0.10", str(key), "inf")
    assert line["nested"]["names"] == ["a", "b"]
    assert isinstance(line["nested"]["depth"]["x"]["y"], str | dict)


def test_extra_fields_cannot_pose_as_parts_of_the_line() -> None:
    line = line_of(
        lambda logger: logger.info("true", extra={"event": "false", "level": "info2", "logger": "x", "timestamp": 0})
    )
    assert (line["event"], line["level"], line["logger"]) == ("true", "info", "gateway.somewhere")
    assert line["timestamp"] != 0


def test_a_request_and_its_tenant_are_told_until_they_are_forgotten(request_context: None) -> None:
    logs.bind_request("0198-request")
    assert line_of(lambda logger: logger.info("x"))["request_id"] == "0198-request"
    logs.bind_request("0199-request", tenant="acme")
    line = line_of(lambda logger: logger.info("x"))
    assert (line["request_id"], line["tenant"]) == ("0199-request", "acme")
    assert list(line) == ["timestamp", "level", "logger", "event", "request_id", "tenant"]
    logs.clear_request()
    assert "request_id" not in line_of(lambda logger: logger.info("x"))


def test_an_exception_is_text_with_its_traceback() -> None:
    line = line_of(lambda logger: log_failure(logger, "no such thing"))
    assert line["event"] == "it failed"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: no such thing")
    assert "in fail" in line["exception"]
    assert "exc_info" not in line


def test_an_exception_that_is_none_is_left_out() -> None:
    assert "exception" not in line_of(lambda logger: logger.exception("nothing was raised"))  # noqa: LOG004


@pytest.mark.parametrize(("status", "told"), [(403, False), (404, False), (500, True)])
def test_only_a_failing_page_brings_its_traceback(status: int, told: bool) -> None:
    def emit(logger: logging.Logger) -> None:
        try:
            fail("no")
        except ValueError as exc:
            logger.warning("Forbidden: %s", "/admin/", exc_info=exc, extra={"status_code": status})

    line = line_of(emit)
    assert ("exception" in line) is told
    assert (line["event"], line["status_code"]) == ("Forbidden: /admin/", status)


def test_a_stack_is_told_where_it_is_asked_for() -> None:
    stack = line_of(lambda logger: logger.info("x", stack_info=True))["stack_info"]
    assert stack.startswith("Stack (most recent call last):\n")
    assert "in test_a_stack_is_told_where_it_is_asked_for" in stack


def test_people_get_one_line_and_the_traceback_indented_below() -> None:
    text = written("console", lambda logger: log_failure(logger, "first\n2026-01-01 ERROR forged"))
    first, *below = text.splitlines()
    assert re.fullmatch(r"\S+ ERROR    gateway\.somewhere it failed", first)
    assert below[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in below)
    assert "\x1b" not in text


def test_people_see_fields_after_the_event() -> None:
    text = written("console", lambda logger: logger.info("x", extra={"attempt": 2, "model": "small"}))
    assert text.endswith("gateway.somewhere x attempt=2 model=small\n")


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert "\x1b[33mWARNING" in written("console", lambda logger: logger.warning("x"))
    assert "\x1b" not in written("json", lambda logger: logger.warning("x"))


@pytest.mark.parametrize(("level", "output"), [("LOUD", "json"), ("INFO", "xml"), ("", "json"), ("INFO", "")])
def test_unknown_levels_and_formats_are_refused(level: str, output: str) -> None:
    with pytest.raises(ValueError, match="LOG_"):
        logs.logging_config(level, output)


def test_a_level_may_be_written_small() -> None:
    assert logs.logging_config("debug", "json")["root"]["level"] == "DEBUG"


# ----------------------------------------------------------------------------- whatever is logged


class Hostile:
    """Cannot be looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


LOOP: dict[str, Any] = {}
LOOP["again"] = LOOP


@pytest.mark.parametrize(
    "emit",
    [
        lambda logger: logger.log(logging.INFO, "two %s %s", "gw_one_argument_too_few_0123456789"),
        lambda logger: logger.info("a number %d", "gw_no_number_at_all_0123456789"),
        lambda logger: logger.info("%s", Hostile()),
        lambda logger: logger.info("x", extra={"it": Hostile()}),
        lambda logger: logger.info(Hostile()),
        lambda logger: logger.info("x", extra={"many": 10**5000}),
    ],
)
@FORMATS
def test_what_cannot_be_rendered_is_told_in_a_line_and_not_raw(
    emit: Emit, output: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text = written(output, emit)
    assert "cannot be rendered" in text or "x" in text
    assert len(text.splitlines()) == 1
    assert "0123456789" not in text
    assert capfd.readouterr().err == ""  # logging's own error handler would have told everything


@pytest.mark.parametrize("value", [LOOP, {1: {2: {3: {4: {5: {6: 7}}}}}}, {("a", 1): 2}, b"\xff\x00", "\udcff", {1, 2}])
def test_any_field_becomes_json(value: object) -> None:
    assert "it" in line_of(lambda logger: logger.info("x", extra={"it": value}))


@given(text=st.text(st.characters(), max_size=200))
@FORMATS
def test_no_text_begins_another_line(output: str, text: str) -> None:
    lines = written(output, lambda logger: logger.info("before %s after", text, extra={"it": text})).splitlines()
    assert len(lines) == 1
    assert lines[0].isprintable()


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\u2028b", "a\x85b", "a\x1b[2Jb", "a\udc80b", "a\x00b"])
@FORMATS
def test_line_breaks_and_control_characters_are_escaped(output: str, text: str) -> None:
    (line,) = written(output, lambda logger: logger.error(text)).splitlines()
    assert line.isascii()
    assert line.isprintable()
    if output == "json":
        assert json.loads(line)["event"] == text


def test_a_line_has_an_end() -> None:
    event = line_of(lambda logger: logger.info("x" * 10_000_000))["event"]
    assert len(event) <= logs.MAX_TEXT + 1


# ----------------------------------------------------------------------------- secrets

PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
ANY_VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
minted = st.builds(lambda: tokens.mint(PEPPERS).text)
vendor_keys = st.text(PLAIN + "-_", min_size=16, max_size=60).map("sk-{}".format)
strange_tokens = st.text(ANY_VISIBLE, min_size=24, max_size=60)
passwords = st.text(PLAIN + "-_.~!$&()*+,;=%:@/'", min_size=10, max_size=40)


def shown_as(secret: str, form: str) -> tuple[str, str]:
    return secret, form.format(secret)


planted = st.one_of(
    minted.map(lambda secret: shown_as(secret, "{}")),
    vendor_keys.map(lambda secret: shown_as(secret, "{}")),
    st.builds(shown_as, strange_tokens, st.sampled_from(["Bearer {}", "bearer  {}", "Authorization: Bearer {}"])),
    st.builds(shown_as, passwords, st.sampled_from(["postgres://user:{}@db/x", "redis://:{}@cache:6379/0"])),
    st.builds(
        shown_as,
        strange_tokens,
        st.sampled_from(["x-api-key: {}", "password={}", "https://x.example/?key={}", "Api-Key:{}"]),
    ),
)
around = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def assert_hidden(secret: str, text: str) -> None:
    """Neither as it is nor as JSON and Python write it."""
    written_forms = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], ascii(secret)[1:-1]}
    assert not [form for form in written_forms if form in text]


@given(secret=planted, before=around, after=around)
@FORMATS
def test_no_secret_is_written_wherever_it_stands(output: str, secret: tuple[str, str], before: str, after: str) -> None:
    hidden, shown = secret
    assume(hidden not in before + after)
    text = f"{before} {shown} {after}"

    def emit(logger: logging.Logger) -> None:
        logger.error(text.replace("%", "%%"))
        logger.error("argument %s", text)
        logger.error("representation %r and bytes %r", text, text.encode())
        logger.error("field", extra={"it": text, "list": [text, (text,)], "mapping": {"a": {text: text}}})
        logger.error("deep", extra={"it": [[[[[[text]]]]]], "error": ValueError(text)})
        logger.error("broken %d", text)
        log_failure(logger, text)

    assert_hidden(hidden, written(output, emit))


@given(secret=st.one_of(minted, vendor_keys), before=around, after=around)
def test_tokens_and_vendor_keys_are_known_in_the_middle_of_a_word(secret: str, before: str, after: str) -> None:
    assert_hidden(secret, logs.masked(before + secret + after))


@given(secret=st.one_of(minted, vendor_keys), place=st.integers(0, 2 * 2048 + 100), many=st.integers(0, 200))
def test_the_end_of_a_long_text_cuts_no_secret_in_two(secret: str, place: int, many: int) -> None:
    ballast = "sk-0123456789abcdef0123456789abcdef " * many
    filling = "x " * ((logs.MAX_TEXT - 100 + place - len(ballast)) // 2)
    shown = logs.masked(ballast + filling + secret + " y" * 10_000)
    assert secret[:20] not in shown


@pytest.mark.parametrize(
    "name",
    ["password", "Authorization", "x-api-key", "api_key", "X-Goog-Api-Key", "client_secret", "cookie", "token", "key"],
)
def test_what_is_called_a_secret_is_never_shown(name: str) -> None:
    line = line_of(lambda logger: logger.info("x", extra={name: "Tr0ub4dor", "headers": {name: ["Tr0ub4dor"]}}))
    assert line[name] == line["headers"][name] == logs.MASK


@pytest.mark.parametrize("name", ["password", "authorization", "x-api-key", "api_key", "client_secret", "cookie"])
@pytest.mark.parametrize(
    "form",
    [
        "{name}: {secret}", "{name}={secret}", "{{'{name}': '{secret}'}}", '{{"{name}":"{secret}","b":1}}',
        "[(b'{name}', b'{secret}')]", "{name}='{secret}'", '{{\\"{name}\\": \\"{secret}\\"}}', "{name}: Basic {secret}",
        "https://vendor.example/v1?{name}={secret}&x=1",
    ],
)  # fmt: skip
def test_what_a_text_calls_a_secret_is_not_shown(name: str, form: str) -> None:
    text = f"it said {form.format(name=name, secret='Tr0ub4dor/&3')} to us"
    assert "Tr0ub4dor" not in logs.masked(text)
    assert "&3" not in logs.masked(text)
    assert logs.masked(text).startswith("it said ")


def test_a_tokens_public_id_stays_for_those_who_look_for_it() -> None:
    token = tokens.mint(PEPPERS)
    assert logs.masked(f"token {token.text} is unknown") == f"token gw_{token.public_id}_*** is unknown"


@pytest.mark.parametrize(
    "text",
    [
        "circuit lab/small is open for 5 s: the vendor answered with status 500",
        "Not Found: /v1/unheard/of",
        "http://127.0.0.1:4000/admin/?page=2",
        "https://user@vendor.example:8443/v1",
        "input_tokens=12 output_tokens=8",
        "task-manager and disk-usage are risk-based",
        "token gw_short is malformed",
        "Waiting for application startup.",
        "unknown key 'weight' in line 7",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert logs.masked(text) == text


@pytest.mark.parametrize(
    "text", ["://a:" * 4000, "password" * 3000, "bearer " * 3000, "gw_" * 7000, "sk-" * 7000, 'secret="' * 3000]
)
def test_masking_ends_soon_whatever_it_is_given(text: str) -> None:
    started = datetime.now(UTC)
    for _ in range(10):
        logs.masked(text)
    assert (datetime.now(UTC) - started).total_seconds() < 5


# ----------------------------------------------------------------------------- everybody's loggers

EVERYBODY = """
import asyncio, logging, logging.config, sys, warnings
import structlog, uvicorn
from celery import Celery, signals
from gateway.logs import bind_request, logging_config
from tenants.tokens import Peppers, mint

LOGGING = logging_config("INFO", sys.argv[1])
token = mint(Peppers({1: b"p" * 32})).text

from django.conf import settings
settings.configure(LOGGING=LOGGING, DEBUG=True)
uvicorn.Config("x:y", log_level="info", access_log=False)  # as on a command line: before the application is loaded
import django
django.setup()
signals.setup_logging.connect(lambda **_: logging.config.dictConfig(settings.LOGGING), weak=False)
celery = Celery("test", set_as_current=False)
celery.log.setup(logging.WARNING, redirect_stdouts=True)

bind_request("r-1")
for name in sys.argv[2:]:
    logging.getLogger(name).error("%s says %s", name, token, extra={"data": {"args": "(1, 2)"}})
logging.getLogger("uvicorn.access").info("GET %s", token)
logging.getLogger("httpx").info("GET https://x.example/?key=%s", token)
logging.getLogger("quiet").debug("not to be heard")
structlog.get_logger("ours").error("structlog says %s", token, field=token, number=1)
structlog.get_logger("ours").debug("not to be heard")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("ours").exception("structlog failed")
loop = asyncio.new_event_loop()
loop.call_exception_handler({"message": "the loop says " + token})
loop.close()
warnings.warn("a warning says " + token)
"""
NAMES = (
    "gateway.pipeline", "uvicorn.error", "uvicorn", "celery", "celery.task", "celery.worker.strategy", "celery.redirected",
    "django.request", "django.server", "django.db.backends", "kombu", "aiohttp.client", "psycopg.pool",
)  # fmt: skip


def everybody(output: str) -> list[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default::UserWarning"}
    command = [sys.executable, "-c", EVERYBODY, output, *NAMES]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr.splitlines()


def test_the_loggers_of_every_library_write_the_same_lines() -> None:
    lines = [json.loads(line) for line in everybody("json")]
    assert all({"timestamp", "level", "logger", "event"} <= set(line) for line in lines)
    assert all(line["request_id"] == "r-1" for line in lines)
    assert [line["logger"] for line in lines] == [*NAMES, "ours", "ours", "asyncio", "py.warnings"]
    said = {line["logger"]: line for line in lines}
    assert re.fullmatch(r"uvicorn.error says gw_\w{12}_\*{3}", said["uvicorn.error"]["event"])
    assert re.fullmatch(r"gw_\w{12}_\*{3}", lines[len(NAMES)]["field"])
    assert lines[len(NAMES)]["number"] == 1
    assert {name for name, line in said.items() if "data" in line} == {name for name in NAMES if "celery." not in name}
    assert said["ours"]["exception"].endswith("ZeroDivisionError: division by zero")
    assert "a warning says gw_" in said["py.warnings"]["event"]
    assert not re.search(r"gw_\w{12}_\w", json.dumps(lines))


def test_people_read_every_librarys_lines_in_one_form() -> None:
    lines = [line for line in everybody("console") if not line.startswith("    ")]
    assert [line.split()[2] for line in lines] == [*NAMES, "ours", "ours", "asyncio", "py.warnings"]
    assert not re.search(r"gw_\w{12}_\w", "".join(lines))


def test_structlogs_own_loggers_are_led_the_same_way() -> None:
    logs.line_formatter("console")
    assert isinstance(structlog.get_config()["logger_factory"], structlog.stdlib.LoggerFactory)
