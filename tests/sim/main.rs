//! The simulator: the pure parts of a cluster, two phones that keep RFC 3261's timers, a network, and a fate that strikes
//! owners at the worst moments, in virtual time. Layer: test.
//!
//! ```text
//!  phones ◀─ network (loss, delay, repetition) ─▶ owner: legs, call ─▶ log of three replicas (real records, real apply)
//!                                                  └─ dies or is deposed before a commit, after it, between two sends
//! ```
//!
//! Crash points: every story is cut at each of its points in turn, exhaustively. Random schedules: stories, losses and fates
//! under one seed; what fails prints it, and `make sim SEED=n` replays it exactly.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it is about")]

mod fate;
mod log;
mod phone;
mod watch;
mod world;

use fate::{Blow, Fate};
use watch::Watch;
use world::{Broken, Story, World};

/// Random schedules in `make test`; `make sim` sets SCHEDULES.
const SCHEDULES: u64 = 500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn cut_everywhere(story: Story) {
    let whole = World::new(story, Fate::none()).run();
    whole.check();
    assert!(whole.points() > 8, "the story has points to be cut at");
    for blow in [Blow::Dies, Blow::Deposed] {
        for at in 1..=whole.points() {
            World::new(story, Fate::strikes(blow, at)).run().check();
        }
    }
}

#[test]
fn a_call_survives_death_at_every_point_when_the_caller_hangs_up() {
    cut_everywhere(Story::CallerHangsUp);
}

#[test]
fn a_call_survives_death_at_every_point_when_the_callee_hangs_up() {
    cut_everywhere(Story::CalleeHangsUp);
}

#[test]
fn a_call_survives_death_at_every_point_when_both_hang_up() {
    cut_everywhere(Story::BothHangUp);
}

#[test]
fn a_cancelled_call_ends_as_it_should_whenever_we_die() {
    cut_everywhere(Story::CallerCancels);
}

#[test]
fn a_cancel_that_crosses_the_answer_ends_the_call_whenever_we_die() {
    cut_everywhere(Story::CancelCrosses);
}

#[test]
fn a_refused_call_ends_as_it_should_whenever_we_die() {
    cut_everywhere(Story::CalleeIsBusy);
}

#[test]
fn one_of_two_phones_takes_the_call_whenever_we_die() {
    cut_everywhere(Story::Forked);
}

#[test]
fn of_two_phones_that_are_picked_up_one_has_the_call_whenever_we_die() {
    cut_everywhere(Story::ForkedRace);
}

#[test]
fn the_next_phone_is_called_when_the_first_is_busy_whenever_we_die() {
    cut_everywhere(Story::Serial);
}

#[test]
fn a_transfer_that_we_carry_out_comes_about() {
    cut_everywhere(Story::Transferred);
    cut_everywhere(Story::CallerTransfers);
}

#[test]
fn a_hold_finishes_or_goes_on_whenever_we_die() {
    cut_everywhere(Story::CallerHolds);
}

#[test]
fn an_update_finishes_or_goes_on_whenever_we_die() {
    cut_everywhere(Story::CallerUpdates);
}

#[test]
fn what_is_said_reliably_while_it_rings_is_heard_whenever_we_die() {
    let whole = World::new(Story::Reliable, Fate::none()).run();
    assert!(whole.saw(1, "PRACK") && whole.saw(1, "UPDATE"), "the callee was told");
    assert!(whole.saw(0, "200 PRACK") && whole.saw(0, "200 UPDATE"), "and so was the caller");
    cut_everywhere(Story::Reliable);
    cut_everywhere(Story::ReliableCallee);
}

#[test]
fn a_call_that_sleeps_and_wakes_survives_death_at_every_point() {
    assert_eq!(World::new(Story::LongTalk, Fate::none()).run().slept, 2, "before it is held, and before it ends");
    cut_everywhere(Story::LongTalk);
}

#[test]
fn phones_come_back_on_other_connections_whenever_we_die() {
    cut_everywhere(Story::Connections);
    let whole = World::new(Story::Connections, Fate::none()).run();
    for first in 1..=whole.points() {
        World::new(Story::Connections, Fate::strikes_twice(first, 1)).run().check();
        World::new(Story::Connections, Fate::strikes_twice(first, 2)).run().check();
    }
}

#[test]
fn phones_come_along_to_another_address_whenever_we_die_meanwhile() {
    cut_everywhere(Story::ComesAlong);
    let whole = World::new(Story::ComesAlong, Fate::none()).run();
    for first in 1..=whole.points() {
        World::new(Story::ComesAlong, Fate::strikes_twice(first, 1)).run().check();
        World::new(Story::ComesAlong, Fate::strikes_twice(first, 2)).run().check();
    }
}

/// Two blows: the successor is struck while it repeats what the first one left open.
#[test]
fn a_successor_that_dies_at_once_has_a_successor() {
    for story in Story::ALL {
        let whole = World::new(story, Fate::none()).run();
        for first in 1..=whole.points() {
            World::new(story, Fate::strikes_twice(first, 1)).run().check();
            World::new(story, Fate::strikes_twice(first, 2)).run().check();
        }
    }
}

#[test]
fn who_watches_knows_how_things_are_whenever_we_die() {
    for leaves in [false, true] {
        let whole = Watch::new(Fate::none(), leaves).run();
        whole.check();
        assert!(whole.points() > 20, "the story has points to be cut at");
        for first in 1..=whole.points() {
            for blow in [Blow::Dies, Blow::Deposed] {
                Watch::new(Fate::strikes(blow, first), leaves).run().check();
            }
            for later in [1, 2, 3] {
                Watch::new(Fate::strikes_twice(first, later), leaves).run().check();
            }
        }
        for commit in 1..=whole.commits() {
            Watch::new(Fate::none(), leaves).refusing(commit).run().check();
        }
    }
}

/// The simulator can fail: each rule of the house, broken, is found by cutting the stories at their points.
#[test]
fn what_is_broken_is_found() {
    // The violations that are looked for need not be printed.
    std::panic::set_hook(Box::new(|_| {}));
    let finds = |broken: Broken| {
        Story::ALL.into_iter().find_map(|story| {
            let points = World::new(story, Fate::none()).run().points();
            let cut = |blow, at| World::new(story, Fate::strikes(blow, at)).broken(broken);
            let breaks = |world: World| std::panic::catch_unwind(|| world.run().check()).is_err();
            let all = [Blow::Dies, Blow::Deposed].into_iter().flat_map(|blow| (1..=points).map(move |at| (blow, at)));
            all.into_iter().find(|(blow, at)| breaks(cut(*blow, *at))).map(|(blow, at)| (story, blow, at))
        })
    };
    let found = Broken::ALL.map(|broken| (broken, finds(broken)));
    let watching = watch::Broken::ALL.map(|broken| {
        let points = Watch::new(Fate::none(), false).run().points();
        let cut = |at| Watch::new(Fate::strikes(Blow::Dies, at), false).broken(broken);
        (broken, (1..=points).find(|at| std::panic::catch_unwind(|| cut(*at).run().check()).is_err()))
    });
    let _ = std::panic::take_hook();
    for (broken, at) in watching {
        println!("{broken:?}: {at:?}");
        assert!(at.is_some(), "{broken:?} was not found");
    }
    for (broken, at) in found {
        println!("{broken:?}: {at:?}");
        assert!(at.is_some(), "{broken:?} was not found");
    }
}

/// Losses, delays and several blows, by the thousand.
#[test]
fn random_schedules_break_no_promise() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SCHEDULES").unwrap_or(SCHEDULES),
    };
    let last = seeds.end;
    for seed in seeds {
        let run = std::panic::catch_unwind(|| World::random(seed).run().check());
        let watch = std::panic::catch_unwind(|| Watch::random(seed).run().check());
        assert!(run.is_ok() && watch.is_ok(), "schedule {seed} (of {last}) breaks a promise; replay it: make sim SEED={seed}");
    }
}
