//! Reading configurations: what tinc makes of the same files, and what no file may do to us.
//!
//! Source: config/tinc.md sections 1 and 2, T34 and T44 of proto/threat-model.md.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod bad_lines;
mod convert;
mod legacy;
mod native;
mod precedence;
mod reload;
mod tables;
mod terms;
mod tinc11;
mod toml;
mod torn;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use meshd::{
    config::{self, Config, Problem, Source, keys},
    crypto::{PrivateKey, Rng},
};

/// A configuration directory of its own.
struct Tree {
    dir: tempfile::TempDir,
    options: Vec<String>,
}

impl Tree {
    /// An empty directory with a private key.
    fn bare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("hosts")).unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        let options = Vec::new();
        let tree = Self { dir, options };
        keys::write_private(&tree.at("ed25519_key.priv"), &key(0)).unwrap();
        tree
    }

    /// The node `me` and, in host files, `me`, `a` and `b`.
    fn of_three() -> Self {
        let tree = Self::bare();
        tree.write("tinc.conf", "Name = me\n");
        tree.write(
            "hosts/me",
            &format!("Ed25519PublicKey = {}\n", key(0).public()),
        );
        tree.write("hosts/a", &host(1));
        tree.write("hosts/b", &host(2));
        tree
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.at(path), content).unwrap();
    }

    fn option(&mut self, option: &str) -> &mut Self {
        self.options.push(option.into());
        self
    }

    fn source(&self) -> Source {
        Source {
            base: self.dir.path().into(),
            net: Some("priv".into()),
            options: self.options.clone(),
            instead: None,
        }
    }

    fn load(&self) -> Result<Config, Vec<Problem>> {
        config::load(&self.source(), None)
    }

    /// Loads a configuration about which there is nothing to say.
    fn clean(&self) -> Config {
        let config = self
            .load()
            .unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert_eq!(config.problems, []);
        config
    }

    /// Everything that is said about it, whether it can be used or not.
    fn said(&self) -> Vec<String> {
        let problems = self
            .load()
            .map_or_else(|problems| problems, |config| config.problems);
        problems.iter().map(ToString::to_string).collect()
    }
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::generate(&mut Rng::new([seed; 32]))
}

/// A good host file.
fn host(seed: u8) -> String {
    format!(
        "Address = 10.0.0.{seed}\nSubnet = 10.{seed}.0.0/16\nEd25519PublicKey = {}\n",
        key(seed).public()
    )
}

/// The names of the nodes whose host files count.
fn nodes(config: &Config) -> Vec<&str> {
    config
        .settings
        .hosts
        .keys()
        .map(|name| name.as_str())
        .collect()
}

fn make_private(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
