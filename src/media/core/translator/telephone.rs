//! Keys of a telephone in the packets of one side: heard in sound, said as events, said as sound. Layer: pure.

use std::collections::VecDeque;
use std::time::Duration;

use super::{HEADER, Header, MOST, PRESSED, Translator};
use crate::media::core::codec::g711::Law;
use crate::media::core::dtmf::{Event, Heard, Key, Signal, Tone};
use crate::media::core::negotiation::How;

/// So many packets of sound without a word of an event are its end.
const UNHEARD: u8 = 10;

/// An event that is being said as sound.
pub(super) struct Saying {
    /// Its time, by the source's clock.
    begin: u32,
    /// So many samples of it were said.
    count: usize,
    tone: Tone,
    /// Sound comes beside it, and makes way.
    is_beside: bool,
    is_over: bool,
    /// Packets of sound since it was heard of.
    unheard: u8,
}

impl Translator {
    /// Keys in sound.
    pub(super) fn listen(&mut self, law: Law, payload: &[u8]) {
        let mut samples = [0; MOST];
        let count = law.decode(payload, &mut samples);
        let (keys, pressed) = (&mut self.keys, &mut self.pressed);
        self.detector.hear(&samples[..count], |heard| match (heard, &mut *keys) {
            (Heard::Down(key), Some(keys)) => drop(keys.press(key, None)),
            (Heard::Down(_), None) => {}
            (Heard::Up(key, duration), keys) => {
                keys.iter_mut().for_each(|keys| keys.let_go(key, duration));
                push(pressed, Signal { key, duration });
            }
        });
    }

    /// Says a key in the place of sound. What it lasts is by its own clock, and its time by that of the sound that it is in: so phones count it, whatever
    /// the clocks are.
    pub(super) fn say_key(&mut self, header: &Header, send: &mut dyn FnMut(&[u8])) -> bool {
        if self.is_idle() {
            return false;
        }
        let rule = self.rules[header.rule].0;
        let heard = rule.clock.unwrap_or(8000);
        let said = match rule.how {
            How::Code(_, to) => to.clock(),
            How::Pass | How::Events(..) | How::Tone(..) | How::Listen(_) => heard,
        };
        let time = self.time(header, heard, said);
        let step = self.source.map(|source| source.step).filter(|step| *step > 0).unwrap_or(heard / 50);
        let step = u64::from(step) * u64::from(said) / u64::from(heard.max(1));
        let Some(keys) = &mut self.keys else { return false };
        let Some(slot) = keys.slot(time, u32::try_from(step).unwrap_or(0), said) else { return false };
        self.out[HEADER..HEADER + 4].copy_from_slice(&slot.event.write());
        let (payload_type, marked) = (keys.payload_type, Header { marker: slot.marker, ..*header });
        self.send(&marked, payload_type, slot.time, 4, send);
        true
    }

    /// A key that is over is told once, however often its end is.
    pub(super) fn hear_event(&mut self, header: &Header, event: Event, clock: u32) {
        let Some(key) = Key::new(event.event).filter(|_| event.end) else { return };
        let Some(source) = self.source.as_mut().filter(|source| source.told != Some(header.time)) else { return };
        source.told = Some(header.time);
        let duration = Duration::from_millis(u64::from(event.duration) * 1000 / u64::from(clock.max(1)));
        push(&mut self.pressed, Signal { key, duration });
    }

    /// As much of an event as wasn't said yet, in one packet; nothing if sound comes beside it.
    pub(super) fn say_tone(
        &mut self,
        header: &Header,
        event: Event,
        (clock, law): (u32, Law),
        to: u8,
        send: &mut dyn FnMut(&[u8]),
    ) {
        let Some(key) = Key::new(event.event) else { return };
        if self.saying.as_ref().is_none_or(|saying| saying.begin != header.time) {
            let tone = Tone::new(key, 8000, event.volume);
            self.saying = Some(Saying { begin: header.time, count: 0, tone, is_beside: false, is_over: false, unheard: 0 });
        }
        let Some(saying) = &mut self.saying else { return };
        (saying.unheard, saying.is_over) = (0, saying.is_over || event.end);
        let before = saying.count;
        let all = usize::from(event.by_clock(clock, 8000).duration);
        let count = all.saturating_sub(before).min(MOST - HEADER);
        if count == 0 || saying.is_beside {
            return;
        }
        saying.count += count;
        let mut samples = [0; MOST];
        saying.tone.fill(&mut samples[..count]);
        law.encode(&samples[..count], &mut self.out[HEADER..]);
        let heard = self.clocks.map_or(clock, |(heard, _)| heard);
        let time = self.time(header, heard, 8000).wrapping_add(u32::try_from(before).unwrap_or(0));
        self.send(&Header { marker: before == 0, ..*header }, to, time, count, send);
    }

    /// Sound makes way for a tone that is being said: some phones send both. Tells whether it does.
    pub(super) fn make_way(&mut self, header: &Header, send: &mut dyn FnMut(&[u8])) -> bool {
        let heard = self.rules[header.rule].0.clock.unwrap_or(8000);
        let tone =
            self.rules.iter().find_map(|(rule, _)| if let How::Tone(_, law) = rule.how { Some((rule.to, law)) } else { None });
        let step = self.source.map(|source| source.step).filter(|step| *step > 0).unwrap_or(heard / 50);
        let (Some((to, law)), Some(saying)) = (tone, self.saying.as_mut().filter(|saying| !saying.is_over)) else {
            return false;
        };
        // Its end may have been lost, however often it was said.
        saying.unheard += 1;
        saying.is_over = saying.unheard > UNHEARD;
        saying.is_beside = true;
        let count = u64::from(step) * 8000 / u64::from(heard.max(1));
        let count = usize::try_from(count).unwrap_or(0).min(MOST - HEADER);
        let mut samples = [0; MOST];
        saying.tone.fill(&mut samples[..count]);
        law.encode(&samples[..count], &mut self.out[HEADER..]);
        let time = self.time(header, heard, 8000);
        self.send(header, to, time, count, send);
        true
    }
}

fn push(pressed: &mut VecDeque<Signal>, signal: Signal) {
    if pressed.len() < PRESSED {
        pressed.push_back(signal);
    }
}
