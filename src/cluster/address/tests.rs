use std::io::{Read, Seek, SeekFrom};

use super::*;
use crate::fence::Pass;

const VNODE: VnodeId = VnodeId(2);
const IP: &str = "10.0.0.12";

/// Addresses whose guard is a file: what it is told can be read, and it says what we let it say.
fn with_a_guard() -> (Arc<Addresses>, File) {
    let fence = Fence::default();
    fence.pass(Pass::Lease);
    fence.extend(clock::uptime() + Duration::from_secs(3600));
    let mover = Mover::Guard { program: PathBuf::new(), interface: "lo".into() };
    let guard = tempfile::tempfile().unwrap();
    let inner = Inner { guard: Some(guard.try_clone().unwrap()), ..Inner::default() };
    let all = BTreeMap::from([(VNODE, (IP.parse::<IpAddr>().unwrap().into(), fence))]);
    (Arc::new(Addresses { mover, all, inner: Mutex::new(inner) }), guard)
}

/// The words that it was told since this was asked last.
fn told(guard: &mut File) -> Vec<String> {
    let mut text = String::new();
    // The position is that of the writer too.
    guard.seek(SeekFrom::Start(0)).unwrap();
    guard.read_to_string(&mut text).unwrap();
    guard.set_len(0).unwrap();
    guard.seek(SeekFrom::Start(0)).unwrap();
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// Lets what was begun go as far as it can.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// Asks for the address, and doesn't wait for the answer.
async fn take_and_leave(addresses: &Arc<Addresses>) {
    let asked = addresses.clone();
    let taking = tokio::spawn(async move { asked.take(VNODE).await });
    settle().await;
    taking.abort();
    assert!(taking.await.is_err());
}

#[tokio::test]
async fn an_answer_goes_to_who_asked_for_it() {
    let (addresses, mut guard) = with_a_guard();
    take_and_leave(&addresses).await;
    let asked = addresses.clone();
    let giving = tokio::spawn(async move { asked.give(VNODE).await });
    settle().await;
    assert_eq!(told(&mut guard), ["take", "give"]);
    addresses.hear(&format!("taken {IP}"));
    settle().await;
    assert!(!giving.is_finished(), "it is not given up yet");
    addresses.hear(&format!("given {IP}"));
    giving.await.unwrap();
}

#[tokio::test]
async fn an_address_that_lapsed_is_asked_for_until_it_comes() {
    let (addresses, mut guard) = with_a_guard();
    let asked = addresses.clone();
    let taking = tokio::spawn(async move { asked.take(VNODE).await });
    settle().await;
    addresses.hear(&format!("taken {IP}"));
    taking.await.unwrap().unwrap();
    addresses.renew();
    assert_eq!(told(&mut guard), ["take", "until"]);
    addresses.hear(&format!("lapsed {IP}"));
    addresses.renew();
    assert_eq!(told(&mut guard), ["take"]);
    addresses.hear(&format!("failed {IP} for a reason"));
    tokio::time::sleep(AGAIN).await;
    addresses.renew();
    assert_eq!(told(&mut guard), ["take"], "again, after a while");
    addresses.hear(&format!("taken {IP}"));
    tokio::time::sleep(2 * AGAIN).await;
    addresses.renew();
    assert_eq!(told(&mut guard), ["until"]);
}

/// The first answer came late, when nobody waited for it any more.
#[tokio::test]
async fn an_address_that_failed_to_come_after_its_asker_had_gone_is_asked_for_again() {
    let (addresses, mut guard) = with_a_guard();
    take_and_leave(&addresses).await;
    addresses.hear(&format!("failed {IP} for a reason"));
    addresses.renew();
    assert_eq!(told(&mut guard), ["take", "take"]);
}

#[test]
fn what_fails_is_asked_for_ever_more_seldom() {
    let mut again = Again::AT_ONCE;
    let at = |ms: u64| Uptime(0) + Duration::from_millis(ms);
    let asked: Vec<_> = (0..5000).filter(|ms| again.is_due(at(*ms))).collect();
    assert_eq!(asked[..8], [0, 10, 30, 70, 150, 310, 630, 1270]);
    assert!(asked[8..].windows(2).all(|two| two[1] - two[0] == 1000), "{asked:?}");
}
