//! Node names and the six-byte node ids derived from them.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512};

/// Longest accepted node name, in bytes. tinc's only bound is its line length; 255 keeps a name
/// usable as a file name (T34 of proto/threat-model.md).
pub const MAX_NAME: usize = 255;

/// Name of a node: 1 to [`MAX_NAME`] bytes of `A-Z a-z 0-9 _`, case sensitive.
///
/// A name cannot contain a path separator, so `hosts/NAME` stays inside `hosts/`. Cloning is cheap.
/// Names are ordered by byte value, like every tie-break of the protocol. Source: wire/tinc-1.0.md
/// section 0.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

/// Reason why a text is no node name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text was empty.
    #[error("a node name must not be empty")]
    Empty,
    /// Longer than [`MAX_NAME`] bytes.
    #[error("a node name has at most 255 characters")]
    TooLong,
    /// A byte outside `A-Z a-z 0-9 _`.
    #[error("a node name consists of A-Z, a-z, 0-9 and _ only")]
    BadCharacter,
}

impl NodeName {
    /// Checks `text` and makes a name of it. Errors: see [`NameError`].
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(NameError::BadCharacter);
        }
        Ok(Self(text.into()))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the node's id on UDP: the first six bytes of SHA-512 of the name. Source:
    /// wire/tinc-1.1.md section 1.4.
    #[must_use]
    pub fn id(&self) -> NodeId {
        let hash = Sha512::digest(self.0.as_bytes());
        let mut id = [0; 6];
        id.copy_from_slice(&hash[..6]);
        NodeId(id)
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl TryFrom<String> for NodeName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0.as_ref().into()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// First six bytes of SHA-512 of a node's name; all zero means "direct" in a UDP header.
/// Source: wire/tinc-1.1.md sections 1.4 and 4.1.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 6]);

impl NodeId {
    /// Id that stands for the receiver itself.
    pub const DIRECT: Self = Self([0; 6]);
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_no_separator_and_are_ascii() {
        for bad in ["", "a/b", "..", ".", "a-up", "^x", "?x", "a b", "é", "a\0"] {
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
        }
        assert!(NodeName::new(&"x".repeat(256)).is_err());
        assert!(NodeName::new(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn id_of_pya_is_as_a_real_daemon_prints_it() {
        let id = NodeName::new("pya").unwrap().id();
        assert_eq!(id.to_string(), "cd198b483cdf");
    }
}
