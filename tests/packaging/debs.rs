//! The Debian packages that `tests/run deb` has built: what is in them, what lintian and systemd say of it.
//!
//! `MESHD_DEBS`: the directory with both (default: `target/debian`).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::ROOT;

/// Standard output and error of a program, and whether its status was 0.
fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; ./tests/run deb installs it"));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

/// Output of a program that must succeed.
fn said(program: &str, arguments: &[&str]) -> String {
    let (content, said) = run(program, arguments);
    assert!(content, "{program} {arguments:?}: {said}");
    said
}

/// The package of this version, as `tests/run deb` has built it.
fn deb(package: &str) -> String {
    let default = || Path::new(ROOT).join("target/debian");
    let dir = env::var_os("MESHD_DEBS").map_or_else(default, PathBuf::from);
    let arch = said("dpkg", &["--print-architecture"]);
    let version = env!("CARGO_PKG_VERSION");
    let deb = dir.join(format!("{package}_{version}-1_{}.deb", arch.trim()));
    deb.to_str().expect("its name is text").into()
}

/// Both packages, unpacked.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is room");
        for package in ["meshd", "meshd-tinc"] {
            let place = dir.path().to_str().expect("its name is text");
            said("dpkg-deb", &["-x", &deb(package), place]);
        }
        Self(dir)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// An instance of a unit, with programs of this tree in the place of installed ones.
    fn unit(&self, name: &str, instance: &str) -> String {
        let file = self.path("usr/lib/systemd/system").join(name);
        let text = fs::read_to_string(file).expect("the unit is there");
        let place = self.0.path().display();
        let text = text
            .replace("=/usr/", &format!("={place}/usr/"))
            .replace("=+/usr/", &format!("=+{place}/usr/"))
            .replace("/etc/tinc/%i", "/tmp");
        let file = self.path(instance);
        fs::write(&file, text).expect("there is room");
        file.to_str().expect("its name is text").into()
    }
}

/// Each line: type and rights, path, and where a link leads.
fn list(package: &str) -> Vec<String> {
    let text = said("dpkg-deb", &["-c", &deb(package)]);
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        assert!(["root/root", "0/0"].contains(&words[1]), "{line}");
        format!("{} {}", words[0], words[5..].join(" "))
    };
    text.lines()
        .map(line)
        .filter(|line| !line.starts_with('d'))
        .collect()
}

fn has(list: &[String], wanted: &[&str]) {
    for wanted in wanted {
        assert!(
            list.iter().any(|line| line == wanted),
            "{wanted}: {list:#?}"
        );
    }
}

#[test]
#[ignore = "needs the packages: ./tests/run deb"]
fn two_programs_and_what_belongs_to_them() {
    let meshd = list("meshd");
    has(
        &meshd,
        &[
            "-rwxr-xr-x ./usr/bin/meshctl",
            "-rwxr-xr-x ./usr/sbin/meshd",
            "-rw-r--r-- ./usr/lib/systemd/system/meshd@.service",
            "-rw-r--r-- ./usr/lib/sysusers.d/meshd.conf",
            "-rw-r--r-- ./usr/lib/tmpfiles.d/meshd.conf",
            "-rw-r--r-- ./usr/share/man/man1/meshctl.1.gz",
            "-rw-r--r-- ./usr/share/man/man5/meshd.conf.5.gz",
            "-rw-r--r-- ./usr/share/man/man5/meshd.toml.5.gz",
            "-rw-r--r-- ./usr/share/man/man8/meshd.8.gz",
            "-rw-r--r-- ./usr/share/bash-completion/completions/meshctl",
            "-rw-r--r-- ./usr/share/zsh/vendor-completions/_meshctl",
            "-rw-r--r-- ./usr/share/fish/vendor_completions.d/meshctl.fish",
            "-rw-r--r-- ./etc/ufw/applications.d/meshd",
            "-rw-r--r-- ./etc/needrestart/conf.d/meshd.conf",
            "-rw-r--r-- ./usr/share/doc/meshd/examples/meshd.rules.yml",
            "-rw-r--r-- ./usr/share/doc/meshd/examples/meshd.json",
            "-rw-r--r-- ./usr/share/doc/meshd/examples/scripts.conf",
            "-rw-r--r-- ./usr/share/doc/meshd/examples/salt/pillar.example",
            "-rw-r--r-- ./usr/share/doc/meshd/examples/salt/meshd/init.sls",
            "-rw-r--r-- ./usr/share/doc/meshd/examples/salt/meshd/files/host.jinja",
            "-rw-r--r-- ./usr/share/doc/meshd/examples/ansible/roles/meshd/tasks/main.yml",
            "-rw-r--r-- ./usr/share/doc/meshd/examples/cloud-init/user-data.yaml",
            "-rw-r--r-- ./usr/share/doc/meshd/examples/terraform/main.tf",
            "-rw-r--r-- ./usr/share/doc/meshd/copyright",
            "-rw-r--r-- ./usr/share/doc/meshd/changelog.Debian.gz",
        ],
    );
    let programs = meshd.iter().filter(|line| line.starts_with("-rwx")).count();
    assert_eq!(programs, 2, "{meshd:#?}");

    let tinc = list("meshd-tinc");
    has(
        &tinc,
        &[
            "lrwxrwxrwx ./usr/sbin/tincd -> meshd",
            "lrwxrwxrwx ./usr/share/man/man8/tincd.8.gz -> meshd.8.gz",
            "-rw-r--r-- ./usr/lib/systemd/system/tinc.service",
            "-rw-r--r-- ./usr/lib/systemd/system/tinc@.service",
            "-rwxr-xr-x ./etc/network/if-pre-up.d/tinc",
            "-rwxr-xr-x ./etc/network/if-up.d/tinc",
            "-rwxr-xr-x ./etc/network/if-post-down.d/tinc",
            "-rw-r--r-- ./etc/default/tinc",
        ],
    );
    let both: Vec<_> = tinc.iter().filter(|line| meshd.contains(line)).collect();
    assert!(both.is_empty(), "{both:?}");
}

#[test]
#[ignore = "needs the packages: ./tests/run deb"]
fn the_second_package_stands_for_tinc_and_needs_the_first_of_its_version() {
    let version = concat!(env!("CARGO_PKG_VERSION"), "-1");
    let changelog = Path::new(ROOT).join("packaging/debian/changelog");
    let changelog = fs::read_to_string(changelog).expect("it is there");
    assert!(
        changelog.starts_with(&format!("meshd ({version}) ")),
        "{changelog}"
    );
    let field = |package, field: &str| {
        let text = said("dpkg-deb", &["-f", &deb(package), field]);
        text.trim().to_owned()
    };
    assert_eq!(field("meshd", "Version"), version);
    assert_eq!(field("meshd-tinc", "Version"), version);
    assert_eq!(
        field("meshd-tinc", "Depends"),
        format!("meshd (= {version})")
    );
    for relation in ["Provides", "Conflicts", "Replaces"] {
        assert_eq!(field("meshd-tinc", relation), "tinc");
    }
    // The C library, by the version that it was linked with.
    assert!(field("meshd", "Depends").contains("libc6 (>= "));

    let conffiles = said("dpkg-deb", &["-I", &deb("meshd-tinc"), "conffiles"]);
    let conffiles: Vec<_> = conffiles.split_whitespace().collect();
    assert!(conffiles.contains(&"/etc/default/tinc"), "{conffiles:?}");
    assert_eq!(conffiles.len(), 4, "{conffiles:?}");
}

/// Whoever upgrades may sit at the other end of the mesh.
#[test]
#[ignore = "needs the packages: ./tests/run deb"]
fn an_upgrade_neither_stops_nor_restarts_anything() {
    for (package, script) in [
        ("meshd", "prerm"),
        ("meshd", "postinst"),
        ("meshd-tinc", "prerm"),
        ("meshd-tinc", "postinst"),
    ] {
        let text = said("dpkg-deb", &["-I", &deb(package), script]);
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let line = line.trim();
            let said = line.starts_with('#') || line.starts_with("echo");
            assert!(
                !line.contains("restart") || said,
                "{package} {script}: {line}"
            );
            let stops = line.contains("-invoke stop") || line.starts_with("systemctl stop");
            let only = |line: &&str| line.contains("\"$1\" = remove");
            assert!(
                !stops || lines[..number].last().is_some_and(only),
                "{package} {script}: {line}"
            );
        }
    }
}

#[test]
#[ignore = "needs the packages: ./tests/run deb"]
fn lintian_finds_no_error() {
    let (first, second) = (deb("meshd"), deb("meshd-tinc"));
    // Root runs it in CI. What is no error is shown.
    let arguments = ["--allow-root", "--fail-on", "error", &first, &second];
    eprintln!("{}", said("lintian", &arguments));
}

#[test]
#[ignore = "needs the packages: ./tests/run deb"]
fn systemd_understands_every_line_of_the_units() {
    let tree = Tree::new();
    let meshd = tree.unit("meshd@.service", "meshd@priv.service");
    let tinc = tree.unit("tinc@.service", "tinc@priv.service");
    let umbrella = tree.unit("tinc.service", "tinc.service");
    let text = said(
        "systemd-analyze",
        &[
            "verify",
            "--man=no",
            "--recursive-errors=no",
            &meshd,
            &tinc,
            &umbrella,
        ],
    );
    // What it does not know it only mentions. Units of the machine itself are not ours.
    let place = tree.0.path().to_str().expect("its name is text");
    let ours: Vec<_> = text.lines().filter(|line| line.contains(place)).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

/// Source: proto/threat-model.md section 4.
#[test]
#[ignore = "needs the packages: ./tests/run deb"]
fn the_units_are_sandboxes() {
    let tree = Tree::new();
    // Both take notices of meshd-services too (NotifyAccess=all), as the daemon connects to no Unix socket.
    for (unit, most) in [("meshd@", 20), ("tinc@", 28)] {
        let file = tree.unit(&format!("{unit}.service"), &format!("{unit}priv.service"));
        let threshold = format!("--threshold={most}");
        let (content, text) = run(
            "systemd-analyze",
            &["security", "--offline=yes", "--no-pager", &threshold, &file],
        );
        assert!(text.contains("Overall exposure level"), "{text}");
        assert!(content, "{unit} {text}");
    }
}
