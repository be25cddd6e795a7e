//! The kernel forwards what still comes for an address that moves (RFC 1812 §5). Layer: shell.
//!
//! Who hands an address over gets a few packets more, until the network has heard of its next owner. A host that forwards sends them
//! on; those that come before the next owner has said where it is wait in the kernel until then. Forwarding is switched on for the
//! moment of a move, unless the operator has it on always.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Uptime;

/// How long it is on: a move takes a few milliseconds, and the first announcements are over after fifty.
pub(super) const LONG: Duration = Duration::from_millis(200);

/// The switch of one interface, for IPv4. That of IPv6 would take the host's default routes with it.
pub(super) struct Forwarding {
    switch: PathBuf,
    /// We have switched it on, until then.
    until: Option<Uptime>,
}

impl Forwarding {
    /// Of an interface; off if a guard that was killed has left it on.
    pub(super) fn of(interface: &str, was_left_on: bool) -> Self {
        Self::at(switch(interface), was_left_on)
    }

    fn at(switch: PathBuf, was_left_on: bool) -> Self {
        let mut forwarding = Self { switch, until: None };
        if was_left_on {
            forwarding.end();
        }
        forwarding
    }

    /// On for a while from now. Tells whether it is: where that may not be, what comes late is lost.
    pub(super) fn begin(&mut self, now: Uptime) -> bool {
        if self.until.is_none() && reads_on(&self.switch) {
            return true;
        }
        let is_ours = self.until.is_some() || std::fs::write(&self.switch, "1").is_ok();
        if is_ours {
            self.until = Some(now + LONG);
        }
        is_ours
    }

    /// Off again, if it is time.
    pub(super) fn tick(&mut self, now: Uptime) {
        if self.until.is_some_and(|until| until <= now) {
            self.end();
        }
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Uptime> {
        self.until
    }

    fn end(&mut self) {
        // If it fails now it is tried again in a moment.
        if std::fs::write(&self.switch, "0").is_ok() {
            self.until = None;
        }
    }
}

/// Whether an interface forwards.
pub(super) fn is_on(interface: &str) -> bool {
    reads_on(&switch(interface))
}

fn switch(interface: &str) -> PathBuf {
    format!("/proc/sys/net/ipv4/conf/{interface}/forwarding").into()
}

fn reads_on(switch: &Path) -> bool {
    std::fs::read_to_string(switch).is_ok_and(|text| text.trim() != "0")
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        if self.until.is_some() {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_for_a_while_and_off_again() {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("forwarding");
        let is = |text: &str| assert_eq!(std::fs::read_to_string(&switch).unwrap().trim(), text);
        let at = |ms| Uptime(0) + Duration::from_millis(ms);
        std::fs::write(&switch, "0\n").unwrap();
        let mut forwarding = Forwarding::at(switch.clone(), false);
        assert!(forwarding.begin(at(1000)));
        is("1");
        assert!(forwarding.begin(at(1150)));
        forwarding.tick(at(1250));
        is("1");
        assert_eq!(forwarding.next(), Some(at(1350)));
        forwarding.tick(at(1350));
        is("0");
        assert!(forwarding.begin(at(2000)));
        drop(forwarding);
        is("0");
        // A guard that was killed has left it on.
        std::fs::write(&switch, "1").unwrap();
        let _next = Forwarding::at(switch.clone(), true);
        is("0");
    }

    #[test]
    fn an_operators_switch_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("forwarding");
        std::fs::write(&switch, "1\n").unwrap();
        let mut forwarding = Forwarding::at(switch.clone(), false);
        assert!(forwarding.begin(Uptime(0)));
        forwarding.tick(Uptime(0) + LONG);
        drop(forwarding);
        assert_eq!(std::fs::read_to_string(&switch).unwrap().trim(), "1");
        // And where there is none nothing happens.
        assert!(!Forwarding::at(dir.path().join("none").join("forwarding"), false).begin(Uptime(0)));
    }
}
