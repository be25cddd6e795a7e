//! One direction each way of a call's sound: 20 ms frames out, and a record of what comes in. Layer: program.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rtp::header::Header;
use rtp::packet::Packet;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use webrtc_util::marshal::{Marshal, Unmarshal};

/// One frame of PCMU.
const FRAME: Duration = Duration::from_millis(20);
/// Its samples, a byte each.
const SAMPLES: u32 = 160;

/// A phone's sound.
pub struct Talk {
    heard: Arc<Mutex<Heard>>,
    remote: Arc<Mutex<SocketAddr>>,
    tasks: [JoinHandle<()>; 2],
}

/// What a phone heard.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    last: Option<Instant>,
    /// The longest time between two frames.
    pub gap: Duration,
    sequence: BTreeSet<u64>,
    highest: u64,
    /// Frames that came twice.
    pub repeated: u64,
}

impl Heard {
    fn frame(&mut self, number: u16, at: Instant) {
        if let Some(last) = self.last {
            self.gap = self.gap.max(at.duration_since(last));
        }
        self.last = Some(at);
        // RFC 3550 §A.1: numbers wrap; the nearest one to the highest is meant.
        let base = self.highest & !0xffff;
        let near = [base.checked_sub(0x1_0000), Some(base), base.checked_add(0x1_0000)];
        let candidates = near.into_iter().flatten().map(|base| base + u64::from(number));
        let full = candidates.min_by_key(|full| full.abs_diff(self.highest)).unwrap_or(0);
        let full = if self.sequence.is_empty() { u64::from(number) + 0x1_0000 } else { full };
        self.highest = self.highest.max(full);
        if !self.sequence.insert(full) {
            self.repeated += 1;
        }
    }

    /// Frames that came.
    pub fn frames(&self) -> u64 {
        self.sequence.len() as u64
    }

    /// Frames between the first and the last that never came.
    pub fn lost(&self) -> u64 {
        let (Some(first), Some(last)) = (self.sequence.first(), self.sequence.last()) else { return 0 };
        last - first + 1 - self.frames()
    }

    /// How long ago the last one came.
    pub fn silence(&self) -> Option<Duration> {
        self.last.map(|last| last.elapsed())
    }
}

impl Talk {
    /// Sends to `remote` and listens, by `socket`, until it is dropped.
    pub fn start(socket: UdpSocket, remote: SocketAddr) -> Self {
        let socket = Arc::new(socket);
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let remote = Arc::new(Mutex::new(remote));
        let sending = tokio::spawn(send(socket.clone(), remote.clone()));
        let listening = tokio::spawn(listen(socket, heard.clone()));
        Self { heard, remote, tasks: [sending, listening] }
    }

    /// Sends to `remote` from now on.
    pub fn turn_to(&self, remote: SocketAddr) {
        *self.remote.lock().unwrap_or_else(PoisonError::into_inner) = remote;
    }

    /// The longest time without a frame since this was last called, the present silence included.
    pub fn take_gap(&self) -> Duration {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let silence = heard.silence().unwrap_or_default();
        std::mem::take(&mut heard.gap).max(silence)
    }

    /// What was heard so far.
    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn send(socket: Arc<UdpSocket>, remote: Arc<Mutex<SocketAddr>>) {
    let ssrc = rand::random();
    let mut tick = interval(FRAME);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sequence_number: u16 = rand::random();
    let mut timestamp: u32 = rand::random();
    loop {
        tick.tick().await;
        let header = Header { version: 2, payload_type: 0, sequence_number, timestamp, ssrc, ..Header::default() };
        let packet = Packet { header, payload: Bytes::from_static(&[0xff; SAMPLES as usize]) };
        if let Ok(bytes) = packet.marshal() {
            let remote = *remote.lock().unwrap_or_else(PoisonError::into_inner);
            // A refused packet is a lost one: the other side counts it.
            let _ = socket.send_to(&bytes, remote).await;
        }
        sequence_number = sequence_number.wrapping_add(1);
        timestamp = timestamp.wrapping_add(SAMPLES);
    }
}

async fn listen(socket: Arc<UdpSocket>, heard: Arc<Mutex<Heard>>) {
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
        let at = Instant::now();
        if let Ok(packet) = Packet::unmarshal(&mut &buffer[..length]) {
            heard.lock().unwrap_or_else(PoisonError::into_inner).frame(packet.header.sequence_number, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_losses_and_wraps_are_seen() {
        let (mut heard, begin) = (Heard::default(), Instant::now());
        for (at, number) in (0..).zip([65_533, 65_534, 65_535, 0, 1, 1, 4]) {
            heard.frame(number, begin + FRAME * at);
        }
        heard.frame(5, begin + FRAME * 11);
        assert_eq!((heard.frames(), heard.lost(), heard.repeated), (7, 2, 1));
        assert_eq!(heard.gap, Duration::from_millis(100));
    }
}
