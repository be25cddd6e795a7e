//! The relay: threads that own the sockets of all calls and forward datagrams between their two ends.
//! Layer: shell.
//!
//! ```text
//!  caller ──▶ socket (leg 0) ─┐      ┌─ socket (leg 0) ──▶ caller
//!                             └▶ ⇄ ◀─┘
//!  callee ◀── socket (leg 1) ─┘      └─ socket (leg 1) ◀── callee
//! ```
//!
//! A call lives on one thread; one whose packets are made over (transcoding), or whose phones hear music, on one of those that do only that. Actors say what a leg needs ([`Relay::apply`]), which may be said twice;
//! the relay says where packets come from ([`Event::Latched`]) and when there are none ([`Event::Idle`]).
//!
//! Who the peer of a port is says [`Latch`](super::core::Latch); packets from others are dropped and counted.

mod dtls;
mod gauge;
mod shield;
mod tape;
mod thread;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self as mpsc_std, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;

use super::core::LegPlan;
use super::core::dtmf::Signal;
use super::core::negotiation::Rules;
use super::core::sound::Quality;
use super::core::srtp::Mark;
use super::ports::Pair;
use super::sounds::Sounds;
use crate::fence::Fence;
use crate::ids::{CallId, LegId};
pub use tape::Taped;

pub use gauge::Gauge;

/// At most this many commands wait for a thread.
const COMMANDS: usize = 16 << 10;
/// At most this many events wait to be read.
const EVENTS: usize = 16 << 10;
/// How long [`Relay::settle`] waits for a thread.
const SETTLE: Duration = Duration::from_millis(500);

/// Who has sent something that shows nothing of that itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Where its checks come from the phone is (ICE).
    Checked,
    /// The phone is known to be there, or has said so.
    Known,
    /// It may be the phone.
    Anybody,
}

/// What the relay tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A leg's packets come from here.
    Latched {
        /// Which call.
        call: CallId,
        /// Which leg.
        leg: LegId,
        /// Which `m=` line.
        stream: usize,
        /// RTCP, not RTP.
        rtcp: bool,
        /// From where.
        source: SocketAddr,
    },
    /// A source of a protected stream has come so far: who takes the call over should know.
    CameTo {
        /// Which call.
        call: CallId,
        /// Which leg.
        leg: LegId,
        /// Which `m=` line.
        stream: usize,
        /// It is in what goes to the leg's phone, and not in what comes from it.
        ours: bool,
        /// By which key ([`MasterKey::mark`](super::core::srtp::MasterKey::mark)).
        key: u64,
        /// How far.
        mark: Mark,
    },
    /// A leg's phone hears something of ours from now on: who takes the call over should know how its times go.
    Plays {
        /// Which call.
        call: CallId,
        /// Which leg.
        leg: LegId,
        /// Which `m=` line.
        stream: usize,
        /// See [`Music::offset`](super::core::player::Music::offset).
        offset: u32,
    },
    /// A handshake that has not ended.
    Dtls {
        /// Which call.
        call: CallId,
        /// Which leg.
        leg: LegId,
        /// Which `m=` line.
        stream: usize,
        /// From where.
        source: SocketAddr,
        /// Who that is.
        sender: Sender,
        /// What has come.
        datagram: Box<[u8]>,
    },
    /// A leg's phone says nothing, and should.
    Silent {
        /// Which call.
        call: CallId,
        /// Which leg.
        leg: LegId,
        /// Whether anything comes at all: then it is digital silence.
        sends: bool,
    },
    /// Nothing came on any leg of a call for the relay's timeout.
    Idle {
        /// Which call.
        call: CallId,
    },
}

/// What passed a leg; read by anybody, written by one thread.
#[derive(Debug, Default)]
pub struct Counters {
    /// Datagrams from the phone.
    pub received: AtomicU64,
    /// Bytes in them.
    pub received_bytes: AtomicU64,
    /// Datagrams to the phone.
    pub sent: AtomicU64,
    /// Datagrams that nobody was there for, or from a stranger.
    pub dropped: AtomicU64,
    /// How well the phone is heard, and hears.
    pub gauge: Gauge,
}

/// One end of one stream, as an actor wants it.
#[derive(Debug)]
pub struct Want {
    /// Addresses.
    pub plan: LegPlan,
    /// Sockets that are bound already; else the relay binds them, as often as it takes.
    pub sockets: Option<Pair>,
}

enum Command {
    Apply {
        call: CallId,
        leg: LegId,
        streams: Vec<Option<Want>>,
        counters: Arc<Counters>,
        fence: Fence,
    },
    Close {
        call: CallId,
    },
    Send {
        call: CallId,
        leg: LegId,
        stream: usize,
        to: SocketAddr,
        datagrams: Vec<Bytes>,
    },
    Press {
        call: CallId,
        leg: LegId,
        stream: usize,
        rules: Rules,
        signal: Signal,
    },
    /// A call comes from another thread.
    TakeIn(Box<thread::Moved>),
    Settle {
        done: tokio::sync::oneshot::Sender<()>,
    },
}

/// The handle.
#[derive(Debug)]
pub struct Relay {
    workers: Vec<Worker>,
    /// Those of calls that are made over: each has what one of the workers gives it.
    coders: Vec<Arc<Worker>>,
    open: Arc<Open>,
    running: Arc<AtomicBool>,
    /// Until somebody has it.
    taped: Mutex<Option<mpsc::Receiver<Vec<Taped>>>>,
}

/// What the threads have open.
#[derive(Debug, Default)]
struct Open {
    ports: AtomicUsize,
    /// A port whose peer is steady has two.
    sockets: AtomicUsize,
}

#[derive(Debug)]
struct Worker {
    commands: Commands,
    bell: Arc<EventFd>,
    /// The thread has been told that there are commands, and hasn't looked yet.
    told: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Commands {
    /// Who speaks waits when the thread is far behind: commands are few for each call.
    Bounded(SyncSender<Command>),
    /// From another thread of ours, which waits for nobody.
    Passed(mpsc_std::Sender<Command>),
}

impl Worker {
    fn tell(&self, command: Command) {
        let told = match &self.commands {
            Commands::Bounded(commands) => commands.send(command).is_ok(),
            Commands::Passed(commands) => commands.send(command).is_ok(),
        };
        if told && !self.told.swap(true, Ordering::AcqRel) {
            let _ = self.bell.write(1);
        }
    }
}

impl Relay {
    /// Starts `workers` threads, and as many for calls that are made over by `quality`. A call without packets for `timeout` is reported idle; what is
    /// sent is marked by `dscp` (RFC 2474). Phones on hold hear what there is of `sounds`.
    pub fn start(
        workers: usize,
        timeout: Option<Duration>,
        dscp: u8,
        quality: Quality,
        sounds: Sounds,
    ) -> io::Result<(Self, mpsc::Receiver<Event>)> {
        let (events, receiver) = mpsc::channel(EVENTS);
        if let Err(error) = super::dtls::prepare() {
            tracing::error!(%error, "no browser can be called");
        }
        let open = Arc::<Open>::default();
        let running = Arc::new(AtomicBool::new(true));
        let (tape, taped) = mpsc::channel(tape::LOTS);
        let start = |name: String, (commands, queue), coder| {
            let bell = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
            let told = Arc::new(AtomicBool::new(false));
            let inbox = thread::Inbox { bell: bell.clone(), queue, told: told.clone(), running: running.clone() };
            let thread = thread::Thread::new(
                inbox,
                events.clone(),
                timeout,
                (dscp, quality, sounds.clone()),
                open.clone(),
                coder,
                tape.clone(),
            )?;
            std::thread::Builder::new().name(name).spawn(move || thread.run())?;
            Ok::<_, io::Error>(Worker { commands, bell, told })
        };
        let (mut plain, mut coders) = (Vec::new(), Vec::new());
        for number in 0..workers.max(1) {
            let (commands, queue) = mpsc_std::channel();
            let coder = Arc::new(start(format!("codec{number}"), (Commands::Passed(commands), queue), None)?);
            let (commands, queue) = sync_channel(COMMANDS);
            plain.push(start(format!("media{number}"), (Commands::Bounded(commands), queue), Some(coder.clone()))?);
            coders.push(coder);
        }
        Ok((Self { workers: plain, coders, open, running, taped: Mutex::new(Some(taped)) }, receiver))
    }

    /// What the phones of calls that are to be recorded say, for whoever asks first.
    pub fn taped(&self) -> Option<mpsc::Receiver<Vec<Taped>>> {
        self.taped.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes a leg's sockets and addresses as wanted; saying the same twice changes nothing. Nothing is sent that `fence`
    /// doesn't let pass.
    pub fn apply(&self, call: CallId, leg: LegId, streams: Vec<Option<Want>>, counters: Arc<Counters>, fence: Fence) {
        self.tell(call, Command::Apply { call, leg, streams, counters, fence });
    }

    /// Sends datagrams out of the RTP port of a leg's stream, if its fence lets them pass.
    pub fn send(&self, call: CallId, leg: LegId, stream: usize, to: SocketAddr, datagrams: Vec<Bytes>) {
        self.tell(call, Command::Send { call, leg, stream, to, datagrams });
    }

    /// A key of a leg's phone goes to the other's as an event, by [`Formats::press`](super::core::negotiation::Formats::press): it takes the place of
    /// what the phone says next.
    pub fn press(&self, call: CallId, leg: LegId, stream: usize, rules: Rules, signal: Signal) {
        self.tell(call, Command::Press { call, leg, stream, rules, signal });
    }

    /// Closes all sockets of a call.
    pub fn close(&self, call: CallId) {
        self.tell(call, Command::Close { call });
    }

    /// Waits until everything that was said before is done and what had come has been passed on, or half a second has passed. A thread whose sockets
    /// are never all empty has done enough after a twentieth of a second.
    pub async fn settle(&self) {
        let settled = |worker: &Worker| {
            let (done, settled) = tokio::sync::oneshot::channel();
            worker.tell(Command::Settle { done });
            settled
        };
        let all = async {
            join_all(self.workers.iter().map(settled)).await;
            // What they passed on is done after that.
            join_all(self.coders.iter().map(|coder| settled(coder))).await;
        };
        let _ = tokio::time::timeout(SETTLE, all).await;
    }

    /// How many ports are open.
    pub fn open_ports(&self) -> usize {
        self.open.ports.load(Ordering::Relaxed)
    }

    /// How many sockets are open.
    pub fn open_sockets(&self) -> usize {
        self.open.sockets.load(Ordering::Relaxed)
    }

    fn tell(&self, call: CallId, command: Command) {
        self.workers[usize::try_from(call.0 % self.workers.len() as u128).unwrap_or(0)].tell(command);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        for worker in self.workers.iter().chain(self.coders.iter().map(Arc::as_ref)) {
            let _ = worker.bell.write(1);
        }
    }
}

#[cfg(test)]
mod tests;
