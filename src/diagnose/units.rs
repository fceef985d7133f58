//! Times in the units that operators read.

/// Formats a round trip: `0.4ms`, `12ms`, `1.2s`.
#[must_use]
pub fn round_trip(seconds: f64) -> String {
    let ms = seconds * 1000.0;
    match ms {
        _ if ms < 9.95 => format!("{ms:.1}ms"),
        _ if ms < 999.5 => format!("{ms:.0}ms"),
        _ => format!("{seconds:.1}s"),
    }
}

/// Formats an age in at most two units: `40s`, `3m`, `2h`, `12d 4h`. `short` keeps one unit.
#[must_use]
pub fn age(seconds: f64, short: bool) -> String {
    let s = seconds.max(0.0) as u64;
    let (first, second) = match s {
        0..60 => ((s, 's'), None),
        60..3600 => ((s / 60, 'm'), None),
        3600..86_400 => ((s / 3600, 'h'), Some((s / 60 % 60, 'm'))),
        _ => ((s / 86_400, 'd'), Some((s / 3600 % 24, 'h'))),
    };
    match second.filter(|(n, _)| *n > 0 && !short) {
        Some((n, unit)) => format!("{}{} {n}{unit}", first.0, first.1),
        None => format!("{}{}", first.0, first.1),
    }
}
