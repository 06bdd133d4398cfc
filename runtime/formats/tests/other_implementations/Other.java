import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.avro.Conversion;
import org.apache.avro.Conversions;
import org.apache.avro.LogicalType;
import org.apache.avro.Schema;
import org.apache.avro.SchemaNormalization;
import org.apache.avro.data.TimeConversions;
import org.apache.avro.file.CodecFactory;
import org.apache.avro.file.DataFileStream;
import org.apache.avro.file.DataFileWriter;
import org.apache.avro.file.SeekableByteArrayInput;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericFixed;
import org.apache.avro.generic.IndexedRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.message.BinaryMessageDecoder;
import org.apache.avro.message.BinaryMessageEncoder;

/** Avro as Java has it. Lines of the input and the output are as in other.py. */
public class Other {
    static final ObjectMapper JSON = new ObjectMapper();
    static final GenericData DATA = new GenericData();

    public static void main(String[] args) throws IOException {
        DATA.addLogicalTypeConversion(new Conversions.DecimalConversion());
        DATA.addLogicalTypeConversion(new Conversions.BigDecimalConversion());
        DATA.addLogicalTypeConversion(new Conversions.UUIDConversion());
        DATA.addLogicalTypeConversion(new TimeConversions.DateConversion());
        DATA.addLogicalTypeConversion(new TimeConversions.TimeMillisConversion());
        DATA.addLogicalTypeConversion(new TimeConversions.TimeMicrosConversion());
        DATA.addLogicalTypeConversion(new TimeConversions.TimestampMillisConversion());
        DATA.addLogicalTypeConversion(new TimeConversions.TimestampMicrosConversion());
        DATA.addLogicalTypeConversion(new TimeConversions.TimestampNanosConversion());
        DATA.addLogicalTypeConversion(new TimeConversions.LocalTimestampMillisConversion());
        DATA.addLogicalTypeConversion(new TimeConversions.LocalTimestampMicrosConversion());
        DATA.addLogicalTypeConversion(new TimeConversions.LocalTimestampNanosConversion());
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = input.readLine()) != null; ) {
            JsonNode one = JSON.readTree(line);
            JsonNode answer = one.get("format").asText().equals("avro") ? both(one) : resolved(one);
            System.out.write(JSON.writeValueAsBytes(answer));
            System.out.println();
        }
    }

    static JsonNode both(JsonNode one) throws IOException {
        Schema schema = new Schema.Parser().parse(one.get("schema").asText());
        ObjectNode answer = JSON.createObjectNode();
        ArrayNode values = answer.putArray("values");
        List<Object> built = new ArrayList<>();
        var toMessage = new BinaryMessageEncoder<Object>(DATA, schema);
        var fromMessage = new BinaryMessageDecoder<Object>(DATA, schema);
        for (JsonNode value : one.get("values")) {
            Object own = build(schema, value.get("description"));
            built.add(own);
            ObjectNode told = values.addObject();
            told.set("read", describe(read(schema, schema, value.get("bytes").binaryValue())));
            told.put("bytes", write(schema, own));
            told.set("read_single", describe(fromMessage.decode(value.get("single").binaryValue())));
            ByteBuffer message = toMessage.encode(own);
            byte[] bytes = new byte[message.remaining()];
            message.get(bytes);
            told.put("single", bytes);
        }
        ObjectNode files = answer.putObject("files");
        for (String codec : List.of("null", "deflate", "snappy", "zstandard", "bzip2", "xz")) {
            var out = new ByteArrayOutputStream();
            try (var file = new DataFileWriter<Object>(new GenericDatumWriter<>(schema, DATA))) {
                file.setCodec(CodecFactory.fromString(codec)).setSyncInterval(100).create(schema, out);
                for (Object value : built) file.append(value);
            }
            files.put(codec, out.toByteArray());
        }
        ArrayNode file = answer.putArray("file");
        var ours = new SeekableByteArrayInput(one.get("file").binaryValue());
        try (var stream = new DataFileStream<Object>(ours, new GenericDatumReader<>(null, null, DATA))) {
            for (Object value : stream) file.add(describe(value));
        }
        long fingerprint = Long.reverseBytes(SchemaNormalization.parsingFingerprint64(schema));
        answer.put("fingerprint", HexFormat.of().toHexDigits(fingerprint));
        return answer;
    }

    static JsonNode resolved(JsonNode one) throws IOException {
        Schema writer = new Schema.Parser().parse(one.get("writer").asText());
        Schema reader = new Schema.Parser().parse(one.get("reader").asText());
        try {
            return describe(read(writer, reader, one.get("bytes").binaryValue()));
        } catch (RuntimeException error) {
            return JSON.createObjectNode().put("error", error.toString());
        }
    }

    static Object read(Schema writer, Schema reader, byte[] bytes) throws IOException {
        BinaryDecoder decoder = DecoderFactory.get().binaryDecoder(bytes, null);
        Object value = new GenericDatumReader<Object>(writer, reader, DATA).read(null, decoder);
        if (!decoder.isEnd()) throw new IOException("more than the value");
        return value;
    }

    static byte[] write(Schema schema, Object value) throws IOException {
        var out = new ByteArrayOutputStream();
        BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(out, null);
        new GenericDatumWriter<Object>(schema, DATA).write(value, encoder);
        encoder.flush();
        return out.toByteArray();
    }

    static ArrayNode words(Object... words) {
        ArrayNode all = JSON.createArrayNode();
        for (Object word : words) all.addPOJO(word);
        return JSON.valueToTree(all);
    }

    static JsonNode describe(Object value) {
        HexFormat hex = HexFormat.of();
        if (value == null) return words("null");
        if (value instanceof Boolean) return words("bool", value);
        if (value instanceof Integer || value instanceof Long) return words("int", value.toString());
        if (value instanceof Float || value instanceof Double) {
            double number = ((Number) value).doubleValue();
            return words("float", Double.isNaN(number) ? "nan" : hex.toHexDigits(Double.doubleToLongBits(number)));
        }
        if (value instanceof CharSequence || value instanceof GenericData.EnumSymbol) {
            return words("text", value.toString());
        }
        if (value instanceof ByteBuffer buffer) {
            byte[] bytes = new byte[buffer.remaining()];
            buffer.duplicate().get(bytes);
            return words("bytes", hex.formatHex(bytes));
        }
        if (value instanceof GenericFixed fixed) return words("bytes", hex.formatHex(fixed.bytes()));
        if (value instanceof BigDecimal number) {
            return words("decimal", number.unscaledValue().toString(), number.scale());
        }
        if (value instanceof UUID uuid) return words("uuid", uuid.toString().replace("-", ""));
        if (value instanceof LocalDate date) return words("date", (int) date.toEpochDay());
        if (value instanceof LocalTime time) return words("time", Long.toString(time.toNanoOfDay()));
        if (value instanceof Instant at) {
            return words("timestamp", Long.toString(at.getEpochSecond()), at.getNano());
        }
        if (value instanceof LocalDateTime at) {
            return words("local", Long.toString(at.toEpochSecond(ZoneOffset.UTC)), at.getNano());
        }
        ArrayNode inner = JSON.createArrayNode();
        if (value instanceof Collection<?> list) {
            for (Object item : list) inner.add(describe(item));
            return JSON.createArrayNode().add("list").add(inner);
        }
        if (value instanceof Map<?, ?> map) {
            map.forEach((key, item) -> inner.addArray().add(describe(key)).add(describe(item)));
            return JSON.createArrayNode().add("map").add(inner);
        }
        if (value instanceof IndexedRecord record) {
            for (Schema.Field field : record.getSchema().getFields()) {
                inner.addArray().add(describe(field.name())).add(describe(record.get(field.pos())));
            }
            return JSON.createArrayNode().add("map").add(inner);
        }
        throw new IllegalArgumentException(value.getClass() + ": " + value);
    }

    /** As the branch of a union, which is found by the class of the value: of two decimals, the first. */
    static Object raw(Schema schema, Object value) {
        LogicalType logical = schema.getLogicalType();
        Conversion<?> conversion = logical == null ? null : DATA.getConversionByClass(value.getClass(), logical);
        return conversion == null ? value : convert(value, schema, logical, conversion);
    }

    static <T> Object convert(Object value, Schema schema, LogicalType logical, Conversion<T> conversion) {
        return Conversions.convertToRawType(value, schema, logical, conversion);
    }

    static Object at(Schema schema, long seconds, int nanos) {
        String name = schema.getLogicalType().getName();
        // What Avro 1.12.1 makes of a time before 1970 with nanoseconds is off by a second less a millisecond.
        if (name.endsWith("nanos")) return seconds * 1_000_000_000 + nanos;
        boolean isLocal = name.startsWith("local");
        return isLocal
                ? LocalDateTime.ofEpochSecond(seconds, nanos, ZoneOffset.UTC)
                : Instant.ofEpochSecond(seconds, nanos);
    }

    static Object build(Schema schema, JsonNode words) {
        JsonNode first = words.get(1);
        switch (words.get(0).asText()) {
            case "null":
                return null;
            case "branch":
                for (Schema branch : schema.getTypes()) {
                    if (branch.getFullName().equals(first.asText())) return raw(branch, build(branch, words.get(2)));
                }
                throw new IllegalArgumentException("no branch " + first);
            case "bool":
                return first.asBoolean();
            case "int":
                long number = Long.parseLong(first.asText());
                return schema.getType() == Schema.Type.INT ? (Object) (int) number : (Object) number;
            case "float":
                boolean isNan = first.asText().equals("nan");
                double of = isNan ? Double.NaN : Double.longBitsToDouble(HexFormat.fromHexDigitsToLong(first.asText()));
                return schema.getType() == Schema.Type.FLOAT ? (Object) (float) of : (Object) of;
            case "text":
                boolean isEnum = schema.getType() == Schema.Type.ENUM;
                return isEnum ? new GenericData.EnumSymbol(schema, first.asText()) : first.asText();
            case "bytes":
                byte[] bytes = HexFormat.of().parseHex(first.asText());
                boolean isFixed = schema.getType() == Schema.Type.FIXED;
                return isFixed ? new GenericData.Fixed(schema, bytes) : ByteBuffer.wrap(bytes);
            case "decimal":
                return new BigDecimal(new BigInteger(first.asText()), words.get(2).asInt());
            case "uuid":
                String hex = first.asText();
                return new UUID(
                        HexFormat.fromHexDigitsToLong(hex, 0, 16), HexFormat.fromHexDigitsToLong(hex, 16, 32));
            case "date":
                return LocalDate.ofEpochDay(first.asLong());
            case "time":
                return LocalTime.ofNanoOfDay(Long.parseLong(first.asText()));
            case "timestamp":
            case "local":
                return at(schema, Long.parseLong(first.asText()), words.get(2).asInt());
            case "list":
                List<Object> list = new ArrayList<>();
                for (JsonNode item : first) list.add(build(schema.getElementType(), item));
                return list;
            case "map":
                if (schema.getType() == Schema.Type.MAP) {
                    Map<Object, Object> map = new HashMap<>();
                    for (JsonNode entry : first) {
                        map.put(entry.get(0).get(1).asText(), build(schema.getValueType(), entry.get(1)));
                    }
                    return map;
                }
                var record = new GenericData.Record(schema);
                for (JsonNode entry : first) {
                    Schema.Field field = schema.getField(entry.get(0).get(1).asText());
                    record.put(field.pos(), build(field.schema(), entry.get(1)));
                }
                return record;
            default:
                throw new IllegalArgumentException(words.toString());
        }
    }
}
