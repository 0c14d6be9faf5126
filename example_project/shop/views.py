"""The shop window."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from example_project.shop import ordering
from example_project.shop.models import Order, Product
from example_project.shop.pipelines import fulfil


class OrderForm(forms.Form):
    """What a customer fills in: an address, and how many of each product."""

    email = forms.EmailField()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.products = {product.name: product for product in Product.objects.all()}
        for name in self.products:
            self.fields[name] = forms.IntegerField(min_value=0, max_value=1000, initial=0, required=False)

    def clean(self) -> dict[str, Any]:
        """At least one piece."""
        if not self.errors and not self.quantities():
            raise forms.ValidationError("Order something.")
        return self.cleaned_data

    def quantities(self) -> dict[Product, int]:
        """What was ordered."""
        return {product: self.cleaned_data[name] for name, product in self.products.items() if self.cleaned_data[name]}


def index(request: HttpRequest) -> HttpResponse:
    """Place an order; show the last ones and what is in stock."""
    form = OrderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        placed = ordering.place(form.cleaned_data["email"], form.quantities())
        ordering.remember(request, placed)
        messages.success(request, f"{placed} is placed.")
        return redirect("shop:order", placed.pk)
    orders = Order.objects.prefetch_related("items__product", "sell_inputs")
    context = {
        "form": form,
        "orders": orders[:20],
        "underway": orders.filter(state=Order.State.PLACED).count(),
        "products": Product.objects.all(),
    }
    return render(request, "shop/index.html", context)


def order(request: HttpRequest, pk: int) -> HttpResponse:
    """One order: how far it is, and what came of it. Its runs are rows that point at it."""
    found = get_object_or_404(Order, pk=pk)
    share, words = ordering.progress(found)
    context = {
        "order": found,
        "items": found.items.select_related("product").prefetch_related("shipments"),
        "share": share,
        "words": words,
        "mine": ordering.owns(request, pk),
        "socket": f"ws/orders/{pk}/",
        "result": fulfil.Output.objects.filter(key=found.name).last(),
        "underway": fulfil.Input.objects.filter(value=found).exists(),
    }
    return render(request, "shop/order.html", context)


@require_POST
def cancel(request: HttpRequest, pk: int) -> HttpResponse:
    """The customer has thought better of it."""
    found = get_object_or_404(Order, pk=pk)
    if not ordering.owns(request, pk):
        raise PermissionDenied
    if ordering.cancel(found):
        messages.success(request, "The order is being cancelled.")
    else:
        messages.error(request, "It is too late to cancel this order.")
    return redirect("shop:order", pk)
