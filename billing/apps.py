from typing import Any

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"
    verbose_name = "Billing"

    def ready(self) -> None:
        from tenants.models import content_is_kept, member_joins, token_replaced  # noqa: PLC0415 - models exist from here on

        token_replaced.connect(_budgets_follow, dispatch_uid="budgets follow their token")
        member_joins.connect(_refuse_without_seat, dispatch_uid="a plan has so many seats")
        content_is_kept.connect(_refuse_content_log, dispatch_uid="a plan may leave the content log out")


def _budgets_follow(sender: Any, **replaced: Any) -> None:
    """A token that is rotated keeps its budgets and limits, and what is spent of them."""
    from billing.models.budgets import follow_token  # noqa: PLC0415 - not before the apps are ready

    follow_token(replaced["before"], replaced["after"], replaced["actor"])


def _refuse_without_seat(sender: Any, **joining: Any) -> None:
    """Raises ValidationError when all seats of the tenant's plan are taken by others."""
    from billing.models import Subscription  # noqa: PLC0415 - not before the apps are ready

    Subscription.refuse_without_seat(joining["tenant"], joining["user"])


def _refuse_content_log(sender: Any, **keeping: Any) -> None:
    """Raises ValidationError when the tenant's plan leaves the content log out."""
    from billing.models import Subscription  # noqa: PLC0415 - not before the apps are ready

    Subscription.refuse_without_feature(keeping["tenant"], "content_log", "log_content")
