//! What it costs to make packets over, beside the codecs alone; and what it does to the packets of others.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use ropus::{Application, Bitrate, Channels, DecodeMode, Decoder, Encoder};
use tandem::cli::demo::phone::Phone;
use tandem::media::core::codec::g711::Law;
use tandem::media::core::sound::Quality;

use crate::lab::cluster::Cluster;
use crate::lab::cpu;
use crate::streams::{self, Calls, Phones, Session, TICKS};
use crate::{Kind, median, number, set_up};

/// How long packets are counted, and how long they flow before.
const SPAN: Duration = Duration::from_secs(5);
const WARM: Duration = Duration::from_secs(2);
const FRAME_MS: usize = 20;
/// Samples of a frame at 8 kHz, and at 16.
const NARROW: usize = 160;
const WIDE: usize = 320;
/// The longest packet of either.
const MOST: usize = 400;
/// How often phones look at what has come.
const LOOK: Duration = Duration::from_micros(500);

/// 20 ms of the same speech in each codec: what the callers say, and the callees.
struct Speech {
    said: [Vec<Vec<u8>>; 2],
}

impl Speech {
    fn read() -> Self {
        let samples = |name: &str| -> Vec<i16> {
            let bytes = std::fs::read(format!("{}/tests/data/sound/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
        };
        let law = |frame: &[i16]| {
            let mut octets = [0; NARROW];
            Law::Mu.encode(frame, &mut octets);
            octets.to_vec()
        };
        let mut encoder = encoder(16_000);
        let opus = |frame: &[i16]| {
            let mut octets = [0; MOST];
            let length = encoder.encode(frame, &mut octets).unwrap();
            octets[..length].to_vec()
        };
        let narrow = samples("speech8.pcm").chunks_exact(NARROW).map(law).collect();
        Self { said: [narrow, samples("speech16.pcm").chunks_exact(WIDE).map(opus).collect()] }
    }

    fn frame(&self, side: usize, n: usize) -> &[u8] {
        &self.said[side][n % self.said[side].len()]
    }
}

fn encoder(rate: u32) -> Encoder {
    let Quality { complexity, bitrate } = Quality::default();
    let builder = Encoder::builder(rate, Channels::Mono, Application::Voip);
    builder.bitrate(Bitrate::Bits(bitrate)).complexity(complexity).build().unwrap()
}

/// CPU seconds for a second of one call, by the codecs and nothing else: each call has its own, as in the relay, and each its turn. Phones talk beside it
/// as they do beside the relay: a core that shares its hardware with a busy one is slower.
fn alone(calls: usize, speech: &Speech) -> f64 {
    let mut all: Vec<_> = (0..calls).map(|_| (Decoder::new(8000, Channels::Mono).unwrap(), encoder(8000))).collect();
    let frames = SPAN.as_millis() as usize / FRAME_MS;
    let used = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap()).as_secs_f64();
    let (mut samples, mut octets) = ([0; WIDE], [0; MOST]);
    let begin = used();
    for n in 0..frames {
        for (decoder, encoder) in &mut all {
            let count = decoder.decode(speech.frame(1, n), &mut samples, DecodeMode::Normal).unwrap();
            std::hint::black_box(Law::Mu.encode(&samples[..count], &mut octets));
            let count = Law::Mu.decode(speech.frame(0, n), &mut samples);
            std::hint::black_box(encoder.encode(&samples[..count], &mut octets).unwrap());
        }
    }
    (used() - begin) / (calls as f64 * SPAN.as_secs_f64())
}

/// Both sides of all calls talk until `stop`, and hear each other. Counts what is sent and heard from `mark` on.
fn talk(phones: &Phones, sessions: &[Session], speech: &Speech, (stop, mark): (&AtomicBool, &AtomicBool)) -> [u64; 2] {
    // Their numbers go on from one run to the next.
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let first = NUMBER.load(Ordering::Relaxed);
    let heard = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let ears = scope.spawn(|| {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
                for socket in phones.sockets.iter().flatten() {
                    while socket.recv(&mut buffer).is_ok() {
                        heard.fetch_add(u64::from(mark.load(Ordering::Relaxed)), Ordering::Relaxed);
                    }
                }
            }
        });
        let (begin, mut sent) = (Instant::now(), 0);
        for tick in 0_u32.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep((begin + Duration::from_millis(1) * tick).saturating_duration_since(Instant::now()));
            let number = first + tick as usize / TICKS;
            NUMBER.store(number + 1, Ordering::Relaxed);
            for (n, session) in sessions.iter().enumerate().skip(tick as usize % TICKS).step_by(TICKS) {
                for side in 0..2 {
                    let packet = packet(side, (2 * n + side) as u32, number, speech.frame(side, number));
                    let to: SocketAddr = session.relay[side];
                    phones.sockets[side][streams::socket_of(n)].send_to(&packet, to).unwrap();
                    sent += u64::from(mark.load(Ordering::Relaxed));
                }
            }
        }
        ears.join().unwrap();
        [sent, heard.load(Ordering::Relaxed)]
    })
}

fn packet(side: usize, ssrc: u32, number: usize, payload: &[u8]) -> Vec<u8> {
    let (kind, ticks) = [(0, 160), (OPUS.0, 960)][side];
    let mut packet = vec![0x80, kind];
    packet.extend((number as u16).to_be_bytes());
    packet.extend((number as u32).wrapping_mul(ticks).to_be_bytes());
    packet.extend((0x4000_0000 + ssrc).to_be_bytes());
    packet.extend(payload);
    packet
}

const OPUS: (u8, &str) = (107, "opus/48000/2");

/// Callers have PCMU, and callees Opus.
fn speaks(phone: &mut Phone, side: usize) {
    if side == 1 {
        phone.speaks(OPUS.0, OPUS.1);
    }
}

/// Prints what a coded call costs, and what those calls do to the packets of others on the same node.
pub fn compare(phones: &Phones, runtime: &tokio::runtime::Runtime, repeats: usize) {
    let (coded, plain) = (number("CODED", 60), number("BESIDE", 250));
    let speech = Speech::read();
    let cluster = Cluster::of(1, coded + plain);
    let pids = cluster.pids().to_vec();
    // Each socket is heard by one thread.
    let own = Phones::at(Ipv4Addr::LOCALHOST.into());
    let (sessions, _talking) = runtime.block_on(set_up(&cluster, &own, 0..coded, Kind::Plain, speaks));
    let (others, _others) = runtime.block_on(set_up(&cluster, phones, coded..coded + plain, Kind::Plain, |_, _| ()));
    let others = Calls::new(others);
    let straight: Vec<_> =
        (0..coded).map(|n| own.pair(n)).map(|[a, b]| Session { phones: [a, b], relay: [b, a], keys: [None, None] }).collect();
    println!("\n{coded} calls G.711 <-> Opus (20 ms)            CPU ms for a second of a call (each run)   lost    calls a core");
    let (mut ours, mut codecs, mut lost) = (Vec::new(), Vec::new(), 0_i64);
    for _ in 0..repeats {
        let (stop, mark) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| talk(&own, &straight, &speech, (&stop, &mark)));
            codecs.push(alone(coded, &speech) * 1e3);
            stop.store(true, Ordering::Relaxed);
        });
        stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let talk = scope.spawn(|| talk(&own, &sessions, &speech, (&stop, &mark)));
            std::thread::sleep(WARM);
            mark.store(true, Ordering::Relaxed);
            let before = cpu(&pids);
            std::thread::sleep(SPAN);
            ours.push((cpu(&pids) - before) * 1e3 / (coded as f64 * SPAN.as_secs_f64()));
            mark.store(false, Ordering::Relaxed);
            stop.store(true, Ordering::Relaxed);
            let [sent, heard] = talk.join().unwrap();
            // Some were on their way when it began, and when it ended.
            let on_their_way = coded as u64 * 2;
            lost += i64::try_from(sent.saturating_sub(heard + on_their_way)).unwrap();
        });
    }
    let row = |name: &str, figures: &[f64], lost: &str| {
        let each = figures.iter().map(|figure| format!("{figure:.2}")).collect::<Vec<_>>().join(" ");
        let all = median(figures.iter().copied());
        println!("{name:<42} {all:>6.2} ({each:<20}) {lost:>23} {:>15.0}", 1e3 / all);
    };
    row("the codecs alone", &codecs, "");
    row("tandem", &ours, &lost.to_string());
    println!(
        "tandem / the codecs alone, calls a core    {:.2}",
        median(codecs.iter().zip(&ours).map(|(codecs, ours)| codecs / ours))
    );

    println!("\n{} plain streams on the same node                         p50 us  p99 us", plain * 2);
    for beside in [false, true] {
        let (stop, mark) = (AtomicBool::new(!beside), AtomicBool::new(false));
        let figure = std::thread::scope(|scope| {
            scope.spawn(|| talk(&own, &sessions, &speech, (&stop, &mark)));
            let figure = streams::run(phones, &others, WARM, SPAN, || 0.0);
            stop.store(true, Ordering::Relaxed);
            figure
        });
        let name = if beside { format!("while {coded} calls are made over") } else { "alone".into() };
        println!("{name:<52} {:>9.0} {:>7.0}", figure.p50, figure.p99);
    }
}
