//! Several members and a table, by a seed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{any, proptest};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const DURATION: Duration = Duration::from_secs(10);

/// So often a member looks.
const LOOK: Duration = Duration::from_secs(3);

fn lease(shard: &str, owner: Option<&str>) -> Lease {
    Lease {
        shard: shard.to_owned(),
        owner: owner.map(str::to_owned),
        counter: 0,
        checkpoint: Checkpoint::TrimHorizon,
        parents: Vec::new(),
        switches: 0,
        hand_over_to: None,
        partition: 0,
    }
}

fn plan(me: &str, leases: &[Lease], held: &[&str]) -> Vec<Act> {
    let held = held.iter().map(|&shard| shard.to_owned()).collect();
    let (watch, now) = (Watch::default(), Instant::now());
    let view = View { me, leases, watch: &watch, now, duration: DURATION, held: &held };
    view.plan(&mut StdRng::seed_from_u64(1))
}

fn shards(acts: &[Act]) -> BTreeSet<&str> {
    let shard = |act: &'_ Act| match act {
        Act::Take(lease) | Act::Adopt(lease) | Act::AskFor(lease) => lease.shard.clone(),
    };
    let of = acts.iter().map(shard).collect::<Vec<_>>();
    // The names outlive the test.
    of.into_iter().map(|shard| &*shard.leak()).collect()
}

#[test]
fn p3_children_wait_for_all_their_parents() {
    let mut leases = vec![lease("a", None), lease("b", None), lease("c", None), lease("d", None)];
    leases[2].parents = vec!["a".to_owned(), "b".to_owned()];
    leases[3].parents = vec!["gone".to_owned()];
    assert_eq!(shards(&plan("me", &leases, &[])), BTreeSet::from(["a", "b", "d"]));
    leases[0].checkpoint = Checkpoint::ShardEnd;
    assert_eq!(shards(&plan("me", &leases, &[])), BTreeSet::from(["b", "d"]));
    leases[1].checkpoint = Checkpoint::ShardEnd;
    assert_eq!(shards(&plan("me", &leases, &[])), BTreeSet::from(["c", "d"]));
}

#[test]
fn what_is_free_is_taken_and_then_the_one_with_the_most_is_asked() {
    let mut leases = vec![lease("a", Some("other")), lease("b", Some("other")), lease("c", None)];
    assert!(matches!(&plan("me", &leases, &[])[..], [Act::Take(lease)] if lease.shard == "c"));
    leases[2].owner = Some("other".to_owned());
    let acts = plan("me", &leases, &[]);
    assert!(matches!(&acts[..], [Act::AskFor(_)]), "{acts:?}");
    leases[0].hand_over_to = Some("me".to_owned());
    assert!(plan("me", &leases, &[]).is_empty(), "it is on its way");
    leases[0].owner = leases[0].hand_over_to.take();
    assert!(matches!(&plan("me", &leases, &[])[..], [Act::Adopt(lease)] if lease.shard == "a"));
    assert!(plan("me", &leases, &["a"]).is_empty(), "two and one are as even as it gets");
}

/// Members that live, die, pause, and leave, and what the table says.
struct World {
    now: Instant,
    table: BTreeMap<String, Lease>,
    members: BTreeMap<String, Member>,
    names: usize,
}

#[derive(Default)]
struct Member {
    watch: Watch,
    held: HashSet<String>,
    looked: Option<Instant>,
}

impl World {
    fn new(shards: usize) -> World {
        let table = (0..shards).map(|shard| format!("s{shard:03}")).map(|id| (id.clone(), lease(&id, None)));
        World { now: Instant::now(), table: table.collect(), members: BTreeMap::new(), names: 0 }
    }

    fn join(&mut self) {
        self.names += 1;
        self.members.insert(format!("m{}", self.names), Member::default());
    }

    /// What a member does when it looks, its writes being conditional as those of a table are.
    fn look(&mut self, name: &str, random: &mut StdRng) {
        let Some(mut member) = self.members.remove(name) else { return };
        member.looked = Some(self.now);
        let leases: Vec<Lease> = self.table.values().cloned().collect();
        for shard in member.held.clone() {
            let lease = self.table.get_mut(&shard).unwrap();
            if lease.owner.as_deref() != Some(name) {
                member.held.remove(&shard);
                continue;
            }
            lease.counter += 1;
            if let Some(to) = lease.hand_over_to.take() {
                lease.owner = Some(to);
                member.held.remove(&shard);
            }
        }
        member.watch.look(&leases, self.now);
        let held = member.held.clone();
        let view = View {
            me: name,
            leases: &leases,
            watch: &member.watch,
            now: self.now,
            duration: DURATION,
            held: &held,
        };
        for act in view.plan(random) {
            match act {
                Act::Take(seen) => {
                    let lease = self.table.get_mut(&seen.shard).unwrap();
                    if lease.owner == seen.owner && lease.counter == seen.counter {
                        lease.owner = Some(name.to_owned());
                        lease.counter += 1;
                        lease.hand_over_to = None;
                        member.held.insert(seen.shard);
                    }
                }
                Act::Adopt(seen) => {
                    if self.table[&seen.shard].owner.as_deref() == Some(name) {
                        member.held.insert(seen.shard);
                    }
                }
                Act::AskFor(seen) => {
                    let lease = self.table.get_mut(&seen.shard).unwrap();
                    if lease.owner == seen.owner && lease.hand_over_to.is_none() {
                        lease.hand_over_to = Some(name.to_owned());
                    }
                }
            }
        }
        self.members.insert(name.to_owned(), member);
    }

    /// Lets time pass; all members look in it, each when it wants.
    fn pass(&mut self, rounds: usize, random: &mut StdRng) {
        for _ in 0..rounds {
            let mut names: Vec<String> = self.members.keys().cloned().collect();
            names.shuffle(random);
            for name in &names {
                self.now += LOOK / names.len() as u32;
                self.look(name, random);
            }
        }
    }

    fn loads(&self) -> Vec<usize> {
        self.members.values().map(|member| member.held.len()).collect()
    }

    /// Everything is read, each shard by the one that the table says, and the members have about as much each.
    fn assert_even(&self) {
        let loads = self.loads();
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        assert!(most - least <= 1, "{loads:?}");
        assert_eq!(loads.iter().sum::<usize>(), self.table.len());
        for (name, member) in &self.members {
            assert!(member.held.iter().all(|shard| self.table[shard].owner.as_ref() == Some(name)));
        }
    }
}

proptest! {
    #[test]
    fn p2_whatever_happens_all_shards_are_read_in_the_end(seed in any::<u64>(), shards in 1usize..24) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new(shards);
        world.join();
        for _ in 0..random.random_range(0..12) {
            match random.random_range(0..4) {
                0 => world.join(),
                // SIGKILL.
                1 if world.members.len() > 1 => {
                    let name = world.members.keys().nth(random.random_range(0..world.members.len())).cloned();
                    world.members.remove(&name.unwrap());
                }
                // SIGTERM.
                2 if world.members.len() > 1 => {
                    let name = world.members.keys().nth(random.random_range(0..world.members.len())).cloned();
                    let member = world.members.remove(&name.unwrap()).unwrap();
                    for shard in member.held {
                        world.table.get_mut(&shard).unwrap().owner = None;
                    }
                }
                _ => world.pass(1, &mut random),
            }
        }
        world.pass(60, &mut random);
        world.assert_even();
        let stands: Vec<Option<String>> = world.table.values().map(|lease| lease.owner.clone()).collect();
        world.pass(10, &mut random);
        let later: Vec<Option<String>> = world.table.values().map(|lease| lease.owner.clone()).collect();
        assert_eq!(stands, later, "nothing moves any more");
    }
}
