//! The ID line, the first line on every meta connection: `0 NAME 17.MINOR`, then words that tinc
//! skips. The word `native1` offers the native handshake. Source: wire/tinc-1.1.md section 3.1,
//! proto/native-link.md section 3.1.

use meshd_wire::{NodeName, Options};

/// The major version of the protocol. Another major version is incompatible.
const MAJOR: u32 = 17;
/// Word that offers the native handshake, anywhere after the version.
const NATIVE: &str = "native1";
/// Longest remote text in messages, in bytes.
const SHOWN: usize = 128;

/// An ID line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) name: NodeName,
    pub(super) major: u32,
    pub(super) minor: u8,
    /// True if the sender offers the native handshake.
    pub(super) native: bool,
}

impl Id {
    /// Parses a line without its LF. `^COOKIE` and `?KEY` are tinc's commands for its control
    /// socket and for invitations. Both are no node names, and get the same answer as any unknown
    /// name.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        if words.next()? != "0" {
            return None;
        }
        let name = NodeName::new(words.next()?).ok()?;
        let version = words.next()?;
        let (major, minor) = version.split_once('.').unwrap_or((version, ""));
        Some(Self {
            name,
            major: digits(major, 9).parse().ok()?,
            // tinc reads three digits and ignores the rest of the line; a missing minor is 0.
            minor: digits(minor, 3)
                .parse()
                .map_or(0, |minor: u16| minor.min(u8::MAX.into()) as u8),
            native: words.any(|word| word == NATIVE),
        })
    }

    /// Returns true if the major version is ours.
    pub(super) fn is_our_protocol(&self) -> bool {
        self.major == MAJOR
    }
}

/// Dialect that our ID line offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// No more than tinc 1.0: any minor would make a tinc 1.1 expect the rest of SPTPS.
    Legacy,
    /// The legacy handshake and then Ed25519 keys: the offer of a tinc 1.1 without a key of the
    /// other end.
    Upgrade,
    /// SPTPS.
    Sptps,
    /// SPTPS, and native if the other end offers native too.
    Native,
}

/// Our ID line, without its LF.
pub(super) fn line(name: &NodeName, offer: Offer) -> String {
    let minor = Options::OUR_MINOR;
    match offer {
        Offer::Legacy => format!("0 {name} {MAJOR}"),
        Offer::Upgrade => format!("0 {name} {MAJOR}.1"),
        Offer::Sptps => format!("0 {name} {MAJOR}.{minor}"),
        Offer::Native => format!("0 {name} {MAJOR}.{minor} {NATIVE}"),
    }
}

/// Returns text of the other end in a form fit for a log.
pub(super) fn excerpt(text: &[u8]) -> String {
    let text = &text[..text.len().min(SHOWN)];
    format!("{:?}", String::from_utf8_lossy(text))
}

/// Returns the leading digits of `text`, at most `most`.
fn digits(text: &str, most: usize) -> &str {
    let length = text.bytes().take(most).take_while(u8::is_ascii_digit);
    &text[..length.count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(String, u32, u8)> {
        let id = Id::parse(line.as_bytes())?;
        Some((id.name.to_string(), id.major, id.minor))
    }

    #[test]
    fn versions_are_read_as_real_daemons_do() {
        for (line, major, minor) in [
            ("0 bob 17", 17, 0),
            ("0 bob 17.", 17, 0),
            ("0 bob 17.7", 17, 7),
            ("0 bob 17.7 token more", 17, 7),
            ("0 bob 17.7+x", 17, 7),
            ("0 bob 17.107", 17, 107),
            ("0 bob 17.1000", 17, 100),
            ("0 bob 17.999", 17, 255),
            ("0 bob 17.x", 17, 0),
            ("0 bob 18.7", 18, 7),
        ] {
            assert_eq!(parsed(line), Some(("bob".into(), major, minor)), "{line}");
        }
    }

    #[test]
    fn what_is_no_id_line_of_a_node_is_refused() {
        for line in [
            "",
            "0",
            "0 bob",
            "0 bob x.7",
            "0 bob .7",
            "1 bob 17.7",
            "00 bob 17.7",
            "0 ^0123 17.7",
            "0 ?abc 17.7",
            "0 a/b 17.7",
            "0 <control> 17.7",
            "GET / HTTP/1.1",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
        assert!(Id::parse(b"0 b\xffb 17.7").is_none());
        assert!(Id::parse(b"0 b\0b 17.7").is_none());
    }

    #[test]
    fn our_own_line_is_read_back() {
        let name = NodeName::new("bob").unwrap();
        for (offer, minor, expected) in [
            (Offer::Legacy, 0, "0 bob 17"),
            (Offer::Upgrade, 1, "0 bob 17.1"),
            (Offer::Sptps, Options::OUR_MINOR, "0 bob 17.7"),
            (Offer::Native, Options::OUR_MINOR, "0 bob 17.7 native1"),
        ] {
            let line = line(&name, offer);
            assert_eq!(line, expected);
            let id = Id::parse(line.as_bytes()).unwrap();
            assert!(id.is_our_protocol() && id.minor == minor && id.name == name);
            assert_eq!(id.native, offer == Offer::Native);
        }
    }

    #[test]
    fn the_offer_is_a_word_of_its_own_after_the_version() {
        for (line, native) in [
            ("0 bob 17.7 later native1 more", true),
            ("0 bob 17 native1", true),
            ("0 bob 17.7 native", false),
            ("0 bob 17.7 native10", false),
            ("0 bob 17.7 NATIVE1", false),
            ("0 native1 17.7", false),
            ("0 bob 17.7native1", false),
        ] {
            assert_eq!(Id::parse(line.as_bytes()).unwrap().native, native, "{line}");
        }
    }
}
