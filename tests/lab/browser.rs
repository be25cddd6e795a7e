//! JsSIP in headless Chromium: a phone in a page, which is told over HTTP what to do and tells what happens.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as Segment, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};
use serde_json::json;
use tokio::sync::{Mutex as Turn, mpsc};
use tokio::task::JoinHandle;

use super::cluster::DOMAIN;

/// Where `make bootstrap` puts what JsSIP consists of.
const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/web");
const PROGRAM: &str = "chromium-headless-shell";
/// So long it may take for anything: a browser begins slowly.
const PATIENCE: Duration = Duration::from_secs(40);

/// The phone; it ends with this.
pub struct Browser {
    child: Child,
    /// What it does next.
    commands: mpsc::UnboundedSender<String>,
    page: Arc<Page>,
    serving: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

/// What the page is served, and what it has told.
struct Page {
    config: String,
    commands: Turn<mpsc::UnboundedReceiver<String>>,
    told: Mutex<Told>,
}

/// All events since it began.
#[derive(Default)]
struct Told {
    events: Vec<String>,
    /// So many of them nobody waits for any more.
    past: usize,
}

impl Browser {
    /// A phone that registers by `server`'s WebSocket over TLS. It sends and hears nothing.
    pub async fn start(user: &str, password: &str, server: SocketAddr) -> Self {
        let config = json!({ "server": format!("wss://{server}"), "user": user, "domain": DOMAIN, "password": password });
        Self::with(config).await
    }

    /// The same, but its calls have media (ICE, DTLS, SRTP): it sends a tone, and hears what comes.
    pub async fn with_media(user: &str, password: &str, server: SocketAddr, hz: u32) -> Self {
        let server = format!("wss://{server}");
        let config = json!({ "server": server, "user": user, "domain": DOMAIN, "password": password, "hz": hz });
        Self::with(config).await
    }

    async fn with(config: serde_json::Value) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let (commands, waiting) = mpsc::unbounded_channel();
        let page = Arc::new(Page { config: config.to_string(), commands: Turn::new(waiting), told: Mutex::default() });
        let router = Router::new()
            .route("/", get(|| async { Html(include_str!("web/page.html")) }))
            .route("/require.js", get(|| async { script(include_str!("web/require.js").to_owned()) }))
            .route("/phone.js", get(|| async { script(include_str!("web/phone.js").to_owned()) }))
            .route("/js/{*path}", get(module))
            .route("/config", get(async |State(page): State<Arc<Page>>| page.config.clone()))
            .route(
                "/next",
                get(async |State(page): State<Arc<Page>>| page.commands.lock().await.recv().await.unwrap_or_default()),
            )
            .route(
                "/event",
                post(async |State(page): State<Arc<Page>>, event: String| page.told.lock().unwrap().events.push(event)),
            )
            .with_state(page.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(PROGRAM)
            .args([
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
            ])
            .args(["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--ignore-certificate-errors"])
            .args(["--disable-background-timer-throttling", "--disable-features=WebRtcHideLocalIpsWithMdns"])
            // Nobody clicks, and servers are on this machine: by itself it plays nothing then, and asks nobody there.
            .args(["--autoplay-policy=no-user-gesture-required", "--allow-loopback-in-peer-connection"])
            // It runs until it is ended.
            .args(["--remote-debugging-port=0", &format!("--user-data-dir={}", dir.path().display()), &address])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromium is installed by make bootstrap");
        let phone = Self { child, commands, page, serving, _dir: dir };
        phone.wait_for("registered").await;
        phone
    }

    /// Tells it what to do: `dial USER`, `answer`, `hangup`, `hold`, `resume`; and one with media:
    /// `codec NAME` (the only one in its offers and answers from then on), `hear HZ`, `watch`, `report`.
    pub fn tell(&self, command: &str) {
        self.commands.send(command.to_owned()).unwrap();
    }

    /// Waits for an event; nobody waits then for what came before it.
    pub async fn wait_for(&self, event: &str) {
        self.wait(event).await;
    }

    /// Waits until it hears a tone of `hz`, and nothing that comes near it.
    pub async fn hears(&self, hz: u32) {
        self.tell(&format!("hear {hz}"));
        while self.wait("hears").await != format!("hears {hz}") {}
    }

    /// Measures silence from now on.
    pub async fn watch(&self) {
        self.tell("watch");
        self.wait("watching").await;
    }

    /// How long it was quiet at most since `watch`.
    pub async fn gap(&self) -> Duration {
        self.tell("report");
        let told = self.wait("gap").await;
        Duration::from_millis(told["gap ".len()..].parse().unwrap())
    }

    /// All events of a kind since it began, be they waited for or not: `ice STATE` and `dtls STATE` say
    /// whether a transport has ever left `connected`.
    pub fn events_like(&self, what: &str) -> Vec<String> {
        self.page.told.lock().unwrap().events.iter().filter(|event| is(event, what)).cloned().collect()
    }

    async fn wait(&self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let mut told = self.page.told.lock().unwrap();
                let Told { events, past } = &mut *told;
                if let Some(at) = events[*past..].iter().position(|event| is(event, what)) {
                    *past += at + 1;
                    return events[*past - 1].clone();
                }
                assert!(Instant::now() < deadline, "no {what}: {:?}", &events[*past..]);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.serving.abort();
        // Its program is a script that starts others.
        let group = nix::unistd::Pid::from_raw(-self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn is(event: &str, what: &str) -> bool {
    event.split(' ').next() == Some(what)
}

fn script(text: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript")], text)
}

async fn module(Segment(path): Segment<String>) -> impl IntoResponse {
    let text = tokio::fs::read_to_string(Path::new(MODULES).join(path)).await;
    text.map(script).map_err(|error| (StatusCode::NOT_FOUND, error.to_string()))
}
