"""What a fresh installation is given: its first operator, prices, and a demo tenant that answers at once."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from audit.record import Actor, record
from billing.models import PriceVersion
from billing.price_book import import_book
from gateway import partitions
from gateway.models import Model, Provider
from routing.models import PublishedScore
from routing.published import import_scores
from tenants.models import ApiToken, Project, Tenant, User

DEMO = "demo"
ACTOR = Actor(label="manage.py up")


class Operator(NamedTuple):
    email: str
    new_password: str | None  # only when it was generated just now


def prepare() -> Operator:
    """Partitions, the first operator, the shipped prices and scores. Idempotent: what exists stays as it is."""
    partitions.make_ahead()
    operator = _first_operator()
    if not PriceVersion.objects.exists():
        import_book(ACTOR)
    if not PublishedScore.objects.filter(tenant=None).exists():
        import_scores(ACTOR)
    return operator


def banner(operator: Operator, demo_token: str, base_url: str) -> Iterator[str]:
    yield ""
    yield f"Pointsman is up at {base_url}"
    yield f"  OpenAI base URL   {base_url}/v1"
    yield f"  admin             {base_url}/admin/"
    yield f"  sign in as        {operator.email}"
    yield f"  demo token        {demo_token}"
    yield ""
    yield "Try it:"
    yield (
        f"  curl {base_url}/v1/chat/completions -H 'Authorization: Bearer {demo_token}' "
        "-H 'Content-Type: application/json' "
        """-d '{"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}'"""
    )
    yield ""
    yield "Ctrl-C or `make down` stops it."


def _first_operator() -> Operator:
    """The first operator; one is made only where there is none."""
    if existing := User.objects.filter(is_superuser=True, is_active=True).order_by("date_joined").first():
        return Operator(existing.email, None)
    email = os.environ.get("ADMIN_EMAIL") or "operator@localhost"
    given = os.environ.get("ADMIN_PASSWORD")
    password = given or secrets.token_urlsafe(12)
    with transaction.atomic():
        user = User.objects.create_superuser(email, password)
        record(ACTOR, "user.created", user, tenant=None)
    return Operator(email, None if given else password)


def prepare_demo() -> str:
    """The demo tenant's token. Its text is kept beside the data, so that the printed curl line always works."""
    path = Path(settings.DATA_DIR) / "demo-token"
    with transaction.atomic():
        tenant, _ = Tenant.objects.get_or_create(slug=DEMO, defaults={"name": "Demo"})
        project, _ = Project.objects.get_or_create(tenant=tenant, slug=DEMO, defaults={"name": "Demo"})
        provider, _ = Provider.objects.get_or_create(tenant=tenant, name=DEMO, defaults={"kind": "demo"})
        model, made = Model.objects.get_or_create(
            tenant=tenant, name=DEMO, defaults={"provider": provider, "vendor_model": DEMO}
        )
        if made:
            PriceVersion.set_price(model=model, actor=ACTOR, input="0.15", output="0.60", cached_input="0.075")
        live = ApiToken.objects.filter(tenant=tenant, name=DEMO, revoked_at=None).first()
        if live and path.exists():
            return path.read_text().strip()
        if live:
            live.revoke(ACTOR)
        _, text = ApiToken.issue(tenant=tenant, project=project, name=DEMO, actor=ACTOR, allowed_models=["*"])
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text + "\n")
    return text
