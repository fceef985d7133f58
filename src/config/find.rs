//! Finds the directory of a configuration: options `-c` and `-n`, and the variable NETNAME.
//!
//! Source: config/tinc.md section 1.5.

use std::path::{Path, PathBuf};

use crate::toml;

/// Directories of nets; the first match wins. Without a net name, the directory itself is the configuration.
pub const ROOTS: [&str; 2] = ["/etc/meshd", "/etc/tinc"];

/// A configuration directory that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDirectory {
    /// Absolute path.
    pub base: PathBuf,
    /// The net name, if there is one.
    pub net: Option<String>,
    /// Warnings for standard error: two options where one counts, an odd name.
    pub notes: Vec<String>,
}

/// Reason why no configuration was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// The net name could lead out of its directory, or is not printable.
    #[error(
        "Invalid character in netname {0:?}: no leading dot, slash, backslash or control character"
    )]
    BadNet(String),
    /// No directory of that name.
    #[error("no such net: there is neither {} nor {}; name its directory with -c", .0[0].display(), .0[1].display())]
    NoNet([PathBuf; 2]),
    /// The directory of `-c` is unusable.
    #[error("cannot use the configuration directory {}: {}", .0.display(), .1)]
    Directory(PathBuf, String),
}

/// Returns a checked net name; `None` for the empty name and for `.`, which mean "no net". The second part is a
/// warning.
pub fn net_name(text: &str) -> Result<(Option<String>, Option<String>), FindError> {
    if matches!(text, "" | ".") {
        return Ok((None, None));
    }
    let bad = |c: char| c == '/' || c == '\\' || c.is_control();
    if text.starts_with('.') || text.contains(bad) || text.len() > 255 {
        return Err(FindError::BadNet(text.into()));
    }
    let odd = text.contains([' ', '$', '%', '<', '>', ':', '`', '"', '|', '?', '*']);
    let note = odd.then(|| format!("unsafe character in netname {text:?}"));
    Ok((Some(text.into()), note))
}

/// Returns the directory and net of `-c` and `-n`. `netname` is the environment variable NETNAME, which counts without
/// `-n`. A relative directory starts at the current one. Does not read the directory.
pub fn find(
    directory: Option<&Path>,
    net: Option<&str>,
    netname: Option<&str>,
) -> Result<FoundDirectory, FindError> {
    find_in(ROOTS.map(Path::new), directory, net, netname)
}

/// Does the same as [`find`], with other roots than [`ROOTS`].
pub fn find_in(
    roots: [&Path; 2],
    directory: Option<&Path>,
    net: Option<&str>,
    netname: Option<&str>,
) -> Result<FoundDirectory, FindError> {
    let (net, note) = net_name(net.or(netname).unwrap_or_default())?;
    let mut notes: Vec<String> = note.into_iter().collect();
    let base = match (directory, &net) {
        (Some(directory), net) => {
            if let Some(net) = net {
                notes.push(format!(
                    "both a net name ({net}) and a configuration directory are given, using the latter"
                ));
            }
            std::path::absolute(directory)
                .map_err(|e| FindError::Directory(directory.into(), e.to_string()))?
        }
        (None, Some(net)) => {
            let places = roots.map(|root| root.join(net));
            let found = places.iter().find(|place| place.is_dir()).cloned();
            found.ok_or(FindError::NoNet(places))?
        }
        (None, None) => {
            let [first, second] = roots;
            let here = ["tinc.conf", toml::MAIN]
                .iter()
                .any(|file| first.join(file).exists());
            if here { first } else { second }.into()
        }
    };
    Ok(FoundDirectory { base, net, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn net_names_stay_inside_their_directory() {
        for none in ["", "."] {
            assert_eq!(net_name(none), Ok((None, None)));
        }
        for bad in ["..", ".x", "a/b", "/", "a\\b", "a\nb", "a\u{7f}"] {
            assert!(net_name(bad).is_err(), "{bad:?}");
        }
        for odd in ["a b", "$x", "a%", "<", ">", "a:b", "`", "\"", "|", "?", "*"] {
            let (name, note) = net_name(odd).unwrap();
            assert_eq!(name.as_deref(), Some(odd));
            assert!(note.unwrap().contains("unsafe character in netname"));
        }
        assert_eq!(net_name("priv-1_x"), Ok((Some("priv-1_x".into()), None)));
    }

    #[test]
    fn a_directory_beats_a_net_and_ours_beats_tincs() {
        let dir = tempfile::tempdir().unwrap();
        let (meshd, tinc) = (dir.path().join("meshd"), dir.path().join("tinc"));
        for path in [meshd.join("one"), tinc.join("one"), tinc.join("two")] {
            std::fs::create_dir_all(path).unwrap();
        }
        let find = |directory: Option<&str>, net, netname| {
            find_in([&meshd, &tinc], directory.map(Path::new), net, netname)
        };
        let base = |net, netname| find(None, net, netname).unwrap().base;
        assert_eq!(base(Some("one"), None), meshd.join("one"));
        assert_eq!(base(Some("two"), Some("one")), tinc.join("two"));
        assert_eq!(base(None, Some("two")), tinc.join("two"));
        assert_eq!(
            base(Some("."), Some("two")),
            tinc,
            "`.` is no net, whatever NETNAME says"
        );
        assert!(
            find(None, Some("three"), None)
                .unwrap_err()
                .to_string()
                .contains("no such net")
        );

        assert_eq!(base(None, None), tinc);
        std::fs::write(meshd.join("tinc.conf"), "").unwrap();
        assert_eq!(base(None, None), meshd);

        let both = find(Some("sub/dir"), Some("two"), None).unwrap();
        assert_eq!(both.base, std::env::current_dir().unwrap().join("sub/dir"));
        assert_eq!(both.net.as_deref(), Some("two"));
        assert!(both.notes[0].contains("using the latter"));
    }
}
