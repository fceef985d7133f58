//! What is cut out of a bundle before anybody else may read it.

/// What stands in the place of a secret.
pub(super) const CUT: &str = "(cut)";
/// Words in the names of variables whose values are secret; those of files are not.
const WORDS: [&str; 6] = ["private", "password", "passwd", "secret", "token", "proxy"];
/// Shortest text that is looked for as a secret: what is shorter stands everywhere.
const SHORTEST: usize = 16;

/// The text of a configuration file, in either form, without its secrets.
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

/// A line of a secret variable keeps its name only; also where it is a comment.
fn without_value(line: &str) -> String {
    let bare = line.trim_start_matches(['#', ' ', '\t']);
    let end = bare.find(['=', ' ', '\t']).unwrap_or(bare.len());
    let name = bare[..end].to_ascii_lowercase();
    let secret = WORDS.iter().any(|word| name.contains(word)) && !name.ends_with("file");
    match secret && !bare[end..].trim().is_empty() {
        true => format!("{} = {CUT}", &line[..line.len() - bare.len() + end]),
        false => line.to_owned(),
    }
}

/// The words of files that hold secrets, each of which may stand nowhere else.
pub(super) fn secrets(file: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(file);
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '='));
    let words = words.filter(|word| word.len() >= SHORTEST && !word.contains("-----"));
    words.map(str::to_owned).collect()
}

/// A text without these, wherever they came from.
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
}
