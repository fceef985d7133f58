//! Conversion to tinc's form.

use std::{fmt::Write, path::Path};

use toml_parser::{Source, lexer::TokenKind};

use super::{Content, Converted, compare};
use crate::{
    tincconf,
    toml::{self, keys::File},
};

/// Converts a TOML file of these keys to tinc's form. `relative` is its name in messages.
#[must_use]
pub fn to_tinc(text: &str, file: File, relative: &Path) -> Converted {
    let mut problems = Vec::new();
    let document = toml::parse(text, relative, file, &mut problems);
    let before = document.lines.lines.clone();
    let pem = document.rsa.unwrap_or_default();
    let Content { items, tail, pem } = Content::new(document.lines.lines, comments(text), pem);
    let mut out = String::new();
    let mut line = |text: &str| writeln!(out, "{text}").expect("writing to a string cannot fail");
    for item in items {
        item.comments
            .iter()
            .for_each(|comment| line(&format!("#{comment}")));
        line(&format!("{} = {}", item.line.key, item.line.value));
    }
    let strict = |line: &tincconf::Line| line.key == "StrictSubnets";
    let main = relative.file_name().is_some_and(|name| name == toml::MAIN);
    let adds = main && !before.iter().any(strict);
    if adds {
        // The default differs.
        line("StrictSubnets = yes");
    }
    tail.iter().for_each(|comment| line(&format!("#{comment}")));
    if !pem.is_empty() {
        line(pem.trim_end());
    }
    let mut after = tincconf::parse(out.as_bytes()).lines;
    if adds {
        after.retain(|line| !strict(line));
    }
    compare(relative, &before, &after, &mut problems);
    Converted {
        text: out,
        problems,
    }
}

/// Returns each comment without its mark, with its line.
fn comments(text: &str) -> Vec<(usize, String)> {
    let mut comments = Vec::new();
    let (mut line, mut from) = (1, 0);
    for token in Source::new(text).lex() {
        if token.kind() == TokenKind::Comment {
            let (start, end) = (token.span().start(), token.span().end());
            line += text[from..start].matches('\n').count();
            from = start;
            comments.push((line, text[start + 1..end].trim_end().to_owned()));
        }
    }
    comments
}
