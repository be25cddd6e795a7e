//! The lab: a cluster of real processes on loopback or in a network of its own, real phones and load, and what breaks them.
//!
//! Everything it starts ends with it, and each lab has addresses and a directory of its own. Phones, load and vnodes have
//! addresses that nobody else has, so that no port has to be looked for (one that was free a moment ago may be the
//! end of somebody's connection now). The nodes' own ports are on 127.0.0.1, below those that connections get.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "each test and bench uses its part"
)]

pub mod baresip;
pub mod browser;
pub mod call;
pub mod cluster;
pub mod elsewhere;
pub mod floor;
pub mod history;
pub mod linphone;
pub mod load;
pub mod meter;
pub mod net;
pub mod s3;
pub mod sipp;
pub mod soak;
pub mod tone;
pub mod wire;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// SIP's port, on every address here.
pub const SIP: u16 = 5060;
/// The same for TLS, WebSocket, and WebSocket over TLS.
pub const TLS: u16 = 5061;
pub const WS: u16 = 5066;
pub const WSS: u16 = 7443;

/// The address of this lab that ends in `last`. The cluster's vnodes begin at 11.
pub fn address(last: u8) -> Ipv4Addr {
    if net::is_inside() {
        return net::phone_address(last);
    }
    let lab = std::process::id();
    Ipv4Addr::new(127, 64 + u8::try_from(lab / 250 % 190).unwrap(), 1 + u8::try_from(lab % 250).unwrap(), last)
}

/// An address of this lab that nobody has yet.
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(101);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(last > 100, "a lab has 155 addresses to give");
    address(last)
}

/// The address of the built-in phones.
pub fn phones() -> Ipv4Addr {
    if net::is_inside() { net::phone_address(1) } else { Ipv4Addr::LOCALHOST }
}

/// Bytes of memory of its own that a process has.
pub fn memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// The processes that a process has started.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.map(of).flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Processes, and their children.
pub fn family(pids: &[i32]) -> Vec<i32> {
    let (mut all, mut left) = (Vec::new(), pids.to_vec());
    while let Some(pid) = left.pop() {
        left.extend(children(pid));
        all.push(pid);
    }
    all
}

/// CPU seconds so far of processes and their children that live, with all threads that they have had.
pub fn cpu(pids: &[i32]) -> f64 {
    let of = |pid: i32| clock_getcpuclockid(Pid::from_raw(pid)).and_then(clock_gettime);
    let seconds = |spec: TimeSpec| Duration::from(spec).as_secs_f64();
    family(pids).into_iter().filter_map(|pid| of(pid).ok()).map(seconds).sum()
}

/// In which Linux counts time for programs, on every architecture that we run on.
const KERNELS_TICKS: f64 = 100.0;

/// CPU seconds so far of everything on this machine, the kernel included.
pub fn machine_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<f64> = stat.lines().next().unwrap().split_whitespace().skip(1).map(|ticks| ticks.parse().unwrap()).collect();
    // User, nice, system, (idle, waiting for disks,) interrupts, and what they leave for later.
    let busy: f64 = [0, 1, 2, 5, 6].iter().map(|at| ticks[*at]).sum();
    busy / KERNELS_TICKS
}

/// Waits until something is true; fails when it takes longer than `within`.
pub async fn until<F: Future<Output = bool>>(what: &str, within: Duration, check: impl Fn() -> F) {
    let deadline = Instant::now() + within;
    while !check().await {
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A process that does nothing, as fast as it can.
pub struct Busy(std::process::Child);

impl Busy {
    /// As many as keep the machine as busy as it can be.
    pub fn two_a_core() -> Vec<Self> {
        let cores = std::thread::available_parallelism().unwrap().get();
        let start = |_| Self(std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap());
        (0..2 * cores).map(start).collect()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
