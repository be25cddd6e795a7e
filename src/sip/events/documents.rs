//! What watchers are told: the bodies of NOTIFYs. Layer: pure.

use bytes::Bytes;

use super::{Package, Sources, Watched};
use crate::clock::Timestamp;
use crate::ids::CallId;
use crate::sip::Text;
use crate::sip::registrar::Binding;
use crate::sip::uri::escape_user;

/// A call as one of its users has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub call: CallId,
    /// What the user is in it.
    pub role: Role,
    /// How far it is.
    pub stage: Stage,
    /// Who is at the other end: `user@domain`, or nobody who is to be known.
    pub remote: Option<String>,
}

/// Who began a call (RFC 4235 §4.1.1, direction).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub enum Role {
    Initiator,
    Recipient,
}

/// How far a call is (RFC 4235 §3.7.1); one that has ended is not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub enum Stage {
    Trying,
    Early,
    Confirmed,
}

impl Role {
    /// As the RFC writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initiator => "initiator",
            Self::Recipient => "recipient",
        }
    }
}

impl Stage {
    /// As the RFC writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Early => "early",
            Self::Confirmed => "confirmed",
        }
    }
}

/// What there is to say of a user; `version` counts the times that a watcher has been told.
pub fn document(package: Package, watched: &Watched, sources: Sources<'_>, version: u32, now: Timestamp) -> Bytes {
    let published = watched.publications.iter().rfind(|publication| publication.package == package && publication.expires > now);
    let text = match (package, published) {
        (_, Some(publication)) => return publication.body.clone(),
        (Package::Dialog, None) => dialogs(sources, version),
        (Package::MessageSummary, None) => format!("Messages-Waiting: no\r\nMessage-Account: {}\r\n", uri(sources.aor.as_str())),
        (Package::Presence, None) => presence(sources, now),
        (Package::Reg, None) => registration(sources, version, now),
    };
    Bytes::from(text)
}

/// RFC 4235 §4. A call is named by its place among those that are seen, never by its dialog: who knows that may ask for it (RFC 3891).
fn dialogs(sources: Sources<'_>, version: u32) -> String {
    let own = xml(&uri(sources.aor.as_str()));
    let mut text = format!(
        "<?xml version=\"1.0\"?>\n<dialog-info xmlns=\"urn:ietf:params:xml:ns:dialog-info\" version=\"{version}\" state=\"full\" \
         entity=\"{own}\">\n"
    );
    for seen in sources.calls {
        let remote = xml(&seen.remote.as_deref().map_or_else(|| "sip:anonymous@anonymous.invalid".to_owned(), uri));
        text.push_str(&format!(
            "<dialog id=\"{:08x}{}\" direction=\"{}\">\n<state>{}</state>\n\
             <local><identity>{own}</identity><target uri=\"{own}\"/></local>\n\
             <remote><identity>{remote}</identity><target uri=\"{remote}\"/></remote>\n</dialog>\n",
            name_of(seen.call),
            if seen.role == Role::Initiator { "a" } else { "b" },
            seen.role.as_str(),
            seen.stage.as_str(),
        ));
    }
    text.push_str("</dialog-info>\n");
    text
}

/// A name for a call from which nobody gets back to it.
fn name_of(call: CallId) -> u32 {
    let hash =
        call.0.to_be_bytes().iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash ^ (hash >> 15)
}

/// RFC 3863, for who publishes nothing: whoever is registered is there.
fn presence(sources: Sources<'_>, now: Timestamp) -> String {
    let there = sources.bindings.iter().any(|binding| binding.expires > now);
    let own = sources.aor.as_str();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" entity=\"{}\">\n\
         <tuple id=\"registered\"><status><basic>{}</basic></status><contact>{}</contact></tuple>\n</presence>\n",
        xml(&format!("pres:{own}")),
        if there { "open" } else { "closed" },
        xml(&uri(own)),
    )
}

/// RFC 3680 §5.
fn registration(sources: Sources<'_>, version: u32, now: Timestamp) -> String {
    let live: Vec<&Binding> = sources.bindings.iter().filter(|binding| binding.expires > now).collect();
    let state = if live.is_empty() { "terminated" } else { "active" };
    let mut text = format!(
        "<?xml version=\"1.0\"?>\n<reginfo xmlns=\"urn:ietf:params:xml:ns:reginfo\" version=\"{version}\" state=\"full\">\n\
         <registration aor=\"{}\" id=\"r\" state=\"{state}\">\n",
        xml(&uri(sources.aor.as_str())),
    );
    for (at, binding) in live.iter().enumerate() {
        let q = if binding.q < 1000 { format!(" q=\"0.{:03}\"", binding.q) } else { String::new() };
        text.push_str(&format!(
            "<contact id=\"c{at}\" state=\"active\" event=\"registered\" expires=\"{}\"{q} callid=\"{}\" cseq=\"{}\">\
             <uri>{}</uri></contact>\n",
            binding.expires.since(now).as_secs(),
            xml(&binding.call_id),
            binding.cseq,
            xml(&binding.contact),
        ));
    }
    text.push_str("</registration>\n</reginfo>\n");
    text
}

/// `sip:user@domain`.
fn uri(aor: &str) -> String {
    let (user, domain) = aor.rsplit_once('@').unwrap_or((aor, ""));
    format!("sip:{}@{domain}", escape_user(user))
}

/// Text that stands in XML, in a value or between tags.
fn xml(text: &str) -> Text {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no way to say these (XML 1.0 §2.2).
            '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    Text::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Aor;
    use crate::sip::registrar::tests::binding;

    const NOW: Timestamp = Timestamp(1_000);

    fn said(package: Package, bindings: &[Binding], calls: &[Seen]) -> String {
        let aor = Aor::new("a&b", "x");
        let sources = Sources { aor: &aor, bindings, calls };
        String::from_utf8(document(package, &Watched::default(), sources, 4, NOW).to_vec()).unwrap()
    }

    #[test]
    fn a_users_calls_are_told_and_no_more_of_them_than_may_be_known() {
        let seen = |remote: Option<&str>| Seen {
            call: CallId(0xdead_beef_dead_beef_dead_beef),
            role: Role::Recipient,
            stage: Stage::Early,
            remote: remote.map(str::to_owned),
        };
        let text = said(Package::Dialog, &[], &[seen(Some("<1002>@x")), seen(None)]);
        for part in [
            "version=\"4\" state=\"full\" entity=\"sip:a&amp;b@x\"",
            "direction=\"recipient\"",
            "<state>early</state>",
            "<identity>sip:%3C1002%3E@x</identity>",
            "<identity>sip:anonymous@anonymous.invalid</identity>",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("deadbeef"), "the call's own name is a secret: {text}");
        assert!(!said(Package::Dialog, &[], &[]).contains("<dialog "));
    }

    #[test]
    fn who_is_registered_is_there() {
        let live = binding();
        assert!(said(Package::Presence, std::slice::from_ref(&live), &[]).contains("<basic>open</basic>"));
        let over = Binding { expires: NOW, ..binding() };
        assert!(said(Package::Presence, std::slice::from_ref(&over), &[]).contains("<basic>closed</basic>"));
        let text = said(Package::Reg, &[live, over], &[]);
        assert!(text.contains("state=\"active\">\n<contact id=\"c0\"") && text.contains("expires=\"59\""), "{text}");
        assert!(text.contains("<uri>sip:a@10.0.0.1</uri>") && !text.contains("c1"), "{text}");
        assert!(said(Package::Reg, &[], &[]).contains("state=\"terminated\""));
        assert!(said(Package::MessageSummary, &[], &[]).starts_with("Messages-Waiting: no\r\n"));
    }
}
