from django.contrib import admin
from django.urls import include, path
from django.views.generic import TemplateView

urlpatterns = [
    path("", TemplateView.as_view(template_name="home.html"), name="home"),
    path("arithmetic/", include("example_project.arithmetic.urls")),
    path("shop/", include("example_project.shop.urls")),
    path("admin/", admin.site.urls),
]
