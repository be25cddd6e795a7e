//! `tandem demo`: a call that outlives the node that owns it. Layer: program.

pub mod phone;
pub mod talk;
pub mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::dev::{Nodes, import};
use super::layout::Layout;
use phone::Phone;
use talk::Talk;

/// So long they talk before and after.
const TALK: Duration = Duration::from_millis(1500);
/// A direction whose last frame is older than this has ended.
const SILENCE: Duration = Duration::from_millis(200);
/// So long CDR and ports may take to be as they should after the hang-up.
const SETTLE: Duration = Duration::from_secs(10);

/// The arguments.
#[derive(Debug, Args)]
pub struct Demo {
    /// Print one line of JSON at the end.
    #[arg(long)]
    json: bool,
}

struct Report {
    gaps: [Duration; 2],
    lost: [u64; 2],
    going_on: [bool; 2],
    cdrs: u64,
    open_ports: u64,
    failure: Option<anyhow::Error>,
}

impl Report {
    fn survived(&self) -> bool {
        self.failure.is_none() && self.going_on == [true; 2] && self.cdrs == 1 && self.open_ports == 0
    }

    fn json(&self) -> Value {
        json!({
            "survived": self.survived(),
            "gap_ms": self.gaps.map(|gap| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)),
            "frames_lost": self.lost,
            "cdrs": self.cdrs,
            "open_ports": self.open_ports,
        })
    }
}

impl Demo {
    /// Runs it; the exit code is 0 only if the call survived.
    pub async fn run(self) -> ExitCode {
        match self.play().await {
            Ok(report) => {
                if let Some(failure) = &report.failure {
                    eprintln!("tandem: {failure:#}");
                }
                self.tell(&format!(
                    "the longest gap: {} ms for 1001, {} ms for 1002; frames lost: {} and {}; CDRs: {}; ports open: {}",
                    report.gaps[0].as_millis(),
                    report.gaps[1].as_millis(),
                    report.lost[0],
                    report.lost[1],
                    report.cdrs,
                    report.open_ports
                ));
                self.tell(if report.survived() { "the call survived." } else { "THE CALL DID NOT SURVIVE." });
                if self.json {
                    println!("{}", report.json());
                }
                if report.survived() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => {
                eprintln!("tandem: {error:#}");
                if self.json {
                    println!("{}", json!({"survived": false, "error": format!("{error:#}")}));
                }
                ExitCode::FAILURE
            }
        }
    }

    fn tell(&self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }

    async fn play(&self) -> anyhow::Result<Report> {
        let dir = std::env::temp_dir().join(format!("tandem-demo-{}", std::process::id()));
        let played = self.play_in(&dir).await;
        if played.as_ref().is_ok_and(Report::survived) {
            let _ = std::fs::remove_dir_all(&dir);
        } else {
            eprintln!("the nodes' logs are in {}", dir.display());
        }
        played
    }

    async fn play_in(&self, dir: &std::path::Path) -> anyhow::Result<Report> {
        let layout = Layout {
            dir: dir.to_owned(),
            nodes: 3,
            later: 0,
            domain: "tandem.test".into(),
            first_address: Ipv4Addr::new(127, 0, 1, 11),
            sip_port: 5080,
            api_port: free_ports(3).await?,
            wire_port: free_ports(6).await?,
        };
        let token = layout.write()?;
        let users = layout.users(None)?;
        let mut nodes = Nodes::start(layout, token)?;
        self.tell("three nodes start ...");
        let report = async {
            nodes.ready().await?;
            import(&nodes.api(1), &users).await?;
            self.story(&nodes, &users[0], &users[1]).await
        };
        let report = report.await;
        nodes.stop().await;
        report
    }

    async fn story(&self, nodes: &Nodes, a: &super::layout::User, b: &super::layout::User) -> anyhow::Result<Report> {
        let sip = nodes.layout.sip();
        let domain = &nodes.layout.domain;
        // The call belongs to the vnode that the caller talks to: the second, at home on node 2.
        let (a_server, b_server, victim) = (sip[1], sip[0], 2);
        let (a_socket, b_socket) = (UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind("127.0.0.1:0").await?);
        let mut a_phone = Phone::new(&a.name, &a.password, domain, a_server, a_socket.local_addr()?).await?;
        let mut b_phone = Phone::new(&b.name, &b.password, domain, b_server, b_socket.local_addr()?).await?;
        a_phone.register().await?;
        b_phone.register().await?;
        self.tell(&format!("{} registered by {a_server}, {} by {b_server}", a.name, b.name));
        let (a_media, b_media): (anyhow::Result<SocketAddr>, anyhow::Result<SocketAddr>) =
            tokio::join!(a_phone.call(&b.name), b_phone.answer());
        let talks = [Talk::start(a_socket, a_media?), Talk::start(b_socket, b_media?)];
        tokio::time::sleep(TALK).await;
        let owner = nodes.api(victim).get("/v1/calls").await?;
        ensure!(owner["calls"][0]["owner"] == victim, "the call is not where it should be: {owner}");
        let before = talks.each_ref().map(|talk| talk.heard().frames());
        self.tell(&format!("{} and {} talk; kill -9 of node {victim}, which owns their call", a.name, b.name));
        // At any point between two frames: in step with them the demo would flatter itself.
        tokio::time::sleep(Duration::from_micros(rand::random::<u64>() % 20_000)).await;
        nodes.kill(victim)?;
        tokio::time::sleep(TALK).await;
        let heard = talks.each_ref().map(Talk::heard);
        let going_on =
            [0, 1].map(|at| heard[at].frames() > before[at] && heard[at].silence().is_some_and(|silence| silence < SILENCE));
        self.tell(&format!("after it, {} hears {}: {}; and the other way: {}", a.name, b.name, going_on[0], going_on[1]));
        let (hung_up, ended) = tokio::join!(a_phone.hang_up(), b_phone.wait_for_bye());
        let heard = talks.each_ref().map(Talk::heard);
        drop(talks);
        let (cdrs, open_ports) = self.settled(nodes, victim).await?;
        Ok(Report {
            gaps: [heard[0].gap, heard[1].gap],
            lost: [heard[0].lost(), heard[1].lost()],
            going_on,
            cdrs,
            open_ports,
            failure: hung_up.and(ended).err(),
        })
    }

    /// Waits for one CDR and no open port on the nodes that are left.
    async fn settled(&self, nodes: &Nodes, dead: u16) -> anyhow::Result<(u64, u64)> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let (mut cdrs, mut ports) = (0, 0);
            for node in nodes.layout.node_ids().filter(|node| *node != dead) {
                let api = nodes.api(node);
                cdrs = api.get("/v1/cdrs").await?["total"].as_u64().context("no total")?;
                let cluster = api.get("/v1/cluster").await?;
                ports += cluster["media_sockets"].as_u64().context("no count")?
                    + cluster["media_ports"].as_u64().context("no count")?;
            }
            if (cdrs == 1 && ports == 0) || Instant::now() > deadline {
                return Ok((cdrs, ports));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The first of `count` ports in a row that nobody uses at the moment.
async fn free_ports(count: u16) -> anyhow::Result<u16> {
    for _ in 0..100 {
        let first = 20_000 + rand::random::<u16>() % 10_000;
        let mut held = Vec::new();
        for port in first..first + count {
            held.extend(tokio::net::TcpListener::bind(("127.0.0.1", port)).await);
        }
        if held.len() == usize::from(count) {
            return Ok(first);
        }
    }
    anyhow::bail!("no free ports")
}
