"""Django's settings, all from the environment or ``.env``. docs/configuration.md describes each."""

import os
import sys
from typing import Any

from csp.constants import NONCE, NONE, SELF

from gateway import installation
from gateway.logs import FORMATS, LEVELS, logging_config

env = installation.env()
BASE_DIR = installation.ROOT
DATA_DIR = installation.data_dir()

DEBUG = installation.switch("DEBUG", False)
SECRET_KEY = installation.secret("SECRET_KEY")
HOST = env.str("HOST", default="127.0.0.1")
PORT = installation.whole_number("PORT", 4000, at_least=1, at_most=65_535)
WEB_WORKERS = installation.whole_number("WEB_WORKERS", 1, at_least=1)
if WEB_WORKERS > 1:  # before anything counts: each worker then writes files that any of them can add up
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(DATA_DIR / "run" / "metrics"))
    (DATA_DIR / "run" / "metrics").mkdir(parents=True, exist_ok=True)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]", HOST])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
TRUSTED_PROXIES = installation.networks("TRUSTED_PROXIES")

# --------------------------------------------------------------------------- the gateway's own
MASTER_KEYS = installation.secret("MASTER_KEYS")
TOKEN_PEPPERS = installation.secret("TOKEN_PEPPERS")
ALLOWED_UPSTREAMS = env.list("ALLOWED_UPSTREAMS", default=[])
IP_RATE_LIMIT = installation.whole_number("IP_RATE_LIMIT", 200, at_least=0)  # requests per second and address; 0 = off
MAX_BODY_BYTES = installation.whole_number("MAX_BODY_BYTES", 10 * 1024 * 1024, at_least=1)
BODY_TIMEOUT_S = installation.seconds("BODY_TIMEOUT_S", 30.0, or_none=False)
FIRST_EVENT_PATIENCE_S = installation.seconds("FIRST_EVENT_PATIENCE_S", 15.0)
KEEP_ALIVE_INTERVAL_S = installation.seconds("KEEP_ALIVE_INTERVAL_S", 10.0, or_none=False)
BUDGET_PATIENCE_S = installation.seconds("BUDGET_PATIENCE_S", 20.0)
LOG_RETENTION_DAYS = installation.whole_number("LOG_RETENTION_DAYS", 90, at_least=1)  # of tenants without a plan
AUDIT_RETENTION_DAYS = installation.whole_number(
    "AUDIT_RETENTION_DAYS", 0, at_least=0
)  # of those and the installation's own; 0 = for ever
DRAIN_S = installation.seconds("DRAIN_S", 30.0)
BREAKER_FAILURES = installation.whole_number("BREAKER_FAILURES", 5, at_least=1)
BREAKER_COOL_DOWN_S = installation.seconds("BREAKER_COOL_DOWN_S", 5.0)
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
METRICS_NETWORKS = installation.networks("METRICS_NETWORKS", ["127.0.0.0/8", "::1/128"])

# --------------------------------------------------------------------------- apps
INSTALLED_APPS = [
    *(["daphne"] if "runserver" in sys.argv else []),  # first: it replaces that command, and serves nothing else
    "gateway.admin_config.OperatorAdminConfig",  # django.contrib.admin with our site
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "csp",
    "tenants",
    "gateway",
    "routing",
    "guardrails",
    "billing",
    "audit",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "gateway.views.StaticFiles",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "gateway.urls"
ASGI_APPLICATION = "gateway.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "tenants.authentication.TokenAuthentication",
        "tenants.authentication.ManagerSession",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["tenants.authentication.IsManager"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "UNAUTHENTICATED_USER": None,
}

# --------------------------------------------------------------------------- data
# Without URLs (checks, `makemigrations`) the addresses lead nowhere; whatever needs a database got them from
# gateway.embedded before these settings were read.
DATABASE_URL = installation.url("DATABASE_URL", installation.POSTGRES_SCHEMES) or (
    "postgresql://pointsman_system@127.0.0.1:1/pointsman"
)
DATABASE_OWNER_URL = installation.url("DATABASE_OWNER_URL", installation.POSTGRES_SCHEMES) or DATABASE_URL
REDIS_URL = installation.url("REDIS_URL", ("redis", "rediss", "unix")) or "redis://127.0.0.1:1/0"


# A server that vanishes without a word is noticed within seconds, in threads as well as on the hot path.
_GIVES_UP = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms
}


def _database(url: str) -> dict[str, Any]:
    config = env.db_url_config(url)
    options = {**_GIVES_UP, **config.get("OPTIONS", {})}
    return {**config, "OPTIONS": options, "ENGINE": "django.db.backends.postgresql", "CONN_HEALTH_CHECKS": True}


DATABASES = {
    "default": _database(DATABASE_URL),
    # The owner of the tables: migrations only (the gateway's role may not change the schema).
    "owner": _database(DATABASE_OWNER_URL),
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "tenants.User"

# Redis' socket is a path; Celery's transport spells that differently.
_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_BROKER_URL = _BROKER_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TIMEZONE = "UTC"

# --------------------------------------------------------------------------- e-mail
EMAIL_HOST = env.str("EMAIL_HOST", default="")  # empty: no mail is sent, and alerts to addresses say so
EMAIL_PORT = installation.whole_number("EMAIL_PORT", 587, at_least=1, at_most=65_535)
EMAIL_HOST_USER = env.str("EMAIL_HOST_USER", default="")
EMAIL_HOST_PASSWORD = env.str("EMAIL_HOST_PASSWORD", default="")
EMAIL_USE_TLS = installation.switch("EMAIL_USE_TLS", True)
EMAIL_USE_SSL = installation.switch("EMAIL_USE_SSL", False)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="pointsman@localhost")

# --------------------------------------------------------------------------- Stripe
STRIPE_API_KEY = env.str("STRIPE_API_KEY", default="")  # empty: usage reports are only kept
STRIPE_API_BASE = env.str("STRIPE_API_BASE", default="https://api.stripe.com")
STRIPE_METER = env.str("STRIPE_METER", default="pointsman_usage")
STRIPE_METER_VALUE = env.str("STRIPE_METER_VALUE", default="spend")

# --------------------------------------------------------------------------- pages
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = None  # nothing to collect: WhiteNoise serves from where the files are
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True
LOGIN_URL = "/admin/login/"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# --------------------------------------------------------------------------- browser security
HTTPS = installation.switch("HTTPS", False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TRUSTED_PROXIES else None
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, NONCE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}

LOGGING = logging_config(
    installation.one_of("LOG_LEVEL", "INFO", LEVELS), installation.one_of("LOG_FORMAT", "console", FORMATS)
)
