//! A cable that takes its time: frames between two interfaces of the switch, each held for a while. Kernels without netem need it.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, MacAddr};

/// How long a frame takes: what it must, and up to so much more.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    pub least: Duration,
    pub jitter: Duration,
}

/// Joins `host`, behind which only `mac` is, and `switch`, for as long as they are there. What goes between two of `slow` takes as
/// long as it is said to; everything else goes at once.
pub fn join(namespace: &str, (host, mac): (String, MacAddr), switch: String, slow: Vec<Ipv4Addr>, delay: Delay) {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    // The threads that are begun in a namespace are there.
    let joining = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let (to_host, from_host) = open(&host);
        let (to_switch, from_switch) = open(&switch);
        // What we send ourselves is heard too: who is behind which end tells it apart.
        forward(from_host, to_switch, move |source| source == mac, slow.clone(), delay);
        forward(from_switch, to_host, move |source| source != mac, slow, delay);
    });
    joining.join().unwrap();
}

fn open(name: &str) -> (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>) {
    let interface = pnet_datalink::interfaces().into_iter().find(|own| own.name == name).unwrap();
    let config = Config { read_buffer_size: 1 << 20, ..Config::default() };
    let Channel::Ethernet(sender, receiver) = pnet_datalink::channel(&interface, config).unwrap() else { panic!("no Ethernet") };
    (sender, receiver)
}

fn forward(
    mut from: Box<dyn DataLinkReceiver>,
    to: Box<dyn DataLinkSender>,
    is_from: impl Fn(MacAddr) -> bool + Send + 'static,
    slow: Vec<Ipv4Addr>,
    delay: Delay,
) {
    let (queue, waiting) = channel();
    std::thread::spawn(move || send(to, &waiting));
    std::thread::spawn(move || {
        while let Ok(frame) = from.next() {
            let source = <[u8; 6]>::try_from(frame.get(6..12).unwrap_or_default()).map(MacAddr::from);
            if source.is_ok_and(&is_from) && hold(&queue, frame, &slow, delay).is_err() {
                return;
            }
        }
    });
}

type Held = (Instant, Vec<u8>);

fn hold(queue: &Sender<Held>, frame: &[u8], slow: &[Ipv4Addr], delay: Delay) -> Result<(), std::sync::mpsc::SendError<Held>> {
    let between = ends(frame).is_some_and(|(a, b)| slow.contains(&a) && slow.contains(&b));
    let more = delay.jitter.mul_f64(rand::random::<f64>());
    let due = Instant::now() + if between { delay.least + more } else { Duration::ZERO };
    queue.send((due, frame.to_vec()))
}

fn send(mut to: Box<dyn DataLinkSender>, waiting: &std::sync::mpsc::Receiver<Held>) {
    let (mut held, mut number) = (BTreeMap::new(), 0_u64);
    loop {
        let next = held.keys().next().map(|(due, _): &(Instant, u64)| due.saturating_duration_since(Instant::now()));
        match waiting.recv_timeout(next.unwrap_or(Duration::from_secs(3600))) {
            Ok((due, frame)) => {
                number += 1;
                held.insert((due, number), frame);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while let Some(first) = held.first_entry().filter(|first| first.key().0 <= Instant::now()) {
            // An interface that is gone loses what is sent there, as a cable does.
            let _ = to.send_to(&first.remove(), None);
        }
    }
}

/// Source and destination of an IPv4 frame.
fn ends(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    (frame.get(12..14)? == [0x08, 0x00]).then_some((ip(26)?, ip(30)?))
}
