"""What makes this installation itself: its environment, its data directory and the secrets made for it.

Read before Django's settings exist, so nothing here imports Django.
"""

import base64
import ipaddress
import math
import os
import secrets
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import environ

ROOT = Path(__file__).resolve().parent.parent
SECRETS = ("SECRET_KEY", "MASTER_KEYS", "TOKEN_PEPPERS")
ON = ("true", "on", "ok", "y", "yes", "1")
OFF = ("false", "off", "n", "no", "0", "")
POSTGRES_SCHEMES = ("postgresql", "postgres")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@cache
def env() -> environ.Env:
    """The environment, completed by ``.env`` in the project's root (what is set already wins)."""
    environ.Env.read_env(ROOT / ".env")
    return environ.Env()


def data_dir() -> Path:
    """Where the embedded servers, generated secrets and spools live (``DATA_DIR``, default ``./var``)."""
    return Path(env().str("DATA_DIR", default=str(ROOT / "var"))).resolve()


def whole_number(name: str, default: int, *, at_least: int, at_most: int | None = None) -> int:
    """A setting. Ends the process with one line about a value that is none, or out of range."""
    said = env().str(name, default=str(default))
    try:
        number = int(said)
    except ValueError:
        number = at_least - 1
    if number < at_least or (at_most is not None and number > at_most):
        range_ = f"of {at_least} or more" if at_most is None else f"from {at_least} to {at_most}"
        raise _refused(name, f"a whole number {range_}", said)
    return number


def seconds(name: str, default: float, *, or_none: bool = True) -> float:
    """A setting in seconds, 0 only with ``or_none``. Ends the process with one line about a value that is no such."""
    said = env().str(name, default=str(default))
    try:
        number = float(said)
    except ValueError:
        number = -1.0
    if not math.isfinite(number) or number < 0 or (number == 0 and not or_none):
        raise _refused(name, "a number of seconds, 0 or more" if or_none else "a number of seconds above 0", said)
    return number


def switch(name: str, default: bool) -> bool:
    """A setting that is on or off. Ends the process with one line about a value that says neither."""
    said = env().str(name, default=str(default))
    if said.lower() not in (*ON, *OFF):
        raise _refused(name, "true or false", said)
    return said.lower() in ON


def one_of(name: str, default: str, choices: Sequence[str]) -> str:
    """A setting with few values, in whichever case. Ends the process with one line about any other."""
    said = env().str(name, default=default)
    found = {choice.lower(): choice for choice in choices}.get(said.lower())
    if found is None:
        raise _refused(name, f"one of {', '.join(choices)}", said)
    return found


def url(name: str, schemes: Sequence[str]) -> str:
    """A setting that is a server's address; empty where it is unset. Ends the process with one line about any other
    text, which it does not quote: an address may hold a password."""
    said: str = env().str(name, default="")
    scheme, separator, rest = said.partition("://")
    if said and not (scheme in schemes and separator and rest):
        raise SystemExit(f"error: {name} must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}.")
    return said


def networks(name: str, default: Sequence[str] = ()) -> list[Network]:
    """A setting with IP networks, separated by commas. Ends the process with one line about one that is none."""
    return [_network(name, text.strip()) for text in env().list(name, default=list(default))]


def _network(name: str, text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise _refused(name, "networks such as 10.0.0.0/8, separated by commas", text) from None


def _refused(name: str, wanted: str, said: str) -> SystemExit:
    return SystemExit(f"error: {name} must be {wanted}, and is '{said[:64]}'.")


def secrets_path() -> Path:
    return data_dir() / "secrets.env"


def secret(name: str) -> str:
    """A secret from the environment or, made once and kept readable by the owner only, from the data directory."""
    if value := os.environ.get(name):
        return value
    path = secrets_path()
    if not path.exists():
        write_secrets({name: _generate(name) for name in SECRETS})
    return _read_secrets()[name]


def is_generated(name: str) -> bool:
    """Whether :func:`secret` reads ``name`` from the data directory, so that it can be changed there."""
    return not os.environ.get(name) and secrets_path().exists()


def replace_secret(name: str, value: str) -> None:
    """Change one generated secret; processes that run already go on with what they have read."""
    write_secrets(_read_secrets() | {name: value})


def write_secrets(values: dict[str, str]) -> None:
    """Replace the secrets file in one step, so that a crash leaves the old or the new one."""
    path = secrets_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _read_secrets() -> dict[str, str]:
    lines = secrets_path().read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _generate(name: str) -> str:
    if name == "SECRET_KEY":
        return secrets.token_urlsafe(50)
    return f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}"
