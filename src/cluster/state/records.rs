//! What is stored and replicated: types of their own, so that a change in memory never changes the log.
//! Layer: pure.
//!
//! SIP messages are stored as the bytes that they are on the wire: no format is more stable. Fields are
//! encoded with their names (MessagePack), so that a later version can add some (`#[serde(default)]`); and the whole is
//! written densely ([`dense`]).

use std::net::SocketAddr;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::dense::{self, DenseError};
use super::quality::LegQualityRecord;
use crate::clock::Timestamp;
use crate::config::SrtpPolicy;
use crate::ids::{Aor, CallId, VnodeId};

/// The latest version that this release writes. A record of a later one is refused, not guessed at.
pub const VERSION: u16 = 5;
/// The version of a record that releases without SRTP read rightly, that of one which those without DTLS do, which those without codecs do, and which those
/// without recordings do.
const PLAIN: u16 = 1;
const KEYS: u16 = 2;
const CERTIFIED: u16 = 3;
const CODED: u16 = 4;

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not MessagePack, or fields are missing.
    #[error("a record is malformed")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// It is written in a way that can't be read.
    #[error("a record can't be unpacked: {0}")]
    Dense(#[from] DenseError),
    /// A later release wrote it.
    #[error("a record is of version {found}, this release reads up to {VERSION}")]
    Version {
        /// The version it says.
        found: u16,
    },
}

#[derive(Serialize)]
struct Written<'a, T> {
    version: u16,
    record: &'a T,
}

#[derive(Deserialize)]
struct Read<T> {
    version: u16,
    record: T,
}

#[derive(Deserialize)]
struct VersionOf {
    version: u16,
}

/// Writes a record with its version.
pub fn encode<T: Serialize>(record: &T) -> Bytes {
    encode_as(PLAIN, record)
}

/// Writes a call. Who doesn't know of keys would pass on in clear what has to be protected, and who doesn't know of codecs what a phone can't hear;
/// and who doesn't know of recordings would lose one. He can't read it.
pub fn encode_call(record: &CallRecord) -> Bytes {
    let before = record.media.before.iter().flat_map(|before| &before.streams);
    let is_coded = |stream: &StreamRecord| stream.formats.as_ref().is_some_and(|formats| formats.needed);
    let version = match &record.media.secret {
        _ if record.media.recording.is_some() => VERSION,
        _ if record.media.streams.iter().chain(before).any(is_coded) => CODED,
        Some(secret) if secret.certified => CERTIFIED,
        Some(_) => KEYS,
        None => PLAIN,
    };
    encode_as(version, record)
}

fn encode_as<T: Serialize>(version: u16, record: &T) -> Bytes {
    let written = rmp_serde::to_vec_named(&Written { version, record });
    dense::pack(&written.expect("a record holds nothing that MessagePack can't say"))
}

/// The version of a record.
#[cfg(test)]
pub(crate) fn version_of(bytes: &[u8]) -> u16 {
    rmp_serde::from_slice::<VersionOf>(&dense::unpack(bytes).unwrap()).unwrap().version
}

/// Reads a record of this or an earlier version.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    let plain = dense::unpack(bytes)?;
    let (version, read) = match rmp_serde::from_slice::<Read<T>>(&plain) {
        Ok(Read { version, record }) => (version, Ok(record)),
        // A later release may have changed everything but this.
        Err(error) => match rmp_serde::from_slice(&plain) {
            Ok(VersionOf { version }) => (version, Err(error)),
            Err(_) => return Err(error.into()),
        },
    };
    if version > VERSION {
        return Err(RecordError::Version { found: version });
    }
    Ok(read?)
}

/// A call: both dialogs, what is open on them, and its media.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::CallState, which it is made from")]
pub struct CallRecord {
    pub id: CallId,
    pub vnode: VnodeId,
    pub caller: String,
    pub callee: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<String>,
    pub created: Timestamp,
    pub answered: Option<Timestamp>,
    pub ended: Option<EndingRecord>,
    pub legs: Vec<LegRecord>,
    /// The highest number of a leg that is no more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last: u8,
    /// The leg in the caller's place, if that is another.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first: u8,
    /// The leg that has answered; in an older record that has two, the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answerer: Option<u8>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<TargetRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locating: Vec<String>,
    /// Interval and least interval of sessions, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<[u32; 2]>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub redirects: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breadth: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diverted: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referral: Option<ReferralRecord>,
    /// Who was referred, and what each side calls it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referred: Vec<(u8, u32, u32)>,
    pub relays: Vec<RelayRecord>,
    pub media: MediaRecord,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// A transfer that is being carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::Referral")]
pub struct ReferralRecord {
    pub by: u8,
    pub asked: u32,
    pub to: String,
    #[serde(default)]
    pub must_replace: bool,
    pub after: u8,
    pub begun: Timestamp,
    pub now: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<TakenRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Bytes>,
}

/// Who takes the call of a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::Taken")]
pub struct TakenRecord {
    pub leg: u8,
    pub offer: BodyRecord,
    pub until: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u32>,
    #[serde(default)]
    pub cancelled: bool,
}

/// A phone that may be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::Target")]
pub struct TargetRecord {
    pub contact: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
    pub flow: FlowRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<FlowRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<PhoneRecord>,
    pub q: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// What a new owner has to know of every call at once, read from a [`CallRecord`] without its messages.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "as in CallRecord")]
pub struct CallGlance {
    pub created: Timestamp,
    pub answered: Option<Timestamp>,
    pub ended: Option<EndingRecord>,
    pub legs: Vec<LegGlance>,
    #[serde(default)]
    pub referral: Option<IgnoredAny>,
    pub relays: Vec<IgnoredAny>,
    pub media: MediaRecord,
}

/// What is open on a leg.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "as in LegRecord")]
pub struct LegGlance {
    pub inbound: Option<IgnoredAny>,
    pub out: Option<InviteOutGlance>,
    pub bye: Option<IgnoredAny>,
    #[serde(default)]
    pub reinvite: Option<IgnoredAny>,
    #[serde(default)]
    pub timer: Option<TimerRecord>,
}

/// How far an INVITE of ours got.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "as in InviteOutRecord")]
pub struct InviteOutGlance {
    pub stage: String,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::Ending")]
pub struct EndingRecord {
    pub at: Timestamp,
    pub status: u16,
    pub by: String,
}

/// One leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::CallLeg")]
pub struct LegRecord {
    /// Its number; where it isn't said, its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u8>,
    pub dialog: DialogRecord,
    pub inbound: Option<InviteInRecord>,
    pub out: Option<InviteOutRecord>,
    pub bye: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<PhoneRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u16>,
    pub gone: bool,
    /// Our re-INVITE that asks it to come to another address of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinvite: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<TimerRecord>,
    /// UPDATE, and session timers.
    #[serde(default, skip_serializing_if = "nothing_spoken")]
    pub speaks: [bool; 2],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<UpdatedRecord>,
    /// What it has described reliably before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early: Option<BodyRecord>,
    /// The answer that our last ACK brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<UpdatedRecord>,
}

fn nothing_spoken(speaks: &[bool; 2]) -> bool {
    !speaks[0] && !speaks[1]
}

/// An UPDATE that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::Updated")]
pub struct UpdatedRecord {
    pub cseq: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyRecord>,
}

/// A session timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::SessionTimer")]
pub struct TimerRecord {
    pub interval: u32,
    pub ours: bool,
    pub since: Timestamp,
}

/// A registered phone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::registrar::Phone")]
pub struct PhoneRecord {
    pub aor: Aor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// One dialog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::dialog::Dialog")]
pub struct DialogRecord {
    pub call_id: String,
    pub local: String,
    pub local_tag: String,
    pub remote: String,
    pub remote_tag: Option<String>,
    pub local_cseq: u32,
    pub remote_cseq: Option<u32>,
    pub remote_target: String,
    pub route_set: Vec<String>,
    pub contact: String,
    pub flow: FlowRecord,
}

/// The way to a phone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::dialog::Flow")]
pub struct FlowRecord {
    pub vnode: VnodeId,
    pub transport: String,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub connection: u32,
}

/// A phone's INVITE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::InviteIn")]
pub struct InviteInRecord {
    pub request: Bytes,
    pub came_by: FlowRecord,
    /// `pending`, `progress`, `answered` or `rejected`.
    pub stage: String,
    pub status: Option<u16>,
    pub body: Option<BodyRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reliable: Option<ReliableRecord>,
}

/// A provisional answer that has to be acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::Reliable")]
pub struct ReliableRecord {
    pub rseq: u32,
    pub acked: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub described: Option<BodyRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextRecord>,
}

/// What is said after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in InviteInRecord")]
pub struct NextRecord {
    pub stage: String,
    pub status: Option<u16>,
    pub body: Option<BodyRecord>,
}

/// An INVITE of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::InviteOut")]
pub struct InviteOutRecord {
    pub request: Bytes,
    /// `calling`, `proceeding`, `cancelling`, `ack_waits` or `refused`.
    pub stage: String,
    pub late_offer: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagram: Option<FlowRecord>,
}

/// A request on its way from one side to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::Relay")]
pub struct RelayRecord {
    pub from: u8,
    pub came_by: FlowRecord,
    pub request: Bytes,
    pub onward: Bytes,
    /// Where it isn't said, the other of two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u8>,
    pub answered: bool,
    pub answer: Option<BodyRecord>,
    pub late_offer: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
}

/// A body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct BodyRecord {
    pub content_type: String,
    pub bytes: Bytes,
}

/// The media of a call: its streams, each with two legs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::session")]
pub struct MediaRecord {
    pub streams: Vec<StreamRecord>,
    /// How often our own description was written, by leg: the version in its `o=` line only grows.
    pub versions: [u64; 2],
    /// Whether a leg is on hold.
    #[serde(default)]
    pub held: [bool; 2],
    /// What each leg was told last, where that may have to be told again.
    #[serde(default, skip_serializing_if = "nothing_told")]
    pub told: [Option<Bytes>; 2],
    /// How many `m=` lines each leg's dialog has, where that isn't all of the streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<[usize; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<BeforeRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRecord>,
    /// Whether the sound is kept, and not only was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<bool>,
    /// What has been measured of each leg: numbers, whose places stay what they are, and behind which more may come. Who doesn't know of them loses
    /// them, and nothing else.
    #[serde(default, skip_serializing_if = "nothing_measured")]
    pub figures: [Vec<u64>; 2],
}

fn nothing_measured(figures: &[Vec<u64>; 2]) -> bool {
    figures.iter().all(Vec::is_empty)
}

/// What keys are; never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub Bytes);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hidden")
    }
}

/// What all keys of a call are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::protection")]
pub struct SecretRecord {
    pub bytes: Hidden,
    pub since: Timestamp,
    pub keys_made: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub certified: bool,
}

/// How one end's packets are protected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::protection")]
pub struct ProtectionRecord {
    /// `plain`, `optional`, `secure` or `dtls`.
    pub profile: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theirs: Option<KeyRecord>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agreed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// Source and index: the phone's, then ours.
    #[serde(default, skip_serializing_if = "no_marks")]
    pub marks: [Vec<(u32, u64)>; 2],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub association: Option<AssociationRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<OfferedRecord>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub feedback: bool,
}

/// What phones that ring were told beside the offer of an association.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::protection")]
pub struct OfferedRecord {
    pub profile: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
}

/// An association in DTLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::dtls")]
pub struct AssociationRecord {
    pub number: u32,
    /// Name of the hash, and what it is.
    pub prints: Vec<(String, Bytes)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ice: Option<IceRecord>,
    pub muxed: bool,
    pub protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mid: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begins_bundle: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyed: Option<KeyedRecord>,
}

/// A phone's ICE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::dtls")]
pub struct IceRecord {
    pub generation: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theirs: Option<String>,
}

/// What came of a handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::dtls")]
pub struct KeyedRecord {
    pub suite: String,
    pub theirs: Hidden,
    pub ours: Hidden,
    pub last_flight: Vec<Bytes>,
}

fn no_marks(marks: &[Vec<(u32, u64)>; 2]) -> bool {
    marks.iter().all(Vec::is_empty)
}

/// A phone's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::protection")]
pub struct KeyRecord {
    pub tag: u32,
    /// As `a=crypto` names it.
    pub suite: String,
    pub key: Hidden,
}

/// What stood before an offer that has no answer yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::session")]
pub struct BeforeRecord {
    pub by: u8,
    pub instead: bool,
    pub lines: [usize; 2],
    pub streams: Vec<StreamRecord>,
    pub held: [bool; 2],
    #[serde(default, skip_serializing_if = "nothing_told")]
    pub told: [Option<Bytes>; 2],
}

fn nothing_told(told: &[Option<Bytes>; 2]) -> bool {
    told.iter().all(Option::is_none)
}

/// One stream (an `m=` line) and its two ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::session")]
pub struct StreamRecord {
    pub legs: [StreamLegRecord; 2],
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub declined: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formats: Option<FormatsRecord>,
    /// Which of the two sends, hears and holds, where that isn't as usual: who doesn't know of it plays no music.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ways: Option<[u8; 2]>,
    /// Not RTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub other: bool,
}

/// What was said of a stream's formats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::negotiation")]
pub struct FormatsRecord {
    pub theirs: [Vec<FormatRecord>; 2],
    /// None where it is what the other side has said.
    pub told: [Option<Vec<FormatRecord>>; 2],
    #[serde(default, skip_serializing_if = "none_given")]
    pub given: [Vec<FormatRecord>; 2],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<[Vec<FormatRecord>; 2]>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keys: bool,
    /// Who passed everything on as it is would be wrong.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needed: bool,
}

fn none_given(given: &[Vec<FormatRecord>; 2]) -> bool {
    given.iter().all(Vec::is_empty)
}

/// Payload type, name, parameters.
pub type FormatRecord = (u8, String, Option<String>);

/// One end of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in media::core::session")]
pub struct StreamLegRecord {
    /// Our RTP address; RTCP is on the port above.
    pub local: Option<SocketAddr>,
    /// Where the peer's SDP says that it listens.
    pub signalled: Option<SocketAddr>,
    pub signalled_rtcp: Option<SocketAddr>,
    /// Where its packets come from.
    pub latched: Option<SocketAddr>,
    pub latched_rtcp: Option<SocketAddr>,
    /// Where it isn't said, nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<ProtectionRecord>,
    /// How the times go of what is played to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plays: Option<u32>,
}

/// One contact of an address-of-record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::registrar::Binding")]
pub struct BindingRecord {
    pub contact: String,
    pub instance: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reg_id: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
    pub q: u16,
    pub call_id: String,
    pub cseq: u32,
    pub expires: Timestamp,
    pub flow: FlowRecord,
    pub user_agent: Option<String>,
}

/// Who watches an address-of-record, and what has been published of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::events::Watched")]
pub struct WatchedRecord {
    pub subscriptions: Vec<SubscriptionRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<PublicationRecord>,
}

/// Who wants to know what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::events::Subscription")]
pub struct SubscriptionRecord {
    pub id: CallId,
    pub dialog: DialogRecord,
    pub package: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    pub expires: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<PhoneRecord>,
}

/// What somebody says of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::events::Publication")]
pub struct PublicationRecord {
    pub tag: String,
    pub package: String,
    pub expires: Timestamp,
    pub body: Bytes,
    pub call_id: String,
    pub cseq: u32,
}

/// The users of a call, read from a [`CallRecord`] without anything else.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "as in CallRecord")]
pub struct CallUsers {
    pub caller: String,
    pub callee: String,
    pub legs: Vec<LegUser>,
}

/// The user of a leg.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "as in LegRecord")]
pub struct LegUser {
    #[serde(default)]
    pub phone: Option<PhoneRecord>,
}

/// A user: never the password, only what digest needs (RFC 7616 §3.4.2's H(A1)).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Lower-case hex.
    pub ha1_md5: String,
    /// Lower-case hex.
    pub ha1_sha256: String,
    /// Whether its streams are to be protected; where it isn't said, `media.srtp` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srtp: Option<SrtpPolicy>,
    /// Whether its calls are recorded; where it isn't said, `recording.calls` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<bool>,
}

impl std::fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserRecord(hidden)")
    }
}

/// What accounting gets of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in sip::b2bua::Cdr")]
pub struct CdrRecord {
    pub call: CallId,
    pub caller: String,
    pub callee: String,
    pub created: Timestamp,
    pub answered: Option<Timestamp>,
    pub ended: Timestamp,
    /// The SIP status of the call's end: 200 when it was answered.
    pub status: u16,
    /// `caller`, `callee`, `system` or `operator`.
    pub ended_by: String,
    /// There is a recording of it, or will be.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub recorded: bool,
    /// Of the caller's leg and of the callee's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legs: Option<Box<[LegQualityRecord; 2]>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_version_is_refused_and_says_so() {
        #[derive(Serialize)]
        struct Later {
            version: u16,
            record: u8,
        }
        let bytes = rmp_serde::to_vec_named(&Later { version: VERSION + 1, record: 7 }).unwrap();
        assert_eq!(
            decode::<u8>(&bytes).unwrap_err().to_string(),
            format!("a record is of version {}, this release reads up to {VERSION}", VERSION + 1)
        );
        assert!(matches!(decode::<u8>(b"rubbish"), Err(RecordError::Malformed(_))));
    }

    #[test]
    fn fields_that_a_later_release_adds_are_passed_over() {
        #[derive(Serialize)]
        struct Wider {
            content_type: String,
            bytes: Bytes,
            language: String,
        }
        let wider = Wider { content_type: "text/plain".into(), bytes: Bytes::from_static(b"x"), language: "eo".into() };
        let read: BodyRecord = decode(&encode(&wider)).unwrap();
        assert_eq!(read.content_type, "text/plain");
    }
}
