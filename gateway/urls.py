"""Every path that Django answers. Paths forwarded to a vendor are routed in :mod:`gateway.asgi`."""

from django.contrib import admin
from django.urls import include, path

from billing.api import router as billing_router
from gateway import views
from gateway.api import router
from gateway.v1 import api

admin.autodiscover()

urlpatterns = [
    path("", views.front_door),
    path("admin/", admin.site.urls),
    path("v1/", api.urls),
    path("api/", include(router.urls)),
    path("api/", include(billing_router.urls)),
    path("api/", views.unknown_api_path),
    path("api/<path:rest>", views.unknown_api_path),
    path("health", views.ready),
    path("health/live", views.live),
    path("health/ready", views.ready),
    path("metrics", views.metrics),
]
