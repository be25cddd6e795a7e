//! Events (RFC 6665): who wants to know what of a user, and what has been published of it (RFC 3903). Layer: pure.
//!
//! ```text
//!  SUBSCRIBE ─▶ subscribed ──changes──▶ NOTIFY, one at a time ──its end, or the phone's──▶ NOTIFY, terminated
//! ```
//!
//! All of it hangs on the user that it is about: [`Watched`] is one record, at the vnode that has the user's bindings. A NOTIFY says all
//! there is to know, never what has changed, so that one that was lost with its owner is made good by the next.

mod documents;
mod notifier;
mod publish;

pub use documents::{Role, Seen, Stage, document};
pub use notifier::{Input, Notifier, Output, Step};
pub use publish::Publication;

use std::time::Duration;

use super::dialog::Dialog;
use super::message::Headers;
use super::registrar::{Binding, Phone};
use super::uri::param;
use super::{Name, Text};
use crate::clock::Timestamp;
use crate::ids::{Aor, CallId, LegId};

/// The leg in tokens of subscriptions; those of calls and of pages never get so far.
pub const LEG: LegId = LegId(u8::MAX);
/// So many subscriptions a user.
pub const MAX_SUBSCRIPTIONS: usize = 256;
/// So many of them are of one watcher.
pub const MAX_OF_A_WATCHER: usize = 16;
/// So many bytes are kept of what a watcher says of itself.
pub const MAX_DIALOG: usize = 2 << 10;
/// So many publications of a user at once.
pub const MAX_PUBLICATIONS: usize = 16;
/// The longest that is published.
pub const MAX_BODY: usize = 8 << 10;

/// What can be known of a user: an event package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Package {
    /// Its calls (RFC 4235).
    Dialog,
    /// Whether messages wait for it (RFC 3842).
    MessageSummary,
    /// Whether it is there (RFC 3856).
    Presence,
    /// Its bindings (RFC 3680).
    Reg,
}

impl Package {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Dialog, Self::MessageSummary, Self::Presence, Self::Reg];

    /// As it stands in Event.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dialog => "dialog",
            Self::MessageSummary => "message-summary",
            Self::Presence => "presence",
            Self::Reg => "reg",
        }
    }

    /// By its name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|package| package.name().eq_ignore_ascii_case(name))
    }

    /// The type of what is said of it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Dialog => "application/dialog-info+xml",
            Self::MessageSummary => "application/simple-message-summary",
            Self::Presence => "application/pidf+xml",
            Self::Reg => "application/reginfo+xml",
        }
    }

    /// Only its user, and who is trusted, may know.
    pub fn is_private(self) -> bool {
        matches!(self, Self::MessageSummary | Self::Reg)
    }

    /// It is what somebody publishes, and not what we know.
    pub fn is_published(self) -> bool {
        matches!(self, Self::MessageSummary | Self::Presence)
    }
}

/// For Allow-Events: every package.
pub const ALLOW_EVENTS: &str = "dialog, message-summary, presence, reg";

/// What Event says: the package, and the id that tells subscriptions of one dialog apart (RFC 6665 §8.2.1).
pub fn event_of(headers: &Headers) -> Option<(Package, Option<Text>)> {
    let value = headers.text(&Name::Event)?;
    let (name, params) = value.split_once(';').unwrap_or((&value, ""));
    Some((Package::of(name.trim())?, param(params, "id").map(Text::from)))
}

/// Whether a type of body may be sent to who says Accept (RFC 6665 §3.1.3: without it, the package's own).
fn accepts(headers: &Headers, package: Package) -> bool {
    let fits = |range: Text| {
        let kind = range.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        [package.content_type(), "application/*", "*/*"].contains(&&*kind)
    };
    headers.get(&Name::Accept).is_none() || headers.list(&Name::Accept).any(fits)
}

/// Who wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its name: 128 random bits, which are in its token.
    pub id: CallId,
    /// Its dialog.
    pub dialog: Dialog,
    /// What.
    pub package: Package,
    /// What the phone calls it (RFC 6665 §4.5.2).
    pub event_id: Option<Text>,
    /// Until when.
    pub expires: Timestamp,
    /// The phone, if it is registered.
    pub phone: Option<Phone>,
}

/// All that must survive of who watches a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// Who wants to know what.
    pub subscriptions: Vec<Subscription>,
    /// What has been said of it, the newest last.
    pub publications: Vec<Publication>,
}

impl Watched {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty() && self.publications.is_empty()
    }

    /// Whether anybody wants to know this.
    pub fn wants(&self, package: Package) -> bool {
        self.subscriptions.iter().any(|subscription| subscription.package == package)
    }

    /// When the first of it ends.
    pub fn deadline(&self) -> Option<Timestamp> {
        let subscriptions = self.subscriptions.iter().map(|subscription| subscription.expires);
        subscriptions.chain(self.publications.iter().map(|publication| publication.expires)).min()
    }
}

/// What there is to know of a user besides what was published.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// Whose.
    pub aor: &'a Aor,
    /// Where it is registered.
    pub bindings: &'a [Binding],
    /// Its calls.
    pub calls: &'a [Seen],
}

/// How long subscriptions and publications last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Who asks for less gets 423.
    pub min: Duration,
    /// Who asks for more, or for nothing, gets this.
    pub max: Duration,
}

impl Lifetimes {
    /// What is granted to who asks for so many seconds; the error is that it is too little.
    fn grant(self, asked: Option<u32>) -> Result<Duration, Duration> {
        let asked = asked.map_or(self.max, |seconds| Duration::from_secs(seconds.into()));
        if !asked.is_zero() && asked < self.min { Err(self.min) } else { Ok(asked.min(self.max)) }
    }
}
