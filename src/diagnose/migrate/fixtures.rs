//! Nodes for the tests of this crate and of `meshctl migrate`.

use meshd_proto::{
    dialect::Dialect::{Native, Sptps},
    mesh::reports::facts::HostFile,
};

use super::{Line, Own, Progress};
use crate::Here;

/// Our own node in order: native.
#[must_use]
pub fn own() -> Own {
    Own {
        here: Here {
            node: "web".into(),
            net: Some("priv".into()),
            pid: Some(7),
            main: "tinc.conf".into(),
        },
        config: "/etc/tinc/priv".into(),
        offers: Native,
        min: None,
        key_file: true,
        experimental: None,
        native: None,
        min_line: None,
    }
}

/// A node in order: native, with a host file as it was read.
#[must_use]
pub fn db() -> Progress {
    Progress {
        name: "db".into(),
        up: true,
        speaks: Some(Native),
        offers: Some(Native),
        min: Some(Sptps),
        host_file: HostFile::Key,
        why: None,
        local: Some(true),
        disk: Some(Ok(HostFile::Key)),
        min_line: None,
    }
}

/// The same node, down.
#[must_use]
pub fn down() -> Progress {
    Progress {
        up: false,
        speaks: None,
        local: None,
        ..db()
    }
}

/// A line at a place.
#[must_use]
pub fn line(place: &str, value: &str) -> Option<Line> {
    let (place, value) = (place.into(), value.into());
    Some(Line { place, value })
}
