//! What the fuzzer has begun with and what it has found (`make fuzz`), once more.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a test")]

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort_unstable();
    assert!(!inputs.is_empty(), "there is something to replay");
    for path in inputs {
        let input = std::fs::read(&path).unwrap();
        // So that what breaks says its name.
        println!("{}", path.display());
        run(&input);
    }
}

#[test]
fn messages() {
    replay("message", targets::message);
}

#[test]
fn descriptions() {
    replay("sdp", targets::sdp);
}

#[test]
fn datagrams() {
    replay("packets", targets::packets);
}

#[test]
fn streams() {
    replay("framing", targets::framing);
}

#[test]
fn transactions() {
    replay("transactions", targets::transactions);
}

#[test]
fn watchers() {
    replay("events", targets::events);
}

#[test]
fn calls() {
    replay("b2bua", targets::b2bua);
}
