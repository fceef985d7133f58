//! Removes secrets from a support bundle.

/// Text in place of a secret.
pub(super) const CUT: &str = "(cut)";
/// Words in names of variables with secret values; variables that name files are not secret.
const WORDS: [&str; 11] = [
    "private",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "proxy",
    "psk",
    "preshared",
    "apikey",
    "credential",
];
/// Variables of host files with public keys, in both forms of files.
const PUBLIC: [&str; 5] = [
    "ed25519publickey",
    "ed25519publickeynext",
    "nativepublickey",
    "ed25519",
    "native",
];
/// Prefixes of service tokens.
const TOKENS: [&str; 7] = [
    "ghp_",
    "gho_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "AKIA",
    "eyJ",
];
/// Shortest text that counts as a secret: a shorter one occurs by chance.
const SHORTEST: usize = 16;

/// Returns the text of a configuration file, in either form, without its secrets.
pub(super) fn config(text: &str) -> String {
    let mut out = String::new();
    let mut in_key = false;
    for line in text.lines() {
        let begins = line.contains("-----BEGIN") && line.contains("PRIVATE");
        if begins || in_key {
            if begins {
                out.push_str(CUT);
                out.push('\n');
            }
            in_key = !line.contains("-----END");
            continue;
        }
        out.push_str(&without_value(line));
        out.push('\n');
    }
    out
}

/// Removes the value from a line of a secret variable, also from a comment.
fn without_value(line: &str) -> String {
    let bare = line.trim_start_matches(['#', ' ', '\t']);
    let end = bare.find(['=', ' ', '\t']).unwrap_or(bare.len());
    let name = bare[..end].to_ascii_lowercase();
    match names_secret(&name) && !bare[end..].trim().is_empty() {
        true => format!("{} = {CUT}", &line[..line.len() - bare.len() + end]),
        false => line.to_owned(),
    }
}

/// Finds secrets in a configuration file by their shape, at any place. Secrets are 32 bytes as base64 or hex other than
/// public keys, service tokens, passwords in URLs, and values of names that mark a secret.
pub(super) fn by_shape(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        in_block |= line.contains("-----BEGIN");
        if in_block {
            in_block = !line.contains("-----END");
            continue;
        }
        let bare = line.trim_start_matches(['#', ' ', '\t']);
        let end = bare.find(['=', ' ', '\t']).unwrap_or(bare.len());
        let public = PUBLIC.contains(&bare[..end].to_ascii_lowercase().as_str());
        let apart = |c: char| c.is_whitespace() || "\"'{}[],;".contains(c);
        let mut named = false;
        for word in line.split(apart).filter(|word| !word.is_empty()) {
            // The rest after `=` tells `NAME=VALUE`, `NAME = VALUE` and base64 padding apart.
            let (name, value) = match word.split_once('=') {
                Some((name, value)) if !value.trim_matches('=').is_empty() => (name, value),
                _ => ("", word),
            };
            let secret = (named || names_secret(name)) && value != "=" && value != ":";
            if !public && (is_key(value) || is_token(value)) || (secret && value.len() >= SHORT) {
                found.push(value.to_owned());
            }
            found.extend(password(word));
            named = names_secret(word) || (named && matches!(word, "=" | ":"));
        }
    }
    found
}

/// Shortest secret value of a name that marks a secret.
const SHORT: usize = 8;

fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word)) && !name.ends_with("file")
}

/// True for 32 bytes in a usual form of a key.
fn is_key(word: &str) -> bool {
    let hex = word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = word.trim_end_matches('=');
    let of_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte);
    let mixed = [
        u8::is_ascii_lowercase,
        u8::is_ascii_uppercase,
        u8::is_ascii_digit,
    ]
    .iter()
    .all(|kind| digits.bytes().any(|byte| kind(&byte)));
    hex || digits.len() == 43 && mixed && digits.bytes().all(of_base64)
}

fn is_token(word: &str) -> bool {
    word.len() >= SHORTEST && TOKENS.iter().any(|start| word.starts_with(start))
}

/// Returns the password of `scheme://user:password@host`.
fn password(word: &str) -> Option<String> {
    let (_, rest) = word.split_once("://")?;
    let (user, _) = rest.split_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty()).then(|| password.to_owned())
}

/// Returns the words of a secret file. None of them may appear elsewhere in the bundle.
pub(super) fn secrets(file: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(file);
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '='));
    let words = words.filter(|word| word.len() >= SHORTEST && !word.contains("-----"));
    words.map(str::to_owned).collect()
}

/// Returns the text without these secrets.
pub(super) fn without(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), CUT);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secret_variables_and_private_keys_are_cut() {
        let text = "Name = web\nPrivateKey = abcdef\n#  PrivateKey=old\nPrivateKeyFile = rsa_key.priv\n\
                    proxy socks5 10.0.0.1 1080 user pass\nEd25519PublicKey = shown\n-----BEGIN RSA PRIVATE KEY-----\nMIIB\n\
                    -----END RSA PRIVATE KEY-----\n-----BEGIN RSA PUBLIC KEY-----\nMIIC\n-----END RSA PUBLIC KEY-----\n";
        let wanted = "Name = web\nPrivateKey = (cut)\n#  PrivateKey = (cut)\nPrivateKeyFile = rsa_key.priv\n\
                      proxy = (cut)\nEd25519PublicKey = shown\n(cut)\n-----BEGIN RSA PUBLIC KEY-----\nMIIC\n-----END RSA PUBLIC KEY-----\n";
        assert_eq!(config(text), wanted);
    }

    #[test]
    fn what_stands_in_key_files_stands_nowhere_else() {
        let key = "-----BEGIN ED25519 PRIVATE KEY-----\nQmFzZTY0VGV4dE9mQUtleQ\nshort\n-----END ED25519 PRIVATE KEY-----\n";
        let secrets = secrets(key.as_bytes());
        assert_eq!(secrets, ["QmFzZTY0VGV4dE9mQUtleQ"]);
        assert_eq!(
            without("log: QmFzZTY0VGV4dE9mQUtleQ!", &secrets),
            "log: (cut)!"
        );
    }
    #[test]
    fn secrets_are_found_by_shape_and_public_keys_stay() {
        let key = "Sb2kV0Zq1yT9wH3uJ8nR5mC7xF4aD6eG2pL1oI0sXzQ";
        let hex = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
        let text = format!(
            "Name = web_01\nEd25519PublicKey = {key}\n#Ed25519PublicKey = {key}\ned25519 = \"{key}\"\nAddress = 10.0.0.1 655\n\
             Subnet = 172.20.0.0/24#10\nLabel = role=mysql\n{key}\n# {key}=\n{hex}\nPSK = hunter2hunter2\nLabel = token=abcdef123\n\
             labels = {{ role = \"db\", api_token = \"zyxwvut98\" }}\n# see https://bob:pa55w0rd@git.example.net/x\n# ghp_abcdefghijklmnop1234\n\
             -----BEGIN RSA PUBLIC KEY-----\n{key}\n-----END RSA PUBLIC KEY-----\n"
        );
        assert_eq!(
            by_shape(&text),
            [
                key,
                &format!("{key}="),
                hex,
                "hunter2hunter2",
                "abcdef123",
                "zyxwvut98",
                "pa55w0rd",
                "ghp_abcdefghijklmnop1234"
            ]
        );
    }
}
