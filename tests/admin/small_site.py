"""A site with the tables of few pipelines. Each page of the usual one lists hundreds at its side, which takes time."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from pipeteer_django.admin.own import QueueAdmin, WorkerAdmin
from pipeteer_django.admin.registration import ADMINS
from pipeteer_django.models import Queue, Worker
from tests.testapp import pipelines as made
from tests.testapp.models import Item

PIPELINES = [
    *(made.approve, made.judge, made.review, made.scripted, made.process_item),
    *(made.double, made.echo_customer, made.echo_nested, made.echo_point, made.echo_str, made.echo_union),
]

site = admin.AdminSite()
site.enable_nav_sidebar = False
site.register(Item)
site.register(Queue, QueueAdmin)
site.register(Worker, WorkerAdmin)
for _pipeline in PIPELINES:
    for _role, _model in _pipeline.models.items():
        site.register(_model, ADMINS[_role])

urlpatterns = [path("admin/", site.urls)]
