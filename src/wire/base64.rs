//! tinc's own base64: the usual digits, but the low bits of each group first, and no padding.
//!
//! Source: wire/tinc-1.1.md section 1.1.

use std::sync::LazyLock;

use data_encoding::{BitOrder, Encoding, Specification};

static STANDARD: LazyLock<Encoding> = LazyLock::new(|| encoding("+/", "-_"));
static URL: LazyLock<Encoding> = LazyLock::new(|| encoding("-_", "+/"));

/// Encodes `bytes` with `+` and `/` for 62 and 63: for key files, host files and meta lines. 32
/// bytes give 43 characters.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Encodes `bytes` with `-` and `_` for 62 and 63: for invitation URLs and file names.
#[must_use]
pub fn encode_url(bytes: &[u8]) -> String {
    URL.encode(bytes)
}

/// Decodes a text in either alphabet, or in both mixed. `None` for any other character, and for a
/// length of 4n + 1. Surplus bits of the last character are dropped, as in real daemons, so several
/// texts may stand for the same bytes.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.as_bytes()).ok()
}

fn encoding(own: &str, other: &str) -> Encoding {
    let mut spec = Specification::new();
    spec.symbols
        .push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789");
    spec.symbols.push_str(own);
    spec.translate.from.push_str(other);
    spec.translate.to.push_str(own);
    spec.bit_order = BitOrder::LeastSignificantFirst;
    spec.check_trailing_bits = false;
    spec.encoding().expect("64 different digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_real_daemons() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/tinc-1.1.json")).unwrap();
        let rows = vectors["base64"].as_array().unwrap();
        assert!(rows.len() > 10);
        for row in rows {
            let field = |name: &str| row[name].as_str().unwrap();
            let bytes = data_encoding::HEXLOWER
                .decode(field("bytes").as_bytes())
                .unwrap();
            assert_eq!(encode(&bytes), field("standard_alphabet"));
            assert_eq!(encode_url(&bytes), field("url_alphabet"));
            assert_eq!(decode(field("standard_alphabet")).unwrap(), bytes);
            assert_eq!(decode(field("url_alphabet")).unwrap(), bytes);
        }
    }

    #[test]
    fn takes_surplus_bits_and_mixed_alphabets_but_nothing_else() {
        assert_eq!(decode("//").unwrap(), [0xff]);
        assert_eq!(decode("/D").unwrap(), [0xff]);
        assert_eq!(decode("+-/_"), decode("++//"));
        for bad in [
            "A", "AAAAA", "AA=", "AA==", "A A", "A\n", "A\0", "é", "AB.D",
        ] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}
