"""The admin's ways of writing figures, for templates."""

from django import template

from gateway import admin_columns

register = template.Library()
register.filter("usd", admin_columns.usd)
register.filter("exact_usd", admin_columns.exact_usd)
register.filter("count", admin_columns.count)
register.filter("duration", admin_columns.duration)
register.filter("percent", admin_columns.percent)
register.filter("badge", admin_columns.badge)
