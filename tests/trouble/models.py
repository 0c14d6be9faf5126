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


class Crate(Parcel):
    """A parcel with more to it: a row in two tables."""

    weight = models.IntegerField(default=0)


class HeavyCrate(Crate):
    """The same rows under another name."""

    class Meta:
        proxy = True


class Receipt(models.Model):
    """Keeps an output from being deleted."""

    of = models.ForeignKey("trouble.KeepsOutput", on_delete=models.PROTECT)

    def __str__(self) -> str:
        return f"receipt {self.pk}"


class Remark(models.Model):
    """Goes with its output."""

    on = models.ForeignKey("trouble.KeepsOutput", on_delete=models.CASCADE)

    def __str__(self) -> str:
        return f"remark {self.pk}"


class Signature(models.Model):
    """Keeps a remark from being deleted, and so its output."""

    under = models.ForeignKey(Remark, on_delete=models.PROTECT)

    def __str__(self) -> str:
        return f"signature {self.pk}"
