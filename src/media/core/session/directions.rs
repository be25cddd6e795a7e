//! Who sends and who hears (RFC 3264 §5.1), and who hears something of ours: while the other holds (§8.4), or rings. Layer: pure.
//!
//! Who puts a call on hold won't hear; the other phone is told that it may hear all the same, so that it does. Whether somebody holds is his own will
//! only: who answers that he hears nothing since the other sends nothing holds nobody.

use sdp_types::{Attribute, Media, Session as Sdp};

use super::super::player::{Music, Tune};
use super::{Session, Stream};

const SENDS: u8 = 1;
const RECEIVES: u8 = 2;
const HOLDS: u8 = 4;
const RINGS: u8 = 8;

/// What one end of a stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// It may send.
    pub sends: bool,
    /// It hears.
    pub receives: bool,
    /// What the other may hear from us meanwhile: it won't hear, and not because the other doesn't send; or it rings.
    pub leaves: Option<Tune>,
}

impl Default for Way {
    fn default() -> Self {
        Self { sends: true, receives: true, leaves: None }
    }
}

impl Way {
    /// As a number, for the record.
    pub fn bits(self) -> u8 {
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        let leaves = match self.leaves {
            Some(Tune::HoldMusic) => HOLDS,
            Some(Tune::Ringback) => RINGS,
            None => 0,
        };
        bit(self.sends, SENDS) | bit(self.receives, RECEIVES) | leaves
    }

    /// Of [`Way::bits`].
    pub fn of_bits(bits: u8) -> Self {
        let leaves = match (bits & HOLDS != 0, bits & RINGS != 0) {
            (true, _) => Some(Tune::HoldMusic),
            (false, true) => Some(Tune::Ringback),
            (false, false) => None,
        };
        Self { sends: bits & SENDS != 0, receives: bits & RECEIVES != 0, leaves }
    }

    /// What a description says of a stream. One whose address is none hears nothing (RFC 3264 §8.4).
    pub(super) fn read(media: &Media, of_all: &[Attribute]) -> Self {
        let said = media.attributes.iter().rev().chain(of_all).find_map(|attribute| Self::named(&attribute.attribute));
        let is_nowhere = media.connections.iter().any(|c| c.try_address().is_ok_and(|there| there.ip.is_unspecified()));
        let way = said.unwrap_or_default();
        Self { receives: way.receives && !is_nowhere, ..way }
    }

    fn named(name: &str) -> Option<Self> {
        let (sends, receives) = match name {
            "sendrecv" => (true, true),
            "sendonly" => (true, false),
            "recvonly" => (false, true),
            "inactive" => (false, false),
            _ => return None,
        };
        Some(Self { sends, receives, leaves: None })
    }

    fn name(self) -> &'static str {
        match (self.sends, self.receives) {
            (true, true) => "sendrecv",
            (true, false) => "sendonly",
            (false, true) => "recvonly",
            (false, false) => "inactive",
        }
    }

    /// Says it of a stream, in the place of what is said.
    fn write(self, media: &mut Media) {
        media.attributes.retain(|attribute| Self::named(&attribute.attribute).is_none());
        media.attributes.push(Attribute { attribute: self.name().into(), value: None });
        // No address was the old way to say it.
        media.connections.clear();
    }
}

impl Session {
    /// What is played to a leg has times that go so. Tells whether that is news.
    pub fn plays(&mut self, leg: usize, stream: usize, offset: u32) -> bool {
        let before = self.before.as_mut().map(|before| &mut before.streams);
        let mut is_news = false;
        for streams in [Some(&mut self.streams), before].into_iter().flatten() {
            let end = streams.get_mut(stream).and_then(|stream| stream.legs.get_mut(leg));
            is_news |= end.is_some_and(|end| end.plays.replace(offset) != Some(offset));
        }
        is_news
    }

    /// Takes what a leg has said of who hears, stream by stream, and makes what the other is told of it be that it may hear music.
    pub(super) fn leave_to_music(&mut self, (from, answers): (usize, bool), sdp: &mut Sdp) {
        // Who says something of itself rings no longer.
        let rings = |way: &&mut Way| way.leaves == Some(Tune::Ringback);
        self.streams.iter_mut().map(|stream| &mut stream.ways[from]).filter(rings).for_each(|way| *way = Way::default());
        if !self.has_music {
            // Whoever had some may have left it so.
            self.streams.iter_mut().for_each(|stream| stream.ways[from] = Way::default());
            return;
        }
        let other = 1 - from;
        for (stream, media) in self.streams.iter_mut().zip(&mut sdp.medias).filter(|(stream, _)| stream.formats.is_some()) {
            let said = Way::read(media, &sdp.attributes);
            let others = stream.ways[other];
            // Who is sent nothing says nothing by hearing nothing.
            let held = stream.ways[from].leaves.is_some();
            let holds = if answers && !others.sends { held } else { !said.receives };
            stream.ways[from] = Way { leaves: holds.then_some(Tune::HoldMusic), ..said };
            let told = match answers {
                false => Way { sends: said.sends || holds, ..said },
                true => Way { sends: (said.sends || holds) && others.receives, receives: said.receives && others.sends, ..said },
            };
            // What stays as it was is said as it was, unless that would be no address.
            let is_held_by_it = holds && (!answers || others.receives);
            if told.name() != said.name() || (is_held_by_it && !media.connections.is_empty()) {
                told.write(media);
            }
        }
    }
}

impl Stream {
    /// What a leg's phone is to hear from us.
    pub(super) fn music(&self, leg: usize) -> Option<Music> {
        let [own, others] = [self.ways[leg], self.ways[1 - leg]];
        let tune = others.leaves.filter(|_| own.receives && !self.is_declined)?;
        let formats = self.formats.as_ref()?;
        let heard = formats.agreed.as_ref()?[leg].iter().find_map(|format| Some((format.codec()?, format.payload)));
        let offset = self.legs[leg].plays;
        heard.map(|(codec, payload)| Music { tune, codec, payload, offset })
    }
}
