//! One node's software: the engine, and in place of the actors somebody who follows the ownership and proposes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tandem::cluster::address::Mover;
use tandem::cluster::raft::types::Runtime;
use tandem::cluster::state::records::UserRecord;
use tandem::cluster::state::{Member, MetaCommand, MetaState, Reply, VnodeCommand};
use tandem::cluster::storage::Place;
use tandem::cluster::storage::simulated::Disk;
use tandem::cluster::tls::{NodeTls, TlsFiles};
use tandem::cluster::{Cluster, Ownership, Settings};
use tandem::ids::{Aor, CallId, NodeId, VnodeId};
use tokio::task::spawn_local;

/// How often an owner commits something for a vnode.
const PROPOSE: Duration = Duration::from_millis(25);
/// How often a node looks whether an operator has a wish.
const WISH: Duration = Duration::from_millis(50);
/// How often a node commits something to meta, and reads what has been committed.
const META: Duration = Duration::from_millis(150);
/// How long opening a vnode's sockets takes, or closing them.
const SOCKETS: Duration = Duration::from_millis(2);

pub const VNODES: u16 = 3;

/// What is known of the run, to all nodes and to whoever judges it.
#[derive(Default)]
pub struct Record {
    proposals: Cell<u128>,
    /// What was answered by Ok.
    pub committed: RefCell<BTreeSet<(VnodeId, u128)>>,
    pub users: RefCell<BTreeSet<Aor>>,
    /// The latest epoch of each vnode, and whose it was.
    epochs: RefCell<BTreeMap<VnodeId, (u64, NodeId)>>,
    /// What the operator waits for, the first of it now.
    pub wishes: RefCell<VecDeque<Change>>,
    /// Whom the operator is asking at the moment: one node at a time.
    pub asked: Cell<Option<NodeId>>,
    pub wrong: RefCell<Vec<String>>,
    pub trace: RefCell<Vec<String>>,
}

/// What the operator wants of whoever can do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Join(NodeId, Member),
    Leave(NodeId),
}

impl Record {
    pub fn note(&self, what: String) {
        self.trace.borrow_mut().push(what);
    }

    fn owns(&self, node: NodeId, vnode: VnodeId, epoch: u64) {
        let mut epochs = self.epochs.borrow_mut();
        let latest = epochs.get(&vnode).copied().unwrap_or((0, node));
        if epoch < latest.0 || (epoch == latest.0 && node != latest.1) {
            self.wrong.borrow_mut().push(format!("{node} owns {vnode} in term {epoch}, after {latest:?}"));
        }
        epochs.insert(vnode, (epoch, node));
    }

    fn next(&self) -> u128 {
        self.proposals.set(self.proposals.get() + 1);
        self.proposals.get()
    }
}

pub struct Node {
    pub id: NodeId,
    pub name: String,
    pub disk: Disk,
    pub members: BTreeMap<NodeId, Member>,
    pub tls: TlsFiles,
    pub record: Rc<Record>,
    /// Not before this moment does its process run.
    pub starts: Cell<Duration>,
    /// What its process throws dice from, another with each life.
    pub dice: Cell<u64>,
    /// As long as its process runs.
    pub cluster: RefCell<Option<Arc<Cluster>>>,
}

impl Node {
    /// The life of one process.
    pub async fn live(self: Rc<Self>) -> turmoil::Result {
        spawn_local(tandem::cluster::net::kernel());
        tokio::time::sleep(self.starts.get().saturating_sub(turmoil::sim_elapsed().unwrap_or_default())).await;
        let start = Cluster::start(Settings {
            node: self.id,
            members: self.members.clone(),
            vnodes: (1..=VNODES).map(|vnode| (VnodeId(vnode), NodeId(vnode.into()))).collect(),
            replicas: 3,
            addresses: BTreeMap::new(),
            mover: Mover::Binding,
            dir: PathBuf::new(),
            storage: Place::Simulated(self.disk.clone()),
            tls: NodeTls::load(&self.tls)?,
            secret: b"the cluster's secret".to_vec(),
        });
        let cluster = Runtime::scope(self.dice.get(), start).await?;
        self.dice.set(self.dice.get() + 1);
        for vnode in cluster.vnodes() {
            spawn_local(self.clone().follow(cluster.clone(), vnode));
            spawn_local(self.clone().propose(cluster.clone(), vnode));
        }
        spawn_local(self.clone().provision(cluster.clone()));
        spawn_local(self.clone().operate(cluster.clone()));
        self.cluster.replace(Some(cluster));
        std::future::pending().await
    }

    /// What a vnode's actors do with its sockets.
    async fn follow(self: Rc<Self>, cluster: Arc<Cluster>, vnode: VnodeId) {
        let mut ownership = cluster.ownership(vnode).unwrap();
        let mut before = None;
        loop {
            let now = *ownership.wait_for(|now| Some(*now) != before).await.unwrap();
            before = Some(now);
            self.record.note(format!("{:?} {} {vnode} {now:?}", turmoil::sim_elapsed().unwrap(), self.id));
            if let Ownership::Owner { epoch } = now {
                self.record.owns(self.id, vnode, epoch);
                self.has_all(&cluster, vnode);
            }
            tokio::time::sleep(SOCKETS).await;
            cluster.sockets_open(vnode, now.is_active());
        }
    }

    /// Who owns a vnode answers from its records, and has all that anybody was promised.
    fn has_all(&self, cluster: &Cluster, vnode: VnodeId) {
        let committed = self.record.committed.borrow();
        let mut calls = committed.range((vnode, 0)..=(vnode, u128::MAX)).map(|(_, call)| CallId(*call));
        if let Some(lacks) = cluster.read(vnode, |state| calls.find(|call| state.call(*call).is_none())).flatten() {
            self.record.wrong.borrow_mut().push(format!("{} owns {vnode} and lacks {lacks:?}", self.id));
        }
    }

    async fn propose(self: Rc<Self>, cluster: Arc<Cluster>, vnode: VnodeId) {
        let ownership = cluster.ownership(vnode).unwrap();
        loop {
            tokio::time::sleep(PROPOSE).await;
            if !matches!(*ownership.borrow(), Ownership::Owner { .. }) {
                continue;
            }
            let call = self.record.next();
            let put = VnodeCommand::PutCall { call: CallId(call), record: bytes::Bytes::from_static(b"record") };
            if cluster.propose(vnode, put).await == Ok(Reply::Done) {
                self.record.committed.borrow_mut().insert((vnode, call));
            }
        }
    }

    /// Makes a wish of the operator's come true, if this node can.
    async fn operate(self: Rc<Self>, cluster: Arc<Cluster>) {
        loop {
            tokio::time::sleep(WISH).await;
            let can = cluster.is_ready() && self.record.asked.get().is_none();
            let Some(change) = self.record.wishes.borrow().front().copied().filter(|_| can) else { continue };
            self.record.asked.set(Some(self.id));
            let so = |meta: &MetaState| match change {
                Change::Join(node, _) => meta.is_settled() && meta.shape().members.contains_key(&node),
                Change::Leave(node) => meta.is_settled() && !meta.shape().members.contains_key(&node),
            };
            let answer = match change {
                Change::Join(node, member) => cluster.join(node, member).await,
                Change::Leave(node) => cluster.leave(node).await,
            };
            let is_so = cluster.catch_up_meta().await && cluster.read_meta(so);
            self.record.asked.set(None);
            let mut wishes = self.record.wishes.borrow_mut();
            if is_so && wishes.front() == Some(&change) {
                wishes.pop_front();
                self.record.note(format!("{:?} {} has seen to {change:?} {answer:?}", turmoil::sim_elapsed().unwrap(), self.id));
            }
        }
    }

    async fn provision(self: Rc<Self>, cluster: Arc<Cluster>) {
        loop {
            tokio::time::sleep(META).await;
            let aor = Aor::new(&self.record.next().to_string(), "x");
            let user = UserRecord { ha1_md5: String::new(), ha1_sha256: String::new(), srtp: None, record: None };
            // What is tried again may have been committed before.
            let put = MetaCommand::PutUser { aor: aor.clone(), user, replace: true };
            if cluster.propose_meta(put).await == Ok(Reply::Done) {
                self.record.users.borrow_mut().insert(aor);
            }
            let known = self.record.users.borrow().clone();
            if cluster.catch_up_meta().await {
                let lacks = cluster.read_meta(|meta| known.iter().find(|aor| meta.user(aor).is_none()).cloned());
                if let Some(aor) = lacks {
                    self.record.wrong.borrow_mut().push(format!("{} has caught up with meta and lacks {aor:?}", self.id));
                }
            }
        }
    }
}
