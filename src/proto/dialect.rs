//! The dialects that meshd speaks, on links and in tunnels.

use serde::{Deserialize, Serialize};

/// Dialect of a link or a tunnel, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// RSA and AES-CFB on links, a cipher and a MAC in tunnels, as in tinc 1.0.
    Legacy,
    /// SPTPS, as in tinc 1.1.
    Sptps,
    /// Noise, meshd only.
    Native,
}

impl Dialect {
    /// All dialects, lowest first.
    pub const ALL: [Self; 3] = [Self::Legacy, Self::Sptps, Self::Native];

    /// Name of the dialect, for the operator and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Sptps => "sptps",
            Self::Native => "native",
        }
    }
}

/// Properties of a dialect's links. Code outside of `link` asks for one of them, never for the
/// dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkCaps {
    /// True if the link is safe from members of the mesh too, and its old traffic from thieves of
    /// keys. Else the link protects against outsiders only.
    pub keeps_out_members: bool,
    /// True if the other end checks the lines that it forwards, so an invalid line is its own fault.
    pub checks_lines: bool,
    /// True if the other end survives an edge to an address that is not numeric (T09).
    pub survives_names: bool,
}

impl Dialect {
    /// Returns the properties of the dialect's links.
    #[must_use]
    pub const fn link_caps(self) -> LinkCaps {
        match self {
            Self::Legacy => LinkCaps {
                keeps_out_members: false,
                checks_lines: false,
                survives_names: false,
            },
            Self::Sptps | Self::Native => LinkCaps {
                keeps_out_members: true,
                checks_lines: true,
                survives_names: true,
            },
        }
    }
}

/// Word for a tunnel without a key, in the place of a dialect.
pub const NO_DIALECT: &str = "none";

/// Returns the word of a tunnel's dialect: [`Dialect::name`] or [`NO_DIALECT`].
#[must_use]
pub const fn word(dialect: Option<Dialect>) -> &'static str {
    match dialect {
        Some(dialect) => dialect.name(),
        None => NO_DIALECT,
    }
}

/// JSON of the dialect of a tunnel: [`word`]. Reading never fails: a word of a newer meshd counts as
/// [`NO_DIALECT`].
pub mod or_none {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Dialect, word};

    /// Writes the [`word`].
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(dialect: &Option<Dialect>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(word(*dialect))
    }

    /// Reads a [`word`].
    ///
    /// # Errors
    /// If the value is no text.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Dialect>, D::Error> {
        let word = String::deserialize(from)?;
        let mut all = Dialect::ALL.into_iter();
        Ok(all.find(|dialect| dialect.name() == word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row(#[serde(with = "or_none")] Option<Dialect>);

    #[test]
    fn a_dialect_has_one_word_in_text_and_in_json() {
        for dialect in Dialect::ALL {
            let json = format!("\"{}\"", dialect.name());
            assert_eq!(serde_json::to_string(&dialect).unwrap(), json);
            assert_eq!(serde_json::to_string(&Row(Some(dialect))).unwrap(), json);
            assert_eq!(
                serde_json::from_str::<Row>(&json).unwrap(),
                Row(Some(dialect))
            );
        }
        assert_eq!(serde_json::to_string(&Row(None)).unwrap(), "\"none\"");
        for word in ["none", "", "quantum"] {
            let row = serde_json::from_str::<Row>(&format!("\"{word}\""));
            assert_eq!(row.unwrap(), Row(None), "{word}");
        }
        assert!(Dialect::ALL.is_sorted());
    }

    /// The error of serde lists every variant, also one that [`Dialect::ALL`] lacks.
    #[test]
    fn no_dialect_is_missing_in_the_list() {
        let error = serde_json::from_str::<Dialect>("\"?\"").unwrap_err();
        let listed = error.to_string().matches('`').count() / 2 - 1;
        assert_eq!(listed, Dialect::ALL.len(), "{error}");
    }
}
