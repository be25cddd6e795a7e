//! A phone that watches somebody (RFC 6665), and says how its user is (RFC 3903). Layer: program.

use std::collections::VecDeque;

use anyhow::{Context, bail};
use tokio::time::{Instant, timeout_at};

use super::{PATIENCE, Phone, random};
use crate::sip::message::{Message, Request, Response};
use crate::sip::{Method, Name, StatusCode};

/// A subscription, from the phone's side.
#[derive(Debug)]
pub(super) struct Watching {
    call_id: String,
    from: String,
    event: String,
    /// The other side's tag and Contact, from its answer.
    peer: Option<(String, String)>,
    /// The number of the last NOTIFY.
    number: u32,
    /// NOTIFYs that nobody has asked for yet.
    told: VecDeque<Request>,
    /// Somebody waits for the next.
    pub(super) waits: bool,
}

impl Phone {
    /// Subscribes to an event of a user's, and gives the answer whatever it is.
    pub async fn subscribe(&mut self, whom: &str, event: &str, seconds: u32) -> anyhow::Result<Response> {
        let (uri, call_id) = (format!("sip:{whom}@{}", self.domain), random());
        let from = format!("<sip:{}@{}>;tag={}", self.user, self.domain, random());
        let headers = format!("From: {from}\r\nTo: <{uri}>\r\nCall-ID: {call_id}\r\nEvent: {event}\r\nExpires: {seconds}\r\n");
        let (event, told) = (event.to_owned(), VecDeque::new());
        self.watching = Some(Watching { call_id, from, event, peer: None, number: 0, told, waits: false });
        let response = self.ask(Method::Subscribe, &uri, &headers, "").await?;
        let contact = response.headers.contacts()?.first().map(|contact| contact.uri.to_string());
        if let (Some(contact), Some(watching)) = (contact, &mut self.watching) {
            let to = response.headers.text(&Name::To).context("no To")?.to_string();
            watching.peer = Some((to, contact));
        }
        Ok(response)
    }

    /// Renews its subscription, or ends it with 0 seconds; gives the answer whatever it is.
    pub async fn subscribe_again(&mut self, seconds: u32) -> anyhow::Result<Response> {
        let watching = self.watching.as_ref().context("there is no subscription")?;
        let (to, contact) = watching.peer.clone().context("it was not accepted")?;
        let Watching { from, call_id, event, .. } = watching;
        let headers = format!("From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nEvent: {event}\r\nExpires: {seconds}\r\n");
        self.cseq += 1;
        let request = self.request(&Method::Subscribe, &contact, self.cseq, &headers, "");
        self.transact(&Method::Subscribe, &request).await
    }

    /// Publishes something of its user's (RFC 3903), and gives the answer whatever it is.
    pub async fn publish(&mut self, headers: &str, body: &str) -> anyhow::Result<Response> {
        let uri = format!("sip:{}@{}", self.user, self.domain);
        let headers = format!("From: <{uri}>;tag={}\r\nTo: <{uri}>\r\nCall-ID: {}\r\n{headers}", random(), random());
        self.ask(Method::Publish, &uri, &headers, body).await
    }

    /// Waits until it is told something that has this in it; gives that. What it was told before is passed over.
    pub async fn told(&mut self, what: &str) -> anyhow::Result<Request> {
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            let told = self.watching.as_mut().and_then(|watching| watching.told.pop_front());
            match told {
                Some(notify) if says(&notify, what) => return Ok(notify),
                Some(notify) => last = Some(notify),
                None if Instant::now() >= until => bail!("{} was not told {what}, but last: {last:?}", self.user),
                None => self.wait(until).await?,
            }
        }
    }

    /// Waits for the next message, until then at most; takes what it is asked.
    async fn wait(&mut self, until: Instant) -> anyhow::Result<()> {
        self.watching.as_mut().context("there is no subscription")?.waits = true;
        let received = timeout_at(until, self.receive(until)).await;
        if let Some(watching) = &mut self.watching {
            watching.waits = false;
        }
        match received {
            Ok(Ok(Message::Request(request))) if request.method != Method::Notify => self.respond(&request, StatusCode::OK).await,
            Ok(Ok(Message::Request(_) | Message::Response(_))) | Err(_) => Ok(()),
            Ok(Err(error)) if Instant::now() < until => Err(error),
            Ok(Err(_)) => Ok(()),
        }
    }

    /// Takes a NOTIFY of its subscription; false for anything else.
    pub(super) async fn is_told(&mut self, message: &Message) -> anyhow::Result<bool> {
        let Message::Request(request) = message else { return Ok(false) };
        let Some(watching) = &mut self.watching else { return Ok(false) };
        let call_id = request.headers.call_id()?;
        if request.method != Method::Notify || watching.call_id != *call_id {
            return Ok(false);
        }
        let number = request.headers.cseq()?.number;
        if number > watching.number {
            watching.number = number;
            watching.told.push_back(request.clone());
        }
        self.respond(request, StatusCode::OK).await?;
        Ok(true)
    }
}

fn says(notify: &Request, what: &str) -> bool {
    let state = notify.headers.text(&Name::SubscriptionState).unwrap_or_default();
    state.contains(what) || String::from_utf8_lossy(&notify.body).contains(what)
}
