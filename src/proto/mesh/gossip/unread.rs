//! Cost of lines that cannot be parsed, and of lines that are out of place on an active link.
//!
//! A real tincd forwards lines that meshd rejects: address words that are not UTF-8, line feeds in
//! place of blanks, lines of 60 KB. The tincd's neighbours must not close its link because of
//! another node's line. So a line that nodes forward costs only itself: it is dropped, counted, and
//! logged once a minute. A line that only the neighbour itself can have written ends the link.
//!
//! On a legacy link the two cannot be told apart. A line feed that a tinc 1.1 forwards there starts
//! a new line, which may be anything.

use std::time::{Duration, Instant};

use bytes::Bytes;

use meshd_wire::{printable, request::RequestError};

use crate::mesh::{
    LinkId, Mesh,
    gossip::law::{self, Ends, Place, Speaker, Statement},
};

/// Shortest time between two log lines about unparsable lines.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Unparsable lines: time of the last log line, and their number since then.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Unread {
    logged: Option<Instant>,
    since: u64,
}

impl Mesh {
    /// Rejects a line that cannot be parsed.
    pub(in crate::mesh) fn refuse_line(
        &mut self,
        link: LinkId,
        line: &Bytes,
        why: &RequestError,
        now: Instant,
    ) {
        let statement = match why.costs_line_only() {
            true => Statement::Unreadable,
            false => Statement::Misplaced,
        };
        let speaker = match self.active(link) {
            Some(_) => Speaker::Itself,
            None => Speaker::Stranger,
        };
        match law::ruling(statement, speaker).ends {
            Ends::Link if why.costs_line_only() => self.misbehaved(link, "a request before ACK"),
            Ends::Link => self.out_of_place(link, line, &format!("{why} in {}", printable(line))),
            _ => self.lose_line(link, line, &why.to_string(), now),
        }
    }

    /// Handles a line that only the neighbour can have written and that is out of place here.
    pub(in crate::mesh) fn out_of_place(&mut self, link: LinkId, line: &Bytes, what: &str) {
        let peer = self.active(link);
        match peer.is_none_or(|peer| peer.hello.caps().checks_lines) {
            true => self.misbehaved(link, what),
            false => self.lose_line(link, line, what, self.cx.now),
        }
    }

    fn lose_line(&mut self, link: LinkId, line: &Bytes, what: &str, now: Instant) {
        let Some(peer) = self.peers.get(&link) else {
            return;
        };
        let name = peer.hello.name.clone();
        self.cx.counters.refused += 1;
        let unread = &mut self.gossip.unread;
        unread.since += 1;
        let lately = |at: Instant| now.saturating_duration_since(at) < SAY_EVERY;
        if !unread.logged.is_some_and(lately) {
            tracing::warn!(node = %name, lines = unread.since, "ignored a line that it has passed on: {what} in {}", printable(line));
            *unread = Unread {
                logged: Some(now),
                since: 0,
            };
        }
        // A line in the neighbour's own name is the neighbour's fault: a real daemon forwards no
        // line in its own name.
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        if words.nth(1) == Some(name.as_str().as_bytes())
            || words.next() == Some(name.as_str().as_bytes())
        {
            self.charge_line(link, Place::Fault, now);
        } else {
            self.charge_unused(link, now);
        }
    }
}

#[cfg(test)]
mod tests;
