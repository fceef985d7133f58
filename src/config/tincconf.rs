//! The line lexer of tinc's daemon: `Key = Value` lines, comments, PEM blocks. It accepts every byte sequence, returns
//! entries and remarks, and never panics.
//!
//! Source: config/tinc.md section 1.2; undocumented behaviour was measured on tinc 1.0.36 and 1.1~pre18.

/// Longest line in bytes without its newline. A longer one is split here, and the rest is a separate line, as in tinc.
pub const MAX_LINE: usize = 2048;

/// One `Key = Value` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As written; comparison ignores case. Never empty.
    pub key: String,
    /// The text after the separator; never empty.
    pub value: String,
    /// Line number, from 1.
    pub number: usize,
    /// Column of the value, in characters from 1; 0 in tinc's form, where the column is obvious.
    pub column: usize,
    /// The line as the file has it, without blanks at its end; of TOML the key with its table, and the value.
    pub text: String,
}

/// A place where the lexer dropped text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Line number, from 1.
    pub number: usize,
    /// The problem.
    pub what: Trouble,
}

/// Errors in the form of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A key without a value: tinc stops reading the file here.
    #[error("no value for {0:?}; give it one or delete the line (nothing after it is read)")]
    NoValue(String),
    /// A PEM block without its end: it hides the rest of the file.
    #[error(
        "this -----BEGIN line has no -----END line, so nothing after it is read; add the -----END line"
    )]
    OpenBlock,
    /// The line begins with a blank, so it is ignored.
    #[error("the line begins with a blank, so it is ignored; remove the blank")]
    LeadingBlank,
    /// The line was longer than [`MAX_LINE`] bytes.
    #[error(
        "the line is longer than 2048 bytes, so the rest is read as a separate line; shorten it"
    )]
    TooLong,
}

impl Trouble {
    /// True if tinc rejects the file for it.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::NoValue(_))
    }

    /// True if lines are lost, as in a file that was cut short.
    #[must_use]
    pub fn is_tear(&self) -> bool {
        self.is_failure() || matches!(self, Self::OpenBlock)
    }
}

/// The content of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// Lines with content, in order.
    pub lines: Vec<Line>,
    /// Dropped text, in order.
    pub remarks: Vec<Remark>,
}

/// Reads `bytes` as tinc's daemon reads a configuration file. Bytes that are not UTF-8 become
/// U+FFFD.
#[must_use]
pub fn parse(bytes: &[u8]) -> Lines {
    let mut out = Lines::default();
    let mut block: Option<usize> = None;
    for (index, (line, cut)) in physical_lines(bytes).enumerate() {
        let number = index + 1;
        if block.is_some() {
            if line.starts_with(b"-----END") {
                block = None;
            }
            continue;
        }
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        if line.starts_with(b"-----BEGIN") {
            block = Some(number);
            continue;
        }
        if cut {
            let what = Trouble::TooLong;
            out.remarks.push(Remark { number, what });
        }
        let text = String::from_utf8_lossy(line);
        let (key, value) = split(&text);
        if value.is_empty() {
            let what = Trouble::NoValue(shorten(&key));
            out.remarks.push(Remark { number, what });
            return out;
        }
        if key.is_empty() {
            if !value.starts_with('#') {
                let what = Trouble::LeadingBlank;
                out.remarks.push(Remark { number, what });
            }
            continue;
        }
        out.lines.push(Line {
            key,
            value,
            number,
            column: 0,
            text: text.trim_end_matches([' ', '\t']).to_owned(),
        });
    }
    if let Some(number) = block {
        let what = Trouble::OpenBlock;
        out.remarks.push(Remark { number, what });
    }
    out
}

/// Splits `KEY[ \t]*=?[ \t]*VALUE` and removes trailing blanks. The option `-o` uses the same form.
#[must_use]
pub fn split(line: &str) -> (String, String) {
    let blanks = [' ', '\t'];
    let line = line.trim_end_matches(blanks);
    let end = line.find([' ', '\t', '=']).unwrap_or(line.len());
    let rest = line[end..].trim_start_matches(blanks);
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    let value = rest.trim_start_matches(blanks);
    (line[..end].into(), value.into())
}

/// Returns lines without newline and without one CR before it, each with true if it was split. A CR without a newline
/// is part of its line.
fn physical_lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(end) = rest.iter().take(MAX_LINE).position(|b| *b == b'\n') {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            return Some((line.strip_suffix(b"\r").unwrap_or(line), false));
        }
        let (line, later) = rest.split_at(rest.len().min(MAX_LINE));
        rest = later;
        Some((
            line,
            !matches!(later, [] | [b'\n', ..] | [b'\r', b'\n', ..]),
        ))
    })
}

/// Shortens a key for a message: files may hold any text.
fn shorten(key: &str) -> String {
    key.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let lines = parse(text.as_bytes()).lines;
        lines.into_iter().map(|l| (l.key, l.value)).collect()
    }

    fn one(text: &str) -> Option<(String, String)> {
        let mut pairs = pairs(text);
        assert!(pairs.len() <= 1, "{pairs:?}");
        pairs.pop()
    }

    fn troubles(text: &[u8]) -> Vec<Trouble> {
        parse(text).remarks.into_iter().map(|r| r.what).collect()
    }

    #[test]
    fn separators_are_blanks_and_at_most_one_equals_sign() {
        let foo = Some(("Name".into(), "foo".into()));
        for text in [
            "Name = foo",
            "Name=foo",
            "Name foo",
            "Name\tfoo",
            "Name = foo \t ",
            "Name = foo\r\n",
            "Name =foo\n",
        ] {
            assert_eq!(one(text), foo, "{text:?}");
        }
        let value = |text| one(text).map(|(_, value)| value);
        assert_eq!(value("Mode == hub").as_deref(), Some("= hub"));
        assert_eq!(
            value("PingInterval = 10 # ten").as_deref(),
            Some("10 # ten")
        );
        assert_eq!(value("Key = \"x y\"").as_deref(), Some("\"x y\""));
    }

    #[test]
    fn comments_and_empty_lines_say_nothing() {
        assert_eq!(parse(b"#Name = foo\n\n\r\n# x\n"), Lines::default());
    }

    #[test]
    fn a_carriage_return_goes_only_where_a_newline_follows() {
        assert_eq!(one("A = b\r").unwrap().1, "b\r");
        assert_eq!(one("A = b\r\r\n").unwrap().1, "b\r");
        assert_eq!(troubles(b"\r"), [Trouble::NoValue("\r".into())]);
    }

    #[test]
    fn a_leading_blank_voids_the_line_and_only_that() {
        assert_eq!(pairs(" Name = foo\nMode = hub").len(), 1);
        assert_eq!(troubles(b" Name = foo\nA = b"), [Trouble::LeadingBlank]);
        assert_eq!(troubles(b"   # note\n"), []);
        assert_eq!(troubles(b"= foo\nA = b"), [Trouble::LeadingBlank]);
    }

    #[test]
    fn a_missing_value_ends_the_file() {
        for text in [
            "A = b\n   \nC = d\n",
            "A = b\nWeight =\nC = d\n",
            "A=b\n=\nC=d",
        ] {
            assert_eq!(pairs(text), [("A".into(), "b".into())], "{text:?}");
            assert!(troubles(text.as_bytes())[0].is_failure(), "{text:?}");
        }
    }

    #[test]
    fn blocks_are_skipped_whatever_their_labels_and_swallow_the_rest_when_open() {
        let text = "A = 1\n-----BEGIN X-----\nB = 2\n\n#\n-----END Y-----\nC = 3\n";
        assert_eq!(
            pairs(text),
            [("A".into(), "1".into()), ("C".into(), "3".into())]
        );
        assert!(parse(text.as_bytes()).remarks.is_empty());
        let half = "A = 1\n-----BEGIN X-----\nB = 2\n";
        assert_eq!(pairs(half).len(), 1);
        let remark = Remark {
            number: 2,
            what: Trouble::OpenBlock,
        };
        assert_eq!(parse(half.as_bytes()).remarks, [remark]);
        assert_eq!(
            pairs(" -----BEGIN X-----\nB = 2\n").len(),
            1,
            "only in column 0"
        );
    }

    #[test]
    fn a_long_line_is_cut_at_2048_bytes_and_the_rest_is_a_line() {
        for (length, found) in [(2047, false), (2048, true), (2049, false)] {
            let text = format!("#{}Name = foo\n", "x".repeat(length - 1));
            let lines = parse(text.as_bytes()).lines;
            assert_eq!(
                lines.iter().any(|l| l.key == "Name" && l.number == 2),
                found,
                "{length}"
            );
        }
        let text = format!("A = {}\nB = 2\n", "x".repeat(2048 - 4));
        assert_eq!(troubles(text.as_bytes()), [], "fits exactly");
        let text = format!("A = {}\nB = 2\n", "x".repeat(2048 - 3));
        assert_eq!(
            troubles(text.as_bytes()),
            [Trouble::TooLong, Trouble::NoValue("x".into())]
        );
    }

    #[test]
    fn a_byte_order_mark_is_part_of_the_first_key() {
        assert_eq!(one("\u{feff}Name = foo").unwrap().0, "\u{feff}Name");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic_and_numbers_ascend(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..5000)) {
            let parsed = parse(&bytes);
            assert!(parsed.lines.iter().all(|l| !l.key.is_empty() && !l.value.is_empty()));
            assert!(parsed.lines.is_sorted_by_key(|l| l.number));
        }

        #[test]
        fn what_is_written_plainly_is_read_back(key in "[A-Za-z0-9]{1,20}", value in "[!-~]([ -~]{0,50}[!-~])?", sep in "( |\t|=| =|= | = )") {
            proptest::prop_assume!(!value.starts_with('='));
            let text = format!("{key}{sep}{value}");
            let lines = parse(format!("{text}\n").as_bytes()).lines;
            assert_eq!(lines, [Line { key, value, number: 1, column: 0, text }]);
        }
    }
}
