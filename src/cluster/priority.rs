//! Threads that a busy machine must not keep waiting. Layer: shell.

use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy, set_current_thread_priority,
    set_thread_priority_and_policy, thread_native_id,
};

/// Puts the calling thread before all that do ordinary work: it must do little. Where that isn't allowed, it is said.
pub(super) fn before_others() {
    let lowest = ThreadPriorityValue::try_from(1).map(ThreadPriority::Crossplatform);
    let realtime = lowest.is_ok_and(|priority| {
        let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
        set_thread_priority_and_policy(thread_native_id(), priority, policy).is_ok()
    });
    if !realtime && set_current_thread_priority(ThreadPriority::Max).is_err() {
        tracing::warn!("this process may not raise a thread's priority: a busy machine may lose its vnodes to others");
    }
}
