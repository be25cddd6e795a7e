//! The least that a relay of sockets costs: a program that reads a packet from a connected socket, when epoll says that there is one, and sends it on
//! by another. It is this bench, started again.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::THREADS;
use crate::lab::own_address;
use crate::streams::{Phones, Session, TICKS};

const ASKED: &str = "TANDEM_BENCH_FLOOR";
const FIRST: u16 = 20_000;
/// Calls whose packets come at other times, in the order in which they are named.
const AT_A_TIME: usize = TICKS / 2;

pub fn is_asked_for() -> bool {
    std::env::var_os(ASKED).is_some()
}

/// The program: gets its sessions as lines of four addresses, and says when it is ready.
pub fn run() {
    let mut threads: [Vec<UdpSocket>; THREADS] = Default::default();
    for (n, line) in std::io::stdin().lines().enumerate() {
        let line = line.unwrap();
        // Each thread has as many of those that are due at a time as the others.
        let sockets = &mut threads[n / AT_A_TIME % THREADS];
        let addresses: Vec<SocketAddr> = line.split(' ').map(|address| address.parse().unwrap()).collect();
        for side in 0..2 {
            let socket = UdpSocket::bind(addresses[2 + side]).unwrap();
            socket.connect(addresses[side]).unwrap();
            socket.set_nonblocking(true).unwrap();
            sockets.push(socket);
        }
    }
    println!("ready");
    std::thread::scope(|scope| threads.map(|sockets| scope.spawn(move || relay(&sockets))).map(|thread| thread.join().unwrap()));
}

fn relay(sockets: &[UdpSocket]) {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    for (at, socket) in sockets.iter().enumerate() {
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, at as u64)).unwrap();
    }
    let mut events = vec![EpollEvent::empty(); 512];
    let mut buffer = [0; 2048];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(Errno::EINTR) => continue,
            Err(error) => panic!("{error}"),
        };
        for event in &events[..count] {
            let at = event.data() as usize;
            if let Ok(length) = sockets[at].recv(&mut buffer) {
                let _ = sockets[at ^ 1].send(&buffer[..length]);
            }
        }
    }
}

pub struct Floor(Child);

impl Floor {
    pub fn start(phones: &Phones, calls: usize) -> (Self, Vec<Session>) {
        let own = own_address();
        let port = |n: usize, side: usize| SocketAddr::from((own, FIRST + (4 * n + 2 * side) as u16));
        let sessions: Vec<_> =
            (0..calls).map(|n| Session { phones: phones.pair(n), relay: [port(n, 0), port(n, 1)], keys: [None, None] }).collect();
        let line = |Session { phones, relay, .. }: &Session| format!("{} {} {} {}\n", phones[0], phones[1], relay[0], relay[1]);
        let text: String = sessions.iter().map(line).collect();
        let mut this = Command::new(std::env::current_exe().unwrap());
        let mut child = this.env(ASKED, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        (Self(child), sessions)
    }

    pub fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
