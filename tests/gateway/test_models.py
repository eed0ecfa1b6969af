import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import Client

from audit.models import AuditEvent
from audit.record import Actor
from gateway.content_log import Content
from gateway.models import Alias, Model, Provider, ProviderKey, RequestContent
from gateway.rows import new_id
from tenants.crypto import DecryptionFailed, Keyring, content_purpose
from tenants.models import Tenant

SECRET = "sk-lab-0123456789abcdef"
ELSEWHERE = "https://elsewhere.example/v1"


def actions() -> list[str]:
    return list(AuditEvent.objects.order_by("id").values_list("action", flat=True))


def refused(row: Provider | Model | Alias) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as refusal:
        row.full_clean()
    return refusal.value.message_dict


class TestProvider:
    def test_a_kind_comes_from_the_catalogue(self, provider: Provider) -> None:
        provider.kind = "nobody"
        assert "known: openai" in refused(provider)["kind"][0]

    def test_a_kind_without_an_address_needs_one(self, provider: Provider) -> None:
        provider.base_url = ""
        assert "needs the address" in refused(provider)["base_url"][0]

    def test_the_catalogues_address_is_used_where_none_is_given(self, tenant: Tenant) -> None:
        provider = Provider(tenant=tenant, name="openai", kind="openai")
        provider.full_clean()
        assert provider.effective_base_url == "https://api.openai.com/v1"

    @pytest.mark.parametrize(
        "url",
        ["http://lab.example", "https://10.0.0.1/v1", "https://user:pw@lab.example", "ftp://x", "lab", "https://"],
    )
    def test_an_address_that_must_not_be_called_is_refused(self, provider: Provider, url: str) -> None:
        provider.base_url = url
        assert refused(provider)["base_url"]

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9110", "http://ollama:11434"])
    def test_the_operator_may_let_an_address_in(self, provider: Provider, url: str, settings) -> None:
        settings.ALLOWED_UPSTREAMS = ["127.0.0.1/32", "ollama:11434"]
        provider.base_url = url
        provider.full_clean()

    @pytest.mark.parametrize("name", ["open ai", "a/b", "", "-x", "ü", "a\n"])
    def test_a_name_fits_before_the_slash_of_a_qualified_model_name(self, provider: Provider, name: str) -> None:
        provider.name = name
        assert refused(provider)["name"]

    @pytest.mark.parametrize(
        "deadlines",
        [[5], "5", {"start": 5}, {"total": 0}, {"total": -1}, {"total": "5"}, {"total": True}, {"total": float("inf")}],
    )
    def test_deadlines_are_positive_seconds_of_known_stages(self, provider: Provider, deadlines: object) -> None:
        provider.deadlines = deadlines
        assert refused(provider)["deadlines"]

    def test_deadlines_may_be_given_in_part(self, provider: Provider) -> None:
        provider.deadlines = {"connect": 0.5, "total": 30}
        provider.full_clean()

    def test_a_name_is_taken_once_per_owner(self, provider: Provider, other_tenant: Tenant) -> None:
        Provider(tenant=other_tenant, name="lab", kind="openai").full_clean()
        assert refused(Provider(tenant=provider.tenant, name="lab", kind="openai"))


class TestKey:
    def test_a_key_is_kept_encrypted_and_can_be_revealed(self, provider: Provider, actor: Actor) -> None:
        key = provider.set_key(SECRET, actor)
        key.refresh_from_db()

        assert SECRET.encode() not in bytes(key.ciphertext)
        assert (key.reveal(), key.last_four, key.tenant) == (SECRET, "cdef", provider.tenant)
        assert provider.active_key() == key

    def test_no_trail_shows_it(self, provider: Provider, actor: Actor) -> None:
        provider.set_key(SECRET, actor)
        event = AuditEvent.objects.get()
        assert (event.action, event.tenant, event.changes) == (
            "provider_key.set",
            provider.tenant,
            {"key": [None, "***"]},
        )

    def test_the_last_four_of_a_short_key_are_not_shown(self, provider: Provider, actor: Actor) -> None:
        assert provider.set_key("sk-lab", actor).last_four == ""

    @pytest.mark.parametrize("secret", ["", "two words", "schlüssel", "line\nbreak", "x" * 5000])
    def test_what_cannot_travel_in_a_header_is_refused(self, provider: Provider, actor: Actor, secret: str) -> None:
        with pytest.raises(ValidationError) as refusal:
            provider.set_key(secret, actor)
        assert "secret" in refusal.value.message_dict
        assert not secret or secret not in str(refusal.value)

    def test_a_new_key_takes_the_place_of_the_old_one(self, provider: Provider, actor: Actor) -> None:
        old = provider.set_key("sk-old", actor)
        new = provider.set_key(SECRET, actor)
        old.refresh_from_db()

        assert (old.status, bytes(old.ciphertext)) == ("revoked", b"")
        assert provider.active_key() == new
        assert actions() == ["provider_key.set", "provider_key.revoked", "provider_key.set"]

    def test_a_revoked_key_is_gone(self, provider: Provider, actor: Actor) -> None:
        key = provider.set_key(SECRET, actor)
        key.revoke(actor)
        key.revoke(actor)

        assert provider.active_key() is None
        assert actions() == ["provider_key.set", "provider_key.revoked"]
        with pytest.raises(DecryptionFailed):
            key.reveal()

    def test_another_address_clears_the_key(self, provider: Provider, actor: Actor) -> None:
        provider.set_key(SECRET, actor)
        provider.change_base_url(ELSEWHERE, actor)

        assert provider.active_key() is None
        assert Provider.objects.get().base_url == provider.base_url == ELSEWHERE
        changed = AuditEvent.objects.get(action="provider.changed")
        assert changed.changes == {"base_url": ["https://lab.example/v1", ELSEWHERE]}

    def test_the_same_address_keeps_it(self, provider: Provider, actor: Actor) -> None:
        key = provider.set_key(SECRET, actor)
        provider.change_base_url(provider.base_url, actor)
        assert (provider.active_key(), actions()) == (key, ["provider_key.set"])

    def test_an_address_that_must_not_be_called_changes_nothing(self, provider: Provider, actor: Actor) -> None:
        key = provider.set_key(SECRET, actor)
        with pytest.raises(ValidationError):
            provider.change_base_url("https://169.254.169.254/", actor)
        assert (provider.active_key(), provider.base_url) == (key, "https://lab.example/v1")

    def test_a_key_does_not_open_at_an_address_that_was_changed_behind_its_back(
        self, provider: Provider, actor: Actor
    ) -> None:
        provider.set_key(SECRET, actor)
        Provider.objects.update(base_url=ELSEWHERE)
        with pytest.raises(DecryptionFailed):
            ProviderKey.objects.get().reveal()

    def test_a_ciphertext_does_not_open_in_another_row(self, provider: Provider, actor: Actor) -> None:
        stolen = bytes(provider.set_key(SECRET, actor).ciphertext)
        key = provider.set_key("sk-other", actor)
        key.ciphertext = stolen
        with pytest.raises(DecryptionFailed):
            key.reveal()

    def test_the_key_of_an_installation_wide_provider(self, db: None, actor: Actor) -> None:
        provider = Provider.objects.create(name="openai", kind="openai")
        assert provider.set_key(SECRET, actor).reveal() == SECRET
        assert AuditEvent.objects.get().tenant is None


class TestModel:
    @pytest.mark.parametrize("name", ["gpt-4o-mini", "openai/gpt-4o", "claude@2026", "llama3:8b"])
    def test_a_name_as_vendors_give_them(self, model: Model, name: str) -> None:
        model.name = name
        model.full_clean()

    @pytest.mark.parametrize("name", ["", "two words", "tab\t", "ünicode", "line\n", "x" * 201])
    def test_a_name_clients_could_not_send_is_refused(self, model: Model, name: str) -> None:
        model.name = name
        assert refused(model)["name"]

    @pytest.mark.parametrize("name", ["auto", "fast", "cheap", "best"])
    def test_a_name_by_which_the_gateway_chooses_is_taken(self, model: Model, name: str) -> None:
        model.name = name
        assert "lets the gateway choose" in refused(model)["name"][0]
        Alias(tenant=model.tenant, name=name, model_name="small").full_clean()

    def test_no_model_is_its_own_fallback(self, model: Model) -> None:
        model.fallbacks = ["other", "small"]
        assert refused(model)["fallbacks"]

    def test_the_provider_of_another_tenant_is_refused(self, model: Model, other_tenant: Tenant) -> None:
        model.tenant = other_tenant
        assert "another tenant" in refused(model)["provider"][0]
        with pytest.raises(IntegrityError), transaction.atomic():
            model.save()

    def test_a_provider_offered_to_all_is_welcome(self, model: Model) -> None:
        model.provider = Provider.objects.create(name="openai", kind="openai")
        model.full_clean()
        model.save()


def test_reading_kept_content_is_in_the_tenants_audit_trail(browser: Client, tenant: Tenant, actor: Actor) -> None:
    row = RequestContent(request_id=new_id(), tenant=tenant)
    keyring = Keyring.parse(settings.MASTER_KEYS, purpose=content_purpose(tenant.pk))
    content = Content("asked <b>", "answered")
    row.ciphertext, row.master_key_number = content.seal(keyring, str(tenant.pk), str(row.pk)), keyring.current_id
    row.save()
    assert row.reveal(actor) == content
    shown = browser.post(f"/admin/gateway/requestcontent/{row.pk}/do/show/").content.decode()
    assert "asked &lt;b&gt;" in shown
    assert AuditEvent.objects.filter(tenant=tenant, action="request_content.read").count() == 2
    RequestContent.objects.filter(pk=row.pk).update(ciphertext=b"\x01" + b"\0" * 60)
    refused = browser.post(f"/admin/gateway/requestcontent/{row.pk}/do/show/", follow=True)
    assert "cannot be read" in refused.content.decode()
