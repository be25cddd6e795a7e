//! The Raft wire: framed RPC over mutual TLS, a connection each way between two nodes. Layer: shell.
//!
//! ```text
//!  request   u32 length │ u64 id │ u8 kind │ u16 group │ body
//!  reply     u32 length │ u64 id │ u8 outcome │ body
//! ```
//!
//! Every call has a deadline, every queue a bound. Peers tell how they are; a connection without
//! an answer for a second is dropped. *Refused is dead, silence is not*: only a peer whose kernel refuses
//! the connection is known to have no process.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::net::{self, TcpListener};
use super::raft::types::GroupId;
use super::tls::NodeTls;
use crate::clock::{self, Timestamp, Uptime};
use crate::ids::NodeId;

/// A frame is at most this long: a snapshot goes in one.
const MAX_FRAME: usize = 256 << 20;
/// At most this many frames wait for a connection.
const QUEUE: usize = 8192;
/// How often a peer is asked how it is.
pub const HELLO: Duration = Duration::from_millis(50);
/// A connection without any answer for this long is dropped.
const SILENCE: Duration = Duration::from_millis(1000);
/// How long a connection may take to come about: the kernel would say again after a second what was lost a moment before a cut
/// was healed.
const CONNECT: Duration = Duration::from_millis(300);
/// And how long TLS on it.
const SECURE: Duration = Duration::from_millis(1000);
/// A refusal says no more when the next attempt has had no answer for this long: a process that has started since may help to
/// elect another owner after a [`GRANT`](super::lease::GRANT), and this with the longest pause is less.
const REFUSED: Duration = Duration::from_millis(100);
/// The pauses between attempts: quick at first, since a killed process is refused within a millisecond.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(50),
];

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "Raft's names")]
pub enum Kind {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    Snapshot = 4,
    Transfer = 5,
    /// A proposal for the group's leader.
    Propose = 6,
    /// How far a replica must be to have all that its leader has committed.
    Progress = 7,
    /// How are you.
    Hello = 8,
    /// The term of the group, as the peer has it.
    Term = 9,
    /// Whether the peer would vote for the one that asks.
    May = 10,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        let all = [
            Self::Append,
            Self::Vote,
            Self::PreVote,
            Self::Snapshot,
            Self::Transfer,
            Self::Propose,
            Self::Progress,
            Self::Hello,
            Self::Term,
            Self::May,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who.
    pub node: NodeId,
    /// Its disk.
    pub memory: Memory,
    /// It has caught up with every group, reaches a majority, and may take vnodes over.
    pub ready: bool,
    /// It is being drained: nothing should move to it.
    pub draining: bool,
    /// Which of the node's processes it is.
    pub life: u64,
    /// What time it has.
    #[serde(default)]
    pub now: Option<Timestamp>,
    /// What its configuration says of the cluster; none of a release before there were memberships.
    #[serde(default)]
    pub outline: Option<Outline>,
}

/// What the configurations of all nodes must say alike, each as a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// The vnodes and their addresses.
    pub vnodes: u64,
    /// The members: of those that found a cluster together.
    pub members: u64,
}

/// What a node remembers of its life before this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Memory {
    /// Nothing: a new node, or one that lost its disk.
    Blank,
    /// Perhaps not all that it acknowledged: its machine stopped without warning.
    Doubtful,
    /// Everything.
    Whole,
}

/// How a peer looks from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Never heard of yet.
    Unknown,
    /// It answers; this is what it said last.
    Up(Hello),
    /// Its kernel refuses connections: there is no process.
    Refused,
    /// It doesn't answer, which may be anything.
    Silent,
}

/// Why a call brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// There is no connection.
    #[error("the peer is not reachable")]
    Unreachable,
    /// Too much is waiting already.
    #[error("the queue to the peer is full")]
    Full,
    /// The deadline has passed.
    #[error("the peer did not answer in time")]
    Late,
    /// The peer could not carry it out, or answered something else.
    #[error("the peer refused")]
    Refused,
}

/// Answers what peers ask. Appends of one group must be taken in the order in which `serve` was called.
pub trait Serve: Send + Sync + 'static {
    /// Takes a request; the answer goes through `reply`, none refuses.
    fn serve(self: &Arc<Self>, kind: Kind, group: GroupId, body: Bytes, reply: Answer);
    /// What we say of ourselves.
    fn hello(&self) -> Hello;
    /// What a peer said of itself.
    fn heard(&self, hello: &Hello);
}

/// The way back for one answer.
#[derive(Debug)]
pub struct Answer {
    id: u64,
    queue: mpsc::Sender<Bytes>,
}

impl Answer {
    /// Sends the answer, or a refusal if there is none. Never waits: a peer that doesn't read loses it.
    pub fn send<T: Serialize>(self, answer: Option<&T>) {
        let body = answer.map(encode);
        let mut frame = BytesMut::with_capacity(13 + body.as_ref().map_or(0, Vec::len));
        frame.put_u32(u32::try_from(9 + body.as_ref().map_or(0, Vec::len)).unwrap_or(u32::MAX));
        frame.put_u64(self.id);
        frame.put_u8(u8::from(body.is_none()));
        frame.put_slice(&body.unwrap_or_default());
        let _ = self.queue.try_send(frame.freeze());
    }
}

/// The body of a request or an answer. Internal and between nodes of one cluster: fields go by name.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("what goes over the wire holds nothing that MessagePack can't say")
}

type Pending = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Option<Bytes>>>>>;

/// Our connection to one peer; it connects again by itself, for ever.
pub struct Link {
    peer: NodeId,
    queue: Mutex<Option<mpsc::Sender<Bytes>>>,
    pending: Pending,
    next: AtomicU64,
    reach: watch::Sender<Reach>,
    /// When the attempt began that was refused last.
    refused: Mutex<Uptime>,
    closed: watch::Sender<bool>,
}

impl Link {
    /// Starts connecting to `peer` at `address`.
    pub fn start<S: Serve>(peer: NodeId, address: SocketAddr, tls: NodeTls, server: Arc<S>) -> Arc<Self> {
        let link = Arc::new(Self {
            peer,
            queue: Mutex::new(None),
            pending: Pending::default(),
            next: AtomicU64::new(1),
            reach: watch::Sender::new(Reach::Unknown),
            refused: Mutex::default(),
            closed: watch::Sender::new(false),
        });
        let (kept, mut closed) = (link.clone(), link.closed.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                () = kept.clone().keep(address, tls, server) => {}
                _ = closed.wait_for(|closed| *closed) => kept.end(),
            }
        });
        link
    }

    /// Ends the connection, for good.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Waits until the link is closed.
    pub async fn closed(&self) {
        // The sender is ours: it can't have gone.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    fn end(&self) {
        *lock(&self.queue) = None;
        lock(&self.pending).clear();
        self.now(Reach::Unknown);
    }

    /// How the peer looks; changes wake the receiver.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }

    /// When the last attempt began, if it was refused and that is all that is known: there was no process then, or later.
    pub fn refused(&self) -> Option<Uptime> {
        (*self.reach.borrow() == Reach::Refused).then(|| *lock(&self.refused))
    }

    /// Asks, and waits for the answer.
    pub async fn call<T: Serialize, R: DeserializeOwned>(
        &self,
        kind: Kind,
        group: GroupId,
        body: &T,
        deadline: Duration,
    ) -> Result<R, WireError> {
        let (id, answer) = self.begin(kind, group, &encode(body))?;
        self.finish(id, answer, deadline).await
    }

    /// Puts a request on its way: what is begun first arrives first.
    pub fn begin(&self, kind: Kind, group: GroupId, body: &[u8]) -> Result<(u64, oneshot::Receiver<Option<Bytes>>), WireError> {
        let queue = lock(&self.queue).clone().ok_or(WireError::Unreachable)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut frame = BytesMut::with_capacity(15 + body.len());
        frame.put_u32(u32::try_from(11 + body.len()).map_err(|_| WireError::Full)?);
        frame.put_u64(id);
        frame.put_u8(kind as u8);
        frame.put_u16(group.0);
        frame.put_slice(body);
        let (sender, answer) = oneshot::channel();
        lock(&self.pending).insert(id, sender);
        if queue.try_send(frame.freeze()).is_err() {
            lock(&self.pending).remove(&id);
            return Err(WireError::Full);
        }
        Ok((id, answer))
    }

    /// Waits for the answer to what was begun.
    pub async fn finish<R: DeserializeOwned>(
        &self,
        id: u64,
        answer: oneshot::Receiver<Option<Bytes>>,
        deadline: Duration,
    ) -> Result<R, WireError> {
        let body = match timeout(deadline, answer).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => return Err(WireError::Refused),
            Ok(Err(_)) => return Err(WireError::Unreachable),
            Err(_) => {
                lock(&self.pending).remove(&id);
                return Err(WireError::Late);
            }
        };
        rmp_serde::from_slice(&body).map_err(|_| WireError::Refused)
    }

    async fn keep<S: Serve>(self: Arc<Self>, address: SocketAddr, tls: NodeTls, server: Arc<S>) {
        let mut attempt = 0;
        loop {
            tokio::time::sleep(PAUSES[attempt.min(PAUSES.len() - 1)]).await;
            attempt += 1;
            let began = clock::uptime();
            match timeout(CONNECT, self.unless_it_hangs(net::connect(address))).await {
                Ok(Ok(stream)) => {
                    self.doubt_refusal();
                    let secured = timeout(SECURE, tls.connector.connect(NodeTls::server_name(), stream)).await;
                    if let Ok(Ok(stream)) = secured {
                        attempt = 0;
                        self.run(stream, &server).await;
                    }
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    *lock(&self.refused) = began;
                    self.now(Reach::Refused);
                }
                Ok(Err(_)) | Err(_) => self.now(Reach::Silent),
            }
        }
    }

    /// Connects, and doubts after a while that there is still nobody.
    async fn unless_it_hangs<T>(&self, connecting: impl Future<Output = T>) -> T {
        let mut connecting = std::pin::pin!(connecting);
        if let Ok(connected) = timeout(REFUSED, &mut connecting).await {
            return connected;
        }
        self.doubt_refusal();
        connecting.await
    }

    fn doubt_refusal(&self) {
        if *self.reach.borrow() == Reach::Refused {
            self.now(Reach::Silent);
        }
    }

    fn now(&self, reach: Reach) {
        let changed = self.reach.send_if_modified(|own| {
            let changed = *own != reach;
            *own = reach;
            changed
        });
        if changed {
            tracing::info!(peer = %self.peer, reach = ?reach, "peer");
        }
    }

    async fn run<S: Serve>(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, server: &Arc<S>) {
        let (reader, writer) = tokio::io::split(stream);
        let (queue, frames) = mpsc::channel(QUEUE);
        let writing = tokio::spawn(write(writer, frames));
        *lock(&self.queue) = Some(queue);
        let writing = AbortOnDrop(writing);
        tokio::select! {
            _ = self.read(reader) => {}
            () = self.greet(server) => {}
        }
        *lock(&self.queue) = None;
        lock(&self.pending).clear();
        drop(writing);
        // Until the next attempt says more, all that is known is that it doesn't answer.
        self.now(Reach::Silent);
    }

    async fn read(&self, reader: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(256 << 10, reader);
        loop {
            let mut frame = read_frame(&mut reader).await?;
            if frame.len() < 9 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let head = frame.split_to(9);
            let id = u64::from_be_bytes(head[..8].try_into().unwrap_or_default());
            if let Some(sender) = lock(&self.pending).remove(&id) {
                let _ = sender.send((head[8] == 0).then_some(frame));
            }
        }
    }

    /// Asks for the peer's state for ever; returns when it has been silent for too long.
    async fn greet<S: Serve>(&self, server: &Arc<S>) {
        let mut heard = Instant::now();
        while heard.elapsed() < SILENCE {
            match self.call::<Hello, Hello>(Kind::Hello, GroupId::META, &server.hello(), HELLO * 4).await {
                Ok(hello) => {
                    heard = Instant::now();
                    server.heard(&hello);
                    // That time passes is no news.
                    self.now(Reach::Up(Hello { now: None, ..hello }));
                }
                Err(WireError::Unreachable) => return,
                Err(WireError::Full | WireError::Late | WireError::Refused) => {}
            }
            tokio::time::sleep(HELLO).await;
        }
    }
}

/// A task that ends with whoever began it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes peers' connections on a listening socket, for ever.
pub async fn accept<S: Serve>(listener: TcpListener, tls: NodeTls, server: Arc<S>) {
    loop {
        let Ok(stream) = net::accept(&listener).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (tls, server) = (tls.clone(), server.clone());
        tokio::spawn(async move {
            if let Ok(Ok(stream)) = timeout(SECURE, tls.acceptor.accept(stream)).await {
                let _ = answer_peer(stream, server).await;
            }
        });
    }
}

async fn answer_peer<S: Serve>(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, server: Arc<S>) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    let (queue, frames) = mpsc::channel(QUEUE);
    let writing = tokio::spawn(write(writer, frames));
    let result = loop {
        // A peer that asks for nothing, not even whether we are there, is gone.
        let frame = match timeout(SILENCE * 5, read_frame(&mut reader)).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => break Err(error),
            Err(_) => break Ok(()),
        };
        if frame.len() < 11 {
            break Err(io::ErrorKind::InvalidData.into());
        }
        let id = u64::from_be_bytes(frame[..8].try_into().unwrap_or_default());
        let group = GroupId(u16::from_be_bytes([frame[9], frame[10]]));
        let answer = Answer { id, queue: queue.clone() };
        match Kind::from_byte(frame[8]) {
            Some(Kind::Hello) => {
                if let Ok(hello) = rmp_serde::from_slice(&frame[11..]) {
                    server.heard(&hello);
                }
                answer.send(Some(&server.hello()));
            }
            Some(kind) => server.serve(kind, group, frame.slice(11..), answer),
            None => answer.send::<()>(None),
        }
    };
    writing.abort();
    result
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let length = usize::try_from(reader.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    reader.read_exact(&mut frame).await?;
    Ok(Bytes::from(frame))
}

/// Writes what is queued, as much at once as there is.
async fn write(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Bytes>) {
    let mut batch = Vec::with_capacity(128);
    let mut buffer = BytesMut::with_capacity(64 << 10);
    while frames.recv_many(&mut batch, 128).await > 0 {
        buffer.clear();
        for frame in batch.drain(..) {
            buffer.extend_from_slice(&frame);
        }
        if writer.write_all(&buffer).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing is left half done under these locks, so a panic elsewhere doesn't spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
