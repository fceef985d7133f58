//! The only clock reads of the shell.

use std::time::{Instant, SystemTime};

/// Returns the monotonic time.
#[expect(clippy::disallowed_methods, reason = "the shell's one monotonic clock")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Returns the wall time, for display only.
#[expect(clippy::disallowed_methods, reason = "the shell's one wall clock")]
#[must_use]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Returns the wall time in seconds since 1970.
#[must_use]
pub fn unix() -> u64 {
    let since = wall().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Formats a wall time as RFC 3339 in UTC, whole seconds.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn wall_times_read_as_date_prints_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_343_358, "2026-11-22T10:29:18Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), text);
        }
    }
}
