//! Under which subject the schema of a message is.

/// How the subject of a schema is named. The names of the strategies are Confluent's.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SubjectNames {
    /// `<topic>-value`: one type a topic.
    #[default]
    Topic,
    /// `<fully.qualified.Name>`: a type is the same in all topics.
    Record,
    /// `<topic>-<fully.qualified.Name>`: several types a topic.
    TopicRecord,
}

impl SubjectNames {
    /// The subject for the value of a message. `record` is the full name of its record (Avro), its
    /// message (Protocol Buffers) or the `title` of its schema (JSON Schema).
    #[must_use]
    pub fn subject(self, topic: &str, record: &str) -> String {
        match self {
            SubjectNames::Topic => format!("{topic}-value"),
            SubjectNames::Record => record.to_owned(),
            SubjectNames::TopicRecord => format!("{topic}-{record}"),
        }
    }

    /// Whether the subject depends on the type of the message.
    #[must_use]
    pub fn wants_record(self) -> bool {
        self != SubjectNames::Topic
    }
}

#[cfg(test)]
mod tests {
    use super::SubjectNames;

    #[test]
    fn subjects_are_named_as_confluent_does() {
        let subject = |names: SubjectNames| names.subject("orders", "shop.Order");
        assert_eq!(subject(SubjectNames::Topic), "orders-value");
        assert_eq!(subject(SubjectNames::Record), "shop.Order");
        assert_eq!(subject(SubjectNames::TopicRecord), "orders-shop.Order");
    }
}
