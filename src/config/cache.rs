//! Caches addresses that worked: one text file for each node under `cache/`.
//!
//! tinc keeps binary files `cache/NODE` there, in a layout that differs between its builds. meshd's files are
//! `cache/NODE.meshd`, a name that no node can have, so neither program reads the other's files. Under systemd, where
//! meshd cannot write the configuration, the files are in the unit's CacheDirectory=.

use std::{
    env,
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use meshd_os::files::write_atomic;
use meshd_wire::{NodeName, address::zone};

use crate::files;

/// Maximum number of cached addresses of a node.
pub const MAX_CACHED: usize = 8;

const HEAD: &str = "# meshd addresses";

/// Returns the file of a node.
#[must_use]
pub fn path(base: &Path, node: &NodeName) -> PathBuf {
    dir(base, env::var_os("CACHE_DIRECTORY")).join(format!("{node}.meshd"))
}

/// Returns the directory of these files, and makes it if it is missing.
pub fn make_dir(base: &Path) -> io::Result<PathBuf> {
    let dir = dir(base, env::var_os("CACHE_DIRECTORY"));
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// `given` is the directory that systemd made (systemd.exec(5)).
fn dir(base: &Path, given: Option<OsString>) -> PathBuf {
    given.map_or_else(|| base.join("cache"), PathBuf::from)
}

/// Returns the cached addresses of a node, most recent first. Empty without a file, or if the file is not meshd's.
/// Invalid lines are skipped.
#[must_use]
pub fn read(base: &Path, node: &NodeName) -> Vec<SocketAddr> {
    let bytes = files::read_text(&path(base, node)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let Some(rest) = text.strip_prefix(HEAD) else {
        return Vec::new();
    };
    let addrs = rest.lines().filter_map(|line| line.parse().ok());
    addrs.take(MAX_CACHED).collect()
}

/// Writes the addresses of a node, most recent first, at most [`MAX_CACHED`]. Makes the directory if it is missing.
pub fn write(base: &Path, node: &NodeName, addrs: &[SocketAddr]) -> io::Result<()> {
    let path = path(base, node);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    // A zone number is valid for the present boot only.
    let lasting = addrs.iter().filter(|addr| zone(**addr).is_none());
    let lines = lasting.take(MAX_CACHED).map(|addr| format!("{addr}\n"));
    let text = format!("{HEAD}\n{}", lines.collect::<String>());
    write_atomic(&path, text.as_bytes(), 0o644)
}

/// Returns `addrs` with `addr` first.
#[must_use]
pub fn remember(addrs: &[SocketAddr], addr: SocketAddr) -> Vec<SocketAddr> {
    let others = addrs.iter().copied().filter(|a| *a != addr);
    std::iter::once(addr)
        .chain(others)
        .take(MAX_CACHED)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    #[test]
    fn a_service_keeps_them_where_it_is_told_to() {
        let base = Path::new("/etc/meshd/priv");
        assert_eq!(dir(base, None), base.join("cache"));
        let given = "/var/cache/meshd/priv";
        assert_eq!(dir(base, Some(given.into())), Path::new(given));
    }

    #[test]
    fn what_was_written_is_read_and_tincs_own_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeName::new("a").unwrap();
        assert_eq!(read(dir.path(), &node), []);
        fs::create_dir(dir.path().join("cache")).unwrap();
        fs::write(dir.path().join("cache/a"), [1, 0, 0, 0]).unwrap();
        write(dir.path(), &node, &[addr(2), addr(1)]).unwrap();
        assert_eq!(read(dir.path(), &node), [addr(2), addr(1)]);
        assert_eq!(fs::read(dir.path().join("cache/a")).unwrap(), [1, 0, 0, 0]);
    }

    #[test]
    fn bad_lines_are_passed_over_and_foreign_files_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeName::new("a").unwrap();
        write(dir.path(), &node, &[]).unwrap();
        fs::write(path(dir.path(), &node), format!("{HEAD}\nx\n10.0.0.1:1\n")).unwrap();
        assert_eq!(read(dir.path(), &node), [addr(1)]);
        fs::write(path(dir.path(), &node), "10.0.0.1:1\n").unwrap();
        assert_eq!(read(dir.path(), &node), []);
    }

    #[test]
    fn the_latest_comes_first_and_eight_are_kept() {
        let addrs = (0..12).fold(Vec::new(), |addrs, port| remember(&addrs, addr(port)));
        assert_eq!(addrs.len(), MAX_CACHED);
        assert_eq!(remember(&addrs, addr(9))[..2], [addr(9), addr(11)]);
    }
}
