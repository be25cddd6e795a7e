//! The addresses of a host, or of a vnode: one, or one of IPv4 and one of IPv6. Layer: ground.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An address, and perhaps one of the other family.
///
/// In a configuration it is `"192.0.2.1"`, or `["192.0.2.1", "2001:db8::1"]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Families {
    first: IpAddr,
    other: Option<IpAddr>,
}

/// Why addresses are not one of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FamiliesError {
    /// There is none.
    #[error("no address")]
    None,
    /// There are two of one family, or more than two.
    #[error("more than one address of IPv4 or of IPv6")]
    TooMany,
}

impl Families {
    /// The same, with an address of the other family.
    pub fn and(self, other: IpAddr) -> Result<Self, FamiliesError> {
        if self.other.is_some() || is_like(self.first, other) {
            return Err(FamiliesError::TooMany);
        }
        Ok(Self { other: Some(other), ..self })
    }

    /// The one that was named first.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// All there are.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> + use<> {
        std::iter::once(self.first).chain(self.other)
    }

    /// The one that somebody with this address can reach.
    pub fn toward(&self, there: IpAddr) -> Option<IpAddr> {
        self.all().find(|own| is_like(*own, there))
    }
}

fn is_like(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

impl<T: Into<IpAddr>> From<T> for Families {
    fn from(first: T) -> Self {
        Self { first: first.into(), other: None }
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.other {
            None => self.first.fmt(f),
            Some(other) => write!(f, "{}, {other}", self.first),
        }
    }
}

/// As it is written in a configuration.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    One(IpAddr),
    Some(Vec<IpAddr>),
}

impl TryFrom<Written> for Families {
    type Error = FamiliesError;

    fn try_from(written: Written) -> Result<Self, FamiliesError> {
        let all = match written {
            Written::One(one) => return Ok(one.into()),
            Written::Some(all) => all,
        };
        let (first, others) = all.split_first().ok_or(FamiliesError::None)?;
        others.iter().try_fold(Self::from(*first), |families, other| families.and(*other))
    }
}

impl From<Families> for Written {
    fn from(families: Families) -> Self {
        match families.other {
            None => Self::One(families.first),
            Some(other) => Self::Some(vec![families.first, other]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Families, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn there_is_one_address_of_each_family_at_most() {
        let both = read(r#"["192.0.2.1", "2001:db8::1"]"#).unwrap();
        assert_eq!(both.toward("10.0.0.1".parse().unwrap()), "192.0.2.1".parse().ok());
        assert_eq!(both.toward("::9".parse().unwrap()), "2001:db8::1".parse().ok());
        assert_eq!(serde_json::to_string(&both).unwrap(), r#"["192.0.2.1","2001:db8::1"]"#);
        let one = read(r#""192.0.2.1""#).unwrap();
        assert_eq!((one.toward("::9".parse().unwrap()), one.all().count()), (None, 1));
        assert_eq!(serde_json::to_string(&one).unwrap(), r#""192.0.2.1""#);
        for (text, error) in [
            ("[]", "no address"),
            (r#"["192.0.2.1", "192.0.2.2"]"#, "more than one"),
            (r#"["192.0.2.1", "::1", "::2"]"#, "more than one"),
            (r#""everywhere""#, "did not match"),
        ] {
            assert!(read(text).unwrap_err().contains(error), "{text}");
        }
    }
}
