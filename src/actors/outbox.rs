//! Ships a vnode's CDRs to meta: stored there by their call, so that twice is once. Layer: shell.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::task::JoinHandle;

use super::services::Services;
use crate::cluster::state::{MetaCommand, VnodeCommand};
use crate::ids::VnodeId;

/// So long CDRs are gathered before they are shipped.
const GATHER: Duration = Duration::from_millis(200);
/// When shipping failed, it is tried again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// At most this many go at once.
const BATCH: usize = 200;

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum OutboxMsg {
    /// There may be something to ship.
    Look,
}

/// What it is made with.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whose.
    pub vnode: VnodeId,
}

/// The actor.
pub struct OutboxActor;

/// What it has.
pub struct Running {
    start: Start,
    watching: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Actor for OutboxActor {
    type Msg = OutboxMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, myself: ActorRef<OutboxMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let mut applied = start.services.cluster.applied(start.vnode).ok_or("a vnode without a group")?;
        let (services, vnode) = (start.services.clone(), start.vnode);
        let watching = tokio::spawn(async move {
            loop {
                let waiting = services.cluster.read(vnode, |state| !state.outbox(1).is_empty()) == Some(true);
                if waiting && myself.cast(OutboxMsg::Look).is_err() {
                    return;
                }
                tokio::time::sleep(GATHER).await;
                if applied.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Running { start, watching })
    }

    async fn handle(
        &self,
        myself: ActorRef<OutboxMsg>,
        message: OutboxMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let OutboxMsg::Look = message;
        let Start { services, vnode } = &running.start;
        let cdrs = services.cluster.read(*vnode, |state| state.outbox(BATCH)).unwrap_or_default();
        if cdrs.is_empty() {
            return Ok(());
        }
        let calls: Vec<_> = cdrs.iter().map(|cdr| cdr.call).collect();
        let shipped = services.cluster.propose_meta(MetaCommand::StoreCdrs { cdrs }).await;
        let cleared = match shipped {
            Ok(_) => services.cluster.propose(*vnode, VnodeCommand::CdrsShipped { calls }).await,
            Err(error) => Err(error),
        };
        if let Err(error) = cleared {
            tracing::debug!(%vnode, %error, "CDRs wait");
            myself.send_after(AGAIN, || OutboxMsg::Look);
        }
        Ok(())
    }
}
