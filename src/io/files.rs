//! Files that must never be seen half written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Replaces the file at `path` by one with this content and `mode`, in one step: readers see the old
/// file or the new one. A failure leaves the old file and no other. When it returns, the content is on
/// the disk: for what cannot be had again.
pub fn write_durable(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write(path, content, mode, File::sync_all)
}

/// As [`write_durable`], but the disk may take its time: for what is of no use after a crash of the
/// machine, or made anew.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write(path, content, mode, |_| Ok(()))
}

fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    settle: fn(&File) -> io::Result<()>,
) -> io::Result<()> {
    let mut name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_owned();
    name.push(format!(".new{}", std::process::id()));
    let new = path.with_file_name(name);
    let written = write_new(&new, content, mode)
        .and_then(|file| settle(&file))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_the_content_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        write_atomic(&path, b"old", 0o644).unwrap();
        write_durable(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn fails_where_the_directory_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write_atomic(&dir.path().join("none/pid"), b"x", 0o600).is_err());
        assert!(write_atomic(Path::new("/"), b"x", 0o600).is_err());
    }
}
