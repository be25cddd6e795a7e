//! Requests, responses and their headers (RFC 3261 §7). Layer: pure.

use bytes::Bytes;

use super::{Method, Name, StatusCode, Text};

/// A SIP message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Message {
    Request(Request),
    Response(Response),
}

/// A request. The request-URI stays text until somebody needs its parts, so that one we can't read
/// can still be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub struct Request {
    pub method: Method,
    pub uri: Text,
    pub headers: Headers,
    pub body: Bytes,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub struct Response {
    pub status: StatusCode,
    pub reason: Text,
    pub headers: Headers,
    pub body: Bytes,
}

/// The headers of a message in their order; a value is what stood between the colon and the line's end,
/// unfolded, byte for byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Name, Bytes)>);

impl Headers {
    /// No headers, room for `count`.
    pub fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    /// Adds a header at the end.
    pub fn push(&mut self, name: Name, value: impl Into<Bytes>) {
        self.0.push((name, value.into()));
    }

    /// Adds a header with text for its value.
    pub fn push_text(&mut self, name: Name, value: impl AsRef<str>) {
        self.0.push((name, Bytes::copy_from_slice(value.as_ref().as_bytes())));
    }

    /// Puts a header before all others.
    pub fn push_front(&mut self, name: Name, value: impl AsRef<str>) {
        self.0.insert(0, (name, Bytes::copy_from_slice(value.as_ref().as_bytes())));
    }

    /// Removes every header of that name, then adds it once.
    pub fn set(&mut self, name: Name, value: impl AsRef<str>) {
        self.remove(&name);
        self.push_text(name, value);
    }

    /// Removes every header of that name.
    pub fn remove(&mut self, name: &Name) {
        self.0.retain(|(own, _)| own != name);
    }

    /// The first value of that name.
    pub fn get(&self, name: &Name) -> Option<&Bytes> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// The first value of that name, if it is UTF-8.
    pub fn text(&self, name: &Name) -> Option<Text> {
        self.get(name).and_then(|value| Text::try_from(value.clone()).ok())
    }

    /// Every value of that name, in order.
    pub fn all<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a Bytes> + 'a {
        self.0.iter().filter(move |(own, _)| own == name).map(|(_, value)| value)
    }

    /// Every element of the comma-separated lists of that name, in order (RFC 3261 §7.3.1).
    pub fn list<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = Text> + 'a {
        self.all(name).filter_map(|value| Text::try_from(value.clone()).ok()).flat_map(|text| {
            let parts: smallvec::SmallVec<[Text; 4]> = split_list(&text).map(|part| text.slice_ref(part)).collect();
            parts
        })
    }

    /// Replaces the value of the first header of that name.
    pub fn replace_first(&mut self, name: &Name, value: impl Into<Bytes>) {
        if let Some((_, own)) = self.0.iter_mut().find(|(own, _)| own == name) {
            *own = value.into();
        }
    }

    /// Name and value of each header, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(Name, Bytes)> {
        self.0.iter()
    }

    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Copies every header of that name from `other`.
    pub fn copy(&mut self, other: &Self, name: &Name) {
        self.0.extend(other.0.iter().filter(|(own, _)| own == name).cloned());
    }
}

/// Splits at commas that stand outside quotes and angle brackets; empty elements are left out.
pub fn split_list(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (mut quoted, mut escaped, mut angle) = (false, false, false);
            let end = rest
                .bytes()
                .position(|byte| {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' if quoted => escaped = true,
                        b'"' => quoted = !quoted,
                        b'<' if !quoted => angle = true,
                        b'>' if !quoted => angle = false,
                        b',' => return !quoted && !angle,
                        _ => {}
                    }
                    false
                })
                .unwrap_or(rest.len());
            let one = rest[..end].trim();
            rest = rest.get(end + 1..).unwrap_or("");
            if !one.is_empty() {
                return Some(one);
            }
        }
        None
    })
}

impl Message {
    /// The headers of either kind.
    pub fn headers(&self) -> &Headers {
        match self {
            Self::Request(request) => &request.headers,
            Self::Response(response) => &response.headers,
        }
    }
}

impl Request {
    /// A response to this request, with the headers that every response copies (RFC 3261 §8.2.6.2).
    /// `to_tag` is added when To has none.
    pub fn response(&self, status: StatusCode, to_tag: Option<&str>) -> Response {
        let mut headers = Headers::with_capacity(12);
        for name in [Name::Via, Name::From] {
            headers.copy(&self.headers, &name);
        }
        let to = self.headers.text(&Name::To).unwrap_or_default();
        let has_tag = super::headers::tag_of(&to).is_some();
        match to_tag {
            Some(tag) if !has_tag => headers.push_text(Name::To, format!("{to};tag={tag}")),
            _ => headers.copy(&self.headers, &Name::To),
        }
        for name in [Name::CallId, Name::CSeq] {
            headers.copy(&self.headers, &name);
        }
        // RFC 3261 §8.2.6.1: a 100 carries the Timestamp back.
        if status == StatusCode::TRYING {
            headers.copy(&self.headers, &Name::Timestamp);
        }
        Response { status, reason: Text::from_static(status.reason()), headers, body: Bytes::new() }
    }
}

impl Response {
    /// Sets the body and its type.
    #[must_use]
    pub fn with_body(mut self, content_type: &str, body: Bytes) -> Self {
        if !body.is_empty() {
            self.headers.set(Name::ContentType, content_type);
            self.body = body;
        }
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: Name, value: impl AsRef<str>) -> Self {
        self.headers.push_text(name, value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quotes_and_brackets_do_not_split() {
        let parts: Vec<_> = split_list(r#""a, \" b" <sip:x,y@z>;q=1, <sip:c@d> ,, e"#).collect();
        assert_eq!(parts, [r#""a, \" b" <sip:x,y@z>;q=1"#, "<sip:c@d>", "e"]);
    }
}
