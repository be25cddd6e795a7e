//! Everything at once, for a minute: `make soak` does it for an hour. And the checker that reads the history can fail.

use std::time::Duration;

use crate::lab::history::{Entry, Event, check};
use crate::lab::net;
use crate::lab::soak::{self, Plan};

#[test]
fn calls_come_and_go_while_things_break() {
    // `make broken` wants more of it.
    let seconds = std::env::var("SECONDS_OF_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    net::run(3, async |net| {
        let plan = Plan {
            pairs: 12,
            span: Duration::from_secs(seconds),
            every: Duration::from_secs(7),
            talk: Duration::from_secs(15),
            seed: rand::random(),
        };
        let seed = plan.seed;
        let broken = soak::run(net, plan).await;
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
    });
}

#[test]
#[allow(clippy::wildcard_enum_match_arm, reason = "a test names what it is about")]
fn the_checker_finds_what_is_broken() {
    let caller = || "a".to_owned();
    let gap = |since_ms, ms| Event::Gap { caller: caller(), during: "Kill".into(), since_ms, ms, bound_ms: 100 };
    let good = vec![
        Event::Registered { user: "b".into() },
        Event::Answered { caller: caller(), call: 1 },
        gap(300, 90),
        gap(300, 120),
        Event::Stood { ms: 30 },
        Event::HungUp { caller: caller(), call: 1 },
        Event::Owns { node: 1, vnode: 1 },
        Event::Owns { node: 2, vnode: 1 },
        Event::Left { node: 1, calls: 0, sockets: 0, ports: 0 },
        Event::Spoke { vnode: 1, node: 2, until_ms: 2000, frames: 9 },
        Event::Cdr { caller: caller(), answered: true },
        Event::Registration { user: "b".into() },
    ];
    let at = |event: &Event| match event {
        Event::Owns { node: 2, .. } | Event::Spoke { node: 2, .. } => 1000,
        _ => 500,
    };
    let broken =
        |history: Vec<Event>| check(&history.into_iter().map(|event| Entry { at_ms: at(&event), event }).collect::<Vec<_>>());
    assert_eq!(broken(good.clone()), Vec::<String>::new());
    let without = |at: usize| [&good[..at], &good[at + 1..]].concat();
    let with = |event: Event| [good.clone(), vec![event]].concat();
    for (history, found) in [
        (without(5), "was answered and never ended"),
        (with(Event::Lost { caller: caller(), call: 1, why: "481".into() }), "was lost"),
        (with(Event::Refused { caller: caller(), why: "no answer to INVITE".into() }), "was left alone"),
        (with(gap(300, 131)), "heard nothing"),
        (with(gap(501, 101)), "heard nothing"),
        (without(7), "was not its only owner"),
        (with(Event::Spoke { vnode: 1, node: 1, until_ms: 1100, frames: 1 }), "was not its only owner"),
        (with(Event::Spoke { vnode: 1, node: 0, until_ms: 600, frames: 1 }), "was not its only owner"),
        (without(10), "0 CDRs for 1 calls"),
        (with(Event::Cdr { caller: caller(), answered: true }), "2 CDRs for 1 calls"),
        (without(11), "registration of b is gone"),
        (with(Event::Left { node: 2, calls: 0, sockets: 2, ports: 0 }), "2 sockets"),
    ] {
        let said = broken(history);
        assert!(said.len() == 1 && said[0].contains(found), "{found}: {said:?}");
    }
}
