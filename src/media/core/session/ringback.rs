//! What a caller is told before anybody has answered, so that it hears from us that somebody rings. Layer: pure.
//!
//! It is the answer that a phone would have given that has one codec of the caller's and is nowhere yet. What the phone says itself counts from then on,
//! as if this had not been.

use sdp_types::{Connection, Session as Sdp};

use super::super::formats::{self, Format, Kind};
use super::super::negotiation::Formats;
use super::super::player::Tune;
use super::super::protection::{Policy, Protection};
use super::{Session, Way, is_rtp};

/// A port that nobody sends anything to.
const NOWHERE: u16 = 9;

impl Session {
    /// Answers the caller's offer, of which `told` is what its callees were told. None if there is no sound that we could make, or somebody has
    /// answered.
    pub fn ring(&mut self, told: &[u8]) -> Option<Vec<u8>> {
        let mut next = self.clone();
        let mut sdp = Sdp::parse(told).ok()?;
        let ip = self.sides[1];
        let of_all = std::mem::take(&mut sdp.attributes);
        sdp.connection = Some(Connection::from_ip_addr(ip));
        let mut rings = None;
        for (at, (media, stream)) in sdp.medias.iter_mut().zip(&mut next.streams).enumerate() {
            // A caller who holds from the start, or only speaks, hears nothing.
            let talks = Way::read(media, &of_all) == Way::default();
            media.connections.clear();
            media.bandwidths.clear();
            media.attributes.clear();
            let offered =
                stream.formats.as_ref().filter(|formats| formats.is_open && media.port != 0 && rings.is_none() && talks);
            let chosen = offered.filter(|_| is_rtp(&*media)).map(|formats| has_one(formats)).unwrap_or_default();
            if chosen.is_empty() {
                media.port = 0;
                continue;
            }
            (media.port, media.proto) = (NOWHERE, "RTP/AVP".into());
            formats::write(media, &chosen, |format| format.payload);
            // What this side's phone is to do is for its own answer.
            stream.legs[1].protection = Protection::default();
            rings = Some(at);
        }
        let at = rings?;
        next.policies[1] = Policy::Allow;
        let mut answer = Vec::with_capacity(512);
        // Writing to memory fails only when memory does.
        let _ = sdp.write(&mut answer);
        let ours = next.answer(1, &answer, &mut |_| None).ok()?;
        for (number, (stream, former)) in next.streams.iter_mut().zip(&self.streams).enumerate() {
            stream.is_declined = former.is_declined;
            stream.legs[1] = former.legs[1].clone();
            if number != at {
                *stream = former.clone();
            }
        }
        let stream = &mut next.streams[at];
        stream.ways[1].leaves = Some(Tune::Ringback);
        // Who reads it in the record is to know that the answer comes yet.
        stream.formats.iter_mut().for_each(|formats| std::sync::Arc::make_mut(formats).is_open = true);
        (next.policies, next.held, next.lines) = (self.policies, self.held, self.lines);
        *self = next;
        Some(ours)
    }

    /// Whether the caller hears from us that somebody rings.
    pub fn rings(&self) -> bool {
        self.streams.iter().any(|stream| stream.ways[1].leaves == Some(Tune::Ringback))
    }
}

/// The codec that the caller likes best, as it is told to others, and keys if it has them: nothing is made over then.
fn has_one(formats: &Formats) -> Vec<Format> {
    let told = |is_it: &dyn Fn(&&Format) -> bool| formats.told[1].iter().find(is_it).cloned();
    let codec = formats.theirs[0].iter().find_map(Format::codec);
    let Some(sound) = codec.and_then(|codec| told(&|format| format.codec() == Some(codec))) else { return Vec::new() };
    let knows = |format: &Format| formats.theirs[0].iter().any(|own| own.is_like(format));
    let keys = told(&|format| format.kind == Kind::Events && knows(format));
    [Some(sound), keys].into_iter().flatten().collect()
}
