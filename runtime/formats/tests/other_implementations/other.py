"""The formats as Python has them. Each line of the input is a case, each line of the output its answer.

A description says what a value is in words that both sides have: ["int", "5"], ["text", "x"].
"""

import base64
import datetime
import decimal
import io
import json
import struct
import sys
import uuid

import cbor2
import fastavro
import fastavro.read
import fastavro.schema
import fastavro.write
import msgpack
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

decimal.getcontext().prec = 60
UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)


def describe(value):
    if value is None:
        return ["null"]
    if value is True or value is False:
        return ["bool", value]
    if isinstance(value, int):
        return ["int", str(value)]
    if isinstance(value, float):
        return ["float", "nan" if value != value else struct.pack(">d", value).hex()]
    if isinstance(value, str):
        return ["text", value]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, msgpack.Timestamp):
        return ["timestamp", str(value.seconds), value.nanoseconds]
    if isinstance(value, datetime.datetime):
        kind = "timestamp" if value.tzinfo else "local"
        value = value.replace(tzinfo=UTC)
        past = value - EPOCH
        return [kind, str(past.days * 86400 + past.seconds), past.microseconds * 1000]
    if isinstance(value, datetime.date):
        return ["date", (value - EPOCH.date()).days]
    if isinstance(value, datetime.time):
        seconds = (value.hour * 60 + value.minute) * 60 + value.second
        return ["time", str((seconds * 1_000_000 + value.microsecond) * 1000)]
    if isinstance(value, decimal.Decimal):
        sign, digits, exponent = value.as_tuple()
        return ["decimal", ("-" if sign else "") + "".join(map(str, digits)), -exponent]
    if isinstance(value, uuid.UUID):
        return ["uuid", value.hex]
    if isinstance(value, (list, tuple)):
        return ["list", [describe(element) for element in value]]
    if hasattr(value, "items"):
        return ["map", [[describe(key), describe(element)] for key, element in value.items()]]
    raise TypeError(f"{type(value)}: {value!r}")


def build(description, timestamp):
    kind, *rest = description
    if kind == "null":
        return None
    if kind in ("bool", "text"):
        return rest[0]
    if kind == "int":
        return int(rest[0])
    if kind == "float":
        return float("nan") if rest[0] == "nan" else struct.unpack(">d", bytes.fromhex(rest[0]))[0]
    if kind == "bytes":
        return bytes.fromhex(rest[0])
    if kind == "timestamp":
        return timestamp(int(rest[0]), rest[1])
    if kind == "local":
        return timestamp(int(rest[0]), rest[1]).replace(tzinfo=None)
    if kind == "time":
        return (EPOCH + datetime.timedelta(microseconds=int(rest[0]) // 1000)).time()
    if kind == "branch":
        return (rest[0], build(rest[1], timestamp))
    if kind == "date":
        return EPOCH.date() + datetime.timedelta(days=rest[0])
    if kind == "decimal":
        return decimal.Decimal(rest[0]).scaleb(-rest[1])
    if kind == "uuid":
        return uuid.UUID(hex=rest[0])
    if kind == "list":
        return [build(element, timestamp) for element in rest[0]]
    if kind == "map":
        return {build(key, timestamp): build(element, timestamp) for key, element in rest[0]}
    raise TypeError(kind)


def of_msgpack(case):
    read = msgpack.unpackb(base64.b64decode(case["bytes"]), strict_map_key=False)
    written = msgpack.packb(build(case["description"], msgpack.Timestamp))
    return {"description": describe(read), "bytes": base64.b64encode(written).decode()}


def timestamp(seconds, nanos):
    return EPOCH + datetime.timedelta(seconds=seconds, microseconds=nanos // 1000)


def of_cbor(case):
    read = cbor2.loads(base64.b64decode(case["bytes"]))
    written = cbor2.dumps(build(case["description"], timestamp))
    return {"description": describe(read), "bytes": base64.b64encode(written).decode()}


def of_protobuf(case):
    files = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(case["set"]))
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    message_type = message_factory.GetMessageClass(pool.FindMessageTypeByName("generated.M0"))
    answers = []
    for value in case["values"]:
        read = message_type.FromString(base64.b64decode(value["bytes"]))
        read.DiscardUnknownFields()
        as_json = json_format.MessageToJson(
            read, preserving_proto_field_name=True, descriptor_pool=pool, indent=None
        )
        built = json_format.Parse(value["json"], message_type(), descriptor_pool=pool)
        answers.append(
            {
                "again": base64.b64encode(read.SerializeToString()).decode(),
                "json": as_json,
                "bytes": base64.b64encode(built.SerializeToString()).decode(),
            }
        )
    return answers


# It knows a UUID as a string alone.
fastavro.read.LOGICAL_READERS["fixed-uuid"] = lambda data, *_: uuid.UUID(bytes=data)
fastavro.write.LOGICAL_WRITERS["fixed-uuid"] = lambda data, *_: data.bytes if isinstance(data, uuid.UUID) else data


def of_avro(case):
    schema = fastavro.parse_schema(json.loads(case["schema"]))
    canonical = fastavro.schema.to_parsing_canonical_form(json.loads(case["schema"]))
    built = [build(value["description"], timestamp) for value in case["values"]]
    values = []
    for value, own in zip(case["values"], built):
        read = fastavro.schemaless_reader(io.BytesIO(base64.b64decode(value["bytes"])), schema, None)
        written = io.BytesIO()
        fastavro.schemaless_writer(written, schema, own)
        values.append({"read": describe(read), "bytes": base64.b64encode(written.getvalue()).decode()})
    files = {}
    for codec in ("null", "deflate", "snappy", "zstandard", "bzip2", "xz"):
        file = io.BytesIO()
        fastavro.writer(file, schema, built, codec=codec, sync_interval=100)
        files[codec] = base64.b64encode(file.getvalue()).decode()
    file = [describe(value) for value in fastavro.reader(io.BytesIO(base64.b64decode(case["file"])))]
    fingerprint = fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")
    return {"values": values, "files": files, "file": file, "fingerprint": fingerprint}


def of_resolved(case):
    writer, reader = (fastavro.parse_schema(json.loads(case[name])) for name in ("writer", "reader"))
    try:
        return describe(fastavro.schemaless_reader(io.BytesIO(base64.b64decode(case["bytes"])), writer, reader))
    except Exception as error:  # noqa: BLE001: what is wrong is of many types
        return {"error": f"{type(error).__name__}: {error}"}


FORMATS = {
    "avro": of_avro,
    "cbor": of_cbor,
    "msgpack": of_msgpack,
    "protobuf": of_protobuf,
    "resolved": of_resolved,
}

for line in sys.stdin:
    case = json.loads(line)
    print(json.dumps(FORMATS[case["format"]](case)))
