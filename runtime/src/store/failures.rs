//! How often messages of a queue have failed, over their redeliveries.

use std::time::Duration;

use super::DataFolder;

/// How often messages of a queue were given back after they had failed, kept in the data folder.
///
/// Calls block on the disk.
pub trait FailureCounts: Send + Sync {
    /// All that are known: the queue's own id of the message, and how often. Those that failed last
    /// longer ago than `retention` are forgotten first.
    fn load_failures(&self, retention: Duration) -> anyhow::Result<Vec<(String, u32)>>;

    /// Each of these messages has failed once more; durable when it returns.
    fn add_failures(&self, messages: &[String]) -> anyhow::Result<()>;

    /// These will not come again.
    fn forget_failures(&self, messages: &[String]) -> anyhow::Result<()>;
}

impl FailureCounts for DataFolder {
    fn load_failures(&self, retention: Duration) -> anyhow::Result<Vec<(String, u32)>> {
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let oldest_ms = jiff::Timestamp::now().as_millisecond().saturating_sub(retention_ms);
        self.database().write(|transaction| {
            transaction.execute("DELETE FROM failures WHERE failed_at_ms < ?1", [oldest_ms])?;
            transaction
                .prepare_cached("SELECT message, failures FROM failures ORDER BY message")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    fn add_failures(&self, messages: &[String]) -> anyhow::Result<()> {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        self.database().write(|transaction| {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO failures (message, failures, failed_at_ms) VALUES (?1, 1, ?2)
                 ON CONFLICT (message) DO UPDATE
                 SET failures = failures + 1, failed_at_ms = excluded.failed_at_ms",
            )?;
            for message in messages {
                statement.execute((message, now_ms))?;
            }
            Ok(())
        })
    }

    fn forget_failures(&self, messages: &[String]) -> anyhow::Result<()> {
        self.database().write(|transaction| {
            let mut statement = transaction.prepare_cached("DELETE FROM failures WHERE message = ?1")?;
            for message in messages {
                statement.execute([message])?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_over_restarts_until_they_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let open = || DataFolder::open(folder.path(), "p").unwrap();
        let fortnight = Duration::from_secs(14 * 86_400);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        open().add_failures(&names(&["a", "b"])).unwrap();
        open().add_failures(&names(&["a"])).unwrap();
        let known = open().load_failures(fortnight).unwrap();
        assert_eq!(known, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        open().forget_failures(&names(&["b", "c"])).unwrap();
        let data = open();
        data.database()
            .write(|t| t.execute("UPDATE failures SET failed_at_ms = failed_at_ms - 1000", []))
            .unwrap();
        assert_eq!(data.load_failures(fortnight).unwrap(), [("a".to_owned(), 2)]);
        assert_eq!(data.load_failures(Duration::from_millis(500)).unwrap(), []);
    }
}
