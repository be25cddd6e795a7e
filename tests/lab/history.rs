//! What phones, nodes and the wire have seen, and the checker that reads it.
//!
//! A history is lines of JSON, written as things happen. The checker knows nothing of how it came about: what it looks for are
//! the promises, broken.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::floor::Stall;
use super::net::{Net, Watch};

/// Milliseconds by which what is heard on the wire may seem later than it was: who listens has to get a turn on a busy machine.
const SLACK: u64 = 20;

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Something is done to the cluster.
    Fault { what: String, node: usize },
    /// A caller saw the 200 of its nth call, and acknowledged it.
    Answered { caller: String, call: usize },
    /// A call was refused before it was answered, which breaks no promise; that it was never answered at all does.
    Refused { caller: String, why: String },
    /// A phone hung up a call and had its 200, and the other phone was told.
    HungUp { caller: String, call: usize },
    /// A phone could not do with an answered call what it wanted.
    Lost { caller: String, call: usize, why: String },
    /// The longest time in which a phone heard nothing, since then, and what the promise allows.
    Gap { caller: String, during: String, since_ms: u64, ms: u64, bound_ms: u64 },
    /// For so long, until now, a core gave no turn to who had nothing to do with the cluster.
    Stood { ms: u64 },
    /// A phone saw the 200 of its REGISTER.
    Registered { user: String },
    /// A node has begun to act for a vnode.
    Owns { node: usize, vnode: usize },
    /// A node's frames spoke for a vnode's address, from when this was seen on, until another's did.
    Spoke { vnode: usize, node: usize, until_ms: u64, frames: u64 },
    /// Accounting has this.
    Cdr { caller: String, answered: bool },
    /// A registration that is there in the end.
    Registration { user: String },
    /// What a node has in the end.
    Left { node: usize, calls: u64, sockets: u64, ports: u64 },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub at_ms: u64,
    #[serde(flatten)]
    pub event: Event,
}

/// What is broken now.
#[derive(Debug, Clone)]
pub struct During {
    pub what: String,
    since_ms: u64,
    bound: Duration,
}

impl During {
    /// From now on, and what the promise allows then.
    pub fn from_now(what: impl Into<String>, bound: Duration) -> Self {
        Self { what: what.into(), since_ms: now_ms(), bound }
    }
}

/// A history that is being written.
pub struct History {
    path: PathBuf,
    file: Mutex<std::fs::File>,
}

impl History {
    pub fn at(path: &Path) -> Self {
        let file = std::fs::File::create(path).unwrap();
        Self { path: path.to_owned(), file: Mutex::new(file) }
    }

    pub fn saw(&self, event: Event) {
        self.saw_at(now_ms(), event);
    }

    fn saw_at(&self, at_ms: u64, event: Event) {
        let line = serde_json::to_string(&Entry { at_ms, event }).unwrap();
        writeln!(self.file.lock().unwrap(), "{line}").unwrap();
    }

    pub fn gap(&self, caller: &str, gap: Duration, during: &During) {
        let During { what, since_ms, bound } = during;
        let (caller, during) = (caller.into(), what.clone());
        self.saw(Event::Gap { caller, during, since_ms: *since_ms, ms: ms(gap), bound_ms: ms(*bound) });
    }

    /// What the machine itself did to time.
    pub fn floor(&self, stalls: &[Stall]) {
        for stall in stalls {
            self.saw_at(stall.at_ms, Event::Stood { ms: ms(stall.late) });
        }
    }

    /// What the nodes and the wire have to say when everything is over.
    pub async fn close(&self, cluster: &Cluster, net: &Net, watch: &Watch) -> Vec<Entry> {
        for node in 1..=3 {
            for line in cluster.log(node).lines().filter(|line| line.contains("\"message\":\"open\"")) {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                let vnode = line["vnode"].as_str().unwrap().trim_start_matches('v').parse().unwrap();
                // It says so when all is done; the address came before.
                let opened = Duration::from_secs_f64(line["time"].as_str().unwrap().parse().unwrap());
                self.saw_at(ms(opened) - line["ms"].as_u64().unwrap(), Event::Owns { node, vnode });
            }
            let count = async |key| cluster.count(node, "/v1/cluster", key).await;
            let (calls, ports) = (count("calls").await, count("media_ports").await);
            let sockets = count("media_sockets").await + count("standby_sockets").await;
            self.saw(Event::Left { node, calls, sockets, ports });
        }
        let hosts: Vec<_> = (1..=3).map(|node| net.mac(&format!("n{node}"))).collect();
        let (now, clock) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        let at = |instant: Instant| ms(clock.saturating_sub(now.saturating_duration_since(instant)));
        for vnode in 1..=6 {
            for turn in watch.turns(net.vnode(vnode)) {
                // 0 is none of them.
                let node = hosts.iter().position(|host| *host == turn.host).map_or(0, |at| at + 1);
                let spoke = Event::Spoke { vnode, node, until_ms: at(turn.last), frames: turn.frames };
                self.saw_at(at(turn.first), spoke);
            }
        }
        let user = |aor: &serde_json::Value| aor.as_str().unwrap().split('@').next().unwrap().to_owned();
        for (path, list) in [("/v1/cdrs", "cdrs"), ("/v1/registrations", "registrations")] {
            for page in 0.. {
                let found = cluster.api(1).get(&format!("{path}?limit=1000&offset={}", page * 1000)).await.unwrap();
                let found = found[list].as_array().unwrap();
                for one in found {
                    self.saw(match list {
                        "cdrs" => Event::Cdr { caller: user(&one["caller"]), answered: one["answered"].is_u64() },
                        _ => Event::Registration { user: user(&one["aor"]) },
                    });
                }
                if found.len() < 1000 {
                    break;
                }
            }
        }
        let text = std::fs::read_to_string(&self.path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Whether a node that spoke for so long had begun to act by then, and nobody else had since.
fn spoke_in_turn(owners: &BTreeSet<(u64, usize)>, node: usize, from: u64, until: u64) -> bool {
    let began = owners.iter().rfind(|(at, owner)| *owner == node && *at <= from + SLACK);
    began.is_some_and(|(began, _)| owners.iter().all(|(at, owner)| *owner == node || at <= began || *at + SLACK >= until))
}

fn now_ms() -> u64 {
    ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap())
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap()
}

/// The longest time for which a core stood still in that span.
fn stood(history: &[Entry], since: u64, until: u64) -> u64 {
    let stalls = history.iter().filter_map(|entry| {
        let Event::Stood { ms } = entry.event else { return None };
        (entry.at_ms >= since && entry.at_ms <= until + ms).then_some(ms)
    });
    stalls.max().unwrap_or(0)
}

/// The promises that a history shows to be broken.
pub fn check(history: &[Entry]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut open = BTreeSet::new();
    let mut answered: BTreeMap<&str, usize> = BTreeMap::new();
    let mut cdrs: BTreeMap<&str, usize> = BTreeMap::new();
    // By vnode: when which node began to act for it.
    let mut owners: BTreeMap<usize, BTreeSet<(u64, usize)>> = BTreeMap::new();
    for Entry { at_ms, event } in history {
        if let Event::Owns { node, vnode } = event {
            owners.entry(*vnode).or_default().insert((*at_ms, *node));
        }
    }
    let (mut registered, mut found) = (BTreeSet::new(), BTreeSet::new());
    for Entry { at_ms, event } in history {
        match event {
            Event::Refused { caller, why } if why.starts_with("no answer") => {
                broken.push(format!("{caller} was left alone at {at_ms}: {why}"));
            }
            Event::Fault { .. } | Event::Refused { .. } | Event::Stood { .. } => {}
            Event::Answered { caller, call } => {
                open.insert((caller, call));
                *answered.entry(caller).or_default() += 1;
            }
            Event::HungUp { caller, call } => {
                open.remove(&(caller, call));
            }
            Event::Lost { caller, call, why } => broken.push(format!("call {call} of {caller} was lost at {at_ms}: {why}")),
            Event::Gap { caller, during, since_ms, ms, bound_ms } if ms > bound_ms => {
                let stood = stood(history, *since_ms, *at_ms);
                if *ms > bound_ms + stood {
                    let began = |(at, node): &(u64, usize), vnode: usize| format!("v{vnode} at n{node} ({at})");
                    let opened: Vec<_> = owners
                        .iter()
                        .flat_map(|(vnode, of)| of.iter().filter(|(at, _)| at >= since_ms).map(|turn| began(turn, *vnode)))
                        .take(12)
                        .collect();
                    broken.push(format!(
                        "{caller} heard nothing for {ms} ms between {since_ms} and {at_ms}, {during} allows {bound_ms}, and the machine stood still for {stood}; after it began: {opened:?}"
                    ));
                }
            }
            Event::Gap { .. } => {}
            Event::Owns { .. } => {}
            Event::Spoke { vnode, node, until_ms, frames } => {
                let of = owners.get(vnode).cloned().unwrap_or_default();
                if !spoke_in_turn(&of, *node, *at_ms, *until_ms) {
                    let near = of.iter().filter(|(at, _)| at.abs_diff(*at_ms) < 5_000).collect::<Vec<_>>();
                    broken.push(format!(
                        "node {node} spoke for vnode {vnode} from {at_ms} until {until_ms} ({frames} frames), and was not its only owner: {near:?}"
                    ));
                }
            }
            Event::Cdr { caller, answered: true } => *cdrs.entry(caller).or_default() += 1,
            Event::Cdr { .. } => {}
            Event::Registered { user } => drop(registered.insert(user)),
            Event::Registration { user } => drop(found.insert(user)),
            Event::Left { calls: 0, sockets: 0, ports: 0, .. } => {}
            Event::Left { node, calls, sockets, ports } => {
                broken.push(format!("node {node} has {calls} calls, {sockets} sockets and {ports} ports in the end"));
            }
        }
    }
    broken.extend(open.iter().map(|(caller, call)| format!("call {call} of {caller} was answered and never ended")));
    for caller in answered.keys().chain(cdrs.keys()).collect::<BTreeSet<_>>() {
        let of = |count: &BTreeMap<&str, usize>| count.get(*caller).copied().unwrap_or(0);
        if of(&answered) != of(&cdrs) {
            broken.push(format!("{caller} has {} CDRs for {} calls that were answered", of(&cdrs), of(&answered)));
        }
    }
    broken.extend(registered.difference(&found).map(|user| format!("the registration of {user} is gone")));
    broken
}
