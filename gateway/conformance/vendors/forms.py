"""Multipart forms, as uploads of sound come."""

import re

from gateway.conformance.vendors.formats import Refusal, check
from gateway.conformance.vendors.http import HttpRequest

_FIELD = re.compile(rb'name="([^"]+)"(?:; filename="([^"]*)")?[^\r\n]*(?:\r\n[^\r\n]+)*\r\n\r\n')


def is_form(request: HttpRequest) -> bool:
    return "multipart/form-data" in request.headers.get("content-type", "")


def form_of(request: HttpRequest) -> dict[str, tuple[str, bytes]]:
    """File name ("" where it is no file) and content of each field. Raises Refusal."""
    _, _, boundary = request.headers.get("content-type", "").partition("boundary=")
    check(is_form(request) and boundary, "Could not parse multipart form")
    parts = request.body.split(b"--" + boundary.strip('"').encode())
    check(parts[-1].startswith(b"--"), "Could not parse multipart form")
    fields: dict[str, tuple[str, bytes]] = {}
    for part in parts[1:-1]:
        if (found := _FIELD.search(part)) is None:
            raise Refusal(400, "Could not parse multipart form")
        fields[found[1].decode()] = ((found[2] or b"").decode(), part[found.end() : -2])
    return fields
