//! Values as a file of tinc's form has them.

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use meshd_crypto::{
    PublicKey,
    noise::StaticPublic,
    suite::{Cipher, Digest},
};
use meshd_proto::mesh::settings::HostAddress;
use meshd_wire::{NodeName, Subnet};

use crate::{MetricsListen, allow::Allow};

/// A value of a variable.
pub(crate) trait Print {
    /// Returns the text after `=` of each line that has this value; nothing without a line.
    fn print(&self) -> Vec<String>;
}

fn one(value: impl Display) -> Vec<String> {
    vec![value.to_string()]
}

macro_rules! as_displayed {
    ($($type:ty),+) => {
        $(impl Print for $type {
            fn print(&self) -> Vec<String> {
                one(self)
            }
        })+
    };
}

as_displayed!(
    u8,
    u16,
    u32,
    usize,
    i32,
    NodeName,
    Subnet,
    PublicKey,
    StaticPublic,
    Allow
);

impl Print for bool {
    fn print(&self) -> Vec<String> {
        one(if *self { "yes" } else { "no" })
    }
}

/// A duration, written as whole seconds.
impl Print for Duration {
    fn print(&self) -> Vec<String> {
        one(self.as_secs())
    }
}

/// Seconds since 1970.
impl Print for u64 {
    fn print(&self) -> Vec<String> {
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(*self));
        time.map_or_else(Vec::new, |time| one(humantime::format_rfc3339(time)))
    }
}

impl Print for String {
    fn print(&self) -> Vec<String> {
        match self.is_empty() {
            true => Vec::new(),
            false => one(self),
        }
    }
}

impl Print for PathBuf {
    fn print(&self) -> Vec<String> {
        one(self.display())
    }
}

/// Address and prefix length.
impl Print for (IpAddr, u8) {
    fn print(&self) -> Vec<String> {
        let (address, length) = self;
        one(format!("{address}/{length}"))
    }
}

impl Print for SocketAddr {
    fn print(&self) -> Vec<String> {
        one(format!("{} {}", self.ip(), self.port()))
    }
}

impl Print for HostAddress {
    fn print(&self) -> Vec<String> {
        one(format!("{} {}", self.host, self.port))
    }
}

impl Print for BTreeMap<String, String> {
    fn print(&self) -> Vec<String> {
        let labels = self.iter();
        labels
            .map(|(name, text)| format!("{name}={text}"))
            .collect()
    }
}

impl Print for MetricsListen {
    fn print(&self) -> Vec<String> {
        match self {
            Self::Beside => one("unix"),
            Self::Nowhere => one("no"),
            Self::Unix(path) => one(format!("unix:{}", path.display())),
            Self::Tcp(address) => one(address),
        }
    }
}

impl Print for Option<&'static Cipher> {
    fn print(&self) -> Vec<String> {
        one(self.map_or("none", |cipher| cipher.name))
    }
}

impl Print for Option<&'static Digest> {
    fn print(&self) -> Vec<String> {
        one(self.map_or("none", |digest| digest.name))
    }
}

impl<T: Print> Print for Vec<T> {
    fn print(&self) -> Vec<String> {
        self.iter().flat_map(Print::print).collect()
    }
}
