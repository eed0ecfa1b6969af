from typing import Any

from django.apps import AppConfig


class RoutingConfig(AppConfig):
    name = "routing"
    verbose_name = "Routing"

    def ready(self) -> None:
        from tenants.models import token_replaced  # noqa: PLC0415 - models exist from here on

        token_replaced.connect(_strategy_follows, dispatch_uid="a strategy follows its token")


def _strategy_follows(sender: Any, **replaced: Any) -> None:
    """A token that is rotated keeps its strategy."""
    from routing.strategies import keep_strategy  # noqa: PLC0415 - not before the apps are ready

    keep_strategy(replaced["before"], replaced["after"], replaced["actor"])
