"""Makes an event of each order."""

import math

from millstream import DROP, EMIT, PASS, ConfigError, Plugin, export, reject


class OrderEvents(Plugin):
    name = "order-events"
    version = "0.1.0"
    summary = "Makes an event of each order."
    reads = {"payload", "headers"}
    schema = {
        "type": "object",
        "properties": {
            "minimum": {"type": "number", "description": "Orders below this total are dropped."},
            "large": {"type": "number", "description": "Orders of this total go to the route `large` too."},
        },
        "required": ["minimum"],
        "additionalProperties": False,
    }

    def configure(self, config):
        self.minimum = config.get("minimum")
        self.large = config.get("large", math.inf)
        if not isinstance(self.minimum, (int, float)):
            raise ConfigError("/minimum", "must be a number")

    def process(self, message, out):
        # What is an event already goes on as it is.
        if message.header("x-event") is not None:
            return PASS
        order = message.json()
        try:
            identity, total = order["id"] + "", order["total"] + 0
        except (TypeError, KeyError):
            raise reject("not-an-order", "an order has an id and a total") from None
        if order.get("status") == "cancelled" or total < self.minimum:
            return DROP
        customer = {"id": order["customer"], "email": order["email"], "country": order["country"]}
        out.emit(
            payload={
                "id": identity,
                "type": "order.placed",
                "time": order["created"],
                "data": {
                    "customer": customer,
                    "channel": order["channel"],
                    "items": order["items"],
                    "price": {"amount": total, "currency": order["currency"]},
                },
            },
            key=order["customer"],
            headers={"x-event": "order.placed", "authorization": None},
            routes=["events", "large"] if total >= self.large else ["events"],
        )
        return EMIT


Processor = export(OrderEvents)
