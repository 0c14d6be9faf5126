from django.contrib import admin

from example_project.shop.models import GatewayCall, Order, Payment, Product, Shipment, StockMovement


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["name", "price", "stock"]
    readonly_fields = ["stock"]


class PaymentInline(admin.TabularInline):
    model = Payment
    extra = 0


class ShipmentInline(admin.TabularInline):
    model = Shipment
    extra = 0


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["id", "product", "quantity", "customer_email", "state", "created_at"]
    list_filter = ["state", "product"]
    search_fields = ["customer_email"]
    inlines = [PaymentInline, ShipmentInline]


@admin.register(StockMovement)
class StockMovementAdmin(admin.ModelAdmin):
    list_display = ["id", "product", "order", "change", "created_at"]
    list_filter = ["product"]


@admin.register(GatewayCall)
class GatewayCallAdmin(admin.ModelAdmin):
    list_display = ["id", "idempotency_key", "accepted"]
    list_filter = ["accepted"]
