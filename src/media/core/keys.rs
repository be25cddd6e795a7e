//! Keys on their way to a phone that wants them as events: each takes the place of the packets of sound that come while it is down (RFC 4733 §2.5). Layer: pure.
//!
//! So an event has numbers of the stream that it is in, and nothing is to be remembered of it.

use std::collections::VecDeque;
use std::time::Duration;

use super::dtmf::{Event, Key};

/// So many keys wait.
const MOST: usize = 32;
/// RFC 4733 §2.5.1.4: the end is said three times.
const ENDS: u8 = 3;
/// RFC 4733 §2.5.1.2: a tenth of a milliwatt.
const VOLUME: u8 = 10;
/// Two keys are so far apart.
const GAP: Duration = Duration::from_millis(60);

/// Those of one direction.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Payload type and clock of events.
    pub payload_type: u8,
    clock: u32,
    waiting: VecDeque<(Key, Option<Duration>)>,
    down: Option<Down>,
    /// No other before this time of the stream.
    rests: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Down {
    key: Key,
    /// In ticks; as long as it is heard if none.
    most: Option<u32>,
    begin: u32,
    ends: u8,
    last: u16,
}

/// What is sent in the place of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The event.
    pub event: Event,
    /// When it began: the packet's time.
    pub time: u32,
    /// It is the first of its event.
    pub marker: bool,
}

impl Keys {
    /// For events of this payload type and clock.
    pub fn new(payload_type: u8, clock: u32) -> Self {
        Self { payload_type, clock, waiting: VecDeque::with_capacity(MOST), down: None, rests: None }
    }

    /// Ticks of events in a second.
    pub fn clock(&self) -> u32 {
        self.clock
    }

    /// The times of what comes next have nothing to do with those before: what is down is pressed once more.
    pub fn begin_anew(&mut self) {
        self.rests = None;
        if let Some(down) = self.down.take() {
            let ticks = down.most.unwrap_or(down.last.into());
            let duration = Duration::from_millis(u64::from(ticks) * 1000 / u64::from(self.clock.max(1)));
            self.waiting.push_front((down.key, Some(duration)));
        }
    }

    /// No key waits or is down.
    pub fn is_idle(&self) -> bool {
        self.down.is_none() && self.waiting.is_empty()
    }

    /// A key is pressed, for so long; or until it is let go. Tells whether there is room for it.
    pub fn press(&mut self, key: Key, duration: Option<Duration>) -> bool {
        let has_room = self.waiting.len() < MOST;
        if has_room {
            self.waiting.push_back((key, duration));
        }
        has_room
    }

    /// The one that is down, or the last that waits, was pressed for so long.
    pub fn let_go(&mut self, key: Key, duration: Duration) {
        let ticks = self.ticks(duration);
        match (&mut self.down, self.waiting.back_mut()) {
            (_, Some((waiting, until @ None))) if *waiting == key => *until = Some(duration),
            (Some(down), _) if down.key == key && down.most.is_none() => down.most = Some(ticks),
            (_, _) => {}
        }
    }

    /// A packet of sound would be sent, of this time and length in ticks, of which a second has so many. Gives what is sent instead.
    pub fn slot(&mut self, time: u32, length: u32, second: u32) -> Option<Slot> {
        let is_before = |when: u32| time.wrapping_sub(when).cast_signed() < 0;
        if self.down.is_none() {
            if self.rests.is_some_and(is_before) {
                return None;
            }
            let (key, duration) = self.waiting.pop_front()?;
            let most = duration.map(|duration| self.ticks(duration));
            self.down = Some(Down { key, most, begin: time, ends: ENDS, last: 0 });
        }
        let clock = self.clock;
        let down = self.down.as_mut()?;
        let marker = down.begin == time;
        let so_far = time.wrapping_sub(down.begin).wrapping_add(length);
        let so_far = u32::try_from(u64::from(so_far) * u64::from(clock) / u64::from(second.max(1))).unwrap_or(u32::MAX);
        let whole = down.most.filter(|most| *most <= so_far);
        // What is longer than its field can say is over.
        let whole = whole.or_else(|| (so_far > u16::MAX.into()).then_some(u16::MAX.into()));
        if down.ends == ENDS {
            down.last = u16::try_from(whole.unwrap_or(so_far)).unwrap_or(u16::MAX);
        }
        let end = whole.is_some();
        let event = Event { event: down.key.event(), end, volume: VOLUME, duration: down.last };
        let slot = Slot { event, time: down.begin, marker };
        if end {
            down.ends -= 1;
            if down.ends == 0 {
                self.down = None;
                self.rests = Some(time.wrapping_add(ticks(GAP, second)));
            }
        }
        Some(slot)
    }

    fn ticks(&self, duration: Duration) -> u32 {
        ticks(duration, self.clock)
    }
}

fn ticks(duration: Duration, second: u32) -> u32 {
    u32::try_from(duration.as_millis() * u128::from(second) / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sign: char) -> Key {
        Key::of(sign).unwrap()
    }

    /// RFC 4733 §2.5: time and key stay, the duration grows, the first is marked, the end is said three times; and then sound again.
    #[test]
    fn a_key_takes_the_place_of_packets() {
        let mut keys = Keys::new(101, 8000);
        assert_eq!(keys.slot(u32::MAX - 159, 160, 8000), None);
        keys.press(key('5'), Some(Duration::from_millis(50)));
        keys.press(key('6'), Some(Duration::from_millis(40)));
        let slots: Vec<_> = (0..14).map(|at| keys.slot(u32::MAX.wrapping_add(at * 160), 160, 8000)).collect();
        let said =
            |at: usize| slots[at].map(|slot| (slot.event.event, slot.event.duration, slot.event.end, slot.time, slot.marker));
        let begin = u32::MAX;
        assert_eq!(
            [0, 1, 2, 3, 4].map(said),
            [
                Some((5, 160, false, begin, true)),
                Some((5, 320, false, begin, false)),
                Some((5, 400, true, begin, false)),
                Some((5, 400, true, begin, false)),
                Some((5, 400, true, begin, false)),
            ]
        );
        assert_eq!([5, 6].map(said), [None; 2]);
        assert_eq!(said(7), Some((6, 160, false, begin.wrapping_add(7 * 160), true)));
        assert_eq!(said(8).map(|said| (said.1, said.2)), Some((320, true)));
        assert_eq!([11, 12, 13].map(said), [None; 3]);
    }

    #[test]
    fn a_key_lasts_until_it_is_let_go() {
        let mut keys = Keys::new(101, 8000);
        keys.press(key('*'), None);
        for at in 0..5 {
            assert!(keys.slot(at * 160, 160, 8000).is_some_and(|slot| !slot.event.end));
        }
        keys.let_go(key('*'), Duration::from_millis(90));
        let ends: Vec<_> =
            (5..9).map(|at| keys.slot(at * 160, 160, 8000).map(|slot| (slot.event.end, slot.event.duration))).collect();
        assert_eq!(ends, [Some((true, 720)), Some((true, 720)), Some((true, 720)), None]);
        // Nobody presses for more than the field has room for.
        let mut keys = Keys::new(101, 48_000);
        keys.press(key('1'), None);
        let long: Vec<_> = (0..100).map_while(|at| keys.slot(at * 960, 960, 48_000)).collect();
        assert!(long.len() < 80 && long.last().is_some_and(|slot| slot.event.end && slot.event.duration == u16::MAX));
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut keys = Keys::new(101, 8000);
        assert_eq!((0..40).filter(|_| keys.press(key('1'), None)).count(), MOST);
    }
}
