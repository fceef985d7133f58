//! Lines that cannot be read, and lines that have no place on an active link: what they cost.
//!
//! A real tincd passes on lines that we do not take: address words that are no UTF-8, line feeds in place of blanks,
//! lines of 60 KB. Its neighbours must not lose their link to it for what somebody behind it has written. So a line
//! that nodes pass on costs itself only; it is not passed on, is counted, and is logged once a minute. A line that
//! only the neighbour itself can have written ends the link.
//!
//! On a legacy link nobody can tell the two apart: a line feed that a tinc 1.1 passes on there begins a new line, and
//! that line may be anything.

use std::time::{Duration, Instant};

use bytes::Bytes;

use meshd_wire::{printable, request::RequestError};

use crate::mesh::{LinkId, Mesh};

/// Time between two log lines about lines that cannot be read.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Lines that were not read: when they were last logged, and how many since.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Unread {
    told: Option<Instant>,
    since: u64,
}

impl Mesh {
    /// Refuses a line that was not read.
    pub(in crate::mesh) fn refuse_line(
        &mut self,
        link: LinkId,
        line: &Bytes,
        why: &RequestError,
        now: Instant,
    ) {
        match why.costs_line_only() {
            true if self.active(link).is_some() => {
                self.lose_line(link, line, &why.to_string(), now)
            }
            true => self.misbehaved(link, "a request before ACK"),
            false => self.out_of_place(link, line, &format!("{why} in {}", printable(line))),
        }
    }

    /// A line that only the neighbour can have written and that has no place here.
    pub(in crate::mesh) fn out_of_place(&mut self, link: LinkId, line: &Bytes, what: &str) {
        let is_legacy = self.active(link).is_some_and(|peer| peer.hello.is_legacy());
        match is_legacy {
            true => self.lose_line(link, line, what, self.now),
            false => self.misbehaved(link, what),
        }
    }

    fn lose_line(&mut self, link: LinkId, line: &Bytes, what: &str, now: Instant) {
        let Some(peer) = self.peers.get(&link) else {
            return;
        };
        let name = peer.hello.name.clone();
        self.refused += 1;
        let unread = &mut self.unread;
        unread.since += 1;
        let lately = |at: Instant| now.saturating_duration_since(at) < SAY_EVERY;
        if !unread.told.is_some_and(lately) {
            tracing::warn!(node = %name, lines = unread.since, "ignored a line that it has passed on: {what} in {}", printable(line));
            *unread = Unread {
                told: Some(now),
                since: 0,
            };
        }
        // In its own name it has no excuse: a real daemon passes on nothing that claims to be its own.
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        if words.nth(1) == Some(name.as_str().as_bytes())
            || words.next() == Some(name.as_str().as_bytes())
        {
            self.charge_own(link, now);
        } else {
            self.charge_unused(link, now);
        }
    }
}

#[cfg(test)]
mod tests;
