//! Output: data to standard output, messages to standard error, and the JSON envelope.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use meshd_api::proto::Answer;

use crate::{
    Exit, Failure, Outcome, args::Format, columns::wrapped, context::Context, escape, table::Table,
};

/// The frame of every answer: net, node and time.
pub(super) struct Frame<'a> {
    pub(super) net: Option<&'a str>,
    pub(super) node: Option<&'a str>,
    pub(super) time: &'a str,
}

impl<'a, T> From<&'a Answer<T>> for Frame<'a> {
    fn from(answer: &'a Answer<T>) -> Self {
        let (net, node, time) = (
            answer.net.as_deref(),
            Some(answer.node.as_str()),
            &answer.time,
        );
        Self { net, node, time }
    }
}

#[derive(Serialize)]
struct Envelope<'a, T: Serialize> {
    schema: String,
    net: Option<&'a str>,
    node: Option<&'a str>,
    time: &'a str,
    data: &'a T,
}

/// Data that a command shows, in each form.
pub(super) trait Show {
    /// Returns header lines and a table, for people.
    fn human(&self) -> (Vec<String>, Table);
    /// Returns a table for scripts; its column names and values are stable.
    fn raw(&self) -> Table;
}

/// Shows data under the schema `meshctl.NAME/1`.
pub(super) fn show<T: Serialize>(
    context: &Context,
    name: &str,
    frame: &Frame<'_>,
    data: &T,
    show: &impl Show,
) -> Outcome {
    match context.format {
        Format::Json => return json(name, frame, data),
        Format::Tsv => print(|out| show.raw().tsv(out, context.header))?,
        Format::Table => print(|out| {
            let (head, table) = show.human();
            let room = width().unwrap_or(usize::MAX);
            for line in head.iter().filter(|_| context.header) {
                for line in wrapped(line, room, 2) {
                    writeln!(out, "{line}")?;
                }
            }
            table.text_within(out, (context.header, context.color), room)
        })?,
    }
    Ok(Exit::Fine)
}

/// Prints a JSON envelope, for commands whose text form is not a table.
pub(super) fn json<T: Serialize>(name: &str, frame: &Frame<'_>, data: &T) -> Outcome {
    let text = envelope(name, frame, data)?;
    print(|out| out.write_all(&text))?;
    Ok(Exit::Fine)
}

/// Returns the JSON envelope as a line, for commands that write it elsewhere.
pub(super) fn envelope<T: Serialize>(
    name: &str,
    frame: &Frame<'_>,
    data: &T,
) -> io::Result<Vec<u8>> {
    let schema = format!("meshctl.{name}/1");
    let Frame { net, node, time } = *frame;
    let envelope = Envelope {
        schema,
        net,
        node,
        time,
        data,
    };
    let mut text = serde_json::to_vec(&envelope)?;
    text.push(b'\n');
    Ok(text)
}

/// Returns the width of the terminal on standard output; `None` if it is not a terminal.
fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(size.ws_col.into()).filter(|width| *width > 0)
}

/// True if standard output is a terminal.
pub(super) fn to_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes text to standard output at once, escaped by [`escape::safe`].
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut text = Vec::new();
    // Text from before a failed write is still printed.
    let written = write(&mut text);
    bytes(escape::safe(&String::from_utf8_lossy(&text)).as_bytes())?;
    Ok(written?)
}

/// Writes bytes to standard output unescaped: binary data, or text that meshctl made.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Writes a message to standard error; nothing for an empty text. A closed standard error is ignored.
pub(super) fn complain(text: &str) {
    if !text.is_empty() {
        say(&format!("meshctl: {text}"));
    }
}

/// True if standard error is a terminal.
pub(super) fn watched() -> bool {
    io::stderr().is_terminal()
}

/// Writes a line to standard error without a prefix.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", escape::safe(text));
}
