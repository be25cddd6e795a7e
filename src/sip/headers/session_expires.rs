//! Session-Expires (RFC 4028 §4). Layer: pure.

use std::fmt;

use crate::sip::uri::param;

/// Who refreshes the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub enum Refresher {
    Uac,
    Uas,
}

/// The interval, and who refreshes, if that is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionExpires {
    /// Seconds.
    pub interval: u32,
    /// See the type.
    pub refresher: Option<Refresher>,
}

impl SessionExpires {
    /// Reads a value; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (interval, params) = text.split_once(';').unwrap_or((text, ""));
        let refresher = match param(params, "refresher") {
            Some(who) if who.eq_ignore_ascii_case("uac") => Some(Refresher::Uac),
            Some(who) if who.eq_ignore_ascii_case("uas") => Some(Refresher::Uas),
            Some(_) | None => None,
        };
        Some(Self { interval: interval.trim().parse().ok()?, refresher })
    }
}

impl fmt::Display for SessionExpires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.interval)?;
        match self.refresher {
            Some(Refresher::Uac) => f.write_str(";refresher=uac"),
            Some(Refresher::Uas) => f.write_str(";refresher=uas"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written() {
        for text in ["1800", "90;refresher=uac", "4294967295;refresher=uas"] {
            assert_eq!(SessionExpires::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(SessionExpires::parse(" 90 ; refresher=UAS;x").unwrap().to_string(), "90;refresher=uas");
        assert_eq!(SessionExpires::parse("soon"), None);
    }
}
