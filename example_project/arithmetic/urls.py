from django.urls import path

from example_project.arithmetic import views

app_name = "arithmetic"
urlpatterns = [path("", views.index, name="index")]
