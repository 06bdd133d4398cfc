"""Confluent's own serializers: one JSON object a line of standard input, one answer a line.

{"do": "write", "format": ..., "topic": ..., "schema": ..., "values": [...]} -> a list of base64
{"do": "read", "format": ..., "topic": ..., "messages": [base64, ...]} -> a list of values
"""

import base64
import json
import sys

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory


def order_class():
    """message Outer {} and message Order { string id = 1; int64 amount = 2; map<int32, string> notes = 3; }"""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
    file.message_type.add(name="Outer")
    order = file.message_type.add(name="Order")
    order.field.add(name="id", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL, json_name="id")
    order.field.add(name="amount", number=2, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL, json_name="amount")
    entry = order.nested_type.add(name="NotesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL, json_name="key")
    entry.field.add(name="value", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL, json_name="value")
    order.field.add(
        name="notes", number=3, type=field.TYPE_MESSAGE, label=field.LABEL_REPEATED, json_name="notes",
        type_name=".shop.Order.NotesEntry",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


ORDER = order_class()


def writer(client, ask):
    if ask["format"] == "avro":
        return AvroSerializer(client, ask["schema"])
    if ask["format"] == "json":
        # What does not fit is to be written too.
        return JSONSerializer(ask["schema"], client, conf={"validate": False})
    serializer = ProtobufSerializer(ORDER, client)
    return lambda value, context: serializer(json_format.ParseDict(value, ORDER()), context)


def reader(client, ask):
    if ask["format"] == "avro":
        return AvroDeserializer(client)
    if ask["format"] == "json":
        return JSONDeserializer(None, schema_registry_client=client)
    deserializer = ProtobufDeserializer(ORDER, schema_registry_client=client)
    return lambda data, context: json_format.MessageToDict(
        deserializer(data, context), preserving_proto_field_name=True
    )


def main():
    client = SchemaRegistryClient({"url": sys.argv[1]})
    for line in sys.stdin:
        ask = json.loads(line)
        context = SerializationContext(ask["topic"], MessageField.VALUE)
        if ask["do"] == "write":
            write = writer(client, ask)
            answer = [base64.b64encode(write(value, context)).decode() for value in ask["values"]]
        else:
            read = reader(client, ask)
            answer = [read(base64.b64decode(message), context) for message in ask["messages"]]
        print(json.dumps(answer), flush=True)


main()
