//! Whether the pipelines of a process are ready, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// The pipelines of a process, for `/readyz`. Cloning shares it.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, State>>>);

enum State {
    NotReady(String),
    Running(Waits),
}

/// What a pipeline waits for: part (`sink out`) and reason; nothing while it is ready.
type Waits = Box<dyn Fn() -> Vec<(String, String)> + Send>;

/// What `/readyz` answers.
#[derive(Debug, PartialEq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub pipelines: BTreeMap<String, PipelineReadiness>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct PipelineReadiness {
    pub ready: bool,
    pub reasons: Vec<Reason>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Reason {
    /// Of the pipeline.
    pub part: String,
    pub reason: String,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pipeline is not ready from now on: it starts, it stops, it has failed.
    pub fn not_ready(&self, pipeline: &str, reason: &str) {
        self.lock().insert(pipeline.to_owned(), State::NotReady(reason.to_owned()));
    }

    /// The pipeline runs from now on, and is ready whenever `waits` returns nothing.
    pub fn running(&self, pipeline: &str, waits: impl Fn() -> Vec<(String, String)> + Send + 'static) {
        self.lock().insert(pipeline.to_owned(), State::Running(Box::new(waits)));
    }

    /// Everything of the pipeline is done: it does not count any more.
    pub fn ended(&self, pipeline: &str) {
        self.lock().remove(pipeline);
    }

    /// Ready if every pipeline is.
    pub fn readiness(&self) -> Readiness {
        let readiness = |state: &State| {
            let reasons = match state {
                State::NotReady(reason) => vec![("pipeline".to_owned(), reason.clone())],
                State::Running(waits) => waits(),
            };
            let reasons: Vec<Reason> =
                reasons.into_iter().map(|(part, reason)| Reason { part, reason }).collect();
            PipelineReadiness { ready: reasons.is_empty(), reasons }
        };
        let pipelines: BTreeMap<String, PipelineReadiness> =
            self.lock().iter().map(|(name, state)| (name.clone(), readiness(state))).collect();
        Readiness { ready: pipelines.values().all(|pipeline| pipeline.ready), pipelines }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;

    #[test]
    fn a_process_is_ready_when_all_its_pipelines_are() {
        let health = Health::default();
        assert!(health.readiness().ready);
        health.not_ready("a", "starting");
        let down = Arc::new(AtomicBool::new(true));
        let is_down = Arc::clone(&down);
        health.running("b", move || {
            let waits = is_down.load(Relaxed).then(|| ("sink out".to_owned(), "refused".to_owned()));
            waits.into_iter().collect()
        });
        let json = serde_json::to_value(health.readiness()).unwrap();
        let expected = serde_json::json!({
            "ready": false,
            "pipelines": {
                "a": { "ready": false, "reasons": [{ "part": "pipeline", "reason": "starting" }] },
                "b": { "ready": false, "reasons": [{ "part": "sink out", "reason": "refused" }] },
            },
        });
        assert_eq!(json, expected);
        health.running("a", Vec::new);
        assert!(!health.readiness().ready);
        down.store(false, Relaxed);
        assert!(health.readiness().ready);
        health.not_ready("a", "stopping");
        assert!(!health.readiness().ready);
        health.ended("a");
        assert!(health.readiness().ready);
    }
}
