"""Channels and rules of alerts."""

import copy
from typing import Final

from django.core.exceptions import ValidationError

from billing.models import AlertChannel, AlertRule, Budget
from gateway.declaration.document import Secret
from gateway.declaration.entries import Entry
from gateway.declaration.outcome import shown
from gateway.declaration.owner import Owner
from gateway.models import Model
from tenants.crypto import DecryptionFailed

_RULE_ATTRIBUTES: Final = {
    "name": "name", "kind": "kind", "threshold": "threshold", "window": "window_minutes",
    "cooldown": "cooldown_minutes", "least_requests": "least_requests", "enabled": "enabled",
}  # fmt: skip
_RULE_KEYS: Final = {attribute: key for key, attribute in _RULE_ATTRIBUTES.items()} | {"model_name": "model"}


class Alerting(Owner):
    """Who is told, and of what."""

    def apply(self) -> None:
        for entry in self.usable("channels"):
            self._apply_channel(entry)
        for entry in self.usable("alert_rules"):
            self._apply_rule(entry)

    # ------------------------------------------------------------------ channels

    def _apply_channel(self, entry: Entry) -> None:
        name = entry.values["name"]
        channel = AlertChannel.objects.filter(tenant=self.tenant, name=name).first()
        channel = channel or AlertChannel(tenant=self.tenant)
        try:
            sealed = self._sealed(entry, channel)
        except ValidationError as exc:
            self.writer.refuse(entry, exc)
            return
        values = entry.only(("name", "kind", "address", "enabled"))
        if sealed.secret_ciphertext != channel.secret_ciphertext:
            values["secret_ciphertext"] = sealed.secret_ciphertext
            channel.master_key_number = sealed.master_key_number
        keys = {"secret_ciphertext": "secret"}
        if self.writer.write(entry, channel, values, tenant=self.tenant, key_of=keys):
            self._warn_about_secret(entry, channel)

    def _sealed(self, entry: Entry, channel: AlertChannel) -> AlertChannel:
        """The channel at its address of the file, with the secret that it then has. Raises ValidationError."""
        sealed = copy.copy(channel)
        sealed.change_address(entry.values["address"])
        given: Secret | None = entry.values.get("secret")
        if given is not None and given.value is not None and not _holds(sealed, given.value):
            sealed.set_secret(given.value)
        return sealed

    def _warn_about_secret(self, entry: Entry, channel: AlertChannel) -> None:
        given: Secret | None = entry.values.get("secret")
        label = f"{self.tenant.slug}/{channel.name}" if self.tenant else channel.name
        if given is not None and given.value is None:
            state = "keeps its secret" if channel.has_secret else "has no secret"
            reason = f"the environment variable {given.variable} is not set."
            self.writer.warnings.append(f"alert channel {label} {state}: {reason}")
        elif channel.kind == AlertChannel.Kind.WEBHOOK and not channel.has_secret:
            self.writer.warnings.append(f"alert channel {label} has no secret: what it sends is not signed.")

    # ------------------------------------------------------------------ rules

    def _apply_rule(self, entry: Entry) -> None:
        problems = len(self.writer.problems)
        values = {attribute: entry.values[key] for key, attribute in _RULE_ATTRIBUTES.items() if key in entry.values}
        if "budget" in entry.values:
            values["budget"] = self._find_budget(entry)
        if "project" in entry.values:
            values["project"] = self.find_project(entry)
        if "model" in entry.values:
            values["model_name"] = self._find_model(entry)
        channels = self._find_channels(entry)
        if len(self.writer.problems) > problems or self._leads_to_unusable(entry, values, channels):
            return
        rule = AlertRule.objects.filter(tenant=self.tenant, name=entry.values["name"]).first()
        rule = rule or AlertRule(tenant=self.tenant)
        if self.writer.write(entry, rule, values, tenant=self.tenant, key_of=_RULE_KEYS) and channels is not None:
            self._set_channels(entry, rule, channels)

    def _set_channels(self, entry: Entry, rule: AlertRule, channels: list[AlertChannel]) -> None:
        before = sorted(channel.name for channel in rule.channels.all())
        if rule.set_channels(channels, self.writer.actor):
            after = sorted(channel.name for channel in channels)
            self.writer.differ(entry, self.tenant, "channels", shown(before), shown(after))

    def _leads_to_unusable(self, entry: Entry, values: dict[str, object], channels: list[AlertChannel] | None) -> bool:
        """Whether something it refers to is in the file and was refused there, so that nothing more is to be said."""
        lost = any(
            entry.values.get(key) is not None and values[key] is None for key in ("budget", "project") if key in values
        )
        return lost or (channels is not None and len(channels) < len(set(entry.values["channels"])))

    def _find_budget(self, entry: Entry) -> Budget | None:
        wanted = entry.values["budget"]
        budgets = Budget.objects.filter(tenant=self.tenant)
        found = budgets.filter(name=wanted).first()
        if found is None and wanted not in self.declared("budgets"):
            self.writer.missing(entry, "budget", wanted, "budget", budgets.values_list("name", flat=True))
        return found

    def _find_model(self, entry: Entry) -> str:
        wanted = entry.values["model"]
        if wanted is None:
            return ""
        names = set(Model.objects.filter(self.visible).values_list("name", flat=True))
        if wanted not in names | self.declared("models"):
            self.writer.missing(entry, "model", wanted, "model", names)
        return str(wanted)

    def _find_channels(self, entry: Entry) -> list[AlertChannel] | None:
        if "channels" not in entry.values:
            return None
        own = {channel.name: channel for channel in AlertChannel.objects.filter(tenant=self.tenant)}
        for wanted in entry.values["channels"]:
            if wanted not in own.keys() | self.declared("channels"):
                self.writer.missing(entry, "channels", wanted, "channel", own)
        return [own[name] for name in dict.fromkeys(entry.values["channels"]) if name in own]


def _holds(channel: AlertChannel, secret: str) -> bool:
    """Whether a channel's secret is this one; one that cannot be read any more is not."""
    try:
        return channel.reveal_secret() == secret
    except DecryptionFailed:
        return False
