//! Phones behind NAT are asked now and then whether they are there (OPTIONS, RFC 3261 §11), so that what is between us remembers where they
//! are: their answer is what it counts (RFC 4787, REQ-6). Layer: shell.
//!
//! Whoever has the bindings asks, so it goes on after a takeover without anything being stored. Phones that keep their flows alive by
//! themselves (RFC 5626), and those on connections, are not asked.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::services::Services;
use super::{records, transport};
use crate::clock;
use crate::ids::{Aor, VnodeId};
use crate::sip::endpoint::KEEPALIVE;
use crate::sip::message::{Headers, Message, Request};
use crate::sip::registrar::Binding;
use crate::sip::{Method, Name};

/// How far a round has got.
#[derive(Debug, Default)]
pub struct Round {
    after: Option<Aor>,
}

impl Round {
    /// A second's share of the phones of a vnode's users: all of them have had their turn after `every` seconds.
    pub fn turn(&mut self, services: &Arc<Services>, vnode: VnodeId, every: u16) {
        let page = services.cluster.read(vnode, |state| {
            let from = self.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let share = state.bindings_len().div_ceil(usize::from(every.max(1)));
            let mut rest = state.bindings_from(from);
            let page: Vec<_> = rest.by_ref().take(share).map(|(aor, record)| (aor.clone(), record.clone())).collect();
            (page, rest.next().is_some())
        });
        let (page, more) = page.unwrap_or_default();
        // At the end it begins anew.
        self.after = page.last().map(|(aor, _)| aor.clone()).filter(|_| more);
        for (_, record) in &page {
            ask(services, record);
        }
    }
}

fn ask(services: &Arc<Services>, record: &Bytes) {
    let now = clock::now();
    for binding in records::decode_bindings(record).unwrap_or_default().iter().filter(|binding| binding.may_be_forgotten(now)) {
        metrics::counter!("tandem_nat_keepalives_total").increment(1);
        transport::send(services, binding.flow, &Message::Request(request(binding, &services.config.sip.domain)));
    }
}

/// Nobody waits for the answer.
fn request(binding: &Binding, domain: &str) -> Request {
    let name = || format!("{:032x}", rand::random::<u128>());
    let mut headers = Headers::with_capacity(8);
    headers.push_text(Name::Via, binding.flow.via(&format!("{KEEPALIVE}{}", name())));
    for route in &binding.path {
        headers.push_text(Name::Route, route);
    }
    headers.push_text(Name::MaxForwards, "70");
    headers.push_text(Name::From, format!("<sip:{domain}>;tag={:08x}", rand::random::<u32>()));
    headers.push_text(Name::To, format!("<{}>", binding.contact));
    headers.push_text(Name::CallId, name());
    headers.push_text(Name::CSeq, "1 OPTIONS");
    headers.push_text(Name::Contact, format!("<sip:{}>", binding.flow.local));
    Request { method: Method::Options, uri: binding.contact.clone(), headers, body: Bytes::new() }
}
