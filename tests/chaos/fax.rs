//! A fax in a call (T.38 over UDPTL, RFC 3362): it passes as it is, goes on when the owner dies in the middle of a page, and the call goes back to
//! sound.
//!
//! What is sent between the end of a node and its succession is lost. Each datagram bears what those before it bore (T.38 §9.1.4), as between any two
//! gateways, so that the page is whole all the same.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tandem::cli::demo::phone::{Phone, rtp_address};
use tandem::cli::demo::talk::Talk;
use tandem::sip::{Method, StatusCode};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::{call, net, phones, until};

/// A piece of a page every so often: so much at 14,400 bit/s.
const EVERY: Duration = Duration::from_millis(40);
const PIECE: u8 = 72;
/// So many former ones are in each datagram.
const REDUNDANCY: u16 = 5;
/// How long a page takes before the fault, and after it.
const HALF: Duration = Duration::from_secs(2);
/// Who is asked for a fax takes so long to agree, and there is sound until then.
const THINKS: Duration = Duration::from_millis(300);
/// What is on its way arrives within this.
const LATE: Duration = Duration::from_millis(300);
/// The longest that a call may be without sound when its owner dies.
const GAP: Duration = Duration::from_millis(300);

const T38: &str = "a=T38FaxVersion:0\r\na=T38MaxBitRate:14400\r\na=T38FaxRateManagement:transferredTCF\r\na=T38FaxMaxBuffer:1024\r\n\
                   a=T38FaxMaxDatagram:480\r\na=T38FaxUdpEC:t38UDPRedundancy\r\n";

#[test]
fn a_fax_goes_on_when_the_owner_is_killed() {
    net::run(3, async |net| passes(Cluster::at(&net, 2).await, 0).await);
}

/// It is reached where its datagrams come from: what was sent to it before is lost.
#[test]
fn a_fax_behind_a_nat_goes_on_when_the_owner_is_killed() {
    net::run_at_home(3, async |net| passes(Cluster::at(&net, 2).await, 2).await);
}

/// The first so many datagrams may be lost.
async fn passes(mut cluster: Cluster, first: u16) {
    let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    a.register().await.unwrap();
    b.register().await.unwrap();
    let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
    tokio::time::sleep(HALF).await;

    // The machine that is called asks for it.
    let [a_fax, b_fax] = [socket().await, socket().await];
    for (phone, fax) in [(&mut a, &a_fax), (&mut b, &b_fax)] {
        phone.describes(description(2, fax, &format!("m=image PORT udptl t38\r\n{T38}")));
    }
    let [b_to, a_to] = turn(&mut b, &mut a).await;
    drop(talks);
    let machines = [Machine::start(0, a_fax, a_to), Machine::start(1, b_fax, b_to)];
    stay(&mut a, &mut b).await;
    let lost = machines.each_ref().map(|machine| machine.lost_of(&machines[1 - machine.number]));
    assert!(lost.iter().all(|lost| lost.iter().all(|number| *number < first)), "before anything happened: {lost:?}");
    cluster.kill(2);
    stay(&mut a, &mut b).await;
    machines.iter().for_each(Machine::stop);
    tokio::time::sleep(LATE).await;
    for machine in &machines {
        let other = &machines[1 - machine.number];
        let lost: Vec<_> = machine.lost_of(other).into_iter().filter(|number| *number >= first).collect();
        let once = lost.windows(2).all(|two| two[1] == two[0] + 1);
        assert!(once && lost.len() <= usize::from(REDUNDANCY), "at the takeover: {lost:?}");
        assert_eq!(machine.page(), (0..other.sent()).map(|at| (at, piece(other.number, at))).collect());
    }
    drop(machines);

    let [a_media, b_media] = [socket().await, socket().await];
    for (phone, media) in [(&mut a, &a_media), (&mut b, &b_media)] {
        phone.describes(description(3, media, "m=audio PORT RTP/AVP 0\r\n"));
    }
    let [a_to, b_to] = turn(&mut a, &mut b).await;
    let talks = [Talk::start(a_media, a_to), Talk::start(b_media, b_to)];
    stay(&mut a, &mut b).await;
    call::heard_each_other(&talks, GAP);
    let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
    hung_up.and(ended).unwrap();
    until("one CDR and no socket", PATIENCE, || async {
        let sockets =
            cluster.count(1, "/v1/cluster", "media_sockets").await + cluster.count(3, "/v1/cluster", "media_sockets").await;
        cluster.count(1, "/v1/cdrs", "total").await == 1 && sockets == 0
    })
    .await;
}

async fn socket() -> UdpSocket {
    UdpSocket::bind((phones(), 0)).await.unwrap()
}

/// A phone's description of itself, with one stream.
fn description(version: u8, media: &UdpSocket, stream: &str) -> String {
    let (ip, port) = (phones(), media.local_addr().unwrap().port());
    let stream = stream.replace("PORT", &port.to_string());
    format!("v=0\r\no=- 1 {version} IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n{stream}")
}

/// A phone asks for what it describes, and the other agrees; gives where each is to send.
async fn turn(asks: &mut Phone, agrees: &mut Phone) -> [SocketAddr; 2] {
    let offer = asks.sdp();
    agrees.set_thinking(THINKS);
    let (answered, asked) = tokio::join!(asks.ask_within(Method::Invite, &offer), agrees.follow());
    agrees.set_thinking(Duration::ZERO);
    let answer = answered.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    [rtp_address(&answer.body).unwrap(), asked.unwrap()]
}

async fn stay(a: &mut Phone, b: &mut Phone) {
    let (one, other) = tokio::join!(a.stay(HALF), b.stay(HALF));
    one.and(other).unwrap();
}

/// A fax machine, which sends and hears.
struct Machine {
    number: usize,
    sent: Arc<AtomicU16>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Machine {
    fn start(number: usize, socket: UdpSocket, remote: SocketAddr) -> Self {
        let (socket, sent, heard) = (Arc::new(socket), Arc::<AtomicU16>::default(), Arc::<Mutex<Vec<Vec<u8>>>>::default());
        let (ears, so_far, all) = (socket.clone(), sent.clone(), heard.clone());
        let sending = tokio::spawn(async move {
            let mut tick = tokio::time::interval(EVERY);
            for at in 0.. {
                tick.tick().await;
                socket.send_to(&datagram(number, at), remote).await.unwrap();
                so_far.store(at + 1, Ordering::Relaxed);
            }
        });
        let listening = tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                let (length, _) = ears.recv_from(&mut buffer).await.unwrap();
                // The sound from before it was agreed on is none of its business.
                if buffer[0] >> 6 != 2 {
                    all.lock().unwrap().push(buffer[..length].to_vec());
                }
            }
        });
        Self { number, sent, heard, tasks: [sending, listening] }
    }

    fn stop(&self) {
        self.tasks[0].abort();
    }

    fn sent(&self) -> u16 {
        self.sent.load(Ordering::Relaxed)
    }

    /// What hasn't come of what the other machine has sent, up to the last that has. What has is as it was sent, and in order.
    fn lost_of(&self, other: &Self) -> Vec<u16> {
        let heard = self.heard.lock().unwrap();
        let numbers: Vec<_> = heard.iter().map(|datagram| number_of(datagram)).collect();
        assert!(numbers.is_sorted_by(|before, after| before < after), "{numbers:?}");
        for (bytes, at) in heard.iter().zip(&numbers) {
            assert_eq!(*bytes, datagram(other.number, *at));
        }
        let last = *numbers.last().expect("nothing was heard");
        (0..last).filter(|at| numbers.binary_search(at).is_err()).collect()
    }

    /// What all that has come bears, piece by piece.
    fn page(&self) -> BTreeMap<u16, Vec<u8>> {
        self.heard.lock().unwrap().iter().flat_map(|datagram| pieces(datagram)).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn piece(machine: usize, number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    (0..PIECE).map(|at| at.wrapping_mul(31) ^ low ^ high.wrapping_mul(7) ^ if machine == 0 { 0 } else { 0xff }).collect()
}

/// T.38 §9.1: its number, its piece, and those before it, the latest first; each with its length.
fn datagram(machine: usize, number: u16) -> Vec<u8> {
    let former = number.min(REDUNDANCY);
    let mut datagram = number.to_be_bytes().to_vec();
    for back in 0..=former {
        datagram.push(PIECE);
        datagram.extend(piece(machine, number - back));
        if back == 0 {
            // Redundancy, and not parity.
            datagram.extend([0, u8::try_from(former).unwrap()]);
        }
    }
    datagram
}

fn number_of(datagram: &[u8]) -> u16 {
    u16::from_be_bytes([datagram[0], datagram[1]])
}

/// The same read again.
fn pieces(datagram: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let (first, former) = datagram[3..].split_at(usize::from(PIECE));
    let former = former[2..].chunks(1 + usize::from(PIECE)).map(|piece| &piece[1..]);
    let all = std::iter::once(first).chain(former).map(<[u8]>::to_vec);
    (0..).zip(all).map(|(back, piece)| (number_of(datagram) - back, piece)).collect()
}
