from django.urls import include, path

from example_project.shop import views
from example_project.shop.pipelines import approve

urlpatterns = [
    path("", include(([path("", views.index, name="index")], "shop"))),
    path("approvals/", include((approve.artifact, "approvals"))),
]
