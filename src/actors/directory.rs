//! Who is where on this node: a packet's way from its token to its actor. Layer: shell.
//!
//! Locks are held for a look-up, never across an await.

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

/// What tells an INVITE and its CANCEL apart from all others before they have a token.
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
    ended: HashSet<CallId>,
    /// The same, and when they are forgotten.
    endings: VecDeque<(Timestamp, CallId)>,
}

/// So many ended calls are remembered.
const MAX_ENDED: usize = 1 << 16;

#[derive(Debug)]
struct Entry {
    vnode: VnodeId,
    call: Option<ActorRef<CallMsg>>,
    dialogs: [Option<ActorRef<DialogMsg>>; 2],
    media: [Option<ActorRef<MediaLegMsg>>; 2],
    counters: [Arc<Counters>; 2],
    invite: Option<InviteKey>,
}

impl Directory {
    /// Takes an INVITE for a new call; false when there is a call for it already.
    pub fn reserve(&self, call: CallId, vnode: VnodeId, invite: Option<InviteKey>) -> bool {
        let mut inner = self.inner();
        if let Some(invite) = &invite {
            if inner.invites.contains_key(invite) {
                return false;
            }
            inner.invites.insert(invite.clone(), call);
        }
        let entry = Entry { vnode, call: None, dialogs: [None, None], media: [None, None], counters: Default::default(), invite };
        inner.calls.insert(call, entry);
        true
    }

    /// A call's actor is (again) this one.
    pub fn set_call(&self, call: CallId, actor: ActorRef<CallMsg>) {
        if let Some(entry) = self.inner().calls.get_mut(&call) {
            entry.call = Some(actor);
        }
    }

    /// A leg's actors are (again) these.
    pub fn set_leg(&self, call: CallId, leg: LegId, dialog: Option<ActorRef<DialogMsg>>, media: Option<ActorRef<MediaLegMsg>>) {
        let at = usize::from(leg.0);
        if let Some(entry) = self.inner().calls.get_mut(&call)
            && at < 2
        {
            entry.dialogs[at] = dialog.or_else(|| entry.dialogs[at].take());
            entry.media[at] = media.or_else(|| entry.media[at].take());
        }
    }

    /// The actor of a call.
    pub fn call(&self, call: CallId) -> Option<ActorRef<CallMsg>> {
        self.inner().calls.get(&call)?.call.clone()
    }

    /// The dialog of a leg.
    pub fn dialog(&self, call: CallId, leg: LegId) -> Option<ActorRef<DialogMsg>> {
        self.inner().calls.get(&call)?.dialogs.get(usize::from(leg.0))?.clone()
    }

    /// The media of a leg.
    pub fn media(&self, call: CallId, leg: LegId) -> Option<ActorRef<MediaLegMsg>> {
        self.inner().calls.get(&call)?.media.get(usize::from(leg.0))?.clone()
    }

    /// What passed a call's legs here.
    pub fn counters(&self, call: CallId) -> Option<[Arc<Counters>; 2]> {
        self.inner().calls.get(&call).map(|entry| entry.counters.clone())
    }

    /// The call that an INVITE began.
    pub fn call_of(&self, invite: &InviteKey) -> Option<CallId> {
        self.inner().invites.get(invite).copied()
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
            inner.invites.remove(&invite);
        }
    }

    /// The calls of a vnode that are here.
    pub fn of_vnode(&self, vnode: VnodeId) -> Vec<CallId> {
        self.inner().calls.iter().filter(|(_, entry)| entry.vnode == vnode).map(|(call, _)| *call).collect()
    }

    /// How many calls are here.
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
