"""The operators' pages of what can be reached and what was asked."""

from gateway.admin.models import AliasAdmin, ModelAdmin
from gateway.admin.providers import ProviderAdmin, ProviderKeyAdmin
from gateway.admin.requests import RequestContentAdmin, RequestLogAdmin

__all__ = ["AliasAdmin", "ModelAdmin", "ProviderAdmin", "ProviderKeyAdmin", "RequestContentAdmin", "RequestLogAdmin"]
