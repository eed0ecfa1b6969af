"""The names of what can be done, as the audit trail keeps them: ``<noun>.<what happened to it>``."""

from enum import StrEnum


class Action(StrEnum):
    USER_CREATED = "user.created"
    USER_CHANGED = "user.changed"

    TENANT_CREATED = "tenant.created"
    TENANT_CHANGED = "tenant.changed"
    PROJECT_CREATED = "project.created"
    PROJECT_CHANGED = "project.changed"
    MEMBER_CREATED = "member.created"
    MEMBER_CHANGED = "member.changed"
    MEMBER_DELETED = "member.deleted"

    TOKEN_ISSUED = "token.issued"  # noqa: S105 - the name of an act
    TOKEN_CHANGED = "token.changed"  # noqa: S105
    TOKEN_ROTATED = "token.rotated"  # noqa: S105
    TOKEN_REVOKED = "token.revoked"  # noqa: S105

    PROVIDER_CREATED = "provider.created"
    PROVIDER_CHANGED = "provider.changed"
    PROVIDER_DELETED = "provider.deleted"
    PROVIDER_KEY_SET = "provider_key.set"
    PROVIDER_KEY_REVOKED = "provider_key.revoked"
    MASTER_KEY_ROTATED = "master_key.rotated"

    MODEL_CREATED = "model.created"
    MODEL_CHANGED = "model.changed"
    MODEL_DELETED = "model.deleted"
    DEPLOYMENT_CREATED = "deployment.created"
    DEPLOYMENT_CHANGED = "deployment.changed"
    DEPLOYMENT_REMOVED = "deployment.removed"
    ALIAS_CREATED = "alias.created"
    ALIAS_CHANGED = "alias.changed"
    ALIAS_DELETED = "alias.deleted"

    CIRCUIT_TRIPPED = "circuit.tripped"
    CIRCUIT_RESET = "circuit.reset"

    ROUTING_CREATED = "routing.created"
    ROUTING_CHANGED = "routing.changed"
    STRATEGY_CREATED = "strategy.created"
    STRATEGY_CHANGED = "strategy.changed"
    STRATEGY_REMOVED = "strategy.removed"
    PUBLISHED_SCORE_CREATED = "published_score.created"
    PUBLISHED_SCORE_CHANGED = "published_score.changed"
    PUBLISHED_SCORE_REMOVED = "published_score.removed"
    PUBLISHED_SCORES_IMPORTED = "published_scores.imported"

    AUDIT_REMOVED = "audit.removed"

    LEDGER_REPRICED = "ledger.repriced"
    CONTENT_READ = "request_content.read"

    PRICE_SET = "price.set"
    PRICE_BOOK_IMPORTED = "price_book.imported"

    BUDGET_CREATED = "budget.created"
    BUDGET_CHANGED = "budget.changed"
    BUDGET_REMOVED = "budget.removed"
    RATE_LIMIT_CREATED = "rate_limit.created"
    RATE_LIMIT_CHANGED = "rate_limit.changed"
    RATE_LIMIT_REMOVED = "rate_limit.removed"
    PLAN_CREATED = "plan.created"
    PLAN_CHANGED = "plan.changed"
    PLAN_REMOVED = "plan.removed"
    SUBSCRIPTION_CREATED = "subscription.created"
    SUBSCRIPTION_CHANGED = "subscription.changed"
    SUBSCRIPTION_REMOVED = "subscription.removed"

    METER_EVENT_CONFIRMED = "meter_event.confirmed"
    METER_EVENT_REPEATED = "meter_event.repeated"

    ALERT_CHANNEL_CREATED = "alert_channel.created"
    ALERT_CHANNEL_CHANGED = "alert_channel.changed"
    ALERT_CHANNEL_REMOVED = "alert_channel.removed"
    ALERT_RULE_CREATED = "alert_rule.created"
    ALERT_RULE_CHANGED = "alert_rule.changed"
    ALERT_RULE_REMOVED = "alert_rule.removed"

    EXPERIMENT_CREATED = "experiment.created"
    EXPERIMENT_ENDED = "experiment.ended"
    RAMP_CREATED = "ramp.created"
    RAMP_CHANGED = "ramp.changed"
    RAMP_ENDED = "ramp.ended"
