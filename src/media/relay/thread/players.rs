//! Music toward phones that are on hold, and ringing tones: what a codec thread says by the clock. Layer: shell.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{DATAGRAM, End, Event, Thread};
use crate::clock::{self, Uptime};
use crate::media::core::player::{Music, Player, Source};
use crate::media::core::srtp::{MOST_ADDED, is_rtcp};

/// How often it is looked whether who stands by has got the call.
const LOOK: Duration = Duration::from_millis(60);

/// The ends of a thread whose phones are to hear music, and when the first of them is due.
#[derive(Default)]
pub(super) struct Players {
    ends: BTreeSet<usize>,
    due: Uptime,
}

impl End {
    /// Something that the other phone has said passes to the end's.
    pub(super) fn passes(&mut self, packet: &[u8], rtcp: bool) {
        let Some(&[_, _, _, _, a, b, c, d]) = packet.first_chunk().filter(|_| !rtcp && !is_rtcp(packet)) else { return };
        self.passed = Some(u32::from_be_bytes([a, b, c, d]));
        self.player.iter_mut().for_each(|player| player.give_way());
    }

    /// As an actor wants it; the other phone was heard last at some moment, if it was here. Gives how the times go, if somebody should know.
    fn set_music(&mut self, music: Option<Music>, heard: Option<Uptime>) -> Option<u32> {
        let (now, wall) = (clock::uptime(), clock::now());
        let Some(wanted) = music else {
            self.player.iter_mut().for_each(|player| player.set(None, now, wall, None));
            return None;
        };
        let player = self.player.get_or_insert_with(|| {
            let (ssrc, sequence) = rand::random();
            Box::new(Player::new(Source { ssrc, sequence }))
        });
        // Times of the other phone, as they would be by now.
        let passed = heard.zip(self.passed).map(|(heard, passed)| {
            let ticks = now.since(heard).as_millis() * u128::from(wanted.codec.clock() / 1000);
            passed.wrapping_add(u32::try_from(ticks).unwrap_or(0))
        });
        let is_new = player.is_new(&wanted);
        let told = wanted.offset.map(|offset| wanted.time(wall, offset)).filter(|_| is_new || !player.has_played());
        let time = passed.filter(|_| is_new).or(told.filter(|_| passed.is_none() || !is_new)).or(is_new.then_some(0));
        player.set(music, now, wall, time.filter(|_| is_new || passed.is_none()));
        let offset = time.map(|time| wanted.offset(wall, time)).filter(|_| is_new)?;
        Some(offset).filter(|offset| Some(*offset) != wanted.offset && self.fence.may_send(now))
    }
}

impl Thread {
    /// An end's phone is to hear this, or nothing.
    pub(super) fn set_music(&mut self, at: usize, music: Option<Music>) {
        let partner = self.ends[at].as_ref().and_then(|end| self.ends[end.partner?].as_ref());
        let heard = partner.and_then(|partner| partner.peer.heard());
        let Some(end) = self.ends[at].as_mut() else { return };
        if let Some(offset) = end.set_music(music, heard) {
            // A full queue loses it: then some phones hear nothing of the next owner's.
            let _ = self.events.try_send(Event::Plays { call: end.call, leg: end.leg, stream: end.stream, offset });
        }
        if music.is_some() && self.players.ends.insert(at) {
            self.players.due = Uptime::default();
        }
    }

    /// Plays what is due. Gives how long there is until the next.
    pub(super) fn play(&mut self) -> Option<Duration> {
        if self.players.ends.is_empty() {
            return None;
        }
        let now = clock::uptime();
        if now < self.players.due {
            return Some(self.players.due.since(now));
        }
        let mut due = now + LOOK;
        // What protects a packet is written behind it.
        let mut buffer = [0; DATAGRAM + MOST_ADDED];
        let sounds = self.sounds.clone();
        for at in self.players.ends.clone() {
            let playing = self.ends[at].as_mut().and_then(|end| end.player.take_if(|player| player.due().is_some()));
            let Some(mut player) = playing else {
                self.players.ends.remove(&at);
                continue;
            };
            // The time is asked for here: this process may have been frozen since.
            let may_send = self.ends[at].as_ref().is_some_and(|end| end.fence.may_send(clock::uptime()));
            let melody = player.tune().and_then(|tune| sounds.of(tune));
            if let Some(melody) = melody.filter(|_| may_send) {
                player.wake(now, melody, &mut buffer[..], |buffer, length| self.pass_on(at, buffer, length));
                due = player.due().map_or(due, |next| due.min(next));
            }
            if let Some(end) = &mut self.ends[at] {
                end.player = Some(player);
            }
        }
        self.players.due = due;
        Some(due.since(now))
    }
}
