from django.db import models


class Effect(models.Model):
    """What a body wrote; `unique` is there to be violated."""

    name = models.CharField(max_length=100)
    unique = models.IntegerField(unique=True, null=True)

    def __str__(self) -> str:
        return self.name


class Parcel(models.Model):
    """Something that takes its pending work with it when it is deleted."""

    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name
