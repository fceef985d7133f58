//! Escapes output of meshctl to a terminal. Only meshctl's own colours pass. Every other control sequence is written as
//! text, because other nodes supply parts of the output.

use std::sync::LazyLock;

use data_encoding::HEXLOWER;

use meshd_os::random;

/// Prefix of meshctl's own colours until output. The prefix is random, so no foreign text can contain it.
static MARK: LazyLock<Option<String>> = LazyLock::new(|| {
    let seed = random::seed().ok()?;
    Some(format!("\x1b{}", HEXLOWER.encode(&seed[..16])))
});

/// Returns the text in a colour, given by its SGR number. The text is plain if the system has no random numbers.
pub(super) fn paint(colour: u8, text: &str) -> String {
    match MARK.as_deref() {
        Some(mark) => format!("{mark}[{colour}m{text}{mark}[0m"),
        None => text.into(),
    }
}

/// Returns text that is safe for a terminal. Own colours, newlines and tabs stay. Other control characters and marks
/// that change the writing direction become `\u001b`, as in JSON.
pub(super) fn safe(text: &str) -> String {
    let mark = MARK.as_deref().unwrap_or("\0");
    let mut out = String::with_capacity(text.len());
    for (number, part) in text.split(mark).enumerate() {
        if number > 0 {
            out.push('\x1b');
        }
        for c in part.chars() {
            match obeyed(c) {
                true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                false => out.push(c),
            }
        }
    }
    out
}

fn obeyed(c: char) -> bool {
    let directs = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    directs || (c.is_control() && !matches!(c, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_spelled_out_and_only_our_colours_stay() {
        let foreign = "a\x1b]0;OWNED\x07\x1b[31;1m\u{9b}2J\x7f\r\u{202e}é\tb\n";
        let text = format!("{} {foreign}\x1b[0m", paint(32, "●"));
        assert_eq!(
            safe(&text),
            "\x1b[32m●\x1b[0m a\\u001b]0;OWNED\\u0007\\u001b[31;1m\\u009b2J\\u007f\\u000d\\u202eé\tb\n\\u001b[0m"
        );
    }

    /// serde does not escape DEL and C1.
    #[test]
    fn json_stays_json_of_the_same_value() {
        let foreign = "\x1b[2J\u{9b}31m\x7f\u{2066}";
        let json = serde_json::to_string(foreign).unwrap();
        let escaped = safe(&json);
        assert!(escaped.is_ascii(), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), foreign);
    }
}
