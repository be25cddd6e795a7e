//! Who watches a user, between what is in memory and what is stored. Layer: shell.

use bytes::Bytes;

use super::records::{RestoreError, dialog, dialog_record, phone, phone_record};
use crate::cluster::state::VnodeCommand;
use crate::cluster::state::records::{PublicationRecord, SubscriptionRecord, WatchedRecord, decode, encode};
use crate::ids::Aor;
use crate::sip::Text;
use crate::sip::events::{Package, Publication, Subscription, Watched};

/// What to commit for a user's watchers.
pub fn command(aor: &Aor, watched: &Watched) -> VnodeCommand {
    let record = if watched.is_empty() { Bytes::new() } else { encode(&record(watched)) };
    VnodeCommand::PutWatched { aor: aor.clone(), record }
}

fn record(watched: &Watched) -> WatchedRecord {
    let subscription = |own: &Subscription| SubscriptionRecord {
        id: own.id,
        dialog: dialog_record(&own.dialog),
        package: own.package.name().into(),
        event_id: own.event_id.as_ref().map(Text::to_string),
        expires: own.expires,
        phone: own.phone.as_ref().map(phone_record),
    };
    let publication = |own: &Publication| PublicationRecord {
        tag: own.tag.to_string(),
        package: own.package.name().into(),
        expires: own.expires,
        body: own.body.clone(),
        call_id: own.call_id.to_string(),
        cseq: own.cseq,
    };
    WatchedRecord {
        subscriptions: watched.subscriptions.iter().map(subscription).collect(),
        publications: watched.publications.iter().map(publication).collect(),
    }
}

/// Reads what is stored; nothing for nothing.
pub fn restore(bytes: &[u8]) -> Result<Watched, RestoreError> {
    if bytes.is_empty() {
        return Ok(Watched::default());
    }
    let record: WatchedRecord = decode(bytes)?;
    let package = |name: &str| Package::of(name).ok_or(RestoreError::Value("an event package"));
    let subscription = |own: SubscriptionRecord| {
        Ok(Subscription {
            id: own.id,
            dialog: dialog(own.dialog)?,
            package: package(&own.package)?,
            event_id: own.event_id.map(Text::from),
            expires: own.expires,
            phone: own.phone.map(phone),
        })
    };
    let publication = |own: PublicationRecord| {
        Ok(Publication {
            tag: own.tag.into(),
            package: package(&own.package)?,
            expires: own.expires,
            body: own.body,
            call_id: own.call_id.into(),
            cseq: own.cseq,
        })
    };
    Ok(Watched {
        subscriptions: record.subscriptions.into_iter().map(subscription).collect::<Result<_, RestoreError>>()?,
        publications: record.publications.into_iter().map(publication).collect::<Result<_, RestoreError>>()?,
    })
}
