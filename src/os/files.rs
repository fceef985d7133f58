//! Atomic replacement of files, and safe writes to files that an operator names.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// Replaces the file at `path` by one with this content and `mode`, in one step: readers see the
/// old file or the new one. A failure leaves the old file and no other. The content is on the disk
/// on return: for data that cannot be made again.
pub fn write_durable(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write(path, content, mode, File::sync_all)
}

/// Works as [`write_durable`], but does not wait for the disk: for data that is useless after a
/// crash, or can be made again.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write(path, content, mode, |_| Ok(()))
}

/// Works as [`write_atomic`], for a path that an operator named: an existing file must be ours, as
/// in `is_ours`.
pub fn write_given(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) => is_ours(&there)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    write_atomic(path, content, mode)
}

/// Opens a file that an operator named, for writing while others may read it. The file is new, with
/// this mode, or one of ours, which is truncated. A link is never followed.
pub fn open_given(path: &Path, mode: u32) -> io::Result<File> {
    match create(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        opened => return opened,
    }
    // Checked before the open, because opening some devices has an effect, and again afterwards.
    is_ours(&fs::symlink_metadata(path)?)?;
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = options.write(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    is_ours(&metadata)?;
    if metadata.is_file() {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.set_len(0)?;
    }
    Ok(file)
}

/// Checks that an existing file is ours to overwrite: a regular file with one link, a pipe or a
/// device, owned by our user. In a directory that all may write to, anybody could have put a link
/// or a file there.
fn is_ours(metadata: &fs::Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let why = if kind.is_symlink() {
        "it is a link, which is not followed; name the file that it leads to"
    } else if metadata.uid() != rustix::process::geteuid().as_raw() {
        "it is there already and another user's; remove it, or name another file"
    } else if kind.is_file() && metadata.nlink() > 1 {
        "it is there already and has another name too; remove it, or name another file"
    } else if kind.is_dir() || kind.is_socket() {
        "it is no file"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
}

fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    settle: fn(&File) -> io::Result<()>,
) -> io::Result<()> {
    let (new, mut file) = draft(path, mode)?;
    let written = file
        .write_all(content)
        .and_then(|()| settle(&file))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Most names tried for a temporary file. More existing files with such names are an attack.
const DRAFTS: u32 = 100;

/// Makes a temporary file beside the file that it will replace. The name can be guessed, so an
/// existing file is never opened.
fn draft(path: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let process = std::process::id();
    for number in 0..DRAFTS {
        let mut name = name.to_owned();
        name.push(match number {
            0 => format!(".new{process}"),
            _ => format!(".new{process}{number}"),
        });
        let new = path.with_file_name(name);
        match create(&new, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|file| (new, file)),
        }
        // An earlier process with the same id was killed: the first process of a container always
        // has the same id.
        let left =
            fs::symlink_metadata(&new).is_ok_and(|left| left.is_file() && is_ours(&left).is_ok());
        if left && fs::remove_file(&new).is_ok() {
            match create(&new, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return created.map(|file| (new, file)),
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Makes a new file; a link in its place is not followed.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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
    /// Links under the names of temporary files, from an attacker who guesses the process id.
    #[test]
    fn a_link_in_the_place_of_a_draft_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("x.tar"), dir.path().join("target"));
        fs::write(&target, "theirs").unwrap();
        let draft = dir.path().join(format!("x.tar.new{}", std::process::id()));
        symlink(&target, &draft).unwrap();
        write_atomic(&path, b"ours", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        assert!(draft.is_symlink());
        // Leftovers of a killed process are ours and are removed.
        fs::remove_file(&draft).unwrap();
        fs::write(&draft, "half").unwrap();
        write_atomic(&path, b"again", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"again");
        assert!(!draft.exists());
    }

    #[test]
    fn what_an_operator_names_is_new_or_ours() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("target"), "theirs").unwrap();
        symlink(at("target"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fs::write(at("twice"), "theirs").unwrap();
        fs::hard_link(at("twice"), at("second")).unwrap();
        for (name, why) in [
            ("link", "it is a link"),
            ("dangling", "it is a link"),
            ("second", "another name"),
        ] {
            for error in [
                open_given(&at(name), 0o600).unwrap_err(),
                write_given(&at(name), b"x", 0o600).unwrap_err(),
            ] {
                assert!(error.to_string().contains(why), "{name}: {error}");
            }
        }
        assert_eq!(fs::read(at("target")).unwrap(), b"theirs");
        assert_eq!(fs::read(at("twice")).unwrap(), b"theirs");
        assert!(!at("nowhere").exists());

        // Our own file: truncated, and with the requested mode.
        fs::set_permissions(at("target"), fs::Permissions::from_mode(0o644)).unwrap();
        let mut file = open_given(&at("target"), 0o600).unwrap();
        file.write_all(b"a").unwrap();
        assert_eq!(fs::read(at("target")).unwrap(), b"a");
        assert_eq!(
            at("target").metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
        write_given(&at("target"), b"b", 0o600).unwrap();
        open_given(&at("new"), 0o600).unwrap();
        open_given(Path::new("/dev/null"), 0o600).map_or_else(
            |error| assert!(error.to_string().contains("another user"), "{error}"),
            drop,
        );
    }
}
