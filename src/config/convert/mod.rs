//! Converts tinc's form to TOML and back, file by file, with comments. Lines that the other form cannot express become
//! comments and problems. Afterwards the meaning of both texts is compared.
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
    /// Lines that the form cannot express, with their place in the old file. An error means that more than a comment is
    /// lost.
    pub problems: Vec<Problem>,
}

/// One variable with the comments above it.
struct Item {
    /// Comments without their marks.
    comments: Vec<String>,
    line: Line,
}

/// The content of a file, in order.
struct Content {
    items: Vec<Item>,
    /// Comments after the last variable.
    tail: Vec<String>,
    /// Complete PEM blocks.
    pem: String,
}

impl Content {
    /// Attaches comments, by line number, to the variables that follow them.
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

/// Returns the meaning of lines, without regard to order and spelling: of a single-valued variable, the first line
/// counts.
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
    // Equal to no line.
    if all
        .get("ExperimentalProtocol")
        .is_some_and(|values| values[0] == "yes")
    {
        all.remove("ExperimentalProtocol");
    }
    all
}

/// Adds an error for each variable whose meaning changes in the conversion.
fn compare(relative: &Path, before: &[Line], after: &[Line], problems: &mut Vec<Problem>) {
    let (old, new) = (meaning(before), meaning(after));
    for name in old
        .keys()
        .chain(new.keys().filter(|name| !old.contains_key(*name)))
    {
        if old.get(name) != new.get(name) {
            let place = before
                .iter()
                .find(|line| line.key.eq_ignore_ascii_case(name));
            let text = format!("the conversion changed {name}: convert it by hand");
            problems.push(Problem::error(
                relative,
                place.map_or(0, |line| line.number),
                text,
            ));
        }
    }
}
