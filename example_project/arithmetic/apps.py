from django.apps import AppConfig


class ArithmeticConfig(AppConfig):
    name = "example_project.arithmetic"
