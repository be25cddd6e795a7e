//! What is measured of calls: shown while they are up, and accounted when they have ended.

use std::sync::atomic::Ordering;

use serde_json::Value;

use super::tests::{World, heard_more, impatient, until};
use crate::cli::http::ApiClient;
use crate::sip::{Method, StatusCode};

async fn get(world: &World, path: &str) -> Value {
    let config = &world.node.services.config.api;
    let token = std::fs::read_to_string(&config.token_file).unwrap();
    ApiClient::new(config.listen, token.trim()).get(path).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_call_was_heard_is_shown_and_accounted() {
    let world = World::start(30).await;
    let ([mut a, mut b], talks) = world.call().await;
    heard_more(&talks).await;
    let path = format!("/v1/calls/{}", world.the_call());
    let shown = get(&world, &path).await;
    for leg in [&shown["legs"][0], &shown["legs"][1]] {
        assert_eq!((&leg["codec"], &leg["lost"]), (&"PCMU".into(), &0.into()), "{shown}");
        assert!(leg["received"].as_u64() >= Some(10) && leg["mos"].as_f64() > Some(3.5), "{shown}");
        assert_eq!((&leg["now"]["one_way"], &leg["round_trip_ms"]), (&false.into(), &Value::Null));
        assert!(leg["now"]["jitter_ms"].as_f64().is_some_and(|jitter| jitter < 500.0), "{shown}");
    }
    heard_more(&talks).await;
    assert!(get(&world, &path).await["legs"][0]["received"].as_u64() > shown["legs"][0]["received"].as_u64());
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    until(|| world.cdrs() == 1).await;
    let cdr = &get(&world, "/v1/cdrs").await["cdrs"][0];
    for leg in [&cdr["legs"][0], &cdr["legs"][1]] {
        assert!(leg["received"].as_u64() >= Some(20) && leg["mos"].as_f64() > Some(3.5), "{cdr}");
        assert_eq!((&leg["lost"], leg.get("now")), (&0.into(), None), "{cdr}");
    }
}

/// Its record has what was measured until then, and what is measured here goes on: that is counted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_sleeps_is_counted_once() {
    let world = World::start_with(31, impatient).await;
    let directory = &world.node.services.directory;
    let ([mut a, mut b], talks) = world.call().await;
    let asleep = || directory.awake() == 0 && directory.len() == 1;
    let sdp = a.sdp();
    let other = tokio::spawn(async move { b.wait_for_bye().await });
    for _ in 0..2 {
        until(asleep).await;
        heard_more(&talks).await;
        assert_eq!(a.ask_within(Method::Invite, &sdp).await.unwrap().status, StatusCode::OK);
    }
    until(asleep).await;
    let counters = directory.counters(world.the_call()).unwrap();
    let came = || counters.each_ref().map(|leg| leg.received.load(Ordering::Relaxed));
    let before = came();
    a.hang_up().await.unwrap();
    other.await.unwrap().unwrap();
    until(|| world.cdrs() == 1).await;
    let after = came();
    let cdr = &get(&world, "/v1/cdrs").await["cdrs"][0];
    for leg in 0..2 {
        let received = cdr["legs"][leg]["received"].as_u64().unwrap();
        assert!((before[leg]..=after[leg]).contains(&received), "{before:?} {after:?} {cdr}");
    }
}
