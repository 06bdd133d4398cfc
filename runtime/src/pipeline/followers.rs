//! Messages that were dropped because of one in flight: they wait for its end and share its fate.

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::desk::{DeskDoor, Origin, Why};
use super::ledger::Held;
use crate::dead_letters::Stage;
use crate::plugin::PluginIdentity;
use crate::state::{Ending, Pending};

/// On their way here.
const QUEUE: usize = 64;

struct Follower {
    origin: Origin,
    held: Held,
    of: Pending,
    stage: Stage,
    plugin: Option<PluginIdentity>,
}

/// Where lanes hand them in.
#[derive(Clone)]
pub struct FollowersDoor(mpsc::Sender<Follower>);

impl FollowersDoor {
    /// The message `held`, dropped at `stage`, is settled as `of` is.
    pub async fn follow(
        &self,
        origin: &Origin,
        held: Held,
        of: Pending,
        stage: Stage,
        plugin: Option<PluginIdentity>,
    ) {
        let follower = Follower { origin: origin.clone(), held, of, stage, plugin };
        if let Err(refused) = self.0.send(follower).await {
            // The pipeline has failed.
            refused.0.held.abandon();
        }
    }
}

pub struct Followers {
    handed_in: mpsc::Receiver<Follower>,
    desk: DeskDoor,
}

impl Followers {
    pub fn new(desk: DeskDoor) -> (FollowersDoor, Followers) {
        let (door, handed_in) = mpsc::channel(QUEUE);
        (FollowersDoor(door), Followers { handed_in, desk })
    }

    /// Runs until no more come and all are settled. How many there are is bounded by the budget.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut waiting = JoinSet::new();
        loop {
            tokio::select! {
                follower = self.handed_in.recv() => match follower {
                    Some(follower) => drop(waiting.spawn(follower.settled(self.desk.clone()))),
                    None => break,
                },
                Some(ended) = waiting.join_next() => ended?,
            }
        }
        while let Some(ended) = waiting.join_next().await {
            ended?;
        }
        Ok(())
    }
}

impl Follower {
    async fn settled(self, desk: DeskDoor) {
        let Follower { origin, held, of, stage, plugin } = self;
        match of.ended().await {
            Some(Ending::Done) => held.filtered(),
            Some(Ending::Returned) | None => held.abandon(),
            Some(Ending::DeadLettered) => {
                let why = Why {
                    stage,
                    plugin,
                    code: "duplicate-of-dead-letter".to_owned(),
                    reason: "it is a duplicate of a message that became a dead letter while this one waited for it"
                        .to_owned(),
                    trap: None,
                    attempts: 1,
                };
                desk.give_up(&origin, held, why).await;
            }
        }
    }
}
