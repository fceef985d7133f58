//! The obstacle to a node's next step from tinc 1.0 to native, and the remedy.

use serde::Serialize;

use meshd_proto::{dialect::Dialect, mesh::reports::facts::HostFile};

use crate::{Code, Finding, Here, host_file};

/// A line that disables a protocol: its place, as in `tinc.conf:3`, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The place.
    pub place: String,
    /// The value in lower case.
    pub value: String,
}

/// Our own node: the configuration in force, and the present files.
#[derive(Debug, Clone)]
pub struct Own {
    /// The node. Its main file has, in TOML, the key of MinProtocol.
    pub here: Here,
    /// Configuration directory.
    pub config: String,
    /// The best protocol that this node offers.
    pub offers: Dialect,
    /// MinProtocol of the main file in force.
    pub min: Option<Dialect>,
    /// True if a file with an Ed25519 key exists.
    pub key_file: bool,
    /// `ExperimentalProtocol = no`.
    pub experimental: Option<Line>,
    /// `Native = no`.
    pub native: Option<Line>,
    /// `MinProtocol = …`.
    pub min_line: Option<Line>,
}

/// Another node: the daemon's data, and its present host file.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Name of the node.
    pub name: String,
    /// True if the node is reachable.
    pub up: bool,
    /// The protocol of its tunnel, else of its link.
    pub speaks: Option<Dialect>,
    /// The best protocol that the node has announced; `None`: never heard of.
    pub offers: Option<Dialect>,
    /// The lowest protocol that we accept from the node.
    pub min: Option<Dialect>,
    /// Its host file in force.
    pub host_file: HostFile,
    /// The sentence that `peers` shows.
    pub why: Option<String>,
    /// True if its own edges name local addresses: tinc 1.0 never does. `None`: unknown.
    pub local: Option<bool>,
    /// Its host file on disk; `None` if this user may not read it.
    pub disk: Option<Result<HostFile, String>>,
    /// `MinProtocol = …` in the host file.
    pub min_line: Option<Line>,
}

/// The program that a node runs, as far as this node can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runs {
    /// meshd.
    Meshd,
    /// tinc 1.0.
    #[serde(rename = "tinc-1.0")]
    Tinc10,
    /// A meshd that offers no native (Native = no, or without Ed25519 key) looks like a tinc 1.1.
    #[serde(rename = "meshd-or-tinc-1.1")]
    MeshdOrTinc11,
    /// Not known.
    Unknown,
}

/// Another node and ours.
#[derive(Debug, Clone, Copy)]
pub struct Migration<'a> {
    /// The other node.
    pub node: &'a Progress,
    /// Our node.
    pub own: &'a Own,
}

/// Work left to do about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Todo {
    /// The obstacle and the remedy, in one sentence.
    pub finding: Finding,
    /// The protocol of the node after that; `None`: unchanged.
    pub next: Option<Dialect>,
}

fn todo(code: Code, node: &str, next: Option<Dialect>, text: String) -> Option<Todo> {
    let finding = Finding::new(code, node, text);
    Some(Todo { finding, next })
}

impl Migration<'_> {
    /// Returns the work left to do about the node.
    #[must_use]
    pub fn todo(&self) -> Option<Todo> {
        self.node.todo(self.own)
    }
}

impl Own {
    fn restart(&self) -> String {
        match &self.here.net {
            Some(net) => format!("`systemctl restart meshd@{net}`"),
            None => "a restart of meshd".into(),
        }
    }

    fn keygen(&self) -> String {
        match self.here.net {
            Some(_) => format!("`meshctl {}keygen`", self.here.option()),
            None => format!("`meshctl -c {} keygen`", self.config),
        }
    }

    /// Returns the work left to do on this node. `all_native`: every other node has finished.
    pub fn todo(&self, all_native: bool) -> Option<Todo> {
        let (reload, restart, keygen) = (self.here.reload(), self.restart(), self.keygen());
        let own = self.here.node.as_str();
        let next = Some(match self.offers {
            Dialect::Legacy => Dialect::Sptps,
            Dialect::Sptps | Dialect::Native => Dialect::Native,
        });
        match (
            self.offers,
            &self.experimental,
            &self.native,
            &self.min_line,
        ) {
            (Dialect::Legacy, Some(Line { place, .. }), ..) => {
                let first = if self.key_file {
                    String::new()
                } else {
                    format!("{keygen}, then ")
                };
                let text = format!(
                    "ExperimentalProtocol = no in {place} limits this node to legacy: remove that line, then {first}{restart}"
                );
                todo(Code::ExperimentalProtocol, own, next, text)
            }
            (Dialect::Legacy, None, ..) if self.key_file => {
                let text = format!("our Ed25519 key is newer than the running daemon: {restart}");
                todo(Code::NotRestarted, own, next, text)
            }
            (Dialect::Legacy, None, ..) => {
                let text = format!(
                    "this node has no Ed25519 key: {keygen}, then {restart}, then copy hosts/{own} to all nodes"
                );
                todo(Code::NoOwnKey, own, next, text)
            }
            (Dialect::Sptps, _, Some(Line { place, .. }), _) => {
                let text = format!(
                    "Native = no in {place} disables native: remove that line, then {reload}"
                );
                todo(Code::NativeOff, own, next, text)
            }
            (Dialect::Sptps, ..) => {
                let text = format!(
                    "Native = no is in force, but in no file: {reload}, or, if it is an option of the daemon, restart it without"
                );
                todo(Code::NotReloaded, own, next, text)
            }
            (Dialect::Native, ..) if !all_native || self.min == Some(Dialect::Native) => None,
            (Dialect::Native, _, _, Some(Line { place, value })) if value == "native" => {
                let text = format!("MinProtocol = native in {place} is not in force yet: {reload}");
                todo(Code::NotReloaded, own, None, text)
            }
            (Dialect::Native, _, _, line) => {
                let place = line.as_ref().map_or(&self.here.main, |line| &line.place);
                let text = format!(
                    "all nodes speak native, but a fallback to SPTPS is still allowed: write `MinProtocol = native` into {place}, then {reload}"
                );
                todo(Code::MayFallBack, own, None, text)
            }
        }
    }
}

impl Progress {
    /// Returns the program that the node runs.
    pub fn runs(&self) -> Runs {
        match self.most() {
            Some(Dialect::Native) => Runs::Meshd,
            Some(Dialect::Sptps) => Runs::MeshdOrTinc11,
            Some(Dialect::Legacy) if self.local == Some(true) => Runs::MeshdOrTinc11,
            Some(Dialect::Legacy) if self.local == Some(false) => Runs::Tinc10,
            Some(Dialect::Legacy) | None => Runs::Unknown,
        }
    }

    /// Returns the best protocol that the node is known to support.
    fn most(&self) -> Option<Dialect> {
        self.offers.max(self.speaks)
    }

    /// Returns the work left to do about the node.
    pub fn todo(&self, own: &Own) -> Option<Todo> {
        let name = &self.name;
        let reload = own.here.reload();
        match &self.disk {
            Some(Err(problem)) => {
                let finding = host_file::bad(name.as_str(), &format!("{problem}; then {reload}"));
                return Some(Todo {
                    finding,
                    next: None,
                });
            }
            Some(Ok(disk)) if *disk != self.host_file || self.has_another_min() => {
                let mut finding = host_file::not_in_force(name.as_str(), name, &own.here);
                finding.text = format!("{}: {}", finding.text, finding.remedy);
                return Some(Todo {
                    finding,
                    next: None,
                });
            }
            _ => {}
        }
        match (self.speaks, self.most()) {
            (Some(Dialect::Native), _) => self.may_fall_back(own),
            (_, None) => self.never_seen(),
            (None, Some(most)) if Some(most) < self.min => self.forbidden(own, most),
            (Some(Dialect::Legacy) | None, Some(Dialect::Legacy)) => self.legacy_there(own),
            (Some(Dialect::Sptps) | None, Some(Dialect::Sptps))
                if self.host_file == HostFile::Key && own.offers > Dialect::Legacy =>
            {
                let text = format!(
                    "it runs tinc 1.1, or a meshd with Native = no: on {name}, install meshd, or remove that line"
                );
                todo(Code::NoNativeThere, &self.name, Some(Dialect::Native), text)
            }
            (speaks, most) => self.held_here(own, speaks, most),
        }
    }

    /// Returns the obstacle, if it is on this node.
    fn held_here(&self, own: &Own, speaks: Option<Dialect>, most: Option<Dialect>) -> Option<Todo> {
        let name = &self.name;
        let ours = &own.here.node;
        let what = match self.host_file {
            HostFile::Missing => host_file::missing(name),
            _ => format!("hosts/{name} has no Ed25519PublicKey"),
        };
        match (own.offers, self.host_file, speaks) {
            (Dialect::Legacy, ..) => todo(
                Code::OwnKeyFirst,
                &self.name,
                most,
                format!("it waits for a key of this node: see {ours}"),
            ),
            (_, HostFile::Missing | HostFile::NoKey, _) => {
                let text = format!("{what}: {}", host_file::copy(name, &own.here));
                todo(Code::NoKey, &self.name, most, text)
            }
            (_, _, Some(Dialect::Legacy)) => {
                let text = format!(
                    "it does not know our key: copy our hosts/{ours} to {name}, and `meshctl {}reload` there",
                    own.here.option()
                );
                todo(Code::OurKeyUnknownThere, &self.name, most, text)
            }
            (Dialect::Sptps, ..) => todo(
                Code::OwnNativeFirst,
                &self.name,
                most,
                format!("it waits for native on this node: see {ours}"),
            ),
            (Dialect::Native, _, Some(Dialect::Sptps)) => {
                let text = format!(
                    "both ends offer native, but the link uses SPTPS: if that lasts longer than a minute, compare PresharedKeyFile, psk.d and NativePublicKey on both; `meshctl {}log` shows refused handshakes",
                    own.here.option()
                );
                todo(Code::NativeFails, &self.name, most, text)
            }
            // No packet was sent yet, or the node is down: the tunnel will be native.
            (Dialect::Native, ..) => None,
        }
    }

    fn never_seen(&self) -> Option<Todo> {
        let name = &self.name;
        let unheard = "not heard of since meshd started";
        let why = self.why.as_deref().unwrap_or(unheard);
        let text = format!(
            "it is unknown ({why}): check that its daemon runs, or delete hosts/{name} if the node is gone for good"
        );
        todo(Code::Unknown, &self.name, None, text)
    }

    /// The node speaks native, but its host file allows less.
    fn may_fall_back(&self, own: &Own) -> Option<Todo> {
        let line = self
            .min_line
            .as_ref()
            .filter(|line| line.value != "native")?;
        let Line { place, value } = line;
        let text = format!(
            "MinProtocol = {value} in {place} lets it fall back: remove that line, then {}",
            own.here.reload()
        );
        todo(Code::MayFallBack, &self.name, None, text)
    }

    fn has_another_min(&self) -> bool {
        let line = self.min_line.as_ref();
        line.zip(self.min)
            .is_some_and(|(line, min)| line.value != min.name())
    }

    /// The node's protocol is below our minimum, so it has no link.
    fn forbidden(&self, own: &Own, most: Dialect) -> Option<Todo> {
        let name = &self.name;
        let line = self.min_line.as_ref().or(own.min_line.as_ref());
        let by = match line {
            Some(Line { place, value }) => format!("MinProtocol = {value} in {place}"),
            None if self.host_file == HostFile::Key => {
                format!("its Ed25519PublicKey in hosts/{name}")
            }
            None => "the missing rsa_key.priv of this node".into(),
        };
        let cure = match self.runs() {
            Runs::Meshd | Runs::MeshdOrTinc11 if most == Dialect::Legacy => self.make_key(own),
            _ => format!("install meshd on {name}"),
        };
        let text = format!(
            "it speaks at most {}, which {by} forbids: {cure}, or write `MinProtocol = {}` into hosts/{name} until then, then {}",
            most.name(),
            most.name(),
            own.here.reload()
        );
        todo(Code::Forbidden, &self.name, self.min, text)
    }

    /// The node announces only legacy.
    fn legacy_there(&self, own: &Own) -> Option<Todo> {
        let name = &self.name;
        let net = own.here.net.as_deref().unwrap_or("NET");
        let next = Some(Dialect::Sptps);
        match self.runs() {
            Runs::Tinc10 => {
                let text = format!(
                    "it runs tinc 1.0: on {name}, `systemctl disable --now tinc@{net}`, then `systemctl enable --now meshd@{net}`, which takes over directory and keys"
                );
                todo(Code::Tinc10, &self.name, next, text)
            }
            Runs::Unknown => {
                let text = format!(
                    "it speaks only legacy: check that meshd runs there, not tincd, then {}, then copy hosts/{name} to all nodes",
                    self.make_key(own)
                );
                todo(Code::LegacyThere, &self.name, next, text)
            }
            Runs::Meshd | Runs::MeshdOrTinc11 => {
                let text = format!(
                    "it has no Ed25519 key in use: {}, then copy hosts/{name} to all nodes",
                    self.make_key(own)
                );
                todo(Code::NoKeyThere, &self.name, next, text)
            }
        }
    }

    fn make_key(&self, own: &Own) -> String {
        let net = own.here.net.as_deref().unwrap_or("NET");
        format!(
            "on {}, `meshctl -n {net} keygen && systemctl restart meshd@{net}`",
            self.name
        )
    }
}

#[cfg(any(test, feature = "testing"))]
pub mod fixtures;
#[cfg(test)]
pub(crate) mod tests;
