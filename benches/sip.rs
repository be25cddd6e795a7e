//! Reading, understanding and writing one INVITE of 1.1 KB, beside rsip in the same run.
//!
//! `cargo bench --bench sip`. The goal: each under half of rsip's time.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a bench")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rsip::prelude::*;
use tandem::sip::{Message, encode, parse};

const INVITE: &[u8] = include_bytes!("invite.sip");
/// So often each is measured; the best counts, because noise only adds.
const ROUNDS: usize = 40;
const BATCH: u32 = 2000;

/// Nanoseconds for one, the best of many batches; the two sides take turns.
fn compare(mut ours: impl FnMut(), mut theirs: impl FnMut()) -> [f64; 2] {
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        (0..BATCH).for_each(|_| ours());
        best[0] = best[0].min(begin.elapsed());
        let begin = Instant::now();
        (0..BATCH).for_each(|_| theirs());
        best[1] = best[1].min(begin.elapsed());
    }
    best.map(|time| time.as_secs_f64() * 1e9 / f64::from(BATCH))
}

fn main() {
    let bytes = Bytes::from_static(INVITE);
    let Ok(Message::Request(our)) = parse::datagram(&bytes) else { panic!("the INVITE is one") };
    let message = Message::Request(our.clone());
    let their = rsip::Request::try_from(INVITE).unwrap();
    let parse = compare(
        || {
            black_box(parse::datagram(black_box(&bytes)).is_ok());
        },
        || {
            black_box(rsip::Request::try_from(black_box(INVITE)).is_ok());
        },
    );
    let typed = compare(
        || {
            let headers = &black_box(&our).headers;
            black_box((headers.top_via().unwrap(), headers.from().unwrap(), headers.to().unwrap(), headers.cseq().unwrap()));
            black_box((headers.call_id().unwrap(), headers.contacts().unwrap(), headers.max_forwards().unwrap()));
            black_box(tandem::sip::Uri::parse(&our.uri).unwrap());
        },
        || {
            let request = black_box(&their);
            black_box((request.via_header().unwrap().typed().unwrap(), request.from_header().unwrap().typed().unwrap()));
            black_box((request.to_header().unwrap().typed().unwrap(), request.cseq_header().unwrap().typed().unwrap()));
            black_box((request.call_id_header().unwrap().value(), request.contact_header().unwrap().typed().unwrap()));
            black_box((request.max_forwards_header().unwrap().num().unwrap(), request.uri().clone()));
        },
    );
    let write = compare(
        || {
            black_box(encode::encode(black_box(&message)));
        },
        || {
            black_box(black_box(&their).to_string().into_bytes());
        },
    );
    println!("one INVITE of {} bytes, nanoseconds  tandem   rsip   ratio", INVITE.len());
    for (name, [ours, theirs]) in [("parse", parse), ("typed access", typed), ("serialise", write)] {
        println!("{name:<34} {ours:>8.0} {theirs:>6.0} {:>7.2}", ours / theirs);
    }
}
