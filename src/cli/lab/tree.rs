//! Writes new keys and configuration trees in the form of `tinc init`.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use meshd_crypto::{PrivateKey, Rng};

use crate::lab::{
    tenant::PORT,
    world::{DEVICE, Droplet},
};

/// MTU of the mesh devices in bytes: a full packet still fits the wire's 1,500 bytes after sealing.
const MTU: u16 = 1400;

/// Returns a generator seeded from the system.
pub(super) fn rng() -> anyhow::Result<Rng> {
    let mut seed = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut seed))
        .context("read /dev/urandom")?;
    Ok(Rng::new(seed))
}

/// Returns the configuration directory of `droplet`.
pub(super) fn directory(root: &Path, droplet: &Droplet) -> PathBuf {
    root.join(&droplet.name)
}

/// Writes every droplet's tree below `root`. All droplets but the first connect to the first.
pub(super) fn write(root: &Path, droplets: &[Droplet], rng: &mut Rng) -> anyhow::Result<()> {
    let keys: Vec<PrivateKey> = droplets.iter().map(|_| PrivateKey::generate(rng)).collect();
    let hosts: Vec<String> = droplets
        .iter()
        .zip(&keys)
        .map(|(d, key)| host_file(d, key))
        .collect();
    for (droplet, key) in droplets.iter().zip(&keys) {
        let base = directory(root, droplet);
        fs::create_dir_all(base.join("hosts"))
            .with_context(|| format!("make {}", base.display()))?;
        put(&base.join("tinc.conf"), &tinc_conf(droplet, &droplets[0]))?;
        put(&base.join("ed25519_key.priv"), &key.to_pem())?;
        for (other, host) in droplets.iter().zip(&hosts) {
            put(&base.join("hosts").join(&other.name), host)?;
        }
    }
    Ok(())
}

fn tinc_conf(droplet: &Droplet, first: &Droplet) -> String {
    let mut conf = format!(
        "Name = {}\nInterface = {DEVICE}\nInterfaceAddress = {}/24\nInterfaceMTU = {MTU}\n",
        droplet.name, droplet.inner
    );
    if droplet.name != first.name {
        conf += &format!("ConnectTo = {}\n", first.name);
    }
    conf
}

fn host_file(droplet: &Droplet, key: &PrivateKey) -> String {
    format!(
        "Address = {}\nPort = {PORT}\nSubnet = {}/32\nEd25519PublicKey = {}\n",
        droplet.outer,
        droplet.inner,
        key.public()
    )
}

/// Writes a file that only its owner may read, because some files hold keys.
fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
