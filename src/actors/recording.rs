//! Which calls are recorded, and what the recorder asks of the records. Layer: shell.

use std::sync::Arc;

use super::call::CallMsg;
use super::call_media::CallMedia;
use super::calls::{self, Errand};
use super::media_records::heard_from;
use super::services::Services;
use crate::cluster::state::records::{CallRecord, decode};
use crate::config::RecordedCalls;
use crate::ids::{Aor, CallId, VnodeId};
use crate::media::core::recording::About;
use crate::media::recorder::{Ask, Known, Look};
use crate::sip::b2bua::CallState;

/// A call that is talked on is recorded if one of its users wants that.
pub(super) fn begin(media: &mut CallMedia, services: &Services, state: &CallState) {
    if services.shelf.is_none() || state.answered.is_none() || media.session().recording.is_some() {
        return;
    }
    // Who has gone, or never came to talk, has no say.
    let talking = state.legs.iter().filter(|leg| state.is_seated(leg.id));
    if talking.into_iter().any(|leg| wants(services, services.user_of(leg.phone.as_ref()).as_ref())) {
        media.record(true);
    }
}

fn wants(services: &Services, user: Option<&Aor>) -> bool {
    let own = user.and_then(|user| services.cluster.read_meta(|meta| meta.user(user)?.record));
    own.unwrap_or(match services.config.recording.calls {
        RecordedCalls::Asked => false,
        RecordedCalls::All => true,
    })
}

/// Begins, goes on with or pauses the recording of a call that is here. Tells whether it is.
pub fn record_here(services: &Services, call: CallId, on: bool) -> bool {
    calls::tell(services, call, Errand::Call(CallMsg::Record(on))).is_ok()
}

/// The records, for the recorder.
pub struct Records(pub Arc<Services>);

impl Ask for Records {
    fn owned(&self) -> Vec<VnodeId> {
        let Self(services) = self;
        services.cluster.vnodes().into_iter().filter(|vnode| services.owns(*vnode)).collect()
    }

    fn look(&self, call: CallId, known: Option<&Known>) -> Look {
        let Self(services) = self;
        let owned = |vnode: &VnodeId| services.owns(*vnode);
        let whose = known.map(|known| known.vnode).or_else(|| services.directory.vnode_of(call));
        let read = |vnode: VnodeId| {
            let entry = services.cluster.read(vnode, |state| state.call(call).map(|entry| (entry.ended, entry.record.clone())));
            Some((vnode, entry??))
        };
        let found = match whose {
            Some(vnode) => Some(vnode).filter(owned).map(read),
            // Its actors are on their way.
            None => services.cluster.vnodes().into_iter().filter(owned).map(read).find(Option::is_some).or(Some(None)),
        };
        let Some(found) = found else { return Look::Elsewhere };
        let Some((vnode, (ended, record))) = found else { return Look::Over };
        if ended {
            return Look::Over;
        }
        if known.is_some_and(|known| known.record.as_ptr() == record.as_ptr()) {
            return Look::Same;
        }
        // A later release's, perhaps: what was known of it stands.
        let Ok(read) = decode::<CallRecord>(&record) else { return Look::Same };
        let about = About { call, created: read.created, caller: read.caller, callee: read.callee };
        Look::Changed(Box::new(Known { vnode, about: Arc::new(about), formats: Arc::new(heard_from(&read.media)), record }))
    }

    fn is_live(&self, vnode: VnodeId, call: CallId) -> bool {
        let live = self.0.cluster.read(vnode, |state| state.call(call).is_some_and(|entry| !entry.ended));
        // Who doesn't know leaves it.
        live.unwrap_or(true)
    }

    fn tidies(&self) -> bool {
        self.0.cluster.vnodes().first().is_some_and(|vnode| self.0.owns(*vnode))
    }
}
