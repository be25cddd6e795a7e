//! The figures of a leg, for whoever wants to read them. Layer: shell.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::core::quality::Figures;

/// Written by one thread, read by anybody.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Made with the first packet: calls that stand by have none.
    now: OnceLock<Box<[AtomicU64; Figures::COUNT]>>,
    /// Of those who had the call before.
    before: OnceLock<Figures>,
}

impl Gauge {
    /// What has been measured here. Each number is right; they may be of two packets.
    pub fn here(&self) -> Figures {
        self.now
            .get()
            .map_or_else(Figures::default, |now| Figures::of(now.each_ref().map(|number| number.load(Ordering::Relaxed))))
    }

    /// The same with what those have measured who had the call before, as far as is `recorded` of it: a record that somebody else has written.
    pub fn with(&self, recorded: &Figures) -> Figures {
        self.before.get().unwrap_or(recorded).and_then(&self.here())
    }

    /// From now on records of the call are ours, and what is `recorded` is what was before.
    pub fn begins_after(&self, recorded: &Figures) {
        let _ = self.before.set(*recorded);
    }

    /// Whether that has been said.
    pub fn has_begun(&self) -> bool {
        self.before.get().is_some()
    }

    /// What the thread has measured that owns the leg's sockets: nobody else says anything here.
    pub fn publish(&self, figures: &Figures) {
        self.store(figures, Figures::COUNT);
    }

    /// The same after a packet of sound: what else has changed is made known with the next report, or second.
    pub fn publish_sound(&self, figures: &Figures) {
        self.store(figures, Figures::EACH);
    }

    #[inline]
    fn store(&self, figures: &Figures, most: usize) {
        let now = self.now.get_or_init(Box::default);
        for (number, figure) in now.iter().zip(figures.numbers()).take(most) {
            number.store(figure, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call is put to sleep and woken, each time from its record, which has all that was so far.
    #[test]
    fn nobody_is_counted_twice() {
        let gauge = Gauge::default();
        let some = |received| Figures { received, expected: received, ..Figures::default() };
        assert_eq!(gauge.with(&some(5)), some(5));
        gauge.publish(&some(10));
        assert_eq!(gauge.with(&some(5)), some(15));
        gauge.begins_after(&some(5));
        // What is recorded now has ours in it.
        gauge.begins_after(&some(15));
        gauge.publish(&some(11));
        assert_eq!(gauge.with(&some(15)), some(16));
    }
}
