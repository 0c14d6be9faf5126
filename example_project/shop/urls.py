from django.urls import include, path

from example_project.shop import views
from example_project.shop.pipelines import approve

shop = [
    path("", views.index, name="index"),
    path("<int:pk>/", views.order, name="order"),
    path("<int:pk>/cancel/", views.cancel, name="cancel"),
]
urlpatterns = [
    path("", include((shop, "shop"))),
    path("approvals/", include((approve.artifact, "approvals"))),
]
