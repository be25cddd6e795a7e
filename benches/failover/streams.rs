//! The sound of so many phones that a task for each would cost more than everything else: one thread says it all, another hears it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

use crate::media::{Calls, Phones, hear, now, speak};

/// How often it is looked at what has come.
const LOOK: Duration = Duration::from_millis(2);

/// Sound until it is dropped.
pub(crate) struct Streams {
    silences: Arc<Mutex<Silences>>,
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// By stream, nanoseconds.
struct Silences {
    /// When its last packet came.
    last: Vec<u64>,
    longest: Vec<u64>,
    /// What came before has been heard.
    until: u64,
}

impl Streams {
    pub(crate) fn start(phones: Phones, calls: Calls) -> Self {
        let streams = 2 * calls.sessions.len();
        let silences = Arc::new(Mutex::new(Silences { last: vec![now(); streams], longest: vec![0; streams], until: now() }));
        let (ending, phones) = (Arc::<AtomicBool>::default(), Arc::new(phones));
        let (mouths, until) = (phones.clone(), ending.clone());
        let speaking = std::thread::spawn(move || {
            before_others();
            speak(&mouths, &calls, |_, _| !until.load(Ordering::Relaxed));
        });
        let (all, until) = (silences.clone(), ending.clone());
        let hearing = std::thread::spawn(move || {
            before_others();
            let heard = |stream: usize, _: &mut [u8], at: u64| {
                let Silences { last, longest, .. } = &mut *all.lock().unwrap();
                longest[stream] = longest[stream].max(at.saturating_sub(last[stream]));
                last[stream] = last[stream].max(at);
            };
            hear(&phones, &until, LOOK, |until| all.lock().unwrap().until = until, heard);
        });
        Self { silences, ending, threads: vec![speaking, hearing] }
    }

    /// The longest silence of each since this was last called, the present one included.
    pub(crate) fn take_gaps(&self) -> Vec<Duration> {
        let Silences { last, longest, until } = &mut *self.silences.lock().unwrap();
        let gap = |(last, longest): (&u64, &mut u64)| std::mem::take(longest).max(until.saturating_sub(*last));
        last.iter().zip(longest).map(gap).map(Duration::from_nanos).collect()
    }
}

/// Phones have machines of their own: they don't wait for a turn at this one. Where that isn't allowed they do.
fn before_others() {
    let priority = ThreadPriorityValue::try_from(1_u8).map(ThreadPriority::Crossplatform).unwrap();
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let _ = set_thread_priority_and_policy(thread_native_id(), priority, policy);
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
