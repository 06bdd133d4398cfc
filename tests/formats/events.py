"""The SDK of CloudEvents: one JSON object on standard input, one answer.

{"do": "write", "protocol": "http" or "kafka", "events": [{"mode": ..., "attributes": {...}, "data": ...}]}
    -> a list of {"headers": {name: value}, "body": base64}
{"do": "read", "protocol": ..., "messages": [{"headers": ..., "body": ...}]}
    -> a list of {"attributes": ..., "data": ...}

Data that is bytes is {"base64": ...}.
"""

import base64
import json
import sys
from datetime import datetime

from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent


def event_of(told):
    attributes, data = dict(told["attributes"]), told.get("data")
    if "time" in attributes:
        attributes["time"] = datetime.fromisoformat(attributes["time"])
    if isinstance(data, dict) and data.keys() == {"base64"}:
        data = base64.b64decode(data["base64"])
    return CloudEvent(attributes, data)


def write(protocol, told):
    binding = {"http": http, "kafka": kafka}[protocol]
    to = {"binary": binding.to_binary, "structured": binding.to_structured}[told["mode"]]
    message = to(event_of(told), JSONFormat())
    body = message.body if protocol == "http" else message.value
    text = lambda value: value.decode() if isinstance(value, bytes) else value
    headers = {name: text(value) for name, value in message.headers.items()}
    return {"headers": headers, "body": base64.b64encode(body or b"").decode()}


def read(protocol, message):
    headers, body = message["headers"], base64.b64decode(message["body"])
    if protocol == "http":
        event = http.from_http(http.HTTPMessage(headers=headers, body=body), JSONFormat())
    else:
        headers = {name: value.encode() for name, value in headers.items()}
        event = kafka.from_kafka(kafka.KafkaMessage(headers=headers, key=None, value=body), JSONFormat())
    attributes = {name: value for name, value in event.get_attributes().items() if value is not None}
    if "time" in attributes:
        attributes["time"] = attributes["time"].isoformat()
    data = event.get_data()
    if isinstance(data, bytes):
        data = {"base64": base64.b64encode(data).decode()}
    return {"attributes": attributes, "data": data}


def main():
    question = json.load(sys.stdin)
    protocol = question["protocol"]
    if question["do"] == "write":
        answer = [write(protocol, event) for event in question["events"]]
    else:
        answer = [read(protocol, message) for message in question["messages"]]
    json.dump(answer, sys.stdout)


main()
