//! Provisional answers that must come through (RFC 3262), as a phone says and hears them. Layer: program.

use anyhow::Context;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Phone, T1, branch_of};
use crate::sip::message::{Request, Response};
use crate::sip::{Method, Name, StatusCode};

/// The PRACK that a phone has sent, for the last answer that wanted one.
pub(super) struct Owed {
    rseq: u32,
    request: String,
    /// When it is said again; never if it has its answer.
    again: Option<Instant>,
}

impl Owed {
    /// When it is to be said again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.again
    }

    /// It, if it is to be said again now.
    pub(super) fn again(&mut self) -> Option<&str> {
        self.again = Some(self.again.filter(|at| *at <= Instant::now())? + T1);
        Some(&self.request)
    }

    /// An answer has come, to this or to something else.
    pub(super) fn answered(&mut self, response: &Response) {
        if response.headers.top_via().is_ok_and(|via| via.branch() == Some(&branch_of(&self.request))) {
            self.again = None;
        }
    }
}

impl Phone {
    /// From now on it says provisional answers reliably, with its description, to whom can hear them, and can hear them itself.
    pub fn set_reliable(&mut self) {
        self.reliable = true;
    }

    /// Whether a caller is told reliably how this phone describes itself.
    pub(super) fn describes_itself_to(&self, invite: &Request) -> bool {
        self.reliable && invite.headers.list(&Name::Supported).any(|tag| &*tag == "100rel")
    }

    /// What it says to a call while it rings.
    pub(super) fn rings(&self, invite: &Request, tag: &str) -> Response {
        let rings = invite.response(StatusCode::RINGING, Some(tag)).with(Name::Contact, self.contact());
        if !self.describes_itself_to(invite) {
            return rings;
        }
        let rings = rings.with(Name::Allow, "PRACK, UPDATE").with(Name::Require, "100rel").with(Name::RSeq, "1");
        rings.with_body("application/sdp", Bytes::from(self.sdp()))
    }

    /// Acknowledges a provisional answer that wants it, if it comes in turn (RFC 3262 §4).
    pub(super) async fn owe(&mut self, response: &Response, owed: &mut Option<Owed>) -> anyhow::Result<()> {
        let Some(rseq) = response.headers.number(&Name::RSeq, "RSeq")? else { return Ok(()) };
        if owed.as_ref().is_some_and(|last| rseq != last.rseq + 1) {
            return Ok(());
        }
        self.cseq += 1;
        let text = |name: Name| response.headers.text(&name).unwrap_or_default();
        let number = response.headers.cseq()?.number;
        let (from, to, call_id) = (text(Name::From), text(Name::To), text(Name::CallId));
        let headers = format!("From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nRAck: {rseq} {number} INVITE\r\n");
        let target = response.headers.contacts()?.first().context("no Contact")?.uri.to_string();
        let request = self.request(&Method::Prack, &target, self.cseq, &headers, "");
        self.wire.send(request.as_bytes(), self.server).await?;
        if !response.body.is_empty() {
            self.early = Some(response.body.clone());
        }
        *owed = Some(Owed { rseq, request, again: Some(Instant::now() + T1) });
        Ok(())
    }
}
