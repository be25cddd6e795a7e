//! Whether a stream's packets are protected, and by which keys: what descriptions say of it (RFC 4568; RFC 8643 where it is optional), and what we say.
//! Layer: pure.
//!
//! Each side of a call agrees with us for itself: one may be protected where the other is not, and both by other keys. A description may ask for
//! protection (`RTP/SAVP`), or have keys without asking (`RTP/AVP` with `a=crypto`), which who doesn't know them passes over.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sdp_types::{Attribute, Media, Session};
use sha2::Sha256;

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
const OTHER_KEYS: [&str; 6] = [CRYPTO, "fingerprint", "setup", "tls-id", "zrtp-hash", "key-mgmt"];

/// What a description says of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Nothing of protection, or of another kind than ours (DTLS, T.38): that passes as it is.
    #[default]
    Plain,
    /// `RTP/AVP` with keys (RFC 8643).
    Optional,
    /// `RTP/SAVP`.
    Secure,
}

impl Profile {
    /// What a side is offered. `other` is what the offer says that it is made of.
    pub fn to_offer(policy: Policy, other: Self) -> Self {
        match policy {
            Policy::Forbid => Self::Plain,
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
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.bytes).expect("any length is a key's");
        mac.update(&number.to_be_bytes());
        MasterKey::of_secret(suite, &mac.finalize().into_bytes())
    }
}

impl Protection {
    /// Takes an offer of its phone.
    pub fn offered(&mut self, media: &Media, policy: Policy) -> Result<(), ProtectionError> {
        let Some(is_secure) = is_secure(media) else {
            if policy == Policy::Require && is_clear(media) {
                return Err(ProtectionError::Missing);
            }
            self.is_none_of_ours();
            return Ok(());
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
    pub fn answered(&mut self, media: &Media, policy: Policy) -> Result<(), ProtectionError> {
        let Some(is_secure) = is_secure(media) else {
            return match self.profile {
                _ if policy == Policy::Require && is_clear(media) => Err(ProtectionError::Missing),
                Profile::Secure => Err(ProtectionError::Missing),
                Profile::Plain | Profile::Optional => {
                    self.is_none_of_ours();
                    Ok(())
                }
            };
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
            (Profile::Optional | Profile::Plain, _) => {
                let profile = self.profile;
                self.do_without();
                self.profile = profile;
            }
        }
        Ok(())
    }

    /// Its phone is to be offered a stream that another offers. What was agreed stays until it answers.
    pub fn will_be_offered(&mut self, media: &Media, policy: Policy, other: Profile) {
        // Once it has agreed to something, it is offered that.
        let profile = match is_secure(media) {
            None => Profile::Plain,
            Some(_) if self.is_agreed && (self.theirs.is_some() || policy != Policy::Require) => self.profile,
            Some(_) => Profile::to_offer(policy, other),
        };
        if profile != self.profile {
            *self = Self { profile, ..Self::default() };
        }
    }

    /// The number and the suite of the line that was agreed.
    fn agreed(&self) -> Option<(u32, Suite)> {
        self.theirs.as_ref().map(|(tag, key)| (*tag, key.suite()))
    }

    fn agree(&mut self, profile: Profile, theirs: (u32, MasterKey), is_answer: bool) {
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

    fn do_without(&mut self) {
        *self = Self { is_agreed: true, ..Self::default() };
    }

    /// It is of a kind that isn't protected by us: what it does when it is again isn't said.
    fn is_none_of_ours(&mut self) {
        *self = Self::default();
    }

    /// Writes the profile that its phone knows into a description for it.
    pub fn write_profile(&self, media: &mut Media) {
        if is_secure(media).is_some() {
            media.attributes.retain(|attribute| !OTHER_KEYS.contains(&attribute.attribute.as_str()));
            let feedback = media.proto.ends_with(['F', 'f']);
            let profile = if self.profile == Profile::Secure { "RTP/SAVP" } else { "RTP/AVP" };
            media.proto = format!("{profile}{}", if feedback { "F" } else { "" });
        }
    }

    /// The same with our keys. `made` says how many numbers to make keys of were given.
    pub fn write(&mut self, media: &mut Media, answers: bool, secret: &Secret, made: &mut u32) {
        self.write_profile(media);
        if is_secure(media).is_none() {
            return;
        }
        let lines: Vec<(u32, Suite)> = match (self.profile, self.agreed()) {
            (Profile::Plain, _) => Vec::new(),
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
        match (&self.theirs, self.number, self.profile) {
            (Some((_, theirs)), Some(number), _) => Shield::Srtp(Box::new(Keys {
                theirs: theirs.clone(),
                ours: secret.key(theirs.suite(), number),
                marks: self.marks.clone(),
                since: secret.since,
                restored: secret.restored,
            })),
            (_, _, Profile::Plain) => Shield::Plain,
            (None, _, Profile::Optional) if self.is_agreed => Shield::Plain,
            (_, _, Profile::Optional | Profile::Secure) => Shield::Closed,
        }
    }

    /// A source has come so far: one of the phone's, or one of ours; by the key of this mark. Tells whether that is news.
    pub fn come_to(&mut self, (is_ours, key): (bool, u64), mark: Mark, secret: &Secret) -> bool {
        let own = match (&self.theirs, self.number) {
            (Some((_, theirs)), Some(number)) if is_ours => secret.key(theirs.suite(), number).mark(),
            (Some((_, theirs)), _) => theirs.mark(),
            (None, _) => return false,
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
    let of_all: Vec<Attribute> =
        sdp.attributes.extract_if(.., |attribute| OTHER_KEYS.contains(&attribute.attribute.as_str())).collect();
    for media in &mut sdp.medias {
        let has = |media: &Media, name: &str| media.attributes.iter().any(|attribute| attribute.attribute == name);
        if !has(media, CRYPTO) {
            let missing: Vec<_> =
                of_all.iter().filter(|one| one.attribute != CRYPTO && !has(media, &one.attribute)).cloned().collect();
            media.attributes.extend(missing);
        }
    }
}

/// Whether a stream's profile is protected by keys in the description; none if it is of another kind.
fn is_secure(media: &Media) -> Option<bool> {
    let is = |known: [&str; 2]| known.iter().any(|known| media.proto.eq_ignore_ascii_case(known));
    let has = |names: &[&str]| media.attributes.iter().any(|attribute| names.contains(&attribute.attribute.as_str()));
    match () {
        () if is(["RTP/AVP", "RTP/AVPF"]) => Some(false),
        // By keys that are agreed in another way.
        () if has(&["fingerprint", "key-mgmt"]) && !has(&[CRYPTO]) => None,
        () if is(["RTP/SAVP", "RTP/SAVPF"]) => Some(true),
        () => None,
    }
}

/// Whether a stream's profile asks for no protection: what else is said of keys there need not come to anything.
fn is_clear(media: &Media) -> bool {
    ["RTP/AVP", "RTP/AVPF"].iter().any(|clear| media.proto.eq_ignore_ascii_case(clear))
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
