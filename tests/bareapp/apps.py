from django.apps import AppConfig


class BareappConfig(AppConfig):
    name = "tests.bareapp"
    label = "bareapp"
