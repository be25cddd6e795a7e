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
    events: Mutex<Vec<String>>,
}

impl Browser {
    /// A phone that registers by `server`'s WebSocket over TLS.
    pub async fn start(user: &str, password: &str, server: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let config = json!({ "server": format!("wss://{server}"), "user": user, "domain": DOMAIN, "password": password });
        let (commands, waiting) = mpsc::unbounded_channel();
        let page = Arc::new(Page { config: config.to_string(), commands: Turn::new(waiting), events: Mutex::default() });
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
            .route("/event", post(async |State(page): State<Arc<Page>>, event: String| page.events.lock().unwrap().push(event)))
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

    /// Tells it what to do: `dial USER`, `answer`, `hangup`, `hold`, `resume`.
    pub fn tell(&self, command: &str) {
        self.commands.send(command.to_owned()).unwrap();
    }

    /// Waits for an event, which is forgotten with all that came before it.
    pub async fn wait_for(&self, event: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let mut events = self.page.events.lock().unwrap();
                if let Some(at) = events.iter().position(|seen| seen.split(' ').next() == Some(event)) {
                    events.drain(..=at);
                    return;
                }
                assert!(Instant::now() < deadline, "no {event}: {events:?}");
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

fn script(text: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript")], text)
}

async fn module(Segment(path): Segment<String>) -> impl IntoResponse {
    let text = tokio::fs::read_to_string(Path::new(MODULES).join(path)).await;
    text.map(script).map_err(|error| (StatusCode::NOT_FOUND, error.to_string()))
}
