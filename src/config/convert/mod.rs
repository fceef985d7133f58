//! From tinc's form to TOML and back, file by file, with the comments. What one of the forms cannot say is told and
//! left as a comment; what was said is compared afterwards.
//!
//! Source: config/toml.md section 3.

mod to_tinc;
mod to_toml;

use std::{collections::BTreeMap, path::Path};

pub use to_tinc::to_tinc;
pub use to_toml::to_toml;

use crate::{
    Problem,
    tincconf::Line,
    vars::{self, Kind},
};

/// A file in its other form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The text.
    pub text: String,
    /// What could not be said in it, with its place in the old file; an error among them: more than a comment is lost.
    pub problems: Vec<Problem>,
}

/// One variable with the comments above it.
struct Item {
    /// Without their marks.
    comments: Vec<String>,
    line: Line,
}

/// What a file says, in the order in which it does.
struct Content {
    items: Vec<Item>,
    /// Comments behind the last of them.
    tail: Vec<String>,
    /// PEM blocks, whole.
    pem: String,
}

impl Content {
    /// Puts comments, each with its line number, in front of what they stand at or above.
    fn new(lines: Vec<Line>, comments: Vec<(usize, String)>, pem: String) -> Self {
        let mut comments = comments.into_iter().peekable();
        let mut items = Vec::new();
        for line in lines {
            let mut above = Vec::new();
            while let Some((_, comment)) = comments.next_if(|(at, _)| *at <= line.number) {
                above.push(comment);
            }
            items.push(Item {
                comments: above,
                line,
            });
        }
        let tail = comments.map(|(_, comment)| comment).collect();
        Self { items, tail, pem }
    }
}

/// What lines say, whatever their order and spelling: of a variable that stands once, the first counts.
fn meaning<'a>(lines: impl IntoIterator<Item = &'a Line>) -> BTreeMap<&'static str, Vec<String>> {
    let mut all: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for line in lines {
        let Some(var) = vars::find(&line.key) else {
            continue;
        };
        let value = match var.kind {
            Kind::Bool => line.value.to_ascii_lowercase(),
            Kind::Address | Kind::Listen | Kind::Rule => {
                line.value.split_whitespace().collect::<Vec<_>>().join(" ")
            }
            _ => line.value.clone(),
        };
        let values = all.entry(var.name).or_default();
        if var.multiple || values.is_empty() {
            values.push(value);
        }
    }
    // The same as no line.
    if all
        .get("ExperimentalProtocol")
        .is_some_and(|values| values[0] == "yes")
    {
        all.remove("ExperimentalProtocol");
    }
    all
}

/// An error for each variable that says another thing after the conversion than before.
fn compare(shown: &Path, before: &[Line], after: &[Line], problems: &mut Vec<Problem>) {
    let (old, new) = (meaning(before), meaning(after));
    for name in old
        .keys()
        .chain(new.keys().filter(|name| !old.contains_key(*name)))
    {
        if old.get(name) != new.get(name) {
            let place = before
                .iter()
                .find(|line| line.key.eq_ignore_ascii_case(name));
            let text = format!("{name} is not what it was: convert it by hand");
            problems.push(Problem::error(
                shown,
                place.map_or(0, |line| line.number),
                text,
            ));
        }
    }
}
