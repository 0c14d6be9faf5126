"""The shop window."""

from django.contrib import messages
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from example_project.shop import ordering
from example_project.shop.models import Order, Product


class OrderForm(ModelForm):
    """What a customer fills in."""

    class Meta:
        model = Order
        fields = ["product", "quantity", "customer_email"]


def index(request: HttpRequest) -> HttpResponse:
    """Place an order; show the last ones and what is in stock."""
    form = OrderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        order = ordering.place(form.save(commit=False))
        messages.success(request, f"{order} is placed.")
        return redirect("shop:index")
    orders = Order.objects.select_related("product")
    context = {
        "form": form,
        "orders": orders[:20],
        "underway": orders.filter(state=Order.State.PLACED).count(),
        "products": Product.objects.all(),
    }
    return render(request, "shop/index.html", context)
