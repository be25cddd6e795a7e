//! A disk that stalls or is full holds nobody up: a majority's memory is what promises rest on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tandem::cli::demo::talk::Talk;
use tandem::sip::StatusCode;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::{call, until};

/// What the promise allows a takeover.
const GAP: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn calls_begin_move_and_end_while_every_disk_stalls() {
    let mut cluster = Cluster::start(3);
    let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    b.register().await.unwrap();
    // What meta has not told a node yet it can't ask for without a disk.
    for node in 1..=3 {
        until("the users are known", PATIENCE, || async { cluster.count(node, "/v1/users", "total").await == 3 }).await;
    }
    cluster.stall_disks(true);
    let (mut c, _) = call::phone(&cluster, 2, 3).await;
    assert_eq!(c.try_register().await.unwrap().status, StatusCode::OK);
    let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
    // Its process ends at once though its disk does not answer, and an election waits for none.
    cluster.kill(2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    call::heard_each_other(&talks, GAP);
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    cluster.stall_disks(false);
    until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    cluster.start_again(2);
    cluster.at_home().await;
    assert_eq!(cluster.count(2, "/v1/registrations", "total").await, 2);
}

/// A disk of its own for a node, which can be full.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Puts what is in a directory on it.
    fn under(dir: &Path) -> Self {
        let run =
            |program: &str, args: &[&str]| assert!(Command::new(program).args(args).status().unwrap().success(), "{program}");
        let (dir_text, aside) = (dir.display().to_string(), format!("{}-aside", dir.display()));
        run("mv", &[&dir_text, &aside]);
        std::fs::create_dir(dir).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", &dir_text]);
        run("cp", &["-a", &format!("{aside}/."), &dir_text]);
        Self(dir.to_owned())
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn clear(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_no_call() {
    let mut cluster = Cluster::start(3);
    cluster.stop(2).await;
    until("the disk is at rest", PATIENCE, || async { cluster.disk_is_at_rest(2) }).await;
    let disk = SmallDisk::under(&cluster.data(2));
    cluster.start_again(2);
    cluster.at_home().await;
    let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    b.register().await.unwrap();
    let (called, answered) = tokio::join!(a.call(&cluster.users[1].0), async {
        let ringing = b.ring(Duration::from_secs(1)).await?;
        disk.fill();
        b.pick_up(&ringing).await
    });
    let talks = [Talk::start(a_media, called.unwrap()), Talk::start(b_media, answered.unwrap())];
    let (mut c, _) = call::phone(&cluster, 2, 3).await;
    // More than what sled had room for already.
    for _ in 0..1000 {
        assert_eq!(c.try_register().await.unwrap().status, StatusCode::OK);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    call::heard_each_other(&talks, GAP);
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    // What it could not store it has lost, and it knows that: it comes back as one that has to be caught up.
    disk.clear();
    if cluster.is_running(2) {
        cluster.stop(2).await;
    }
    cluster.start_again(2);
    cluster.at_home().await;
    let log = cluster.log(2);
    let started = log.lines().rfind(|line| line.contains("\"message\":\"starting\"")).unwrap();
    assert!(started.contains("Doubtful"), "{started}");
    assert_eq!(cluster.count(2, "/v1/registrations", "total").await, 2);
    assert_eq!(cluster.count(2, "/v1/cdrs", "total").await, 1);
}
