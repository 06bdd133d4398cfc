import java.util.BitSet;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Judges a topic that should hold the messages 0 to MESSAGES-1, each with its number as the value and
 * "k" and the remainder of number and KEYS as the key.
 *
 * <pre>
 * Check BROKERS TOPIC MESSAGES KEYS at-least-once|exactly-once
 * </pre>
 *
 * At least once: every message is there, and first arrivals of a key are in order. Exactly once: among
 * what is committed every message is there once, and those of a key are in order. Ends with 1 if it is
 * not so, and says what is wrong with the first ones.
 */
public final class Check {
    private static final int SHOWN = 20;

    private final int messages;
    private final int keys;
    private final boolean exactlyOnce;
    private final BitSet seen = new BitSet();
    private final Map<String, Integer> last = new HashMap<>();
    private final Map<String, Integer> partitionOf = new HashMap<>();
    private long read = 0;
    private long repeated = 0;
    private long faults = 0;

    private Check(int messages, int keys, boolean exactlyOnce) {
        this.messages = messages;
        this.keys = keys;
        this.exactlyOnce = exactlyOnce;
    }

    public static void main(String[] arguments) throws Exception {
        boolean exactlyOnce = switch (arguments[4]) {
            case "exactly-once" -> true;
            case "at-least-once" -> false;
            default -> throw new IllegalArgumentException(arguments[4]);
        };
        var check = new Check(Integer.parseInt(arguments[2]), Integer.parseInt(arguments[3]), exactlyOnce);
        check.readAll(arguments[0], arguments[1]);
        System.exit(check.judge() ? 0 : 1);
    }

    private void readAll(String brokers, String topic) throws Exception {
        var properties = new Properties();
        properties.put("bootstrap.servers", brokers);
        properties.put("isolation.level", exactlyOnce ? "read_committed" : "read_uncommitted");
        var text = new StringDeserializer();
        try (var consumer = new KafkaConsumer<>(properties, text, text)) {
            Topic.readAll(consumer, topic, this::take);
        }
    }

    private void take(ConsumerRecord<String, String> record) {
        read++;
        String where = record.partition() + "@" + record.offset();
        int number;
        try {
            number = Integer.parseInt(record.value());
        } catch (NumberFormatException stranger) {
            fault(where + ": not a message of the test: " + record.value());
            return;
        }
        if (number < 0 || number >= messages || !("k" + number % keys).equals(record.key())) {
            fault(where + ": not a message of the test: key " + record.key() + ", number " + number);
            return;
        }
        Integer partition = partitionOf.putIfAbsent(record.key(), record.partition());
        if (partition != null && partition != record.partition()) {
            fault(where + ": key " + record.key() + " was in partition " + partition + " before");
        }
        if (seen.get(number)) {
            repeated++;
            if (exactlyOnce) {
                fault(where + ": number " + number + " again");
            }
            return;
        }
        seen.set(number);
        Integer before = last.put(record.key(), number);
        if (before != null && before > number) {
            fault(where + ": number " + number + " after " + before + " of key " + record.key());
        }
    }

    private void fault(String what) {
        if (faults < SHOWN) {
            System.out.println(what);
        }
        faults++;
    }

    private boolean judge() {
        for (int number = seen.nextClearBit(0); number < messages; number = seen.nextClearBit(number + 1)) {
            fault("number " + number + " of key k" + number % keys + " is missing");
        }
        System.out.println(read + " read, " + seen.cardinality() + " of " + messages + " messages, "
            + repeated + " repeated, " + faults + " faults");
        return faults == 0;
    }
}
