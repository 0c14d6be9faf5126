from django.apps import AppConfig


class TroubleConfig(AppConfig):
    name = "tests.trouble"
    label = "trouble"
