"""``manage.py apply``: a file becomes rows, wholly or not at all."""

import json
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from audit.models import AuditEvent
from billing.models import PriceVersion
from gateway.models import Alias, Model, Provider, ProviderKey
from tenants.models import ApiToken, Membership, Project, Tenant, User
from tenants.tokens import well_formed

pytestmark = pytest.mark.django_db

ACME_TOKEN = "acme-token-for-the-tests-0123456789"
EXAMPLE = """
tenants:
  - slug: acme
    projects: [{slug: web}]
    providers:
      - {name: openai, kind: openai, base_url: "https://api.openai.com/v1", api_key: {env: OPENAI_API_KEY}}
      - {name: lab, kind: openai-compatible, base_url: "http://127.0.0.1:9110/v1", api_key: "sk-lab"}
      - {name: claude-lab, kind: anthropic, base_url: "http://127.0.0.1:9110", api_key: "sk-ant"}
      - {name: gemini-lab, kind: gemini, base_url: "http://127.0.0.1:9110/v1beta", api_key: "g"}
      - {name: ollama-lab, kind: ollama, base_url: "http://127.0.0.1:9110"}
    models:
      - {name: small, provider: lab, vendor_model: small-tok8, price: {input: 0.15, output: 0.60, cached_input: 0.075}}
      - {name: large, provider: lab, vendor_model: large-tok8, price: {input: 2.50, output: 10.00}, fallbacks: [small]}
    tokens:
      - {name: ci, project: web, value: {env: ACME_TOKEN}, models: ["*"]}
"""


class Applied:
    """Runs the command on a text and keeps what it printed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.out = ""
        self.err = ""

    def __call__(self, text: str, **options: Any) -> str:
        self.path.write_text(text)
        out, err = StringIO(), StringIO()
        try:
            call_command("apply", str(self.path), stdout=out, stderr=err, **options)
        finally:
            self.out, self.err = out.getvalue(), err.getvalue()
        return self.out

    def refused(self, text: str) -> list[str]:
        """Problems as ``LINE: message``."""
        with pytest.raises(CommandError, match=r"nothing was applied"):
            self(text)
        return [line.removeprefix(f"{self.path}:") for line in self.err.splitlines()]


@pytest.fixture
def apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Applied:
    monkeypatch.setenv("ACME_TOKEN", ACME_TOKEN)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return Applied(tmp_path / "acme.yaml")


def tenant_with(parts: str) -> str:
    return f"tenants:\n  - slug: acme\n    projects: [{{slug: web}}]\n{parts}"


LAB = '    providers: [{name: lab, kind: openai-compatible, base_url: "http://127.0.0.1:9110/v1", api_key: sk-lab}]\n'


def with_model(fields: str) -> str:
    return tenant_with(f"{LAB}    models: [{{name: small, provider: lab{fields}}}]\n")


# ------------------------------------------------------------------ what is created


def test_the_documented_example_works_as_written(apply: Applied) -> None:
    apply(EXAMPLE)
    acme = Tenant.objects.get(slug="acme")
    assert set(acme.providers.values_list("name", flat=True)) == {
        "openai", "lab", "claude-lab", "gemini-lab", "ollama-lab",
    }  # fmt: skip
    large = acme.models.get(name="large")
    assert (large.vendor_model, large.fallbacks, large.provider.name) == ("large-tok8", ["small"], "lab")
    price = PriceVersion.objects.get(model__name="small")
    assert (price.input, price.output, price.cached_input) == (Decimal("0.15"), Decimal("0.60"), Decimal("0.075"))
    token = ApiToken.objects.get(tenant=acme)
    assert (token.name, token.project.slug, token.allowed_models) == ("ci", "web", ["*"])
    assert ProviderKey.objects.get(provider__name="lab").reveal() == "sk-lab"


def test_a_provider_whose_key_variable_is_unset_is_created_without_a_key_and_named(apply: Applied) -> None:
    apply(EXAMPLE)
    assert not ProviderKey.objects.filter(provider__name="openai").exists()
    assert "provider acme/openai has no key: the environment variable OPENAI_API_KEY is not set." in apply.err


def test_a_second_run_changes_nothing_and_says_so(apply: Applied) -> None:
    apply(EXAMPLE)
    events, prices = AuditEvent.objects.count(), PriceVersion.objects.count()
    epoch = Tenant.objects.get(slug="acme").policy_epoch
    assert apply(EXAMPLE).strip() == "Nothing to change: everything is as declared."
    assert (AuditEvent.objects.count(), PriceVersion.objects.count()) == (events, prices)
    assert Tenant.objects.get(slug="acme").policy_epoch == epoch


def test_everything_that_can_be_declared_is_kept(apply: Applied) -> None:
    text = """
providers:
  - {name: shared, kind: anthropic, api_key: sk-shared}
models:
  - {name: claude, provider: shared, vendor_model: claude-x, capabilities: [tools, vision], context_window: 200000}
prices:
  - {kind: groq, vendor_model: "llama-*", input: 0.05, output: 0.08, effective_from: 2026-01-01}
tenants:
  - slug: acme
    name: Acme Inc.
    time_zone: Europe/Berlin
    log_content: true
    projects: [{slug: web, name: Web shop}]
    providers:
      - name: lab
        kind: openai-compatible
        base_url: http://127.0.0.1:9110/v1
        on_disconnect: drain
        deadlines: {connect: 2, total: 30.5}
        region: eu
        weight: 3
    models:
      - name: long
        provider: shared
        price:
          input: 1
          output: "2.5"
          per_request: 0.01
          tiers: [{above_input_tokens: 200000, input: 2, output: 5}]
          batch: {input: 0.50, tiers: [{above_input_tokens: 200000, input: 1}]}
          priority: {input: 1.750, output: 4.5}
        modality: chat
        max_output_tokens: 4096
        deadlines: {first_token: 5}
        enabled: false
    aliases: [{name: default, model: claude}]
    tokens:
      - name: ops
        project: web
        models: ["claude*"]
        cidrs: [10.0.0.0/8]
        scopes: [inference, management]
        requests_per_minute: 60
        expires_at: 2030-01-01T00:00:00Z
    members:
      - {email: Alice@Example.com, role: owner}
      - {email: bob@example.com, role: viewer, project: web}
"""
    apply(text)
    acme = Tenant.objects.get(slug="acme")
    assert (acme.name, acme.time_zone, acme.log_content) == ("Acme Inc.", "Europe/Berlin", True)
    lab = Provider.objects.get(name="lab")
    assert (lab.on_disconnect, lab.deadlines, lab.region, lab.weight) == (
        "drain", {"connect": 2, "total": 30.5}, "eu", 3,
    )  # fmt: skip
    assert Model.objects.get(name="claude").tenant is None
    long = Model.objects.get(name="long")
    assert (long.provider.name, long.vendor_model, long.enabled) == ("shared", "long", False)
    price = PriceVersion.objects.get(model=long)
    assert price.per_request == Decimal("0.01")
    assert price.tiers == [{"above_input_tokens": 200000, "input": "2", "output": "5"}]
    assert price.batch == {"input": "0.5", "tiers": [{"above_input_tokens": 200000, "input": "1"}]}
    assert price.priority == {"input": "1.75", "output": "4.5"}
    assert PriceVersion.objects.filter(provider_kind="groq", vendor_model_pattern="llama-*").exists()
    assert Alias.objects.get(tenant=acme, name="default").model_name == "claude"
    token = ApiToken.objects.get(name="ops")
    assert (token.requests_per_minute, token.scopes) == (60, ["inference", "management"])
    assert token.expires_at is not None
    assert token.expires_at.year == 2030
    assert Membership.objects.get(user__email="Alice@example.com").project is None
    assert Membership.objects.get(user__email="bob@example.com").project == Project.objects.get(slug="web")
    assert not User.objects.get(email="bob@example.com").has_usable_password()
    assert apply(text).strip() == "Nothing to change: everything is as declared."


def test_a_token_without_a_value_is_minted_and_shown_once(apply: Applied) -> None:
    text = tenant_with("    tokens: [{name: ci, project: web}]\n")
    shown = apply(text).split()[-1]
    assert well_formed(shown)
    assert shown not in apply(text)


def test_every_change_is_in_the_audit_trail_without_secrets(apply: Applied) -> None:
    apply(EXAMPLE)
    events = AuditEvent.objects.all()
    assert {event.actor_label for event in events} == {"manage.py apply"}
    assert {"acme", "lab", "small", "ci"} <= {event.object_label for event in events}
    kept = json.dumps([event.changes for event in events])
    assert "sk-lab" not in kept
    assert ACME_TOKEN not in kept


# ------------------------------------------------------------------ what is changed


def test_changed_values_are_shown_as_a_difference(apply: Applied) -> None:
    apply(EXAMPLE)
    text = EXAMPLE.replace("fallbacks: [small]", "fallbacks: []").replace("output: 0.60", "output: 0.70")
    shown = apply(text)
    assert "~ model acme/large\n    fallbacks: [small] -> []" in shown
    assert "output: 0.6," in shown
    assert "output: 0.7," in shown
    assert "2 changed" in shown
    assert PriceVersion.objects.filter(model__name="small").count() == 2


def test_what_the_file_does_not_mention_stays(apply: Applied) -> None:
    apply(EXAMPLE)
    apply("tenants: [{slug: acme, name: Acme}]")
    assert Tenant.objects.get().name == "Acme"
    assert Provider.objects.count() == 5
    apply("tenants: [{slug: acme}]")
    assert Tenant.objects.get().name == "Acme"


def test_enabled_false_switches_off(apply: Applied) -> None:
    apply(EXAMPLE)
    assert "enabled: true -> false" in apply("tenants: [{slug: acme, enabled: false}]")
    assert not Tenant.objects.get().enabled


def test_a_changed_key_is_set_but_never_shown(apply: Applied) -> None:
    apply(EXAMPLE)
    shown = apply(EXAMPLE.replace("sk-lab", "sk-other"))
    assert "~ provider acme/lab\n    api_key: (set) -> (changed)" in shown
    assert "sk-" not in shown
    active = ProviderKey.objects.get(provider__name="lab", status=ProviderKey.Status.ACTIVE)
    assert active.reveal() == "sk-other"


def test_a_new_address_takes_the_key_along_only_when_the_file_gives_it(apply: Applied) -> None:
    apply(EXAMPLE)
    moved = EXAMPLE.replace('9110/v1", api_key: "sk-lab"', '9111/v1", api_key: "sk-lab"')
    assert "base_url: http://127.0.0.1:9110/v1 -> http://127.0.0.1:9111/v1" in apply(moved)
    assert ProviderKey.objects.get(provider__name="lab", status="active").reveal() == "sk-lab"
    apply(tenant_with('    providers: [{name: claude-lab, kind: anthropic, base_url: "http://127.0.0.1:9112"}]\n'))
    assert not ProviderKey.objects.filter(provider__name="claude-lab", status="active").exists()
    assert "claude-lab has no key" in apply.err


def test_a_changed_token_value_revokes_the_old_token(apply: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(EXAMPLE)
    old = ApiToken.objects.get(name="ci")
    monkeypatch.setenv("ACME_TOKEN", "another-token-for-the-tests-0123")
    shown = apply(EXAMPLE)
    old.refresh_from_db()
    assert old.revoked_at is not None
    assert ApiToken.objects.get(name="ci", revoked_at=None).pk != old.pk
    assert "~ token acme/web/ci\n    value: (set) -> (changed: the old one is revoked)" in shown
    assert "another-token" not in shown


def test_changed_rights_leave_the_token_itself_alone(apply: Applied) -> None:
    apply(EXAMPLE)
    assert "models: [*] -> [small]" in apply(EXAMPLE.replace('models: ["*"]', "models: [small]"))
    assert ApiToken.objects.get().allowed_models == ["small"]


def test_a_key_that_cannot_be_decrypted_any_more_is_replaced(apply: Applied) -> None:
    apply(EXAMPLE)
    ProviderKey.objects.filter(provider__name="lab").update(ciphertext=b"\x01" + b"\0" * 60)
    assert "api_key: (set) -> (changed)" in apply(EXAMPLE)
    assert ProviderKey.objects.get(provider__name="lab", status="active").reveal() == "sk-lab"


# ------------------------------------------------------------------ --plan and --json


def test_a_plan_shows_what_would_happen_and_does_nothing(apply: Applied) -> None:
    shown = apply(EXAMPLE, plan=True)
    assert "+ provider acme/lab" in shown
    assert "Nothing was applied." in shown
    assert not Tenant.objects.exists()
    assert not AuditEvent.objects.exists()


def test_a_plan_reveals_no_token(apply: Applied) -> None:
    assert "gw_" not in apply(tenant_with("    tokens: [{name: ci, project: web}]\n"), plan=True)


def test_json_carries_changes_and_new_tokens(apply: Applied) -> None:
    result = json.loads(apply(tenant_with("    tokens: [{name: ci, project: web}]\n"), json=True))
    assert [(change["action"], change["noun"], change["label"]) for change in result["changes"]] == [
        ("create", "tenant", "acme"),
        ("create", "project", "acme/web"),
        ("create", "token", "acme/web/ci"),
    ]
    assert well_formed(result["new_tokens"][0]["token"])


def test_json_lists_problems(apply: Applied) -> None:
    with pytest.raises(CommandError):
        apply("tenants: [{slug: acme, nmae: x}]", json=True)
    assert json.loads(apply.out)["problems"][0]["line"] == 1


# ------------------------------------------------------------------ what is refused


def test_all_problems_are_listed_at_once_and_nothing_is_applied(apply: Applied) -> None:
    problems = apply.refused("""tenants:
  - slug: acme
    nmae: Acme
    projects: [{slug: web}]
    providers:
      - {name: lab, kind: openai-compatibel, base_url: "http://127.0.0.1:9110/v1"}
      - {name: lan, kind: openai-compatible, base_url: "http://10.0.0.1/v1"}
      - {name: ok, kind: ollama, base_url: "http://127.0.0.1:9110", weight: many}
    models:
      - {name: small, provider: okk, price: {input: free, output: 1}}
      - {name: large, provider: ok, fallbacks: [smal]}
      - {name: large, provider: ok}
    aliases: [{name: it, model: larg}]
    tokens:
      - {name: ci, project: wbe}
      - {name: short, project: web, value: abc}
      - {name: unset, project: web, value: {env: NO_SUCH_VARIABLE}}
    members: [{email: nobody, role: king}, {email: somebody, role: viewer}]
""")
    by_line = {int(problem.split(":")[0]): problem for problem in problems}
    assert "unknown key 'nmae' in a tenant; did you mean 'name'?" in by_line[3]
    assert "'openai-compatibel' is not one of" in by_line[6]
    assert "ALLOWED_UPSTREAMS" in by_line[7]
    assert "weight: must be a whole number, not text." in by_line[8]
    assert any("provider: there is no provider 'okk'; did you mean 'ok'?" in line for line in problems)
    assert any("price: input: must be an amount in USD" in line for line in problems)
    assert "fallbacks: there is no model 'smal'; did you mean 'small'?" in by_line[11]
    assert "the model 'large' is declared twice (first on line 11)." in by_line[12]
    assert "model: there is no model 'larg'; did you mean 'large'?" in by_line[13]
    assert "project: there is no project 'wbe'; did you mean 'web'?" in by_line[15]
    assert "value: " in by_line[16]
    assert "NO_SUCH_VARIABLE is not set" in by_line[17]
    assert any("role: 'king' is not one of owner, admin" in line for line in problems)
    assert any("email: " in line for line in problems)
    assert not Tenant.objects.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: the file declares nothing."),
        ("tenants: [}", "1: this is not YAML"),
        ("- tenants", "1: must be a mapping, not a list."),
        ("tenants: {}", "1: tenants: must be a list, not a mapping."),
        ("tenant: []", "1: unknown key 'tenant' in a declaration; did you mean 'tenants'?"),
        ("tenants: []\ntenants: []", "2: the key 'tenants' stands here twice (first on line 1)."),
        ("tenants: [{name: x}]", "1: a tenant needs 'slug'."),
        ("tenants: [{slug: 12}]", "1: slug: must be text, not a number."),
        ("tenants: [{slug: A_B}]", "1: slug: Use up to 63 lower-case letters"),
        ("tenants: [{slug: &a acme}, {slug: *a}]", "1: anchors and aliases (&, *) are not supported."),
        ("tenants: [{slug: !!python/name:os.system x}]", "1: slug: the tag"),
        ("tenants: [{slug: acme, enabled: maybe}]", "1: enabled: must be true or false, not text."),
        ("tenants: [{slug: acme}]\n---\n{}", "2: this is not YAML"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(apply: Applied, text: str, problem: str) -> None:
    assert apply.refused(text)[0].startswith(problem)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (", price: {input: 1}", "price: a price needs 'output'."),
        (", price: {input: -1, output: 1}", "price: input: must be an amount"),
        (", price: {input: 0.1234567, output: 1}", "price: input: must be an amount"),
        (", price: {input: .nan, output: 1}", "price: input: must be an amount"),
        (", capabilities: [telepathy]", "capabilities: 'telepathy' is not one of"),
        (", deadlines: {conect: 1}", "deadlines: unknown key 'conect' in a deadline; did you mean 'connect'?"),
        (", deadlines: {total: 0}", "deadlines: total: must be a number of seconds above 0"),
        (", context_window: big", "context_window: must be a whole number, not text."),
        (", vendor_model: ", "vendor_model: must be text, not nothing."),
        (", fallbacks: small", "fallbacks: must be a list, not text."),
    ],
)
def test_a_bad_value_is_refused_where_it_stands(apply: Applied, fields: str, problem: str) -> None:
    assert apply.refused(with_model(fields))[0].startswith(f"5: {problem}")


def test_deep_nesting_and_alias_bombs_cost_nothing(apply: Applied) -> None:
    assert "nested too deeply" in apply.refused("[" * 100_000)[0]
    assert "anchors" in apply.refused("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]")[0]


def test_a_secret_is_never_part_of_a_problem(apply: Applied) -> None:
    problems = apply.refused(tenant_with("    tokens: [{name: ci, project: web, value: my-short-secret}]\n"))
    assert "my-short-secret" not in "".join(problems)


def test_a_value_that_another_token_has_is_refused(apply: Applied) -> None:
    apply(EXAMPLE)
    text = "tenants: [{slug: rival, projects: [{slug: p}], tokens: [{name: ci, project: p, value: {env: ACME_TOKEN}}]}]"
    assert apply.refused(text)[0].startswith("1: value: ")


def test_another_tenants_provider_is_not_found(apply: Applied) -> None:
    apply(EXAMPLE)
    text = "tenants: [{slug: rival, models: [{name: m, provider: lab}]}]"
    assert apply.refused(text) == ["1: provider: there is no provider 'lab'."]


def test_references_may_lead_to_what_is_there_already(apply: Applied) -> None:
    apply(EXAMPLE)
    apply("tenants: [{slug: acme, models: [{name: huge, provider: lab, fallbacks: [large, lab/small]}]}]")
    assert Model.objects.get(name="huge").fallbacks == ["large", "lab/small"]


def test_a_file_that_cannot_be_read_is_one_clear_line() -> None:
    with pytest.raises(CommandError, match=r"^/no/such/file\.yaml: No such file or directory\.$"):
        call_command("apply", "/no/such/file.yaml")


def test_deployments_are_the_list_the_file_gives(apply: Applied) -> None:
    def shared(deployments: str) -> str:
        return apply(
            EXAMPLE.replace(
                "fallbacks: [small]}", f"fallbacks: [small], balancing: weighted, deployments: {deployments}}}"
            )
        )

    def kept() -> list[tuple[str, str, int | None]]:
        rows = Model.objects.get(name="large").deployments.select_related("provider")
        return [(row.provider.name, row.vendor_model, row.weight) for row in rows]

    told = shared("[{provider: openai, vendor_model: gpt-4o, weight: 3}, {provider: ollama-lab}]")
    assert "+ deployment acme/large/openai/gpt-4o" in told
    assert kept() == [("openai", "gpt-4o", 3), ("ollama-lab", "", None)]
    assert "Nothing to change" in shared(
        "[{provider: openai, vendor_model: gpt-4o, weight: 3}, {provider: ollama-lab}]"
    )
    assert "deployments: ollama-lab -> (removed)" in shared("[{provider: openai, vendor_model: gpt-4o, weight: 0}]")
    assert kept() == [("openai", "gpt-4o", 0)]
    assert {"deployment.created", "deployment.changed", "deployment.removed"} <= set(
        AuditEvent.objects.values_list("action", flat=True)
    )
    assert apply.refused(EXAMPLE.replace("fallbacks: [small]}", "deployments: [{provider: opnai}]}")) == [
        "13: provider: there is no provider 'opnai'; did you mean 'openai'?"
    ]
