//! The peer: rtpengine in user space, which is told of calls by its ng protocol (bencode over UDP).

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::THREADS;
use crate::lab::own_address;
use crate::streams::Session;
use crate::{Kind, crypto, key_in};
use tandem::media::core::srtp::MasterKey;

const NG: u16 = 2223;

pub struct Rtpengine {
    child: Child,
    control: UdpSocket,
}

impl Rtpengine {
    /// None if it isn't installed.
    pub fn start() -> Option<Self> {
        let own = own_address();
        let ng = SocketAddr::from((own, NG));
        let child = Command::new("rtpengine")
            .args(["--table=-1", "--foreground", "--log-stderr", "--log-level=3", "--timeout=600"])
            .args(["--delete-delay=0", "--port-min=30000", "--port-max=49000"])
            .arg(format!("--num-threads={THREADS}"))
            .arg(format!("--interface={own}"))
            .arg(format!("--listen-ng={ng}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let control = UdpSocket::bind("127.0.0.1:0").unwrap();
        control.connect(ng).unwrap();
        control.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let this = Self { child, control };
        this.ask(&[("command", "ping")]);
        Some(this)
    }

    pub fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// A call of two phones, each of which may protect what it says.
    pub fn session(&self, n: usize, phones: [SocketAddr; 2], kind: Kind) -> Session {
        let (call, from, to) = (format!("{kind:?}{n}"), format!("f{n}"), format!("t{n}"));
        let [caller, callee] = [0, 1].map(|side| kind.key(n, side));
        let profile = |key: &Option<MasterKey>| if key.is_some() { "RTP/SAVP" } else { "RTP/AVP" };
        let sdp = |side: usize, key: &Option<MasterKey>, offer: &str| {
            let line = key.as_ref().map(|key| format!("a=crypto:{}\r\n", crypto(key, offer))).unwrap_or_default();
            let (ip, port) = (phones[side].ip(), phones[side].port());
            let begin = format!("v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n");
            format!("{begin}m=audio {port} {} 0\r\na=rtpmap:0 PCMU/8000\r\n{line}", profile(key))
        };
        let offer = [
            ("call-id", &*call),
            ("command", "offer"),
            ("from-tag", &*from),
            ("sdp", &sdp(0, &caller, "")),
            ("transport-protocol", profile(&callee)),
        ];
        let toward_callee = self.ask(&offer);
        let answer = [
            ("call-id", &*call),
            ("command", "answer"),
            ("from-tag", &*from),
            ("sdp", &sdp(1, &callee, &toward_callee)),
            ("to-tag", &*to),
        ];
        let toward_caller = self.ask(&answer);
        let keys = |own: Option<MasterKey>, told: &str| own.map(|own| [own.clone(), key_in(told, own.suite())]);
        let relay = [address(&toward_caller), address(&toward_callee)];
        let keys = [keys(caller, &toward_caller), keys(callee, &toward_callee)];
        Session { phones, relay, keys }
    }

    /// Asks until it answers; the keys are sorted.
    fn ask(&self, what: &[(&str, &str)]) -> String {
        let cookie = format!("{:x}", rand::random::<u64>());
        let string = |text: &str| format!("{}:{text}", text.len());
        let pairs: String = what.iter().map(|(key, value)| string(key) + &string(value)).collect();
        let question = format!("{cookie} d{pairs}e");
        let mut buffer = [0; 4096];
        for _ in 0..20 {
            // It may not listen yet.
            let _ = self.control.send(question.as_bytes());
            match self.control.recv(&mut buffer) {
                Ok(length) if buffer.starts_with(cookie.as_bytes()) => {
                    return String::from_utf8(buffer[..length].to_vec()).unwrap();
                }
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
        panic!("rtpengine doesn't answer");
    }
}

impl Drop for Rtpengine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(answer: &str) -> SocketAddr {
    let after = |text: &str| answer.split(text).nth(1).unwrap_or_else(|| panic!("{answer}")).to_owned();
    let (ip, port) = (after("c=IN IP4 "), after("m=audio "));
    format!("{}:{}", ip.split("\r\n").next().unwrap(), port.split(' ').next().unwrap()).parse().unwrap()
}
