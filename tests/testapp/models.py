from django.db import models


class Ledger(models.Model):
    """What bodies did. Nothing here is unique, so that a thing done twice is seen twice."""

    name = models.CharField(max_length=200)
    run_id = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.name} of run {self.run_id}"


class Item(models.Model):
    """Something for a pipeline to be about."""

    name = models.CharField(max_length=100)
    processed = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.name
