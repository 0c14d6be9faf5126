from django.contrib import admin

from example_project.shop.models import GatewayCall, Item, Order, Payment, Product, Shipment, StockMovement


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["name", "price", "stock"]
    readonly_fields = ["stock"]


class ItemInline(admin.TabularInline):
    model = Item
    extra = 0


class PaymentInline(admin.TabularInline):
    model = Payment
    extra = 0


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["id", "customer_email", "state", "created_at"]
    list_filter = ["state", "items__product"]
    search_fields = ["customer_email"]
    inlines = [ItemInline, PaymentInline]


@admin.register(Shipment)
class ShipmentAdmin(admin.ModelAdmin):
    list_display = ["id", "tracking_code", "item"]


@admin.register(StockMovement)
class StockMovementAdmin(admin.ModelAdmin):
    list_display = ["id", "product", "item", "change", "created_at"]
    list_filter = ["product"]


@admin.register(GatewayCall)
class GatewayCallAdmin(admin.ModelAdmin):
    list_display = ["id", "reference", "kind", "accepted"]
    list_filter = ["kind", "accepted"]
