//! From, To, Contact, Route and their kin: a URI with a name and parameters (RFC 3261 §20.10). Layer: pure.

use std::fmt;

use super::HeaderError;
use crate::sip::Text;
use crate::sip::uri::{Uri, param};

/// `"Name" <uri>;params`, or a bare `uri;params` whose parameters belong to the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAddr {
    /// The display name as it came, quotes and all.
    pub display: Option<Text>,
    /// The URI.
    pub uri: Uri,
    /// The header's parameters, without the first semicolon.
    pub params: Text,
}

impl NameAddr {
    /// A URI and nothing else.
    pub fn new(uri: Uri) -> Self {
        Self { display: None, uri, params: Text::new() }
    }

    /// Reads one value; `shown` is the header's name for the error.
    pub fn parse(text: &Text, shown: &'static str) -> Result<Self, HeaderError> {
        let malformed = HeaderError::Malformed(shown);
        let Some((display, uri, params)) = split(text) else { return Err(malformed) };
        let uri = Uri::parse(&text.slice_ref(uri)).map_err(|source| HeaderError::Uri(shown, source))?;
        let display = Some(display).filter(|display| !display.is_empty()).map(|display| text.slice_ref(display));
        Ok(Self { display, uri, params: text.slice_ref(params) })
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.param("tag").filter(|tag| !tag.is_empty())
    }

    /// The value of a header parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        param(&self.params, name)
    }
}

/// The tag in a From or To value, found without reading the URI.
pub fn tag_of(text: &str) -> Option<&str> {
    split(text).and_then(|(_, _, params)| param(params, "tag")).filter(|tag| !tag.is_empty())
}

/// Display name, URI, parameters.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim();
    let (display, rest) = if text.starts_with('"') {
        let mut escaped = false;
        let end = text.bytes().skip(1).position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        })?;
        text.split_at(end + 2)
    } else {
        match text.find('<') {
            // It is words (RFC 3261 §25.1, `display-name`); phones write all kinds of them, but not what a list is made of.
            Some(at) if text[..at].contains([',', ';', ':', '@', '"']) => return None,
            Some(at) => text.split_at(at),
            None => ("", text),
        }
    };
    let rest = rest.trim_start();
    if let Some(inside) = rest.strip_prefix('<') {
        let (uri, after) = inside.split_once('>')?;
        let after = after.trim_start();
        let params = if after.is_empty() { "" } else { after.strip_prefix(';')? };
        return Some((display.trim(), uri, params));
    }
    if !display.is_empty() {
        return None;
    }
    // RFC 3261 §20.10: without brackets all parameters belong to the header, and there is no question mark.
    if rest.contains('?') {
        return None;
    }
    let (uri, params) = rest.split_once(';').unwrap_or((rest, ""));
    Some(("", uri.trim_end(), params))
}

impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(display) = &self.display {
            write!(f, "{display} ")?;
        }
        write!(f, "<{}>", self.uri)?;
        if !self.params.is_empty() {
            write!(f, ";{}", self.params)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_read() {
        for (text, display, uri, tag) in [
            ("<sip:a@b>;tag=1", None, "sip:a@b", Some("1")),
            (r#""A \"B\" <x>" <sip:a@b;lr> ; tag=2"#, Some(r#""A \"B\" <x>""#), "sip:a@b;lr", Some("2")),
            ("Alice Smith <sip:a@b>", Some("Alice Smith"), "sip:a@b", None),
            ("sip:a@b;tag=3", None, "sip:a@b", Some("3")),
            ("tel:+1;tag=4", None, "tel:+1", Some("4")),
        ] {
            let read = NameAddr::parse(&Text::from(text), "From").unwrap();
            assert_eq!((read.display.as_deref(), read.uri.to_string().as_str(), read.tag()), (display, uri, tag), "{text}");
            assert_eq!(tag_of(text), tag);
        }
        for text in ["", "\"open <sip:a@b>", "<sip:a@b", "name sip:a@b", "<sip:a@b>tag=1"] {
            assert!(NameAddr::parse(&Text::from(text), "From").is_err(), "{text}");
        }
    }
}
