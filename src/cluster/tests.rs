//! Three nodes in one process: real sockets, TLS and disks, no crashes (those are `tests/chaos`).

use super::*;
use crate::ids::{Aor, CallId};
use state::records::UserRecord;
use tls::{TlsFiles, development_ca};

struct Nodes {
    dir: tempfile::TempDir,
    tls: Vec<TlsFiles>,
    members: BTreeMap<NodeId, Member>,
    running: BTreeMap<u64, Arc<Cluster>>,
}

const VNODE: VnodeId = VnodeId(2);

impl Nodes {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tls = development_ca(&dir.path().join("tls"), &[1, 2, 3]).unwrap();
        let mut members = BTreeMap::new();
        for node in 1..=3 {
            let free = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let raft = free.local_addr().unwrap();
            members.insert(NodeId(node), Member { raft, actors: raft, leaving: false });
        }
        let mut nodes = Self { dir, tls, members, running: BTreeMap::new() };
        for node in 1..=3 {
            nodes.up(node).await;
        }
        for node in 1..=3 {
            nodes.ready(node).await;
        }
        nodes
    }

    async fn up(&mut self, node: u64) {
        let cluster = Cluster::start(Settings {
            node: NodeId(node),
            members: self.members.clone(),
            vnodes: (1..=3).map(|vnode| (VnodeId(vnode), NodeId(vnode.into()))).collect(),
            replicas: 3,
            storage: Place::Thread,
            dir: self.dir.path().join(format!("n{node}")),
            addresses: BTreeMap::new(),
            mover: Mover::Binding,
            secret: b"the cluster's secret".to_vec(),
            tls: NodeTls::load(&self.tls[usize::try_from(node - 1).unwrap()]).unwrap(),
        });
        let cluster = cluster.await.unwrap();
        // What the vnodes' actors do: follow the ownership.
        for vnode in cluster.vnodes() {
            let (cluster, mut ownership) = (cluster.clone(), cluster.ownership(vnode).unwrap());
            tokio::spawn(async move {
                loop {
                    let open = ownership.borrow_and_update().is_active();
                    cluster.sockets_open(vnode, open);
                    if ownership.changed().await.is_err() {
                        return;
                    }
                }
            });
        }
        self.running.insert(node, cluster);
    }

    async fn ready(&self, node: u64) {
        until(|| self.running[&node].is_ready()).await;
    }

    fn owners(&self, vnode: VnodeId) -> Vec<u64> {
        let owns = |cluster: &Cluster| cluster.ownership(vnode).unwrap().borrow().is_active();
        self.running.iter().filter(|(_, cluster)| owns(cluster)).map(|(node, _)| *node).collect()
    }
}

async fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn put_call(call: u128) -> VnodeCommand {
    VnodeCommand::PutCall { call: CallId(call), record: bytes::Bytes::from_static(b"record") }
}

fn has_call(cluster: &Cluster, call: u128) -> bool {
    cluster.read(VNODE, |state| state.call(CallId(call)).is_some()) == Some(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_found_a_cluster_commit_and_hand_over() {
    let mut nodes = Nodes::start().await;
    // Each vnode is at home, and only there.
    for vnode in 1..=3_u16 {
        until(|| nodes.owners(VnodeId(vnode)) == [u64::from(vnode)]).await;
    }
    // What the owner commits, everybody holds; who isn't the owner can't commit.
    let owner = nodes.running[&2].clone();
    assert_eq!(owner.propose(VNODE, put_call(1)).await, Ok(Reply::Done));
    assert_eq!(nodes.running[&1].propose(VNODE, put_call(2)).await, Err(ProposeError::NotOwner));
    until(|| nodes.running.values().all(|cluster| has_call(cluster, 1))).await;
    // Meta takes proposals from anybody.
    for (node, cluster) in &nodes.running {
        let user = UserRecord { ha1_md5: String::new(), ha1_sha256: String::new(), srtp: None, record: None };
        let put = MetaCommand::PutUser { aor: Aor::new(&node.to_string(), "x"), user, replace: false };
        assert_eq!(cluster.propose_meta(put).await, Ok(Reply::Done), "node {node}");
    }
    // A node that stops hands its vnode over first.
    owner.stop().await;
    drop(owner);
    nodes.running.remove(&2);
    until(|| nodes.owners(VNODE).len() == 1).await;
    let heir = nodes.running[&nodes.owners(VNODE)[0]].clone();
    assert_eq!(heir.propose(VNODE, put_call(3)).await, Ok(Reply::Done));
}

/// A word to stand that is late, since whoever it is for leads already, changes nothing: its own vote goes on counting for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leads_already_and_is_told_to_stand_keeps_its_own_vote() {
    use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};
    let nodes = Nodes::start().await;
    until(|| nodes.owners(VNODE) == [2]).await;
    let owner = nodes.running[&2].clone();
    let group = owner.group(VNODE).unwrap();
    let mut candidate = group.raft.with_raft_state(|state| *state.vote_ref()).await.unwrap();
    candidate.committed = false;
    let late = TransferLeaderRequest::<TypeConfig>::new(candidate, 2, None);
    let link = nodes.running[&1].links.get(NodeId(2)).unwrap();
    let told = link.call::<_, TransferLeaderResponse<TypeConfig>>(Kind::Transfer, group.id, &late, COMMIT_DEADLINE).await;
    assert!(told.is_ok(), "{told:?}");
    // It holds the group with itself, if that is asked.
    owner.beats.hold_with(group.id, Some(BTreeSet::from([NodeId(2)])));
    let (term, later) = (group.leads().unwrap(), crate::clock::uptime() + lease::LEASE * 2);
    until(|| owner.beats.held_until(group, term).is_some_and(|until| until > later)).await;
    assert_eq!(nodes.owners(VNODE), [2]);
}

/// What can't be read is refused, whatever it says that it is, and nothing comes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_says_that_nobody_can_read_is_refused() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let nodes = Nodes::start().await;
    until(|| nodes.owners(VNODE) == [2]).await;
    let owner = nodes.running[&2].clone();
    let link = nodes.running[&1].links.get(NodeId(2)).unwrap();
    let mut dice = StdRng::seed_from_u64(8);
    for kind in [Kind::Append, Kind::Vote, Kind::PreVote, Kind::Snapshot, Kind::Transfer, Kind::Propose, Kind::May] {
        for group in [GroupId::META, owner.group(VNODE).unwrap().id, GroupId(9999)] {
            for _ in 0..100 {
                let body: Vec<u8> = (0..dice.random_range(0..80)).map(|_| dice.random()).collect();
                let (id, answer) = link.begin(kind, group, &body).unwrap();
                let answer = link.finish::<serde::de::IgnoredAny>(id, answer, COMMIT_DEADLINE).await;
                assert_eq!(answer.unwrap_err(), wire::WireError::Refused, "{kind:?} {body:?}");
            }
        }
    }
    assert_eq!(owner.propose(VNODE, put_call(1)).await, Ok(Reply::Done));
    assert_eq!(nodes.owners(VNODE), [2]);
}

/// Who may have forgotten what it said has no voice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_have_forgotten_does_not_vote() {
    use openraft::raft::{VoteRequest, VoteResponse};
    let nodes = Nodes::start().await;
    until(|| nodes.owners(VNODE) == [2]).await;
    let owner = nodes.running[&2].clone();
    let (link, group) = (owner.links.get(NodeId(3)).unwrap(), owner.group(VNODE).unwrap());
    let last = group.raft.with_raft_state(|state| state.log_ids.last().copied()).await.unwrap();
    let mut vote = group.raft.with_raft_state(|state| *state.vote_ref()).await.unwrap();
    vote.committed = false;
    let asks = async || {
        let may = link.call::<_, bool>(Kind::May, group.id, &(NodeId(2), last), COMMIT_DEADLINE).await.map(drop);
        let vote = VoteRequest::<TypeConfig>::new(vote, last);
        let pre = link.call::<_, VoteResponse<TypeConfig>>(Kind::PreVote, group.id, &vote, COMMIT_DEADLINE).await.map(drop);
        [may, pre]
    };
    assert_eq!(asks().await, [Ok(()); 2]);
    nodes.running[&3].life.forget();
    assert_eq!(asks().await, [Err(wire::WireError::Refused); 2]);
    let vote = VoteRequest::<TypeConfig>::new(vote, last);
    let voted = link.call::<_, VoteResponse<TypeConfig>>(Kind::Vote, group.id, &vote, COMMIT_DEADLINE).await.map(drop);
    assert_eq!(voted, Err(wire::WireError::Refused));
}
