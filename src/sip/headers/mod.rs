//! Typed headers: read on demand from a value (RFC 3261 §20). Layer: pure.

mod name_addr;
mod session_expires;
mod via;

pub use name_addr::{NameAddr, tag_of};
pub use session_expires::{Refresher, SessionExpires};
pub use via::{Transport, Via};

use super::message::Headers;
use super::uri::UriError;
use super::{Method, Name, Text};

/// Why a header could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It isn't there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// It doesn't follow its grammar.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// The URI inside doesn't.
    #[error("{0} holds a malformed URI")]
    Uri(&'static str, #[source] UriError),
}

/// CSeq: a number and a method (RFC 3261 §20.16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CSeq {
    /// Below 2³¹.
    pub number: u32,
    /// The request's method.
    pub method: Method,
}

impl CSeq {
    /// Reads `4711 INVITE`.
    pub fn parse(text: &Text) -> Result<Self, HeaderError> {
        let mut parts = text.split_ascii_whitespace();
        let number = parts.next().and_then(|number| number.parse().ok()).filter(|number| *number < 1 << 31);
        match (number, parts.next(), parts.next()) {
            (Some(number), Some(method), None) => Ok(Self { number, method: Method::parse(&text.slice_ref(method)) }),
            _ => Err(HeaderError::Malformed("CSeq")),
        }
    }
}

impl Headers {
    fn needed(&self, name: &Name, shown: &'static str) -> Result<Text, HeaderError> {
        let value = self.get(name).ok_or(HeaderError::Missing(shown))?;
        Text::try_from(value.clone()).map_err(|_| HeaderError::Malformed(shown))
    }

    /// The topmost Via.
    pub fn top_via(&self) -> Result<Via, HeaderError> {
        let text = self.needed(&Name::Via, "Via")?;
        // One Via a line is the rule; only a comma outside quotes makes it a list.
        let first = super::message::split_list(&text).next().ok_or(HeaderError::Malformed("Via"))?;
        Via::parse(&text.slice_ref(first))
    }

    /// From.
    pub fn from(&self) -> Result<NameAddr, HeaderError> {
        NameAddr::parse(&self.needed(&Name::From, "From")?, "From")
    }

    /// To.
    pub fn to(&self) -> Result<NameAddr, HeaderError> {
        NameAddr::parse(&self.needed(&Name::To, "To")?, "To")
    }

    /// The Call-ID.
    pub fn call_id(&self) -> Result<Text, HeaderError> {
        self.needed(&Name::CallId, "Call-ID")
            .and_then(|id| if id.is_empty() { Err(HeaderError::Malformed("Call-ID")) } else { Ok(id) })
    }

    /// CSeq.
    pub fn cseq(&self) -> Result<CSeq, HeaderError> {
        CSeq::parse(&self.needed(&Name::CSeq, "CSeq")?)
    }

    /// The contacts; `*` is left out (see [`Headers::has_contact_star`]).
    pub fn contacts(&self) -> Result<smallvec::SmallVec<[NameAddr; 1]>, HeaderError> {
        self.list(&Name::Contact).filter(|text| &**text != "*").map(|text| NameAddr::parse(&text, "Contact")).collect()
    }

    /// Whether there is a `Contact: *`.
    pub fn has_contact_star(&self) -> bool {
        self.list(&Name::Contact).any(|text| &*text == "*")
    }

    /// A header that is a number of seconds or the like; `None` when absent.
    pub fn number(&self, name: &Name, shown: &'static str) -> Result<Option<u32>, HeaderError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = std::str::from_utf8(value).map_err(|_| HeaderError::Malformed(shown))?;
        text.trim().parse().map(Some).map_err(|_| HeaderError::Malformed(shown))
    }

    /// Max-Forwards; 70 when absent (RFC 3261 §16.6 step 3).
    pub fn max_forwards(&self) -> Result<u32, HeaderError> {
        Ok(self.number(&Name::MaxForwards, "Max-Forwards")?.unwrap_or(70))
    }

    /// The body's type without parameters, in lower case.
    pub fn content_type(&self) -> Option<String> {
        let text = self.text(&Name::ContentType)?;
        Some(text.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
    }
}
