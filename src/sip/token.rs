//! Tokens: every identifier that we put into a message says whose it is (design, *Tokens*). Layer: pure.
//!
//! `t1-<vnode>-<call>-<leg>`: it stands in To and From tags and in the user part of Contacts; followed by
//! `.<incarnation>.<n>` and behind the RFC's cookie it is a branch. The call's 128 random bits make it
//! unguessable. Whoever reads one knows which vnode's owner to give the packet to.

use std::fmt;
use std::str::FromStr;

use super::headers::Via;
use crate::ids::{CallId, LegId, VnodeId};

/// Where a packet belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// The call's vnode.
    pub vnode: VnodeId,
    /// The call.
    pub call: CallId,
    /// The leg whose dialog this is.
    pub leg: LegId,
}

/// Not a token of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token of ours")]
pub struct NotAToken;

impl Token {
    /// A branch: unique as long as `incarnation` differs between actors of the same leg and `n` within one.
    pub fn branch(&self, incarnation: u32, n: u32) -> String {
        format!("{}{self}.{incarnation:x}.{n:x}", Via::COOKIE)
    }

    /// The token inside a branch.
    pub fn from_branch(branch: &str) -> Option<Self> {
        branch.strip_prefix(Via::COOKIE)?.split('.').next()?.parse().ok()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t1-{:x}-{}-{:x}", self.vnode.0, self.call, self.leg.0)
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let mut parts = text.strip_prefix("t1-").ok_or(NotAToken)?.split('-');
        let (Some(vnode), Some(call), Some(leg), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(NotAToken);
        };
        if call.len() != 32 {
            return Err(NotAToken);
        }
        Ok(Self {
            vnode: VnodeId(u16::from_str_radix(vnode, 16).map_err(|_| NotAToken)?),
            call: call.parse().map_err(|_| NotAToken)?,
            leg: LegId(u8::from_str_radix(leg, 16).map_err(|_| NotAToken)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_survives_tag_and_branch(vnode: u16, call: u128, leg: u8, incarnation: u32, n: u32) {
            let token = Token { vnode: VnodeId(vnode), call: CallId(call), leg: LegId(leg) };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
            prop_assert_eq!(Token::from_branch(&token.branch(incarnation, n)), Some(token));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<Token>();
            let _ = Token::from_branch(&text);
        }
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        for text in ["", "t1-1-2-3", "t1-1-00000000000000000000000000000001-0-9", "x1-1-00000000000000000000000000000001-0"] {
            assert_eq!(text.parse::<Token>(), Err(NotAToken), "{text}");
        }
    }
}
