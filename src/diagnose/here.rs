//! The node that commands in remedies are for.

/// A node: its name, and the commands that work there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Here {
    /// Name of the node.
    pub node: String,
    /// Name of its net.
    pub net: Option<String>,
    /// Process id of its daemon, if it is known.
    pub pid: Option<u32>,
    /// The main configuration file.
    pub main: String,
}

impl Here {
    /// Returns `-n NET `, or nothing without a net.
    #[must_use]
    pub fn option(&self) -> String {
        let net = self.net.as_ref();
        net.map_or_else(String::new, |net| format!("-n {net} "))
    }

    /// Returns the command that makes the daemon reload its files.
    #[must_use]
    pub fn reload(&self) -> String {
        match (&self.net, self.pid) {
            (None, Some(pid)) => format!("`kill -HUP {pid}`"),
            _ => format!("`meshctl {}reload`", self.option()),
        }
    }
}
