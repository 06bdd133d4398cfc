import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Writes and reads messages with the client of the Kafka project, as one JSON object a line; bytes are
 * in Base64.
 *
 * <pre>
 * Client write BROKERS TOPIC [PROPERTY=VALUE...]   those of standard input
 * Client read BROKERS TOPIC [PROPERTY=VALUE...]    all that are there, each partition in order
 * </pre>
 */
public final class Client {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", arguments[1]);
        for (int at = 3; at < arguments.length; at++) {
            String[] parts = arguments[at].split("=", 2);
            properties.put(parts[0], parts[1]);
        }
        switch (arguments[0]) {
            case "write" -> write(properties, arguments[2]);
            case "read" -> read(properties, arguments[2]);
            default -> throw new IllegalArgumentException("write or read, not " + arguments[0]);
        }
    }

    private static void write(Properties properties, String topic) throws Exception {
        var serializer = new ByteArraySerializer();
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer = new KafkaProducer<>(properties, serializer, serializer)) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                JsonNode message = JSON.readTree(line);
                JsonNode partition = message.path("partition");
                JsonNode timestamp = message.path("timestamp");
                var record = new ProducerRecord<>(topic,
                    partition.isNumber() ? Integer.valueOf(partition.intValue()) : null,
                    timestamp.isNumber() ? Long.valueOf(timestamp.longValue()) : null,
                    bytes(message.path("key")), bytes(message.path("value")));
                for (JsonNode header : message.path("headers")) {
                    record.headers().add(header.get(0).textValue(), bytes(header.get(1)));
                }
                sent.add(producer.send(record));
            }
            for (Future<RecordMetadata> one : sent) {
                one.get();
            }
        }
    }

    private static byte[] bytes(JsonNode value) throws Exception {
        return value.isNull() || value.isMissingNode() ? null : value.binaryValue();
    }

    private static void read(Properties properties, String topic) throws Exception {
        var deserializer = new ByteArrayDeserializer();
        var out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        try (var consumer = new KafkaConsumer<>(properties, deserializer, deserializer)) {
            Topic.readAll(consumer, topic, record -> out.println(JSON.writeValueAsString(message(record))));
        }
        out.flush();
    }

    private static ObjectNode message(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode message = JSON.createObjectNode();
        message.put("partition", record.partition());
        message.put("offset", record.offset());
        message.put("timestamp", record.timestamp());
        message.put("key", record.key());
        message.put("value", record.value());
        ArrayNode headers = message.putArray("headers");
        for (Header header : record.headers()) {
            headers.addArray().add(header.key()).add(header.value());
        }
        return message;
    }
}
