//! Which dialog a call is to take the place of (RFC 3891). Layer: pure.

use super::token::Token;
use super::uri::{param, split_params};

/// A Replaces value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaces {
    /// The dialog's Call-ID.
    pub call_id: String,
    /// The tag of whoever is asked.
    pub to_tag: String,
    /// The tag of the other side.
    pub from_tag: String,
    /// Only while it rings.
    pub early_only: bool,
}

impl Replaces {
    /// Reads a value; none if a part is missing (RFC 3891 §6.1).
    pub fn parse(text: &str) -> Option<Self> {
        let (call_id, params) = text.split_once(';')?;
        let tag = |name| param(params, name).filter(|tag| !tag.is_empty()).map(str::to_owned);
        let early_only = split_params(params).any(|(key, _)| key.eq_ignore_ascii_case("early-only"));
        let call_id = Some(call_id.trim()).filter(|call_id| !call_id.is_empty())?.to_owned();
        Some(Self { call_id, to_tag: tag("to-tag")?, from_tag: tag("from-tag")?, early_only })
    }

    /// Our leg that is at one end of the dialog.
    pub fn leg(&self) -> Option<Token> {
        self.to_tag.parse().or_else(|_| self.from_tag.parse()).ok()
    }
}

impl std::fmt::Display for Replaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { call_id, to_tag, from_tag, early_only } = self;
        let early = if *early_only { ";early-only" } else { "" };
        write!(f, "{call_id};to-tag={to_tag};from-tag={from_tag}{early}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{CallId, LegId, VnodeId};

    #[test]
    fn a_dialog_is_named_by_three_parts() {
        let text = "98732@x;from-tag=r33th4x0r;to-tag=ff87ff;early-only";
        let read = Replaces::parse(text).unwrap();
        assert_eq!((&*read.call_id, &*read.to_tag, &*read.from_tag, read.early_only), ("98732@x", "ff87ff", "r33th4x0r", true));
        assert_eq!(Replaces::parse(&read.to_string()), Some(read));
        for text in ["", "98732@x", ";to-tag=1;from-tag=2", "98732@x;to-tag=1", "98732@x;to-tag=;from-tag=2"] {
            assert_eq!(Replaces::parse(text), None, "{text}");
        }
    }

    #[test]
    fn our_leg_is_found_by_either_tag() {
        let token = Token { vnode: VnodeId(1), call: CallId(7), leg: LegId(1) };
        for text in [format!("c;to-tag={token};from-tag=b"), format!("c;to-tag=b;from-tag={token}")] {
            assert_eq!(Replaces::parse(&text).unwrap().leg(), Some(token));
        }
        assert_eq!(Replaces::parse("c;to-tag=a;from-tag=b").unwrap().leg(), None);
    }
}
