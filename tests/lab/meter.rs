//! How long phones are without packets: what goes from the cluster's addresses to theirs is overheard on the loopback interface, whatever it is
//! protected by.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pnet_datalink::{Channel, Config};

use super::address;

/// Ethernet's header, and UDP's.
const LINK: usize = 14;
const UDP: usize = 8;
/// A stream of sound has more packets than this in the time of a test.
const STREAM: u64 = 100;

/// It listens until it is dropped.
pub struct Meter {
    streams: Arc<Mutex<BTreeMap<SocketAddrV4, Stream>>>,
    running: Arc<AtomicBool>,
}

/// The packets to one port of a phone's.
struct Stream {
    last: Instant,
    longest: Duration,
    count: u64,
}

impl Meter {
    pub fn start() -> Self {
        let lo = pnet_datalink::interfaces().into_iter().find(|own| own.name == "lo").unwrap();
        let config = Config { read_buffer_size: 1 << 20, read_timeout: Some(Duration::from_millis(100)), ..Config::default() };
        let Ok(Channel::Ethernet(_sender, mut receiver)) = pnet_datalink::channel(&lo, config) else { panic!("no Ethernet") };
        let (streams, running) = (Arc::<Mutex<BTreeMap<_, Stream>>>::default(), Arc::new(AtomicBool::new(true)));
        let meter = Self { streams: streams.clone(), running: running.clone() };
        std::thread::spawn(move || {
            while running.load(Ordering::Relaxed) {
                let Some(to) = receiver.next().ok().and_then(media) else { continue };
                let now = Instant::now();
                let mut streams = streams.lock().unwrap();
                let stream = streams.entry(to).or_insert(Stream { last: now, longest: Duration::ZERO, count: 0 });
                stream.longest = stream.longest.max(now - stream.last);
                (stream.last, stream.count) = (now, stream.count + 1);
            }
        });
        meter
    }

    /// From now on.
    pub fn watch(&self) {
        for stream in self.streams.lock().unwrap().values_mut() {
            (stream.longest, stream.count) = (Duration::ZERO, 0);
        }
    }

    /// The longest time between two packets of each stream of sound.
    pub fn gaps(&self) -> Vec<Duration> {
        let streams = self.streams.lock().unwrap();
        streams.values().filter(|stream| stream.count > STREAM).map(|stream| stream.longest).collect()
    }

    /// How many packets each stream has had, and how long it was without any.
    pub fn all(&self) -> Vec<(SocketAddrV4, u64, Duration)> {
        self.streams.lock().unwrap().iter().map(|(to, stream)| (*to, stream.count, stream.longest)).collect()
    }

    /// Whether each stream of sound goes on: its last packet isn't longer ago than this.
    pub fn goes_on(&self, within: Duration) -> bool {
        let (streams, now) = (self.streams.lock().unwrap(), Instant::now());
        streams.values().filter(|stream| stream.count > STREAM).all(|stream| now - stream.last < within)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
    }
}

/// Where a frame goes, if it is RTP or SRTP from an address of the cluster's.
fn media(frame: &[u8]) -> Option<SocketAddrV4> {
    let ip = frame.get(LINK..)?;
    let (header, protocol) = (usize::from(*ip.first()? & 15) * 4, *ip.get(9)?);
    let octets = |at: usize| ip.get(at..at + 4).and_then(|octets| <[u8; 4]>::try_from(octets).ok()).map(Ipv4Addr::from);
    let (from, to) = (octets(12)?, octets(16)?);
    let [ours @ .., _] = address(0).octets();
    let [theirs @ .., last] = from.octets();
    let udp = ip.get(header..)?;
    let payload = udp.get(UDP..)?;
    let is_rtp = matches!(payload, [128..=191, kind, ..] if !(192..=223).contains(kind));
    // The vnodes' addresses come before the phones'.
    let is_ours = frame.get(12..LINK)? == [8, 0] && protocol == 17 && ours == theirs && last < 100;
    (is_ours && is_rtp).then(|| SocketAddrV4::new(to, u16::from_be_bytes([udp[2], udp[3]])))
}
