//! Records for whoever asks, wherever they are held: here, or at their owner's. Layer: shell.

use std::ops::Bound;

use bytes::Bytes;

use super::gateway::{Answer, Question};
use super::services::Services;
use crate::cluster::state::VnodeState;
use crate::ids::{Aor, CallId, VnodeId};

/// So many records go over the link at once.
const PAGE: usize = 1000;

/// A vnode's records are not here, and its owner doesn't answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the owner of vnode {} is not there at the moment", .0.0)]
pub struct NotThere(pub VnodeId);

/// The records of all calls of a vnode that are up.
pub async fn calls(services: &Services, vnode: VnodeId) -> Result<Vec<Bytes>, NotThere> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = match here(services, vnode, |state| calls_page(state, after, usize::MAX)) {
            Some(whole) => return Ok(whole.into_iter().map(|(_, record)| record).collect()),
            None => match ask(services, vnode, &Question::Calls { vnode, after }).await? {
                Answer::Calls(page) => page,
                Answer::Bindings(_)
                | Answer::Connected(_)
                | Answer::HungUp(_)
                | Answer::Done(_)
                | Answer::AllBindings(_)
                | Answer::Seen(_) => {
                    return Err(NotThere(vnode));
                }
            },
        };
        let Some((last, _)) = page.last() else { return Ok(all) };
        after = Some(*last);
        all.extend(page.into_iter().map(|(_, record)| record));
    }
}

/// Every address-of-record of a vnode and its encoded bindings.
pub async fn bindings(services: &Services, vnode: VnodeId) -> Result<Vec<(Aor, Bytes)>, NotThere> {
    let mut all: Vec<(Aor, Bytes)> = Vec::new();
    loop {
        let after = all.last().map(|(aor, _)| aor.clone());
        let page = match here(services, vnode, |state| bindings_page(state, None, usize::MAX)) {
            Some(whole) => return Ok(whole),
            None => match ask(services, vnode, &Question::AllBindings { vnode, after }).await? {
                Answer::AllBindings(page) => page,
                Answer::Bindings(_)
                | Answer::Connected(_)
                | Answer::HungUp(_)
                | Answer::Done(_)
                | Answer::Calls(_)
                | Answer::Seen(_) => {
                    return Err(NotThere(vnode));
                }
            },
        };
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// The record of one call that is up, and its vnode.
pub async fn call(services: &Services, call: CallId) -> Result<Option<(VnodeId, Bytes)>, NotThere> {
    let mut missing = None;
    for vnode in services.cluster.vnodes() {
        let live = |state: &VnodeState| state.call(call).filter(|entry| !entry.ended).map(|entry| entry.record.clone());
        let found = match here(services, vnode, live) {
            Some(found) => found,
            // The call after the one before it.
            None => match ask(services, vnode, &Question::Calls { vnode, after: call.0.checked_sub(1).map(CallId) }).await {
                Ok(Answer::Calls(page)) => page.into_iter().next().filter(|(id, _)| *id == call).map(|(_, record)| record),
                Ok(
                    Answer::Bindings(_)
                    | Answer::Connected(_)
                    | Answer::HungUp(_)
                    | Answer::Done(_)
                    | Answer::AllBindings(_)
                    | Answer::Seen(_),
                ) => None,
                Err(not_there) => {
                    missing = Some(not_there);
                    None
                }
            },
        };
        if let Some(record) = found {
            return Ok(Some((vnode, record)));
        }
    }
    missing.map_or(Ok(None), Err)
}

/// What another node is answered: a page of calls.
pub fn answer_calls(services: &Services, vnode: VnodeId, after: Option<CallId>) -> Answer {
    Answer::Calls(here(services, vnode, |state| calls_page(state, after, PAGE)).unwrap_or_default())
}

/// What another node is answered: a page of bindings.
pub fn answer_bindings(services: &Services, vnode: VnodeId, after: Option<Aor>) -> Answer {
    Answer::AllBindings(here(services, vnode, |state| bindings_page(state, after.as_ref(), PAGE)).unwrap_or_default())
}

/// Reads a vnode's records if they are held here.
pub fn here<R>(services: &Services, vnode: VnodeId, read: impl FnOnce(&VnodeState) -> R) -> Option<R> {
    // Its owner has them, whatever meta has heard of it.
    (services.owns(vnode) || services.cluster.holds(vnode)).then(|| services.cluster.read(vnode, read)).flatten()
}

async fn ask(services: &Services, vnode: VnodeId, question: &Question) -> Result<Answer, NotThere> {
    let owner = services.cluster.owner_of(vnode).filter(|owner| *owner != services.node).ok_or(NotThere(vnode))?;
    services.gateways.ask(services, owner, question).await.ok_or(NotThere(vnode))
}

fn calls_page(state: &VnodeState, after: Option<CallId>, limit: usize) -> Vec<(CallId, Bytes)> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let live = state.calls_from(from).filter(|(_, entry)| !entry.ended);
    live.take(limit).map(|(call, entry)| (*call, entry.record.clone())).collect()
}

fn bindings_page(state: &VnodeState, after: Option<&Aor>, limit: usize) -> Vec<(Aor, Bytes)> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    state.bindings_from(from).take(limit).map(|(aor, record)| (aor.clone(), record.clone())).collect()
}
