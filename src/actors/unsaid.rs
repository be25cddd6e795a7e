//! What a call is told while it can't commit. Layer: shell.

use std::sync::Arc;
use std::time::Duration;

use super::services::Services;
use crate::clock;
use crate::cluster::ProposeError;
use crate::cluster::state::VnodeCommand;
use crate::ids::{CallId, LegId, VnodeId};
use crate::sip::b2bua::{EndedBy, Target};
use crate::sip::leg::{LegEvent, TxKey};
use crate::sip::message::{Request, Response};
use crate::sip::{Method, Name, StatusCode, Text};

/// How long we try to take back a call whose INVITE was refused and may have been committed all the same.
const TAKE_BACK: Duration = Duration::from_secs(60);
/// The pause between two such attempts.
const TAKE_BACK_PAUSE: Duration = Duration::from_millis(500);

/// An input of the core that may have to wait for a commit.
#[allow(clippy::large_enum_variant, reason = "nearly all are the large one")]
#[derive(Debug, Clone)]
pub(super) enum Unsaid {
    /// A leg's event.
    Event(LegId, LegEvent),
    /// Somebody who is no phone hangs up.
    HangUp(StatusCode, EndedBy),
    /// Whom these contacts mean.
    Located(Vec<Text>, Vec<Target>),
}

impl Unsaid {
    /// Whether nobody says it again: a phone repeats its requests, save for the BYE after which it is gone, and the PRACK that it owes
    /// once.
    pub(super) fn is_said_once(&self) -> bool {
        match self {
            Self::Event(_, LegEvent::Request(_, request, _)) => is_owed(request),
            Self::Event(
                _,
                LegEvent::Cancelled { .. }
                | LegEvent::Acked(_)
                | LegEvent::Response(_)
                | LegEvent::NoResponse(_)
                | LegEvent::NoAck
                | LegEvent::NoPrack,
            )
            | Self::HangUp(..)
            | Self::Located(..) => true,
            Self::Event(_, LegEvent::Trying) => false,
        }
    }
}

/// The request whose sender must be told when it can't be taken.
pub(super) fn asks_for_an_answer(event: &LegEvent) -> Option<(&TxKey, &Request)> {
    match event {
        LegEvent::Request(key, request, _) => Some((key, request)).filter(|(_, request)| !is_owed(request)),
        LegEvent::Cancelled { .. }
        | LegEvent::Acked(_)
        | LegEvent::Response(_)
        | LegEvent::Trying
        | LegEvent::NoResponse(_)
        | LegEvent::NoAck
        | LegEvent::NoPrack => None,
    }
}

/// What it is told.
pub(super) fn unavailable(request: &Request) -> Response {
    request.response(StatusCode::SERVICE_UNAVAILABLE, None).with(Name::RetryAfter, "5")
}

/// A request that a phone doesn't send anew when it was refused.
fn is_owed(request: &Request) -> bool {
    matches!(request.method, Method::Bye | Method::Prack)
}

/// A call that was refused for want of a commit may be committed later: then it must go again.
pub(super) async fn take_back(services: Arc<Services>, vnode: VnodeId, call: CallId) {
    let deadline = clock::now() + TAKE_BACK;
    while clock::now() < deadline {
        match services.cluster.propose(vnode, VnodeCommand::ForgetCall { call }).await {
            // Whoever owns the vnode now goes on from the log: it is no longer ours to say.
            Ok(_) | Err(ProposeError::NotOwner) => return,
            Err(ProposeError::NoMajority | ProposeError::Late | ProposeError::NoSuchGroup) => {
                tokio::time::sleep(TAKE_BACK_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody looks again for whom somebody sends the caller to.
    #[test]
    fn what_was_found_waits_for_a_commit() {
        assert!(Unsaid::Located(vec!["sip:c@x".into()], Vec::new()).is_said_once());
    }
}
