//! The formats of an audio stream, as a description lists them (RFC 3551, RFC 4566 §6, RFC 7587). Layer: pure.

use sdp_types::{Attribute, Media};

pub use crate::config::Codec;

/// More formats than this in one stream aren't looked at.
const MOST_FORMATS: usize = 64;
/// Payload types that mean nothing by themselves (RFC 3551 §3).
const DYNAMIC: std::ops::RangeInclusive<u8> = 96..=127;
/// What we want of a phone that sends Opus to us: it may protect packets by their successors, and more than speech needs is lost on us.
const OPUS_PARAMETERS: &str = "useinbandfec=1;maxplaybackrate=16000";
/// The keys of a telephone (RFC 4733 §3.2).
const EVENTS_PARAMETERS: &str = "0-15";

impl Codec {
    /// As `a=rtpmap` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU/8000",
            Self::Pcma => "PCMA/8000",
            // RFC 3551 §4.5.2: its clock is said to be half of what it is.
            Self::G722 => "G722/8000",
            // RFC 7587 §7: always two channels, whatever is in them.
            Self::Opus => "opus/48000/2",
        }
    }

    /// Ticks of its RTP timestamps in a second.
    pub fn clock(self) -> u32 {
        match self {
            Self::Pcmu | Self::Pcma | Self::G722 => 8000,
            Self::Opus => 48_000,
        }
    }

    /// Its payload type, if that is the same everywhere.
    fn payload(self) -> Option<u8> {
        match self {
            Self::Pcmu => Some(0),
            Self::Pcma => Some(8),
            Self::G722 => Some(9),
            Self::Opus => None,
        }
    }

    fn parameters(self) -> Option<String> {
        match self {
            Self::Pcmu | Self::Pcma | Self::G722 => None,
            Self::Opus => Some(OPUS_PARAMETERS.into()),
        }
    }
}

/// What a format is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sound that we can code.
    Coded(Codec),
    /// `telephone-event` (RFC 4733).
    Events,
    /// Comfort noise (RFC 3389).
    Noise,
    /// Other formats, once more (RFC 2198), or errors of theirs mended (RFC 8627): nothing by itself.
    Repair,
    /// Sound that passes as it is.
    Other,
}

/// One format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// Payload type.
    pub payload: u8,
    /// As `a=rtpmap` has it.
    pub name: String,
    /// What it is to us.
    pub kind: Kind,
    /// Ticks of its timestamps in a second.
    pub clock: u32,
    /// `a=fmtp`.
    pub parameters: Option<String>,
}

impl Format {
    /// One of ours.
    pub fn of(codec: Codec, payload: u8) -> Self {
        Self {
            payload,
            name: codec.name().into(),
            kind: Kind::Coded(codec),
            clock: codec.clock(),
            parameters: codec.parameters(),
        }
    }

    /// The keys of a telephone, by this clock.
    pub fn events(clock: u32, payload: u8) -> Self {
        let name = format!("telephone-event/{clock}");
        Self { payload, name, kind: Kind::Events, clock, parameters: Some(EVENTS_PARAMETERS.into()) }
    }

    /// By what `a=rtpmap` and `a=fmtp` say of it.
    pub fn named(payload: u8, name: &str, parameters: Option<String>) -> Self {
        let mut parts = name.split('/');
        let (encoding, clock) =
            (parts.next().unwrap_or(""), parts.next().and_then(|clock| clock.trim().parse().ok()).unwrap_or(0));
        let is = |known: &str| encoding.eq_ignore_ascii_case(known);
        let kind = match clock {
            8000 if is("PCMU") => Kind::Coded(Codec::Pcmu),
            8000 if is("PCMA") => Kind::Coded(Codec::Pcma),
            8000 if is("G722") => Kind::Coded(Codec::G722),
            48_000 if is("opus") => Kind::Coded(Codec::Opus),
            _ if is("telephone-event") => Kind::Events,
            _ if is("CN") => Kind::Noise,
            _ if is("red") || is("ulpfec") || is("flexfec") || is("parityfec") => Kind::Repair,
            _ => Kind::Other,
        };
        Self { payload, name: name.trim().into(), kind, clock, parameters }
    }

    /// Whether it is the same as another, by whatever number.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self.kind, other.kind) {
            (Kind::Coded(a), Kind::Coded(b)) => a == b,
            (Kind::Events, Kind::Events) | (Kind::Noise, Kind::Noise) => self.clock == other.clock,
            (Kind::Repair | Kind::Other, Kind::Repair | Kind::Other) => {
                // One that nobody has named is its number.
                plain_name(&self.name) == plain_name(&other.name) && (!self.name.is_empty() || self.payload == other.payload)
            }
            (Kind::Coded(_) | Kind::Events | Kind::Noise | Kind::Repair | Kind::Other, _) => false,
        }
    }

    /// Whether it is sound by itself.
    pub fn is_sound(&self) -> bool {
        match self.kind {
            Kind::Coded(_) | Kind::Other => true,
            Kind::Events | Kind::Noise | Kind::Repair => false,
        }
    }

    /// What we can code of it.
    pub fn codec(&self) -> Option<Codec> {
        match self.kind {
            Kind::Coded(codec) => Some(codec),
            Kind::Events | Kind::Noise | Kind::Repair | Kind::Other => None,
        }
    }
}

/// The one in a list that is the same as a format: by the same number, if there are several.
pub(crate) fn like<'a>(list: &'a [Format], format: &Format) -> Option<&'a Format> {
    let mut all = list.iter().filter(|other| other.is_like(format));
    all.clone().find(|other| other.payload == format.payload).or_else(|| all.next())
}

/// `G729/8000` and `g729/8000/1` are the same.
fn plain_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.strip_suffix("/1").map(str::to_owned).unwrap_or(name)
}

/// The formats of a stream in their order. One that isn't explained is what `told` says of its number.
pub fn read(media: &Media, told: &[Format]) -> Vec<Format> {
    let value = |name: &str, payload: u8| {
        let mut values = media.attributes.iter().filter(|attribute| attribute.attribute == name);
        values.find_map(|attribute| {
            let (number, value) = attribute.value.as_deref()?.trim().split_once(' ')?;
            (number.parse() == Ok(payload)).then(|| value.trim().to_owned())
        })
    };
    let format = |payload: u8| {
        let parameters = value("fmtp", payload);
        match value("rtpmap", payload).or_else(|| implied(payload).map(str::to_owned)) {
            Some(name) => Format::named(payload, &name, parameters),
            None => match told.iter().find(|format| format.payload == payload) {
                Some(known) => Format { parameters, ..known.clone() },
                None => Format::named(payload, "", parameters),
            },
        }
    };
    let numbers = media.fmt.split_ascii_whitespace().filter_map(|number| number.parse().ok());
    numbers.filter(|payload| *payload < 128).take(MOST_FORMATS).map(format).collect()
}

/// RFC 3551 §6, those that are seen.
fn implied(payload: u8) -> Option<&'static str> {
    Some(match payload {
        0 => "PCMU/8000",
        3 => "GSM/8000",
        4 => "G723/8000",
        8 => "PCMA/8000",
        9 => "G722/8000",
        13 => "CN/8000",
        15 => "G728/8000",
        18 => "G729/8000",
        _ => return None,
    })
}

/// Makes a stream's list be this one. What is said of formats that aren't in it goes; `renumbered` says which number a format had, where that is another.
pub fn write(media: &mut Media, formats: &[Format], renumbered: impl Fn(&Format) -> u8) {
    media.fmt = formats.iter().map(|format| format.payload.to_string()).collect::<Vec<_>>().join(" ");
    let former = std::mem::take(&mut media.attributes);
    let of_format = |attribute: &Attribute| ["rtpmap", "fmtp", "rtcp-fb"].contains(&attribute.attribute.as_str());
    let (said, others): (Vec<_>, Vec<_>) = former.into_iter().partition(of_format);
    let mut say = |name: &str, value: String| media.attributes.push(Attribute { attribute: name.into(), value: Some(value) });
    // What is for all formats.
    said.iter()
        .filter_map(|said| said.value.as_ref().filter(|value| value.starts_with("* ")).map(|value| (said, value)))
        .for_each(|(said, value)| say(&said.attribute, value.clone()));
    for format in formats {
        let number = format.payload;
        // One that nobody has named is known by its number.
        if !format.name.is_empty() {
            say("rtpmap", format!("{number} {}", format.name));
        }
        if let Some(parameters) = &format.parameters {
            say("fmtp", format!("{number} {parameters}"));
        }
        let before = format!("{} ", renumbered(format));
        let feedback = said
            .iter()
            .filter(|said| said.attribute == "rtcp-fb")
            .filter_map(|said| said.value.as_deref()?.strip_prefix(&before));
        feedback.for_each(|value| say("rtcp-fb", format!("{number} {value}")));
    }
    media.attributes.extend(others);
}

/// The number of a format that we add: its own, the one that it has had before, or one that nobody uses.
pub(crate) fn number(codec: Option<Codec>, is_it: impl Fn(&Format) -> bool, given: &[Format], used: &[Format]) -> Option<u8> {
    let own = codec.and_then(Codec::payload).filter(|own| used.iter().all(|format| format.payload != *own));
    let is_free = |number: &u8| used.iter().chain(given).all(|format| format.payload != *number);
    let unused = |number: &u8| used.iter().all(|format| format.payload != *number);
    let before = || given.iter().filter(|format| is_it(format)).map(|format| format.payload).find(unused);
    own.or_else(before).or_else(|| DYNAMIC.clone().find(is_free))
}
