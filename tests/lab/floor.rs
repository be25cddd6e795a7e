//! What the machine itself does to time: a thread on each core that wants to run every few milliseconds, and says when it couldn't.
//! A gap in a stream is the nodes' only as far as it is longer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const TURN: Duration = Duration::from_millis(5);
/// What is worth telling; below it is half a frame, which each gap has anyway.
const LATE: Duration = Duration::from_millis(10);

/// A core that gave no turn.
#[derive(Debug, Clone, Copy)]
pub struct Stall {
    /// When it was over, milliseconds since 1970.
    pub at_ms: u64,
    /// How late the turn was.
    pub late: Duration,
}

/// Watches all cores until it is dropped.
pub struct Floor {
    stalls: Arc<Mutex<Vec<Stall>>>,
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Floor {
    pub fn watch() -> Self {
        let (stalls, ending) = (Arc::<Mutex<Vec<Stall>>>::default(), Arc::<AtomicBool>::default());
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap());
        let threads = cores.map(|core| {
            let (stalls, ending) = (stalls.clone(), ending.clone());
            std::thread::spawn(move || {
                let mut only = CpuSet::new();
                only.set(core).unwrap();
                sched_setaffinity(Pid::from_raw(0), &only).unwrap();
                while !ending.load(Ordering::Relaxed) {
                    let due = Instant::now() + TURN;
                    std::thread::sleep(TURN);
                    let late = due.elapsed();
                    if late >= LATE {
                        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                        stalls.lock().unwrap().push(Stall { at_ms: u64::try_from(clock.as_millis()).unwrap(), late });
                    }
                }
            })
        });
        Self { threads: threads.collect(), stalls, ending }
    }

    /// Since this was last called.
    pub fn take(&self) -> Vec<Stall> {
        std::mem::take(&mut *self.stalls.lock().unwrap())
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}
