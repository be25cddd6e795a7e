//! One timer of one actor: set to the earliest deadline of what is inside it. Layer: shell.

use ractor::{ActorRef, Message};
use tokio::task::JoinHandle;

use crate::clock::{Timestamp, instant_of};

/// The timer.
#[derive(Debug, Default)]
pub struct Alarm {
    at: Option<Timestamp>,
    sleeping: Option<JoinHandle<()>>,
}

impl Alarm {
    /// Sends `message` to the actor at `at`, and no longer at any other time.
    pub fn set<M: Message>(&mut self, actor: &ActorRef<M>, at: Option<Timestamp>, message: fn() -> M) {
        if self.at == at && self.sleeping.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        self.clear();
        self.at = at;
        self.sleeping = at.map(|at| {
            let actor = actor.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(instant_of(at)).await;
                let _ = actor.cast(message());
            })
        });
    }

    fn clear(&mut self) {
        if let Some(task) = self.sleeping.take() {
            task.abort();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.clear();
    }
}
