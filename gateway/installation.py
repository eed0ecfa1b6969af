"""What makes this installation itself: its environment, its data directory and the secrets made for it.

Read before Django's settings exist, so nothing here imports Django.
"""

import base64
import os
import secrets
from functools import cache
from pathlib import Path

import environ

ROOT = Path(__file__).resolve().parent.parent
SECRETS = ("SECRET_KEY", "MASTER_KEYS", "TOKEN_PEPPERS")


@cache
def env() -> environ.Env:
    """The environment, completed by ``.env`` in the project's root (what is set already wins)."""
    environ.Env.read_env(ROOT / ".env")
    return environ.Env()


def data_dir() -> Path:
    """Where the embedded servers, generated secrets and spools live (``DATA_DIR``, default ``./var``)."""
    return Path(env().str("DATA_DIR", default=str(ROOT / "var"))).resolve()


def whole_number(name: str, default: int, *, at_least: int) -> int:
    """A setting. Ends the process with one line about a value that is none, or less."""
    said = env().str(name, default=str(default))
    try:
        number = int(said)
    except ValueError:
        number = at_least - 1
    if number < at_least:
        raise SystemExit(f"error: {name} must be a whole number of {at_least} or more, and is '{said[:64]}'.")
    return number


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
