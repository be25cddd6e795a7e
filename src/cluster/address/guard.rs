//! The guard: a process that holds a node's addresses, and drops them when the node can't. Layer: shell.
//!
//! ```text
//!  node ──▶ take ADDRESS UNTIL │ until ADDRESS UNTIL │ turn ADDRESS │ give ADDRESS     (UNTIL: Uptime, in microseconds)
//!  node ◀── taken ADDRESS │ turned ADDRESS │ given ADDRESS │ failed ADDRESS why │ lapsed ADDRESS
//! ```
//!
//! Erlang's heart, turned about: it doesn't start what has died, it sees to it that the dead hold nothing. An address goes when
//! its lease has ended, whatever the node is doing, and at once when the node's end of the pipe closes. Were the guard itself to
//! be killed, the kernel drops the addresses within two seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::announce::{Announcer, Deadlines};
use super::forwarding::{Forwarding, LONG};
use super::interface::Interface;
use crate::clock::{self, Uptime};
use crate::cluster::priority::before_others;

/// How long the kernel keeps an address that nobody renews.
const LIFETIME: Duration = Duration::from_secs(2);
/// How often the guard renews.
const RENEW: Duration = Duration::from_millis(500);

struct Guard<W> {
    interface: Interface,
    forwarding: Forwarding,
    announcer: Announcer,
    deadlines: Deadlines,
    /// When the kernel was told last.
    renewed: BTreeMap<IpAddr, Uptime>,
    /// Held, and nothing comes to them any more.
    turned: BTreeSet<IpAddr>,
    /// Given after that, and until when what still comes for them is forwarded.
    given: BTreeMap<IpAddr, Uptime>,
    answers: W,
}

/// Runs until the node's end of `asks` closes. What an earlier guard may have left of `addresses` is dropped first, and forwarding
/// stopped if it may have `left_on` that.
pub fn run(name: &str, addresses: &[IpAddr], left_on: bool, asks: impl Read + AsFd, answers: impl Write) -> io::Result<()> {
    before_others();
    let interface = Interface::open(name)?;
    let deadlines = Deadlines::default();
    let announcer = Announcer::start(name, deadlines.clone())?;
    let forwarding = Forwarding::of(name, left_on);
    let (renewed, turned, given) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    let mut guard = Guard { interface, forwarding, announcer, deadlines, renewed, turned, given, answers };
    guard.drop_addresses(addresses);
    guard.serve(asks);
    let held: Vec<_> = guard.renewed.keys().copied().collect();
    guard.drop_addresses(&held);
    Ok(())
}

impl<W: Write> Guard<W> {
    fn serve(&mut self, mut asks: impl Read + AsFd) {
        let (mut chunk, mut waiting) = (vec![0; 64 << 10], Vec::new());
        loop {
            let pause = self.tick();
            let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(asks.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(_) => return,
            }
            match asks.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(length) => waiting.extend_from_slice(&chunk[..length]),
            }
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = waiting.drain(..=end).collect();
                self.obey(&String::from_utf8_lossy(&line));
            }
        }
    }

    /// Drops what has lapsed, renews the rest; tells when to look again.
    fn tick(&mut self) -> Duration {
        let now = clock::uptime();
        let lapsed = self.deadlines.lapsed(now);
        self.drop_addresses(&lapsed);
        for ip in lapsed {
            self.say(format_args!("lapsed {ip}"));
        }
        for (ip, renewed) in &mut self.renewed {
            if now.since(*renewed) >= RENEW && self.interface.put_address(*ip, LIFETIME).is_ok() {
                *renewed = now;
            }
        }
        self.forwarding.tick(now);
        self.given.retain(|_, until| *until > now);
        let next = self.deadlines.next().into_iter().chain(self.forwarding.next()).min();
        let next = next.map_or(RENEW, |until| until.since(now));
        // A millisecond more than less: what has not quite lapsed would be looked at again and again.
        next.min(RENEW) + Duration::from_millis(1)
    }

    /// After this nothing is sent from these addresses any more.
    fn drop_addresses(&mut self, ips: &[IpAddr]) {
        for ip in ips {
            self.deadlines.drop(*ip);
            self.renewed.remove(ip);
            if self.turned.remove(ip) {
                self.given.insert(*ip, clock::uptime() + LONG);
            }
            // One that the kernel has dropped already is no error.
            let _ = self.interface.drop_address(*ip);
        }
        if !ips.is_empty() {
            // What can't be dropped is lost within three seconds, or late: the lease is over all the same.
            let elsewhere: Vec<_> = self.given.keys().chain(ips).copied().collect();
            let _ = self.interface.drop_what_waits(&elsewhere);
        }
    }

    fn obey(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some(word), Some(Ok(ip))) = (words.next(), words.next().map(str::parse::<IpAddr>)) else { return };
        let until = words.next().and_then(|until| until.parse().ok()).map_or(Uptime(0), Uptime);
        match word {
            "take" => {
                let now = clock::uptime();
                if until <= now {
                    return self.say(format_args!("failed {ip} the lease is over"));
                }
                if self.turned.contains(&ip) {
                    // What comes finds its way again only to an address that is new.
                    self.drop_addresses(&[ip]);
                }
                self.given.remove(&ip);
                match self.interface.put_address(ip, LIFETIME) {
                    Ok(()) => {
                        self.deadlines.hold(ip, until);
                        self.renewed.insert(ip, now);
                        self.announcer.announce(ip);
                        self.say(format_args!("taken {ip}"));
                    }
                    Err(error) => self.say(format_args!("failed {ip} {error}")),
                }
            }
            // What has lapsed comes back only by being taken.
            "until" => self.deadlines.extend(ip, until),
            // From now on what comes is sent on to the next owner, and what has come can still be answered.
            "turn" => {
                // Where a former owner was is not where the next one is.
                let _ = self.interface.forget_neighbour(ip);
                if ip.is_ipv4()
                    && self.renewed.contains_key(&ip)
                    && self.forwarding.begin(clock::uptime())
                    && self.interface.drop_local_route(ip).is_ok()
                {
                    self.turned.insert(ip);
                }
                self.say(format_args!("turned {ip}"));
            }
            "give" => {
                self.drop_addresses(&[ip]);
                self.say(format_args!("given {ip}"));
            }
            _ => {}
        }
    }

    fn say(&mut self, answer: std::fmt::Arguments<'_>) {
        // A node that doesn't read is one that has gone.
        let _ = writeln!(self.answers, "{answer}").and_then(|()| self.answers.flush());
    }
}
