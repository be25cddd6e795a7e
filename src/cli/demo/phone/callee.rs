//! A phone that is called. Layer: program.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::time::Instant;

use super::{Dialog, PATIENCE, Phone, Ringing, T1, random, rtp_address, sdp_version};
use crate::sip::encode::encode_response;
use crate::sip::message::{Headers, Message, Request};
use crate::sip::{Method, Name, StatusCode};

impl Phone {
    /// Waits for a call and answers it; gives the other side's RTP address.
    pub async fn answer(&mut self) -> anyhow::Result<SocketAddr> {
        let ringing = self.ring(Duration::ZERO).await?;
        self.pick_up(&ringing).await
    }

    /// Waits for a call and rings for so long.
    pub async fn ring(&mut self, span: Duration) -> anyhow::Result<Ringing> {
        let mut ringing: Option<Ringing> = None;
        let mut end = Instant::now() + PATIENCE;
        // What has to be acknowledged, and when it is said again.
        let mut owed: Option<(Bytes, Instant)> = None;
        loop {
            let request = match self.receive(owed.as_ref().map_or(end, |(_, again)| end.min(*again))).await {
                Ok(Message::Request(request)) => request,
                Ok(Message::Response(_)) => continue,
                Err(error) if Instant::now() >= end => return ringing.filter(|_| owed.is_none()).ok_or(error),
                Err(_) => {
                    if let Some((ring, again)) = &mut owed {
                        self.wire.send(ring, self.server).await?;
                        *again = Instant::now() + T1;
                    }
                    continue;
                }
            };
            if request.method == Method::Prack {
                owed = None;
                ringing.iter_mut().for_each(|ringing| ringing.described = true);
            }
            if request.method == Method::Update && !request.body.is_empty() {
                let taken = request.response(StatusCode::OK, None).with(Name::Contact, self.contact());
                let taken = taken.with_body("application/sdp", Bytes::from(self.sdp()));
                self.wire.send(&encode_response(&taken), self.server).await?;
                continue;
            }
            if request.method != Method::Invite {
                self.respond(&request, StatusCode::OK).await?;
                continue;
            }
            // One that comes again is rung for with the same tag.
            let (tag, described) = ringing.take().map_or_else(|| (random(), false), |ringing| (ringing.tag, ringing.described));
            let ring = encode_response(&self.rings(&request, &tag));
            self.wire.send(&ring, self.server).await?;
            if self.describes_itself_to(&request) && !described {
                owed = Some((ring, Instant::now() + T1));
            }
            if end > Instant::now() + span {
                end = Instant::now() + span;
            }
            ringing = Some(Ringing { invite: request, tag, described });
        }
    }

    /// Answers a call that rings, until that is acknowledged; gives the other side's RTP address.
    pub async fn pick_up(&mut self, ringing: &Ringing) -> anyhow::Result<SocketAddr> {
        let Ringing { invite, tag, described } = ringing;
        let mut ok = invite.response(StatusCode::OK, Some(tag)).with(Name::Contact, self.contact());
        if !described {
            ok = ok.with_body("application/sdp", Bytes::from(self.sdp()));
        }
        let bytes = encode_response(&ok);
        self.dialog = Some(Dialog {
            call_id: invite.headers.call_id()?.to_string(),
            from: ok.headers.text(&Name::To).context("no To")?.to_string(),
            to: invite.headers.text(&Name::From).context("no From")?.to_string(),
            target: invite.headers.contacts()?.first().context("no Contact")?.uri.to_string(),
            answer: Some((invite.headers.cseq()?.number, bytes.clone())),
            ack: None,
            number: invite.headers.cseq()?.number,
            version: sdp_version(&invite.body),
        });
        let (give_up, mut gap) = (Instant::now() + PATIENCE, T1);
        self.wire.send(&bytes, self.server).await?;
        let mut again = Instant::now() + gap;
        loop {
            match self.receive(again.min(give_up)).await {
                // RFC 3261 §13.2.2.4: what we have offered is answered by the ACK.
                Ok(Message::Request(request)) if request.method == Method::Ack => {
                    return rtp_address(if invite.body.is_empty() { &request.body } else { &invite.body });
                }
                Ok(Message::Request(request)) if request.method != Method::Invite => {
                    self.respond(&request, StatusCode::OK).await?;
                }
                Ok(Message::Response(_)) => {}
                Err(_) if Instant::now() >= give_up => bail!("the answer was not acknowledged"),
                Ok(Message::Request(_)) | Err(_) => {
                    self.wire.send(&bytes, self.server).await?;
                    gap *= 2;
                    again = Instant::now() + gap;
                }
            }
        }
    }

    /// Waits for a call and refuses it, until that is acknowledged; gives the INVITE, and the answer for [`Phone::refuse_again`].
    pub async fn refuse(&mut self, status: StatusCode) -> anyhow::Result<(Request, Bytes)> {
        self.refuse_with(status, Headers::default()).await
    }

    /// The same with further headers, as where else to call (RFC 3261 §21.3).
    pub async fn refuse_with(&mut self, status: StatusCode, more: Headers) -> anyhow::Result<(Request, Bytes)> {
        loop {
            let Message::Request(invite) = self.receive(Instant::now() + PATIENCE).await? else { continue };
            if invite.method == Method::Invite {
                tokio::time::sleep(self.thinking).await;
                let mut refusal = invite.response(status, Some(&random()));
                more.iter().for_each(|(name, value)| refusal.headers.push(name.clone(), value.clone()));
                let bytes = encode_response(&refusal);
                self.refuse_again(&bytes).await?;
                return Ok((invite, bytes));
            }
        }
    }

    /// Says a refusal (again), until it is acknowledged; gives the ACK.
    pub async fn refuse_again(&mut self, refusal: &Bytes) -> anyhow::Result<Request> {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            self.wire.send(refusal, self.server).await?;
            match self.receive(Instant::now() + T1).await {
                Ok(Message::Request(request)) if request.method == Method::Ack => return Ok(request),
                Ok(Message::Request(request)) if request.method != Method::Invite => {
                    self.respond(&request, StatusCode::OK).await?;
                }
                Ok(Message::Request(_) | Message::Response(_)) | Err(_) => {}
            }
        }
        bail!("the refusal was not acknowledged")
    }

    /// Waits for a call and rings until that is cancelled (RFC 3261 §9.2), and the end of it acknowledged.
    pub async fn be_cancelled(&mut self) -> anyhow::Result<()> {
        let tag = random();
        let mut ringing = None;
        loop {
            let Message::Request(request) = self.receive(Instant::now() + PATIENCE).await? else { continue };
            match (&request.method, &ringing) {
                (Method::Invite, _) => {
                    let response = request.response(StatusCode::RINGING, Some(&tag)).with(Name::Contact, self.contact());
                    self.wire.send(&encode_response(&response), self.server).await?;
                    ringing = Some(request);
                }
                (Method::Cancel, Some(invite)) => {
                    tokio::time::sleep(self.thinking).await;
                    self.respond(&request, StatusCode::OK).await?;
                    let ended = encode_response(&invite.response(StatusCode::REQUEST_TERMINATED, Some(&tag)));
                    self.refuse_again(&ended).await?;
                    return Ok(());
                }
                (method, _) => bail!("{method} while it rings"),
            }
        }
    }
}
