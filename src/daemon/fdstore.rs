//! The service manager's descriptor store over a restart: queues of the device, listening sockets, and a note for the
//! next daemon. `systemctl stop` empties the store.
//!
//! Source: proto/native-link.md section 7. The store never holds a key.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::File,
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use meshd_dataplane::io::fdstore;
use meshd_wire::NodeName;

/// Kinds of stored descriptors.
pub(super) const TUN: &str = "tun";
pub(super) const TCP: &str = "tcp";
pub(super) const UDP: &str = "udp";
pub(super) const NOTE: &str = "note";
/// Longest note, in bytes: the note of 16,384 nodes is shorter.
const MAX_NOTE: u64 = 4 << 20;

/// The store at our start, and the descriptors in use.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Descriptors that are not taken yet.
    fds: Vec<(String, OwnedFd)>,
    /// Names in use.
    names: BTreeSet<String>,
    /// Descriptors that we opened.
    fresh: Vec<(&'static str, OwnedFd)>,
    /// Names of released descriptors.
    gone: Vec<String>,
}

impl Kept {
    /// Takes over the store of the previous daemon.
    pub(super) fn inherit() -> Self {
        let fds = fdstore::inherited();
        let names = fds.iter().map(|(name, _)| name.clone()).collect();
        Self {
            fds,
            names,
            ..Self::default()
        }
    }

    /// True if a descriptor of this kind was released. A fork of the service manager may still hold a copy for a
    /// moment, so device or port may not be free yet.
    pub(super) fn has_released(&self, kind: &str) -> bool {
        self.gone.iter().any(|name| is_of(name, kind))
    }

    /// Takes the first descriptor of a kind that fits.
    pub(super) fn take(
        &mut self,
        kind: &str,
        fits: impl Fn(BorrowedFd<'_>) -> bool,
    ) -> Option<OwnedFd> {
        let at = self
            .fds
            .iter()
            .position(|(name, fd)| is_of(name, kind) && fits(fd.as_fd()))?;
        Some(self.fds.remove(at).1)
    }

    /// Notes a descriptor to store at [`Self::commit`].
    pub(super) fn keep(&mut self, kind: &'static str, fd: impl AsFd) {
        match fd.as_fd().try_clone_to_owned() {
            Ok(copy) => self.fresh.push((kind, copy)),
            Err(error) => tracing::debug!(kind, %error, "cannot store a descriptor for a restart"),
        }
    }

    /// Forgets the noted descriptors after a failure.
    pub(super) fn forget(&mut self) {
        self.fresh.clear();
    }

    /// Stores all noted descriptors.
    pub(super) fn commit(&mut self) {
        for (kind, fd) in std::mem::take(&mut self.fresh) {
            let mut names = (0_u32..).map(|number| format!("{kind}.{number}"));
            let name = names.find(|name| !self.names.contains(name));
            let name = name.expect("fewer than 2^32 are kept");
            if let Err(error) = fdstore::give(&name, fd.as_fd()) {
                tracing::debug!(name, %error, "the service manager did not store a descriptor");
            }
            self.names.insert(name);
        }
    }

    /// Closes descriptors that do not fit, by name and descriptor, here and in the store. Afterwards their names and
    /// addresses are free.
    pub(super) fn retain(&mut self, fits: impl Fn(&str, BorrowedFd<'_>) -> bool) {
        let all = std::mem::take(&mut self.fds);
        let (stay, go): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(name, fd)| fits(name, fd.as_fd()));
        self.fds = stay;
        if go.is_empty() {
            return;
        }
        for (name, fd) in go {
            tracing::info!(
                name,
                "a descriptor from before the restart is not needed any more"
            );
            drop(fd);
            self.names.remove(&name);
            self.gone.push(name.clone());
            if let Err(error) = fdstore::take_back(&name) {
                tracing::debug!(name, %error, "the service manager did not release a descriptor");
            }
        }
        if let Err(error) = fdstore::wait() {
            tracing::debug!(%error, "the service manager does not answer");
        }
    }

    /// Takes over the note of the previous daemon. There is none without a descriptor store.
    pub(super) fn note(&mut self) -> Note {
        let old = self.take(NOTE, |_| true).map(File::from);
        let last = old.as_ref().map(read).unwrap_or_default();
        let file = match old {
            None if fdstore::is_offered() => {
                let fresh = fdstore::memory().ok().map(File::from);
                fresh.inspect(|file| self.keep(NOTE, file))
            }
            old => old,
        };
        Note {
            file,
            written: String::new(),
            last,
        }
    }
}

/// True if the name is of this kind.
pub(super) fn is_of(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// Content of a note.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// Linked nodes and their listening addresses.
    pub(super) neighbours: Vec<(NodeName, SocketAddr)>,
    /// Routes of InterfaceRoute = auto.
    pub(super) routes: Vec<(IpAddr, u8)>,
}

/// A note for the next daemon: a file in memory that the service manager stores too, so that it survives kill -9.
#[derive(Debug)]
pub(super) struct Note {
    file: Option<File>,
    written: String,
    /// Its content at our start.
    pub(super) last: Last,
}

impl Note {
    /// True if a later daemon can read it.
    pub(super) fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Writes the present state, if it has changed.
    pub(super) fn write(&mut self, now: &Last) {
        let Some(file) = &self.file else {
            return;
        };
        let text = now.to_text();
        if text == self.written {
            return;
        }
        // If we die between the two calls, old lines follow: they were true a moment ago.
        let written = file.write_all_at(text.as_bytes(), 0);
        match written.and_then(|()| file.set_len(text.len() as u64)) {
            Ok(()) => self.written = text,
            Err(error) => tracing::debug!(%error, "cannot write the note for a restart"),
        }
    }
}

impl Last {
    fn to_text(&self) -> String {
        let mut text = String::new();
        for (node, addr) in &self.neighbours {
            let _ = writeln!(text, "neighbour {node} {addr}");
        }
        for (net, len) in &self.routes {
            let _ = writeln!(text, "route {net} {len}");
        }
        text
    }

    /// Skips invalid lines: another version may have written them.
    fn parse(text: &str) -> Self {
        let mut last = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["neighbour", node, addr] => {
                    let node = NodeName::new(node).ok();
                    last.neighbours.extend(node.zip(addr.parse().ok()));
                }
                ["route", net, len] => {
                    last.routes.extend(net.parse().ok().zip(len.parse().ok()));
                }
                _ => {}
            }
        }
        last
    }
}

fn read(file: &File) -> Last {
    let length = file.metadata().map_or(0, |meta| meta.len()).min(MAX_NOTE);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Last::parse(&String::from_utf8_lossy(&bytes)),
        Err(_) => Last::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> Last {
        Last {
            neighbours: vec![
                (NodeName::new("a").unwrap(), "10.0.0.1:655".parse().unwrap()),
                (
                    NodeName::new("b").unwrap(),
                    "[fd00::2]:1655".parse().unwrap(),
                ),
            ],
            routes: vec![([10, 1, 0, 0].into(), 16)],
        }
    }

    #[test]
    fn a_note_says_to_the_next_what_was_last_written() {
        let mut note = Note {
            file: fdstore::memory().ok().map(File::from),
            written: String::new(),
            last: Last::default(),
        };
        note.write(&last());
        let shorter = Last {
            routes: Vec::new(),
            ..last()
        };
        note.write(&shorter);
        assert_eq!(read(note.file.as_ref().unwrap()), shorter);
    }

    #[test]
    fn lines_of_nobody_are_left_out() {
        let text = last().to_text()
            + "neighbour ../x 10.0.0.1:1\nneighbour c\nroute x y\nroute 10.2.0.0 99999\nthe\n";
        assert_eq!(Last::parse(&text), last());
    }

    #[test]
    fn what_is_kept_is_found_by_kind_and_fit_and_once() {
        let file = || OwnedFd::from(File::open("/dev/null").unwrap());
        let names = ["tun.0", "udp.0", "udp.1", "udpx.0"];
        let mut kept = Kept {
            fds: names.map(|name| (name.to_owned(), file())).into(),
            names: names.map(str::to_owned).into(),
            ..Kept::default()
        };
        assert!(kept.take(TCP, |_| true).is_none());
        assert!(kept.take(UDP, |_| false).is_none());
        assert!(kept.take(UDP, |_| true).is_some() && kept.take(UDP, |_| true).is_some());
        assert!(kept.take(UDP, |_| true).is_none());
        kept.retain(|_, _| false);
        assert_eq!(
            kept.names,
            BTreeSet::from(["udp.0", "udp.1"].map(str::to_owned))
        );
    }
}
