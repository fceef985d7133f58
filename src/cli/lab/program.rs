//! The program that the lab's daemons run.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};

/// The running program, whatever its file is called now.
pub(super) const SELF: &str = "/proc/self/exe";

/// Directory of the packages' daemon, which the PATH of an ordinary user lacks.
const SBIN: &str = "/usr/sbin";

/// The place of the daemon's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meshd {
    /// In this program, under the name `meshd`.
    Within,
    /// In a program of its own.
    Apart,
}

impl Meshd {
    /// Returns the program to run as `meshd`.
    ///
    /// # Errors
    ///
    /// The daemon is a program of its own, and no directory has it.
    pub(super) fn find(self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Within => Ok(SELF.into()),
            Self::Apart => {
                let ours = env::current_exe().context("find the path of this program")?;
                let path = env::var_os("PATH").unwrap_or_default();
                let beside = ours.parent().map(Path::to_owned);
                find_in(
                    beside
                        .into_iter()
                        .chain(env::split_paths(&path))
                        .chain([SBIN.into()]),
                )
            }
        }
    }
}

/// Returns the first `meshd` in `directories` that can be run.
fn find_in(directories: impl Iterator<Item = PathBuf>) -> anyhow::Result<PathBuf> {
    let runs = |file: &PathBuf| {
        let rights =
            fs::metadata(file).map(|data| data.is_file() && data.permissions().mode() & 0o111 != 0);
        rights.unwrap_or(false)
    };
    directories.map(|directory| directory.join("meshd")).find(runs).ok_or_else(|| {
        anyhow!("the program `meshd` is neither beside meshctl nor in PATH: install the package meshd, or build it with `cargo build --release`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_directory_with_a_program_wins_and_none_is_one_sentence() {
        let root = tempfile::tempdir().unwrap();
        let [empty, unfit, first, second] = ["empty", "unfit", "first", "second"].map(|name| {
            let directory = root.path().join(name);
            fs::create_dir(&directory).unwrap();
            directory
        });
        for (directory, mode) in [(&unfit, 0o644), (&first, 0o755), (&second, 0o755)] {
            let file = directory.join("meshd");
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let all = [empty.clone(), unfit.clone(), first.clone(), second];
        assert_eq!(find_in(all.into_iter()).unwrap(), first.join("meshd"));
        let error = find_in([empty, unfit].into_iter()).unwrap_err().to_string();
        assert!(
            error.starts_with("the program `meshd` is neither"),
            "{error}"
        );
        assert_eq!(Meshd::Within.find().unwrap(), Path::new(SELF));
    }
}
