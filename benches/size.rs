//! A takeover at size: 10,000 answered calls and 100,000 registrations on the vnodes of one node, and its end.
//!
//! `make size` prints the table of `docs/failover.md`. Hosts in network namespaces, three nodes and all phones on one machine.
//! A call has two sockets a leg; a process that may not have as many as all calls need has most of them without a stream
//! (`m=audio 0`). CALLS, MEDIA (calls with sockets), TALKING (of those, with sound), REGISTRATIONS, SETUP (calls set up a second) and
//! PACE (re-INVITEs a second) change the size.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a bench"
)]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tandem::cli::demo::talk::Talk;
use tandem::ids::{Aor, VnodeId};
use tandem::sip::encode::encode_response;
use tandem::sip::message::Message;
use tandem::sip::{Method, Name, StatusCode, parse};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use lab::cluster::{Cluster, DOMAIN, PATIENCE};
use lab::net;
use lab::sipp::{Line, Load, Sipp};
use lab::{call, until};

/// The node that has it all, and its vnodes.
const NODE: usize = 2;
const VNODES: [u16; 2] = [2, 5];
/// So many calls are set up at once.
const AT_ONCE: usize = 8;
const REGISTERS_A_SECOND: usize = 600;
/// After the last of a call's transactions is forgotten.
const ASLEEP: Duration = Duration::from_secs(45);

const NO_MEDIA: &str = "v=0\r\no=- 1 1 IN IP4 10.99.1.1\r\ns=-\r\nc=IN IP4 10.99.1.1\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\n";

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() {
    net::run(3, async |net| {
        let (calls, media, talking) = (number("CALLS", 10_000), number("MEDIA", 4_000), number("TALKING", 100));
        let (registrations, setup, pace) = (number("REGISTRATIONS", 100_000), number("SETUP", 100), number("PACE", 250));
        let vnodes: Vec<_> = (1..=6).map(VnodeId).collect();
        let here = |name: &String| Aor::new(name, DOMAIN).vnode(&vnodes).is_some_and(|vnode| VNODES.contains(&vnode.0));
        let names: Vec<_> = (0..).map(|n| format!("u{n:06}")).filter(here).take(registrations.max(2 * calls)).collect();
        let mut cluster = Cluster::at_with(&net, names.into_iter().map(|name| (name.clone(), name)).collect(), |config| {
            config.media.first_port = 10_000;
            config.media.last_port = 59_999;
            config.media.timeout = 0;
        })
        .await;
        let mut memory = Memory::new(&cluster);
        println!("| what | memory of the three nodes | storage processes |\n|---|---|---|");
        memory.row(&cluster, "with the users", 0);

        let callees = Callees::start().await;
        let line =
            |n: usize| Line { user: &cluster.users[n].0, password: &cluster.users[n].1, last: callees.contact.to_string() };
        let lines: Vec<_> = (0..registrations).map(line).collect();
        let load = Load { calls: registrations, per_second: REGISTERS_A_SECOND, talk: 0 };
        let registered = Sipp::toward(cluster.sip_of(NODE), "register", &lines, &load).done().await;
        assert_eq!((registered.succeeded, registered.failed), (registrations as u64, 0), "{registered:?}");
        memory.row(&cluster, "a registration", registrations);

        let begin = Instant::now();
        let mut talks = Vec::new();
        let mut quiet = JoinSet::new();
        let mut phones = Vec::new();
        let mut next = tokio::time::interval(Duration::from_secs(1) / u32::try_from(setup).unwrap());
        for n in 0..calls {
            next.tick().await;
            let server = cluster.sip[usize::from(VNODES[n % 2]) - 1];
            let (mut phone, socket) = call::phone_at(&cluster, n, server).await;
            let callee = cluster.users[calls + n].0.clone();
            if n < talking {
                let to = phone.call(&callee).await.unwrap();
                talks.push(Talk::start(socket, to));
                phones.push((phone, true));
                continue;
            }
            drop(socket);
            if quiet.len() == AT_ONCE {
                phones.push(quiet.join_next().await.unwrap().unwrap());
            }
            let has_media = n < media;
            quiet.spawn(async move {
                let sdp = if has_media { phone.sdp() } else { NO_MEDIA.into() };
                let answer = phone.try_call(&callee, "", &sdp).await.unwrap();
                assert_eq!(answer.status, StatusCode::OK, "{callee}");
                (phone, has_media)
            });
        }
        phones.extend(quiet.join_all().await);
        println!("{calls} calls answered in {:.0} s, {media} of them with sockets", begin.elapsed().as_secs_f64());
        tokio::time::sleep(ASLEEP).await;
        assert_eq!(cluster.count(NODE, "/v1/cluster", "calls").await, calls as u64);
        println!("{} calls awake", cluster.count(NODE, "/v1/cluster", "calls_awake").await);
        memory.row(&cluster, "a call", calls);

        for talk in &talks {
            talk.take_gap();
        }
        let (begin, killed) = (Instant::now(), SystemTime::now());
        cluster.kill(NODE);
        // Every call's dialog, one after the other from the first moment.
        let mut asking = JoinSet::new();
        let mut next = tokio::time::interval(Duration::from_secs(1) / u32::try_from(pace).unwrap());
        for (mut phone, has_media) in phones {
            next.tick().await;
            asking.spawn(async move {
                let sdp = if has_media { phone.sdp() } else { NO_MEDIA.into() };
                let begin = Instant::now();
                let answer = phone.ask_within(Method::Invite, &sdp).await.unwrap();
                assert_eq!(answer.status, StatusCode::OK);
                begin.elapsed()
            });
        }
        let answered = asking.join_all().await;
        let gaps = talks.iter().map(Talk::take_gap).collect();
        println!("| after `kill -9`, milliseconds | median | p99 | worst |\n|---|---|---|---|");
        row(&format!("gap in the sound of {talking} calls"), gaps);
        row(&format!("answer to a re-INVITE, {calls} calls, {pace} a second"), answered);
        println!("the last re-INVITE was answered {:.0} s after the end of the node", begin.elapsed().as_secs_f64());
        cluster.tell(killed);
        drop(talks);
        cluster.start_again(NODE);
        cluster.at_home().await;
        let kept = async || {
            let mut sums = (0, 0);
            for node in 1..=3 {
                sums.0 += cluster.count(node, "/v1/cluster", "calls").await;
            }
            sums.1 = cluster.count(1, "/v1/registrations?limit=0", "total").await;
            sums == (calls as u64, registrations as u64)
        };
        until("every call and every registration is there", PATIENCE, kept).await;
        println!("{calls} calls and {registrations} registrations are there, at home again");
    });
}

/// Phones that answer whatever comes, at one address.
struct Callees {
    contact: SocketAddr,
}

impl Callees {
    async fn start() -> Self {
        // Where its users register from, so that it is no phone behind a NAT.
        let socket = UdpSocket::bind((lab::address(100), 6060)).await.unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20).unwrap();
        let contact = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let Ok(Message::Request(request)) = parse::datagram(&Bytes::copy_from_slice(&buffer[..length])) else { continue };
                if request.method == Method::Ack {
                    continue;
                }
                let ok = request.response(StatusCode::OK, Some("callee")).with(Name::Contact, format!("<sip:x@{contact}>"));
                let ok = match request.method {
                    // What it is offered is what it wants.
                    Method::Invite => ok.with_body("application/sdp", request.body.clone()),
                    _ => ok,
                };
                let _ = socket.send_to(&encode_response(&ok), from).await;
            }
        });
        Self { contact }
    }
}

/// What the nodes hold, beside what they held before.
struct Memory {
    before: u64,
}

impl Memory {
    fn new(cluster: &Cluster) -> Self {
        Self { before: resident(cluster.pids()) }
    }

    fn row(&mut self, cluster: &Cluster, what: &str, number: usize) {
        let now = resident(cluster.pids());
        let nodes: Vec<_> = cluster.pids().iter().map(|pid| format!("{}", resident(&[*pid]) >> 20)).collect();
        let disks: Vec<_> = cluster.disks().iter().map(|pid| format!("{}", resident(&[*pid]) >> 20)).collect();
        let each = match number {
            0 => String::new(),
            _ => format!(": {:.1} KB each", now.saturating_sub(self.before) as f64 / 1024.0 / number as f64),
        };
        println!("| {what}{each} | {} MB | {} MB |", nodes.join(" + "), disks.join(" + "));
        self.before = now;
    }
}

/// Bytes of memory of their own that processes have.
fn resident(pids: &[i32]) -> u64 {
    pids.iter().map(|pid| lab::memory(*pid)).sum()
}

fn row(what: &str, mut spans: Vec<Duration>) {
    spans.sort_unstable();
    let at = |percent: usize| spans[(spans.len() * percent / 100).min(spans.len() - 1)].as_secs_f64() * 1000.0;
    println!("| {what} | {:.0} | {:.0} | {:.0} |", at(50), at(99), at(100));
}
