//! Header names: the ones we know in any spelling, all others as they came (RFC 3261 §7.3). Layer: pure.

use super::Text;

macro_rules! names {
    ($($variant:ident = $canonical:literal $(| $compact:literal)?),+ $(,)?) => {
        /// A header's name. Names compare without regard to case; compact forms are the same name.
        #[derive(Debug, Clone)]
        #[allow(missing_docs, reason = "the names are the headers")]
        pub enum Name {
            $($variant,)+
            /// One that we don't know, byte for byte.
            Other(Text),
        }

        impl Name {
            /// The canonical spelling, or the one that came.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $canonical,)+
                    Self::Other(text) => text,
                }
            }

            fn known(bytes: &[u8]) -> Option<Self> {
                // The length decides nearly always; the compiler makes a jump table of it.
                match bytes.len() {
                    1 => match bytes[0].to_ascii_lowercase() {
                        $($(byte if byte == $compact => Some(Self::$variant),)?)+
                        _ => None,
                    },
                    $(len if len == $canonical.len() && bytes.eq_ignore_ascii_case($canonical.as_bytes()) =>
                        Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

names! {
    Via = "Via" | b'v',
    To = "To" | b't',
    From = "From" | b'f',
    CallId = "Call-ID" | b'i',
    CSeq = "CSeq",
    Contact = "Contact" | b'm',
    MaxForwards = "Max-Forwards",
    MaxBreadth = "Max-Breadth",
    ContentLength = "Content-Length" | b'l',
    ContentType = "Content-Type" | b'c',
    Route = "Route",
    RecordRoute = "Record-Route",
    UserAgent = "User-Agent",
    Server = "Server",
    Allow = "Allow",
    Supported = "Supported" | b'k',
    Require = "Require",
    ProxyRequire = "Proxy-Require",
    Unsupported = "Unsupported",
    Accept = "Accept",
    AcceptEncoding = "Accept-Encoding",
    AcceptLanguage = "Accept-Language",
    Expires = "Expires",
    MinExpires = "Min-Expires",
    Authorization = "Authorization",
    ProxyAuthorization = "Proxy-Authorization",
    WwwAuthenticate = "WWW-Authenticate",
    ProxyAuthenticate = "Proxy-Authenticate",
    RetryAfter = "Retry-After",
    Warning = "Warning",
    Reason = "Reason",
    Date = "Date",
    Subject = "Subject" | b's',
    Organization = "Organization",
    Priority = "Priority",
    ContentDisposition = "Content-Disposition",
    ContentEncoding = "Content-Encoding" | b'e',
    MimeVersion = "MIME-Version",
    Event = "Event" | b'o',
    AllowEvents = "Allow-Events" | b'u',
    SubscriptionState = "Subscription-State",
    SipEtag = "SIP-ETag",
    SipIfMatch = "SIP-If-Match",
    ReferTo = "Refer-To" | b'r',
    ReferredBy = "Referred-By" | b'b',
    Replaces = "Replaces",
    SessionExpires = "Session-Expires" | b'x',
    MinSe = "Min-SE",
    RSeq = "RSeq",
    RAck = "RAck",
    Path = "Path",
    ServiceRoute = "Service-Route",
    PAssertedIdentity = "P-Asserted-Identity",
    PPreferredIdentity = "P-Preferred-Identity",
    Privacy = "Privacy",
    Diversion = "Diversion",
    HistoryInfo = "History-Info",
    Identity = "Identity" | b'y',
    AlertInfo = "Alert-Info",
    CallInfo = "Call-Info",
    Timestamp = "Timestamp",
    InReplyTo = "In-Reply-To",
    ReplyTo = "Reply-To",
    AuthenticationInfo = "Authentication-Info",
}

impl Name {
    /// Recognises a name in any case and in its compact form.
    pub fn parse(text: Text) -> Self {
        Self::known(text.as_bytes()).unwrap_or(Self::Other(text))
    }

    /// Headers that may stand once only in a message (RFC 3261 §7.3.1); a second one is an attack or a bug.
    pub fn is_single(&self) -> bool {
        matches!(
            self,
            Self::To
                | Self::From
                | Self::CallId
                | Self::CSeq
                | Self::MaxForwards
                | Self::ContentLength
                | Self::ContentType
                | Self::Expires
        )
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Other(a), Self::Other(b)) => a.eq_ignore_ascii_case(b),
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

impl Eq for Name {}

impl From<&'static str> for Name {
    fn from(text: &'static str) -> Self {
        Self::parse(Text::from_static(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_compact() {
        for (spelling, name) in [
            ("v", Name::Via),
            ("VIA", Name::Via),
            ("call-id", Name::CallId),
            ("I", Name::CallId),
            ("content-length", Name::ContentLength),
            ("x", Name::SessionExpires),
        ] {
            assert_eq!(Name::from(spelling), name, "{spelling}");
        }
        assert_eq!(Name::from("X-Thing"), Name::from("x-thing"));
        assert_eq!(Name::from("X-Thing").as_str(), "X-Thing");
        assert_ne!(Name::from("X-Thing"), Name::Via);
    }
}
