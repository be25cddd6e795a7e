//! How a vnode's address gets to its owner, and away from who is none any more. Layer: shell.
//!
//! | mode | taking | losing |
//! |---|---|---|
//! | loopback | binding is taking | closing the sockets |
//! | netlink | the [`guard`] puts it on the interface and announces it | the guard takes it away: told so, or when the lease ends, or when the node does |
//! | hook | the operator's command | the command, or its next `take` elsewhere |
//!
//! The guard is a process of its own: a node that is frozen or dead can't take away what it holds.

mod announce;
mod forwarding;
pub mod guard;
mod interface;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::sync::oneshot;

use crate::clock::{self, Uptime};
use crate::families::Families;
use crate::fence::Fence;
use crate::ids::VnodeId;

/// How long the guard may take.
const GUARD: Duration = Duration::from_secs(1);
/// How long an operator's command may take.
const HOOK: Duration = Duration::from_secs(10);
/// A guard that has ended is started again after this.
const AGAIN: Duration = Duration::from_millis(10);
/// An address that fails to come is asked for again at least this often.
const SELDOM: Duration = Duration::from_secs(1);

/// What moves the addresses.
#[derive(Debug, Clone)]
pub enum Mover {
    /// Nothing has to.
    Binding,
    /// The guard.
    Guard {
        /// This program, which is started as `guard`.
        program: PathBuf,
        /// The interface that the addresses are put on.
        interface: String,
    },
    /// An operator's command; `take ADDRESS` or `give ADDRESS` is added.
    Hook(Vec<String>),
}

/// Why an address did not come.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The guard said so.
    #[error("{0}")]
    Guard(String),
    /// It said nothing.
    #[error("the guard does not answer")]
    Late,
    /// The operator's command.
    #[error("{0}")]
    Hook(String),
}

/// What the guard is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Take,
    Turn,
    Give,
}

type Waiting = BTreeMap<(IpAddr, Ask), Vec<oneshot::Sender<Result<(), String>>>>;

/// The handle.
pub struct Addresses {
    mover: Mover,
    all: BTreeMap<VnodeId, (Families, Fence)>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    guard: Option<File>,
    child: Option<Child>,
    held: BTreeMap<IpAddr, VnodeId>,
    /// Held, and not here: taken away at the end of a lease, or it did not come.
    lapsed: BTreeMap<IpAddr, Again>,
    waiting: Waiting,
    /// Until when a guard that is killed may leave the host forwarding that didn't before.
    forwarding: Uptime,
    stopped: bool,
}

/// When an address is asked for again: at once, and then ever more seldom.
#[derive(Debug, Clone, Copy)]
struct Again {
    at: Uptime,
    pause: Duration,
}

impl Again {
    const AT_ONCE: Self = Self { at: Uptime(0), pause: AGAIN };

    fn is_due(&mut self, now: Uptime) -> bool {
        let due = now >= self.at;
        if due {
            *self = Self { at: now + self.pause, pause: SELDOM.min(self.pause * 2) };
        }
        due
    }
}

impl Addresses {
    /// Starts what is needed.
    pub fn start(mover: Mover, all: BTreeMap<VnodeId, (Families, Fence)>) -> io::Result<Arc<Self>> {
        let addresses = Arc::new(Self { mover, all, inner: Mutex::default() });
        if let Mover::Guard { program, interface } = &addresses.mover {
            let answers = addresses.spawn(program, interface)?;
            let this = addresses.clone();
            std::thread::Builder::new().name("guard".into()).spawn(move || this.listen(answers))?;
        }
        Ok(addresses)
    }

    /// Brings a vnode's addresses here.
    pub async fn take(&self, vnode: VnodeId) -> Result<(), AddressError> {
        let Some((ips, fence)) = self.all.get(&vnode) else { return Ok(()) };
        let all = ips.all().map(|ip| self.take_one(vnode, ip, fence));
        join_all(all).await.into_iter().collect()
    }

    async fn take_one(&self, vnode: VnodeId, ip: IpAddr, fence: &Fence) -> Result<(), AddressError> {
        match &self.mover {
            Mover::Binding => Ok(()),
            Mover::Guard { .. } => {
                let (sender, answer) = oneshot::channel();
                {
                    let mut inner = self.inner();
                    inner.held.insert(ip, vnode);
                    inner.waiting.entry((ip, Ask::Take)).or_default().push(sender);
                    inner.tell(&format!("take {ip} {}\n", fence.until().0));
                }
                match tokio::time::timeout(GUARD, answer).await {
                    Ok(Ok(result)) => result.map_err(AddressError::Guard),
                    Ok(Err(_)) | Err(_) => Err(AddressError::Late),
                }
            }
            Mover::Hook(command) => hook(command, "take", ip).await,
        }
    }

    /// What comes to a vnode's addresses goes to its next owner from now on; what has come can still be answered. Nothing, where that
    /// can't be done: what comes late is lost there.
    pub async fn turn(&self, vnode: VnodeId) {
        match (&self.mover, self.all.get(&vnode)) {
            (Mover::Guard { .. }, Some((ips, _))) => {
                join_all(ips.all().map(|ip| self.ask_guard(ip, Ask::Turn, "turn"))).await;
            }
            (Mover::Guard { .. }, None) | (Mover::Binding | Mover::Hook(_), _) => {}
        }
    }

    /// Takes a vnode's addresses away from here; when this returns they are gone.
    pub async fn give(&self, vnode: VnodeId) {
        let Some((ips, _)) = self.all.get(&vnode) else { return };
        join_all(ips.all().map(|ip| self.give_one(vnode, ip))).await;
    }

    async fn give_one(&self, vnode: VnodeId, ip: IpAddr) {
        match &self.mover {
            Mover::Binding => {}
            Mover::Guard { .. } => {
                {
                    let mut inner = self.inner();
                    inner.held.remove(&ip);
                    inner.lapsed.remove(&ip);
                }
                self.ask_guard(ip, Ask::Give, "give").await;
            }
            Mover::Hook(command) => {
                if let Err(error) = hook(command, "give", ip).await {
                    tracing::warn!(%vnode, %error, "the address was not given up");
                }
            }
        }
    }

    /// A guard that doesn't answer has lost the address with the lease.
    async fn ask_guard(&self, ip: IpAddr, ask: Ask, what: &str) {
        let (sender, answer) = oneshot::channel();
        {
            let mut inner = self.inner();
            inner.waiting.entry((ip, ask)).or_default().push(sender);
            if let (Ask::Turn, Mover::Guard { interface, .. }) = (ask, &self.mover) {
                let now = clock::uptime();
                if inner.forwarding > now || !forwarding::is_on(interface) {
                    inner.forwarding = now + GUARD;
                }
            }
            inner.tell(&format!("{what} {ip}\n"));
        }
        let _ = tokio::time::timeout(GUARD, answer).await;
    }

    /// Tells the guard how long what it holds may be held. Never waits.
    pub fn renew(&self) {
        let mut inner = self.inner();
        if inner.guard.is_none() || inner.held.is_empty() {
            return;
        }
        let now = clock::uptime();
        let mut lines = String::new();
        let Inner { held, lapsed, .. } = &mut *inner;
        for (ip, vnode) in held {
            let until = self.all.get(vnode).map_or(Uptime(0), |(_, fence)| fence.until());
            // A lease that ended and went on before anybody else could have it.
            let again = until > now && lapsed.get_mut(ip).is_some_and(|again| again.is_due(now));
            let word = if again { "take" } else { "until" };
            lines.push_str(&format!("{word} {ip} {}\n", until.0));
        }
        inner.tell(&lines);
    }

    /// Ends the guard, and every address with it.
    pub fn stop(&self) {
        let child = {
            let mut inner = self.inner();
            inner.stopped = true;
            inner.guard = None;
            inner.child.take()
        };
        if let Some(child) = child {
            end(child, GUARD);
        }
    }

    fn spawn(&self, program: &PathBuf, interface: &str) -> io::Result<impl BufRead + Send + use<>> {
        let addresses = self.all.values().flat_map(|(ips, _)| ips.all()).flat_map(|ip| ["--address".to_owned(), ip.to_string()]);
        let mut child = Command::new(program)
            .args(["guard", "--interface", interface])
            .args((self.inner().forwarding > clock::uptime()).then_some("--stop-forwarding"))
            .args(addresses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let stdin = OwnedFd::from(stdin);
        let flags = OFlag::from_bits_truncate(fcntl(stdin.as_fd(), FcntlArg::F_GETFL)?);
        fcntl(stdin.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let mut inner = self.inner();
        inner.guard = Some(File::from(stdin));
        inner.child = Some(child);
        let held: Vec<_> = inner.held.iter().map(|(ip, vnode)| (*ip, *vnode)).collect();
        for (ip, vnode) in held {
            let until = self.all.get(&vnode).map_or(0, |(_, fence)| fence.until().0);
            inner.tell(&format!("take {ip} {until}\n"));
        }
        // What its predecessor did not answer.
        let asked: Vec<_> = inner.waiting.keys().copied().collect();
        for (ip, ask) in asked {
            match ask {
                Ask::Take => {}
                Ask::Turn => inner.tell(&format!("turn {ip}\n")),
                Ask::Give => inner.tell(&format!("give {ip}\n")),
            }
        }
        Ok(BufReader::new(stdout))
    }

    /// Reads what the guard says; starts another when it ends.
    fn listen(&self, answers: impl BufRead) {
        let mut answers: Box<dyn BufRead> = Box::new(answers);
        loop {
            for line in answers.lines().map_while(Result::ok) {
                self.hear(&line);
            }
            let Mover::Guard { program, interface } = &self.mover else { return };
            answers = loop {
                if self.inner().stopped {
                    return;
                }
                tracing::error!("the guard has ended and is started again");
                let former = self.inner().child.take();
                if let Some(child) = former {
                    end(child, Duration::ZERO);
                }
                std::thread::sleep(AGAIN);
                match self.spawn(program, interface) {
                    Ok(answers) => break Box::new(answers),
                    Err(error) => tracing::error!(%error, "the guard does not start"),
                }
            };
        }
    }

    fn hear(&self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let (Some(word), Some(Ok(ip))) = (words.next(), words.next().map(str::parse::<IpAddr>)) else { return };
        let (ask, result) = match word {
            "taken" => (Ask::Take, Ok(())),
            "turned" => (Ask::Turn, Ok(())),
            "given" => (Ask::Give, Ok(())),
            "failed" => (Ask::Take, Err(words.next().unwrap_or_default().to_owned())),
            "lapsed" => {
                tracing::warn!(%ip, "the lease ended and the guard has taken the address away");
                metrics::counter!("tandem_addresses_lapsed_total").increment(1);
                self.inner().lapse(ip);
                return;
            }
            _ => return,
        };
        let mut inner = self.inner();
        let waiting = inner.waiting.remove(&(ip, ask)).unwrap_or_default();
        match &result {
            Ok(()) if ask == Ask::Take => drop(inner.lapsed.remove(&ip)),
            // It was asked for again since it had lapsed: nobody else would say so.
            Err(error) if waiting.iter().all(oneshot::Sender::is_closed) => {
                tracing::error!(%ip, error, "the address does not come");
                inner.lapse(ip);
            }
            Ok(()) | Err(_) => {}
        }
        for waiting in waiting {
            let _ = waiting.send(result.clone());
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done under this lock, so a panic elsewhere doesn't spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// An address that should be held isn't: it is taken again as soon as there is a lease.
    fn lapse(&mut self, ip: IpAddr) {
        if self.held.contains_key(&ip) {
            self.lapsed.entry(ip).or_insert(Again::AT_ONCE);
        }
    }

    /// A pipe that is full belongs to a guard that hangs: the lease ends there by itself.
    fn tell(&mut self, lines: &str) {
        if let Some(guard) = &mut self.guard {
            let _ = guard.write_all(lines.as_bytes());
        }
    }
}

/// Waits for a guard's end for so long, and then ends it. What it may leave is dropped by its successor, or by the kernel.
fn end(mut child: Child, within: Duration) {
    let deadline = clock::uptime() + within;
    while child.try_wait().is_ok_and(|status| status.is_none()) && clock::uptime() < deadline {
        std::thread::sleep(AGAIN);
    }
    let _ = child.kill();
    let _ = child.wait();
}

async fn hook(command: &[String], what: &str, ip: IpAddr) -> Result<(), AddressError> {
    let failed = |why: String| AddressError::Hook(format!("{} {what} {ip}: {why}", command.join(" ")));
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let running = tokio::process::Command::new(program)
        .args(arguments)
        .args([what, &ip.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status();
    match tokio::time::timeout(HOOK, running).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(status.to_string())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("took too long".into())),
    }
}

#[cfg(test)]
mod tests;
