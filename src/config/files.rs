//! Reads files of the configuration: only regular files of limited size, without blocking.
//!
//! Source: T34, T44 of proto/threat-model.md.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::fs::OFlags;

/// Largest configuration file in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// Reason why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no such file.
    #[error("no such file")]
    Missing,
    /// The system refused access, or the path is a loop.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// Not a regular file.
    #[error("is a {0}, not a regular file; replace it or move it away")]
    Kind(&'static str),
    /// Longer than [`MAX_FILE`].
    #[error("is larger than 1 MiB, the limit of configuration files; move it away")]
    TooLarge,
    /// Holds NUL bytes.
    #[error("is not a text file; move it away")]
    Binary,
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Io(error),
        }
    }
}

/// Returns the bytes of a text file. Follows symbolic links. The target must be a regular file of at most [`MAX_FILE`]
/// bytes without NUL.
pub fn read_text(path: &Path) -> Result<Vec<u8>, FileError> {
    // Checked before it is opened, because opening some devices has an effect, and again afterwards.
    check(&fs::metadata(path)?)?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    check(&file.metadata()?)?;
    note(path);
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(FileError::TooLarge);
    }
    if bytes.contains(&0) {
        return Err(FileError::Binary);
    }
    Ok(bytes)
}

/// Resolved directories of the files read so far. The sandbox must keep them readable.
static PLACES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn note(path: &Path) {
    let real = fs::canonicalize(path).ok();
    if let Some(place) = real.as_deref().and_then(Path::parent) {
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        if !places.contains(place) {
            places.insert(place.to_owned());
        }
    }
}

/// Returns the resolved directories of the files read so far, including those outside of the configuration directory.
#[must_use]
pub fn places() -> Vec<PathBuf> {
    let places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    places.iter().cloned().collect()
}

fn check(metadata: &fs::Metadata) -> Result<(), FileError> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(FileError::Kind("directory"));
    }
    if kind.is_fifo() {
        return Err(FileError::Kind("pipe"));
    }
    if kind.is_socket() {
        return Err(FileError::Kind("socket"));
    }
    if !kind.is_file() {
        return Err(FileError::Kind("device"));
    }
    if metadata.len() > MAX_FILE {
        return Err(FileError::TooLarge);
    }
    Ok(())
}

/// Returns the names in a directory, sorted; empty if it does not exist. Names that are not UTF-8 are omitted, because
/// no file of meshd has one.
pub fn names(dir: &Path) -> Result<Vec<String>, FileError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_text_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("good"), "x").unwrap();
        symlink("good", at("link")).unwrap();
        assert_eq!(read_text(&at("link")).unwrap(), b"x");
        symlink("loop", at("loop")).unwrap();
        symlink("/dev/zero", at("device")).unwrap();
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("binary"), [1, 0, 2]).unwrap();
        fs::File::create(at("huge"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for (name, part) in [
            ("none", "no such file"),
            ("loop", "cannot be read"),
            ("device", "is a device"),
            ("dir", "is a directory"),
            ("binary", "not a text file"),
            ("huge", "larger than 1 MiB"),
            ("fifo", "is a pipe"),
        ] {
            let error = read_text(&at(name)).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
    }

    #[test]
    fn names_are_sorted_and_a_missing_directory_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b"), "").unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        assert_eq!(names(dir.path()).unwrap(), ["a", "b"]);
        assert!(names(&dir.path().join("none")).unwrap().is_empty());
        assert!(names(&dir.path().join("a")).is_err());
    }
}
