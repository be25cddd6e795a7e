//! The media of a call as they are stored, and as they are. Layer: shell.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::quality::{figures_of, figures_record};
use super::records::Site;
use crate::cluster::state::records::{
    AssociationRecord, BeforeRecord, FormatRecord, FormatsRecord, Hidden, IceRecord, KeyRecord, KeyedRecord, MediaRecord,
    OfferedRecord, ProtectionRecord, SecretRecord, StreamLegRecord, StreamRecord,
};
use crate::media::core::dtls::{Fingerprint, Hash, Ice};
use crate::media::core::formats::Format;
use crate::media::core::negotiation::Formats;
use crate::media::core::protection::{Offered, Profile, Protection, Secret};
use crate::media::core::recording::segment::Kinds;
use crate::media::core::srtp::{Mark, MasterKey, Suite};
use crate::media::core::{Association, Before, Keyed, Recording, Session, Stream, StreamLeg, Way};

/// The media as they are stored.
pub fn media_record(media: &Session) -> MediaRecord {
    MediaRecord {
        streams: media.streams.iter().map(stream_record).collect(),
        versions: media.versions,
        held: media.held,
        told: media.told.clone(),
        lines: Some(media.lines).filter(|lines| *lines != [media.streams.len(); 2]),
        before: media.before.as_ref().map(|before| BeforeRecord {
            by: u8::from(before.by > 0),
            instead: before.instead,
            lines: before.lines,
            streams: before.streams.iter().map(stream_record).collect(),
            held: before.held,
            told: before.told.clone(),
        }),
        secret: (media.keys_made > 0 || media.is_certified).then(|| SecretRecord {
            bytes: Hidden(Bytes::copy_from_slice(&media.secret.bytes)),
            since: media.secret.since,
            keys_made: media.keys_made,
            certified: media.is_certified,
        }),
        recording: media.recording.map(|recording| recording == Recording::On),
        figures: media.figures.each_ref().map(figures_record),
    }
}

/// What the numbers of each side's packets mean, in the stream that is recorded.
pub(super) fn heard_from(record: &MediaRecord) -> [Kinds; 2] {
    let is_sound = |stream: &&StreamRecord| !stream.declined && stream.formats.is_some();
    let formats = record.streams.iter().find(is_sound).and_then(|stream| stream.formats.as_ref()).map(formats_of);
    [0, 1].map(|side| formats.as_ref().map(|formats| formats.heard_from(side)).unwrap_or_default())
}

fn stream_record(stream: &Stream) -> StreamRecord {
    let leg = |leg: &StreamLeg| StreamLegRecord {
        local: leg.local,
        signalled: leg.signalled,
        signalled_rtcp: leg.signalled_rtcp,
        latched: leg.latched,
        latched_rtcp: leg.latched_rtcp,
        protection: protection_record(&leg.protection),
        plays: leg.plays,
    };
    StreamRecord {
        legs: [leg(&stream.legs[0]), leg(&stream.legs[1])],
        declined: stream.is_declined,
        other: stream.is_other,
        formats: stream.formats.as_deref().map(formats_record),
        ways: Some(stream.ways.map(Way::bits)).filter(|_| stream.ways != [Way::default(); 2]),
    }
}

fn formats_record(formats: &Formats) -> FormatsRecord {
    let list = |list: &Vec<Format>| -> Vec<FormatRecord> {
        list.iter().map(|Format { payload, name, parameters, .. }| (*payload, name.clone(), parameters.clone())).collect()
    };
    let Formats { theirs, told, given, agreed, is_open, keys } = formats;
    FormatsRecord {
        theirs: theirs.each_ref().map(list),
        told: [0, 1].map(|side| Some(&told[side]).filter(|told| **told != theirs[1 - side]).map(list)),
        given: given.each_ref().map(list),
        agreed: agreed.as_ref().map(|agreed| agreed.each_ref().map(list)),
        open: *is_open,
        keys: *keys,
        needed: formats.is_needed(),
    }
}

fn formats_of(record: &FormatsRecord) -> Formats {
    let list = |list: &Vec<FormatRecord>| {
        list.iter().map(|(payload, name, parameters)| Format::named(*payload, name, parameters.clone())).collect()
    };
    let FormatsRecord { theirs, told, given, agreed, open, keys, .. } = record;
    let theirs: [Vec<_>; 2] = theirs.each_ref().map(list);
    let told = [0, 1].map(|side| told[side].as_ref().map_or_else(|| theirs[1 - side].clone(), list));
    let agreed = agreed.as_ref().map(|agreed| agreed.each_ref().map(list));
    Formats { theirs, told, given: given.each_ref().map(list), agreed, is_open: *open, keys: *keys }
}

/// None of a stream of which nothing was said: as all were before there was protection.
fn protection_record(protection: &Protection) -> Option<ProtectionRecord> {
    let Protection { profile, theirs, is_agreed, number, marks, association, offered, feedback } = protection;
    let said = *profile != Profile::Plain || number.is_some() || offered.is_some() || *feedback;
    said.then(|| ProtectionRecord {
        profile: profile_name(*profile).into(),
        theirs: theirs.as_ref().map(|(tag, key)| KeyRecord {
            tag: *tag,
            suite: key.suite().name().into(),
            key: Hidden(Bytes::copy_from_slice(key.bytes())),
        }),
        agreed: *is_agreed,
        number: *number,
        marks: [0, 1].map(|way| marks[way].iter().map(|mark| (mark.ssrc, mark.index)).collect()),
        association: association.as_ref().map(association_record),
        offered: offered.map(|Offered { profile, number }| OfferedRecord { profile: profile_name(profile).into(), number }),
        feedback: *feedback,
    })
}

fn association_record(association: &Association) -> AssociationRecord {
    let hidden = |key: &MasterKey| Hidden(Bytes::copy_from_slice(key.bytes()));
    AssociationRecord {
        number: association.number,
        prints: association
            .prints
            .iter()
            .map(|print| (print.hash.name().to_owned(), Bytes::copy_from_slice(&print.bytes)))
            .collect(),
        ice: association
            .ice
            .as_ref()
            .map(|Ice { generation, theirs }| IceRecord { generation: *generation, theirs: theirs.clone() }),
        muxed: association.is_muxed,
        protocol: association.protocol.clone(),
        mid: association.mid.clone(),
        begins_bundle: association.begins_bundle,
        keyed: association.keyed.as_ref().map(|Keyed { theirs, ours, last_flight, .. }| KeyedRecord {
            suite: ours.suite().name().into(),
            theirs: hidden(theirs),
            ours: hidden(ours),
            last_flight: last_flight.clone(),
        }),
    }
}

fn profile_named(name: &str) -> Option<Profile> {
    let all = [Profile::Plain, Profile::Optional, Profile::Secure, Profile::Dtls];
    all.into_iter().find(|profile| profile_name(*profile) == name)
}

fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::Plain => "plain",
        Profile::Optional => "optional",
        Profile::Secure => "secure",
        Profile::Dtls => "dtls",
    }
}

/// Reads the stored media of a call. What a later release says of protection and this one doesn't know lets nothing pass.
pub(super) fn media_of(record: &MediaRecord, site: Site, id: u64) -> Session {
    let leg = |leg: &StreamLegRecord| StreamLeg {
        // The ports are the call's for good; the address is where its vnode is.
        local: leg.local.map(|local| SocketAddr::new(site.ips.toward(local.ip()).unwrap_or(site.ips.first()), local.port())),
        signalled: leg.signalled,
        signalled_rtcp: leg.signalled_rtcp,
        latched: leg.latched,
        latched_rtcp: leg.latched_rtcp,
        // Where nothing is said of it, whoever has described itself does without.
        protection: leg
            .protection
            .as_ref()
            .map_or_else(|| Protection { is_agreed: leg.signalled.is_some(), ..Protection::default() }, protection_of),
        plays: leg.plays,
    };
    let streams = |records: &[StreamRecord]| {
        records
            .iter()
            .map(|stream| Stream {
                legs: [leg(&stream.legs[0]), leg(&stream.legs[1])],
                is_declined: stream.declined,
                formats: stream.formats.as_ref().map(|formats| Arc::new(formats_of(formats))),
                is_other: stream.other,
                ways: stream.ways.map_or_else(Default::default, |ways| ways.map(Way::of_bits)),
            })
            .collect()
    };
    let mut session = Session::new(site.ips, id);
    session.streams = streams(&record.streams);
    session.lines = record.lines.unwrap_or([session.streams.len(); 2]);
    session.before = record.before.as_ref().map(|before| {
        let BeforeRecord { by, instead, lines, held, told, .. } = before.clone();
        let (by, sides) = (usize::from(by), session.sides);
        Box::new(Before { by, instead, streams: streams(&before.streams), sides, held, told, lines })
    });
    session.find_sides();
    session.versions = record.versions;
    session.recording = record.recording.map(|is_on| if is_on { Recording::On } else { Recording::Paused });
    session.held = record.held;
    session.keeps = site.moves;
    session.told.clone_from(&record.told);
    session.figures = record.figures.each_ref().map(|figures| figures_of(figures));
    if let Some(SecretRecord { bytes, since, keys_made, certified }) = &record.secret
        && let Ok(bytes) = bytes.0[..].try_into()
    {
        session.secret = Secret { bytes, since: *since, restored: true };
        session.keys_made = *keys_made;
        session.is_certified = *certified;
    }
    session
}

fn protection_of(record: &ProtectionRecord) -> Protection {
    let key = |key: &KeyRecord| Some((key.tag, MasterKey::new(Suite::of(&key.suite)?, &key.key.0)?));
    let theirs = record.theirs.as_ref().map(key);
    let known = profile_named(&record.profile);
    // A key of a later release's kind, too, lets nothing pass.
    let profile = known.filter(|_| theirs != Some(None));
    Protection {
        profile: profile.unwrap_or(Profile::Secure),
        is_agreed: record.agreed && profile.is_some(),
        theirs: theirs.flatten(),
        number: record.number,
        marks: [0, 1].map(|way| record.marks[way].iter().map(|(ssrc, index)| Mark { ssrc: *ssrc, index: *index }).collect()),
        association: record.association.as_ref().map(association_of),
        offered: record
            .offered
            .as_ref()
            .and_then(|offered| Some(Offered { profile: profile_named(&offered.profile)?, number: offered.number })),
        feedback: record.feedback,
    }
}

fn association_of(record: &AssociationRecord) -> Association {
    let AssociationRecord { number, prints, ice, muxed, protocol, mid, begins_bundle, .. } = record;
    let print = |(name, bytes): &(String, Bytes)| Some(Fingerprint { hash: Hash::named(name)?, bytes: bytes.to_vec() });
    let keyed = |keyed: &KeyedRecord| {
        let key = |key: &Hidden| MasterKey::new(Suite::of(&keyed.suite)?, &key.0);
        Some(Keyed {
            theirs: key(&keyed.theirs)?,
            ours: key(&keyed.ours)?,
            last_flight: keyed.last_flight.clone(),
            is_fresh: false,
        })
    };
    Association {
        number: *number,
        prints: prints.iter().filter_map(print).collect(),
        ice: ice.as_ref().map(|IceRecord { generation, theirs }| Ice { generation: *generation, theirs: theirs.clone() }),
        is_muxed: *muxed,
        protocol: protocol.clone(),
        mid: mid.clone(),
        begins_bundle: *begins_bundle,
        keyed: record.keyed.as_ref().and_then(keyed),
    }
}
