//! Formats an event as one line: the message, then its fields, without control characters.

use std::fmt::{self, Write};

use tracing::{
    Event,
    field::{Field, Visit},
};

/// Longest value of a field in bytes of text. Source: T41 of proto/threat-model.md.
const MAX_FIELD: usize = 128;
/// Longest message in bytes of text.
const MAX_MESSAGE: usize = 1024;

/// Returns the text of an event.
pub(super) fn of(event: &Event<'_>) -> String {
    let mut text = Text::default();
    event.record(&mut text);
    text.message + &text.fields
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            clean(&mut self.message, MAX_MESSAGE, format_args!("{value:?}"));
        } else {
            let _ = write!(self.fields, " {}=", field.name());
            clean(&mut self.fields, MAX_FIELD, format_args!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Appends a value, escapes control characters (a `Debug` form has none), and cuts it.
fn clean(out: &mut String, max: usize, value: fmt::Arguments<'_>) {
    let start = out.len();
    for c in value.to_string().chars() {
        if out.len() - start >= max {
            out.push('…');
            return;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
}
