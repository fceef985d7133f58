//! `meshctl metrics`: prints the daemon's metrics, or writes them for node_exporter's textfile collector.

use std::path::PathBuf;

use meshd_api::call;
use meshd_os::files::write_given;

use crate::{Exit, Failure, Outcome, context::Context, output};

pub(super) fn run(context: &Context, textfile: Option<PathBuf>) -> Outcome {
    let text = context.ask(call::Metrics {})?.response;
    match textfile {
        // The collector runs as another user and may read at any moment.
        Some(file) => write_given(&file, text.as_bytes(), 0o644).map_err(|error| {
            let text = format!(
                "cannot write {}: {error}; name a file in the directory that node_exporter was given with \
                 `--collector.textfile.directory`",
                file.display()
            );
            Failure::new(Exit::Negative, text)
        })?,
        None => output::print(|out| out.write_all(text.as_bytes()))?,
    }
    Ok(Exit::Fine)
}
