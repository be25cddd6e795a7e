//! Who is where on this node: a packet's way from its token to its actor. Layer: shell.
//!
//! A call is here awake, with actors, or asleep, as a record. What is for an actor is handed over under the lock, so that a
//! call which goes to sleep knows when nothing more can come ([`Directory::set_resting`]). Locks are never held across
//! an await.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use ractor::ActorRef;

use super::call::CallMsg;
use super::dialog::DialogMsg;
use super::media_leg::MediaLegMsg;
use crate::clock::Timestamp;
use crate::ids::{CallId, LegId, VnodeId};
use crate::media::relay::Counters;
use crate::sip::b2bua::LINGER;
use crate::sip::leg::TxKey;

/// What tells an INVITE and its CANCEL apart from all others before they have a token ([`crate::sip::endpoint::invite_key`]).
pub type InviteKey = (TxKey, String);

/// The directory.
#[derive(Debug, Default)]
pub struct Directory {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    calls: HashMap<CallId, Entry>,
    invites: HashMap<InviteKey, CallId>,
    /// By what is the same in all copies of an INVITE.
    copies: HashMap<String, CallId>,
    ended: HashSet<CallId>,
    /// The same, and when they are forgotten.
    endings: VecDeque<(Timestamp, CallId)>,
}

/// So many ended calls are remembered.
const MAX_ENDED: usize = 1 << 16;

#[derive(Debug)]
struct Entry {
    vnode: VnodeId,
    /// None while they are being made, and while the call sleeps.
    actors: Option<Box<Actors>>,
    counters: [Arc<Counters>; 2],
    invite: Option<InviteKey>,
}

#[derive(Debug, Default)]
struct Actors {
    call: Option<ActorRef<CallMsg>>,
    /// One a leg: as many as phones are called, and the caller's.
    dialogs: Vec<(LegId, ActorRef<DialogMsg>)>,
    media: [Option<ActorRef<MediaLegMsg>>; 2],
    /// They are going to sleep: nothing is handed to them.
    resting: bool,
}

impl Directory {
    /// Takes an INVITE for a new call; false when there is a call for it or for a copy of it already.
    pub fn begin(&self, call: CallId, vnode: VnodeId, invite: InviteKey) -> bool {
        let mut inner = self.inner();
        if inner.copies.contains_key(&invite.1) {
            return false;
        }
        inner.take(call, vnode, Some(invite));
        true
    }

    /// Takes a call from its record.
    pub fn reserve(&self, call: CallId, vnode: VnodeId, invite: Option<InviteKey>) {
        self.inner().take(call, vnode, invite);
    }

    /// A call's actor is (again) this one.
    pub fn set_call(&self, call: CallId, actor: ActorRef<CallMsg>) {
        if let Some(entry) = self.inner().calls.get_mut(&call) {
            entry.actors.get_or_insert_default().call = Some(actor);
        }
    }

    /// A leg's dialog is (again) this one.
    pub fn set_dialog(&self, call: CallId, leg: LegId, dialog: ActorRef<DialogMsg>) {
        if let Some(entry) = self.inner().calls.get_mut(&call) {
            let dialogs = &mut entry.actors.get_or_insert_default().dialogs;
            dialogs.retain(|(own, _)| *own != leg);
            dialogs.push((leg, dialog));
        }
    }

    /// The media of a side, the caller's or the callee's, is (again) this one.
    pub fn set_media(&self, call: CallId, side: LegId, media: ActorRef<MediaLegMsg>) {
        if let Some(entry) = self.inner().calls.get_mut(&call)
            && let Some(own) = entry.actors.get_or_insert_default().media.get_mut(usize::from(side.0))
        {
            *own = Some(media);
        }
    }

    /// The call's actors are on their way to sleep, or are not after all. What was handed to them before is in their mailboxes;
    /// from now on it comes back to whoever tries.
    pub fn set_resting(&self, call: CallId, resting: bool) {
        if let Some(actors) = self.inner().calls.get_mut(&call).and_then(|entry| entry.actors.as_mut()) {
            actors.resting = resting;
        }
    }

    /// The call's actors have ended. Tells whether the call is still here, as a record.
    pub fn fall_asleep(&self, call: CallId) -> bool {
        let mut inner = self.inner();
        let Some(entry) = inner.calls.get_mut(&call) else { return false };
        entry.actors = None;
        if let Some(invite) = entry.invite.take() {
            inner.forget(call, &invite);
        }
        true
    }

    /// Hands something to a call's actor; gives it back when there is none.
    pub fn tell_call(&self, call: CallId, message: CallMsg) -> Result<(), CallMsg> {
        hand(self.inner().awake(call).and_then(|actors| actors.call.as_ref()), message)
    }

    /// Hands something to a leg's dialog; gives it back when there is none.
    pub fn tell_dialog(&self, call: CallId, leg: LegId, message: DialogMsg) -> Result<(), DialogMsg> {
        let inner = self.inner();
        let Some(actors) = inner.awake(call) else { return Err(message) };
        // A leg that is over has nobody who listens; the call has nothing to do with it any more.
        if let Some(dialog) = actors.dialog(leg) {
            let _ = dialog.cast(message);
        }
        Ok(())
    }

    /// Hands something to a leg's media; gives it back when there is none.
    pub fn tell_media(&self, call: CallId, leg: LegId, message: MediaLegMsg) -> Result<(), MediaLegMsg> {
        hand(self.inner().awake(call).and_then(|actors| actors.media.get(usize::from(leg.0))?.as_ref()), message)
    }

    /// The vnode of a call that is here, awake or asleep.
    pub fn vnode_of(&self, call: CallId) -> Option<VnodeId> {
        self.inner().calls.get(&call).map(|entry| entry.vnode)
    }

    /// The actor of a call.
    #[cfg(test)]
    pub fn call(&self, call: CallId) -> Option<ActorRef<CallMsg>> {
        self.inner().awake(call)?.call.clone()
    }

    /// The dialog of a leg.
    #[cfg(test)]
    pub fn dialog(&self, call: CallId, leg: LegId) -> Option<ActorRef<DialogMsg>> {
        self.inner().awake(call)?.dialog(leg).cloned()
    }

    /// The media of a leg.
    #[cfg(test)]
    pub fn media(&self, call: CallId, leg: LegId) -> Option<ActorRef<MediaLegMsg>> {
        self.inner().awake(call)?.media.get(usize::from(leg.0))?.clone()
    }

    /// A call that stood by is here now.
    pub fn stood_by(&self, call: CallId, vnode: VnodeId, counters: [Arc<Counters>; 2]) {
        self.inner().calls.insert(call, Entry { vnode, actors: None, counters, invite: None });
    }

    /// What passed a call's legs here.
    pub fn counters(&self, call: CallId) -> Option<[Arc<Counters>; 2]> {
        self.inner().calls.get(&call).map(|entry| entry.counters.clone())
    }

    /// The call that an INVITE began.
    pub fn call_of(&self, invite: &InviteKey) -> Option<CallId> {
        self.inner().invites.get(invite).copied()
    }

    /// Whether an INVITE that is none of ours is a copy of one that is: it came by another way.
    pub fn is_merged(&self, invite: &InviteKey) -> bool {
        let inner = self.inner();
        !inner.invites.contains_key(invite) && inner.copies.contains_key(&invite.1)
    }

    /// A call was here and is over: whoever hangs up once more is told so, for a while.
    pub fn remember_end(&self, call: CallId, now: Timestamp) {
        let mut inner = self.inner();
        inner.endings.push_back((now + LINGER, call));
        inner.ended.insert(call);
        while let Some((until, oldest)) = inner.endings.front().copied()
            && (until <= now || inner.endings.len() > MAX_ENDED)
        {
            inner.endings.pop_front();
            inner.ended.remove(&oldest);
        }
    }

    /// Whether a call was here a while ago.
    pub fn is_ended(&self, call: CallId) -> bool {
        self.inner().ended.contains(&call)
    }

    /// Nothing of a call is here any more.
    pub fn remove(&self, call: CallId) {
        let mut inner = self.inner();
        if let Some(invite) = inner.calls.remove(&call).and_then(|entry| entry.invite) {
            inner.forget(call, &invite);
        }
    }

    /// The calls of a vnode that are here.
    pub fn of_vnode(&self, vnode: VnodeId) -> Vec<CallId> {
        self.inner().calls.iter().filter(|(_, entry)| entry.vnode == vnode).map(|(call, _)| *call).collect()
    }

    /// How many calls are here with actors.
    pub fn awake(&self) -> usize {
        self.inner().calls.values().filter(|entry| entry.actors.is_some()).count()
    }

    /// How many calls are here, awake or asleep.
    pub fn len(&self) -> usize {
        self.inner().calls.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Actors {
    fn dialog(&self, leg: LegId) -> Option<&ActorRef<DialogMsg>> {
        self.dialogs.iter().find(|(own, _)| *own == leg).map(|(_, dialog)| dialog)
    }
}

impl Inner {
    fn take(&mut self, call: CallId, vnode: VnodeId, invite: Option<InviteKey>) {
        if let Some(invite) = &invite {
            self.invites.insert(invite.clone(), call);
            // A copy that another node took on, whose calls are here now, stays a call.
            self.copies.entry(invite.1.clone()).or_insert(call);
        }
        let entry = self.calls.entry(call);
        let entry = entry.or_insert_with(|| Entry { vnode, actors: None, counters: Default::default(), invite: None });
        entry.invite = invite;
    }

    fn forget(&mut self, call: CallId, invite: &InviteKey) {
        self.invites.remove(invite);
        if self.copies.get(&invite.1) == Some(&call) {
            self.copies.remove(&invite.1);
        }
    }

    fn awake(&self, call: CallId) -> Option<&Actors> {
        self.calls.get(&call)?.actors.as_deref().filter(|actors| !actors.resting)
    }
}

fn hand<M: ractor::Message>(actor: Option<&ActorRef<M>>, message: M) -> Result<(), M> {
    match actor {
        // One that has just failed is made anew: its phone says it again.
        Some(actor) => {
            let _ = actor.cast(message);
            Ok(())
        }
        None => Err(message),
    }
}
