//! Whether a stream's packets are protected, and by which keys: what descriptions say of it (RFC 4568; RFC 8643 where it is optional; RFC 5763), and
//! what we say. Layer: pure.
//!
//! Each side of a call agrees with us for itself: one may be protected where the other is not, and both by other keys. A description may ask for
//! protection (`RTP/SAVP`), or have keys without asking (`RTP/AVP` with `a=crypto`), which who doesn't know them passes over.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sdp_types::{Attribute, Media, Session};
use sha2::Sha256;

use super::dtls::{Association, Keyed, Place};
use super::srtp::{Mark, MasterKey, Suite};
use crate::clock::Timestamp;
pub use crate::config::SrtpPolicy as Policy;

/// What we offer, the best first: who has none of them is none of today's.
const OFFERED: [Suite; 3] = [Suite::AeadAes256Gcm, Suite::AesCm128HmacSha1_80, Suite::AesCm128HmacSha1_32];
/// More `a=crypto` lines than this aren't looked at.
const MOST_LINES: usize = 16;
/// Marks that are kept for a direction.
const MARKS: usize = 4;
const CRYPTO: &str = "crypto";
/// What would have two phones agree on keys of which we know nothing, where they agree with us.
const OTHER_KEYS: [&str; 6] = [CRYPTO, FINGERPRINT, "setup", "tls-id", "zrtp-hash", "key-mgmt"];
const FINGERPRINT: &str = "fingerprint";
/// What ICE says beside a fingerprint.
const UFRAG: &str = "ice-ufrag";

/// What a description says of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Nothing of protection, or of another kind than ours (T.38): that passes as it is.
    #[default]
    Plain,
    /// `RTP/AVP` with keys (RFC 8643).
    Optional,
    /// `RTP/SAVP`.
    Secure,
    /// `UDP/TLS/RTP/SAVP`: the keys are agreed in DTLS.
    Dtls,
}

impl Profile {
    /// What a side is offered. `other` is what the offer says that it is made of.
    pub fn to_offer(policy: Policy, other: Self) -> Self {
        match policy {
            Policy::Forbid => Self::Plain,
            // Its offer is made of this one for each phone that is to have it, since those that ring beside it may want another.
            Policy::Dtls => Self::Dtls,
            Policy::Require => Self::Secure,
            Policy::Allow if other == Self::Plain => Self::Plain,
            Policy::Allow | Policy::Prefer => Self::Optional,
        }
    }
}

/// Why a description's protection can't be agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtectionError {
    /// Policy or offer require it.
    #[error("a stream is not protected, and has to be")]
    Missing,
    /// By policy.
    #[error("a stream is protected, and must not be")]
    Forbidden,
    /// None that we know, or an answer with one that wasn't offered.
    #[error("no usable key for a stream")]
    NoKey,
    /// In DTLS we are the server.
    #[error("a phone wants to be DTLS's server")]
    Role,
}

/// How one end of a stream is protected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protection {
    /// What its phone's last description says, or what it was offered.
    pub profile: Profile,
    /// The key that its phone sends by, and the number of the line that it stood in. None as long as nothing is agreed, or when it does without.
    pub theirs: Option<(u32, MasterKey)>,
    /// The phone has said what it does.
    pub is_agreed: bool,
    /// Ours are made of the call's secret and this number. Another phone that takes the place gets another, and so does this one when it has done
    /// without; all that one offer reaches are told the same.
    pub number: Option<u32>,
    /// How far their sources have come, and ours.
    pub marks: [Vec<Mark>; 2],
    /// With a phone whose profile is [`Profile::Dtls`].
    pub association: Option<Association>,
    /// As long as phones ring that are offered an association, or something else: each of them may answer, and its handshake be here before that.
    pub offered: Option<Offered>,
    /// Its last description has a profile with feedback (RFC 4585).
    pub feedback: bool,
}

/// What phones that ring were told beside the offer of an association.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offered {
    /// As in [`Protection`].
    pub profile: Profile,
    /// As in [`Protection`].
    pub number: Option<u32>,
}

/// What the relay does with the packets of an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shield {
    /// They are what they are.
    Plain,
    /// None pass: keys are not agreed yet.
    Closed,
    /// They are SRTP.
    Srtp(Box<Keys>),
}

/// By which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// What comes.
    pub theirs: MasterKey,
    /// What goes.
    pub ours: MasterKey,
    /// How far the sources of both had come.
    pub marks: [Vec<Mark>; 2],
    /// When the call's first key was made, for SRTCP's index.
    pub since: Timestamp,
    /// They are read from a record: another node may have used them.
    pub restored: bool,
}

/// What all keys of a call are made of; never printed.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Secret {
    /// Random.
    pub bytes: [u8; 32],
    /// When it was made.
    pub since: Timestamp,
    /// It is read from a record.
    pub restored: bool,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl Secret {
    fn key(&self, suite: Suite, number: u32) -> MasterKey {
        MasterKey::of_secret(suite, &self.derive("", &[number]))
    }

    /// What else is made of it: something else for each purpose and number.
    pub(super) fn derive(&self, purpose: &str, numbers: &[u32]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.bytes).expect("any length is a key's");
        mac.update(purpose.as_bytes());
        numbers.iter().for_each(|number| mac.update(&number.to_be_bytes()));
        mac.finalize().into_bytes().into()
    }
}

impl Protection {
    /// Takes an offer of its phone, whose BUNDLE group begins with a stream of this name.
    pub fn offered(&mut self, media: &Media, policy: Policy, bundle: Option<&str>) -> Result<(), ProtectionError> {
        let is_secure = match kind(media) {
            Some(Kind::Dtls) => return self.associate(media, policy, false, bundle),
            Some(Kind::Clear) if policy == Policy::Dtls => return Err(ProtectionError::Missing),
            Some(Kind::Keys) if policy == Policy::Dtls => return Err(ProtectionError::NoKey),
            Some(kind) => kind == Kind::Keys,
            None => {
                self.is_none_of_ours();
                return Ok(());
            }
        };
        let key = lines(media).find_map(|line| line.key.map(|key| (line.tag, key)));
        let profile = match (is_secure, policy) {
            (true, Policy::Forbid) => return Err(ProtectionError::Forbidden),
            (true, _) if key.is_none() => return Err(ProtectionError::NoKey),
            (true, _) => Profile::Secure,
            (false, Policy::Forbid) => Profile::Plain,
            (false, Policy::Require) if key.is_none() => return Err(ProtectionError::Missing),
            (false, _) if key.is_none() => Profile::Plain,
            (false, _) => Profile::Optional,
        };
        match key.filter(|_| profile != Profile::Plain) {
            Some(key) => self.agree(profile, key, false),
            None => self.do_without(),
        }
        Ok(())
    }

    /// Takes its phone's answer to what it was offered, which may have been made for another: its own policy counts.
    pub fn answered(&mut self, media: &Media, policy: Policy, bundle: Option<&str>) -> Result<(), ProtectionError> {
        let kind = kind(media);
        if let Some(Offered { profile, number }) = self.offered {
            // What was said before may have been another phone's.
            let former = std::mem::take(self);
            let (association, marks) = match kind {
                Some(Kind::Dtls) => (former.association, former.marks),
                Some(Kind::Clear | Kind::Keys) | None => Default::default(),
            };
            *self = Self { profile, number, association, marks, offered: former.offered, ..Self::default() };
        }
        let is_secure = match kind {
            Some(Kind::Dtls) => return self.associate(media, policy, true, bundle),
            Some(Kind::Clear | Kind::Keys) if policy == Policy::Dtls || self.association.is_some() => {
                return Err(ProtectionError::Missing);
            }
            Some(kind) => kind == Kind::Keys,
            None => {
                return match self.profile {
                    Profile::Secure | Profile::Dtls => Err(ProtectionError::Missing),
                    Profile::Plain | Profile::Optional => {
                        self.is_none_of_ours();
                        Ok(())
                    }
                };
            }
        };
        if is_secure != (self.profile == Profile::Secure) {
            return Err(if is_secure { ProtectionError::Forbidden } else { ProtectionError::Missing });
        }
        // One line, of a suite and with the number that were offered; what it was told once more had those that it had named itself.
        let agreed = self.agreed();
        let was_offered = |line: &Line, suite| (1..).zip(OFFERED).chain(agreed).any(|offered| offered == (line.tag, suite));
        let found = lines(media).find_map(|line| {
            let key = line.key.clone().filter(|key| was_offered(&line, key.suite()))?;
            Some((line.tag, key))
        });
        match (self.profile, found) {
            (Profile::Secure | Profile::Optional, Some(_)) if policy == Policy::Forbid => return Err(ProtectionError::Forbidden),
            (Profile::Optional | Profile::Plain, None) if policy == Policy::Require => return Err(ProtectionError::Missing),
            (Profile::Secure | Profile::Optional, Some(key)) => self.agree(self.profile, key, true),
            (Profile::Secure, None) => return Err(ProtectionError::NoKey),
            (Profile::Optional | Profile::Plain | Profile::Dtls, _) => {
                // Where it was to be DTLS that was another phone's.
                let profile = if self.profile == Profile::Dtls { Profile::Plain } else { self.profile };
                self.do_without();
                self.profile = profile;
            }
        }
        Ok(())
    }

    /// The phone's keys are agreed in DTLS.
    fn associate(&mut self, media: &Media, policy: Policy, answers: bool, bundle: Option<&str>) -> Result<(), ProtectionError> {
        let was_offered = self.association.is_some() || self.offered.is_some() || self.profile == Profile::Dtls;
        if policy == Policy::Forbid || (answers && !was_offered) {
            return Err(ProtectionError::Forbidden);
        }
        let former = std::mem::take(self);
        let mut association = former.association.unwrap_or_default();
        association.take(media, answers, bundle)?;
        // Other keys' sources begin anew.
        let marks = if association.keyed.is_some() { former.marks } else { Default::default() };
        let (profile, offered) = (Profile::Dtls, former.offered.filter(|_| answers));
        *self = Self { profile, is_agreed: true, marks, offered, association: Some(association), ..Self::default() };
        Ok(())
    }

    /// Phones are offered an association, or what stands here.
    pub(super) fn offers_both(&mut self) {
        if self.association.is_none() && self.offered.is_none() {
            self.offered = Some(Offered { profile: self.profile, number: self.number });
        }
    }

    /// Nobody rings any more: what was said last counts.
    pub(super) fn is_settled(&mut self) {
        self.offered = None;
    }

    /// Its phone has no stream here any more; if it has one again, that is another.
    pub(super) fn is_declined(&mut self) {
        match (self.offered, &mut self.association) {
            (Some(Offered { profile, number }), _) => *self = Self { profile, number, offered: self.offered, ..Self::default() },
            (None, Some(association)) => association.forget(),
            (None, None) => {}
        }
    }

    /// Its phone is to be offered a stream that another offers; `dtls` if it has others whose keys are agreed so. What was agreed stays until it answers.
    pub fn will_be_offered(&mut self, media: &Media, policy: Policy, other: Profile, dtls: bool) {
        // Once it has agreed to something, it is offered that.
        let profile = match kind(media) {
            None => Profile::Plain,
            Some(_) if dtls => Profile::Dtls,
            Some(_) if self.is_agreed && (self.theirs.is_some() || policy != Policy::Require) => self.profile,
            Some(_) => Profile::to_offer(policy, other),
        };
        if profile != self.profile {
            *self = Self { profile, ..Self::default() };
        }
        if dtls && profile == Profile::Dtls {
            self.association.get_or_insert_default();
        }
    }

    /// A handshake by our certificate of this number, with the phone of that one, has ended. Tells whether that is news.
    pub fn has_keys(&mut self, number: u32, certificate: &[u8], keyed: &Keyed) -> bool {
        let is_its = |association: &&mut Association| association.number == number && association.is_of(certificate);
        let waiting = self.association.as_mut().filter(is_its).filter(|association| association.keyed.is_none());
        let is_news = waiting.is_some();
        if let Some(association) = waiting {
            association.keyed = Some(keyed.clone());
            self.marks = Default::default();
        }
        is_news
    }

    /// The keys that both ends have: the phone's, and ours.
    fn keys(&self, secret: &Secret) -> Option<(MasterKey, MasterKey)> {
        if let Some(association) = &self.association {
            return association.keyed.as_ref().map(|keyed| (keyed.theirs.clone(), keyed.ours.clone()));
        }
        let (_, theirs) = self.theirs.as_ref()?;
        Some((theirs.clone(), secret.key(theirs.suite(), self.number?)))
    }

    /// The number and the suite of the line that was agreed.
    fn agreed(&self) -> Option<(u32, Suite)> {
        self.theirs.as_ref().map(|(tag, key)| (*tag, key.suite()))
    }

    fn agree(&mut self, profile: Profile, theirs: (u32, MasterKey), is_answer: bool) {
        if self.association.is_some() {
            *self = self.anew();
        }
        if self.theirs.as_ref().is_none_or(|(_, key)| *key != theirs.1) {
            // Its sources begin anew with another key; ours go on with the same.
            self.marks[0].clear();
            if self.theirs.as_ref().is_some_and(|(_, key)| key.suite() != theirs.1.suite()) {
                self.marks[1].clear();
                self.number = self.number.filter(|_| is_answer);
            }
        }
        (self.profile, self.theirs, self.is_agreed) = (profile, Some(theirs), true);
    }

    /// As if nothing had been said, but to phones that ring.
    fn anew(&self) -> Self {
        Self { offered: self.offered, ..Self::default() }
    }

    fn do_without(&mut self) {
        *self = Self { is_agreed: true, ..self.anew() };
    }

    /// It is of a kind that isn't protected by us: what it does when it is again isn't said.
    fn is_none_of_ours(&mut self) {
        *self = self.anew();
    }

    /// Writes the profile that its phone knows into a description for it.
    pub fn write_profile(&self, media: &mut Media, answers: bool) {
        if kind(media).is_none() {
            return;
        }
        if let Some(association) = &self.association {
            return association.write_profile(media);
        }
        // RFC 3264 §6: an answer has the offer's, whatever the other phone has.
        let feedback = if answers { self.feedback } else { has_feedback(media) && kind(media) != Some(Kind::Dtls) };
        let profile = if self.profile == Profile::Secure { "RTP/SAVP" } else { "RTP/AVP" };
        media.attributes.retain(|attribute| !OTHER_KEYS.contains(&attribute.attribute.as_str()));
        media.proto = format!("{profile}{}", if feedback { "F" } else { "" });
    }

    /// The same with our keys. `made` says how many numbers to make keys of were given.
    pub(super) fn write(&mut self, media: &mut Media, place: Place, answers: bool, secret: &Secret, made: &mut u32) {
        if kind(media).is_none() {
            return;
        }
        if let Some(association) = &self.association {
            return association.write(media, place, answers, secret);
        }
        self.write_profile(media, answers);
        let lines: Vec<(u32, Suite)> = match (self.profile, self.agreed()) {
            (Profile::Plain | Profile::Dtls, _) => Vec::new(),
            (Profile::Optional | Profile::Secure, Some(agreed)) => vec![agreed],
            (Profile::Optional | Profile::Secure, None) if answers => Vec::new(),
            (Profile::Optional | Profile::Secure, None) => (1..).zip(OFFERED).collect(),
        };
        if lines.is_empty() {
            return;
        }
        let number = *self.number.get_or_insert_with(|| {
            *made += 1;
            *made
        });
        let line = |(tag, suite): (u32, Suite)| Attribute {
            attribute: CRYPTO.into(),
            value: Some(format!("{tag} {} inline:{}", suite.name(), STANDARD.encode(secret.key(suite, number).bytes()))),
        };
        media.attributes.extend(lines.into_iter().map(line));
    }

    /// What the relay does.
    pub fn shield(&self, secret: &Secret) -> Shield {
        match (self.keys(secret), self.profile) {
            (Some((theirs, ours)), _) => Shield::Srtp(Box::new(Keys {
                theirs,
                ours,
                marks: self.marks.clone(),
                since: secret.since,
                restored: match self.association.as_ref().and_then(|association| association.keyed.as_ref()) {
                    Some(keyed) => !keyed.is_fresh,
                    None => secret.restored,
                },
            })),
            (None, Profile::Plain) => Shield::Plain,
            (None, Profile::Optional) if self.is_agreed && self.theirs.is_none() => Shield::Plain,
            (None, Profile::Optional | Profile::Secure | Profile::Dtls) => Shield::Closed,
        }
    }

    /// A source has come so far: one of the phone's, or one of ours; by the key of this mark. Tells whether that is news.
    pub fn come_to(&mut self, (is_ours, key): (bool, u64), mark: Mark, secret: &Secret) -> bool {
        let own = match self.keys(secret) {
            Some((_, ours)) if is_ours => ours.mark(),
            Some((theirs, _)) => theirs.mark(),
            None => return false,
        };
        let marks = &mut self.marks[usize::from(is_ours)];
        if own != key || marks.iter().any(|known| known.ssrc == mark.ssrc && known.index >= mark.index) {
            return false;
        }
        marks.retain(|known| known.ssrc != mark.ssrc);
        if marks.len() >= MARKS {
            // What has not gone round yet can be guessed.
            let at = marks.iter().rposition(|mark| mark.index >> 16 == 0).unwrap_or(marks.len() - 1);
            marks.remove(at);
        }
        marks.insert(0, mark);
        true
    }
}

/// What a description says of keys for all streams is said of each that doesn't say it itself, but of those that have keys of our kind.
pub(super) fn bring_down(sdp: &mut Session) {
    let is_brought = |name: &str| OTHER_KEYS.contains(&name) || name == UFRAG;
    let of_all: Vec<Attribute> = sdp.attributes.extract_if(.., |attribute| is_brought(&attribute.attribute)).collect();
    for media in &mut sdp.medias {
        let has = |media: &Media, name: &str| media.attributes.iter().any(|attribute| attribute.attribute == name);
        if !has(media, CRYPTO) {
            let missing: Vec<_> =
                of_all.iter().filter(|one| one.attribute != CRYPTO && !has(media, &one.attribute)).cloned().collect();
            media.attributes.extend(missing);
        }
    }
}

/// Whether a stream's profile is one with feedback (RFC 4585, RFC 5124).
pub(super) fn has_feedback(media: &Media) -> bool {
    media.proto.ends_with(['F', 'f'])
}

/// How a stream's profile says that it is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not at all, whatever it may have keys for.
    Clear,
    /// By keys in the description.
    Keys,
    /// By keys that are agreed in DTLS.
    Dtls,
}

/// None if it is of another kind than ours.
pub(super) fn kind(media: &Media) -> Option<Kind> {
    let is = |known: [&str; 2]| known.iter().any(|known| media.proto.eq_ignore_ascii_case(known));
    let has = |name: &str| media.attributes.iter().any(|attribute| attribute.attribute == name);
    match () {
        () if is(["RTP/AVP", "RTP/AVPF"]) => Some(Kind::Clear),
        () if is(["UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF"]) => Some(Kind::Dtls),
        () if !is(["RTP/SAVP", "RTP/SAVPF"]) => None,
        () if has(CRYPTO) => Some(Kind::Keys),
        () if has(FINGERPRINT) => Some(Kind::Dtls),
        // By keys that are agreed in another way.
        () if has("key-mgmt") => None,
        () => Some(Kind::Keys),
    }
}

/// An `a=crypto` line (RFC 4568 §9.1).
struct Line {
    tag: u32,
    /// None if it is of a suite that we don't have, or asks for something else that we don't.
    key: Option<MasterKey>,
}

fn lines(media: &Media) -> impl Iterator<Item = Line> {
    let values = media.attributes.iter().filter(|attribute| attribute.attribute == CRYPTO);
    values.filter_map(|attribute| line(attribute.value.as_deref()?)).take(MOST_LINES)
}

fn line(value: &str) -> Option<Line> {
    let mut words = value.split_ascii_whitespace();
    let tag = words.next()?.parse().ok()?;
    let (suite, keys) = (words.next()?, words.next()?);
    // All but a hint of what the receiver's window is (WSH) would have to be known.
    let is_usual = words.all(|parameter| parameter.starts_with("WSH="));
    let key = Suite::of(suite).filter(|_| is_usual).and_then(|suite| master_key(suite, keys));
    Some(Line { tag, key })
}

/// One key, without a master key identifier: `inline:key[|lifetime]`.
fn master_key(suite: Suite, text: &str) -> Option<MasterKey> {
    let mut parts = text.strip_prefix("inline:")?.split('|');
    let key = STANDARD.decode(parts.next()?).ok()?;
    // What has a colon is an identifier, which would be in each packet.
    if parts.any(|part| part.contains(':')) {
        return None;
    }
    MasterKey::new(suite, &key)
}

#[cfg(test)]
mod tests;
