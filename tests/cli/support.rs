//! `meshctl support`: everything that helps, and no secret.

use std::{fs, process::Command};

use crate::{key, run, tree};

/// Every text that may not leave the machine.
fn secrets(dir: &std::path::Path) -> Vec<String> {
    let mut all = Vec::new();
    for file in ["ed25519_key.priv", "rsa_key.priv", "psk", "psk.d/db_01"] {
        let text = fs::read_to_string(dir.join(file)).unwrap();
        let lines = text.lines().filter(|line| !line.contains("-----"));
        all.extend(lines.map(str::to_owned));
    }
    all.extend(
        [
            "inlineprivatekeyofold",
            "hunter2",
            "wordsofmine",
            "xoxb-12345678901234",
            "tok3nofmine",
            "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        ]
        .map(String::from),
    );
    all
}

#[test]
fn a_bundle_has_the_configuration_and_the_system_and_no_secret() {
    let dir = tree();
    let base = dir.path();
    let put = |file: &str, text: &str| fs::write(base.join(file), text).unwrap();
    put(
        "tinc.conf",
        "Name = web_01\nConnectTo = db_01\nPresharedKeyFile = psk\nProxy = socks5 10.0.0.9 1080 user hunter2\n# PrivateKey = inlineprivatekeyofold\nPSK = wordsofmine\nRevokedReason = xoxb-12345678901234\n",
    );
    put(
        "rsa_key.priv",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAsecretrsa0123456789\n-----END RSA PRIVATE KEY-----\n",
    );
    put("psk", "c2hhcmVkc2VjcmV0c2hhcmVkc2VjcmV0c2hhcmVkc2U=\n");
    fs::create_dir(base.join("psk.d")).unwrap();
    put(
        "psk.d/db_01",
        "b25seWZvcnRoaXNub2Rlb25seWZvcnRoaXNub2Rlb24=\n",
    );
    // Somebody has put one of them where it does not belong.
    let host = fs::read_to_string(base.join("hosts/db_01")).unwrap();
    put(
        "hosts/db_01",
        &format!(
            "{host}Label = token=tok3nofmine\n0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0\n# c2hhcmVkc2VjcmV0c2hhcmVkc2VjcmV0c2hhcmVkc2U=\n"
        ),
    );
    let file = base.join("bundle.tar");
    let paths = [base, &file].map(|path| path.to_str().unwrap());
    let (code, out, err) = run(&[
        "-c",
        paths[0],
        "--socket",
        "/nonexistent/s",
        "support",
        "--out",
        paths[1],
    ]);
    assert_eq!((code, out.trim()), (0, paths[1]), "{err}");
    assert!(err.contains("read it before you send it"), "{err}");

    let bytes = fs::read(&file).unwrap();
    for secret in secrets(base) {
        let found = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "{secret}");
    }
    let text = String::from_utf8_lossy(&bytes);
    for part in [
        "config/tinc.conf",
        "Proxy = (cut)",
        "# PrivateKey = (cut)",
        "PresharedKeyFile = psk",
        "config/hosts/db_01",
        "# (cut)",
        "ed25519_key.priv",
        "daemon.txt",
        "meshd is not running",
        "$ uname -a",
    ] {
        assert!(text.contains(part), "{part}");
    }
    assert!(
        text.contains(&key(2).public().to_string()),
        "public keys stay"
    );
    let listed = Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    assert!(
        names.lines().all(|name| name.starts_with("meshd-web_01-")),
        "{names}"
    );
    assert!(
        names.contains("/system/ip_address.txt") && names.contains("/log.txt"),
        "{names}"
    );
    let (code, _, _) = run(&[
        "-c",
        paths[0],
        "--socket",
        "/nonexistent/s",
        "support",
        "--out",
        "/nonexistent/x.tar",
    ]);
    assert_eq!(code, 1);
}
