import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;

/** A topic from its beginning to its end as it is now. */
final class Topic {
    interface Taker<K, V> {
        void take(ConsumerRecord<K, V> record) throws Exception;
    }

    private Topic() {}

    /** Gives each record to {@code taker}, those of a partition in order. */
    static <K, V> void readAll(KafkaConsumer<K, V> consumer, String topic, Taker<K, V> taker) throws Exception {
        List<TopicPartition> partitions = new ArrayList<>();
        for (PartitionInfo partition : consumer.partitionsFor(topic)) {
            partitions.add(new TopicPartition(topic, partition.partition()));
        }
        consumer.assign(partitions);
        consumer.seekToBeginning(partitions);
        // Of those that read what is committed, the end is before the first open transaction.
        var ends = consumer.endOffsets(partitions);
        while (partitions.stream().anyMatch(one -> consumer.position(one) < ends.get(one))) {
            for (ConsumerRecord<K, V> record : consumer.poll(Duration.ofMillis(100))) {
                taker.take(record);
            }
        }
    }
}
