//! sipp: many users at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use super::cluster::DOMAIN;
use super::{SIP, address};

/// How many there have been.
static STARTED: AtomicU16 = AtomicU16::new(0);

/// One sipp, running or done.
pub struct Sipp {
    child: Child,
    contact: SocketAddr,
    out: PathBuf,
    dir: tempfile::TempDir,
}

/// What it has counted.
#[derive(Debug)]
pub struct Counts {
    pub succeeded: u64,
    pub failed: u64,
    pub retransmissions: u64,
    /// The first thing that went wrong.
    pub error: String,
}

/// One line of a scenario's input.
pub struct Line<'a> {
    pub user: &'a str,
    pub password: &'a str,
    /// The scenario's fourth field.
    pub last: String,
}

/// How much of it.
#[derive(Clone, Copy)]
pub struct Load {
    pub calls: usize,
    pub per_second: usize,
    /// Milliseconds of talk.
    pub talk: u64,
}

impl Sipp {
    /// A scenario that sends to `target`.
    pub fn toward(target: SocketAddr, scenario: &str, lines: &[Line<'_>], load: &Load) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("input.csv");
        let mut text = String::from("SEQUENTIAL\n");
        for Line { user, password, last } in lines {
            text.push_str(&format!("{user};{DOMAIN};[authentication username={user} password={password}];{last}\n"));
        }
        std::fs::write(&input, text).unwrap();
        let args = [
            "-inf".to_owned(),
            input.display().to_string(),
            "-m".into(),
            load.calls.to_string(),
            "-r".into(),
            load.per_second.to_string(),
            "-d".into(),
            load.talk.to_string(),
            "-l".into(),
            "5000".into(),
            target.to_string(),
        ];
        Self::start(dir, &own(scenario), &args)
    }

    /// One of the scenarios that sipp brings along, which calls `service` at `target`.
    pub fn bundled(target: SocketAddr, scenario: &str, service: &str, load: &Load) -> Self {
        let numbers = [("-m", load.calls.to_string()), ("-r", load.per_second.to_string()), ("-d", load.talk.to_string())];
        let args = numbers.into_iter().flat_map(|(key, value)| [key.to_owned(), value]);
        let args: Vec<_> = args.chain(["-s".into(), service.into(), target.to_string()]).collect();
        Self::start(tempfile::tempdir().unwrap(), &["-sn".into(), scenario.into()], &args)
    }

    /// The one that waits for calls, at [`Self::contact`].
    pub fn bundled_waiting() -> Self {
        Self::start(tempfile::tempdir().unwrap(), &["-sn".into(), "uas".into()], &[])
    }

    /// A scenario that waits for calls at [`Self::contact`].
    pub fn waiting(scenario: &str) -> Self {
        Self::start(tempfile::tempdir().unwrap(), &own(scenario), &[])
    }

    /// Where it is called: host and port.
    pub fn contact(&self) -> String {
        self.contact.to_string()
    }

    fn start(dir: tempfile::TempDir, scenario: &[String], more: &[String]) -> Self {
        let out = dir.path().join("stat.csv");
        // All on one address: a contact elsewhere than its REGISTER comes from is behind a NAT, and not called there.
        let nth = STARTED.fetch_add(1, Ordering::Relaxed);
        let contact = SocketAddr::from((address(100), SIP + nth));
        let ip = contact.ip().to_string();
        let child = Command::new("sipp")
            .current_dir(dir.path())
            .args(scenario)
            .args(["-i", &ip, "-p", &contact.port().to_string(), "-mi", &ip, "-mp", &(10_000 + 100 * nth).to_string()])
            .args(["-nostdin", "-trace_stat", "-fd", "1", "-trace_rtt", "-rtt_freq", "1", "-trace_err", "-error_file", "errors"])
            .arg("-stf")
            .arg(&out)
            .args(["-timeout", "300s", "-buff_size", "4194304"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sipp is installed by make bootstrap");
        Self { child, contact, out, dir }
    }

    /// Waits for its end without holding up the test's own tasks.
    pub async fn done(mut self) -> Counts {
        while self.child.try_wait().unwrap().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        self.counts()
    }

    /// Whether it has more to do.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// How long each call took from its INVITE to its answer, in milliseconds.
    pub fn setups(&self) -> Vec<f64> {
        let files = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let file = files.into_iter().find(|path| path.to_string_lossy().ends_with("_rtt.csv"));
        let text = file.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        text.lines().skip(1).filter_map(|line| line.split(';').nth(1)?.trim().parse().ok()).collect()
    }

    /// What it has counted so far.
    pub fn counts(&self) -> Counts {
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        let mut lines = text.lines();
        let names = lines.next().unwrap_or_default().split(';');
        let values = lines.next_back().unwrap_or_default().split(';');
        let all: HashMap<_, _> = names.zip(values).collect();
        let get = |name: &str| all.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let errors = std::fs::read_to_string(self.dir.path().join("errors")).unwrap_or_default();
        Counts {
            succeeded: get("SuccessfulCall(C)"),
            failed: get("FailedCall(C)"),
            retransmissions: get("Retransmissions(C)"),
            error: errors.chars().take(1500).collect(),
        }
    }
}

/// One of ours.
fn own(scenario: &str) -> [String; 2] {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/sipp");
    ["-sf".into(), scenarios.join(format!("{scenario}.xml")).display().to_string()]
}

impl Drop for Sipp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
