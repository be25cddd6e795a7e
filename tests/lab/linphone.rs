//! linphone: a real phone on a console, which writes what happens into its log.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use super::cluster::DOMAIN;
use super::{SIP, own_address};

/// So long the phone may take for anything that it does at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// The phone; it ends with this.
pub struct Linphone {
    dir: tempfile::TempDir,
    child: Child,
    console: ChildStdin,
    /// So much of its log has been looked at.
    read: usize,
}

impl Linphone {
    /// A phone that registers by `server` over `udp`, `tcp` or `tls`; it answers by itself.
    pub fn by(transport: &str, user: &str, password: &str, server: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join(".local/share/linphone")).unwrap();
        let own = own_address();
        let [udp, tcp, tls] = ["udp", "tcp", "tls"].map(|known| if known == transport { SIP } else { 0 });
        let config = format!(
            "[sip]\nbind_address={own}\nsip_port={udp}\nsip_tcp_port={tcp}\nsip_tls_port={tls}\nverify_server_certs=0\nverify_server_cn=0\n\
             media_encryption=none\n[rtp]\nbind_address={own}\naudio_rtp_port=40000-49999\n[video]\nenabled=0\ncapture=0\ndisplay=0\n\
             [sound]\nremote_ring=\n[auth_info_0]\nusername={user}\nuserid={user}\npasswd={password}\n\
             [proxy_0]\nreg_proxy=<sip:{server};transport={transport}>\nreg_route=<sip:{server};transport={transport};lr>\n\
             reg_identity=<sip:{user}@{DOMAIN}>\nreg_expires=3600\nreg_sendregister=1\npublish=0\n"
        );
        std::fs::write(dir.path().join("config"), config).unwrap();
        let out = std::fs::File::create(dir.path().join("out")).unwrap();
        let mut child = Command::new("linphonec")
            .args(["-c", "config", "-d", "5", "-l", "log", "-S", "-a"])
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("linphone is installed by make bootstrap");
        let console = child.stdin.take().unwrap();
        let mut phone = Self { dir, child, console, read: 0 };
        // There is no sound card.
        phone.type_in("soundcard use files");
        phone.wait_for("to [LinphoneRegistrationOk]");
        phone
    }

    /// Calls, and waits until somebody answers.
    pub fn dial(&mut self, user: &str) {
        self.type_in(&format!("call sip:{user}@{DOMAIN}"));
        self.wait_until_it_talks();
    }

    /// Hangs up.
    pub fn hang_up(&mut self) {
        self.type_in("terminate all");
    }

    pub fn wait_until_it_talks(&mut self) {
        self.wait_for("to LinphoneCallStreamsRunning");
    }

    pub fn wait_for_the_end(&mut self) {
        self.wait_for("to LinphoneCallReleased");
    }

    /// Waits until its log says this; what came before is not looked at again.
    fn wait_for(&mut self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = String::from_utf8_lossy(&std::fs::read(self.dir.path().join("log")).unwrap_or_default()).into_owned();
            if let Some(at) = log.get(self.read..).and_then(|new| new.find(what)) {
                self.read += at + what.len();
                return;
            }
            assert!(Instant::now() < deadline, "no {what}:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn type_in(&mut self, command: &str) {
        writeln!(self.console, "{command}").unwrap();
    }
}

impl Drop for Linphone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
