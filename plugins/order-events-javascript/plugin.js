// Makes an event of each order.

import { ConfigError, DROP, EMIT, PASS, plugin, reject } from "./millstream.js";

let config;

export const processor = plugin({
  name: "order-events",
  version: "0.1.0",
  summary: "Makes an event of each order.",
  reads: ["payload", "headers"],
  schema: {
    type: "object",
    properties: {
      minimum: { type: "number", description: "Orders below this total are dropped." },
      large: { type: "number", description: "Orders of this total go to the route `large` too." },
    },
    required: ["minimum"],
    additionalProperties: false,
  },

  configure(given) {
    if (typeof given.minimum !== "number") throw new ConfigError("/minimum", "must be a number");
    config = { large: Infinity, ...given };
  },

  process(message, out) {
    // What is an event already goes on as it is.
    if (message.header("x-event") !== undefined) return PASS;
    const order = message.json();
    if (typeof order?.id !== "string" || typeof order.total !== "number") {
      throw reject("not-an-order", "an order has an id and a total");
    }
    if (order.status === "cancelled" || order.total < config.minimum) return DROP;
    const { id, customer, email, country, channel, currency, total, items, created } = order;
    out.emit({
      payload: {
        id,
        type: "order.placed",
        time: created,
        data: { customer: { id: customer, email, country }, channel, items, price: { amount: total, currency } },
      },
      key: customer,
      headers: { "x-event": "order.placed", authorization: null },
      routes: total >= config.large ? ["events", "large"] : ["events"],
    });
    return EMIT;
  },
});
