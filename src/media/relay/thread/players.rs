//! Music toward phones that are on hold, and ringing tones: what a codec thread says by the clock. Layer: shell.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{DATAGRAM, End, Thread};
use crate::clock::{self, Uptime};
use crate::media::core::player::{Music, Player, Source};
use crate::media::core::srtp::MOST_ADDED;

/// How often it is looked whether who stands by has got the call.
const LOOK: Duration = Duration::from_millis(60);

/// The ends of a thread whose phones are to hear music, and when the first of them is due.
#[derive(Default)]
pub(super) struct Players {
    ends: BTreeSet<usize>,
    due: Uptime,
}

impl End {
    /// As an actor wants it. Tells whether there is something to play.
    fn set_music(&mut self, music: Option<Music>) -> bool {
        if self.player.is_none() && music.is_some() {
            let (ssrc, sequence, time) = rand::random();
            self.player = Some(Box::new(Player::new(Source { ssrc, sequence, time })));
        }
        let (now, wall) = (clock::uptime(), clock::now());
        self.player.iter_mut().for_each(|player| player.set(music, now, wall));
        music.is_some()
    }
}

impl Thread {
    /// An end's phone is to hear this, or nothing.
    pub(super) fn set_music(&mut self, at: usize, music: Option<Music>) {
        let plays = self.ends[at].as_mut().is_some_and(|end| end.set_music(music));
        if plays && self.players.ends.insert(at) {
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
