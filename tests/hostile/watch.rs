//! What is watched while a plugin attacks: the memory of the process, the books (P11), and how
//! another pipeline in the same process goes on.

use std::time::Instant;

use crate::support::{Folder, Running, look, metric};

/// At a fixed rate, so that undisturbed it makes as much in any second.
const NEIGHBOUR: &str = r#"
name = "neighbour"
[source]
type = "generate"
rate = 1000
[[plugin]]
use = "identity"
[[sink]]
type = "drop"
"#;
/// Messages of the neighbour by which its pace is judged: fewer say nothing.
const JUDGED: f64 = 300.0;
/// Of what it makes undisturbed it makes at least one in so many under attack. Two cores that other
/// tests use too may be taken by the attack.
const SLOWER: f64 = 4.0;
/// What the process may need beside that: threads, batches, what was freed and is kept.
const BESIDE: u64 = 60 << 20;

/// A process with pipelines that are attacked, and one beside them.
pub struct Watch {
    pub running: Running,
    admin: String,
    /// Messages a second that the neighbour makes undisturbed.
    pace: f64,
    /// Resident before the first attack.
    resident: u64,
}

impl Watch {
    /// Runs the pipelines of the folder, and the neighbour.
    pub fn start(folder: &Folder) -> Watch {
        folder.write("neighbour.toml", NEIGHBOUR);
        let mut running = Running::start(folder, &folder.path(""));
        let admin = running.address("admin server listening");
        let mut watch = Watch { running, admin, pace: 0.0, resident: 0 };
        watch.wait_for("the neighbour runs", |page| made(page) > 0.0);
        let (start, before) = (Instant::now(), watch.made());
        watch.wait_for("the neighbour alone", |page| made(page) - before >= JUDGED);
        watch.pace = (watch.made() - before) / start.elapsed().as_secs_f64();
        watch.resident = watch.running.resident_bytes();
        watch
    }

    /// Attacks again and again until the neighbour can be judged. `round` begins an attack, `is_over`
    /// tells whether it came to its end. The guest may have `memory`.
    pub fn attack(
        &mut self,
        what: &str,
        memory: u64,
        mut round: impl FnMut(),
        mut is_over: impl FnMut(&str) -> bool,
    ) {
        self.running.forget_peak();
        let (start, before) = (Instant::now(), self.made());
        loop {
            round();
            self.wait_for(what, &mut is_over);
            let expected = self.pace * start.elapsed().as_secs_f64();
            if expected < JUDGED {
                continue;
            }
            let made = self.made() - before;
            assert!(made >= expected / SLOWER, "{what}: the neighbour made {made} of {expected}");
            break;
        }
        let peak = self.running.peak_bytes();
        // A result is there once more while it is judged, and is no larger than the memory it lies in.
        let most = self.resident + 2 * memory + BESIDE;
        assert!((1..=most).contains(&peak), "{what}: {peak} bytes resident, of {most} allowed");
        println!("{what}: {} KiB more at the peak", peak.saturating_sub(self.resident) >> 10);
    }

    /// Waits; meanwhile the books balance, whenever one looks.
    pub fn wait_for(&mut self, what: &str, mut happened: impl FnMut(&str) -> bool) {
        let admin = &self.admin;
        self.running.wait_for(what, |_| look(admin).is_some_and(|page| happened(&page)));
    }

    /// The metrics, in which the books balance.
    pub fn look(&self) -> String {
        look(&self.admin).expect("the process answers")
    }

    fn made(&self) -> f64 {
        made(&self.look())
    }

    /// Ends the process, which it must do by itself.
    pub fn end(mut self) {
        self.running.terminate();
        assert!(self.running.end().success(), "{}", self.running.log());
    }
}

/// Messages that the neighbour has delivered.
fn made(page: &str) -> f64 {
    let labels = &["pipeline=\"neighbour\"", "account=\"delivered\""];
    metric(page, "millstream_messages", labels).unwrap_or(0) as f64
}
