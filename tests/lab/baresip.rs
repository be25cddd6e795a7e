//! baresip: a real phone, commanded over its control port (netstrings of JSON).

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::DOMAIN;
use super::net::PHONES_V6;
use super::{SIP, own_address};

const MODULES: [&str; 3] =
    ["/usr/lib/baresip/modules", "/usr/lib/x86_64-linux-gnu/baresip/modules", "/usr/lib/aarch64-linux-gnu/baresip/modules"];
/// Where it takes commands.
const CONTROL: u16 = 4444;
const PCMU: &str = "PCMU/8000/1";
/// So long the phone may take for anything that it does at once.
const PATIENCE: Duration = Duration::from_secs(15);

pub struct Baresip {
    dir: tempfile::TempDir,
    child: Child,
    control: TcpStream,
    events: Arc<Mutex<VecDeque<String>>>,
}

impl Baresip {
    /// A phone that registers by `server` over UDP, sends a tone and records what it hears; it answers by itself.
    pub fn start(user: &str, password: &str, server: SocketAddr, tone: u32) -> Self {
        Self::by("udp", user, password, server, tone)
    }

    /// The same over `udp`, `tcp` or `tls`.
    pub fn by(transport: &str, user: &str, password: &str, server: SocketAddr, tone: u32) -> Self {
        Self::with(transport, PCMU, "", (user, password), server, tone)
    }

    /// The same that protects its media: `srtp-mand` has to, `srtp` may, with keys in its descriptions; `dtls_srtp` has to, with keys of a handshake.
    pub fn protected(by: &str, user: &str, password: &str, server: SocketAddr, tone: u32) -> Self {
        Self::coding(PCMU, by, user, password, server, tone)
    }

    /// The same that has this codec alone (`opus/48000/2`), and protects its media unless `by` is empty.
    pub fn coding(codec: &str, by: &str, user: &str, password: &str, server: SocketAddr, tone: u32) -> Self {
        let by = if by.is_empty() { String::new() } else { format!(";mediaenc={by}") };
        Self::with("udp", codec, &by, (user, password), server, tone)
    }

    fn with(transport: &str, codec: &str, more: &str, (user, password): (&str, &str), server: SocketAddr, tone: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = own_address();
        let modules =
            MODULES.into_iter().find(|dir| std::path::Path::new(dir).is_dir()).expect("baresip is installed by make bootstrap");
        let path = dir.path().display();
        // There is one address of IPv6, and a port for each phone.
        let (spoken, port, prefers) = if server.is_ipv6() {
            (SocketAddr::from((PHONES_V6, 0)).ip(), SIP + 10 * u16::from(own.octets()[3]), "prefer_ipv6 yes\n")
        } else {
            (own.into(), SIP, "")
        };
        let bound = SocketAddr::new(spoken, port);
        let uuid = format!("6b1ac0de-0000-4000-8000-{:012x}", u32::from(own));
        // It makes a certificate when it begins, which takes a while.
        let dtls = if more.contains("dtls_srtp") { "module dtls_srtp.so\n" } else { "" };
        let config = format!(
            "poll_method epoll\nnet_interface {spoken}\nsip_listen {bound}\n{prefers}audio_path {path}\naudio_source ausine,{tone}\naudio_player aubridge,sink\n\
             audio_alert aubridge,alert\nausrc_srate 48000\nausrc_channels 2\naudio_buffer 20-160\naudio_txmode thread\n\
             rtp_ports 40000-49999\njitter_buffer_delay 1-5\nmodule_path {modules}\nmodule g711.so\nmodule g722.so\nmodule opus.so\nmodule sndfile.so\n\
             module srtp.so\n{dtls}module ausine.so\nmodule aubridge.so\nmodule_tmp uuid.so\nmodule_tmp account.so\nmodule_app menu.so\n\
             module_app ctrl_tcp.so\nctrl_tcp_listen {own}:{CONTROL}\nringback_disabled yes\nmenu_bell no\nstatmode_default off\n\
             snd_path {path}\n"
        );
        let account = format!(
            "<sip:{user}@{DOMAIN};transport={transport}>;auth_user={user};auth_pass={password};regint=3600;answermode=auto;\
             audio_codecs={codec}{more};outbound1=\"sip:{server};transport={transport}\"\n"
        );
        for (name, text) in [("config", config.as_str()), ("accounts", &account), ("contacts", ""), ("uuid", &uuid)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child = Command::new("baresip")
            .arg("-f")
            .arg(dir.path())
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("baresip is installed by make bootstrap");
        let Some(control) = connect((own, CONTROL).into(), &mut child) else {
            panic!("baresip does not start:\n{}", std::fs::read_to_string(dir.path().join("log")).unwrap_or_default());
        };
        let events: Arc<Mutex<VecDeque<String>>> = Arc::default();
        std::thread::spawn({
            let (control, events) = (control.try_clone().unwrap(), events.clone());
            move || listen(control, &events)
        });
        let mut phone = Self { dir, child, control, events };
        // What happened before we listened is not told again.
        let deadline = Instant::now() + PATIENCE;
        while !phone.saw("REGISTER_OK") {
            phone.send("reginfo", "");
            assert!(Instant::now() < deadline, "{user} does not register:\n{}", phone.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        phone
    }

    /// Calls, and waits until somebody answers.
    pub fn dial(&mut self, user: &str) {
        self.begins_to_call(user);
        self.wait_for("CALL_ESTABLISHED");
    }

    /// Calls.
    pub fn begins_to_call(&mut self, user: &str) {
        self.send("dial", &format!("sip:{user}@{DOMAIN}"));
    }

    /// Presses keys.
    pub fn sends_keys(&mut self, keys: &str) {
        self.send("sndcode", keys);
    }

    /// Puts its call on hold.
    pub fn holds(&mut self) {
        self.send("hold", "");
    }

    /// Talks on.
    pub fn goes_on(&mut self) {
        self.send("resume", "");
    }

    /// Hangs up.
    pub fn hang_up(&mut self) {
        self.send("hangup", "");
    }

    /// Waits for an event.
    pub fn wait_for(&self, event: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.saw(event) {
            assert!(Instant::now() < deadline, "no {event}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether an event has come.
    pub fn saw(&self, event: &str) -> bool {
        self.events.lock().unwrap().iter().any(|seen| seen == event)
    }

    /// Forgets what has happened.
    pub fn forget(&self) {
        self.events.lock().unwrap().clear();
    }

    /// What it heard; complete when it has ended its call.
    pub fn recording(&self) -> PathBuf {
        let mut files = self.recordings();
        assert_eq!(files.len(), 1, "one recording: {files:?}\n{}", self.log());
        files.remove(0)
    }

    /// The same in their order: it begins another with each description that it gets while it calls.
    pub fn recordings(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-dec.wav")));
        files.sort();
        files
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn send(&mut self, command: &str, params: &str) {
        let text = json!({"command": command, "params": params, "token": command}).to_string();
        self.control.write_all(format!("{}:{text},", text.len()).as_bytes()).unwrap();
    }
}

impl Drop for Baresip {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its control port, as soon as it listens; none if it has ended or takes too long.
fn connect(control: SocketAddr, child: &mut Child) -> Option<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
        if let Ok(stream) = TcpStream::connect(control) {
            return Some(stream);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

fn listen(mut control: TcpStream, events: &Mutex<VecDeque<String>>) {
    let (mut buffer, mut chunk) = (Vec::new(), [0; 8192]);
    while let Ok(length @ 1..) = control.read(&mut chunk) {
        buffer.extend_from_slice(&chunk[..length]);
        while let Some((message, rest)) = netstring(&buffer) {
            if let Ok(value) = serde_json::from_slice::<Value>(&message) {
                let event = match value["type"].as_str() {
                    Some(event) => Some(event.to_owned()),
                    // The answer to `reginfo`, which tells what was missed.
                    None if value["token"] == "reginfo" && value["data"].as_str().is_some_and(|data| data.contains("OK")) => {
                        Some("REGISTER_OK".to_owned())
                    }
                    None => None,
                };
                events.lock().unwrap().extend(event);
            }
            buffer = rest;
        }
    }
}

/// The first netstring of a buffer, and what follows it.
fn netstring(buffer: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let colon = buffer.iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&buffer[..colon]).ok()?.parse().ok()?;
    let (begin, end) = (colon + 1, colon + 1 + length);
    (buffer.len() > end).then(|| (buffer[begin..end].to_vec(), buffer[end + 1..].to_vec()))
}
