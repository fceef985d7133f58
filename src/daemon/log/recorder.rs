//! The flight recorder: keeps the last lines in memory, with more levels than the log itself.
//!
//! Source: cli/meshctl.md section 4.3 (`log --since`).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tracing::Level;

use meshd_api::proto::LogLine;

/// tinc's debug level of recorded lines: everything but single packets.
pub(super) const LEVEL: u8 = 4;
/// Maximum number of recorded lines.
const LINES: usize = 4096;
/// Maximum bytes of recorded text.
const BYTES: usize = 512 << 10;

/// The last lines, the oldest first.
#[derive(Debug, Default)]
pub(super) struct LogRecorder {
    lines: VecDeque<(Instant, Level, LogLine)>,
    bytes: usize,
}

impl LogRecorder {
    pub(super) fn push(&mut self, now: Instant, level: Level, line: &LogLine) {
        self.bytes += line.text.len();
        self.lines.push_back((now, level, line.clone()));
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some((_, _, gone)) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= gone.text.len();
        }
    }

    /// Returns the recorded lines not older than `age`, up to `level`.
    pub(super) fn since(&self, age: Duration, level: Level, now: Instant) -> Vec<LogLine> {
        let young = |at: &Instant| now.saturating_duration_since(*at) <= age;
        let lines = self.lines.iter();
        lines
            .filter(|(at, of, _)| young(at) && *of <= level)
            .map(|(_, _, line)| line.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_no_more() {
        let start = meshd_os::clock::now();
        let line = |text: String| LogLine {
            time: String::new(),
            level: "info".into(),
            text,
        };
        let mut recorder = LogRecorder::default();
        for second in 0..10_000 {
            let at = start + Duration::from_secs(second);
            let level = if second % 2 == 0 {
                Level::INFO
            } else {
                Level::DEBUG
            };
            recorder.push(at, level, &line(second.to_string()));
        }
        let now = start + Duration::from_secs(10_000);
        let all = recorder.since(Duration::MAX, Level::DEBUG, now);
        assert_eq!((all.len(), all[0].text.as_str()), (LINES, "5904"));
        let some = recorder.since(Duration::from_secs(4), Level::INFO, now);
        let texts: Vec<_> = some.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["9996", "9998"]);
        for _ in 0..10 {
            recorder.push(now, Level::WARN, &line("x".repeat(100_000)));
        }
        assert_eq!(recorder.since(Duration::MAX, Level::TRACE, now).len(), 5);
    }
}
