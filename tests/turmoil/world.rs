//! Three nodes in turmoil's network, what befalls them, and the judge of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use tandem::clock::Uptime;
use tandem::cluster::state::Member;
use tandem::cluster::storage::simulated::Disk;
use tandem::cluster::tls::{TlsFiles, development_ca};
use tandem::cluster::{Cluster, Ownership};
use tandem::ids::{CallId, NodeId, VnodeId};
use turmoil::{Builder, Sim};

use crate::node::{Change, Node, Record, VNODES};
use crate::schedule::{FOUNDERS, Fault, NODES, Schedule, Strike, Wish};

const PORT: u16 = 7000;
/// Three healthy nodes are ready, and each vnode is at home, within this time.
const SETTLED: Duration = Duration::from_secs(20);
/// What the network takes when nothing is wrong with it.
const LATENCY: Duration = Duration::from_millis(3);

type Wrong = String;

pub struct World {
    sim: Sim<'static>,
    nodes: Vec<Rc<Node>>,
    record: Rc<Record>,
    /// What is wrong with a link, of which there is one thing at a time: until when.
    links: BTreeMap<(usize, usize), (Duration, Fault)>,
    /// Without power until then.
    dark: BTreeMap<usize, Duration>,
    /// Where every node is.
    places: BTreeMap<NodeId, Member>,
    /// Who is one of the cluster's when every wish so far has come true.
    members: BTreeSet<usize>,
    /// When an operator will want what.
    wishes: VecDeque<(Duration, Wish)>,
}

/// Certificates of a CA that all runs share.
fn certificates() -> &'static [TlsFiles] {
    static FILES: OnceLock<(tempfile::TempDir, Vec<TlsFiles>)> = OnceLock::new();
    let (_, files) = FILES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let files = development_ca(dir.path(), &[1, 2, 3, 4]).unwrap();
        (dir, files)
    });
    files
}

fn link(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

fn others(one: usize) -> impl Iterator<Item = usize> {
    (0..NODES).filter(move |other| *other != one)
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut sim = Builder::new()
            .rng_seed(seed)
            .enable_random_order()
            .epoch(UNIX_EPOCH + Duration::from_secs(1_800_000_000))
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(Duration::ZERO)
            .max_message_latency(LATENCY)
            .tcp_capacity(4096)
            .udp_capacity(1024)
            .build();
        let names: Vec<String> = (1..=NODES).map(|node| format!("n{node}")).collect();
        let member = |name: &String| {
            let at = (sim.lookup(name.as_str()), PORT).into();
            Member { raft: at, actors: at, leaving: false }
        };
        let places: BTreeMap<NodeId, Member> = (1..).map(NodeId).zip(names.iter().map(member)).collect();
        let founders: BTreeMap<_, _> = places.iter().take(FOUNDERS).map(|(node, member)| (*node, *member)).collect();
        let record = Rc::new(Record::default());
        let mut nodes = Vec::new();
        for ((id, name), tls) in (1..).map(NodeId).zip(names).zip(certificates()) {
            let node = Rc::new(Node {
                id,
                name: name.clone(),
                disk: Disk::default(),
                members: if founders.contains_key(&id) { founders.clone() } else { places.clone() },
                tls: tls.clone(),
                record: record.clone(),
                starts: Duration::ZERO.into(),
                dice: (seed << 16 | id.0 << 8).into(),
                cluster: None.into(),
            });
            nodes.push(node.clone());
            sim.host(name, move || node.clone().live());
        }
        let (members, wishes) = ((0..FOUNDERS).collect(), VecDeque::new());
        Self { sim, nodes, record, links: BTreeMap::new(), dark: BTreeMap::new(), places, members, wishes }
    }

    /// Founds the cluster and lets a schedule's faults strike; gives how many did.
    pub fn begin(&mut self, schedule: &[Strike]) -> Result<usize, Wrong> {
        self.until("the cluster is founded", SETTLED, Self::is_settled)?;
        let from = self.now();
        let mut struck = 0;
        for Strike { at, fault, lasts } in schedule {
            while self.now() < from + *at {
                self.step()?;
            }
            struck += usize::from(self.strike(*fault, self.now() + *lasts));
        }
        Ok(struck)
    }

    /// Waits until a vnode has an owner.
    pub fn owner_within(&mut self, vnode: VnodeId, time: Duration) -> Result<(), Wrong> {
        self.until("the vnode has an owner", time, |world| world.is_owned(vnode))
    }

    /// Runs a schedule; gives what came of it, or what is wrong.
    pub fn run(&mut self, schedule: &Schedule) -> Result<String, Wrong> {
        self.until("the cluster is founded", SETTLED, Self::is_settled)?;
        let founded = self.now();
        self.wishes = schedule.wishes.iter().map(|(at, wish)| (founded + *at, *wish)).collect();
        let struck = self.begin(&schedule.strikes)?;
        let broken = |world: &Self| {
            !world.links.is_empty() || !world.dark.is_empty() || world.nodes.iter().any(|node| node.cluster.borrow().is_none())
        };
        while broken(self) {
            self.step()?;
        }
        let healed = self.now();
        let wished = |world: &Self| world.wishes.is_empty() && world.record.wishes.borrow().is_empty();
        self.until("every wish has come true", SETTLED, wished)?;
        self.until("every vnode has an owner, and every node is ready", SETTLED, Self::is_settled)?;
        let settled = self.now() - healed;
        self.until("every node holds what was committed", SETTLED, Self::holds_everything)?;
        let (calls, users) = (self.record.committed.borrow().len(), self.record.users.borrow().len());
        Ok(format!(
            "{struck} faults, {calls} + {users} commits, well {settled:?} after the last; {:?}; trace {:016x}",
            self.now(),
            self.fingerprint()
        ))
    }

    /// Prints what has happened.
    pub fn tell(&self) {
        for line in self.record.trace.borrow().iter() {
            println!("{line}");
        }
    }

    /// Two runs of a schedule that differ in anything that the trace says differ in this.
    fn fingerprint(&self) -> u64 {
        self.record
            .trace
            .borrow()
            .iter()
            .flat_map(|line| line.bytes())
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    fn until(&mut self, what: &str, time: Duration, is_so: impl Fn(&Self) -> bool) -> Result<(), Wrong> {
        let deadline = self.now() + time;
        while !is_so(self) {
            if self.now() > deadline {
                return Err(format!("not within {time:?}: {what}"));
            }
            self.step()?;
        }
        Ok(())
    }

    /// One millisecond.
    fn step(&mut self) -> Result<(), Wrong> {
        self.heal();
        self.wish();
        self.sim.step().map_err(|error| error.to_string())?;
        if let Some(wrong) = self.record.wrong.borrow_mut().pop() {
            return Err(wrong);
        }
        for vnode in (1..=VNODES).map(VnodeId) {
            let speakers = self.speakers(vnode);
            if speakers.len() > 1 {
                return Err(format!("{:?}: {speakers:?} speak for {vnode} at once", self.now()));
            }
        }
        Ok(())
    }

    /// Who would send something for a vnode at this moment.
    fn speakers(&self, vnode: VnodeId) -> Vec<(NodeId, Ownership)> {
        let now = Uptime::default() + self.now();
        let speaks = |node: &Rc<Node>| {
            let cluster = node.cluster.borrow();
            let cluster = cluster.as_ref()?;
            let ownership = *cluster.ownership(vnode)?.borrow();
            cluster.fence(vnode)?.may_send(now).then_some((node.id, ownership))
        };
        self.nodes.iter().filter_map(speaks).collect()
    }

    fn is_ready(&self, node: usize) -> bool {
        self.nodes[node].cluster.borrow().as_ref().is_some_and(|cluster| cluster.is_ready())
    }

    fn is_owned(&self, vnode: VnodeId) -> bool {
        matches!(self.speakers(vnode)[..], [(_, Ownership::Owner { .. })])
    }

    fn is_settled(&self) -> bool {
        let members = self.members.iter().map(|node| self.nodes[*node].id).collect::<BTreeSet<_>>();
        let is_well = |node: &usize| {
            let cluster = self.nodes[*node].cluster.borrow();
            let agrees = |cluster: &Arc<Cluster>| {
                cluster.read_meta(|meta| meta.is_settled() && meta.shape().members.keys().copied().eq(members.iter().copied()))
            };
            cluster.as_ref().is_some_and(|cluster| cluster.is_ready() && agrees(cluster))
        };
        self.members.iter().all(is_well) && (1..=VNODES).map(VnodeId).all(|vnode| self.is_owned(vnode))
    }

    /// An operator begins to want something.
    fn wish(&mut self) {
        let now = self.now();
        while let Some((_, wish)) = self.wishes.front().copied().filter(|(at, _)| *at <= now) {
            self.wishes.pop_front();
            let change = match wish {
                Wish::Join => {
                    self.members.insert(FOUNDERS);
                    let node = self.nodes[FOUNDERS].id;
                    Change::Join(node, self.places[&node])
                }
                Wish::Leave(node) => {
                    self.members.remove(&node);
                    Change::Leave(self.nodes[node].id)
                }
            };
            self.record.note(format!("{now:?} wanted: {change:?}"));
            self.record.wishes.borrow_mut().push_back(change);
        }
    }

    fn holds_everything(&self) -> bool {
        let (committed, users) = (self.record.committed.borrow(), self.record.users.borrow());
        self.members.iter().all(|node| {
            let cluster = self.nodes[*node].cluster.borrow();
            let Some(cluster) = cluster.as_ref() else { return false };
            // Whoever doesn't hold a vnode asks its owner.
            let has = |(vnode, call): &(VnodeId, u128)| cluster.read(*vnode, |state| state.call(CallId(*call)).is_some());
            let calls = committed.iter().all(|call| !cluster.holds(call.0) || has(call) == Some(true));
            calls && cluster.read_meta(|meta| users.iter().all(|aor| meta.user(aor).is_some()))
        })
    }

    /// False if it can't strike: one thing at a time is wrong with a link, and a node that may have forgotten something
    /// counts on the others.
    fn strike(&mut self, fault: Fault, until: Duration) -> bool {
        let struck = match fault {
            Fault::Kill(node) => self.kill(node, until),
            Fault::PowerLoss(node) => self.cut_power(node, until),
            Fault::CutOff(node) => {
                let free = others(node).all(|other| self.is_free(node, other));
                free && others(node).all(|other| self.spoil(node, other, Fault::Cut(node, other), until))
            }
            Fault::Cut(one, other)
            | Fault::CutOneWay(one, other)
            | Fault::Hold(one, other)
            | Fault::Slow(one, other, _)
            | Fault::Lossy(one, other) => self.spoil(one, other, fault, until),
        };
        if struck {
            self.record.note(format!("{:?} {fault:?} until {until:?}", self.now()));
        }
        struck
    }

    fn is_free(&self, one: usize, other: usize) -> bool {
        !self.links.contains_key(&link(one, other))
    }

    fn spoil(&mut self, one: usize, other: usize, fault: Fault, until: Duration) -> bool {
        if !self.is_free(one, other) {
            return false;
        }
        self.links.insert(link(one, other), (until, fault));
        let (a, b) = (self.nodes[one].name.clone(), self.nodes[other].name.clone());
        match fault {
            Fault::CutOneWay(..) => self.sim.partition_oneway(a, b),
            Fault::Hold(..) => self.sim.hold(a, b),
            Fault::Slow(_, _, latency) => self.sim.set_link_max_message_latency(a, b, latency),
            Fault::Lossy(..) => self.sim.set_link_fail_rate(a, b, 0.05),
            Fault::Kill(_) | Fault::PowerLoss(_) | Fault::CutOff(_) | Fault::Cut(..) => self.sim.partition(a, b),
        }
        true
    }

    fn kill(&mut self, node: usize, until: Duration) -> bool {
        let killed = self.nodes[node].clone();
        if killed.cluster.take().is_none() {
            return false;
        }
        self.sim.crash(killed.name.as_str());
        self.ask_another(node);
        killed.disk.process_died();
        // The machine lives: it refuses.
        killed.starts.set(until);
        self.sim.bounce(killed.name.as_str());
        true
    }

    /// Whom the operator was asking is gone, and what it was doing with it.
    fn ask_another(&self, node: usize) {
        if self.record.asked.get() == Some(self.nodes[node].id) {
            self.record.asked.set(None);
        }
    }

    fn cut_power(&mut self, node: usize, until: Duration) -> bool {
        let free = others(node).all(|other| self.is_free(node, other));
        if !free || !self.members.iter().all(|node| self.is_ready(*node)) {
            return false;
        }
        for other in others(node) {
            self.spoil(node, other, Fault::Cut(node, other), until);
        }
        let stopped = self.nodes[node].clone();
        stopped.cluster.take();
        self.sim.crash(stopped.name.as_str());
        self.ask_another(node);
        stopped.disk.power_failed(Uptime::default() + self.sim.elapsed());
        stopped.starts.set(until);
        self.dark.insert(node, until);
        true
    }

    fn heal(&mut self) {
        let now = self.now();
        while let Some((link, fault)) = self.links.iter().find(|(_, (until, _))| *until <= now).map(|(l, (_, f))| (*l, *f)) {
            self.links.remove(&link);
            let (a, b) = (self.nodes[link.0].name.clone(), self.nodes[link.1].name.clone());
            match fault {
                Fault::Hold(..) => self.sim.release(a, b),
                Fault::Slow(..) => self.sim.set_link_max_message_latency(a, b, LATENCY),
                // What it broke mends with the next word.
                Fault::Lossy(..) => self.sim.set_link_fail_rate(a, b, 0.0),
                _ => self.sim.repair(a, b),
            }
            self.record.note(format!("{now:?} {fault:?} has ended"));
        }
        while let Some(node) = self.dark.iter().find(|(_, until)| **until <= now).map(|(node, _)| *node) {
            self.dark.remove(&node);
            self.sim.bounce(self.nodes[node].name.as_str());
        }
    }
}
