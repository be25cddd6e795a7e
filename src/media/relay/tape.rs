//! What the phones of recorded calls say, on its way from a thread of the relay to the recorder. Layer: shell.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::clock::Uptime;
use crate::ids::CallId;

/// So many lots wait for the recorder, all threads' together.
pub(super) const LOTS: usize = 1024;
/// So often a thread hands over what it has.
pub(super) const EVERY: Duration = Duration::from_millis(20);
/// While the recorder doesn't keep up a thread holds so many packets; what comes then is lost.
const HELD: usize = 100_000;

/// A packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taped {
    /// Of which call.
    pub call: CallId,
    /// 0 is the caller's.
    pub side: u8,
    /// When it came.
    pub at: Uptime,
    /// As it came, but for what protected it.
    pub packet: Bytes,
}

/// A thread's.
pub(super) struct Tape {
    to: mpsc::Sender<Vec<Taped>>,
    held: Vec<Taped>,
    /// When it was handed over last.
    since: Uptime,
}

impl Tape {
    pub(super) fn new(to: mpsc::Sender<Vec<Taped>>) -> Self {
        Self { to, held: Vec::new(), since: Uptime::default() }
    }

    pub(super) fn take(&mut self, call: CallId, side: u8, at: Uptime, packet: &[u8]) {
        if self.held.len() >= HELD {
            return metrics::counter!("tandem_recording_lost_packets_total").increment(1);
        }
        self.held.push(Taped { call, side, at, packet: Bytes::copy_from_slice(packet) });
    }

    /// Whether something is to be handed over soon.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn hand_over(&mut self, now: Uptime) {
        if self.held.is_empty() || now.since(self.since) < EVERY {
            return;
        }
        self.since = now;
        match self.to.try_send(std::mem::take(&mut self.held)) {
            Ok(()) => {}
            Err(TrySendError::Full(lot) | TrySendError::Closed(lot)) => self.held = lot,
        }
    }
}
