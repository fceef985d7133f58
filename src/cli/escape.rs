//! Output of meshctl to a terminal: colours are ours, and everything else that a terminal would obey is spelled out. Other
//! nodes have written some of what is shown.

use std::sync::LazyLock;

use data_encoding::HEXLOWER;

use meshd_os::random;

/// In front of our own colours until the text leaves. Nobody else can know it, so nobody else's text has colours.
static MARK: LazyLock<Option<String>> = LazyLock::new(|| {
    let seed = random::seed().ok()?;
    Some(format!("\x1b{}", HEXLOWER.encode(&seed[..16])))
});

/// A text in a colour, by its number in SGR; plain where the system gives no randomness.
pub(super) fn paint(colour: u8, text: &str) -> String {
    match MARK.as_deref() {
        Some(mark) => format!("{mark}[{colour}m{text}{mark}[0m"),
        None => text.into(),
    }
}

/// The text as a terminal may have it: our colours, newlines and tabs stay, every other control character and what
/// changes the direction of writing becomes `\u001b`, which is also how JSON writes it.
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

    /// serde leaves DEL and C1 as they are.
    #[test]
    fn json_stays_json_of_the_same_value() {
        let foreign = "\x1b[2J\u{9b}31m\x7f\u{2066}";
        let json = serde_json::to_string(foreign).unwrap();
        let shown = safe(&json);
        assert!(shown.is_ascii(), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), foreign);
    }
}
